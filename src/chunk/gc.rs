//! How collection stands: what this process knows of its own runs, and what is left to do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

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
/// Packs that are known to be not worth moving; with more, all are counted anew.
const NOT_WORTH_MAX: usize = 100_000;

/// The run under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProgress {
    pub began: Timestamp,
    /// Packs that it is done with, of those chosen so far.
    pub pack: usize,
    pub packs: usize,
    pub bytes_moved: u64,
}

/// The last run that did something or failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    pub began: Timestamp,
    pub ended: Timestamp,
    /// Payloads whose references were taken back.
    pub unwound: u64,
    pub packs_deleted: u64,
    pub bytes_deleted: u64,
    pub bytes_moved: u64,
    pub error: Option<String>,
}

/// A pack with enough dead bytes to be emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadPack {
    pub pack: PackId,
    pub bytes: u64,
    pub dead_bytes: u64,
}

/// What is left to collect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// Bytes of packs that chunk rows may point to, half emptied ones too, and those of them that none points to.
    pub pack_bytes: u64,
    pub dead_bytes: u64,
    /// Packs with enough dead bytes to be emptied, worst first.
    pub packs_above_mark: Vec<DeadPack>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckPack {
    pub pack: PackId,
    pub live_bytes: i64,
    pub why: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GcState {
    #[default]
    Idle,
    Running,
    /// By the brake, until an administrator resumes.
    Stopped,
    /// Another process collects.
    Elsewhere,
}

/// How collection stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcStatus {
    pub state: GcState,
    pub epoch: u64,
    /// Why it is stopped, and since when.
    pub stopped: Option<Stop>,
    pub debt: Debt,
    /// The run under way.
    pub run: Option<RunProgress>,
    /// The last run of this process that did something or failed.
    pub last: Option<LastRun>,
    /// Packs that cannot be emptied.
    pub stuck: Vec<StuckPack>,
}

#[derive(Default)]
struct State {
    /// The epoch that this process had last.
    held: Option<u64>,
    stopped: Option<Stop>,
    run: Option<RunProgress>,
    last: Option<LastRun>,
    /// Deleted payloads that keep their space, and why the first of them does.
    unreadable: (u64, String),
    /// Packs that were not worth moving with so many live bytes.
    not_worth: HashMap<PackId, i64>,
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

    pub fn found_unreadable(&self, payloads: u64, why: String) {
        self.state.lock().unreadable = (payloads, why);
    }

    /// For people: what is never given back, since it cannot be read.
    pub fn unreadable(&self) -> Option<String> {
        let (payloads, why) = &self.state.lock().unreadable;
        (*payloads > 0)
            .then(|| format!("{payloads} deleted payloads keep their space, as rows of them cannot be read: {why}"))
    }

    pub fn not_worth(&self, pack: PackId, live: i64) {
        let mut state = self.state.lock();
        if state.not_worth.len() >= NOT_WORTH_MAX {
            state.not_worth.clear();
        }
        state.not_worth.insert(pack, live);
    }

    /// Whether moving the pack was not worth it, and nothing has died in it since.
    pub fn is_not_worth(&self, pack: PackId, live: i64) -> bool {
        self.state.lock().not_worth.get(&pack) == Some(&live)
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
                unwound: report.unwound,
                packs_deleted: report.packs_deleted,
                bytes_deleted: report.bytes_deleted,
                bytes_moved: report.bytes_moved,
                error,
            });
        }
    }
}

impl ChunkStore {
    /// How collection stands. Reads the rows of all packs and some thousand of the garbage.
    pub async fn gc_status(&self) -> Result<GcStatus, MetaError> {
        let row = self.collector_row().await?.map(|known| known.row).unwrap_or_default();
        let CollectorRow {
            epoch, holder, stopped, ..
        } = row;
        let debt = self.debt().await?;
        let (run, last) = {
            let state = self.gc.state.lock();
            (state.run.clone(), state.last.clone())
        };
        let stuck = self.troubles.kept().into_iter();
        Ok(GcStatus {
            state: match (&stopped, &run) {
                (Some(_), _) => GcState::Stopped,
                (None, Some(_)) => GcState::Running,
                (None, None) if holder == self.boot || epoch == 0 => GcState::Idle,
                (None, None) => GcState::Elsewhere,
            },
            epoch,
            stopped,
            debt,
            run,
            last,
            stuck: stuck
                .map(|(pack, live_bytes, why)| StuckPack { pack, live_bytes, why })
                .collect(),
        })
    }

    /// Brings the metrics of collection up to date.
    pub async fn refresh_gc_metrics(&self) -> Result<(), MetaError> {
        let GcStatus {
            epoch,
            stopped,
            debt,
            run,
            ..
        } = self.gc_status().await?;
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let ChunkMetrics { gc, .. } = &self.metrics;
        gc.epoch.set(whole(epoch));
        gc.stopped.set(i64::from(stopped.is_some()));
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
                Some(state @ (PackState::Active | PackState::Evacuating)) => {
                    let dead = dead_bytes(bytes, live.get(&id).copied().unwrap_or_default());
                    debt.pack_bytes += bytes;
                    debt.dead_bytes += dead;
                    if state == PackState::Active && above_mark(dead, bytes) {
                        debt.packs_above_mark.push(DeadPack {
                            pack: id,
                            bytes,
                            dead_bytes: dead,
                        });
                    }
                }
                Some(PackState::Condemned) => {
                    debt.condemned += 1;
                    debt.condemned_bytes += bytes;
                }
                None => {}
            }
        }
        debt.packs_above_mark
            .sort_unstable_by_key(|pack| std::cmp::Reverse(pack.dead_bytes));
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
