//! A recount: whether counters and references agree with the rows (invariant I5).

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::chunk::compare::Claim;
use crate::chunk::error::MetaError;
use crate::chunk::index::{self, page};
use crate::chunk::progress::CheckProgress;
use crate::chunk::recover::{live_bytes, pack_rows};
use crate::chunk::scrub::Finding;
use crate::chunk::store::{ChunkStore, counter};
use crate::chunk::trouble::Trouble;
use crate::ids::{ChunkId, DataId, PackId, SegmentId};
use crate::kv::skim::{Skim, after, skim};
use crate::kv::{Kv, Mutation, Row};
use crate::limits::SCAN_ROWS_MAX;
use crate::meta::chunk::ChunkRow;
use crate::meta::data::{DataRow, DataState};
use crate::meta::key::{self, PackStatKind, Table, UsageKind, UsageScope};
use crate::meta::segment::SegmentRow;
use crate::meta::tree::{Target, TreeRow};
use crate::meta::usage::Tally;

/// Differences that a recount lists; more are only counted.
const DIFFERENCES_MAX: usize = 1000;

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    #[error("counter {counter} is {found}, the rows say {expected}")]
    Counter { counter: String, found: i64, expected: i64 },
    #[error("{row} needs {needs}, which is not there")]
    Absent { row: String, needs: String },
    #[error("rows point to {expected} bytes of pack {pack}; it has {found}")]
    Short { pack: PackId, found: u64, expected: u64 },
    #[error("the footer of pack {pack} is damaged")]
    Footer { pack: PackId },
    #[error("pack {pack} lacks records that rows point to")]
    Damaged { pack: PackId },
    #[error("the table of pack {pack} cannot be read, and may be whole: {reason}")]
    Unread { pack: PackId, reason: String },
    #[error("the packs in the cloud cannot be listed, and their lengths are not compared: {reason}")]
    Unlisted { reason: String },
    #[error("rows from {from} on up to {until} cannot be read: {reason}")]
    Unreadable {
        from: String,
        until: String,
        reason: String,
    },
    #[error("row {row} cannot be read, or what it needs: {reason}")]
    Malformed { row: String, reason: String },
    #[error("the counters are not compared, as rows cannot be read")]
    Uncounted,
}

/// What a recount found, as of the moment at which it began.
#[derive(Clone, Debug, Default)]
pub struct Recount {
    pub chunks: u64,
    pub segments: u64,
    pub data: u64,
    pub tally: Tally,
    pub differences: Vec<Difference>,
    /// All of them, those that are not listed too.
    pub differences_total: u64,
    /// Packs whose tables were held against the index, or could not be, which is told; and those of them in the cloud.
    pub packs: u64,
    pub cloud_packs: u64,
    /// Records of all packs, and those of them that a rebuild would take in place of the older one that the index names.
    pub records: u64,
    pub newer_copies: u64,
    /// Chunk rows that no rebuild of the index would make: those that are told, and how many there are.
    pub findings: Vec<Finding>,
    pub findings_total: u64,
    claims: BTreeMap<PackId, Claim>,
    has_gaps: bool,
    /// References to chunks that there are, and those of them that a segment's list accounts for.
    chunk_refs: u64,
    chunk_refs_named: u64,
}

impl Recount {
    pub(super) fn note(&mut self, difference: Difference) {
        self.differences_total += 1;
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference);
        }
    }
}

/// A row that another row needs: its key, or any row of a range.
enum Need {
    Key(Bytes),
    /// A chunk's reference, which the list of the segment accounts for.
    ChunkRef(Bytes),
    /// The list of the segment has the chunk.
    Named {
        chunk: ChunkId,
        segment: SegmentId,
    },
    Any(Range<Bytes>),
    /// A reference to data whose owner is gone, or the garbage row that says that the last one has just gone.
    Held(DataId),
    /// The reference of `child` to its tree's data; not while that is unwound, since a child's reference goes with the
    /// first of the entries that share it.
    Child {
        child: DataId,
        data: DataId,
    },
}

impl ChunkStore {
    /// Reads every row of the store as of one moment and compares, while others write and collect. Memory does not grow
    /// with the store, but for some numbers per pack. Goes on behind rows that cannot be read.
    ///
    /// That each reference to a chunk is in the list of its segment is a matter of counting: each entry of the lists has its
    /// own reference, so if there are no more references than entries, none is left over. Only otherwise is the segment of each
    /// looked up, which costs more than all the rest.
    pub async fn recount(&self) -> Result<Recount, MetaError> {
        let view = self.kv.snapshot().await?;
        self.recount_of(&*view, &CheckProgress::default()).await
    }

    /// The same of `view`, a snapshot of this store's rows.
    pub async fn recount_of(&self, view: &dyn Kv, progress: &CheckProgress) -> Result<Recount, MetaError> {
        let mut recount = Recount::default();
        for table in [
            Table::Chunk,
            Table::ChunkRef,
            Table::Segment,
            Table::SegmentRef,
            Table::Tree,
            Table::DataRef,
            Table::Data,
        ] {
            self.recount_table(view, (table, needs), progress, &mut recount).await?;
        }
        // What cannot be read is told, and counts nothing.
        if recount.chunk_refs != recount.chunk_refs_named && !recount.has_gaps {
            let again = (Table::ChunkRef, segment_of as Needs);
            self.recount_table(view, again, progress, &mut recount).await?;
        }
        let claims = std::mem::take(&mut recount.claims);
        self.compare_files(&claims, &mut recount).await?;
        self.compare_counters(view, &mut recount).await?;
        self.compare_index(view, &claims, &mut recount, progress).await?;
        Ok(recount)
    }

    async fn recount_table(
        &self,
        view: &dyn Kv,
        (table, needs): (Table, Needs),
        progress: &CheckProgress,
        recount: &mut Recount,
    ) -> Result<(), MetaError> {
        let range = key::table(table);
        let mut from = range.start;
        loop {
            let rows = match skim(view, from.clone()..range.end.clone(), SCAN_ROWS_MAX.min(512)).await? {
                Skim::Rows(rows) => rows,
                Skim::Gap(gap) => {
                    recount.has_gaps = true;
                    recount.note(Difference::Unreadable {
                        from: hex::encode(&gap.keys.start),
                        until: hex::encode(&gap.keys.end),
                        reason: gap.reason,
                    });
                    from = gap.keys.end;
                    continue;
                }
            };
            progress.add(rows.len() as u64);
            for row in &rows {
                match check_row(view, (table, needs), row, recount).await {
                    Err(error) if error.is_damage() => recount.note(Difference::Malformed {
                        row: hex::encode(&row.key),
                        reason: error.to_string(),
                    }),
                    outcome => outcome?,
                }
            }
            match rows.last() {
                Some(last) => from = after(&last.key),
                None => return Ok(()),
            }
        }
    }

    /// Holds the files of the packs against the rows that point into them: whether they are there and long enough.
    async fn compare_files(&self, claims: &BTreeMap<PackId, Claim>, recount: &mut Recount) -> Result<(), MetaError> {
        let (lengths, unlisted) = self.packs.lengths().await;
        if let Some(error) = unlisted {
            let reason = error.to_string();
            recount.note(Difference::Unlisted { reason });
        }
        for (pack, claim) in claims {
            let (pack, expected) = (*pack, claim.end);
            let found = lengths.get(&pack).copied().unwrap_or_default();
            // A pack that was collected since the moment of the rows had lost its last live byte before its file.
            if found < expected && live_bytes(&*self.kv, pack).await? != 0 {
                recount.note(Difference::Short { pack, found, expected });
            }
        }
        for pack in self.troubles.of(Trouble::Damaged) {
            if recount.tally.live_bytes.contains_key(&pack) {
                recount.note(Difference::Damaged { pack });
            }
        }
        Ok(())
    }

    async fn compare_counters(&self, view: &dyn Kv, recount: &mut Recount) -> Result<(), MetaError> {
        let expected = match expected(view, &recount.tally).await {
            Ok(expected) if !recount.has_gaps => expected,
            Err(error) if !error.is_damage() => return Err(error),
            _ => {
                recount.note(Difference::Uncounted);
                return Ok(());
            }
        };
        for (name, key, expected) in expected {
            match count(view, &key).await {
                Ok(found) if found == expected => {}
                Ok(found) => recount.note(Difference::Counter {
                    counter: name,
                    found,
                    expected,
                }),
                Err(error) if error.is_damage() => recount.note(Difference::Malformed {
                    row: name,
                    reason: error.to_string(),
                }),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sets the counters to what the rows say; returns how many differed. For a store at rest.
    pub(super) async fn repair_counters(&self) -> Result<u64, MetaError> {
        let recount = self.recount().await?;
        let mut repaired = 0;
        if recount.has_gaps {
            // What cannot be read is not counted: the sums would lack it.
            return Ok(0);
        }
        for (_, key, expected) in expected(&*self.kv, &recount.tally).await? {
            let delta = expected - count(&*self.kv, &key).await?;
            if delta != 0 {
                let mut mutation = Mutation::deferred();
                mutation.add(key, delta);
                self.kv.commit(mutation).await?;
                repaired += 1;
            }
        }
        Ok(repaired)
    }
}

/// Notes what `row` needs and is not there.
async fn check_row(
    view: &dyn Kv,
    (table, needs): (Table, Needs),
    row: &Row,
    recount: &mut Recount,
) -> Result<(), MetaError> {
    for need in needs(table, row, recount)? {
        let (there, needed) = match need {
            Need::Key(key) => (view.get(&key).await?.is_some(), key),
            Need::ChunkRef(key) => {
                let there = view.get(&key).await?.is_some();
                recount.chunk_refs_named += u64::from(there);
                (there, key)
            }
            Need::Named { chunk, segment } => {
                let key = key::segment(&segment);
                let list = view.get(&key).await?.map(|value| SegmentRow::decode(value.bytes));
                let names = |list: SegmentRow| list.distinct_chunks().binary_search(&chunk).is_ok();
                (list.transpose()?.is_some_and(names), key)
            }
            Need::Held(data) => {
                let garbage = view.get(&key::garbage(data)).await?.is_some();
                let refs = key::data_refs(data);
                (garbage || !page(view, refs.clone(), 1).await?.is_empty(), refs.start)
            }
            Need::Child { child, data } => {
                let owner = index::data(view, data).await?;
                let unwinding = owner.is_some_and(|known| known.row.state == DataState::Unwinding);
                let key = key::data_ref(child, data);
                (unwinding || view.get(&key).await?.is_some(), key)
            }
            Need::Any(range) => (!page(view, range.clone(), 1).await?.is_empty(), range.start),
        };
        if !there {
            recount.note(Difference::Absent {
                row: hex::encode(&row.key),
                needs: hex::encode(&needed),
            });
        }
    }
    Ok(())
}

async fn count(kv: &dyn Kv, key: &Bytes) -> Result<i64, MetaError> {
    Ok(match kv.get(key).await? {
        Some(value) => counter(&value.bytes)?,
        None => 0,
    })
}

/// Every counter of the store, and what it must say.
async fn expected(kv: &dyn Kv, tally: &Tally) -> Result<Vec<(String, Bytes, i64)>, MetaError> {
    let mut live: BTreeMap<_, i64> = pack_rows(kv).await?.into_keys().map(|pack| (pack, 0)).collect();
    live.extend(&tally.live_bytes);
    let mut expected: Vec<_> = live
        .into_iter()
        .map(|(pack, bytes)| {
            (
                format!("live bytes of {pack}"),
                key::pack_stat(pack, PackStatKind::Live),
                bytes,
            )
        })
        .collect();
    let usage = |kind| key::usage(UsageScope::Store, kind, 0);
    expected.push(("unique bytes".into(), usage(UsageKind::UniqueBytes), tally.unique_bytes));
    expected.push(("stored bytes".into(), usage(UsageKind::StoredBytes), tally.stored_bytes));
    Ok(expected)
}

type Needs = fn(Table, &Row, &mut Recount) -> Result<Vec<Need>, MetaError>;

/// The segment that a `chunk_ref` row is of.
fn segment_of(_table: Table, row: &Row, _recount: &mut Recount) -> Result<Vec<Need>, MetaError> {
    let id = |at: usize| row.key.get(at..at + 32).and_then(|id| id.try_into().ok());
    let (chunk, segment) = (id(1).unwrap_or([0; 32]), id(33).unwrap_or([0; 32]));
    Ok(vec![Need::Named {
        chunk: ChunkId(chunk),
        segment: SegmentId(segment),
    }])
}

/// What `row` of `table` needs.
fn needs(table: Table, row: &Row, recount: &mut Recount) -> Result<Vec<Need>, MetaError> {
    let id = |at: usize, width: usize| row.key.get(at..at + width).unwrap_or_default();
    let hash = |at| id(at, 32).try_into().unwrap_or([0; 32]);
    let short = |at| DataId(id(at, 16).try_into().unwrap_or([0; 16]));
    let value = row.value.bytes.clone();
    Ok(match table {
        Table::Chunk => {
            let chunk = ChunkRow::decode(value)?;
            recount.chunks += 1;
            recount.tally.add(&chunk);
            let claim = recount.claims.entry(chunk.place.pack).or_default();
            claim.add(&ChunkId(hash(1)), &chunk.place);
            vec![
                Need::Any(key::chunk_refs(&ChunkId(hash(1)))),
                Need::Key(key::pack(chunk.place.pack)),
            ]
        }
        Table::ChunkRef => {
            recount.chunk_refs += 1;
            vec![Need::Key(key::chunk(&ChunkId(hash(1))))]
        }
        Table::Segment => {
            recount.segments += 1;
            let name = SegmentId(hash(1));
            let chunks = SegmentRow::decode(value)?.distinct_chunks();
            let refs = chunks.iter().map(|chunk| Need::ChunkRef(key::chunk_ref(chunk, &name)));
            refs.chain([Need::Any(key::segment_refs(&name))]).collect()
        }
        Table::SegmentRef => {
            // A row that is being unwound keeps its key, so the row of the entry is the next one.
            let (data, end) = (short(33), id(49, 8).try_into().map_or(0, u64::from_be_bytes));
            let tree = key::tree(data, end)..key::trees(data).end;
            vec![Need::Key(key::segment(&SegmentId(hash(1)))), Need::Any(tree)]
        }
        Table::Tree => {
            let (data, tree) = (short(1), TreeRow::decode(value)?);
            let mut at = tree.start;
            let refs = tree.entries.iter().map(|entry| {
                at += entry.length;
                match entry.target {
                    Target::Segment(segment) => Need::Key(key::segment_ref(&segment, data, at)),
                    Target::Data(child) => Need::Child { child, data },
                }
            });
            refs.chain([Need::Key(key::data(data))]).collect()
        }
        Table::DataRef => vec![Need::Key(key::data(short(1))), Need::Key(key::data(short(17)))],
        Table::Data => {
            let data = DataRow::decode(value)?;
            recount.data += 1;
            let id = short(1);
            let mut needs = match data.state {
                DataState::Live => vec![],
                DataState::Released => vec![Need::Held(id)],
                DataState::Building | DataState::Unwinding => vec![Need::Key(key::garbage(id))],
            };
            if data.is_whole() && data.size > 0 {
                needs.push(Need::Key(key::tree(id, data.size)));
            }
            needs
        }
        _ => vec![],
    })
}
