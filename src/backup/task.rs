//! The backup's task: begins or resumes a run, ships every second, and breaks a run off that nobody takes.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checkpoint::Manifest;
use super::lineage::Lineage;
use super::metrics::BackupMetrics;
use super::names::{self, CHECKPOINTS, CheckpointName, INDEX, Id, LOG, SegmentName};
use super::packs::{Inventory, Leftovers};
use super::points::Point;
use super::progress::{BackupStatus, Progress, State, told};
use super::ship::{Marks, Run};
use super::vault::{Patience, Vault, VaultError};
use super::{BackupOptions, DELTA_BYTES};
use crate::blob::Blobs;
use crate::chunk::ChunkStore;
use crate::clock::{Clock, Timestamp};
use crate::ids::IdSource;
use crate::kv::log::{LogTail, TailError, end_of};
use crate::kv::rocks::RocksKv;
use crate::kv::{CommitError, ReadError};

/// Between two looks at the log.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Between two looks whether there is enough to be shipped at once.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After what went wrong here, before the next try.
const RETRY: Duration = Duration::from_secs(2);
/// What the last shipment gets at the end of the gateway.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Bytes of packs that may be missing when a new run begins.
const FEW_BYTES: u64 = 64 << 20;

/// Why shipping stopped: the run is over, or cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error("the commit log ends before what is durable of it")]
    NoLog,
    #[error("the metadata store cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("the metadata store takes no commit: {0}")]
    Commit(#[from] CommitError),
    #[error("the rows are not as far as the log")]
    Early,
    #[error("the gateway is shutting down")]
    Stopped,
}

/// What is backed up, and what it takes.
pub struct Sources {
    pub kv: Arc<RocksKv>,
    /// That of `kv`.
    pub tail: LogTail,
    pub chunks: Arc<ChunkStore>,
    pub clock: Clock,
    pub ids: Arc<IdSource>,
}

pub struct Backup {
    pub(super) sources: Sources,
    pub(super) options: BackupOptions,
    /// Where it goes, for people.
    url: String,
    pub(super) lineage: Lineage,
    /// All of the backup.
    pub(super) whole: Vault,
    /// This generation.
    pub(super) vault: Vault,
    pub(super) marks: Marks,
    pub(super) progress: Progress,
    pub(super) leftovers: Leftovers,
}

/// The running task.
pub struct BackupHandle {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl BackupHandle {
    /// Ships what is left, for some seconds at the most, and ends.
    pub async fn stop(self) {
        self.cancel.cancel();
        // It ends by returning; a panic in it has been reported by the runtime.
        drop(self.task.await);
    }

    /// Ends as a killed process would.
    #[cfg(test)]
    pub async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

impl Backup {
    pub fn new(
        sources: Sources,
        blobs: Arc<dyn Blobs>,
        url: String,
        lineage: Lineage,
        options: BackupOptions,
        registry: &Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let metrics = BackupMetrics::new(registry)?;
        let whole = Vault::new(blobs, Patience::Endless, options.attempt, Some(metrics.clone()));
        Ok(Arc::new(Self {
            vault: whole.below(names::root(lineage.store, lineage.generation)),
            progress: Progress::new(metrics, sources.clock.now()),
            whole,
            lineage,
            url,
            options,
            marks: Marks::default(),
            leftovers: Leftovers::default(),
            sources,
        }))
    }

    pub fn start(self: &Arc<Self>) -> BackupHandle {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(self).run(cancel.clone()));
        BackupHandle { cancel, task }
    }

    pub fn status(&self) -> BackupStatus {
        let now = self.sources.clock.now();
        BackupStatus {
            url: Some(self.url.clone()),
            store: self.lineage.store.to_string(),
            generation: self.lineage.generation.to_string(),
            held_log_bytes: self.sources.tail.held_bytes(),
            trouble: self.vault.trouble(),
            ..self.progress.status(now, self.sources.tail.durable().sequence)
        }
    }

    /// What is wrong with the backup, for people; `None`: nothing.
    pub fn degraded(&self) -> Option<String> {
        self.progress.degraded(self.sources.clock.now(), self.vault.trouble())
    }

    async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let late = async {
            cancel.cancelled().await;
            tokio::time::sleep(STOP_WAIT).await;
        };
        let mut late = std::pin::pin!(late);
        let mut may_resume = true;
        loop {
            let why = tokio::select! {
                () = &mut late => return,
                held = self.overrun() => format!("{held} bytes of the commit log are waiting, more than backup.log_max"),
                followed = self.follow(&cancel, may_resume) => match followed {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                },
            };
            if cancel.is_cancelled() {
                return;
            }
            may_resume = false;
            self.sources.tail.release();
            self.marks.clear();
            tracing::error!(
                why,
                "the backup's log breaks off: a new one begins with a new checkpoint"
            );
            self.progress.broke(why);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Looks at the log until more of it is held than is allowed.
    async fn overrun(&self) -> u64 {
        loop {
            self.sample();
            let held = self.sources.tail.held_bytes();
            if held > self.options.log_max_bytes {
                return held;
            }
            tokio::time::sleep(SAMPLE_EVERY).await;
        }
    }

    /// Ships until the task is cancelled or the run cannot go on.
    async fn follow(self: &Arc<Self>, cancel: &CancellationToken, may_resume: bool) -> Result<(), Interrupted> {
        self.enter().await?;
        let mut inventory = Inventory::load(&self.vault).await?;
        let resumed = if may_resume { self.resume().await? } else { None };
        let mut run = match resumed {
            Some(run) => run,
            None => self.begin(&mut inventory).await?,
        };
        let mut checkpoints = JoinSet::new();
        let mut tidying = JoinSet::new();
        tidying.spawn(Arc::clone(self).tidy_until_dropped());
        let mut not_before = Instant::now();
        loop {
            // Asked before the pass, so that what was acknowledged before the end is in the last one.
            let is_last = cancel.is_cancelled();
            let begun = Instant::now();
            self.pass(&mut run, &mut inventory).await?;
            if is_last {
                return Ok(());
            }
            while let Some(done) = checkpoints.try_join_next() {
                match done {
                    Ok(Ok((point, offset))) => {
                        run.checkpoint_offset = Some(offset);
                        self.progress.checkpointed(point);
                    }
                    Ok(Err(error)) => self.checkpoint_failed(&error, &mut not_before),
                    Err(error) => tracing::error!(%error, "a checkpoint was not finished"),
                }
            }
            if checkpoints.is_empty() && Instant::now() >= not_before && self.wants_checkpoint(&run) {
                let (this, id, from) = (Arc::clone(self), run.id, run.position);
                let take = async move { Ok::<_, Interrupted>((this.checkpoint(id, from).await?, from.offset)) };
                checkpoints.spawn(take);
            }
            self.rest(&run, begun, cancel).await;
        }
    }

    /// Writes the generation into the backup's index, if it is not there.
    async fn enter(&self) -> Result<(), VaultError> {
        let (store, generation) = (self.lineage.store, self.lineage.generation);
        let folder = format!("{INDEX}{store}/");
        let known = self.whole.all(&folder, |blob| names::parse_index(&blob.name)).await?;
        if !known.contains(&(store, generation)) {
            // Its name says it all: the bytes are for people, and may be written twice.
            let begun = told(self.sources.clock.now()).unwrap_or_default();
            self.whole
                .put(|_| names::index(store, generation), begun.into())
                .await?;
        }
        Ok(())
    }

    fn checkpoint_failed(&self, error: &Interrupted, not_before: &mut Instant) {
        if !matches!(error, Interrupted::Early) {
            tracing::warn!(%error, "a checkpoint was not finished and is tried again");
            *not_before = Instant::now() + RETRY;
        }
    }

    fn wants_checkpoint(&self, run: &Run) -> bool {
        run.checkpoint_offset
            .is_none_or(|offset| run.position.offset.saturating_sub(offset) >= self.options.checkpoint_log_bytes)
    }

    /// Waits until it is time to ship again.
    async fn rest(&self, run: &Run, begun: Instant, cancel: &CancellationToken) {
        while begun.elapsed() < self.options.ship_every && !cancel.is_cancelled() {
            let waiting = self.sources.tail.durable().offset.saturating_sub(run.position.offset);
            if waiting >= DELTA_BYTES as u64 {
                return;
            }
            tokio::time::sleep(LOOK_EVERY.min(self.options.ship_every)).await;
        }
    }

    /// The run of the last checkpoint, if the log here goes on where it ends.
    async fn resume(&self) -> Result<Option<Run>, Interrupted> {
        let checkpoints = self
            .vault
            .all(CHECKPOINTS, |blob| CheckpointName::parse(&blob.name))
            .await?;
        let Some(name) = checkpoints.into_iter().max_by_key(|name| name.checkpoint) else {
            return Ok(None);
        };
        let manifest = match Manifest::load(&self.vault, &name).await {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::error!(%error, "the last checkpoint of the backup cannot be read");
                return Ok(None);
            }
        };
        let Some(id) = manifest.run() else { return Ok(None) };
        let (mut last, mut point) = (None::<SegmentName>, None);
        let folder = format!("{LOG}{id}/");
        let segments = self.vault.all(&folder, |blob| {
            let segment = SegmentName::parse(&blob.name)?;
            if last.is_none_or(|last| last.end < segment.end) {
                last = Some(segment);
            }
            if segment.is_point && segment.sequence >= name.sequence {
                let (sequence, time) = (segment.sequence, segment.time);
                point = Some(Point { sequence, time });
            }
            None::<()>
        });
        segments.await?;
        let Some(last) = last else { return Ok(None) };
        let mut bytes = match self.vault.get(&last.to_string(), last.digest).await {
            Ok(bytes) => bytes.to_vec(),
            Err(error) => {
                tracing::warn!(%error, "the end of the backup's log cannot be read");
                return Ok(None);
            }
        };
        let tail = self.sources.tail.clone();
        let find = move || {
            let position = end_of(&mut bytes, last.start).ok()?;
            tail.hold_from(position.offset);
            tail.goes_on(position).ok().map(|()| position)
        };
        let found = tokio::task::spawn_blocking(find)
            .await
            .map_err(|_| Interrupted::Stopped)?;
        let Some(position) = found else {
            tracing::warn!(run = %id, "the commit log does not go on where the backup's ends: a new run begins");
            return Ok(None);
        };
        let checkpoint = Point {
            sequence: name.sequence,
            time: name.time,
        };
        self.progress.resumed(checkpoint, point);
        Ok(Some(Run {
            id,
            position,
            points_from: position.sequence,
            checkpoint_offset: Some(manifest.log.offset),
        }))
    }

    /// Begins a new run once the backup has nearly all of the packs: until then no log is kept for it.
    async fn begin(&self, inventory: &mut Inventory) -> Result<Run, Interrupted> {
        self.sources.tail.release();
        self.progress.set_state(State::Copying);
        while self.ship_packs(inventory).await?.pending_bytes > FEW_BYTES {}
        let position = self.sources.tail.durable();
        self.sources.tail.hold_from(position.offset);
        self.marks.clear();
        self.progress.began();
        Ok(Run {
            id: Id(self.sources.ids.next()),
            position,
            points_from: position.sequence,
            checkpoint_offset: None,
        })
    }

    /// What is older than this is not restored any more. The window reaches back from what is restorable now: a backup that
    /// is behind gives nothing up that its last point needs.
    pub(super) fn horizon(&self) -> Timestamp {
        let window_ms = u64::try_from(self.options.window.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_unix_ms(self.progress.settled_at().unix_ms().saturating_sub(window_ms))
    }
}
