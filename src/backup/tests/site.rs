//! A store with a backup, whose machine can be lost.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::backup::{
    Backup, BackupHandle, BackupOptions, Lineage, RestoreError, RestoreOptions, Restored, Sources, Wanted, restore,
};
use crate::blob::memory::MemoryBlobs;
use crate::blob::{Blob, BlobError, Blobs};
use crate::chunk::chunker::Profile;
use crate::chunk::codec::{Compression, Hint};
use crate::chunk::{ChunkStore, ChunkStoreOptions, CloudOptions, CollectOptions, OpenError, WriteOptions};
use crate::clock::{Clock, ClockHand};
use crate::ids::{DataId, DomainId, IdSource, Sequence};
use crate::kv::rocks::{RocksKv, RocksOptions};
use crate::kv::{Kv, Mutation};
use crate::limits::{KIB, MIB};
use crate::meta::key;

/// When the tests happen; before, their hand has not moved the clock.
pub const START_MS: u64 = 1_800_000_000_000;

pub fn options() -> BackupOptions {
    BackupOptions {
        log_max_bytes: 64 << 20,
        checkpoint_log_bytes: 64 << 20,
        window: Duration::from_secs(3600),
        ship_every: Duration::from_millis(5),
        tidy_every: Duration::from_millis(20),
        attempt: Duration::from_millis(500),
    }
}

pub fn rocks(dir: &Path, hold_log: bool) -> RocksOptions {
    RocksOptions {
        dir: dir.to_owned(),
        log_file_bytes: 256 * KIB as u64,
        hold_log,
        ..RocksOptions::default()
    }
}

/// What a blob store was told, in its order.
#[derive(Clone, Debug)]
pub enum Told {
    Put(String, Bytes),
    Delete(String),
}

/// Remembers every change.
#[derive(Debug, Default)]
pub struct Recording {
    inner: MemoryBlobs,
    told: Mutex<Vec<Told>>,
}

impl Recording {
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().clone()
    }
}

/// The blobs after some changes.
pub async fn after(told: &[Told]) -> Arc<MemoryBlobs> {
    let blobs = MemoryBlobs::new();
    for one in told {
        match one {
            Told::Put(name, bytes) => blobs.put(name, bytes.clone()).await.unwrap(),
            Told::Delete(name) => blobs.delete(name).await.unwrap(),
        }
    }
    Arc::new(blobs)
}

#[async_trait]
impl Blobs for Recording {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BlobError> {
        self.told.lock().push(Told::Put(name.to_owned(), bytes.clone()));
        self.inner.put(name, bytes).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        self.inner.get(name, range).await
    }

    async fn size(&self, name: &str) -> Result<u64, BlobError> {
        self.inner.size(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), BlobError> {
        self.told.lock().push(Told::Delete(name.to_owned()));
        self.inner.delete(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Blob>, BlobError> {
        self.inner.list(prefix, after).await
    }
}

/// Incompressible bytes that follow from `seed`.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Bytes of the payload with this seed.
fn length(seed: u64) -> usize {
    10_000 + (seed as usize * 7919) % 400_000
}

fn item(seed: u64) -> Bytes {
    key::store(&format!("test/{seed:04}"))
}

/// A machine with a store.
pub struct Site {
    pub dir: TempDir,
    pub kv: Arc<RocksKv>,
    pub store: Arc<ChunkStore>,
    pub domain: DomainId,
    pub clock: Clock,
    pub hand: ClockHand,
    pub backup: Option<(Arc<Backup>, BackupHandle)>,
}

impl Site {
    pub async fn new(blobs: Arc<dyn Blobs>, options: BackupOptions) -> Self {
        Self::open(tempfile::tempdir().unwrap(), Some((blobs, options)), START_MS).await
    }

    pub async fn open(dir: TempDir, backup: Option<(Arc<dyn Blobs>, BackupOptions)>, now_ms: u64) -> Self {
        Self::try_open(dir, backup, None, now_ms).await.unwrap()
    }

    /// With new packs in `cloud`.
    pub async fn try_open(
        dir: TempDir,
        backup: Option<(Arc<dyn Blobs>, BackupOptions)>,
        cloud: Option<Arc<dyn Blobs>>,
        now_ms: u64,
    ) -> Result<Self, OpenError> {
        let (clock, hand) = Clock::manual(now_ms);
        let ids = Arc::new(IdSource::new(clock.clone()));
        let registry = prometheus::Registry::new();
        let kv = RocksKv::open(rocks(dir.path(), backup.is_some()), &registry)
            .await
            .unwrap();
        let kv = Arc::new(kv);
        let mut chunks = ChunkStoreOptions::new(dir.path().join("packs"));
        chunks.packs.pack_bytes = MIB as u64;
        chunks.packs.open_packs = 1;
        chunks.compression = Compression::Off;
        chunks.collect = CollectOptions {
            dead_bytes_min: 0,
            ..CollectOptions::default()
        };
        chunks.cloud = cloud.map(|blobs| {
            let mut cloud = CloudOptions::new(blobs, "cloud".to_owned(), dir.path().join("cache"), 0);
            cloud.late = Duration::ZERO;
            cloud
        });
        let shared = Arc::clone(&kv) as Arc<dyn Kv>;
        let store = ChunkStore::open(shared, chunks, clock.clone(), Arc::clone(&ids), &registry).await?;
        let domain = match kv.get(&key::store("test-domain")).await.unwrap() {
            Some(row) => DomainId(u64::from_le_bytes(row.bytes.as_ref().try_into().unwrap())),
            None => {
                let domain = store.create_domain().await.unwrap();
                let mut mutation = Mutation::new();
                mutation.put(key::store("test-domain"), domain.0.to_le_bytes().to_vec());
                kv.commit(mutation).await.unwrap();
                domain
            }
        };
        let backup = backup.map(|(blobs, options)| {
            let sources = Sources {
                tail: kv.log_tail(),
                kv: Arc::clone(&kv),
                chunks: Arc::clone(&store),
                clock: clock.clone(),
                ids: Arc::clone(&ids),
            };
            let lineage = Lineage::load_or_make(dir.path(), &ids).unwrap();
            let backup = Backup::new(sources, blobs, "memory".to_owned(), lineage, options, &registry).unwrap();
            let handle = backup.start();
            (backup, handle)
        });
        Ok(Self {
            dir,
            kv,
            store,
            domain,
            clock,
            hand,
            backup,
        })
    }

    /// Stores the payload of `seed`, durably.
    pub async fn put(&self, seed: u64) -> Sequence {
        let options = WriteOptions {
            domain: self.domain,
            profile: Profile::General,
            expected_bytes: None,
            compression: None,
            hint: Hint::Unknown,
        };
        let mut writer = self.store.writer(options);
        writer.write(Bytes::from(content(seed, length(seed)))).await.unwrap();
        let data = writer.finish().await.unwrap();
        let mut mutation = Mutation::new();
        self.store.publish(&mut mutation, &data, Bytes::from_static(b"owner"));
        mutation.put(item(seed), data.id.0.to_vec());
        let sequence = self.kv.commit(mutation).await.unwrap();
        data.published();
        sequence
    }

    pub async fn delete(&self, seed: u64) {
        let id = self.kv.get(&item(seed)).await.unwrap().unwrap().bytes;
        let mut mutation = Mutation::new();
        mutation.delete(item(seed));
        self.store
            .release(&mut mutation, DataId(id.as_ref().try_into().unwrap()));
        self.kv.commit(mutation).await.unwrap();
        self.store.released();
    }

    /// Empties and deletes packs until nothing is left to collect.
    pub async fn collect(&self) {
        for _ in 0..8 {
            self.store.collect_once().await.unwrap();
        }
    }

    /// Waits until a restore would bring back everything up to `sequence`.
    pub async fn shipped(&self, sequence: Sequence) {
        self.until(|status| status.restorable_seq.is_some_and(|restorable| restorable >= sequence.0))
            .await;
    }

    pub async fn until(&self, wanted: impl Fn(&crate::backup::BackupStatus) -> bool) {
        let (backup, _) = self.backup.as_ref().unwrap();
        for _ in 0..2000 {
            if wanted(&backup.status()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not come to this: {:?}", backup.status());
    }

    /// The payloads that are there, each read and compared.
    pub async fn items(&self) -> Vec<u64> {
        let mut found = Vec::new();
        for seed in 0..200 {
            let Some(row) = self.kv.get(&item(seed)).await.unwrap() else {
                continue;
            };
            let id = DataId(row.bytes.as_ref().try_into().unwrap());
            let stream = self.store.read(id, 0..length(seed) as u64).await.unwrap();
            let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
            assert!(parts.concat() == content(seed, length(seed)), "payload {seed}");
            found.push(seed);
        }
        let recount = self.store.recount().await.unwrap();
        assert_eq!(recount.differences, []);
        found
    }

    /// Ends the process as a kill would, and returns its disk.
    pub async fn kill(self) -> TempDir {
        let Self {
            dir, kv, store, backup, ..
        } = self;
        if let Some((backup, handle)) = backup {
            handle.kill().await;
            until_last(backup).await;
        }
        until_last(store).await;
        until_last(kv).await;
        dir
    }
}

/// Drops what blocking work may hold a little longer, and which blocks itself.
async fn until_last<T: Send + Sync + 'static>(mut held: Arc<T>) {
    let last = loop {
        match Arc::try_unwrap(held) {
            Ok(last) => break last,
            Err(still) => held = still,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    tokio::task::spawn_blocking(move || drop(last)).await.unwrap();
}

/// Restores to an empty directory.
pub async fn try_restore(blobs: Arc<dyn Blobs>, wanted: Wanted) -> Result<(TempDir, Restored), RestoreError> {
    let dir = tempfile::tempdir().unwrap();
    let options = RestoreOptions {
        dir: dir.path().to_owned(),
        rocks: rocks(dir.path(), false),
        store: None,
        wanted,
        lossy: false,
    };
    let restored = restore(blobs, options).await?;
    Ok((dir, restored))
}

/// What a restore brings back: its payloads, and the point.
pub async fn restored(blobs: Arc<dyn Blobs>, wanted: Wanted) -> (Vec<u64>, Restored) {
    let (dir, restored) = try_restore(blobs, wanted).await.unwrap();
    let site = Site::open(dir, None, START_MS).await;
    let items = site.items().await;
    drop(site.kill().await);
    (items, restored)
}
