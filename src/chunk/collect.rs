//! The collector: gives the space of dead records back while the gateway runs.
//!
//! A pack is emptied and deleted in steps that a crash may end anywhere: its row says how far it got. The row that
//! condemns it is committed synced, and only then the file goes, so that no lost commit can have pointed to it. A run is
//! bounded in rows, bytes and time, rests after each step, and ends at the first read that fails: what could not be
//! listed is never taken for absent.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chunk::empty::Emptied;
use crate::chunk::epoch::Epoch;
use crate::chunk::error::CollectError;
use crate::chunk::pack::{CLOUD_PACK_BYTES, PackInfo, PackState as FileState};
use crate::chunk::recover::{all_pack_rows, live_by_pack, live_bytes};
use crate::chunk::store::ChunkStore;
use crate::chunk::trouble::Trouble;
use crate::ids::PackId;
use crate::meta::pack::{Backend, PackState};

/// Packs that one run empties at the most.
const PACKS_PER_RUN: usize = 64;
/// Payloads that one run unwinds before it looks at the packs.
const DATA_PER_RUN: usize = 100_000;
/// Bytes moved, and time spent with packs, after which a run begins no other pack.
const MOVED_PER_RUN: u64 = 256 << 20;
const PACKS_TIME_PER_RUN: Duration = Duration::from_secs(30);
/// Time after which a run begins to unwind no other payload.
const UNWIND_TIME_PER_RUN: Duration = Duration::from_secs(10);
/// The longest rest between two steps.
const REST_MAX: Duration = Duration::from_millis(500);
/// Deleted data is taken back this long after the first of it was told of, together with what follows.
const GATHER: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
pub struct CollectOptions {
    /// Dead bytes that are left alone, in percent of the live ones.
    pub dead_percent_max: u64,
    /// Dead bytes that are left alone, however little is stored.
    pub dead_bytes_min: u64,
    /// Between runs while nothing is told.
    pub interval: Duration,
    /// The file of a condemned pack is kept this long, for those who go back to older metadata.
    pub restore_window: Duration,
    /// Between the steps of a run, at the least.
    pub pause: Duration,
    /// Rest after a step, in percent of the time that it took, so that requests come first. A step takes longer while
    /// they load the machine, and then the rest is longer as well. Less when much is dead; none while the disk is full.
    pub rest_percent: u32,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            dead_percent_max: 15,
            dead_bytes_min: 4 << 20,
            interval: Duration::from_secs(10),
            restore_window: Duration::ZERO,
            pause: Duration::from_millis(1),
            rest_percent: 300,
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectReport {
    pub unwound: u64,
    pub released: u64,
    pub skipped: u64,
    /// Payloads that keep their space, since rows of theirs cannot be read.
    pub unreadable: u64,
    pub packs_deleted: u64,
    pub bytes_deleted: u64,
    pub bytes_moved: u64,
    /// Packs that keep a live record which does not read back, or whose counter does not fit.
    pub stuck: Vec<PackId>,
    /// Condemned packs that the restore window keeps.
    pub waiting: u64,
    /// There was no room to move live records: only packs without any went.
    pub lacked_room: bool,
    /// Garbage is left.
    pub more: bool,
}

impl CollectReport {
    pub(super) fn did_something(&self) -> bool {
        self.unwound + self.released + self.packs_deleted + self.bytes_moved > 0
    }
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

/// A run under way.
pub(super) struct Run {
    pub epoch: Epoch,
    pub report: CollectReport,
    /// Packs that it has to do with no more.
    tried: HashSet<PackId>,
    /// Those of them that were emptied.
    emptied: usize,
    until: Instant,
    /// It empties packs whatever is dead in them: small ones, to put them together, and those that somebody wants emptied.
    pub merges: bool,
    /// The cloud did not answer: what is there waits for the next run.
    is_cut_off: bool,
}

impl Run {
    /// Packs that it may still begin with.
    pub fn left(&self) -> usize {
        PACKS_PER_RUN.saturating_sub(self.emptied)
    }

    /// Whether it has to do with this pack yet.
    fn may_try(&self, info: &PackInfo) -> bool {
        let is_cut_off = self.is_cut_off && info.backend == Backend::Cloud;
        !is_cut_off && !self.tried.contains(&info.id)
    }

    /// Whether the next one must go on.
    pub fn is_over(&self) -> bool {
        self.emptied >= PACKS_PER_RUN || self.report.bytes_moved >= MOVED_PER_RUN || Instant::now() >= self.until
    }
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
                match self.collect_once().await {
                    Ok(report) if report.more => return,
                    Ok(_) => {}
                    Err(error) => {
                        // A stop was told when it happened.
                        if !matches!(error, CollectError::Stopped(_)) {
                            self.metrics.collect_errors.inc();
                            tracing::warn!(%error, "the collector stopped early and will resume");
                        }
                        // Whatever is deleted meanwhile: the next run is likely to fail as well.
                        tokio::time::sleep(self.collect.interval).await;
                        return;
                    }
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
    /// bytes until little enough is dead, and puts small packs together.
    pub async fn collect_once(&self) -> Result<CollectReport, CollectError> {
        let _one = self.collecting.lock().await;
        self.gc.begin(self.clock.now());
        let mut report = CollectReport::default();
        let outcome = self.run(&mut report).await;
        let error = outcome.as_ref().err().map(ToString::to_string);
        self.gc.end(self.clock.now(), &report, error);
        outcome.map(|()| report)
    }

    async fn run(&self, report: &mut CollectReport) -> Result<(), CollectError> {
        let epoch = self.epoch().await?;
        self.compare_sums(epoch).await?;
        let until = Instant::now() + UNWIND_TIME_PER_RUN;
        let unwound = self.unwind(epoch, DATA_PER_RUN, until).await?;
        (report.unwound, report.released) = (unwound.unwound, unwound.released);
        (report.skipped, report.more) = (unwound.skipped, unwound.more);
        report.unreadable = unwound.unreadable;
        self.gc.found_unreadable(unwound.unreadable, unwound.why);
        let mut run = Run {
            epoch,
            report: std::mem::take(report),
            tried: HashSet::new(),
            emptied: 0,
            until: Instant::now() + PACKS_TIME_PER_RUN,
            merges: false,
            is_cut_off: false,
        };
        let outcome = self.collect_packs(&mut run).await;
        *report = run.report;
        outcome?;
        self.metrics.stuck_packs.set(report.stuck.len() as i64);
        if !self.troubles.is_empty() {
            self.troubles.retain(&live_by_pack(&*self.kv).await?, &report.stuck);
            let lost = [Trouble::Missing, Trouble::Damaged].map(|trouble| self.troubles.of(trouble).len());
            self.metrics.lost_packs.set(lost.iter().sum::<usize>() as i64);
        }
        Ok(())
    }

    async fn collect_packs(&self, run: &mut Run) -> Result<(), CollectError> {
        // What an earlier run began comes first, and what was named for the cloud and came to nothing.
        for (pack, known) in all_pack_rows(&*self.kv).await? {
            match known.row.state {
                PackState::Active => {}
                PackState::Pending if !self.is_given_up(&known.row) => {}
                PackState::Condemned if !self.may_delete(&known.row) => run.report.waiting += 1,
                _ if run.is_cut_off && known.row.may_be_in_cloud() => {}
                PackState::Pending | PackState::Evacuating | PackState::Condemned => self.try_pack(pack, run).await?,
            }
        }
        self.empty_wanted(run).await?;
        self.collect_worst(run).await?;
        let full = if self.packs.puts_new_packs() {
            CLOUD_PACK_BYTES
        } else {
            self.pack_bytes
        };
        let small = self.dead().await?.small(full, &run.tried);
        run.merges = true;
        if self.packs.moved_together() > 0 {
            self.move_together(&small, run).await?;
        }
        self.try_packs(small, run).await?;
        self.table.prune();
        Ok(())
    }

    /// Empties the packs that somebody wants emptied.
    async fn empty_wanted(&self, run: &mut Run) -> Result<(), CollectError> {
        let wanted = self.gc.take_to_empty();
        if wanted.is_empty() {
            return Ok(());
        }
        run.merges = true;
        let packs = wanted.iter().filter_map(|pack| self.packs.info(*pack)).collect();
        let outcome = self.try_packs(packs, run).await;
        run.merges = false;
        let left = wanted.iter().filter(|pack| !run.tried.contains(pack));
        left.for_each(|pack| self.gc.empty(*pack));
        outcome
    }

    /// Tries these packs in turn, as far as the run may go.
    async fn try_packs(&self, packs: Vec<PackInfo>, run: &mut Run) -> Result<(), CollectError> {
        let planned = run.tried.len() + packs.len();
        for info in packs {
            if run.is_over() {
                // Packs that are tried again and again and stay are no reason to hurry.
                run.report.more |= run.report.did_something();
                return Ok(());
            }
            self.gc.at(run.tried.len(), planned);
            if run.may_try(&info) {
                self.try_pack(info.id, run).await?;
            }
        }
        Ok(())
    }

    /// Empties and deletes one pack if that can be done. One that is stuck stays as it is, and the others go on.
    async fn try_pack(&self, pack: PackId, run: &mut Run) -> Result<(), CollectError> {
        run.tried.insert(pack);
        let live = live_bytes(&*self.kv, pack).await?;
        if self.troubles.rests(pack, live, self.clock.now()) {
            run.report.stuck.push(pack);
            return Ok(());
        }
        let is_known = !run.merges && self.gc.is_not_worth(pack, live);
        if is_known || (run.report.lacked_room && live != 0) {
            return Ok(());
        }
        let why = match self.collect_pack(pack, run).await {
            Ok(Emptied::Stuck(reason)) => reason,
            Err(error) if error.is_unreachable() => {
                tracing::warn!(%pack, %error, "the cloud does not answer: packs there are collected later");
                run.is_cut_off = true;
                return Ok(());
            }
            Err(error) if error.is_of_pack() => error.to_string(),
            outcome => {
                match outcome? {
                    Emptied::Yes => run.emptied += 1,
                    Emptied::Waits => run.report.waiting += 1,
                    Emptied::NotWorth if !run.merges => self.gc.not_worth(pack, live),
                    Emptied::NoRoom => run.report.lacked_room = true,
                    Emptied::NotWorth | Emptied::Busy | Emptied::Stuck(_) => {}
                }
                self.troubles.is_well(pack);
                return Ok(());
            }
        };
        run.report.stuck.push(pack);
        let live = live_bytes(&*self.kv, pack).await?;
        if self.troubles.stuck(pack, live, self.clock.now(), &why) {
            tracing::error!(%pack, live, why, "a pack cannot be emptied: it is kept");
        }
        Ok(())
    }

    /// Empties the packs with the most dead bytes until little enough is dead.
    async fn collect_worst(&self, run: &mut Run) -> Result<(), CollectError> {
        let (mut sealed, backlog) = (false, run.report.more);
        loop {
            let dead = self.dead().await?;
            let percent = dead.rest_percent(self.collect.rest_percent, backlog);
            self.gc.set_rest_percent(percent);
            let mut excess = if self.space.has_room() {
                dead.excess(self.collect.dead_percent_max, self.collect.dead_bytes_min)
            } else {
                dead.excess(0, 0)
            };
            let open = dead.packs.iter().any(|(_, info)| info.state == FileState::Open);
            let wanted = |info: &PackInfo| info.state != FileState::Open && run.may_try(info);
            let closed: Vec<_> = dead.packs.into_iter().filter(|(_, info)| wanted(info)).collect();
            if excess == 0 || run.is_over() || (closed.is_empty() && (sealed || !open)) {
                return Ok(());
            }
            if closed.is_empty() {
                self.packs.seal_all().await?;
                sealed = true;
            }
            let enough = |(bytes, info): (u64, PackInfo)| {
                let still = excess > 0;
                excess = excess.saturating_sub(bytes);
                still.then_some(info)
            };
            let chosen = closed.into_iter().map_while(enough).collect();
            self.try_packs(chosen, run).await?;
        }
    }

    /// Gives way after a step that began at `began`.
    pub(super) async fn rest(&self, began: Instant) {
        if self.space.has_room() {
            let rest = began.elapsed() * self.gc.rest_percent() / 100;
            tokio::time::sleep(rest.clamp(self.collect.pause, REST_MAX.max(self.collect.pause))).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}
