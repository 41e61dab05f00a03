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

use crate::chunk::brake::{Count, Weighed};
use crate::chunk::choose::worth_moving;
use crate::chunk::epoch::{Epoch, Step};
use crate::chunk::error::{CollectError, MetaError};
use crate::chunk::index::Known;
use crate::chunk::pack::{AppendError, PackInfo, PackState as FileState};
use crate::chunk::recover::{forget, live_by_pack, live_bytes, pack_row, pack_rows};
use crate::chunk::store::ChunkStore;
use crate::chunk::trouble::Trouble;
use crate::ids::PackId;
use crate::kv::{Counter, Durability, Guard};
use crate::meta::key::{self, PackStatKind};
use crate::meta::pack::{PackRow, PackState};

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

/// How a pack came out of a run.
pub(super) enum Emptied {
    Yes,
    /// It is kept, for this reason.
    Stuck(String),
    /// What seems dead in it is needed again where its records would go: it is left as it is.
    NotWorth,
    /// Nothing points to it, and the restore window keeps its file.
    Waits,
    /// Uploads changed it all the while: the next run tries again.
    Busy,
    /// There is no room where its live records would go.
    NoRoom,
}

/// A run under way.
struct Run {
    epoch: Epoch,
    report: CollectReport,
    /// Packs that it has to do with no more.
    tried: HashSet<PackId>,
    /// Those of them that were emptied.
    emptied: usize,
    until: Instant,
    /// It puts small packs together, whatever is dead in them.
    merges: bool,
}

impl Run {
    /// Whether the next one must go on.
    fn is_over(&self) -> bool {
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
        // What an earlier run began comes first.
        for (pack, known) in pack_rows(&*self.kv).await? {
            match known.row.state {
                PackState::Active => {}
                PackState::Condemned if !self.may_delete(&known.row) => run.report.waiting += 1,
                PackState::Evacuating | PackState::Condemned => self.try_pack(pack, run).await?,
            }
        }
        self.collect_worst(run).await?;
        let small = self.dead().await?.small(self.pack_bytes, &run.tried);
        run.merges = true;
        self.try_packs(small, run).await
    }

    fn may_delete(&self, row: &PackRow) -> bool {
        // A version without a window did not note when.
        let since = row.condemned.unwrap_or(row.created).unix_ms();
        let window_ms = u64::try_from(self.collect.restore_window.as_millis()).unwrap_or(u64::MAX);
        window_ms == 0 || self.clock.now().unix_ms() >= since.saturating_add(window_ms)
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
            self.try_pack(info.id, run).await?;
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
        if (run.report.lacked_room && live != 0) || self.gc.is_not_worth(pack, live) {
            return Ok(());
        }
        let why = match self.collect_pack(pack, run).await {
            Ok(Emptied::Stuck(reason)) => reason,
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
            let wanted = |info: &PackInfo| info.state != FileState::Open && !run.tried.contains(&info.id);
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

    /// Empties and deletes one pack, from wherever it stands.
    async fn collect_pack(&self, pack: PackId, run: &mut Run) -> Result<Emptied, CollectError> {
        let Some(mut known) = pack_row(&*self.kv, pack).await? else {
            return Ok(Emptied::Yes);
        };
        let (epoch, packs) = (run.epoch, self.packs.packs());
        let bytes = packs.iter().find(|info| info.id == pack).map_or(0, |info| info.bytes);
        if known.row.state != PackState::Condemned {
            match self.weigh(pack, bytes, epoch).await? {
                Weighed::Odd(why) => return Ok(Emptied::Stuck(why)),
                Weighed::Busy => return Ok(Emptied::Busy),
                Weighed::Fits(Count { live, records, .. }) => {
                    let starts = known.row.state == PackState::Active && !run.merges;
                    if starts && !worth_moving(bytes, live, records) {
                        return Ok(Emptied::NotWorth);
                    }
                }
            }
        }
        if known.row.state == PackState::Active {
            self.table.close(pack);
            known = self.mark(pack, known, PackState::Evacuating, epoch.step()).await?;
        }
        if known.row.state == PackState::Evacuating {
            // A pack of an interrupted run is not in the table of this process.
            self.table.close(pack);
            match self.evacuate(pack, epoch, &mut run.report).await {
                Ok(Emptied::Yes) => {}
                Err(CollectError::Append(AppendError::Full)) => return Ok(Emptied::NoRoom),
                outcome => return outcome,
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
            known = self.mark(pack, known, PackState::Condemned, step).await?;
        }
        if !self.may_delete(&known.row) {
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
        self.packs.delete(pack).await?;
        let mut step = epoch.step();
        forget(&mut step.mutation, pack, known);
        step.commit(&*self.kv).await?;
        Ok(())
    }

    async fn mark(
        &self,
        pack: PackId,
        known: Known<PackRow>,
        state: PackState,
        mut step: Step,
    ) -> Result<Known<PackRow>, MetaError> {
        let condemns = state == PackState::Condemned;
        debug_assert_eq!(condemns, step.mutation.durability == Durability::Synced);
        let row = PackRow {
            state,
            condemned: condemns.then(|| self.clock.now()),
            ..known.row
        };
        step.mutation.unchanged(key::pack(pack), Some(known.version));
        step.mutation.put(key::pack(pack), row.encode());
        let version = step.commit(&*self.kv).await?;
        Ok(Known { row, version })
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
