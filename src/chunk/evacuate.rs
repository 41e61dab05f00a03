//! Moves the live records of a pack: copied as they are stored, read back, then each chunk row is swung over under a
//! guard.

use tokio::time::Instant;

use crate::chunk::collect::CollectReport;
use crate::chunk::empty::Emptied;
use crate::chunk::epoch::Epoch;
use crate::chunk::error::{CollectError, MetaError, ReadError};
use crate::chunk::index::{self, Known};
use crate::chunk::pack::{CopyError, Entry, Extent, Location, ReadError as PackError, Wanted};
use crate::chunk::packs::Counts;
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, PackId};
use crate::kv::CommitError;
use crate::limits::EXTENT_BYTES_MAX;
use crate::meta::chunk::ChunkRow;
use crate::meta::key;

/// Rows looked at in one step.
const STEP_RECORDS: usize = 256;
const COMMIT_TRIES_MAX: u32 = 8;

/// Records that are to be moved at once, of one pack or of several.
#[derive(Default)]
pub(super) struct Batch {
    extents: Vec<Extent>,
    bytes: u64,
}

impl ChunkStore {
    /// Moves what is live in `pack`, then confirms that no chunk row points to it.
    pub(super) async fn evacuate(
        &self,
        pack: PackId,
        epoch: Epoch,
        report: &mut CollectReport,
    ) -> Result<Emptied, CollectError> {
        let mut batch = Batch::default();
        let entries = self.gather(pack, epoch, &mut batch, report).await?;
        self.move_batch(epoch, &mut batch, report).await?;
        for entries in entries.chunks(STEP_RECORDS) {
            if !self.live(pack, entries).await?.is_empty() {
                return Ok(Emptied::Stuck("a live record in it does not read back".to_owned()));
            }
        }
        Ok(Emptied::Yes)
    }

    /// Gathers what is live in `pack`, and moves it whenever there is enough to be moved at once. Returns the pack's table.
    pub(super) async fn gather(
        &self,
        pack: PackId,
        epoch: Epoch,
        batch: &mut Batch,
        report: &mut CollectReport,
    ) -> Result<Vec<Entry>, CollectError> {
        let mut entries = self.entries_of(pack).await?;
        entries.sort_unstable_by_key(|entry| entry.location.offset);
        for entries in entries.chunks(STEP_RECORDS) {
            let live = self.live(pack, entries).await?;
            let good = live
                .into_iter()
                .filter(|(_, known)| !known.row.damaged)
                .map(|(wanted, _)| wanted);
            for extent in extents(good) {
                let range = extent.byte_range();
                batch.bytes += range.end - range.start;
                batch.extents.push(extent);
                if batch.bytes >= self.packs.moved_together() {
                    self.move_batch(epoch, batch, report).await?;
                }
            }
        }
        Ok(entries)
    }

    /// The records of a pack; of one whose blob is lost none. What rows point to in it is told by its counter.
    pub(super) async fn entries_of(&self, pack: PackId) -> Result<Vec<Entry>, PackError> {
        match self.packs.records(pack).await {
            Err(PackError::Damaged { .. }) => Ok(Vec::new()),
            entries => Ok(entries?.to_vec()),
        }
    }

    /// Moves what is gathered and rests.
    pub(super) async fn move_batch(
        &self,
        epoch: Epoch,
        batch: &mut Batch,
        report: &mut CollectReport,
    ) -> Result<(), CollectError> {
        let Batch { extents, .. } = std::mem::take(batch);
        if extents.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let together = match extents.as_slice() {
            [_] => None,
            _ => Some(self.copy(epoch, &extents).await),
        };
        match together {
            Some(Ok(moved)) => report.bytes_moved += moved,
            Some(Err(error)) if error.is_unreachable() || !error.is_of_pack() => return Err(error),
            // One of them does not read: the others move without it.
            Some(Err(_)) | None => {
                for extent in &extents {
                    report.bytes_moved += self.move_extent(epoch, extent).await?;
                }
            }
        }
        self.gc.moved(report.bytes_moved);
        self.rest(began).await;
        Ok(())
    }

    /// The records that chunk rows point to.
    pub(super) async fn live(
        &self,
        pack: PackId,
        entries: &[Entry],
    ) -> Result<Vec<(Wanted, Known<ChunkRow>)>, MetaError> {
        let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
        let rows = index::chunks(&*self.kv, &ids).await?;
        let live = entries.iter().zip(rows).filter_map(|(entry, known)| {
            let known = known.filter(|known| {
                let place = known.row.place;
                place.pack == pack && place.offset == entry.location.offset
            })?;
            Some((
                Wanted {
                    location: entry.location,
                    domain: entry.domain,
                    id: entry.id,
                },
                known,
            ))
        });
        Ok(live.collect())
    }

    /// Moves an extent; record by record if one of them does not read. Returns the bytes moved.
    async fn move_extent(&self, epoch: Epoch, extent: &Extent) -> Result<u64, CollectError> {
        let records = extent.records().to_vec();
        match self.copy(epoch, std::slice::from_ref(extent)).await {
            Err(CollectError::Read(PackError::NotFound(id))) => return Err(PackError::NotFound(id).into()),
            Err(error) if error.is_unreachable() => return Err(error),
            Err(error) if error.is_of_pack() && records.len() > 1 => {}
            Err(error) if error.is_of_pack() => return self.left_behind(epoch, &records, &error).await,
            moved => return moved,
        }
        let mut moved = 0;
        for wanted in records {
            match self.copy(epoch, &[Extent::new(wanted)]).await {
                Err(error) if error.is_unreachable() => return Err(error),
                Err(error) if error.is_of_pack() => moved += self.left_behind(epoch, &[wanted], &error).await?,
                copied => moved += copied?,
            }
        }
        Ok(moved)
    }

    /// Copies all records of the extents, and points the chunk rows to the copies.
    async fn copy(&self, epoch: Epoch, extents: &[Extent]) -> Result<u64, CollectError> {
        let copies = self.packs.copy(extents).await.map_err(|error| match error {
            CopyError::Append(error) => CollectError::from(error),
            CopyError::Read(error) => error.into(),
        })?;
        let records: Vec<Wanted> = extents
            .iter()
            .flat_map(|extent| extent.records().iter().copied())
            .collect();
        let (mut moved, steps) = (0, records.chunks(STEP_RECORDS).zip(copies.chunks(STEP_RECORDS)));
        for (records, copies) in steps {
            moved += self.swing(epoch, records, copies).await?;
        }
        Ok(moved)
    }

    /// Notes the damage of records that stay where they are. What the disk did not give may be whole, and is not noted.
    async fn left_behind(&self, epoch: Epoch, records: &[Wanted], error: &CollectError) -> Result<u64, CollectError> {
        for wanted in records {
            if let CollectError::Read(PackError::Io { .. }) = error {
                tracing::debug!(chunk = %wanted.id, %error, "a live record cannot be read now");
            } else {
                tracing::error!(chunk = %wanted.id, %error, "a live record does not read back: its pack is kept");
                self.note(epoch, wanted).await?;
            }
        }
        Ok(0)
    }

    async fn note(&self, epoch: Epoch, wanted: &Wanted) -> Result<(), CollectError> {
        let Some(known) = index::chunk(&*self.kv, &wanted.id).await? else {
            return Ok(());
        };
        if known.row.place.pack != wanted.location.pack {
            return Ok(());
        }
        match self.note_damage_in(epoch.step().mutation, &wanted.id, known).await {
            Ok(()) => Ok(()),
            Err(ReadError::Meta(error)) => Err(error.into()),
            Err(_) => Ok(()),
        }
    }

    /// Reads the copies back, by their full hash, and points the chunk rows to them.
    async fn swing(&self, epoch: Epoch, records: &[Wanted], copies: &[Location]) -> Result<u64, CollectError> {
        self.read_back(records, copies).await?;
        for _ in 0..COMMIT_TRIES_MAX {
            let ids: Vec<ChunkId> = records.iter().map(|wanted| wanted.id).collect();
            let rows = index::chunks(&*self.kv, &ids).await?;
            let (mut step, mut counts, mut moved) = (epoch.step(), Counts::default(), 0);
            let mutation = &mut step.mutation;
            for ((wanted, copy), known) in records.iter().zip(copies).zip(rows) {
                let from = wanted.location;
                match known {
                    Some(Known { row, version }) if row.place.pack == from.pack && row.place.offset == from.offset => {
                        mutation.unchanged(key::chunk(&wanted.id), Some(version));
                        let row = ChunkRow {
                            place: index::place(copy),
                            damaged: false,
                            ..row
                        };
                        mutation.put(key::chunk(&wanted.id), row.encode());
                        counts.died(from.pack, from.stored_len, from.raw_len);
                        counts.born(copy.pack, copy.stored_len, copy.raw_len);
                        moved += u64::from(copy.stored_len);
                    }
                    // It died or was stored anew meanwhile.
                    _ => counts.wasted(copy.pack, copy.stored_len),
                }
            }
            for copy in copies {
                let active = self
                    .table
                    .active_under(copy.pack, epoch)
                    .await?
                    .ok_or(MetaError::Contended)?;
                mutation.unchanged(key::pack(copy.pack), Some(active));
            }
            counts.add_to(mutation);
            match step.commit(&*self.kv).await {
                Ok(_) => {
                    self.metrics.moved_bytes.inc_by(moved);
                    return Ok(moved);
                }
                Err(MetaError::Commit(CommitError::Conflict { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(MetaError::Contended.into())
    }

    async fn read_back(&self, records: &[Wanted], copies: &[Location]) -> Result<(), CollectError> {
        let wanted = records.iter().zip(copies).map(|(record, copy)| Wanted {
            location: *copy,
            ..*record
        });
        for extent in extents(wanted) {
            let records = extent.records().to_vec();
            let read = self.read_packs(extent).await?;
            if let Some(bad) = self.misnamed(&records, read).await?.first() {
                return Err(CollectError::Copy(*bad));
            }
        }
        Ok(())
    }
}

/// Groups records, in their order, into as few extents as can be.
pub(super) fn extents(records: impl Iterator<Item = Wanted>) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for wanted in records {
        if !extents
            .last_mut()
            .is_some_and(|extent| extent.push(wanted, EXTENT_BYTES_MAX as u64))
        {
            extents.push(Extent::new(wanted));
        }
    }
    extents
}
