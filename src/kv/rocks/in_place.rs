//! Decides whether a read that memory cannot answer is done on the async thread all the same.
//!
//! Handing a read to the pool costs several times what it costs to read a row from the page cache, but RocksDB cannot
//! tell whether a row is there. So the rule "known to be in memory" is: the family's latest reads were as fast as
//! memory. One slow read sends the family's reads to the pool, until a run of them was fast again; so an async thread
//! waits for one read of the disk at the most before the pool takes over.

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

    /// A read in place took `time`.
    pub fn took_in_place(&self, time: Duration) {
        if time < SLOW {
            return;
        }
        let mut slow = self.slow.lock();
        let is_calm = slow.last.is_none_or(|last| last.elapsed() > CALM);
        slow.run = if is_calm { RUN_MIN } else { (slow.run * 2).min(RUN_MAX) };
        slow.last = Some(Instant::now());
        self.wanted.store(slow.run, Ordering::Relaxed);
    }

    /// A read in the pool took `time`, waiting for a thread aside.
    pub fn took_in_pool(&self, time: Duration) {
        if time >= SLOW {
            self.wanted.fetch_max(self.slow.lock().run, Ordering::Relaxed);
        } else {
            let less = |wanted: u32| wanted.checked_sub(1);
            let _was_open = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
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
            gate.took_in_pool(FAST);
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
        gate.took_in_place(SLOW);
        assert!(!gate.is_open());
        for _ in 1..RUN_MIN {
            gate.took_in_pool(FAST);
        }
        assert!(!gate.is_open());
        gate.took_in_pool(SLOW);
        assert_eq!(reads_until_open(&gate), RUN_MIN, "a slow read begins the run again");
    }

    #[test]
    fn frequent_slow_reads_make_the_run_longer() {
        let gate = Gate::default();
        let runs: Vec<u32> = (0..12)
            .map(|_| {
                gate.took_in_place(SLOW);
                reads_until_open(&gate)
            })
            .collect();
        assert_eq!(runs.first(), Some(&RUN_MIN));
        assert_eq!(runs.last(), Some(&RUN_MAX));
    }

    #[test]
    fn families_do_not_answer_for_each_other() {
        let gates = Gates::default();
        gates.of(Family::Bodies).unwrap().took_in_place(SLOW);
        let open = Family::ALL
            .into_iter()
            .filter(|family| gates.of(*family).unwrap().is_open());
        assert_eq!(open.count(), Family::ALL.len() - 1);
    }
}
