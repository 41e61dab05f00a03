//! The collector's epoch: whose commits of collection count (invariant I6).
//!
//! One row names the epoch and its holder. A process takes it by a commit before it first collects; every commit of
//! collection and of unwinding guards that row, so that a process that was stopped and wakes after another took over
//! commits nothing. Uploads never touch it. Files need no fence: one goes only after the commit that condemned its pack
//! is synced, a condemned pack never returns and names are never used again, so whoever deletes it, how late ever,
//! deletes what nothing can point to.

use crate::chunk::error::{CollectError, MetaError};
use crate::chunk::index::Known;
use crate::chunk::store::ChunkStore;
use crate::ids::Sequence;
use crate::kv::{CommitError, Durability, Kv, Mutation};
use crate::meta::collector::{CollectorRow, Stop};
use crate::meta::key;

const ROW: &str = "collector";
/// The place of the epoch's guard in each commit of collection.
const GUARD_EPOCH: usize = 0;

/// The right to collect, as long as the row is the one that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch(Sequence);

/// A commit of collection. Made by an epoch alone, whose guard is its first.
pub(super) struct Step {
    pub mutation: Mutation,
}

impl Epoch {
    pub fn step(self) -> Step {
        let mut mutation = Mutation::deferred();
        mutation.unchanged(key::store(ROW), Some(self.0));
        Step { mutation }
    }

    pub fn synced_step(self) -> Step {
        let mut step = self.step();
        step.mutation.durability = Durability::Synced;
        step
    }
}

impl Step {
    pub async fn commit(self, kv: &dyn Kv) -> Result<Sequence, MetaError> {
        match kv.commit(self.mutation).await {
            Err(CommitError::Conflict { guard: GUARD_EPOCH }) => Err(MetaError::Fenced),
            outcome => Ok(outcome?),
        }
    }
}

impl ChunkStore {
    /// The epoch that this process collects under; the first time a new one, taken from whoever has it.
    pub(super) async fn epoch(&self) -> Result<Epoch, CollectError> {
        let known = self.collector_row().await?;
        let row = known.as_ref().map(|known| known.row.clone()).unwrap_or_default();
        if let Some(stop) = row.stopped {
            let why = stop.why.clone();
            self.gc.stopped(Some(stop));
            return Err(CollectError::Stopped(why));
        }
        self.gc.stopped(None);
        match known {
            Some(Known { version, .. }) if row.holder == self.boot => {
                self.gc.holds(row.epoch);
                Ok(Epoch(version))
            }
            // It had it once: two that took it from each other in turn would both get nowhere.
            _ if self.gc.has_held() => Err(MetaError::Fenced.into()),
            known => {
                let taken = self.take_epoch(known).await?;
                self.gc.holds(row.epoch + 1);
                Ok(taken)
            }
        }
    }

    /// Fails if the epoch is not held any more.
    pub(super) async fn confirm(&self, epoch: Epoch) -> Result<(), CollectError> {
        let now = self.collector_row().await?.map(|known| known.version);
        if now == Some(epoch.0) {
            Ok(())
        } else {
            Err(MetaError::Fenced.into())
        }
    }

    /// Stops collection, here and everywhere, over restarts. Returns what the run ends with.
    pub(super) async fn stop_collection(&self, epoch: Epoch, why: String) -> CollectError {
        let stop = Stop {
            since: self.clock.now(),
            why: why.clone(),
        };
        if let Err(error) = self.put_stop(epoch, stop.clone()).await {
            // The next run finds the same.
            return error;
        }
        tracing::error!(
            why,
            "collection is stopped: run cairn check, then cairn admin gc resume"
        );
        self.gc.stopped(Some(stop));
        CollectError::Stopped(why)
    }

    async fn put_stop(&self, epoch: Epoch, stop: Stop) -> Result<(), CollectError> {
        let mut row = self.collector_row().await?.map(|known| known.row).unwrap_or_default();
        (row.epoch, row.stopped) = (row.epoch + 1, Some(stop));
        let mut step = epoch.synced_step();
        step.mutation.put(key::store(ROW), row.encode());
        step.commit(&*self.kv).await?;
        Ok(())
    }

    /// Lets collection go on that was stopped, under an epoch of this process. `false`: it was not stopped.
    pub async fn resume_collection(&self) -> Result<bool, MetaError> {
        let known = self.collector_row().await?;
        let Some(known) = known.filter(|known| known.row.stopped.is_some()) else {
            return Ok(false);
        };
        let row = self.take_epoch(Some(known)).await;
        if row.is_ok() {
            tracing::info!("collection was resumed by an administrator");
            self.gc.stopped(None);
            self.sessions.garbage.notify_one();
        }
        row.map(|_| true)
    }

    async fn take_epoch(&self, known: Option<Known<CollectorRow>>) -> Result<Epoch, MetaError> {
        let mut mutation = Mutation::new();
        mutation.unchanged(key::store(ROW), known.as_ref().map(|known| known.version));
        let before = known.map(|known| known.row).unwrap_or_default();
        let row = CollectorRow {
            epoch: before.epoch + 1,
            holder: self.boot,
            taken: self.clock.now(),
            stopped: None,
            unknown: before.unknown,
        };
        mutation.put(key::store(ROW), row.encode());
        Ok(Epoch(self.kv.commit(mutation).await?))
    }

    /// Learns at opening whether collection is stopped.
    pub(super) async fn read_stop(&self) -> Result<(), MetaError> {
        let row = self.collector_row().await?;
        self.gc.stopped(row.and_then(|known| known.row.stopped));
        Ok(())
    }

    pub(super) async fn collector_row(&self) -> Result<Option<Known<CollectorRow>>, MetaError> {
        let Some(value) = self.kv.get(&key::store(ROW)).await? else {
            return Ok(None);
        };
        Ok(Some(Known {
            row: CollectorRow::decode(value.bytes)?,
            version: value.version,
        }))
    }
}
