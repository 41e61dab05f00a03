//! What is known about one connection, and the table of all of them. Timeouts are kept by one sweep over this table
//! every half second instead of by timers: a request then costs a few relaxed stores, not a timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::limits::{LARGE_HEAD_BYTES, LARGE_HEADS_MAX};
use crate::telemetry::{HttpMetrics, Rejection};

/// How often the connections are looked over; timeouts are kept to this.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// One connection. Moments are milliseconds since the table was made, plus one, so that 0 means "no such moment".
#[derive(Default)]
pub struct ConnectionState {
    /// Requests that were handed on and whose answer is not sent yet.
    in_flight: AtomicU32,
    /// Since when the client has been sending a request's head (HTTP/1 only) or shaking hands.
    head_since: AtomicU64,
    /// Bytes of that head so far.
    head_bytes: AtomicUsize,
    /// Whether a head of the connection has been large.
    large_head: AtomicBool,
    /// Since when no request has been in flight.
    idle_since: AtomicU64,
    /// Since when the client has taken no byte of what is being written.
    write_blocked_since: AtomicU64,
    multiplexed: AtomicBool,
    /// Answers of a multiplexed connection that wait until the client has taken what was given of them.
    given: AtomicU32,
    /// When bytes of one of them were last given or taken.
    moved_at: AtomicU64,
    draining: AtomicBool,
    waker: AtomicWaker,
}

impl ConnectionState {
    pub fn request_started(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.head_since.store(0, Relaxed);
        self.head_bytes.store(0, Relaxed);
        // Its large buffer goes with the connection.
        if self.large_head.load(Relaxed) {
            self.drain();
        }
    }

    pub fn request_ended(&self, now: u64) {
        if self.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.idle_since.store(now, Relaxed);
        }
    }

    /// Several requests at once are possible (HTTP/2), so that bytes between requests are no sign of a head.
    pub fn set_multiplexed(&self) {
        self.multiplexed.store(true, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Relaxed)
    }

    /// Bytes of an answer were given; it is the client's turn.
    pub fn answer_given(&self, now: u64) {
        self.moved_at.store(now, Relaxed);
        self.given.fetch_add(1, Relaxed);
    }

    /// Such an answer is asked for more, or at its end.
    pub fn answer_taken(&self, now: u64) {
        self.moved_at.store(now, Relaxed);
        self.given.fetch_sub(1, Relaxed);
    }

    /// Whether received bytes would be those of a head.
    pub fn awaits_head(&self) -> bool {
        self.in_flight.load(Relaxed) == 0 && !self.is_multiplexed()
    }

    fn head_started(&self, now: u64) {
        self.head_since.store(now, Relaxed);
    }

    pub fn write_blocked(&self, now: u64) {
        let _ = self.write_blocked_since.compare_exchange(0, now, Relaxed, Relaxed);
    }

    pub fn write_moved(&self) {
        if self.write_blocked_since.load(Relaxed) != 0 {
            self.write_blocked_since.store(0, Relaxed);
        }
    }

    /// Whether the connection was asked to end after what is in flight; `waker` hears of it.
    pub fn poll_draining(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.draining.load(Relaxed)
    }

    fn drain(&self) {
        self.draining.store(true, Relaxed);
        self.waker.wake();
    }

    fn verdict(&self, now: u64, limits: &Timeouts) -> Option<Option<Rejection>> {
        let longer = |since: &AtomicU64, limit: Duration| {
            let since = since.load(Relaxed);
            since != 0 && now.saturating_sub(since) > millis(limit)
        };
        // A window that the client does not open blocks no write: nothing is written.
        let is_stalled = self.given.load(Relaxed) > 0 && longer(&self.moved_at, limits.body);
        if is_stalled || longer(&self.write_blocked_since, limits.body) {
            return Some(Some(Rejection::SlowReader));
        }
        if self.in_flight.load(Relaxed) > 0 {
            return None;
        }
        if longer(&self.head_since, limits.head) {
            return Some(Some(Rejection::SlowHead));
        }
        longer(&self.idle_since, limits.idle).then_some(None)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub head: Duration,
    pub idle: Duration,
    pub body: Duration,
}

/// All open connections.
pub struct Connections {
    started: Instant,
    table: Mutex<Table>,
    closed: Notify,
    large_heads: AtomicUsize,
    metrics: Arc<HttpMetrics>,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, (Arc<ConnectionState>, Option<AbortHandle>)>,
    draining: bool,
}

/// A connection's place in the table; leaving it is dropping this.
pub struct Seat {
    id: u64,
    connections: Arc<Connections>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let left = self.connections.table.lock().open.remove(&self.id);
        if left.is_some_and(|(state, _)| state.large_head.load(Relaxed)) {
            self.connections.large_heads.fetch_sub(1, Relaxed);
        }
        self.connections.metrics.connections.dec();
        self.connections.closed.notify_waiters();
    }
}

impl Connections {
    pub fn new(metrics: Arc<HttpMetrics>) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            table: Mutex::default(),
            closed: Notify::new(),
            large_heads: AtomicUsize::new(0),
            metrics,
        })
    }

    /// Milliseconds since the table was made, plus one.
    pub fn now(&self) -> u64 {
        millis(self.started.elapsed()) + 1
    }

    pub fn len(&self) -> usize {
        self.table.lock().open.len()
    }

    /// A seat for a new connection, whose first bytes are awaited from now on.
    pub fn enter(self: &Arc<Self>) -> (Arc<ConnectionState>, Seat) {
        let state = Arc::new(ConnectionState::default());
        let now = self.now();
        state.idle_since.store(now, Relaxed);
        state.head_started(now);
        let mut table = self.table.lock();
        let id = table.next;
        table.next += 1;
        state.draining.store(table.draining, Relaxed);
        table.open.insert(id, (Arc::clone(&state), None));
        self.metrics.connections.inc();
        (
            state,
            Seat {
                id,
                connections: Arc::clone(self),
            },
        )
    }

    /// Takes note of `bytes` of a head; `false`: it is one large head too many. The bytes before them did not end it,
    /// since it is parsed after each read.
    pub fn receive_head(&self, state: &ConnectionState, bytes: usize) -> bool {
        if state.head_since.load(Relaxed) == 0 {
            state.head_started(self.now());
        }
        let before = state.head_bytes.fetch_add(bytes, Relaxed);
        if before < LARGE_HEAD_BYTES || state.large_head.swap(true, Relaxed) {
            return true;
        }
        if self.large_heads.fetch_add(1, Relaxed) < LARGE_HEADS_MAX {
            return true;
        }
        self.metrics.rejected(Rejection::LargeHeads);
        false
    }

    /// Names the task that serves the connection of `seat_id`, so that it can be ended.
    pub fn attach(&self, seat_id: u64, task: AbortHandle) {
        if let Some((_, place)) = self.table.lock().open.get_mut(&seat_id) {
            *place = Some(task);
        }
    }

    /// Ends connections that have been silent for too long, until it is dropped.
    pub async fn keep_timeouts(&self, limits: Timeouts) {
        let mut tick = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tick.tick().await;
            let now = self.now();
            let table = self.table.lock();
            for (state, task) in table.open.values() {
                let (Some(verdict), Some(task)) = (state.verdict(now, &limits), task) else {
                    continue;
                };
                if let Some(why) = verdict {
                    self.metrics.rejected(why);
                }
                task.abort();
            }
        }
    }

    /// Asks every connection to end after what it is doing, and ends those that have not within `deadline`. Returns how
    /// many had to be ended.
    pub async fn drain(&self, deadline: Duration) -> usize {
        {
            let mut table = self.table.lock();
            table.draining = true;
            for (state, _) in table.open.values() {
                state.drain();
            }
        }
        if tokio::time::timeout(deadline, self.all_closed()).await.is_ok() {
            return 0;
        }
        let tasks: Vec<_> = self
            .table
            .lock()
            .open
            .values()
            .filter_map(|(_, task)| task.clone())
            .collect();
        for task in &tasks {
            task.abort();
        }
        self.all_closed().await;
        tasks.len()
    }

    async fn all_closed(&self) {
        loop {
            let closed = self.closed.notified();
            if self.len() == 0 {
                return;
            }
            closed.await;
        }
    }
}

impl Seat {
    pub fn id(&self) -> u64 {
        self.id
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Timeouts = Timeouts {
        head: Duration::from_millis(10),
        idle: Duration::from_millis(100),
        body: Duration::from_millis(50),
    };

    #[test]
    fn silence_is_judged_by_what_is_awaited() {
        let state = ConnectionState::default();
        state.head_started(1);
        assert_eq!(state.verdict(5, &LIMITS), None);
        assert_eq!(state.verdict(12, &LIMITS), Some(Some(Rejection::SlowHead)));
        state.request_started();
        assert_eq!(state.verdict(5_000, &LIMITS), None);
        state.write_blocked(5_000);
        assert_eq!(state.verdict(5_051, &LIMITS), Some(Some(Rejection::SlowReader)));
        state.write_moved();
        state.answer_given(5_200);
        state.answer_given(5_210);
        assert_eq!(state.verdict(5_260, &LIMITS), None);
        assert_eq!(state.verdict(5_261, &LIMITS), Some(Some(Rejection::SlowReader)));
        state.answer_taken(5_261);
        assert_eq!(state.verdict(5_311, &LIMITS), None);
        state.answer_taken(5_270);
        assert_eq!(state.verdict(5_400, &LIMITS), None);
        state.request_ended(6_000);
        assert_eq!(state.verdict(6_100, &LIMITS), None);
        assert_eq!(state.verdict(6_101, &LIMITS), Some(None));
    }
}
