//! The store itself: what its parts share, opening, usage.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};

use crate::blob::space::Space;
use crate::chunk::bulk::Bulk;
use crate::chunk::cloud;
use crate::chunk::codec::{Codecs, Compression};
use crate::chunk::collect::CollectOptions;
use crate::chunk::domain::DomainKey;
use crate::chunk::error::{MetaError, OpenError};
use crate::chunk::gc::Gc;
use crate::chunk::index;
use crate::chunk::keys::Keys;
use crate::chunk::md5::Md5Lanes;
use crate::chunk::metrics::ChunkMetrics;
use crate::chunk::migrate::Migration;
use crate::chunk::offload::Offload;
use crate::chunk::pack::{CloudOptions, LATE, PackOptions, PackSet};
use crate::chunk::packs::PackTable;
use crate::chunk::pool::BufferPool;
use crate::chunk::recover::{self, RecoverReport, RowClaims};
use crate::chunk::session::Sessions;
use crate::chunk::trouble::{Trouble, Troubles};
use crate::clock::Clock;
use crate::ids::{DataId, DomainId, IdSource, SegmentId};
use crate::kv::{Counter, Kv};
use crate::limits::{BUFFER_POOL_BYTES, BUFFER_WAIT, MIB, SCAN_ROWS_MAX};
use crate::meta::key::{self, Table, UsageKind, UsageScope};
use crate::meta::pack::Backend;
use crate::meta::record::Malformed;
use crate::meta::segment::SegmentRow;
use crate::meta::tree::TreeRow;

/// Domains whose keys are kept in memory.
const DOMAINS_CACHED_MAX: u64 = 10_000;

/// Buffers that a task holds while it waits for the next one: a window and two extents, decoded, in their classes.
const TRANSFER_BYTES: usize = 16 * MIB;

#[derive(Clone, Debug)]
pub struct ChunkStoreOptions {
    pub packs_dir: PathBuf,
    pub packs: PackOptions,
    /// Of the same metadata store.
    pub keys: Keys,
    /// Where packs are besides the directory.
    pub cloud: Option<CloudOptions>,
    pub compression: Compression,
    /// Plaintext windows and read extents in memory, over all requests.
    pub pool_bytes: usize,
    /// How long such memory is waited for.
    pub pool_wait: Duration,
    /// Threads that compute MD5. 0: who asks computes.
    pub md5_threads: usize,
    /// Threads that chunk, hash and encode windows. 0: who asks does.
    pub bulk_threads: usize,
    pub tree_cache_bytes: u64,
    pub segment_cache_bytes: u64,
    pub collect: CollectOptions,
    /// Without room on the disk, the collector takes back what it can.
    pub space: Arc<Space>,
}

impl ChunkStoreOptions {
    pub fn new(packs_dir: PathBuf) -> Self {
        let cores = available_parallelism().map_or(2, NonZeroUsize::get);
        let space = Arc::new(Space::new(&packs_dir, 0));
        Self {
            packs_dir,
            packs: PackOptions::default(),
            keys: Keys::default(),
            cloud: None,
            compression: Compression::default(),
            pool_bytes: BUFFER_POOL_BYTES,
            pool_wait: BUFFER_WAIT,
            md5_threads: 1,
            bulk_threads: cores,
            tree_cache_bytes: 4 * MIB as u64,
            segment_cache_bytes: 12 * MIB as u64,
            collect: CollectOptions::default(),
            space,
        }
    }

    /// Everything is done by the thread that asks, and all packs are in the cloud: for a simulation, whose histories must
    /// not depend on how fast threads are.
    pub fn on_one_thread(mut self) -> Self {
        (self.md5_threads, self.bulk_threads) = (0, 0);
        (self.packs.open_packs, self.packs.offload) = (0, Offload::InPlace);
        self
    }
}

/// Every byte above the body limit, once. The reasons are in `docs/chunks.md`.
pub struct ChunkStore {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) packs: PackSet,
    pub(super) keys: Keys,
    pub(super) table: Arc<PackTable>,
    pub(super) pool: BufferPool,
    pub(super) md5: Md5Lanes,
    pub(super) codecs: Codecs,
    pub(super) compression: Compression,
    pub(super) bulk: Bulk,
    transfers: Arc<Semaphore>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) domains: Cache<DomainId, Arc<DomainKey>>,
    /// Rows that begin at the offset in the key.
    pub(super) trees: Cache<(DataId, u64), Arc<TreeRow>>,
    pub(super) segments: Cache<SegmentId, Arc<SegmentRow>>,
    pub(super) clock: Clock,
    pub(super) ids: Arc<IdSource>,
    /// Names this process in the building rows.
    pub(super) boot: [u8; 16],
    pub(super) collect: CollectOptions,
    pub(super) gc: Gc,
    /// Of a full pack.
    pub(super) pack_bytes: u64,
    pub(super) space: Arc<Space>,
    /// Held by the one run of the collector.
    pub(super) collecting: Mutex<()>,
    pub(super) troubles: Troubles,
    /// How long after its end a put into the cloud that failed may still happen, at the most.
    pub(super) late_ms: u64,
    pub(super) migration: Migration,
    /// Wakes the keeper.
    pub(super) keep: Notify,
    pub(super) metrics: ChunkMetrics,
    recovered: RecoverReport,
}

/// What the store holds, by its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Bytes of the current objects and of the parts of uploads in progress, as their owners see them.
    pub logical_bytes: u64,
    /// Plaintext bytes of the chunks, each once.
    pub unique_bytes: u64,
    /// The same as records, compressed.
    pub stored_bytes: u64,
    /// Bytes of the pack files, dead records included.
    pub pack_bytes: u64,
}

impl ChunkStore {
    /// Whether the disk has room for new data.
    pub fn has_room(&self) -> bool {
        self.space.has_room()
    }

    /// Opens the packs and makes the rows agree with the files. Building data of an earlier process is found by the
    /// collector. Must be the only store on its directory and its metadata.
    pub async fn open(
        kv: Arc<dyn Kv>,
        options: ChunkStoreOptions,
        clock: Clock,
        ids: Arc<IdSource>,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>, OpenError> {
        let (metrics, pack_bytes) = (ChunkMetrics::new(registry)?, options.packs.pack_bytes);
        let pool = BufferPool::with_wait(options.pool_bytes, options.pool_wait);
        let table = Arc::new(PackTable::new(Arc::clone(&kv), clock.clone()));
        let late = options.cloud.as_ref().map_or(LATE, |cloud| cloud.late);
        let cloud = cloud::start(&kv, options.cloud, &table).await?;
        let packs = {
            let (pool, ids, registry) = (pool.clone(), Arc::clone(&ids), registry.clone());
            let (dir, packs) = (options.packs_dir.clone(), options.packs.clone());
            let claims = RowClaims {
                kv: Arc::clone(&kv),
                runtime: Handle::current(),
            };
            let offload = packs.offload;
            let open = move || PackSet::open(&dir, packs, ids, pool, &registry, &claims, cloud);
            offload.run(open).await.map_err(|_| OpenError::Stopped)??
        };
        packs.check_owner().await?;
        table.attach(packs.places());
        let recovered = recover::recover(&*kv, &packs, &clock).await?;
        let troubles = troubles_of(&recovered, &metrics);
        let md5 = Md5Lanes::start(options.md5_threads).map_err(OpenError::Threads)?;
        let bulk =
            Bulk::start(options.bulk_threads).map_err(|error| OpenError::Threads(std::io::Error::other(error)))?;
        let store = Arc::new(Self {
            table,
            kv,
            packs,
            keys: options.keys,
            pool,
            md5,
            codecs: Codecs::new(options.bulk_threads),
            compression: options.compression,
            bulk,
            transfers: Arc::new(Semaphore::new((options.pool_bytes / TRANSFER_BYTES).max(1))),
            sessions: Arc::new(Sessions::default()),
            domains: Cache::new(DOMAINS_CACHED_MAX),
            trees: weighed(options.tree_cache_bytes, |row: &TreeRow| 128 + 96 * row.entries.len()),
            segments: weighed(options.segment_cache_bytes, |row: &SegmentRow| {
                128 + 72 * row.entries.len()
            }),
            boot: ids.next(),
            migration: Migration::new(clock.now()),
            clock,
            ids,
            gc: Gc::new(options.collect.rest_percent),
            collect: options.collect,
            pack_bytes,
            space: options.space,
            collecting: Mutex::new(()),
            troubles,
            late_ms: u64::try_from(late.as_millis()).unwrap_or(u64::MAX),
            keep: Notify::new(),
            metrics,
            recovered,
        });
        store.read_stop().await?;
        Ok(store)
    }

    /// The secret behind what clients carry for us, of an encrypted store; `None`: it has to be kept in a row.
    pub fn token_key(&self) -> Option<[u8; 32]> {
        self.keys.token_key()
    }

    /// What opening found.
    pub fn recovered(&self) -> &RecoverReport {
        &self.recovered
    }

    /// What is wrong with data that rows point to, for people; `None`: nothing that is known of.
    pub fn degraded(&self) -> Option<String> {
        let kinds = [
            (Trouble::Missing, "missing"),
            (Trouble::Damaged, "damaged"),
            (Trouble::Stuck, "not to be emptied"),
        ];
        let told = kinds.into_iter().filter_map(|(trouble, name)| {
            let packs = self.troubles.of(trouble);
            let first = packs.first()?;
            Some(match packs.len() {
                1 => format!("pack {first} is {name}"),
                count => format!("{count} packs are {name}, {first} the first"),
            })
        });
        let stopped = self
            .gc
            .stop()
            .map(|stop| format!("collection is stopped: {}", stop.why));
        let told: Vec<String> = stopped.into_iter().chain(self.gc.unreadable()).chain(told).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    pub fn pool(&self) -> &BufferPool {
        &self.pool
    }

    /// Held by a task that writes what it reads from the store, a copy between domains. Such tasks wait for buffers
    /// while they hold buffers: more of them than this at the same time could wait for each other for ever.
    pub async fn transfer(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.transfers).acquire_owned().await.ok()
    }

    /// The counters, which are exact, and the sizes of the pack files. Reads every bucket's counters.
    pub async fn usage(&self) -> Result<StoreUsage, MetaError> {
        let mut usage = StoreUsage {
            pack_bytes: self.pack_bytes(),
            ..StoreUsage::default()
        };
        let store = |kind| key::usage(UsageScope::Store, kind, 0);
        let range = key::table(Table::Usage);
        let mut from = range.start;
        loop {
            let rows = index::page(&*self.kv, from..range.end.clone(), SCAN_ROWS_MAX).await?;
            for row in &rows {
                let value = counter(&row.value.bytes)?.max(0).unsigned_abs();
                match row.key.get(10).copied() {
                    _ if row.key == store(UsageKind::UniqueBytes) => usage.unique_bytes = value,
                    _ if row.key == store(UsageKind::StoredBytes) => usage.stored_bytes = value,
                    Some(kind) if kind == UsageKind::Bytes as u8 || kind == UsageKind::UploadBytes as u8 => {
                        usage.logical_bytes += value;
                    }
                    _ => {}
                }
            }
            match rows.last() {
                Some(last) if rows.len() == SCAN_ROWS_MAX => from = index::after(&last.key),
                _ => return Ok(usage),
            }
        }
    }

    /// Bytes of the packs in the cloud.
    pub fn cloud_bytes(&self) -> u64 {
        let packs = self.packs.packs().into_iter();
        packs
            .filter(|pack| pack.backend == Backend::Cloud)
            .map(|pack| pack.bytes)
            .sum()
    }

    pub(super) fn pack_bytes(&self) -> u64 {
        self.packs.packs().iter().map(|pack| pack.bytes).sum()
    }
}

/// The packs that opening found to be in trouble.
fn troubles_of(recovered: &RecoverReport, metrics: &ChunkMetrics) -> Troubles {
    let troubles = Troubles::default();
    for (packs, trouble) in [
        (&recovered.missing, Trouble::Missing),
        (&recovered.damaged, Trouble::Damaged),
    ] {
        packs.iter().for_each(|pack| troubles.found(*pack, trouble));
        metrics.lost_packs.add(packs.len() as i64);
    }
    troubles
}

/// A counter row's value.
pub(super) fn counter(bytes: &[u8]) -> Result<i64, Malformed> {
    Counter::decode(bytes).ok_or(Malformed {
        record: "counter",
        reason: "not eight bytes",
    })
}

fn weighed<K, V>(bytes: u64, weight: fn(&V) -> usize) -> Cache<K, Arc<V>>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(bytes)
        .weigher(move |_, row: &Arc<V>| u32::try_from(weight(row)).unwrap_or(u32::MAX))
        .build()
}
