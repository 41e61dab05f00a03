//! A metadata store that forgets at a crash what it had not synced, and fails in between.
//!
//! As the real engine does it: one committer takes groups of what waits, checks them in order, appends them to a log, syncs
//! the log if one of them asks for it, then shows and answers them. The log is all that is left after a crash: what was
//! synced, and of the rest some first part.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn::ids::Sequence;
use cairn::kv::memory::MemoryKv;
use cairn::kv::{CommitError, Durability, Effect, Kv, Mutation, ReadError, Row, Scan, Value};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::world::World;

/// The file of the log: the commits of all processes, in order.
#[derive(Default)]
pub struct Log {
    commits: Vec<Mutation>,
    synced: usize,
}

impl Log {
    /// What a crash leaves of it.
    pub fn crash(&mut self, world: &World) {
        let unsynced = self.commits.len() - self.synced;
        let kept = self.synced + world.below(unsynced as u64 + 1) as usize;
        world.note(|| {
            format!(
                "kv: of {unsynced} commits that were not synced {} are left",
                kept - self.synced
            )
        });
        self.commits.truncate(kept);
        self.synced = kept;
    }
}

struct Waiting {
    mutation: Mutation,
    answer: oneshot::Sender<Result<Sequence, CommitError>>,
}

pub struct SimKv {
    world: Arc<World>,
    log: Arc<Mutex<Log>>,
    /// What readers see.
    shown: MemoryKv,
    /// What the log's end comes to; ahead of `shown` while a sync is under way.
    ahead: MemoryKv,
    queue: Mutex<VecDeque<Waiting>>,
    wake: Notify,
    /// A sync failed: nothing more is taken before a restart.
    poisoned: Mutex<bool>,
    pub failed: Notify,
}

fn now(kv: &MemoryKv, mutation: Mutation) -> Result<Sequence, CommitError> {
    let outcome = kv.commit(mutation).now_or_never();
    outcome.unwrap_or_else(|| Err(CommitError::Unavailable("memory does not wait".to_owned())))
}

impl SimKv {
    /// Replays the log, and commits until the runtime ends.
    pub fn open(world: &Arc<World>, log: &Arc<Mutex<Log>>) -> Arc<Self> {
        let (shown, ahead) = (MemoryKv::new(), MemoryKv::new());
        for mutation in &log.lock().commits {
            for kv in [&shown, &ahead] {
                if let Err(error) = now(kv, mutation.clone()) {
                    world.violated(format!("the log does not replay: {error}"));
                }
            }
        }
        let kv = Arc::new(Self {
            world: Arc::clone(world),
            log: Arc::clone(log),
            shown,
            ahead,
            queue: Mutex::default(),
            wake: Notify::new(),
            poisoned: Mutex::new(false),
            failed: Notify::new(),
        });
        tokio::spawn(Arc::clone(&kv).commit_groups());
        kv
    }

    async fn commit_groups(self: Arc<Self>) {
        loop {
            if self.queue.lock().is_empty() {
                self.wake.notified().await;
                continue;
            }
            self.world.pause(2).await;
            let group: Vec<Waiting> = {
                let mut queue = self.queue.lock();
                let count = 1 + self.world.below(queue.len() as u64) as usize;
                queue.drain(..count).collect()
            };
            self.commit_group(group).await;
        }
    }

    async fn commit_group(&self, group: Vec<Waiting>) {
        let plan = &self.world.plan.kv;
        if *self.poisoned.lock() {
            let refused = || CommitError::Unavailable("the log is poisoned".to_owned());
            group
                .into_iter()
                .for_each(|waiting| drop(waiting.answer.send(Err(refused()))));
            return;
        }
        let (mut taken, mut is_synced) = (Vec::new(), false);
        for Waiting { mutation, answer } in group {
            let outcome = now(&self.ahead, mutation.clone());
            self.world
                .event(|| format!("kv: {} -> {outcome:?}", told(&mutation)))
                .await;
            if outcome.is_ok() {
                is_synced |= mutation.durability == Durability::Synced;
                self.log.lock().commits.push(mutation.clone());
            }
            taken.push((mutation, answer, outcome));
        }
        if is_synced {
            let slow = if self.world.strikes(plan.slow) { 800 } else { 0 };
            self.world.pause(plan.sync_ms + slow).await;
            if self.world.strikes(plan.sync_fails) {
                self.world.event(|| "kv: the sync fails".to_owned()).await;
                *self.poisoned.lock() = true;
                for (_, answer, _) in taken {
                    let _ = answer.send(Err(CommitError::Unknown("the sync failed".to_owned())));
                }
                self.failed.notify_one();
                return;
            }
            self.world.event(|| "kv: synced".to_owned()).await;
            let mut log = self.log.lock();
            log.synced = log.commits.len();
        }
        for (mutation, answer, outcome) in taken {
            if outcome.is_ok() && now(&self.shown, mutation).ok() != outcome.as_ref().ok().copied() {
                self.world.violated("what is shown is not what was logged".to_owned());
            }
            // Who asked may have hung up.
            let _ = answer.send(outcome);
        }
    }

    pub fn is_poisoned(&self) -> bool {
        *self.poisoned.lock()
    }

    async fn before_read(&self, what: impl FnOnce() -> String) -> Result<(), ReadError> {
        if self.world.chance(300) {
            self.world.pause(1).await;
        }
        self.world.event(what).await;
        if self.world.strikes(self.world.plan.kv.unreadable) {
            return Err(ReadError::Unavailable("EIO".to_owned()));
        }
        Ok(())
    }

    /// All rows whose keys begin with `first`.
    pub async fn rows(&self, first: u8) -> Result<Vec<Row>, ReadError> {
        let scan = Scan {
            start: std::ops::Bound::Included(Bytes::copy_from_slice(&[first])),
            end: std::ops::Bound::Excluded(Bytes::copy_from_slice(&[first + 1])),
            limit: usize::MAX,
            direction: cairn::kv::Direction::Forward,
            fold: None,
        };
        self.shown.scan(scan).await
    }
}

/// A mutation as the trace has it.
fn told(mutation: &Mutation) -> String {
    use std::fmt::Write;
    let mut text = format!("{:?} {} guards", mutation.durability, mutation.guards.len());
    for effect in &mutation.effects {
        // Writing to a string does not fail.
        let _ = match effect {
            Effect::Put { key, value } => write!(text, " +{}={}", hex::encode(key), value.len()),
            Effect::Delete { key } => write!(text, " -{}", hex::encode(key)),
            Effect::Add { key, delta } => write!(text, " {}{delta:+}", hex::encode(key)),
        };
    }
    text
}

#[async_trait]
impl Kv for SimKv {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        self.before_read(|| format!("kv: get {}", hex::encode(key))).await?;
        self.shown.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        let first = || keys.first().map(hex::encode).unwrap_or_default();
        self.before_read(|| format!("kv: get {} of {}", keys.len(), first()))
            .await?;
        self.shown.get_many(keys).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        self.before_read(|| format!("kv: scan {:02x?}", scan.start)).await?;
        self.shown.scan(scan).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        self.before_read(|| "kv: snapshot".to_owned()).await?;
        self.shown.snapshot().await
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        let plan = &self.world.plan.kv;
        self.world
            .event(|| format!("kv: asked for {} effects", mutation.effects.len()))
            .await;
        // Others may come first, of those too who asked later.
        if self.world.chance(150) {
            self.world.pause(60).await;
        }
        if self.world.strikes(plan.refused) {
            return Err(CommitError::Unavailable("ENOSPC".to_owned()));
        }
        let is_unknown = self.world.strikes(plan.unknown);
        let unknown = || Err(CommitError::Unknown("the connection broke".to_owned()));
        if is_unknown && self.world.chance(500) {
            return unknown();
        }
        let (answer, answered) = oneshot::channel();
        self.queue.lock().push_back(Waiting { mutation, answer });
        self.wake.notify_one();
        if is_unknown {
            self.world.pause(5).await;
            return unknown();
        }
        let outcome = answered.await;
        let outcome = outcome.unwrap_or_else(|_| Err(CommitError::Unknown("the committer is gone".to_owned())));
        self.world.event(|| "kv: answers".to_owned()).await;
        outcome
    }
}
