//! Packs in a cloud: blobs that are put whole and sealed, and are never written to again.
//!
//! A row names a pack before it is put, and nothing else does before it was put. So whatever a killed process left has a
//! row, and nothing is deleted that this store did not name.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{sleep, timeout};

use crate::blob::{BlobError, Blobs};
use crate::chunk::pack::ClaimsError;
use crate::ids::PackId;

mod cache;
mod fetch;
mod latency;
mod metrics;
mod moving;
mod put;
mod set;

pub use fetch::{Through, fill, lengths, table, told};
pub use moving::{copy, remove_other, remove_partial};
pub use put::{PACK_BYTES, upload};

use cache::Cache;
use latency::Latency;
use metrics::CloudMetrics;
use put::Queue;

/// The blob that says whose packs are in its place.
const OWNER: &str = "cairn-store";
/// Where the packs are.
const FOLDER: &str = "packs/";
/// Reads at the same time.
const GETS_MAX: usize = 64;
/// Second requests of slow reads at the same time.
const HEDGES_MAX: usize = 8;

/// Between two tries of a call.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// See [`CloudOptions::late`].
pub const LATE: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Debug)]
pub struct CloudOptions {
    pub blobs: Arc<dyn Blobs>,
    /// Where `blobs` is, for people.
    pub shown: String,
    /// Whether new packs go there.
    pub takes_packs: bool,
    pub cache_dir: PathBuf,
    /// 0: no cache.
    pub cache_bytes: u64,
    /// What one put or get may take at the most.
    pub timeout: Duration,
    /// No further try of a failed put begins later than this.
    pub put_within: Duration,
    /// No further try of another call that failed begins later than this.
    pub again_within: Duration,
    /// A read is slow after this, and later if most are.
    pub hedge_min: Duration,
    /// How long after its end a put that failed may still happen, at the most.
    pub late: Duration,
}

impl CloudOptions {
    pub fn new(blobs: Arc<dyn Blobs>, shown: String, cache_dir: PathBuf, cache_bytes: u64) -> Self {
        Self {
            blobs,
            shown,
            takes_packs: true,
            cache_dir,
            cache_bytes,
            timeout: Duration::from_secs(150),
            put_within: Duration::from_secs(20),
            again_within: Duration::from_secs(10),
            hedge_min: Duration::from_millis(50),
            late: LATE,
        }
    }
}

/// Writes the row that names a pack, durably, before the pack is put.
#[async_trait]
pub trait Ledger: Send + Sync {
    async fn pending(&self, pack: PackId, bytes: u64) -> Result<(), ClaimsError>;
}

/// A pack that a row says is in the cloud.
#[derive(Clone, Copy, Debug)]
pub struct CloudPack {
    pub id: PackId,
    pub bytes: u64,
}

/// What a pack set needs for the cloud.
pub struct CloudStart {
    pub options: CloudOptions,
    pub ledger: Arc<dyn Ledger>,
    /// Names this store in the place.
    pub store: [u8; 16],
    pub packs: Vec<CloudPack>,
    /// Packs of either kind that may have a second copy at the other backend.
    pub twice: Vec<PackId>,
    pub runtime: tokio::runtime::Handle,
}

pub struct Cloud {
    options: CloudOptions,
    ledger: Arc<dyn Ledger>,
    store: String,
    /// Whether rows said at the start that packs are there.
    had_packs: bool,
    owned: OnceCell<()>,
    pub queue: Queue,
    cache: Cache,
    latency: Latency,
    gets: Semaphore,
    hedges: Semaphore,
    metrics: CloudMetrics,
}

impl Cloud {
    /// Blocks: looks over the cache.
    pub fn open(start: CloudStart, registry: &prometheus::Registry) -> Result<Self, super::OpenError> {
        let CloudStart {
            options,
            ledger,
            store,
            packs,
            ..
        } = start;
        let cache = Cache::open(&options.cache_dir, options.cache_bytes).map_err(|error| super::OpenError::Io {
            path: options.cache_dir.clone(),
            error,
        })?;
        let latency = Latency::new(options.hedge_min);
        Ok(Self {
            ledger,
            store: hex::encode(store),
            had_packs: !packs.is_empty(),
            owned: OnceCell::new(),
            queue: Queue::default(),
            cache,
            latency,
            gets: Semaphore::new(GETS_MAX),
            hedges: Semaphore::new(HEDGES_MAX),
            metrics: CloudMetrics::new(registry)?,
            options,
        })
    }

    pub fn takes_packs(&self) -> bool {
        self.options.takes_packs
    }

    /// Makes sure, once, that the packs in the place are this store's: an absent blob would else be taken for a lost one.
    pub async fn owned(&self) -> Result<(), BlobError> {
        let blobs = &self.options.blobs;
        let ask = || async {
            let mark = Bytes::from(self.store.clone());
            let other = |what: &str| BlobError::Refused(format!("{} {what}", self.options.shown));
            match self.in_time(blobs.get(OWNER, None)).await {
                Ok(found) if found == self.store => Ok(()),
                // What a put that failed left of it. Whoever's it was, no pack was put before it was whole.
                Ok(found) if self.store.as_bytes().starts_with(&found) => self.in_time(blobs.put(OWNER, mark)).await,
                Ok(_) => Err(other("belongs to another store")),
                Err(BlobError::NotFound) if self.had_packs => Err(other("does not have this store's packs")),
                Err(BlobError::NotFound) => self.in_time(blobs.put(OWNER, mark)).await,
                Err(error) => Err(error),
            }
        };
        self.owned.get_or_try_init(ask).await.map(drop)
    }

    async fn put(&self, pack: PackId, bytes: Bytes) -> Result<(), BlobError> {
        self.in_time(self.options.blobs.put(&name(pack), bytes)).await
    }

    /// Removes a pack's blob. One that is not there is removed already.
    pub async fn remove(&self, pack: PackId) -> Result<(), BlobError> {
        let name = name(pack);
        let remove = || async {
            self.owned().await?;
            self.in_time(self.options.blobs.delete(&name)).await
        };
        self.again(remove).await
    }

    /// Makes a call once more while its failure may pass. For calls that may be made twice.
    async fn again<T, Call>(&self, call: impl Fn() -> Call) -> Result<T, BlobError>
    where
        Call: Future<Output = Result<T, BlobError>>,
    {
        let (began, mut pause) = (Instant::now(), PAUSE_MIN);
        loop {
            match call().await {
                Err(BlobError::Unavailable(reason)) if began.elapsed() + pause < self.options.again_within => {
                    tracing::debug!(place = self.options.shown, reason, "a call to the cloud is made again");
                }
                done => return done,
            }
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// What a call answers in the time that it may take: a place that hangs is one that cannot be reached.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, BlobError>>) -> Result<T, BlobError> {
        let answer = timeout(self.options.timeout, call).await;
        answer.unwrap_or_else(|_| Err(BlobError::Unavailable("no answer in time".to_owned())))
    }
}

fn name(pack: PackId) -> String {
    format!("{FOLDER}{pack}")
}
