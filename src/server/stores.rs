//! The stores behind the wire: opened from the bottom up, closed from the top down.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use http::{Request, Response};
use hyper::body::Incoming;
use prometheus::{Gauge, IntGauge, Registry};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinHandle;

use super::body::{BoxError, RequestBody};
use super::gc;
use super::keyring;
use super::keys;
use super::options::{chunk_options, cloud_options, open_backup, rocks_options};
use super::service::Wire;
use crate::admin::{
    Backend, BackupStatus, BucketUsage, CheckReport, GcReport, GcResumed, KeysReport, MigrateReport, Recount,
    RotationReport, ScrubReport, UsageReport,
};
use crate::backup::{Backup, BackupHandle, Sources};
use crate::blob::space::Space;
use crate::chunk::{self, ChunkStore, CollectError, CollectorHandle, KeeperHandle, Keys, MasterKeys, RebuildReport};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, MasterKeySource, RootKeys};
use crate::iam::{AccessKey, Identities, Secret};
use crate::ids::IdSource;
use crate::kv::Kv;
use crate::kv::rocks::RocksKv;
use crate::meta::pack::Backend as Place;
use crate::object::{CheckProgress, Objects, ScrubHandle, StoreError, SweeperHandle};
use crate::s3::{self, S3Options, S3Wire};

/// Between two looks for room on the disk.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    #[error(transparent)]
    Identities(#[from] crate::iam::IdentitiesError),
    #[error(transparent)]
    Keyring(#[from] keyring::KeyringError),
    #[error(transparent)]
    Key(#[from] chunk::KeyError),
    #[error("the metadata store cannot be opened: {0}")]
    Kv(#[from] crate::kv::rocks::OpenError),
    #[error("the chunk store cannot be opened: {0}")]
    Chunks(#[from] crate::chunk::OpenError),
    #[error("the metadata store cannot be used: {0}")]
    Objects(#[from] crate::object::StoreError),
    #[error("the place for packs cannot be used: {0}")]
    Cloud(crate::blob::OpenError),
    #[error("the backup cannot be opened: {0}")]
    Backup(crate::blob::OpenError),
    #[error(transparent)]
    Lineage(#[from] crate::backup::LineageError),
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The data that a scrape brings up to date.
struct UsageMetrics {
    logical: IntGauge,
    unique: IntGauge,
    stored: IntGauge,
    packs: IntGauge,
    cloud_packs: IntGauge,
    dedup_ratio: Gauge,
    compression_ratio: Gauge,
}

impl UsageMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let bytes = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let ratio = |name: &str, help: &str| -> Result<Gauge, prometheus::Error> {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        Ok(Self {
            logical: bytes("cairn_store_logical_bytes", "Bytes as users count them.")?,
            unique: bytes(
                "cairn_store_unique_bytes",
                "Bytes of distinct chunks, before compression.",
            )?,
            stored: bytes(
                "cairn_store_stored_bytes",
                "Bytes of distinct chunks as they are stored.",
            )?,
            packs: bytes("cairn_store_pack_bytes", "Bytes of the pack files.")?,
            cloud_packs: bytes("cairn_store_cloud_pack_bytes", "Bytes of the packs in the cloud.")?,
            dedup_ratio: ratio("cairn_store_dedup_ratio", "Logical bytes for each unique byte.")?,
            compression_ratio: ratio("cairn_store_compression_ratio", "Unique bytes for each stored byte.")?,
        })
    }

    fn set(&self, logical: u64, unique: u64, stored: u64, packs: u64) {
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.logical.set(whole(logical));
        self.unique.set(whole(unique));
        self.stored.set(whole(stored));
        self.packs.set(whole(packs));
        self.dedup_ratio.set(logical as f64 / unique.max(1) as f64);
        self.compression_ratio.set(unique as f64 / stored.max(1) as f64);
    }
}

struct Background {
    collector: CollectorHandle,
    sweeper: SweeperHandle,
    scrub: ScrubHandle,
    keeper: KeeperHandle,
    space: JoinHandle<()>,
    backup: Option<BackupHandle>,
}

pub struct Stores {
    data: PathBuf,
    encryption: Option<MasterKeySource>,
    kv: Arc<RocksKv>,
    chunks: Arc<ChunkStore>,
    objects: Arc<Objects>,
    wire: S3Wire,
    space: Arc<Space>,
    backup: Option<Arc<Backup>>,
    background: tokio::sync::Mutex<Option<Background>>,
    usage: UsageMetrics,
}

impl Stores {
    /// Opens everything in the data directory, whose lock the caller holds.
    pub async fn open(config: &Config, root: &RootKeys, registry: &Registry) -> Result<Arc<Self>, StoresError> {
        let root = AccessKey {
            access: root.access_key.clone(),
            secret: Secret::new(root.secret_key.as_str()),
        };
        let identities = match &config.identities {
            Some(path) => Identities::load(path, root)?,
            None => Identities::root_only(root)?,
        };
        let masters = masters(config.encryption.as_ref(), &config.data)?;
        let clock = Clock::system();
        let ids = Arc::new(IdSource::new(clock.clone()));
        let kv = Arc::new(RocksKv::open(rocks_options(config), registry).await?);
        let shared = Arc::clone(&kv) as Arc<dyn Kv>;
        let mut options = chunk_options(config);
        options.keys = Keys::open(&*shared, masters.as_ref(), &clock).await?;
        options.cloud = cloud_options(config).await.map_err(StoresError::Cloud)?;
        let space = Arc::clone(&options.space);
        let chunks = ChunkStore::open(Arc::clone(&shared), options, clock.clone(), Arc::clone(&ids), registry).await?;
        let sources = Sources {
            tail: kv.log_tail(),
            kv: Arc::clone(&kv),
            chunks: Arc::clone(&chunks),
            clock: clock.clone(),
            ids: Arc::clone(&ids),
        };
        let backup = open_backup(config, sources, registry)?;
        let objects = Objects::new(shared, Arc::clone(&chunks), clock, ids);
        let secret = objects.store_secret().await?;
        let options = S3Options {
            region: config.region.clone(),
            domains: config.domains.clone(),
        };
        let wire = s3::service(Arc::clone(&objects), Arc::new(identities), &secret, options);
        Ok(Arc::new(Self {
            data: config.data.canonicalize().unwrap_or_else(|_| config.data.clone()),
            encryption: config.encryption.clone(),
            kv,
            chunks,
            objects,
            wire,
            space,
            backup,
            background: tokio::sync::Mutex::default(),
            usage: UsageMetrics::new(registry)?,
        }))
    }

    /// Starts the work that nobody asks for. Without it the store is at rest.
    pub async fn start_background(&self, config: &Config) {
        look(&self.space).await;
        if !self.space.has_room() {
            tracing::error!("the disk has no room for storage.reserve: no new data is taken until there is some");
        }
        *self.background.lock().await = Some(Background {
            collector: self.chunks.start_collector(),
            sweeper: self.objects.start_sweeper(config.storage.collect_interval),
            scrub: self.objects.start_scrub(config.storage.scrub_interval),
            keeper: self.chunks.start_keeper(),
            space: tokio::spawn(watch(Arc::clone(&self.space))),
            backup: self.backup.as_ref().map(Backup::start),
        });
    }

    /// Makes lost chunk rows anew from the packs and sets the counters right. For a store at rest.
    pub async fn repair(&self) -> Result<RebuildReport, CollectError> {
        self.chunks.rebuild_index().await
    }

    /// Checks the store, `at_once` packs side by side.
    pub async fn checked(
        &self,
        read_data: bool,
        at_once: usize,
        progress: &CheckProgress,
    ) -> Result<CheckReport, StoreError> {
        let found = self.objects.check(read_data, at_once, progress).await?;
        Ok(CheckReport {
            data: self.data.clone(),
            sound: found.is_sound(),
            read_data,
            repaired: None,
            found,
        })
    }

    /// The objects, for who looks at them beside the wire.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    pub fn wire(&self) -> S3Wire {
        self.wire.clone()
    }

    /// Ends background work, then the metadata store that it writes to. Packs need no end: what is acknowledged is synced,
    /// and the next start seals what is open.
    pub async fn close(&self) {
        if let Some(Background {
            collector,
            sweeper,
            scrub,
            keeper,
            space,
            backup,
        }) = self.background.lock().await.take()
        {
            space.abort();
            keeper.stop().await;
            scrub.stop().await;
            sweeper.stop().await;
            collector.stop().await;
            // The last of all, so that it has what the others committed.
            if let Some(backup) = backup {
                backup.stop().await;
            }
        }
        self.kv.shutdown().await;
    }

    /// The master keys as they are given now: a file is read again.
    async fn masters(&self) -> Result<Option<MasterKeys>, String> {
        let (source, data) = (self.encryption.clone(), self.data.clone());
        let read = tokio::task::spawn_blocking(move || masters(source.as_ref(), &data)).await;
        read.map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    async fn bucket_usage(&self) -> Result<Vec<BucketUsage>, StoreError> {
        let mut report = Vec::new();
        let mut buckets = pin!(self.objects.buckets());
        while let Some(bucket) = buckets.try_next().await? {
            let usage = self.objects.counters(&bucket).await?;
            report.push(BucketUsage {
                name: bucket.name,
                owner: bucket.owner,
                objects: usage.objects.max(0).unsigned_abs(),
                bytes: usage.bytes.max(0).unsigned_abs(),
                upload_bytes: usage.upload_bytes.max(0).unsigned_abs(),
            });
        }
        Ok(report)
    }
}

#[async_trait]
impl Backend for Stores {
    fn health(&self) -> Result<(), String> {
        self.kv.health()
    }

    fn degraded(&self) -> Option<String> {
        let full = || "the disk is full, no new data is taken".to_owned();
        let backup = || self.backup.as_ref().and_then(|backup| backup.degraded());
        let full = || (!self.space.has_room()).then(full);
        self.chunks.degraded().or_else(full).or_else(backup)
    }

    fn backup(&self) -> BackupStatus {
        self.backup.as_ref().map(|backup| backup.status()).unwrap_or_default()
    }

    async fn usage(&self) -> Result<UsageReport, String> {
        let buckets = self.bucket_usage().await.map_err(|error| error.to_string())?;
        let usage = self.chunks.usage().await.map_err(|error| error.to_string())?;
        Ok(UsageReport {
            logical_bytes: buckets.iter().map(|bucket| bucket.bytes + bucket.upload_bytes).sum(),
            unique_bytes: usage.unique_bytes,
            stored_bytes: usage.stored_bytes,
            pack_bytes: usage.pack_bytes,
            buckets,
        })
    }

    async fn recount(&self) -> Result<Recount, String> {
        let differences = self.objects.differences().await.map_err(|error| error.to_string())?;
        Ok(Recount { differences })
    }

    async fn check(&self, read_data: bool, progress: &CheckProgress) -> Result<CheckReport, String> {
        // Others read and write meanwhile: one pack at a time.
        let report = self.checked(read_data, 1, progress).await;
        report.map_err(|error| error.to_string())
    }

    async fn scrub(&self) -> Result<ScrubReport, String> {
        let status = self.objects.scrub_status().await.map_err(|error| error.to_string())?;
        Ok(ScrubReport {
            running: status.row.running,
            began: told(status.row.began),
            finished: told(status.row.finished),
            records: status.row.records,
            bytes: status.row.bytes,
            bodies: status.row.bodies,
            total_bytes: status.total_bytes,
            damaged: status.row.damaged,
            healed: status.row.healed,
            damage: status.damage,
            bad_objects: status.bad_objects,
        })
    }

    async fn migration(&self) -> Result<MigrateReport, String> {
        let status = self.chunks.migrate_status().await.map_err(|error| error.to_string())?;
        let to = status.to.map(|backend| match backend {
            Place::Cloud => "cloud".to_owned(),
            Place::Local => "local".to_owned(),
        });
        Ok(MigrateReport {
            to,
            moved_packs: status.moved_packs,
            moved_bytes: status.moved_bytes,
            local_packs: status.local.0,
            local_bytes: status.local.1,
            cloud_packs: status.cloud.0,
            cloud_bytes: status.cloud.1,
            error: status.error,
        })
    }

    async fn migrate(&self, to_cloud: bool) -> Result<MigrateReport, String> {
        if !self.chunks.has_cloud() {
            return Err("cloud.url is not set".to_owned());
        }
        let to = if to_cloud { Place::Cloud } else { Place::Local };
        self.chunks.migrate_to(to).await.map_err(|error| error.to_string())?;
        self.migration().await
    }

    async fn gc(&self) -> Result<GcReport, String> {
        let status = self.chunks.gc_status().await.map_err(|error| error.to_string())?;
        Ok(gc::report(status))
    }

    async fn resume_gc(&self) -> Result<GcResumed, String> {
        let resumed = self.chunks.resume_collection().await;
        let resumed = resumed.map_err(|error| error.to_string())?;
        Ok(GcResumed { resumed })
    }

    async fn keys(&self) -> Result<KeysReport, String> {
        let given = self.masters().await?;
        let report = keys::report(&self.data, &self.kv, given.as_ref()).await;
        report.map_err(|error| error.to_string())
    }

    async fn rotate_key(&self) -> Result<RotationReport, String> {
        let masters = self.masters().await?.ok_or("the store is not encrypted")?;
        match chunk::rotate(&*self.kv, &masters, &Clock::system()).await {
            Ok(rotation) => Ok(keys::told(rotation)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn refresh_metrics(&self) {
        self.kv.refresh_metrics();
        if let Err(error) = self.chunks.refresh_gc_metrics().await {
            tracing::warn!(%error, "the metrics of collection could not be brought up to date");
        }
        match self.chunks.usage().await {
            Ok(usage) => {
                let cloud = i64::try_from(self.chunks.cloud_bytes()).unwrap_or(i64::MAX);
                self.usage.cloud_packs.set(cloud);
                self.usage.set(
                    usage.logical_bytes,
                    usage.unique_bytes,
                    usage.stored_bytes,
                    usage.pack_bytes,
                );
            }
            Err(error) => tracing::warn!(%error, "the usage metrics could not be brought up to date"),
        }
    }
}

/// Looks for room on the disk as long as it is not aborted.
async fn watch(space: Arc<Space>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        look(&space).await;
    }
}

async fn look(space: &Arc<Space>) {
    let space = Arc::clone(space);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || space.look()).await {
        tracing::warn!(%error, "the room on the disk cannot be told");
    }
}

/// `None`: it never was.
pub(super) fn told(time: Timestamp) -> Option<String> {
    let seconds = i64::try_from(time.unix_ms() / 1000)
        .ok()
        .filter(|seconds| *seconds > 0)?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}

impl Wire for S3Wire {
    type Body = s3::Body;

    async fn without_body(self, request: Request<Incoming>) -> Result<Response<s3::Body>, BoxError> {
        Ok(self.call(request.map(s3::Body::from)).await?)
    }

    async fn with_body(self, request: Request<RequestBody>) -> Result<Response<s3::Body>, BoxError> {
        Ok(self.call(request.map(s3::Body::http_body)).await?)
    }
}

fn masters(source: Option<&MasterKeySource>, data: &Path) -> Result<Option<MasterKeys>, keyring::KeyringError> {
    source.map(|source| keyring::load(source, data)).transpose()
}
