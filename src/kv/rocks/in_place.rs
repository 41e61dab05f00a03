//! Decides whether a read that memory cannot answer is done on the async thread all the same.
//!
//! Handing a read to the pool costs several times what it costs to read a row from the page cache, but RocksDB cannot
//! tell whether a row is there. So the rule "known to be in memory" is: the family's latest reads were as fast as
//! memory. One slow read sends the family's reads to the pool, until a run of them was fast again; so an async thread
//! waits for one read of the disk at the most before the pool takes over.
//!
//! A thread that lost its processor for a while looks slow as well. On a busy machine that is most of the slow reads, and
//! taking them for the disk's would send every read to the pool just then; so Linux is asked whether the thread read any
//! byte of a disk.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::kv::Family;

/// From here on a read counts as one of the disk. A cached one takes about 10 µs.
const SLOW: Duration = Duration::from_micros(250);
/// Fast reads in a row, in the pool, before reads are done in place again; doubled by every slow one in place.
const RUN_MIN: u32 = 32;
const RUN_MAX: u32 = 1 << 15;
/// After so long without a slow read in place, the run is short again.
const CALM: Duration = Duration::from_secs(10);

struct Slow {
    run: u32,
    last: Option<Instant>,
}

/// One family's.
pub(super) struct Gate {
    /// Fast reads still wanted from the pool; 0: open.
    wanted: AtomicU32,
    slow: Mutex<Slow>,
}

impl Default for Gate {
    fn default() -> Self {
        let slow = Slow {
            run: RUN_MIN,
            last: None,
        };
        Self {
            wanted: AtomicU32::new(0),
            slow: Mutex::new(slow),
        }
    }
}

impl Gate {
    pub fn is_open(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) == 0
    }

    /// A read on this thread, in place, took `time`.
    pub fn took_in_place(&self, time: Duration) {
        if time >= SLOW && has_read_disk() {
            self.close();
        }
    }

    fn close(&self) {
        let mut slow = self.slow.lock();
        let is_calm = slow.last.is_none_or(|last| last.elapsed() > CALM);
        slow.run = if is_calm { RUN_MIN } else { (slow.run * 2).min(RUN_MAX) };
        slow.last = Some(Instant::now());
        self.wanted.store(slow.run, Ordering::Relaxed);
    }

    /// A read on this thread, of the pool, took `time`, waiting for a thread aside.
    pub fn took_in_pool(&self, time: Duration) {
        self.pooled(time >= SLOW && has_read_disk());
    }

    fn pooled(&self, is_slow: bool) {
        if is_slow {
            self.wanted.fetch_max(self.slow.lock().run, Ordering::Relaxed);
        } else {
            let less = |wanted: u32| wanted.checked_sub(1);
            let _was_open = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// Whether this thread read from a disk since the last call here; true where Linux does not count it.
fn has_read_disk() -> bool {
    thread_local!(static READ_BYTES: Cell<u64> = const { Cell::new(0) });
    match disk_bytes_read() {
        Some(bytes) => READ_BYTES.replace(bytes) != bytes,
        None => true,
    }
}

/// What this thread has had fetched from disks: `read_bytes` of proc_pid_io(5).
fn disk_bytes_read() -> Option<u64> {
    let counts = std::fs::read_to_string("/proc/thread-self/io").ok()?;
    let line = counts.lines().find_map(|line| line.strip_prefix("read_bytes: "))?;
    line.parse().ok()
}

/// One gate a family, so that rows which are always in the cache say nothing about bodies.
#[derive(Default)]
pub(super) struct Gates([Gate; Family::ALL.len()]);

impl Gates {
    pub fn of(&self, family: Family) -> Option<&Gate> {
        self.0.get((family as usize).checked_sub(Family::Heads as usize)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(10);

    fn reads_until_open(gate: &Gate) -> u32 {
        let mut reads = 0;
        while !gate.is_open() {
            gate.pooled(false);
            reads += 1;
        }
        reads
    }

    #[test]
    fn one_slow_read_closes_and_a_run_of_fast_ones_opens() {
        let gate = Gate::default();
        assert!(gate.is_open());
        gate.took_in_place(FAST);
        assert!(gate.is_open());
        gate.close();
        assert!(!gate.is_open());
        for _ in 1..RUN_MIN {
            gate.pooled(false);
        }
        assert!(!gate.is_open());
        gate.pooled(true);
        assert_eq!(reads_until_open(&gate), RUN_MIN, "a slow read begins the run again");
    }

    #[test]
    fn frequent_slow_reads_make_the_run_longer() {
        let gate = Gate::default();
        let runs: Vec<u32> = (0..12)
            .map(|_| {
                gate.close();
                reads_until_open(&gate)
            })
            .collect();
        assert_eq!(runs.first(), Some(&RUN_MIN));
        assert_eq!(runs.last(), Some(&RUN_MAX));
    }

    #[test]
    fn families_do_not_answer_for_each_other() {
        let gates = Gates::default();
        gates.of(Family::Bodies).unwrap().close();
        let open = Family::ALL
            .into_iter()
            .filter(|family| gates.of(*family).unwrap().is_open());
        assert_eq!(open.count(), Family::ALL.len() - 1);
    }

    #[test]
    fn a_thread_that_only_waited_is_not_slow() {
        let gate = Gate::default();
        // Whatever this thread has read so far is counted.
        let _ = has_read_disk();
        if disk_bytes_read().is_some() {
            gate.took_in_place(SLOW * 4);
            assert!(gate.is_open());
        }
    }
}
