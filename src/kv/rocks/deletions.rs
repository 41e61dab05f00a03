//! Keeps listings from crawling through tombstones: notes where many rows were deleted, and compacts there.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::engine::Database;
use crate::kv::Family;
use crate::kv::metrics::KvMetrics;

/// Deletions in a family after which its range is compacted.
const DELETED_MAX: u64 = 8192;
/// Tombstones that one scan may skip before its range is compacted.
const SKIPPED_MAX: u64 = 1024;
/// Compactions may take one part in this many of the time.
const PACE: u32 = 3;
const POLL: Duration = Duration::from_secs(1);
/// A compaction waits until no row was deleted for so long, so that one serves a burst of deletions,
const SETTLE: Duration = Duration::from_millis(250);
/// but not longer than this.
const SETTLE_MAX: Duration = Duration::from_secs(2);

struct Marked {
    range: Range<Vec<u8>>,
    deleted: u64,
    due: Option<Instant>,
    due_max: Option<Instant>,
}

impl Marked {
    fn make_due(&mut self) {
        let now = Instant::now();
        let due_max = *self.due_max.get_or_insert(now + SETTLE_MAX);
        self.due = Some((now + SETTLE).min(due_max));
    }
}

#[derive(Default)]
struct State {
    marked: BTreeMap<Family, Marked>,
    wants_flush: bool,
    is_stopping: bool,
    /// Who reads an old state, in which the deleted rows are still there.
    holders: usize,
}

#[derive(Default)]
pub(super) struct Deletions {
    state: Mutex<State>,
    wake: Condvar,
}

/// No compaction begins while it lives.
pub(super) struct Hold<'a>(&'a Deletions);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.state.lock().holders -= 1;
        self.0.wake.notify_one();
    }
}

enum Job {
    Flush,
    Compact(Family, Range<Vec<u8>>),
}

impl State {
    fn mark(&mut self, family: Family, start: &[u8], end: &[u8]) -> &mut Marked {
        let fresh = || Marked {
            range: start.to_vec()..end.to_vec(),
            deleted: 0,
            due: None,
            due_max: None,
        };
        let marked = self.marked.entry(family).or_insert_with(fresh);
        if start < marked.range.start.as_slice() {
            marked.range.start = start.to_vec();
        }
        if end > marked.range.end.as_slice() {
            marked.range.end = end.to_vec();
        }
        marked
    }

    /// When the next compaction is due.
    fn next_due(&self) -> Option<Instant> {
        self.marked.values().filter_map(|marked| marked.due).min()
    }

    fn take_due(&mut self, now: Instant) -> Option<Job> {
        let is_due = |marked: &Marked| marked.due.is_some_and(|due| due <= now);
        let family = *self.marked.iter().find(|(_, marked)| is_due(marked))?.0;
        let marked = self.marked.remove(&family)?;
        Some(Job::Compact(family, marked.range))
    }
}

impl Deletions {
    pub fn deleted(&self, family: Family, key: &[u8]) {
        // Bodies and chunks are never scanned.
        if matches!(family, Family::Bodies | Family::Chunks) {
            return;
        }
        let mut state = self.state.lock();
        let marked = state.mark(family, key, key);
        marked.deleted += 1;
        if marked.deleted >= DELETED_MAX {
            marked.make_due();
            if marked.deleted == DELETED_MAX {
                self.wake.notify_one();
            }
        }
    }

    /// A scan of `range` passed `tombstones` on its way.
    pub fn skipped(&self, family: Family, range: &Range<Bytes>, tombstones: u64) {
        if tombstones >= SKIPPED_MAX {
            let mut state = self.state.lock();
            let marked = state.mark(family, &range.start, &range.end);
            // Scans that pass the same tombstones again do not put it off.
            if marked.due.is_none() {
                marked.make_due();
                self.wake.notify_one();
            }
        }
    }

    pub fn hold(&self) -> Hold<'_> {
        self.state.lock().holders += 1;
        Hold(self)
    }

    pub fn ask_flush(&self) {
        self.state.lock().wants_flush = true;
        self.wake.notify_one();
    }

    /// The next thing to do; `None`: stop. Compactions wait until `not_before`.
    fn next(&self, not_before: Instant) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            if std::mem::take(&mut state.wants_flush) {
                return Some(Job::Flush);
            }
            let now = Instant::now();
            let is_free = state.holders == 0;
            if is_free
                && now >= not_before
                && let Some(job) = state.take_due(now)
            {
                return Some(job);
            }
            let due = state.next_due().filter(|_| is_free).map(|due| due.max(not_before));
            let wait = due.map_or(POLL, |due| due.saturating_duration_since(now).min(POLL));
            self.wake.wait_for(&mut state, wait);
        }
    }
}

/// The thread that flushes and compacts when asked.
pub(super) struct Tidier {
    database: Arc<Database>,
    thread: Option<JoinHandle<()>>,
}

impl Tidier {
    pub fn start(database: Arc<Database>, metrics: Arc<KvMetrics>) -> io::Result<Self> {
        let shared = Arc::clone(&database);
        let work = move || {
            let mut not_before = Instant::now();
            while let Some(job) = shared.deletions.next(not_before) {
                let start = Instant::now();
                let done = match job {
                    Job::Flush => shared.flush(),
                    Job::Compact(family, range) => {
                        metrics.compactions.inc();
                        let done = shared.compact(family, &range);
                        not_before = Instant::now() + start.elapsed() * PACE;
                        done
                    }
                };
                if let Err(error) = done {
                    tracing::error!(%error, "RocksDB could not be flushed");
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("cairn-kv-tidy".to_owned())
            .spawn(work)?;
        Ok(Self {
            database,
            thread: Some(thread),
        })
    }

    pub fn stop(&mut self) {
        self.database.deletions.state.lock().is_stopping = true;
        self.database.deletions.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metadata store's tidier panicked");
        }
    }
}
