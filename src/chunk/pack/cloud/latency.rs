//! How long reads take lately, and when one of them is slow.

use std::time::Duration;

use parking_lot::Mutex;

/// Reads that are remembered.
const READS: usize = 128;
/// Before so many are known, a read is slow after [`UNKNOWN`].
const READS_MIN: usize = 16;
const UNKNOWN: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(10);

pub struct Latency {
    min: Duration,
    /// The last reads, in a ring, and where the next goes.
    seen: Mutex<(Vec<Duration>, usize)>,
}

impl Latency {
    pub fn new(min: Duration) -> Self {
        Self {
            min,
            seen: Mutex::new((Vec::with_capacity(READS), 0)),
        }
    }

    pub fn note(&self, took: Duration) {
        let mut seen = self.seen.lock();
        let (ring, next) = &mut *seen;
        match ring.get_mut(*next) {
            Some(place) => *place = took,
            None => ring.push(took),
        }
        *next = (*next + 1) % READS;
    }

    /// What 95 in 100 of the last reads took less than, within bounds.
    pub fn slow(&self) -> Duration {
        let mut seen = self.seen.lock().0.clone();
        if seen.len() < READS_MIN {
            return UNKNOWN.max(self.min);
        }
        let at = seen.len() * 95 / 100;
        let (_, found, _) = seen.select_nth_unstable(at);
        (*found).clamp(self.min, MAX.max(self.min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_what_few_of_the_last_reads_were() {
        let latency = Latency::new(Duration::from_millis(2));
        assert_eq!(latency.slow(), UNKNOWN);
        for ms in 1..=100 {
            latency.note(Duration::from_millis(ms));
        }
        assert_eq!(latency.slow(), Duration::from_millis(96));
        for _ in 0..READS {
            latency.note(Duration::from_micros(10));
        }
        assert_eq!(latency.slow(), Duration::from_millis(2));
    }
}
