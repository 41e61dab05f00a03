//! The collector: gives the space of dead records back while the gateway runs.
//!
//! A pack is emptied and deleted in steps that a crash may end anywhere: its row says how far it got. The row that
//! condemns it is committed synced, and only then the file goes, so that no lost commit can have pointed to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chunk::error::CollectError;
use crate::chunk::index::Known;
use crate::chunk::pack::{PackInfo, PackState as FileState};
use crate::chunk::recover::{forget, live_by_pack, live_bytes, pack_row, pack_rows};
use crate::chunk::store::ChunkStore;
use crate::chunk::trouble::Trouble;
use crate::ids::PackId;
use crate::kv::{Counter, Durability, Guard, Mutation};
use crate::meta::key::{self, PackStatKind};
use crate::meta::pack::{PackRow, PackState};

/// Packs that one run empties at the most.
const PACKS_PER_RUN: usize = 64;
/// Payloads that one run unwinds before it looks at the packs.
const DATA_PER_RUN: usize = 100_000;
/// A pack with less than one part in this many dead is not worth moving.
const WORTH_SHARE: u64 = 20;
/// Deleted data is taken back this long after the first of it was told of, together with what follows.
const GATHER: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
pub struct CollectOptions {
    /// Dead bytes that are left alone, in percent of the packs' bytes.
    pub dead_percent_max: u64,
    /// Dead bytes that are left alone, however little is stored.
    pub dead_bytes_min: u64,
    /// Between runs while nothing is told.
    pub interval: Duration,
    /// Between the steps of a run, so that requests come first.
    pub pause: Duration,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            dead_percent_max: 15,
            dead_bytes_min: 4 << 20,
            interval: Duration::from_secs(10),
            pause: Duration::from_millis(1),
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectReport {
    pub unwound: u64,
    pub released: u64,
    pub skipped: u64,
    pub packs_deleted: u64,
    pub bytes_deleted: u64,
    pub bytes_moved: u64,
    /// Packs that keep a live record which does not read back, or whose counter does not fit.
    pub stuck: Vec<PackId>,
    /// Garbage is left.
    pub more: bool,
}

/// The collector's task.
pub struct CollectorHandle {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl CollectorHandle {
    /// Ends the collector after its current step and waits for it.
    pub async fn stop(self) {
        self.cancel.cancel();
        // It ends by returning; a panic in it has been reported by the runtime.
        let _ = self.task.await;
    }
}

/// What is dead in the packs that chunk rows may point to.
#[derive(Default)]
struct Dead {
    /// Dead bytes of the packs that are worth emptying, worst first.
    packs: Vec<(u64, PackInfo)>,
    /// Dead bytes of all packs.
    sum: u64,
    /// Bytes of all pack files.
    total: u64,
}

/// How a pack came out of a run.
pub(super) enum Emptied {
    Yes,
    /// It keeps a live record, for this reason.
    Stuck(&'static str),
}

impl ChunkStore {
    /// Starts collecting until the handle is stopped.
    pub fn start_collector(self: &Arc<Self>) -> CollectorHandle {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(self).collect_until(cancel.clone()));
        CollectorHandle { cancel, task }
    }

    async fn collect_until(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            let run = async {
                if let Err(error) = self.collect_once().await {
                    self.metrics.collect_errors.inc();
                    tracing::warn!(%error, "the collector stopped early and will resume");
                }
                let told = self.sessions.garbage.notified();
                if tokio::time::timeout(self.collect.interval, told).await.is_ok() {
                    tokio::time::sleep(GATHER).await;
                }
            };
            if cancel.run_until_cancelled(run).await.is_none() {
                return;
            }
        }
    }

    /// One run: unwinds garbage, finishes packs that an earlier run began, then empties the packs with the most dead
    /// bytes until little enough is dead.
    pub async fn collect_once(&self) -> Result<CollectReport, CollectError> {
        let _one = self.collecting.lock().await;
        let unwound = self.unwind(DATA_PER_RUN).await?;
        let mut report = CollectReport {
            unwound: unwound.unwound,
            released: unwound.released,
            skipped: unwound.skipped,
            more: unwound.more,
            ..CollectReport::default()
        };
        let mut tried = HashSet::new();
        // What an earlier run began comes first.
        for (pack, known) in pack_rows(&*self.kv).await? {
            if known.row.state != PackState::Active {
                tried.insert(pack);
                self.try_pack(pack, &mut report).await?;
            }
        }
        self.collect_worst(&mut tried, &mut report).await?;
        self.metrics.stuck_packs.set(report.stuck.len() as i64);
        if !self.troubles.is_empty() {
            self.troubles.retain(&live_by_pack(&*self.kv).await?, &report.stuck);
            let lost = [Trouble::Missing, Trouble::Damaged].map(|trouble| self.troubles.of(trouble).len());
            self.metrics.lost_packs.set(lost.iter().sum::<usize>() as i64);
        }
        Ok(report)
    }

    /// Empties and deletes one pack if that can be done. One that is stuck stays as it is, and the others go on.
    async fn try_pack(&self, pack: PackId, report: &mut CollectReport) -> Result<(), CollectError> {
        let live = live_bytes(&*self.kv, pack).await?;
        if self.troubles.rests(pack, live, self.clock.now()) {
            report.stuck.push(pack);
            return Ok(());
        }
        let why = match self.collect_pack(pack, report).await {
            Ok(Emptied::Yes) => return Ok(()),
            Ok(Emptied::Stuck(reason)) => reason.to_owned(),
            Err(error) if error.is_of_pack() => error.to_string(),
            Err(error) => return Err(error),
        };
        report.stuck.push(pack);
        let live = live_bytes(&*self.kv, pack).await?;
        if self.troubles.stuck(pack, live, self.clock.now()) {
            tracing::error!(%pack, live, why, "a pack cannot be emptied: it is kept");
        }
        Ok(())
    }

    /// Empties the packs with the most dead bytes until little enough is dead.
    async fn collect_worst(&self, tried: &mut HashSet<PackId>, report: &mut CollectReport) -> Result<(), CollectError> {
        let mut sealed = false;
        loop {
            let dead = self.dead().await?;
            let tolerated = if self.space.has_room() {
                (dead.total / 100 * self.collect.dead_percent_max).max(self.collect.dead_bytes_min)
            } else {
                0
            };
            let mut excess = dead.sum.saturating_sub(tolerated);
            let open = dead.packs.iter().any(|(_, info)| info.state == FileState::Open);
            let wanted = |info: &PackInfo| info.state != FileState::Open && !tried.contains(&info.id);
            let closed: Vec<_> = dead.packs.into_iter().filter(|(_, info)| wanted(info)).collect();
            if excess == 0 || (closed.is_empty() && (sealed || !open)) {
                return Ok(());
            }
            if closed.is_empty() {
                self.packs.seal_all().await?;
                sealed = true;
            }
            for (bytes, info) in closed {
                if excess == 0 {
                    break;
                }
                if tried.len() >= PACKS_PER_RUN {
                    report.more = true;
                    return Ok(());
                }
                tried.insert(info.id);
                self.try_pack(info.id, report).await?;
                excess = excess.saturating_sub(bytes);
            }
        }
    }

    async fn dead(&self) -> Result<Dead, CollectError> {
        let rows = pack_rows(&*self.kv).await?;
        let live = live_by_pack(&*self.kv).await?;
        let mut dead = Dead::default();
        for info in self.packs.packs() {
            dead.total += info.bytes;
            if rows
                .get(&info.id)
                .is_none_or(|known| known.row.state != PackState::Active)
            {
                continue;
            }
            let live = live.get(&info.id).copied().unwrap_or_default().max(0).unsigned_abs();
            let bytes = info.bytes.saturating_sub(live);
            dead.sum += bytes;
            if bytes * WORTH_SHARE > info.bytes {
                dead.packs.push((bytes, info));
            }
        }
        dead.packs
            .sort_unstable_by_key(|(bytes, info)| (std::cmp::Reverse(*bytes), info.id));
        Ok(dead)
    }

    /// Empties and deletes one pack, from wherever it stands.
    async fn collect_pack(&self, pack: PackId, report: &mut CollectReport) -> Result<Emptied, CollectError> {
        let Some(mut known) = pack_row(&*self.kv, pack).await? else {
            return Ok(Emptied::Yes);
        };
        let bytes = self
            .packs
            .packs()
            .iter()
            .find(|info| info.id == pack)
            .map_or(0, |info| info.bytes);
        if known.row.state == PackState::Active {
            self.table.close(pack);
            known = self
                .mark(pack, known, PackState::Evacuating, Mutation::deferred())
                .await?;
        }
        if known.row.state == PackState::Evacuating {
            // A pack of an interrupted run is not in the table of this process.
            self.table.close(pack);
            if let stuck @ Emptied::Stuck(_) = self.evacuate(pack, report).await? {
                return Ok(stuck);
            }
            let mut mutation = Mutation::new();
            let counter = key::pack_stat(pack, PackStatKind::Live);
            // The counter is exact: at 0 no chunk row points here, whatever the footer says.
            mutation.guard(match self.kv.get(&counter).await? {
                Some(_) => Guard::Equals {
                    key: counter,
                    value: Counter::encode(0),
                },
                None => Guard::Absent { key: counter },
            });
            if live_bytes(&*self.kv, pack).await? != 0 {
                return Ok(Emptied::Stuck(
                    "it has no live record that is known, and its counter says live bytes",
                ));
            }
            known = self.mark(pack, known, PackState::Condemned, mutation).await?;
        }
        self.packs.delete(pack).await?;
        forget(&*self.kv, pack, &known).await?;
        report.packs_deleted += 1;
        report.bytes_deleted += bytes;
        self.metrics.collected_packs.inc();
        self.metrics.collected_bytes.inc_by(bytes);
        Ok(Emptied::Yes)
    }

    async fn mark(
        &self,
        pack: PackId,
        known: Known<PackRow>,
        state: PackState,
        mut mutation: Mutation,
    ) -> Result<Known<PackRow>, CollectError> {
        debug_assert_eq!(state == PackState::Condemned, mutation.durability == Durability::Synced);
        let row = PackRow { state, ..known.row };
        mutation.unchanged(key::pack(pack), Some(known.version));
        mutation.put(key::pack(pack), row.encode());
        let version = self.kv.commit(mutation).await?;
        Ok(Known { row, version })
    }
}
