//! A crash between any two steps of packs in a cloud: what the metadata, the disk and the cloud have then is opened again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::cloud::open;
use super::harness::{Fixture, build, check, content, copy_packs, pack_files, publish, read};
use crate::blob::memory::MemoryBlobs;
use crate::blob::{Blob, BlobError, Blobs};
use crate::chunk::{ChunkStore, CloudOptions, WriteOptions};
use crate::ids::{DataId, Sequence};
use crate::kv::memory::MemoryKv;
use crate::kv::{CommitError, Durability, Kv, Mutation, ReadError, Row, Scan, Value};
use crate::meta::pack::Backend;

/// What a crash at one moment leaves.
struct Image {
    /// Commits, and how many of them are synced.
    commits: usize,
    synced: usize,
    blobs: BTreeMap<String, Bytes>,
    packs: TempDir,
    what: String,
}

/// All that is done, in its order, and an image before each step that another machine sees, and behind it.
#[derive(Debug, Default)]
struct History {
    dir: PathBuf,
    log: Vec<Mutation>,
    blobs: BTreeMap<String, Bytes>,
    images: Vec<Image>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl History {
    fn synced(&self) -> usize {
        let is_synced = |mutation: &Mutation| mutation.durability == Durability::Synced;
        self.log.iter().rposition(is_synced).map_or(0, |at| at + 1)
    }

    fn note(&mut self, what: String) {
        self.images.push(Image {
            commits: self.log.len(),
            synced: self.synced(),
            blobs: self.blobs.clone(),
            packs: copy_packs(&self.dir),
            what,
        });
    }
}

type Shared = Arc<Mutex<History>>;

struct WatchedKv {
    inner: MemoryKv,
    history: Shared,
    /// One commit is made at a time, as by the engine.
    one: tokio::sync::Mutex<()>,
}

#[async_trait]
impl Kv for WatchedKv {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        self.inner.get_many(keys).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        self.inner.scan(scan).await
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        let _one = self.one.lock().await;
        let sequence = self.inner.commit(mutation.clone()).await?;
        let mut history = self.history.lock();
        history.log.push(mutation);
        let what = format!("behind commit {}", history.log.len());
        history.note(what);
        Ok(sequence)
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        self.inner.snapshot().await
    }
}

#[derive(Debug)]
struct WatchedBlobs {
    inner: MemoryBlobs,
    history: Shared,
}

#[async_trait]
impl Blobs for WatchedBlobs {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BlobError> {
        self.inner.put(name, bytes.clone()).await?;
        let mut history = self.history.lock();
        history.blobs.insert(name.to_owned(), bytes);
        history.note(format!("behind the put of {name}"));
        Ok(())
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        self.inner.get(name, range).await
    }

    async fn size(&self, name: &str) -> Result<u64, BlobError> {
        self.inner.size(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), BlobError> {
        self.inner.delete(name).await?;
        let mut history = self.history.lock();
        history.blobs.remove(name);
        history.note(format!("behind the deletion of {name}"));
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Blob>, BlobError> {
        self.inner.list(prefix, after).await
    }
}

fn options(blobs: Arc<dyn Blobs>, dir: &Path) -> CloudOptions {
    let mut options = CloudOptions::new(blobs, "memory".to_owned(), dir.join("cache"), 0);
    options.late = std::time::Duration::ZERO;
    options
}

/// A payload, when it was acknowledged and from when on it may be gone, in commits.
struct Known {
    id: DataId,
    bytes: Vec<u8>,
    from: usize,
    until: usize,
}

struct Life {
    store: Arc<ChunkStore>,
    options: WriteOptions,
    history: Shared,
    known: Vec<Known>,
}

impl Life {
    async fn put(&mut self, seed: u64) {
        let bytes = content(seed, 9_000 + 4_000 * seed as usize);
        let data = build(&self.store, self.options, &bytes).await.unwrap();
        let id = publish(&self.store, data).await.unwrap();
        let (from, until) = (self.history.lock().log.len(), usize::MAX);
        self.known.push(Known { id, bytes, from, until });
    }

    async fn delete(&mut self, at: usize) {
        self.known[at].until = self.history.lock().log.len();
        super::harness::release(&self.store, self.known[at].id).await.unwrap();
    }

    async fn migrate(&self, to: Backend) {
        self.store.migrate_to(to).await.unwrap();
        self.store.migrate().await.unwrap();
    }

    async fn collect(&self) {
        for _ in 0..3 {
            self.store.collect_once().await.unwrap();
        }
    }

    /// Everything that changes packs.
    async fn live(&mut self) {
        for seed in 0..4 {
            self.put(seed).await;
        }
        // A whole pack dies.
        self.delete(1).await;
        self.collect().await;
        self.migrate(Backend::Local).await;
        self.delete(2).await;
        self.put(4).await;
        self.collect().await;
        self.migrate(Backend::Cloud).await;
        // Enough of a size to be put together.
        for seed in 5..13 {
            self.put(seed).await;
        }
        self.delete(6).await;
        self.collect().await;
    }
}

/// Opens what `image` has, with the first `commits` commits, and demands that nothing is lost and nothing is left over.
async fn survives(image: &Image, log: &[Mutation], commits: usize, known: &[Known]) {
    let kv = MemoryKv::new();
    for mutation in &log[..commits] {
        kv.commit(mutation.clone()).await.unwrap();
    }
    let (kv, blobs) = (Arc::new(kv) as Arc<dyn Kv>, Arc::new(MemoryBlobs::new()));
    for (name, bytes) in &image.blobs {
        blobs.put(name, bytes.clone()).await.unwrap();
    }
    let dir = copy_packs(image.packs.path());
    let cloud = options(Arc::clone(&blobs) as Arc<dyn Blobs>, dir.path());
    let store = open(&kv, dir.path(), Some(cloud), None).await.unwrap();
    let what = format!("{}, {commits} commits", image.what);
    assert!(store.recovered().missing.is_empty(), "{what}");
    let all_read = || async {
        for item in known
            .iter()
            .filter(|item| item.from <= commits && image.commits <= item.until)
        {
            let found = read(&store, item.id, 0..item.bytes.len() as u64).await;
            assert!(
                found.unwrap_or_else(|error| panic!("{what}: {error}")) == item.bytes,
                "{what}"
            );
        }
    };
    all_read().await;
    store.migrate().await.unwrap();
    for _ in 0..4 {
        store.collect_once().await.unwrap();
    }
    all_read().await;
    check(&store).await;
    let packs = store.packs.packs();
    let there = |backend| packs.iter().filter(|info| info.backend == backend).count();
    let left = blobs.list("packs/", None).await.unwrap();
    assert_eq!(left.len(), there(Backend::Cloud), "{what}: {left:?}");
    store.packs.seal_all().await.unwrap();
    assert_eq!(pack_files(dir.path()).len(), there(Backend::Local), "{what}");
    let rows = crate::chunk::recover::all_pack_rows(&*kv).await.unwrap();
    assert_eq!(rows.len(), packs.len(), "{what}");
}

/// I3 and I12 as well: of uploads, collection and moves there and back, an image at every commit, put and deletion, once with
/// all commits and once with those alone that were synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_crash_between_any_two_steps_in_a_cloud_loses_nothing_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir_all(dir.path().join("packs")).unwrap();
    let history: Shared = Arc::new(Mutex::new(History {
        dir: dir.path().to_owned(),
        ..History::default()
    }));
    let kv: Arc<dyn Kv> = Arc::new(WatchedKv {
        inner: MemoryKv::new(),
        history: Arc::clone(&history),
        one: tokio::sync::Mutex::default(),
    });
    let blobs: Arc<dyn Blobs> = Arc::new(WatchedBlobs {
        inner: MemoryBlobs::new(),
        history: Arc::clone(&history),
    });
    let store = open(&kv, dir.path(), Some(options(blobs, dir.path())), None)
        .await
        .unwrap();
    let domain = store.create_domain().await.unwrap();
    let fixture = Fixture {
        dir,
        kv,
        store,
        domain,
        masters: None,
    };
    let mut life = Life {
        store: Arc::clone(&fixture.store),
        options: fixture.write_options(),
        history: Arc::clone(&history),
        known: Vec::new(),
    };
    life.live().await;
    let (known, History { log, images, .. }) = (std::mem::take(&mut life.known), std::mem::take(&mut *history.lock()));
    let started = images.iter().position(|image| image.commits >= known[0].from).unwrap();
    let states = |wanted: &str| images.iter().filter(|image| image.what.contains(wanted)).count();
    assert!(
        states("put of packs") > 15 && states("deletion of packs") > 10,
        "{images:?}"
    );
    for image in &images[started..] {
        survives(image, &log, image.commits, &known).await;
        if image.synced < image.commits {
            survives(image, &log, image.synced, &known).await;
        }
    }
}
