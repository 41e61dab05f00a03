//! The embedded engine: RocksDB behind the committer and the commit log.
//!
//! RocksDB's own write-ahead log is off: it cannot tell a torn tail from a damaged commit. What its last flush does not
//! have, recovery replays from the commit log.

mod current;
mod deletions;
mod dump;
mod engine;
mod in_place;
mod load;
mod options;
mod row_cache;
mod snapshot;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

pub use dump::Dump;
pub use load::{LoadError, Loader};
pub use options::RocksOptions;

use self::deletions::Tidier;
use self::engine::{Database, FlushState, Miss, Reach};
use self::in_place::Gates;
use self::options::family_name;
use super::committer::{Committer, Engine};
use super::log::{Keeper, Log, LogError, LogFiles, LogTail, Recovered, recover};
use super::metrics::KvMetrics;
use super::range::{family_of, half_open};
use super::{CommitError, Family, Kv, Mutation, ReadError, Row, Scan, Value};
use crate::blob::local::sync_dir;
use crate::ids::Sequence;

/// Keys that one call reads in place; more go to the pool, so that no async thread is held up.
const KEYS_IN_PLACE_MAX: usize = 32;
/// Rows that one scan reads in place.
const ROWS_IN_PLACE_MAX: usize = 8;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("RocksDB: {0}")]
    Rocks(#[from] rocksdb::Error),
    #[error("the metadata store's files: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    #[error("opening the metadata store was interrupted")]
    Interrupted,
}

struct Threads {
    committer: Committer,
    keeper: Mutex<Keeper>,
    tidier: Mutex<Tidier>,
    database: Arc<Database>,
    tail: LogTail,
    is_stopped: AtomicBool,
}

impl Threads {
    /// Commits what waits, flushes, and ends all threads. Blocks.
    fn stop(&self) {
        self.committer.join();
        self.keeper.lock().stop();
        self.tidier.lock().stop();
        if let Err(error) = self.database.flush() {
            tracing::error!(%error, "RocksDB could not be flushed; the commit log has it all");
        }
        self.database.stop_background_work();
        self.is_stopped.store(true, Ordering::Release);
    }
}

pub struct RocksKv {
    threads: Arc<Threads>,
    database: Arc<Database>,
    reads: Arc<Semaphore>,
    gates: Arc<Gates>,
    metrics: Arc<KvMetrics>,
    reads_in_place: prometheus::IntCounter,
    reads_in_pool: prometheus::IntCounter,
}

impl RocksKv {
    /// Opens or creates the store, replaying the commit log. Needs a tokio runtime.
    pub async fn open(options: RocksOptions, registry: &prometheus::Registry) -> Result<Self, OpenError> {
        let metrics = Arc::new(KvMetrics::new(registry)?);
        let shared = Arc::clone(&metrics);
        let reads = Arc::new(Semaphore::new(options.read_threads.max(1)));
        let opened = tokio::task::spawn_blocking(move || open_blocking(&options, shared)).await;
        let threads = opened.map_err(|_| OpenError::Interrupted)??;
        Ok(Self {
            database: Arc::clone(&threads.database),
            threads: Arc::new(threads),
            reads,
            gates: Arc::default(),
            reads_in_place: metrics.reads.with_label_values(&["place"]),
            reads_in_pool: metrics.reads.with_label_values(&["pool"]),
            metrics,
        })
    }

    /// Takes no more commits, finishes those that wait, flushes and ends the threads. Reads are answered until the
    /// store is dropped.
    pub async fn shutdown(&self) {
        let threads = Arc::clone(&self.threads);
        if tokio::task::spawn_blocking(move || threads.stop()).await.is_err() {
            tracing::error!("closing the metadata store was interrupted");
        }
    }

    /// Whether commits are taken; if not, why.
    pub fn health(&self) -> Result<(), String> {
        self.threads.committer.health()
    }

    /// Reads the commit log. For one reader: see [`RocksOptions::hold_log`].
    pub fn log_tail(&self) -> LogTail {
        self.threads.tail.clone()
    }

    pub fn metrics(&self) -> &KvMetrics {
        &self.metrics
    }

    /// Brings metrics up to date that RocksDB keeps for itself. It has them in memory.
    pub fn refresh_metrics(&self) {
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let sizes = self.database.sizes();
        for (family, bytes) in sizes.files {
            let gauge = self.metrics.file_bytes.with_label_values(&[family_name(family)]);
            gauge.set(whole(bytes));
        }
        self.metrics.block_cache_bytes.set(whole(sizes.block_cache));
        self.metrics.memtable_bytes.set(whole(sizes.memtables));
    }

    /// Runs a short read of one family on this thread: through to the disk while that is known to be in memory too, else
    /// only as far as RocksDB's own memory goes.
    fn in_place<T>(&self, family: Family, read: impl FnOnce(Reach) -> Result<T, Miss>) -> Result<T, Miss> {
        let Some(gate) = self.gates.of(family).filter(|gate| gate.is_open()) else {
            return read(Reach::Memory);
        };
        let start = Instant::now();
        let found = read(Reach::Disk);
        gate.took_in_place(start.elapsed());
        found
    }

    /// Runs a read that may wait for the disk. `short`: the family and number of its reads, if they are of the kind that is
    /// done in place.
    async fn in_pool<T: Send + 'static>(
        &self,
        short: Option<(Family, u32)>,
        read: impl FnOnce(&Database) -> Result<T, Miss> + Send + 'static,
    ) -> Result<T, ReadError> {
        let stopped = || ReadError::Unavailable("the store is shutting down".to_owned());
        self.reads_in_pool.inc();
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|_| stopped())?;
        let (database, gates) = (Arc::clone(&self.database), Arc::clone(&self.gates));
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let start = Instant::now();
            let found = read(&database);
            if let Some((family, reads)) = short
                && let Some(gate) = gates.of(family)
            {
                gate.took_in_pool(start.elapsed() / reads.max(1));
            }
            found
        });
        Ok(reading.await.map_err(|_| stopped())??)
    }
}

fn open_blocking(options: &RocksOptions, metrics: Arc<KvMetrics>) -> Result<Threads, OpenError> {
    let log_dir = options.dir.join("log");
    std::fs::create_dir_all(&log_dir)?;
    std::fs::create_dir_all(options.dir.join("db"))?;
    // Also when they were there: a process may have been killed after making them.
    sync_dir(&options.dir)?;
    current::heal(&options.dir.join("db"))?;
    let database = Arc::new(Database::open(options)?);
    let applied = database.applied()?;
    let found = recover(&log_dir, applied, &mut |effects, last| database.apply(effects, last))?;
    if found.replayed > 0 {
        database.flush()?;
        tracing::info!(frames = found.replayed, last = found.last.0, "replayed the commit log");
    }
    let files = LogFiles::new(
        log_dir,
        options.log_file_bytes,
        options.log_fault.clone(),
        Arc::clone(&metrics),
    );
    let files = Arc::new(files);
    files.prepare_first()?;
    let log = begin_log(&files, found, options.hold_log)?;
    let flushed = FlushState {
        database: Arc::clone(&database),
    };
    let tail = LogTail::new(Arc::clone(&files));
    let keeper = Keeper::start(files, Box::new(flushed))?;
    let tidier = Tidier::start(Arc::clone(&database), Arc::clone(&metrics))?;
    let committer = Committer::start(Arc::clone(&database), log, metrics)?;
    Ok(Threads {
        committer,
        keeper: Mutex::new(keeper),
        tidier: Mutex::new(tidier),
        database,
        tail,
        is_stopped: AtomicBool::new(false),
    })
}

/// Begins a fresh file behind what was found. Of the old files those go that nobody may want to read.
fn begin_log(files: &Arc<LogFiles>, mut found: Recovered, hold: bool) -> std::io::Result<Log> {
    if hold {
        let kept = std::mem::take(&mut found.spans);
        let is_kept = |path: &PathBuf| kept.iter().any(|file| file.span.path == *path);
        found.files.retain(|path| !is_kept(path));
        files.keep(kept);
    }
    let log = Log::begin(Arc::clone(files), &found, found.last)?;
    files.retire(found.files)?;
    Ok(log)
}

impl Drop for RocksKv {
    /// Without [`RocksKv::shutdown`] before, closing blocks the thread that drops the store for a flush: a thread that
    /// outlived `main` would meet RocksDB's statics destroyed, and a half-closed store would keep the next from opening.
    fn drop(&mut self) {
        if self.threads.is_stopped.load(Ordering::Acquire) {
            return;
        }
        let is_worker = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
        if is_worker {
            tokio::task::block_in_place(|| self.threads.stop());
        } else {
            self.threads.stop();
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Kv for RocksKv {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        let Some(family) = Family::of(key) else { return Ok(None) };
        match self.in_place(family, |reach| self.database.get(key, reach)) {
            Ok(value) => {
                self.reads_in_place.inc();
                Ok(value)
            }
            Err(Miss::Failed(error)) => Err(error),
            Err(Miss::NotInMemory) => {
                let key = Bytes::copy_from_slice(key);
                self.in_pool(Some((family, 1)), move |database| database.get(&key, Reach::Disk))
                    .await
            }
        }
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        let mut found: Vec<Option<Value>> = vec![None; keys.len()];
        let mut missing = Vec::new();
        for (index, (key, slot)) in keys.iter().zip(found.iter_mut()).enumerate() {
            let Some(family) = Family::of(key) else { continue };
            if index >= KEYS_IN_PLACE_MAX {
                missing.push((index, family, key.clone()));
                continue;
            }
            match self.in_place(family, |reach| self.database.get(key, reach)) {
                Ok(value) => *slot = value,
                Err(Miss::Failed(error)) => return Err(error),
                Err(Miss::NotInMemory) => missing.push((index, family, key.clone())),
            }
        }
        let Some(&(_, family, _)) = missing.first() else {
            self.reads_in_place.inc();
            return Ok(found);
        };
        let reads = u32::try_from(missing.len()).unwrap_or(u32::MAX);
        let read = move |database: &Database| {
            let one = |(index, _, key): (usize, Family, Bytes)| Ok((index, database.get(&key, Reach::Disk)?));
            missing.into_iter().map(one).collect::<Result<Vec<_>, Miss>>()
        };
        for (index, value) in self.in_pool(Some((family, reads)), read).await? {
            if let Some(slot) = found.get_mut(index) {
                *slot = value;
            }
        }
        Ok(found)
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        let family = family_of(&scan)?;
        let range = half_open(&scan, family);
        let is_short = scan.limit <= ROWS_IN_PLACE_MAX;
        if is_short {
            match self.in_place(family, |reach| self.database.scan(family, &range, &scan, reach)) {
                Ok(rows) => {
                    self.reads_in_place.inc();
                    return Ok(rows);
                }
                Err(Miss::Failed(error)) => return Err(error),
                Err(Miss::NotInMemory) => {}
            }
        }
        self.in_pool(is_short.then_some((family, 1)), move |database| {
            database.scan(family, &range, &scan, Reach::Disk)
        })
        .await
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        self.threads.committer.commit(mutation).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        Ok(Arc::new(snapshot::View::open(Arc::clone(&self.database)).await?))
    }
}
