//! One pack's way out: marked, emptied, condemned, deleted. A crash may end it anywhere: its row says how far it got.
//!
//! Every step takes the place of the row that the one before left, under the collector's epoch, and so does each step of a
//! move to the other backend and the one that makes a pack of the cloud an active one: of these only one gets the pack.

use crate::chunk::brake::{Count, Weighed};
use crate::chunk::choose::worth_moving;
use crate::chunk::collect::Run;
use crate::chunk::epoch::{Epoch, Step};
use crate::chunk::error::{CollectError, MetaError};
use crate::chunk::evacuate::Batch;
use crate::chunk::index::Known;
use crate::chunk::pack::PackInfo;
use crate::chunk::recover::{forget, live_bytes, pack_row};
use crate::chunk::store::ChunkStore;
use crate::clock::Timestamp;
use crate::ids::PackId;
use crate::kv::{CommitError, Counter, Durability, Guard};
use crate::meta::key::{self, PackStatKind};
use crate::meta::pack::{Backend, PackRow, PackState};

/// How a pack came out of a run.
pub(super) enum Emptied {
    Yes,
    /// It is kept, for this reason.
    Stuck(String),
    /// What seems dead in it is needed again where its records would go, or others have it: it is left as it is.
    NotWorth,
    /// Nothing points to it, and the restore window keeps its file.
    Waits,
}

/// What a pack's row says once it may be emptied.
enum Begun {
    Row(Known<PackRow>),
    /// There is nothing to empty.
    Over(Emptied),
}

impl ChunkStore {
    /// Whether so much time has passed since then that a put into the cloud which failed before cannot happen any more.
    pub(super) fn is_settled(&self, since: Timestamp) -> bool {
        since.unix_ms().saturating_add(self.late_ms) <= self.clock.now().unix_ms()
    }

    /// Whether nothing came to point to a pack that was named for the cloud: of a killed process, of a put that failed, of an
    /// upload that was given up. Right at any age: the row that condemns it takes the place of the one that the first chunk
    /// would need. The time is for the put, which may still happen. Without the cloud nobody can delete what may be there.
    pub(super) fn is_given_up(&self, row: &PackRow) -> bool {
        row.state == PackState::Pending && self.is_settled(row.created) && self.packs.has_cloud()
    }

    pub(super) fn may_delete(&self, pack: PackId, row: &PackRow) -> bool {
        // A version without a window did not note when.
        let condemned = row.condemned.unwrap_or(row.created);
        // A second copy may have been on its way when the pack was condemned, and would lie there for ever.
        let may_arrive = row.other == Some(Backend::Cloud) && !self.is_settled(condemned);
        !may_arrive && self.retention.may_delete(pack, condemned)
    }

    /// Marks a pack that is to be emptied, once its records were counted. What others changed meanwhile is left to them: an
    /// upload whose pack it is, or a move to the other backend.
    async fn begin_pack(&self, pack: PackId, run: &Run) -> Result<Begun, CollectError> {
        let Some(known) = pack_row(&*self.kv, pack).await? else {
            return Ok(Begun::Over(Emptied::Yes));
        };
        let changed = Begun::Over(Emptied::NotWorth);
        match known.row.state {
            PackState::Pending if !self.is_given_up(&known.row) => return Ok(changed),
            PackState::Pending => {
                self.table.close(pack);
                let condemned = self.mark(pack, known, PackState::Condemned, run.epoch.synced_step());
                return Ok(condemned.await?.map_or(changed, Begun::Row));
            }
            PackState::Condemned => return Ok(Begun::Row(known)),
            PackState::Active | PackState::Evacuating => {}
        }
        let bytes = self.packs.info(pack).map_or(0, |info| info.bytes);
        match self.weigh(pack, bytes, run.epoch).await? {
            Weighed::Odd(why) => return Ok(Begun::Over(Emptied::Stuck(why))),
            Weighed::Fits(Count { live, records, .. }) => {
                let starts = known.row.state == PackState::Active && !run.merges;
                if starts && !worth_moving(bytes, live, records) {
                    return Ok(changed);
                }
            }
        }
        // A pack of an interrupted run is not in the table of this process.
        self.table.close(pack);
        if known.row.state == PackState::Evacuating {
            return Ok(Begun::Row(known));
        }
        let marked = self.mark(pack, known, PackState::Evacuating, run.epoch.step()).await?;
        Ok(marked.map_or(changed, Begun::Row))
    }

    /// Begins to empty small packs, and moves their records side by side. What cannot be moved so is left to who empties each.
    pub(super) async fn move_together(&self, packs: &[PackInfo], run: &mut Run) -> Result<(), CollectError> {
        let mut batch = Batch::default();
        for info in packs.iter().take(run.left()) {
            if run.is_over() {
                break;
            }
            let gathered = match self.begin_pack(info.id, run).await {
                Ok(Begun::Row(known)) if known.row.state == PackState::Evacuating => {
                    let (epoch, report) = (run.epoch, &mut run.report);
                    self.gather(info.id, epoch, &mut batch, report).await.map(drop)
                }
                begun => begun.map(drop),
            };
            match gathered {
                // It is told where the pack is emptied.
                Err(error) if !error.is_of_pack() => return Err(error),
                Err(error) if error.is_unreachable() => break,
                _ => {}
            }
        }
        match self.move_batch(run.epoch, &mut batch, &mut run.report).await {
            Err(error) if !error.is_of_pack() => Err(error),
            _ => Ok(()),
        }
    }

    /// Empties and deletes one pack, from wherever it stands.
    pub(super) async fn collect_pack(&self, pack: PackId, run: &mut Run) -> Result<Emptied, CollectError> {
        let mut known = match self.begin_pack(pack, run).await? {
            Begun::Row(known) => known,
            Begun::Over(emptied) => return Ok(emptied),
        };
        let (epoch, bytes) = (run.epoch, self.packs.info(pack).map_or(0, |info| info.bytes));
        if known.row.state == PackState::Evacuating {
            if let stuck @ Emptied::Stuck(_) = self.evacuate(pack, epoch, &mut run.report).await? {
                return Ok(stuck);
            }
            let mut step = epoch.synced_step();
            let counter = key::pack_stat(pack, PackStatKind::Live);
            // The counter is exact: at 0 no chunk row points here, whatever the footer says.
            step.mutation.guard(match self.kv.get(&counter).await? {
                Some(_) => Guard::Equals {
                    key: counter,
                    value: Counter::encode(0),
                },
                None => Guard::Absent { key: counter },
            });
            if live_bytes(&*self.kv, pack).await? != 0 {
                let why = "it has no live record that is known, and its counter says live bytes";
                return Ok(Emptied::Stuck(why.to_owned()));
            }
            known = match self.mark(pack, known, PackState::Condemned, step).await? {
                Some(condemned) => condemned,
                None => return Ok(Emptied::NotWorth),
            };
        }
        if !self.may_delete(pack, &known.row) {
            return Ok(Emptied::Waits);
        }
        self.delete_condemned(pack, &known, epoch).await?;
        run.report.packs_deleted += 1;
        run.report.bytes_deleted += bytes;
        self.metrics.collected_packs.inc();
        self.metrics.collected_bytes.inc_by(bytes);
        Ok(Emptied::Yes)
    }

    /// Deletes a pack that a synced commit has condemned. The epoch is asked for once more, since another collector may
    /// keep the file for longer; between the answer and the deletion it may still be taken, which harms nothing.
    async fn delete_condemned(&self, pack: PackId, known: &Known<PackRow>, epoch: Epoch) -> Result<(), CollectError> {
        self.confirm(epoch).await?;
        self.packs.delete(pack, known.row.may_be_in_cloud()).await?;
        self.table.forget(pack);
        let mut step = epoch.step();
        forget(&mut step.mutation, pack, known);
        step.commit(&*self.kv).await?;
        Ok(())
    }

    /// `None`: somebody else has changed the row.
    async fn mark(
        &self,
        pack: PackId,
        known: Known<PackRow>,
        state: PackState,
        mut step: Step,
    ) -> Result<Option<Known<PackRow>>, MetaError> {
        let condemns = state == PackState::Condemned;
        debug_assert_eq!(condemns, step.mutation.durability == Durability::Synced);
        let row = PackRow {
            state,
            condemned: condemns.then(|| self.clock.now()),
            ..known.row
        };
        let is_same = step.mutation.unchanged(key::pack(pack), Some(known.version));
        step.mutation.put(key::pack(pack), row.encode());
        match step.commit(&*self.kv).await {
            Ok(version) => Ok(Some(Known { row, version })),
            Err(MetaError::Commit(CommitError::Conflict { guard })) if guard == is_same => Ok(None),
            Err(error) => Err(error),
        }
    }
}
