//! What everything in a simulation shares: the dice, the time, the trace, and the moment of the next crash.

use std::future::pending;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use cairn::clock::{Clock, ClockHand};
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::plan::Plan;

const START_MS: u64 = 1_700_000_000_000;

pub struct World {
    pub plan: Plan,
    pub clock: Clock,
    hand: ClockHand,
    state: Mutex<State>,
    crashed: Notify,
}

struct State {
    rng: Rng,
    trace: Trace,
    /// Events before the process dies.
    left: Option<u64>,
    /// When the runtime of this process began, and what the wall clock showed then.
    boot: Option<(Instant, u64)>,
    is_calm: bool,
    violations: Vec<String>,
}

/// Everything that happened, as one number, and in words as far as somebody wants them.
#[derive(Default)]
struct Trace {
    lines_max: usize,
    hash: DefaultHasher,
    events: u64,
    lines: Vec<String>,
}

impl Trace {
    fn add(&mut self, line: String) {
        line.hash(&mut self.hash);
        self.events += 1;
        if self.lines.len() < self.lines_max {
            self.lines.push(line);
        }
    }
}

impl World {
    pub fn new(seed: u64, lines_max: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::new(&mut rng);
        let (clock, hand) = Clock::manual(START_MS);
        let mut trace = Trace {
            lines_max,
            ..Trace::default()
        };
        trace.add(format!("{plan:?}"));
        let state = State {
            rng,
            trace,
            left: None,
            boot: None,
            is_calm: false,
            violations: Vec::new(),
        };
        Self {
            plan,
            clock,
            hand,
            state: Mutex::new(state),
            crashed: Notify::new(),
        }
    }

    /// A new process begins, inside its runtime; it dies after so many events.
    pub fn boot(&self, dies_after: Option<u64>) {
        let now = self.clock.now().unix_ms();
        let mut state = self.state.lock();
        (state.boot, state.left) = (Some((Instant::now(), now)), dies_after);
        state.trace.add(format!("boot, to die after {dies_after:?}"));
    }

    /// The process stands still: its time ends with its runtime.
    pub fn halt(&self) {
        self.now_ms();
        let mut state = self.state.lock();
        (state.boot, state.left) = (None, None);
    }

    /// The wall clock goes on, and nothing happens meanwhile.
    pub fn pass(&self, ms: u64) {
        self.note(|| format!("{ms} ms pass"));
        match &mut self.state.lock().boot {
            Some((_, at_ms)) => *at_ms += ms,
            None => self.hand.advance_ms(ms),
        }
        self.now_ms();
    }

    /// No more faults from here on.
    pub fn calm(&self) {
        self.state.lock().is_calm = true;
    }

    /// Unix milliseconds; sets the clock of the gateway to them.
    pub fn now_ms(&self) -> u64 {
        let boot = self.state.lock().boot;
        if let Some((began, at_ms)) = boot {
            self.hand.set_ms(at_ms + began.elapsed().as_millis() as u64);
        }
        self.clock.now().unix_ms()
    }

    /// Something happens. Never returns if the process died before it.
    pub async fn event(&self, what: impl FnOnce() -> String) {
        let now = self.now_ms();
        let is_dead = {
            let mut state = self.state.lock();
            let is_dead = match &mut state.left {
                Some(0) => true,
                Some(left) => {
                    *left -= 1;
                    *left == 0
                }
                None => false,
            };
            if !is_dead {
                state.trace.add(format!("{} {}", now - START_MS, what()));
            }
            is_dead
        };
        if is_dead {
            self.crashed.notify_one();
            pending::<()>().await;
        }
    }

    /// Notes what is no event of the process.
    pub fn note(&self, what: impl FnOnce() -> String) {
        self.state.lock().trace.add(what());
    }

    /// Returns when the process has died.
    pub async fn died(&self) {
        self.crashed.notified().await;
    }

    /// Passes some milliseconds, up to `most`; often none, when others may only go first.
    pub async fn pause(&self, most: u64) {
        match self.below(2 * most + 2).saturating_sub(most + 1) {
            0 => tokio::task::yield_now().await,
            ms => sleep(Duration::from_millis(ms)).await,
        }
    }

    pub fn below(&self, end: u64) -> u64 {
        self.state.lock().rng.u64(0..end.max(1))
    }

    /// True in `of_1000` of 1,000 cases.
    pub fn chance(&self, of_1000: u64) -> bool {
        of_1000 > 0 && self.below(1000) < of_1000
    }

    /// As `chance`, for what goes wrong.
    pub fn strikes(&self, of_1000: u64) -> bool {
        !self.state.lock().is_calm && self.chance(of_1000)
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len() as u64) as usize)
    }

    /// What must not be was seen.
    pub fn violated(&self, what: String) {
        let mut state = self.state.lock();
        state.trace.add(format!("VIOLATION {what}"));
        state.violations.push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    /// The number of the whole history, how many events it had, and the first of them in words.
    pub fn history(&self) -> (u64, u64, Vec<String>) {
        let state = self.state.lock();
        (state.trace.hash.finish(), state.trace.events, state.trace.lines.clone())
    }
}
