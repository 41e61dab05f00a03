//! The committer: one thread through which every commit goes, in groups that share one log frame and one sync.
//!
//! Serial by construction: guards are checked in the order of arrival against the engine and the group's overlay. A group
//! is whatever waits while the one before it is being synced, so it grows with the load and costs an idle gateway
//! nothing.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::group::{Base, Group, validate};
use super::log::{AppendError, Effects, Log};
use super::metrics::KvMetrics;
use super::{CommitError, Durability, Mutation};
use crate::ids::Sequence;
use crate::limits::{
    COMMIT_GROUP_BYTES_MAX, COMMIT_GROUP_MUTATIONS_MAX, COMMIT_QUEUE_BYTES_MAX, COMMIT_QUEUE_MAX, KIB,
};
use crate::priority;

/// How long the queue stays empty after a synced group before a mark is written.
const IDLE_BEFORE_MARK: Duration = Duration::from_millis(5);
/// Permits, of one KiB each, that a mutation takes at least, so that the queue's count is bounded too.
const PERMITS_MIN: usize = COMMIT_QUEUE_BYTES_MAX / KIB / COMMIT_QUEUE_MAX;

/// What the committer writes to.
pub(super) trait Engine: Base + Send + 'static {
    /// Applies the effects atomically and records that all up to `last` is applied. Not durable.
    fn apply(&self, effects: Effects<'_>, last: Sequence) -> Result<(), String>;
}

struct Request {
    mutation: Mutation,
    bytes: usize,
    queued: Instant,
    answer: oneshot::Sender<Result<Sequence, CommitError>>,
    _place: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Request>,
    is_parked: bool,
    is_closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    places: Arc<Semaphore>,
    /// Why no commit is taken any more.
    poison: OnceLock<String>,
    metrics: Arc<KvMetrics>,
}

impl Shared {
    /// After a failed write or sync nobody knows what the file holds: only a restart, which reads it back, may go on.
    fn poison(&self, why: &str) {
        tracing::error!(why, "the metadata store takes no more writes until a restart");
        self.metrics.is_poisoned.set(1);
        let _earlier = self.poison.set(why.to_owned());
    }
}

enum Work {
    Group,
    /// The queue has been empty for a while.
    Idle,
    Closed,
}

/// The queue's end that callers hold.
pub(super) struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    pub fn start<E: Engine + Sync>(engine: Arc<E>, log: Log, metrics: Arc<KvMetrics>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            places: Arc::new(Semaphore::new(COMMIT_QUEUE_BYTES_MAX / KIB)),
            poison: OnceLock::new(),
            metrics,
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            engine,
            log,
        };
        let thread = std::thread::Builder::new()
            .name("cairn-kv-commit".to_owned())
            .spawn(move || {
                priority::answer_fast();
                worker.run();
            })?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        let bytes = validate(&mutation)?;
        let closed = || CommitError::Unavailable("the store is shutting down".to_owned());
        if let Some(why) = self.shared.poison.get() {
            return Err(CommitError::Unavailable(why.clone()));
        }
        let permits = (bytes / KIB).clamp(PERMITS_MIN, COMMIT_QUEUE_BYTES_MAX / KIB);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.shared.places)
            .acquire_many_owned(permits)
            .await
            .map_err(|_| closed())?;
        let (answer, outcome) = oneshot::channel();
        let request = Request {
            mutation,
            bytes,
            queued: Instant::now(),
            answer,
            _place: place,
        };
        {
            let mut queue = self.shared.queue.lock();
            if queue.is_closed {
                return Err(closed());
            }
            queue.waiting.push_back(request);
            if queue.is_parked {
                queue.is_parked = false;
                self.shared.wake.notify_one();
            }
        }
        outcome
            .await
            .unwrap_or_else(|_| Err(CommitError::Unknown("the committer stopped".to_owned())))
    }

    pub fn health(&self) -> Result<(), String> {
        self.shared.poison.get().map_or(Ok(()), |why| Err(why.clone()))
    }

    /// Takes no more mutations; those that wait are still committed.
    pub fn close(&self) {
        self.shared.queue.lock().is_closed = true;
        self.shared.wake.notify_one();
    }

    /// Closes and waits for the thread. Blocks.
    pub fn join(&self) {
        self.close();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the committer panicked");
        }
    }
}

struct Worker<E: Engine> {
    shared: Arc<Shared>,
    engine: Arc<E>,
    log: Log,
}

impl<E: Engine + Sync> Worker<E> {
    fn run(mut self) {
        let _close = CloseOnExit(Arc::clone(&self.shared));
        let mut group = Vec::new();
        loop {
            match self.take(&mut group) {
                Work::Group => self.commit(std::mem::take(&mut group)),
                Work::Idle => self.mark(),
                Work::Closed => break,
            }
        }
        if self.log.wants_mark() && self.shared.poison.get().is_none() {
            self.mark();
        }
    }

    /// Moves the next group's requests into `group`; waits for the first.
    fn take(&self, group: &mut Vec<Request>) -> Work {
        let wants_mark = self.log.wants_mark() && self.shared.poison.get().is_none();
        let mut queue = self.shared.queue.lock();
        while queue.waiting.is_empty() {
            if queue.is_closed {
                return Work::Closed;
            }
            queue.is_parked = true;
            if !wants_mark {
                self.shared.wake.wait(&mut queue);
            } else if self.shared.wake.wait_for(&mut queue, IDLE_BEFORE_MARK).timed_out() && queue.waiting.is_empty() {
                queue.is_parked = false;
                return Work::Idle;
            }
        }
        queue.is_parked = false;
        let mut bytes = 0;
        while bytes < COMMIT_GROUP_BYTES_MAX && group.len() < COMMIT_GROUP_MUTATIONS_MAX {
            let Some(request) = queue.waiting.pop_front() else {
                break;
            };
            bytes += request.bytes;
            group.push(request);
        }
        Work::Group
    }

    fn commit(&mut self, requests: Vec<Request>) {
        let metrics = Arc::clone(&self.shared.metrics);
        if let Some(oldest) = requests.first() {
            metrics.queue_seconds.observe(oldest.queued.elapsed().as_secs_f64());
        }
        let mut group = Group::default();
        let mut next = Sequence(self.log.last().0 + 1);
        let mut is_synced = false;
        let mut count = 0;
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let durability = request.mutation.durability;
            let outcome = match self.shared.poison.get() {
                Some(why) => Err(CommitError::Unavailable(why.clone())),
                None => group.admit(&*self.engine, request.mutation, next).map(|()| next),
            };
            match &outcome {
                Ok(_) => {
                    next.0 += 1;
                    count += 1;
                    is_synced |= durability == Durability::Synced;
                }
                Err(CommitError::Conflict { .. }) => metrics.conflicts.inc(),
                Err(_) => {}
            }
            answers.push((request.answer, outcome, request._place));
        }
        let written = if count == 0 {
            Ok(())
        } else {
            self.write(&group, count, is_synced)
        };
        metrics.group_mutations.observe(f64::from(count));
        if let Err(WriteError::Unknown(why)) = &written {
            self.shared.poison(why);
        }
        for (answer, outcome, _place) in answers {
            // A conflict may be one with a mutation of this group.
            let outcome = match (outcome, &written) {
                (Ok(_) | Err(CommitError::Conflict { .. }), Err(WriteError::Unknown(why))) => {
                    Err(CommitError::Unknown(why.clone()))
                }
                (Ok(_) | Err(CommitError::Conflict { .. }), Err(WriteError::Nothing(why))) => {
                    Err(CommitError::Unavailable(why.clone()))
                }
                (outcome, _) => outcome,
            };
            // A caller that went away is no error: what it asked for is done.
            let _gone = answer.send(outcome);
        }
    }

    /// Logs, syncs and applies the group.
    fn write(&mut self, group: &Group, count: u32, is_synced: bool) -> Result<(), WriteError> {
        self.log.start_frame();
        for (key, value) in group.effects() {
            self.log.push(key, value);
        }
        self.log.append(count)?;
        if is_synced {
            self.log
                .sync()
                .map_err(|error| WriteError::Unknown(format!("syncing the commit log failed: {error}")))?;
        }
        let applied = self.engine.apply(self.log.appended(), self.log.last());
        applied.map_err(WriteError::Unknown)
    }

    fn mark(&mut self) {
        if let Err(error) = self.log.mark() {
            self.shared
                .poison(&format!("writing a mark to the commit log failed: {error}"));
        }
    }
}

/// Why a group was not written.
enum WriteError {
    /// Nothing of it was, and nothing of it will be there.
    Nothing(String),
    /// It is unknown what of it will be there after a restart.
    Unknown(String),
}

impl From<AppendError> for WriteError {
    fn from(error: AppendError) -> Self {
        let why = error.to_string();
        match error {
            AppendError::NoFile(_) => Self::Nothing(why),
            AppendError::Failed(_) => Self::Unknown(why),
        }
    }
}

/// Lets nobody wait for a committer that is gone, even if it panicked.
struct CloseOnExit(Arc<Shared>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the committer panicked");
        }
        let mut queue = self.0.queue.lock();
        queue.is_closed = true;
        queue.waiting.clear();
        self.0.places.close();
    }
}
