//! A store on a directory of its own, and a metadata engine that can be cut back to what a crash would leave.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::chunk::chunker::Profile;
use crate::chunk::codec::{Compression, Hint};
use crate::chunk::{
    ChunkStore, ChunkStoreOptions, CollectOptions, CollectReport, Keys, MasterKeys, ReadError, StoredData, WriteError,
    WriteOptions,
};
use crate::clock::Clock;
use crate::ids::{DataId, DomainId, IdSource, Sequence};
use crate::kv::memory::MemoryKv;
use crate::kv::{CommitError, Durability, Kv, Mutation, Row, Scan, Value};
use crate::limits::MIB;

/// A small generator (SplitMix64), so that a test's content follows from its seed.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Incompressible bytes.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn options(dir: &Path) -> ChunkStoreOptions {
    let mut options = ChunkStoreOptions::new(dir.join("packs"));
    options.packs.pack_bytes = 2 * MIB as u64;
    options.packs.open_packs = 1;
    options.compression = Compression::Fast;
    options.pool_wait = Duration::from_secs(3);
    options.collect = CollectOptions {
        dead_percent_max: 15,
        dead_bytes_min: 0,
        interval: Duration::from_millis(5),
        pause: Duration::ZERO,
        rest_percent: 0,
    };
    options
}

pub async fn open_on(kv: Arc<dyn Kv>, dir: &Path) -> Arc<ChunkStore> {
    open_with(kv, dir, None).await
}

/// Opens a store with master keys, which make it an encrypted one.
pub async fn open_with(kv: Arc<dyn Kv>, dir: &Path, masters: Option<&MasterKeys>) -> Arc<ChunkStore> {
    let clock = Clock::system();
    let mut options = options(dir);
    options.keys = Keys::open(&*kv, masters, &clock).await.unwrap();
    open_at(kv, options, clock).await
}

pub async fn open_at(kv: Arc<dyn Kv>, options: ChunkStoreOptions, clock: Clock) -> Arc<ChunkStore> {
    let ids = Arc::new(IdSource::new(clock.clone()));
    ChunkStore::open(kv, options, clock, ids, &prometheus::Registry::new())
        .await
        .unwrap()
}

/// A store and what it stands on.
pub struct Fixture {
    pub dir: TempDir,
    pub kv: Arc<dyn Kv>,
    pub store: Arc<ChunkStore>,
    pub domain: DomainId,
    pub masters: Option<MasterKeys>,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::on(Arc::new(MemoryKv::new())).await
    }

    pub async fn on(kv: Arc<dyn Kv>) -> Self {
        Self::with(kv, None).await
    }

    pub async fn with(kv: Arc<dyn Kv>, masters: Option<MasterKeys>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open_with(Arc::clone(&kv), dir.path(), masters.as_ref()).await;
        let domain = store.create_domain().await.unwrap();
        Self {
            dir,
            kv,
            store,
            domain,
            masters,
        }
    }

    /// Opens the store again, as a new process would.
    pub async fn restart(self) -> Self {
        let Self {
            dir,
            kv,
            store,
            domain,
            masters,
        } = self;
        let mut left = store;
        // Blocking work of a cancelled upload may hold the store a little longer.
        let left = loop {
            match Arc::try_unwrap(left) {
                Ok(store) => break store,
                Err(held) => left = held,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        tokio::task::spawn_blocking(move || drop(left)).await.unwrap();
        let store = open_with(Arc::clone(&kv), dir.path(), masters.as_ref()).await;
        Self {
            dir,
            kv,
            store,
            domain,
            masters,
        }
    }

    pub fn write_options(&self) -> WriteOptions {
        WriteOptions {
            domain: self.domain,
            profile: Profile::General,
            expected_bytes: None,
            compression: None,
            hint: Hint::Unknown,
        }
    }

    pub async fn build(&self, bytes: &[u8]) -> StoredData {
        build(&self.store, self.write_options(), bytes).await.unwrap()
    }

    pub async fn put(&self, bytes: &[u8]) -> DataId {
        publish(&self.store, self.build(bytes).await).await.unwrap()
    }

    pub async fn get(&self, data: DataId, range: Range<u64>) -> Vec<u8> {
        read(&self.store, data, range).await.unwrap()
    }

    pub async fn delete(&self, data: DataId) {
        release(&self.store, data).await.unwrap();
    }

    /// Packs of which most is dead: every third of 12 payloads is kept, and returned.
    pub async fn put_and_delete_most(&self) -> Vec<(DataId, Vec<u8>)> {
        let mut kept = Vec::new();
        for seed in 0..12 {
            let bytes = content(seed, MIB / 2);
            let id = self.put(&bytes).await;
            if seed % 3 == 0 {
                kept.push((id, bytes));
            } else {
                self.delete(id).await;
            }
        }
        kept
    }

    pub async fn collect(&self) -> CollectReport {
        self.store.collect_once().await.unwrap()
    }

    /// Fails unless counters and references fit.
    pub async fn check(&self) {
        check(&self.store).await;
    }
}

pub async fn check(store: &ChunkStore) {
    let recount = store.recount().await.unwrap();
    assert_eq!((recount.differences, recount.findings), (vec![], vec![]));
}

pub async fn build(store: &Arc<ChunkStore>, options: WriteOptions, bytes: &[u8]) -> Result<StoredData, WriteError> {
    let mut writer = store.writer(options);
    for part in bytes.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(part)).await?;
    }
    writer.finish().await
}

pub async fn publish(store: &ChunkStore, data: StoredData) -> Result<DataId, CommitError> {
    let mut mutation = Mutation::new();
    store.publish(&mut mutation, &data, Bytes::from(format!("owner of {}", data.id)));
    let id = data.id;
    match store.kv.commit(mutation).await {
        Ok(_) => data.published(),
        Err(CommitError::Unknown(error)) => {
            data.outcome_unknown();
            return Err(CommitError::Unknown(error));
        }
        Err(error) => return Err(error),
    }
    Ok(id)
}

pub async fn release(store: &ChunkStore, data: DataId) -> Result<Sequence, CommitError> {
    let mut mutation = Mutation::new();
    store.release(&mut mutation, data);
    let outcome = store.kv.commit(mutation).await;
    store.released();
    outcome
}

pub async fn read(store: &Arc<ChunkStore>, data: DataId, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
    let stream = store.read(data, range).await?;
    let parts: Vec<Bytes> = stream.try_collect().await?;
    Ok(parts.concat())
}

/// Keeps the log of its commits, so that the state after any of them can be made again: a crash leaves the state after
/// some commit at or behind the last synced one.
#[derive(Default)]
pub struct LoggedKv {
    inner: MemoryKv,
    log: Mutex<Vec<Mutation>>,
}

impl LoggedKv {
    /// Commits so far, and how many of them a crash cannot take.
    pub async fn commits(&self) -> (usize, usize) {
        let log = self.log.lock().await;
        let synced = log
            .iter()
            .rposition(|mutation| mutation.durability == Durability::Synced);
        (log.len(), synced.map_or(0, |at| at + 1))
    }

    /// The state after the first `count` commits.
    pub async fn after(&self, count: usize) -> Self {
        let cut = Self::default();
        for mutation in self.log.lock().await.iter().take(count) {
            cut.commit(mutation.clone()).await.unwrap();
        }
        cut
    }
}

#[async_trait]
impl Kv for LoggedKv {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, crate::kv::ReadError> {
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, crate::kv::ReadError> {
        tokio::task::yield_now().await;
        self.inner.get_many(keys).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, crate::kv::ReadError> {
        tokio::task::yield_now().await;
        self.inner.scan(scan).await
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        tokio::task::yield_now().await;
        let mut log = self.log.lock().await;
        let sequence = self.inner.commit(mutation.clone()).await?;
        log.push(mutation);
        Ok(sequence)
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, crate::kv::ReadError> {
        self.inner.snapshot().await
    }
}

/// A copy of the packs as they are now, as a crash would leave them.
pub fn copy_packs(from: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("packs")).unwrap();
    for folder in std::fs::read_dir(from.join("packs")).unwrap() {
        let folder = folder.unwrap();
        let target = copy.path().join("packs").join(folder.file_name());
        if !folder.file_type().unwrap().is_dir() {
            continue;
        }
        std::fs::create_dir_all(&target).unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            // A pack may be deleted while the directory is read.
            let _ = std::fs::copy(file.path(), target.join(file.file_name()));
        }
    }
    copy
}

/// The pack files.
pub fn pack_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(dir.join("packs")).unwrap() {
        let path = folder.unwrap().path();
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|file| file.unwrap().path()));
        }
    }
    files
}

/// Rows that wait for the collector.
pub async fn garbage(kv: &dyn Kv) -> usize {
    let range = crate::meta::key::table(crate::meta::key::Table::Garbage);
    crate::chunk::index::page(kv, range, 1000).await.unwrap().len()
}
