//! What waits to be hashed by one thread.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use md5_many::Md5State;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::limits::{KIB, MIB};

/// Streams that are hashed together: the lanes of AVX2. More than this many are taken if they wait.
pub const LANES: usize = 8;
/// Streams of one round.
const ROUND_STREAMS_MAX: usize = 16;
/// Bytes of one stream in one round.
const SLICE_BYTES: usize = 128 * KIB;
/// A stream with less than this in its next piece does not shorten the round of the others.
const SLICE_BYTES_MIN: usize = 8 * KIB;
/// How long a stream that waits for its digest waits for company.
const FINISH_WAIT: Duration = Duration::from_micros(200);
/// How long data waits for company: about as long as its window takes to be stored, which the digest need not outrun.
const DATA_WAIT: Duration = Duration::from_millis(20);
/// Bytes of one stream that make it urgent: more than one window.
const STREAM_BYTES_URGENT: usize = 12 * MIB;
/// Bytes that wait before one thread; more wait for room.
const QUEUE_BYTES_MAX: usize = 24 * MIB;
/// What one permit stands for.
const PERMIT_BYTES: usize = 4 * KIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u64);

pub struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Inner {
    streams: HashMap<StreamId, Stream>,
    /// Streams with data or a digest to give, each once, in the order in which they got ready.
    ready: VecDeque<StreamId>,
    next: u64,
    closing: bool,
    /// There is no thread any more: callers hash in place.
    ended: bool,
    sleeping: bool,
    /// When the sleeping thread wakes by itself.
    alarm: Option<Instant>,
}

struct Stream {
    state: Md5State,
    data: VecDeque<(Bytes, Option<OwnedSemaphorePermit>)>,
    bytes: usize,
    answer: Option<oneshot::Sender<[u8; 16]>>,
    in_ready: bool,
    /// In a round: its state is with the thread.
    busy: bool,
    deadline: Instant,
}

/// A stream's share of a round.
pub struct Slice {
    pub id: StreamId,
    pub data: Bytes,
    /// Held until the bytes are hashed, if they are the last of their piece.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Streams to go on with, and streams to end.
#[derive(Default)]
pub struct Round {
    pub states: Vec<Md5State>,
    pub slices: Vec<Slice>,
    pub ending: Vec<Md5State>,
    pub answers: Vec<oneshot::Sender<[u8; 16]>>,
}

impl Round {
    pub fn clear(&mut self) {
        self.states.clear();
        self.slices.clear();
        self.ending.clear();
        self.answers.clear();
    }
}

impl Queue {
    pub fn new() -> Self {
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX / PERMIT_BYTES));
        Self {
            inner: Mutex::default(),
            wake: Condvar::new(),
            room,
        }
    }

    /// A queue without a thread.
    pub fn ended() -> Self {
        let queue = Self::new();
        queue.inner.lock().ended = true;
        queue
    }

    pub fn streams(&self) -> usize {
        self.inner.lock().streams.len()
    }

    pub fn register(&self) -> StreamId {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let id = StreamId(inner.next);
        let stream = Stream {
            state: Md5State::new(),
            data: VecDeque::new(),
            bytes: 0,
            answer: None,
            in_ready: false,
            busy: false,
            deadline: Instant::now(),
        };
        inner.streams.insert(id, stream);
        id
    }

    pub async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = bytes.min(QUEUE_BYTES_MAX / 2).div_ceil(PERMIT_BYTES) as u32;
        // The semaphore is never closed; without a permit the bytes would only be uncounted.
        Arc::clone(&self.room).acquire_many_owned(permits).await.ok()
    }

    pub fn push(&self, id: StreamId, data: Bytes, permit: Option<OwnedSemaphorePermit>) {
        let mut inner = self.inner.lock();
        let ended = inner.ended;
        let Some(stream) = inner.streams.get_mut(&id) else {
            return;
        };
        if ended {
            stream.state.update(&data);
            return;
        }
        if stream.data.is_empty() {
            stream.deadline = Instant::now() + DATA_WAIT;
        }
        stream.bytes += data.len();
        stream.data.push_back((data, permit));
        if stream.bytes >= STREAM_BYTES_URGENT {
            stream.deadline = Instant::now();
        }
        self.make_ready(&mut inner, id);
    }

    pub fn finish(&self, id: StreamId, answer: oneshot::Sender<[u8; 16]>) {
        let mut inner = self.inner.lock();
        if inner.ended {
            if let Some(stream) = inner.streams.remove(&id) {
                // Nobody waits any more: the upload was given up.
                let _ = answer.send(stream.state.finalize());
            }
            return;
        }
        let Some(stream) = inner.streams.get_mut(&id) else {
            return;
        };
        stream.answer = Some(answer);
        stream.deadline = Instant::now() + FINISH_WAIT;
        self.make_ready(&mut inner, id);
    }

    /// Forgets a stream unless its digest is on the way.
    pub fn forget(&self, id: StreamId) {
        let mut inner = self.inner.lock();
        if inner.streams.get(&id).is_some_and(|stream| stream.answer.is_none()) {
            inner.streams.remove(&id);
            if inner.sleeping {
                self.wake.notify_one();
            }
        }
    }

    fn make_ready(&self, inner: &mut Inner, id: StreamId) {
        let Some(stream) = inner.streams.get_mut(&id) else {
            return;
        };
        if !stream.in_ready && !stream.busy {
            stream.in_ready = true;
            inner.ready.push_back(id);
        }
        // Most pushes change nothing for a sleeping thread: it wakes by itself at the nearest deadline.
        let now = Instant::now();
        let due = inner.wait(now).map(|wait| now + wait);
        if inner.sleeping && due.is_some_and(|due| inner.alarm.is_none_or(|alarm| due < alarm)) {
            self.wake.notify_one();
        }
    }

    pub fn close(&self) {
        self.inner.lock().closing = true;
        self.wake.notify_all();
    }

    /// Waits for a round's worth of work; `false` when the queue is closed and empty.
    pub fn next_round(&self, round: &mut Round) -> bool {
        let mut inner = self.inner.lock();
        loop {
            let now = Instant::now();
            match inner.wait(now) {
                Some(wait) if wait.is_zero() => {
                    inner.fill(round);
                    return true;
                }
                None if inner.closing => {
                    inner.ended = true;
                    return false;
                }
                wait => {
                    inner.sleeping = true;
                    inner.alarm = wait.map(|wait| now + wait);
                    match wait {
                        Some(wait) => drop(self.wake.wait_for(&mut inner, wait)),
                        None => self.wake.wait(&mut inner),
                    }
                    inner.sleeping = false;
                }
            }
        }
    }

    /// Takes the states of a finished round back.
    pub fn end_round(&self, round: &Round) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        for (slice, state) in round.slices.iter().zip(&round.states) {
            let Some(stream) = inner.streams.get_mut(&slice.id) else {
                continue;
            };
            stream.state = *state;
            stream.busy = false;
            if !stream.in_ready && (!stream.data.is_empty() || stream.answer.is_some()) {
                stream.in_ready = true;
                inner.ready.push_back(slice.id);
            }
        }
    }
}

impl Inner {
    /// How long to wait for more company; `None` when nothing is ready at all.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let full = self.ready.len() >= LANES.min(self.streams.len());
        let due = || {
            self.ready
                .iter()
                .filter_map(|id| self.streams.get(id))
                .map(|stream| stream.deadline)
                .min()
        };
        match self.ready.is_empty() {
            true => None,
            false if full || self.closing => Some(Duration::ZERO),
            false => Some(due().map_or(Duration::ZERO, |due| due.saturating_duration_since(now))),
        }
    }

    fn fill(&mut self, round: &mut Round) {
        let slice_bytes = self.slice_bytes();
        while round.slices.len() < ROUND_STREAMS_MAX
            && let Some(id) = self.ready.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.in_ready = false;
            let Some((data, _)) = stream.data.front_mut() else {
                self.end(id, round);
                continue;
            };
            let now = data.split_to(data.len().min(slice_bytes));
            let permit = if data.is_empty() {
                stream.data.pop_front().and_then(|(_, permit)| permit)
            } else {
                None
            };
            stream.bytes -= now.len();
            stream.busy = true;
            round.states.push(stream.state);
            round.slices.push(Slice {
                id,
                data: now,
                _permit: permit,
            });
        }
    }

    /// Lanes of equal length are hashed together to their end: the shortest piece sets the round's length.
    fn slice_bytes(&self) -> usize {
        let round = self.ready.iter().take(ROUND_STREAMS_MAX);
        let pieces = round.filter_map(|id| Some(self.streams.get(id)?.data.front()?.0.len()));
        pieces
            .filter(|bytes| *bytes >= SLICE_BYTES_MIN)
            .min()
            .unwrap_or(SLICE_BYTES)
            .min(SLICE_BYTES)
    }

    fn end(&mut self, id: StreamId, round: &mut Round) {
        if let Some(stream) = self.streams.remove(&id)
            && let Some(answer) = stream.answer
        {
            round.ending.push(stream.state);
            round.answers.push(answer);
        }
    }
}
