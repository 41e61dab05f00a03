//! Flipped bytes in packs that were not sealed, lost packs, and a collector that goes on beside them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::harness::{Fixture, LoggedKv, check, content, copy_packs, open_on, pack_files, publish, read};
use crate::chunk::pack::ReadError as PackError;
use crate::chunk::{ChunkStore, CollectError, Difference, ReadError, WriteOptions};
use crate::ids::DataId;
use crate::kv::Kv;
use crate::limits::MIB;

const SIZE: usize = MIB / 2;

/// Two payloads in one unsealed pack, a batch each at the least, after a kill.
struct Killed {
    kv: Arc<LoggedKv>,
    packs: TempDir,
    first: (DataId, Vec<u8>),
    second: (DataId, Vec<u8>),
    options: WriteOptions,
}

impl Killed {
    async fn new() -> Self {
        let kv = Arc::new(LoggedKv::default());
        let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
        let (first, second) = (content(1, SIZE), content(2, SIZE));
        let ids = (fixture.put(&first).await, fixture.put(&second).await);
        Self {
            packs: copy_packs(fixture.dir.path()),
            kv: Arc::new(kv.after(kv.commits().await.0).await),
            first: (ids.0, first),
            second: (ids.1, second),
            options: fixture.write_options(),
        }
    }

    fn file(&self) -> PathBuf {
        pack_files(self.packs.path()).remove(0)
    }

    /// Flips the byte `behind` the last record header or frame of the file.
    fn flip(&self, magic: &[u8], behind: usize) {
        let mut bytes = std::fs::read(self.file()).unwrap();
        let last = bytes.windows(4).rposition(|found| found == magic).unwrap();
        bytes[last + behind] ^= 4;
        std::fs::write(self.file(), bytes).unwrap();
    }

    async fn open(&self) -> Arc<ChunkStore> {
        open_on(Arc::clone(&self.kv) as Arc<dyn Kv>, self.packs.path()).await
    }

    async fn upload(&self, store: &Arc<ChunkStore>, bytes: &[u8]) -> DataId {
        let data = super::harness::build(store, self.options, bytes).await.unwrap();
        publish(store, data).await.unwrap()
    }
}

async fn reads(store: &Arc<ChunkStore>, (id, bytes): &(DataId, Vec<u8>)) -> bool {
    match read(store, *id, 0..bytes.len() as u64).await {
        Ok(read) => {
            assert!(read == *bytes);
            true
        }
        Err(ReadError::Damaged { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

/// Collects until nothing is wrong any more.
async fn recovers(store: &Arc<ChunkStore>) {
    for _ in 0..4 {
        store.collect_once().await.unwrap();
    }
    assert_eq!(store.degraded(), None);
    assert_eq!(store.metrics.lost_packs.get(), 0);
    check(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_a_flipped_frame_header_loses_nothing_and_is_told() {
    let killed = Killed::new().await;
    killed.flip(b"CrnF", 40);
    let before = length(&killed.file());
    for _ in 0..2 {
        let store = killed.open().await;
        assert_eq!(length(&killed.file()), before);
        assert_eq!(store.recovered().damaged.len(), 1);
        assert!(store.degraded().unwrap().contains("is damaged"));
        assert_eq!(store.metrics.lost_packs.get(), 1);
        let pack = store.recovered().damaged[0];
        let recount = store.recount().await.unwrap();
        assert_eq!(recount.differences, [Difference::Damaged { pack }]);
        assert!(reads(&store, &killed.first).await && reads(&store, &killed.second).await);
    }
    // Every record is left, so that the collector can take the pack apart.
    let store = killed.open().await;
    recovers(&store).await;
    assert!(reads(&store, &killed.first).await && reads(&store, &killed.second).await);
    assert!(
        store
            .recovered()
            .damaged
            .iter()
            .all(|pack| !store.packs.is_whole(*pack))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_a_flipped_record_costs_one_object_until_it_is_stored_again() {
    // Payload, length, checksum; then the id, so that nobody knows which chunk is lost.
    for behind in [300, 61, 126, 30] {
        let killed = Killed::new().await;
        killed.flip(b"CrnR", behind);
        let store = killed.open().await;
        assert_eq!(store.metrics.lost_packs.get(), 1, "byte {behind}");
        assert!(reads(&store, &killed.first).await, "byte {behind}");
        assert!(!reads(&store, &killed.second).await, "byte {behind}");
        // The collector keeps the file, and the rest of it readable.
        let stuck = store.collect_once().await.unwrap().stuck;
        assert_eq!(stuck, store.recovered().damaged, "byte {behind}");
        assert!(killed.packs.path().join("packs").exists() && store.degraded().is_some());
        drop(store);
        let store = killed.open().await;
        assert_eq!(store.recovered().damaged, stuck, "byte {behind}");
        assert!(reads(&store, &killed.first).await, "byte {behind}");
        // An upload of the same bytes finds none of them usable, and so heals the object.
        let again = killed.upload(&store, &killed.second.1).await;
        assert!(reads(&store, &(again, killed.second.1.clone())).await, "byte {behind}");
        assert!(reads(&store, &killed.second).await, "byte {behind}");
        recovers(&store).await;
        assert!(reads(&store, &killed.first).await && reads(&store, &killed.second).await);
    }
}

/// The one upload that must not happen: a hit on bytes that are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_new_comes_to_rest_on_a_lost_pack() {
    let killed = Killed::new().await;
    std::fs::remove_file(killed.file()).unwrap();
    let store = killed.open().await;
    assert_eq!(store.recovered().missing.len(), 1);
    assert!(store.degraded().unwrap().contains("is missing"));
    let recount = store.recount().await.unwrap();
    assert!(matches!(recount.differences[..], [Difference::Short { found: 0, .. }]));
    assert!(!reads(&store, &killed.first).await);
    let again = killed.upload(&store, &killed.first.1).await;
    assert!(reads(&store, &(again, killed.first.1.clone())).await);
    assert!(reads(&store, &killed.first).await && !reads(&store, &killed.second).await);
    killed.upload(&store, &killed.second.1).await;
    recovers(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recount_finds_a_pack_that_was_cut_off() {
    let fixture = Fixture::new().await;
    let id = fixture.put(&content(1, MIB)).await;
    fixture.store.packs.seal_all().await.unwrap();
    fixture.check().await;
    let file = pack_files(fixture.dir.path()).remove(0);
    let half = length(&file) / 2;
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(half)
        .unwrap();
    let recount = fixture.store.recount().await.unwrap();
    assert!(
        matches!(recount.differences[..], [Difference::Short { found, .. }, Difference::Footer { .. }] if found == half)
    );
    assert!(read(&fixture.store, id, 0..MIB as u64).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_cannot_be_read_does_not_stop_the_collector() {
    let fixture = Fixture::new().await;
    let kept = fixture.put_and_delete_most().await;
    fixture.store.packs.seal_all().await.unwrap();
    let epoch = fixture.store.epoch().await.unwrap();
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    fixture.store.unwind(epoch, 1000, until).await.unwrap();
    let files = pack_files(fixture.dir.path());
    assert!(files.len() >= 3);
    // It is evacuated first in every run from now on.
    let lost = files.iter().max_by_key(|file| length(file)).unwrap();
    std::fs::rename(lost, lost.with_extension("gone")).unwrap();
    let first = fixture.collect().await;
    assert!(first.stuck.len() == 1 && first.packs_deleted > 0, "{first:?}");
    for seed in 20..24 {
        let id = fixture.put(&content(seed, MIB)).await;
        fixture.delete(id).await;
        let report = fixture.collect().await;
        assert!(report.stuck == first.stuck && report.packs_deleted > 0, "{report:?}");
    }
    assert!(fixture.store.degraded().unwrap().contains("not to be emptied"));
    std::fs::rename(lost.with_extension("gone"), lost).unwrap();
    for kept in &kept {
        assert!(reads(&fixture.store, kept).await);
    }
    // Another try is made when rows change, when it has rested, or after a start.
    let fixture = fixture.restart().await;
    let report = fixture.collect().await;
    assert!(report.stuck.is_empty() && report.packs_deleted > 0, "{report:?}");
    recovers(&fixture.store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shortage_of_memory_is_no_damage() {
    let fixture = Fixture::new().await;
    let kept = fixture.put_and_delete_most().await;
    fixture.store.packs.seal_all().await.unwrap();
    let pool = fixture.store.pool().clone();
    let held: Vec<_> = std::iter::from_fn(|| pool.try_take_leaving(1, usize::MAX)).collect();
    let error = fixture.store.collect_once().await.unwrap_err();
    assert!(matches!(error, CollectError::Read(PackError::Busy(_))), "{error}");
    drop(held);
    let report = fixture.collect().await;
    assert!(report.stuck.is_empty() && report.packs_deleted > 0, "{report:?}");
    for kept in &kept {
        assert!(reads(&fixture.store, kept).await);
    }
    assert_eq!(fixture.store.degraded(), None);
    fixture.check().await;
}
