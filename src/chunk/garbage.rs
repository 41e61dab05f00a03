//! Takes back the references of data that nobody owns, in bounded steps that a crash may end anywhere.
//!
//! Each step is one commit that leaves all references exact. Data goes `released` instead while other data refers to
//! it, and comes back here when the last such reference goes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use tokio::time::Instant;

use crate::chunk::epoch::Epoch;
use crate::chunk::error::MetaError;
use crate::chunk::index::{self, Known, after, page};
use crate::chunk::packs::Counts;
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, DataId, SegmentId};
use crate::kv::{CommitError, Guard, Kv, Mutation, Row};
use crate::meta::data::{DataRow, DataState, GarbageRow};
use crate::meta::key::{self, Table};
use crate::meta::record::Malformed;
use crate::meta::segment::SegmentRow;
use crate::meta::tree::{Target, TreeRow};

/// Effects of one step, near enough: one full segment, or the entries of one composed row.
const STEP_EFFECTS: usize = 300;
const TREE_ROWS: usize = 64;
const GARBAGE_ROWS: usize = 256;
/// Payloads between two pauses; a large one pauses by itself.
const DATA_PER_PAUSE: usize = 8;
const CONFLICTS_MAX: u32 = 8;

/// What a run over the garbage did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnwindReport {
    /// Data that is gone now.
    pub unwound: u64,
    /// Data that waits for other data to let go of it.
    pub released: u64,
    /// Data that is being built or read, or that rivals kept busy.
    pub skipped: u64,
    /// Rows are left that were not looked at.
    pub more: bool,
}

enum Step {
    Unwound,
    Released,
    Skipped,
    /// More of the same data is left.
    More,
}

impl ChunkStore {
    /// Unwinds up to `data_max` payloads, and begins none after `until`.
    pub(super) async fn unwind(
        &self,
        epoch: Epoch,
        data_max: usize,
        until: Instant,
    ) -> Result<UnwindReport, MetaError> {
        let mut report = UnwindReport::default();
        let range = key::table(Table::Garbage);
        let mut from = range.start;
        let mut seen = 0;
        loop {
            let limit = GARBAGE_ROWS.min(data_max - seen);
            let rows = page(&*self.kv, from.clone()..range.end.clone(), limit).await?;
            let mut began = Instant::now();
            for (index, row) in rows.iter().enumerate() {
                if began >= until {
                    report.more = true;
                    return Ok(report);
                }
                GarbageRow::decode(row.value.bytes.clone())?;
                match self.unwind_data(garbage_data(row)?, epoch, until).await? {
                    Step::Unwound => report.unwound += 1,
                    Step::Released => report.released += 1,
                    Step::Skipped => report.skipped += 1,
                    Step::More => report.more = true,
                }
                if index % DATA_PER_PAUSE == 0 {
                    self.rest(began).await;
                    began = Instant::now();
                }
            }
            seen += rows.len();
            match rows.last() {
                Some(last) if rows.len() == limit => from = after(&last.key),
                _ => return Ok(report),
            }
            if seen >= data_max {
                report.more = true;
                return Ok(report);
            }
        }
    }

    async fn unwind_data(&self, data: DataId, epoch: Epoch, until: Instant) -> Result<Step, MetaError> {
        let Some(_unwinding) = self.sessions.unwind(data) else {
            return Ok(Step::Skipped);
        };
        let mut conflicts = 0;
        loop {
            let began = Instant::now();
            match self.unwind_step(data, epoch).await {
                Ok(Step::More) => {
                    conflicts = 0;
                    self.rest(began).await;
                    if began >= until {
                        return Ok(Step::More);
                    }
                }
                Ok(step) => {
                    if let Step::Unwound = step {
                        self.metrics.data_unwound.inc();
                    }
                    return Ok(step);
                }
                Err(MetaError::Commit(CommitError::Conflict { .. })) if conflicts < CONFLICTS_MAX => conflicts += 1,
                Err(MetaError::Commit(CommitError::Conflict { .. })) => return Ok(Step::Skipped),
                Err(error) => return Err(error),
            }
        }
    }

    async fn unwind_step(&self, data: DataId, epoch: Epoch) -> Result<Step, MetaError> {
        let mut step = epoch.step();
        let mutation = &mut step.mutation;
        // The row that brought us here may be of a time before the data was published.
        let Some(garbage) = self.kv.get(&key::garbage(data)).await? else {
            return Ok(Step::Skipped);
        };
        mutation.unchanged(key::garbage(data), Some(garbage.version));
        let Some(Known { row, version }) = index::data(&*self.kv, data).await? else {
            mutation.absent(key::data(data));
            mutation.delete(key::garbage(data));
            step.commit(&*self.kv).await?;
            return Ok(Step::Unwound);
        };
        mutation.unchanged(key::data(data), Some(version));
        match row.state {
            // Commits of an upload that was given up may be on their way still: they guard this row, and fail from
            // here on.
            DataState::Building => {
                mutation.put(key::data(data), in_state(row, DataState::Unwinding));
                step.commit(&*self.kv).await?;
                return Ok(Step::More);
            }
            DataState::Live | DataState::Released => {
                let refs = key::data_refs(data);
                if let Some(held) = page(&*self.kv, refs.clone(), 1).await?.into_iter().next() {
                    mutation.exists(held.key);
                    mutation.put(key::data(data), in_state(row, DataState::Released));
                    mutation.delete(key::garbage(data));
                    step.commit(&*self.kv).await?;
                    return Ok(Step::Released);
                }
                mutation.guard(Guard::Empty {
                    range: refs,
                    anchor: key::data(data),
                });
            }
            DataState::Unwinding => {}
        }
        let batch = Batch::gather(&*self.kv, data).await?;
        let (whole, stale) = (batch.whole, batch.cached());
        let came_back = batch.take_back(&*self.kv, data, mutation).await?;
        if whole {
            mutation.delete(key::data(data));
            mutation.delete(key::garbage(data));
        } else if row.state != DataState::Unwinding {
            mutation.put(key::data(data), in_state(row, DataState::Unwinding));
        }
        step.commit(&*self.kv).await?;
        if came_back {
            self.sessions.garbage.notify_one();
        }
        for (start, segments) in stale {
            self.trees.invalidate(&(data, start));
            segments.iter().for_each(|segment| self.segments.invalidate(segment));
        }
        Ok(if whole { Step::Unwound } else { Step::More })
    }
}

fn in_state(row: DataRow, state: DataState) -> Bytes {
    DataRow { state, ..row }.encode()
}

fn garbage_data(row: &Row) -> Result<DataId, Malformed> {
    let id = row.key.get(1..).and_then(|id| id.try_into().ok());
    id.map(DataId).ok_or(Malformed {
        record: "garbage",
        reason: "its key has no data id",
    })
}

/// The entries that one step takes back.
#[derive(Default)]
struct Batch {
    /// Rows as they were read, and how many of their first entries are taken.
    rows: Vec<(Bytes, TreeRow, usize)>,
    /// The segments that are referred to, each with the reference rows that go.
    segments: BTreeMap<SegmentId, BTreeSet<Bytes>>,
    found: BTreeMap<SegmentId, Known<SegmentRow>>,
    children: BTreeSet<DataId>,
    /// Nothing is left behind it.
    whole: bool,
}

impl Batch {
    async fn gather(kv: &dyn Kv, data: DataId) -> Result<Self, MetaError> {
        let mut batch = Self::default();
        let rows = page(kv, key::trees(data), TREE_ROWS).await?;
        batch.whole = rows.len() < TREE_ROWS;
        let mut cost = 0;
        for row in rows {
            let tree = TreeRow::decode(row.value.bytes)?;
            let (mut at, mut taken) = (tree.start, 0);
            for entry in &tree.entries {
                if cost >= STEP_EFFECTS {
                    break;
                }
                at += entry.length;
                taken += 1;
                match entry.target {
                    Target::Segment(id) => {
                        cost += 2 + batch.find(kv, id).await?;
                        batch
                            .segments
                            .entry(id)
                            .or_default()
                            .insert(key::segment_ref(&id, data, at));
                    }
                    Target::Data(child) => {
                        cost += 1;
                        batch.children.insert(child);
                    }
                }
            }
            let left = taken < tree.entries.len();
            if taken > 0 || !left {
                batch.rows.push((row.key, tree, taken));
            }
            if left {
                batch.whole = false;
                break;
            }
        }
        Ok(batch)
    }

    /// Reads a segment once; returns what its death would cost.
    async fn find(&mut self, kv: &dyn Kv, id: SegmentId) -> Result<usize, MetaError> {
        if self.found.contains_key(&id) {
            return Ok(0);
        }
        let Some(known) = index::segment(kv, &id).await? else {
            return Ok(0);
        };
        let cost = 2 * known.row.entries.len();
        self.found.insert(id, known);
        Ok(cost)
    }

    /// What the caches may hold of it.
    fn cached(&self) -> Vec<(u64, Vec<SegmentId>)> {
        let segments: Vec<SegmentId> = self.segments.keys().copied().collect();
        let starts = self.rows.iter().map(|(_, row, _)| (row.start, Vec::new()));
        starts.chain([(0, segments)]).collect()
    }

    /// Adds what the step changes; returns whether data became garbage by it.
    async fn take_back(self, kv: &dyn Kv, data: DataId, mutation: &mut Mutation) -> Result<bool, MetaError> {
        let mut came_back = false;
        for (key, mut row, taken) in self.rows {
            if taken == row.entries.len() {
                mutation.delete(key);
                continue;
            }
            row.start += row.entries.drain(..taken).map(|entry| entry.length).sum::<u64>();
            mutation.put(key, row.encode());
        }
        let children: Vec<DataId> = self.children.into_iter().collect();
        for (child, known) in children.iter().zip(index::datas(kv, &children).await?) {
            mutation.unchanged(key::data(*child), known.as_ref().map(|known| known.version));
            mutation.delete(key::data_ref(*child, data));
            if let Some(Known { row, .. }) = known
                && row.state == DataState::Released
            {
                mutation.put(key::garbage(*child), GarbageRow::new(row.created).encode());
                came_back = true;
            }
        }
        let mut chunks: BTreeMap<ChunkId, BTreeSet<Bytes>> = BTreeMap::new();
        for (id, refs) in &self.segments {
            let last = is_last(kv, key::segment_refs(id), refs, key::segment(id), mutation).await?;
            refs.iter().for_each(|gone| mutation.delete(gone.clone()));
            if let (true, Some(known)) = (last, self.found.get(id)) {
                mutation.unchanged(key::segment(id), Some(known.version));
                mutation.delete(key::segment(id));
                for chunk in known.row.distinct_chunks() {
                    chunks.entry(chunk).or_default().insert(key::chunk_ref(&chunk, id));
                }
            }
        }
        drop_chunks(kv, chunks, mutation).await?;
        Ok(came_back)
    }
}

/// Takes references to chunks back, and the chunks that lose their last one.
async fn drop_chunks(
    kv: &dyn Kv,
    chunks: BTreeMap<ChunkId, BTreeSet<Bytes>>,
    mutation: &mut Mutation,
) -> Result<(), MetaError> {
    let ids: Vec<ChunkId> = chunks.keys().copied().collect();
    let rows = index::chunks(kv, &ids).await?;
    let mut counts = Counts::default();
    for ((id, refs), known) in chunks.iter().zip(rows) {
        let last = is_last(kv, key::chunk_refs(id), refs, key::chunk(id), mutation).await?;
        refs.iter().for_each(|gone| mutation.delete(gone.clone()));
        if let (true, Some(Known { row, version })) = (last, known) {
            mutation.unchanged(key::chunk(id), Some(version));
            mutation.delete(key::chunk(id));
            counts.died(row.place.pack, row.place.stored_len, row.place.raw_len);
        }
    }
    counts.add_to(mutation);
    Ok(())
}

/// Whether `gone` are all rows of `range`; the answer is guarded. Who inserts guards `anchor`.
async fn is_last(
    kv: &dyn Kv,
    range: Range<Bytes>,
    gone: &BTreeSet<Bytes>,
    anchor: Bytes,
    mutation: &mut Mutation,
) -> Result<bool, MetaError> {
    let rows = page(kv, range.clone(), gone.len() + 1).await?;
    if let Some(other) = rows.into_iter().find(|row| !gone.contains(&row.key)) {
        mutation.exists(other.key);
        return Ok(false);
    }
    let mut start = range.start;
    for gone in gone {
        mutation.guard(Guard::Empty {
            range: start..gone.clone(),
            anchor: anchor.clone(),
        });
        start = after(gone);
    }
    mutation.guard(Guard::Empty {
        range: start..range.end,
        anchor,
    });
    Ok(true)
}
