//! How the backup stands: what a restore would bring back, and what is in the way.

use std::fmt;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use super::metrics::BackupMetrics;
use super::points::Point;
use crate::clock::Timestamp;
use crate::ids::Sequence;

/// Behind by more than this, the gateway says that it is degraded.
const BEHIND_MS: u64 = 60_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Starting,
    /// The packs are being copied, for a new run.
    Copying,
    Following,
    /// The run broke off, and no new one has begun.
    Broken(String),
}

#[derive(Default)]
struct Inner {
    state: State,
    /// What a restore would bring back.
    restorable: Option<Point>,
    /// The last point of this run, which needs a checkpoint before it is of use.
    run_point: Option<Point>,
    has_checkpoint: bool,
    checkpoint: Option<Point>,
    /// All that was acknowledged before this is restorable.
    current_at: Timestamp,
    /// As `current_at`, as far as this process knows it.
    settled_at: Timestamp,
    pending_pack_bytes: u64,
    unreadable_packs: u64,
    breaks: u64,
}

impl Inner {
    fn settle(&mut self, point: Option<Point>) {
        if let Some(point) = point {
            self.current_at = self.current_at.max(point.time);
            self.settled_at = self.settled_at.max(point.time);
        }
    }
}

pub struct Progress {
    inner: Mutex<Inner>,
    shipped: watch::Sender<Sequence>,
    pub metrics: BackupMetrics,
}

impl Progress {
    pub fn new(metrics: BackupMetrics, now: Timestamp) -> Self {
        let inner = Inner {
            current_at: now,
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
            shipped: watch::Sender::new(Sequence(0)),
            metrics,
        }
    }

    pub fn set_state(&self, state: State) {
        self.inner.lock().state = state;
    }

    /// A run that was found in the backup goes on.
    pub fn resumed(&self, checkpoint: Point, last: Option<Point>) {
        let mut inner = self.inner.lock();
        inner.state = State::Following;
        inner.has_checkpoint = true;
        inner.checkpoint = Some(checkpoint);
        inner.run_point = last;
        inner.restorable = last.or(inner.restorable);
        inner.settle(last);
        self.tell(&inner);
    }

    /// A new run begins. What was restorable is so by the run before, until this one has a checkpoint.
    pub fn began(&self) {
        let mut inner = self.inner.lock();
        inner.state = State::Following;
        inner.has_checkpoint = false;
        inner.run_point = None;
        self.shipped.send_replace(Sequence(0));
    }

    pub fn broke(&self, why: String) {
        let mut inner = self.inner.lock();
        inner.state = State::Broken(why);
        inner.breaks += 1;
        self.metrics.breaks.inc();
    }

    /// The log has arrived up to a point, and all packs that it needs before.
    pub fn reached(&self, point: Point) {
        let mut inner = self.inner.lock();
        inner.run_point = Some(point);
        if inner.has_checkpoint {
            inner.restorable = Some(point);
            inner.settle(Some(point));
        }
        self.tell(&inner);
        self.shipped.send_replace(point.sequence);
    }

    pub fn checkpointed(&self, checkpoint: Point) {
        let mut inner = self.inner.lock();
        inner.has_checkpoint = true;
        inner.checkpoint = Some(checkpoint);
        inner.restorable = inner.run_point.or(inner.restorable);
        let point = inner.run_point;
        inner.settle(point);
        self.tell(&inner);
        self.metrics.checkpoints.inc();
    }

    /// Waits until a point of the run at or behind `sequence` is reached.
    pub async fn reaches(&self, sequence: Sequence) {
        let mut shipped = self.shipped.subscribe();
        // The sender lives as long as `self`.
        drop(shipped.wait_for(|reached| *reached >= sequence).await);
    }

    /// All that was acknowledged before this is restorable; 0: nothing is known to be.
    pub fn settled_at(&self) -> Timestamp {
        self.inner.lock().settled_at
    }

    pub fn run_point(&self) -> Option<Point> {
        self.inner.lock().run_point
    }

    pub fn packs(&self, pending_bytes: u64, unreadable: u64) {
        let mut inner = self.inner.lock();
        (inner.pending_pack_bytes, inner.unreadable_packs) = (pending_bytes, unreadable);
        self.metrics.pending_pack_bytes.set(whole(pending_bytes));
        self.metrics.unreadable_packs.set(whole(unreadable));
    }

    /// Looks at the time: the log is durable up to `durable`, and `held_bytes` of it are kept for the backup.
    pub fn sampled(&self, now: Timestamp, durable: Sequence, held_bytes: u64) {
        let mut inner = self.inner.lock();
        if inner.restorable.is_some_and(|point| point.sequence >= durable) {
            (inner.current_at, inner.settled_at) = (now, now);
        }
        let age_ms = now.unix_ms().saturating_sub(inner.current_at.unix_ms());
        self.metrics.restorable_age_seconds.set(age_ms as f64 / 1000.0);
        self.metrics.held_log_bytes.set(whole(held_bytes));
    }

    fn tell(&self, inner: &Inner) {
        if let Some(point) = inner.restorable {
            self.metrics.restorable_sequence.set(whole(point.sequence.0));
        }
    }

    /// What is wrong, for people; `None`: nothing.
    pub fn degraded(&self, now: Timestamp, trouble: Option<String>) -> Option<String> {
        let inner = self.inner.lock();
        let age_ms = now.unix_ms().saturating_sub(inner.current_at.unix_ms());
        let why = match (&inner.state, trouble) {
            (State::Broken(why), None) => format!(": it broke off and begins anew: {why}"),
            (State::Broken(why), Some(trouble)) => format!(": it broke off: {why}; {trouble}"),
            (State::Copying, None) => format!(": {} bytes of packs are to be copied", inner.pending_pack_bytes),
            (_, Some(trouble)) => format!(": {trouble}"),
            (_, None) => String::new(),
        };
        let is_broken = matches!(inner.state, State::Broken(_));
        (is_broken || age_ms > BEHIND_MS).then(|| format!("the backup is {} s behind{why}", age_ms / 1000))
    }

    /// The part of the status that is known here.
    pub fn status(&self, now: Timestamp, durable: Sequence) -> BackupStatus {
        let inner = self.inner.lock();
        let (state, why) = match &inner.state {
            State::Starting => ("starting", None),
            State::Copying => ("copying", None),
            State::Following => ("following", None),
            State::Broken(why) => ("broken", Some(why.clone())),
        };
        BackupStatus {
            state: state.to_owned(),
            broken: why,
            restorable_seq: inner.restorable.map(|point| point.sequence.0),
            restorable_time: inner.restorable.and_then(|point| told(point.time)),
            restorable_age_ms: now.unix_ms().saturating_sub(inner.current_at.unix_ms()),
            durable_seq: durable.0,
            checkpoint_seq: inner.checkpoint.map(|point| point.sequence.0),
            checkpoint_time: inner.checkpoint.and_then(|point| told(point.time)),
            pending_pack_bytes: inner.pending_pack_bytes,
            unreadable_packs: inner.unreadable_packs,
            breaks: inner.breaks,
            ..BackupStatus::default()
        }
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A time as people write it, RFC 3339.
pub fn told(time: Timestamp) -> Option<String> {
    let nanos = i128::from(time.unix_ms()).checked_mul(1_000_000)?;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()?
        .format(&Rfc3339)
        .ok()
}

/// How a backup stands, as `cairn backup status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// Where it goes; `None`: no backup is set up, and the rest says nothing.
    pub url: Option<String>,
    pub store: String,
    pub generation: String,
    /// `starting`, `copying` (packs, before a new run), `following` or `broken`.
    pub state: String,
    /// Why the last run broke off, until another one begins.
    pub broken: Option<String>,
    /// The last commit that a restore would bring back, and when it had been made.
    pub restorable_seq: Option<u64>,
    pub restorable_time: Option<String>,
    /// Age of the oldest acknowledged change that a restore would not bring back; 0: there is none.
    pub restorable_age_ms: u64,
    /// The last acknowledged commit.
    pub durable_seq: u64,
    pub checkpoint_seq: Option<u64>,
    pub checkpoint_time: Option<String>,
    pub held_log_bytes: u64,
    pub pending_pack_bytes: u64,
    pub unreadable_packs: u64,
    /// Since the gateway started.
    pub breaks: u64,
    /// What the place for the backup answered last, if that was an error.
    pub trouble: Option<String>,
}

impl fmt::Display for BackupStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(url) = &self.url else {
            return writeln!(f, "no backup is set up: see backup.url");
        };
        let number = |number: Option<u64>| number.map_or("none".to_owned(), |number| number.to_string());
        let at = |time: &Option<String>| time.as_ref().map_or(String::new(), |time| format!(", {time}"));
        writeln!(f, "backup      {url}")?;
        writeln!(f, "store       {}, generation {}", self.store, self.generation)?;
        writeln!(f, "state       {}", self.state)?;
        writeln!(
            f,
            "restorable  {}{}",
            number(self.restorable_seq),
            at(&self.restorable_time)
        )?;
        writeln!(
            f,
            "behind      {:.1} s, {} commits",
            self.restorable_age_ms as f64 / 1000.0,
            self.durable_seq.saturating_sub(self.restorable_seq.unwrap_or(0))
        )?;
        writeln!(
            f,
            "checkpoint  {}{}",
            number(self.checkpoint_seq),
            at(&self.checkpoint_time)
        )?;
        writeln!(
            f,
            "to come     {} bytes of packs, {} of the log",
            self.pending_pack_bytes, self.held_log_bytes
        )?;
        if self.unreadable_packs > 0 {
            writeln!(f, "unreadable  {} packs", self.unreadable_packs)?;
        }
        for why in self.broken.iter().chain(&self.trouble) {
            writeln!(f, "trouble     {why}")?;
        }
        Ok(())
    }
}
