//! How collection stands: what this process knows of its own runs, and what is left to do.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::chunk::choose::{above_mark, dead_bytes};
use crate::chunk::collect::CollectReport;
use crate::chunk::error::MetaError;
use crate::chunk::index::{self, after, page};
use crate::chunk::metrics::ChunkMetrics;
use crate::chunk::pack::PackInfo;
use crate::chunk::recover::{live_by_pack, pack_rows};
use crate::chunk::store::ChunkStore;
use crate::clock::Timestamp;
use crate::ids::{DataId, PackId};
use crate::meta::collector::{CollectorRow, Stop};
use crate::meta::data::DataState;
use crate::meta::key::{self, Table};
use crate::meta::pack::PackState;

/// Garbage rows that are counted; more are told as more.
const GARBAGE_COUNTED_MAX: usize = 10_000;
const GARBAGE_ROWS: usize = 500;

/// The run under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunProgress {
    pub began: Timestamp,
    /// Packs looked at so far, and those chosen so far in all.
    pub pack: usize,
    pub packs: usize,
    pub bytes_moved: u64,
}

/// The last run that did something or failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastRun {
    pub began: Timestamp,
    pub ended: Timestamp,
    pub report: CollectReport,
    pub error: Option<String>,
}

/// What is left to collect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debt {
    /// Bytes of packs that chunk rows may point to, and those of them that none points to.
    pub pack_bytes: u64,
    pub dead_bytes: u64,
    /// Packs with enough dead bytes to be emptied.
    pub packs_above_mark: Vec<(PackId, u64, u64)>,
    /// Payloads that nobody owns.
    pub garbage: u64,
    /// Payloads that a session of this process builds.
    pub building: u64,
    /// Payloads that are building and that no session of this process builds.
    pub abandoned: u64,
    /// More rows than were counted.
    pub more: bool,
    /// Condemned packs that the restore window keeps.
    pub condemned: u64,
    pub condemned_bytes: u64,
}

/// A pack that cannot be emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckPack {
    pub pack: PackId,
    pub live_bytes: i64,
    pub why: String,
}

/// How collection stands.
#[derive(Clone, Debug, Default)]
pub struct GcStatus {
    pub row: CollectorRow,
    /// Whether this process collects.
    pub is_holder: bool,
    pub run: Option<RunProgress>,
    pub last: Option<LastRun>,
    pub debt: Debt,
    pub stuck: Vec<StuckPack>,
}

#[derive(Default)]
struct State {
    /// The epoch that this process had last.
    held: Option<u64>,
    stopped: Option<Stop>,
    run: Option<RunProgress>,
    last: Option<LastRun>,
    /// Packs that are to be emptied, whatever is dead in them.
    to_empty: BTreeSet<PackId>,
}

/// What this process knows of its runs.
pub(super) struct Gc {
    state: Mutex<State>,
    /// How long to rest after a step, in percent of its time.
    rest_percent: AtomicU32,
}

impl Gc {
    pub fn new(rest_percent: u32) -> Self {
        Self {
            state: Mutex::default(),
            rest_percent: AtomicU32::new(rest_percent),
        }
    }

    pub fn rest_percent(&self) -> u32 {
        self.rest_percent.load(Ordering::Relaxed)
    }

    pub fn set_rest_percent(&self, percent: u32) {
        self.rest_percent.store(percent, Ordering::Relaxed);
    }

    pub fn holds(&self, epoch: u64) {
        self.state.lock().held = Some(epoch);
    }

    pub fn has_held(&self) -> bool {
        self.state.lock().held.is_some()
    }

    pub fn stopped(&self, stop: Option<Stop>) {
        self.state.lock().stopped = stop;
    }

    pub fn stop(&self) -> Option<Stop> {
        self.state.lock().stopped.clone()
    }

    /// The next run empties the pack, whatever is dead in it.
    pub fn empty(&self, pack: PackId) {
        self.state.lock().to_empty.insert(pack);
    }

    pub fn take_to_empty(&self) -> BTreeSet<PackId> {
        std::mem::take(&mut self.state.lock().to_empty)
    }

    pub fn begin(&self, now: Timestamp) {
        self.state.lock().run = Some(RunProgress {
            began: now,
            ..RunProgress::default()
        });
    }

    /// The run has looked at `pack` packs of `packs`.
    pub fn at(&self, pack: usize, packs: usize) {
        if let Some(run) = &mut self.state.lock().run {
            (run.pack, run.packs) = (pack, packs);
        }
    }

    pub fn moved(&self, bytes: u64) {
        if let Some(run) = &mut self.state.lock().run {
            run.bytes_moved = bytes;
        }
    }

    pub fn end(&self, now: Timestamp, report: &CollectReport, error: Option<String>) {
        let mut state = self.state.lock();
        let began = state.run.take().map(|run| run.began).unwrap_or(now);
        let failed_before = state.last.as_ref().is_some_and(|last| last.error.is_some());
        if report.did_something() || error.is_some() || failed_before {
            state.last = Some(LastRun {
                began,
                ended: now,
                report: report.clone(),
                error,
            });
        }
    }
}

impl ChunkStore {
    /// How collection stands. Reads the rows of all packs and some thousand of the garbage.
    pub async fn gc_status(&self) -> Result<GcStatus, MetaError> {
        let row = self.collector_row().await?.map(|known| known.row).unwrap_or_default();
        let debt = self.debt().await?;
        let (run, last) = {
            let state = self.gc.state.lock();
            (state.run.clone(), state.last.clone())
        };
        let stuck = self.troubles.kept().into_iter();
        Ok(GcStatus {
            is_holder: row.holder == self.boot,
            row,
            run,
            last,
            debt,
            stuck: stuck
                .map(|(pack, live_bytes, why)| StuckPack { pack, live_bytes, why })
                .collect(),
        })
    }

    /// Brings the metrics of collection up to date.
    pub async fn refresh_gc_metrics(&self) -> Result<(), MetaError> {
        let GcStatus { row, debt, run, .. } = self.gc_status().await?;
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let ChunkMetrics { gc, .. } = &self.metrics;
        gc.epoch.set(whole(row.epoch));
        gc.stopped.set(i64::from(row.stopped.is_some()));
        gc.running.set(i64::from(run.is_some()));
        gc.dead_bytes.set(whole(debt.dead_bytes));
        gc.packs_above_mark.set(whole(debt.packs_above_mark.len() as u64));
        gc.garbage.set(whole(debt.garbage));
        gc.abandoned.set(whole(debt.abandoned));
        gc.condemned_bytes.set(whole(debt.condemned_bytes));
        Ok(())
    }

    async fn debt(&self) -> Result<Debt, MetaError> {
        let mut debt = Debt::default();
        let rows = pack_rows(&*self.kv).await?;
        let live = live_by_pack(&*self.kv).await?;
        for PackInfo { id, bytes, .. } in self.packs.packs() {
            match rows.get(&id).map(|known| known.row.state) {
                Some(PackState::Active) => {
                    let dead = dead_bytes(bytes, live.get(&id).copied().unwrap_or_default());
                    debt.pack_bytes += bytes;
                    debt.dead_bytes += dead;
                    if above_mark(dead, bytes) {
                        debt.packs_above_mark.push((id, dead, bytes));
                    }
                }
                Some(PackState::Condemned) => {
                    debt.condemned += 1;
                    debt.condemned_bytes += bytes;
                }
                Some(PackState::Evacuating | PackState::Pending) | None => {}
            }
        }
        debt.packs_above_mark
            .sort_unstable_by_key(|(_, dead, _)| std::cmp::Reverse(*dead));
        self.count_garbage(&mut debt).await?;
        Ok(debt)
    }

    async fn count_garbage(&self, debt: &mut Debt) -> Result<(), MetaError> {
        let range = key::table(Table::Garbage);
        let (mut from, mut counted) = (range.start, 0);
        loop {
            let rows = page(&*self.kv, from..range.end.clone(), GARBAGE_ROWS).await?;
            let ids: Vec<DataId> = rows
                .iter()
                .filter_map(|row| row.key.get(1..).and_then(|id| id.try_into().ok()).map(DataId))
                .collect();
            for (id, known) in ids.iter().zip(index::datas(&*self.kv, &ids).await?) {
                match known.map(|known| known.row.state) {
                    Some(DataState::Building) if self.sessions.builds(*id) => debt.building += 1,
                    Some(DataState::Building) => debt.abandoned += 1,
                    _ => debt.garbage += 1,
                }
            }
            counted += rows.len();
            match rows.last() {
                Some(last) if rows.len() == GARBAGE_ROWS => from = after(&last.key),
                _ => return Ok(()),
            }
            if counted >= GARBAGE_COUNTED_MAX {
                debt.more = true;
                return Ok(());
            }
        }
    }
}
