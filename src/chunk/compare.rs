//! Whether the index is the one that a rebuild from the packs would make (invariant I7).
//!
//! No second index is made for it. A rebuild gives every chunk the record in the newest pack that has one; so it gives the
//! same reads exactly if each chunk row's record is in the table of the row's pack, and a record of the same chunk in a newer
//! pack has the same length. Each table is read once, in memory for one pack, and the rows of its chunks are looked up. That
//! every row was met by its record is told by sums: for each pack the ids of the chunks whose rows point to it are added up,
//! and those that its table met are taken off. Ids are keyed hashes, so a sum of 0 means that none is left. Only for packs
//! where one is left the rows are read once more.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::chunk::error::{MetaError, ReadError};
use crate::chunk::index::{self, Known};
use crate::chunk::owners::Owners;
use crate::chunk::pack::{self, Entry};
use crate::chunk::progress::{CheckProgress, Stage};
use crate::chunk::recount::{Difference, Recount};
use crate::chunk::recover::pack_rows;
use crate::chunk::scrub::Finding;
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, PackId};
use crate::kv::Kv;
use crate::kv::skim::{Skim, after, skim};
use crate::limits::SCAN_ROWS_MAX;
use crate::meta::chunk::{ChunkRow, Place};
use crate::meta::key::{self, Table};
use crate::meta::pack::{Backend, PackState};

/// Records looked at in one step.
const STEP_RECORDS: usize = 256;
/// Packs whose tables are in memory at the same time, 3 MiB each at the most, to find the rows that they lack.
const TABLES_MAX: usize = 16;
/// Faulty rows that are told one by one; all are counted.
const FINDINGS_MAX: usize = 1000;

/// What the chunk rows say of a pack.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claim {
    /// How far they reach.
    pub end: u64,
    /// The sum of the chunks' ids.
    pub ids: u128,
}

impl Claim {
    pub fn add(&mut self, id: &ChunkId, place: &Place) {
        self.end = self.end.max(u64::from(place.offset) + u64::from(place.stored_len));
        self.ids = self.ids.wrapping_add(number(id));
    }
}

fn number(id: &ChunkId) -> u128 {
    id.0.first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

/// A row whose pack has no record for it, and the pack that has one, if any.
struct Lost {
    id: ChunkId,
    place: Place,
    elsewhere: Option<PackId>,
}

impl ChunkStore {
    /// Holds the tables of all packs against the chunk rows of `view`, of which `claims` is the sum.
    pub(super) async fn compare_index(
        &self,
        view: &dyn Kv,
        claims: &BTreeMap<PackId, Claim>,
        recount: &mut Recount,
        progress: &CheckProgress,
    ) -> Result<(), MetaError> {
        let mut unmet: BTreeMap<PackId, u128> = claims.iter().map(|(pack, claim)| (*pack, claim.ids)).collect();
        let packs = self.packs.packs();
        recount.packs = packs.len() as u64;
        recount.cloud_packs = packs.iter().filter(|info| info.backend == Backend::Cloud).count() as u64;
        progress.begin(Stage::Index, packs.len() as u64);
        for info in packs {
            progress.add(1);
            match self.packs.table(info.id).await {
                Ok(table) => {
                    if table.footer_damaged {
                        recount.note(Difference::Footer { pack: info.id });
                    }
                    let met = self.meet(view, info.id, &table.entries, recount).await?;
                    let left = unmet.entry(info.id).or_default();
                    *left = left.wrapping_sub(met);
                }
                // Collected meanwhile, or lost, as its blob may be: its rows tell.
                Err(pack::ReadError::NotFound(_) | pack::ReadError::Damaged { .. }) => {}
                Err(error) => {
                    unmet.remove(&info.id);
                    let (pack, reason) = (info.id, error.to_string());
                    recount.note(Difference::Unread { pack, reason });
                }
            }
        }
        let unmet: Vec<PackId> = unmet
            .into_iter()
            .filter(|(_, left)| *left != 0)
            .map(|(pack, _)| pack)
            .collect();
        let mut lost = Vec::new();
        for packs in unmet.chunks(TABLES_MAX) {
            self.find_lost(view, packs, &mut lost, recount).await?;
        }
        self.tell_lost(lost, recount).await
    }

    /// The sum of the ids of the rows that point to one of `entries`. Notes those that fit no rebuild.
    async fn meet(
        &self,
        view: &dyn Kv,
        pack: PackId,
        entries: &[Entry],
        recount: &mut Recount,
    ) -> Result<u128, MetaError> {
        let mut met = 0u128;
        for entries in entries.chunks(STEP_RECORDS) {
            recount.records += entries.len() as u64;
            for (entry, known) in entries.iter().zip(readable(view, entries).await?) {
                let Some(Known { row, .. }) = known else { continue };
                let found = index::place(&entry.location);
                let reason = if row.place.pack == pack && row.place.offset == found.offset {
                    met = met.wrapping_add(number(&entry.id));
                    (row.place != found).then(|| {
                        format!(
                            "the index says {}, and the table of the pack {}",
                            told(&row.place),
                            told(&found)
                        )
                    })
                } else if pack > row.place.pack {
                    recount.newer_copies += 1;
                    (row.place.raw_len != found.raw_len).then(|| {
                        let (row, found) = (told(&row.place), told(&found));
                        format!("the index says {row}, and a rebuild would take {found} from pack {pack}")
                    })
                } else {
                    None
                };
                if let Some(reason) = reason {
                    self.note_finding(entry.id, row.place.pack, reason, recount).await?;
                }
            }
        }
        Ok(met)
    }

    /// The rows that point into `packs` and whose records are not in the packs' tables. What moved since `view` was taken
    /// is passed over.
    async fn find_lost(
        &self,
        view: &dyn Kv,
        packs: &[PackId],
        lost: &mut Vec<Lost>,
        recount: &mut Recount,
    ) -> Result<(), MetaError> {
        let mut tables: HashMap<PackId, HashSet<(ChunkId, u32)>> = HashMap::new();
        for pack in packs {
            let entries = match self.packs.table(*pack).await {
                Ok(table) => table
                    .entries
                    .iter()
                    .map(|entry| (entry.id, entry.location.offset))
                    .collect(),
                Err(pack::ReadError::NotFound(_) | pack::ReadError::Damaged { .. }) => HashSet::new(),
                // The first look found it readable; the next check tells.
                Err(_) => continue,
            };
            tables.insert(*pack, entries);
        }
        let range = key::table(Table::Chunk);
        let mut from = range.start;
        loop {
            let rows = match skim(view, from.clone()..range.end.clone(), SCAN_ROWS_MAX).await? {
                Skim::Rows(rows) => rows,
                // The recount has told it.
                Skim::Gap(gap) => {
                    from = gap.keys.end;
                    continue;
                }
            };
            for row in &rows {
                let id = row.key.get(1..).and_then(|id| id.try_into().ok()).map(ChunkId);
                let (Some(id), Ok(chunk)) = (id, ChunkRow::decode(row.value.bytes.clone())) else {
                    continue;
                };
                let place = chunk.place;
                let lacks = |table: &HashSet<_>| !table.contains(&(id, place.offset));
                if !tables.get(&place.pack).is_some_and(lacks) {
                    continue;
                }
                // The table was read behind the row: a row that is still the same has no record.
                let Some(known) = index::chunk(&*self.kv, &id)
                    .await?
                    .filter(|known| known.row.place == place)
                else {
                    continue;
                };
                recount.findings_total += 1;
                if lost.len() < FINDINGS_MAX {
                    let elsewhere = None;
                    lost.push(Lost { id, place, elsewhere });
                }
                // A note is a help for the next upload, not a promise.
                if let Err(ReadError::Meta(error)) = self.note_damage(&id, known).await {
                    return Err(error);
                }
            }
            match rows.last() {
                Some(last) => from = after(&last.key),
                None => return Ok(()),
            }
        }
    }

    /// The chunks whose rows point into `pack` and that it has no record of. Reads all chunk rows.
    pub(super) async fn lost_in(&self, pack: PackId) -> Result<Vec<Finding>, MetaError> {
        let (mut lost, mut recount) = (Vec::new(), Recount::default());
        self.find_lost(&*self.kv, &[pack], &mut lost, &mut recount).await?;
        self.tell_lost(lost, &mut recount).await?;
        Ok(recount.findings)
    }

    /// Tells each lost chunk with what a rebuild would find for it.
    async fn tell_lost(&self, mut lost: Vec<Lost>, recount: &mut Recount) -> Result<(), MetaError> {
        if lost.is_empty() {
            return Ok(());
        }
        let mut wanted: HashMap<ChunkId, &mut Lost> = lost.iter_mut().map(|lost| (lost.id, lost)).collect();
        let known = pack_rows(&*self.kv).await?;
        for info in self.packs.packs().iter().rev() {
            let row = known.get(&info.id);
            if row.is_none_or(|known| known.row.state == PackState::Condemned) {
                continue;
            }
            let Ok(table) = self.packs.table(info.id).await else {
                continue;
            };
            for entry in table.entries.iter() {
                if let Some(lost) = wanted.get_mut(&entry.id) {
                    lost.elsewhere.get_or_insert(info.id);
                }
            }
        }
        for Lost { id, place, elsewhere } in lost {
            let rebuilt = match elsewhere {
                Some(pack) => format!("a rebuild of the index would take the one in pack {pack}"),
                None => "no pack has one".to_owned(),
            };
            recount.findings.push(Finding {
                chunk: id,
                pack: place.pack,
                reason: format!(
                    "there is no record of it at {}, where the index points; {rebuilt}",
                    place.offset
                ),
                owners: self.readable_owners(&id).await?,
            });
        }
        Ok(())
    }

    async fn note_finding(
        &self,
        chunk: ChunkId,
        pack: PackId,
        reason: String,
        recount: &mut Recount,
    ) -> Result<(), MetaError> {
        recount.findings_total += 1;
        if recount.findings.len() < FINDINGS_MAX {
            let owners = self.readable_owners(&chunk).await?;
            recount.findings.push(Finding {
                chunk,
                pack,
                reason,
                owners,
            });
        }
        Ok(())
    }

    /// The owners of a chunk as far as the rows that name them can be read.
    pub(super) async fn readable_owners(&self, chunk: &ChunkId) -> Result<Owners, MetaError> {
        match self.owners(chunk).await {
            Err(error) if error.is_damage() => Ok(Owners {
                more: true,
                ..Owners::default()
            }),
            owners => owners,
        }
    }
}

/// The rows of the entries' chunks, but for those that cannot be read, which a recount tells.
pub(super) async fn readable(view: &dyn Kv, entries: &[Entry]) -> Result<Vec<Option<Known<ChunkRow>>>, MetaError> {
    let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
    match index::chunks(view, &ids).await {
        Err(error) if error.is_damage() => {}
        rows => return rows,
    }
    let mut rows = Vec::with_capacity(ids.len());
    for id in &ids {
        rows.push(match index::chunk(view, id).await {
            Err(error) if error.is_damage() => None,
            row => row?,
        });
    }
    Ok(rows)
}

fn told(place: &Place) -> String {
    let Place {
        stored_len,
        raw_len,
        codec,
        ..
    } = place;
    format!("{raw_len} bytes stored as {stored_len} with codec {codec}")
}
