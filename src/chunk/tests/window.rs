use std::path::PathBuf;
use std::sync::Arc;

use super::harness::{check, content, open_at, options, pack_files, publish, read, release};
use crate::chunk::recover::pack_rows;
use crate::chunk::{ChunkStore, Retention, WriteOptions};
use crate::clock::{Clock, ClockHand, Timestamp};
use crate::ids::{DataId, DomainId, PackId};
use crate::kv::Kv;
use crate::kv::memory::MemoryKv;
use crate::limits::MIB;
use crate::meta::pack::PackState;

const WINDOW_MS: u64 = 60_000;

/// Keeps packs for a minute.
#[derive(Debug)]
struct Minute(Clock);

impl Retention for Minute {
    fn may_delete(&self, _: PackId, condemned: Timestamp) -> bool {
        self.0.now().unix_ms() >= condemned.unix_ms() + WINDOW_MS
    }
}

/// A store with a restore window, and a payload in packs that were condemned.
struct Kept {
    dir: tempfile::TempDir,
    kv: Arc<dyn Kv>,
    clock: Clock,
    hand: ClockHand,
    domain: DomainId,
    bytes: Vec<u8>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Kept {
    async fn new() -> (Self, Arc<ChunkStore>) {
        let (clock, hand) = Clock::manual(1_700_000_000_000);
        let mut kept = Self {
            dir: tempfile::tempdir().unwrap(),
            kv: Arc::new(MemoryKv::new()),
            clock,
            hand,
            domain: DomainId(0),
            bytes: content(1, MIB),
            files: Vec::new(),
        };
        let store = kept.open().await;
        kept.domain = store.create_domain().await.unwrap();
        let id = kept.put(&store).await;
        store.packs.seal_all().await.unwrap();
        let files = pack_files(kept.dir.path());
        kept.files = files
            .into_iter()
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        release(&store, id).await.unwrap();
        let report = store.collect_once().await.unwrap();
        assert_eq!((report.packs_deleted, report.waiting), (0, kept.files.len() as u64));
        (kept, store)
    }

    async fn open(&self) -> Arc<ChunkStore> {
        let mut options = options(self.dir.path());
        options.retention = Arc::new(Minute(self.clock.clone()));
        open_at(Arc::clone(&self.kv), options, self.clock.clone()).await
    }

    async fn put(&self, store: &Arc<ChunkStore>) -> DataId {
        let options = WriteOptions {
            domain: self.domain,
            profile: crate::chunk::chunker::Profile::General,
            expected_bytes: None,
            compression: None,
            hint: crate::chunk::codec::Hint::Unknown,
        };
        let data = super::harness::build(store, options, &self.bytes).await.unwrap();
        publish(store, data).await.unwrap()
    }

    fn are_there(&self) -> bool {
        self.files
            .iter()
            .all(|(path, bytes)| std::fs::read(path).is_ok_and(|found| found == *bytes))
    }

    fn are_gone(&self) -> bool {
        self.files.iter().all(|(path, _)| !path.exists())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_condemned_pack_stays_as_long_as_the_restore_window_and_goes_after_it() {
    let (kept, mut store) = Kept::new().await;
    for restart in [false, true, true] {
        if restart {
            drop(store);
            store = kept.open().await;
        }
        kept.hand.advance_ms(WINDOW_MS / 3 - 1);
        let report = store.collect_once().await.unwrap();
        assert!(kept.are_there() && report.waiting > 0 && report.packs_deleted == 0);
        let debt = store.gc_status().await.unwrap().debt;
        assert_eq!(debt.condemned, kept.files.len() as u64);
        assert!(debt.condemned_bytes > MIB as u64 && debt.dead_bytes == 0, "{debt:?}");
        check(&store).await;
    }
    kept.hand.advance_ms(3);
    let report = store.collect_once().await.unwrap();
    assert!(kept.are_gone() && report.packs_deleted > 0, "{report:?}");
    assert!(pack_rows(&*kept.kv).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_an_upload_of_the_same_bytes_does_not_revive_a_condemned_pack() {
    let (kept, store) = Kept::new().await;
    let condemned = pack_rows(&*kept.kv).await.unwrap();
    let again = kept.put(&store).await;
    let rows = pack_rows(&*kept.kv).await.unwrap();
    assert!(rows.len() > condemned.len());
    for pack in condemned.keys() {
        assert_eq!(rows[pack].row.state, PackState::Condemned);
    }
    drop(store);
    let store = kept.open().await;
    let rows = pack_rows(&*kept.kv).await.unwrap();
    for pack in condemned.keys() {
        assert_eq!(rows[pack].row.state, PackState::Condemned);
    }
    kept.hand.advance_ms(WINDOW_MS);
    store.collect_once().await.unwrap();
    assert!(kept.are_gone());
    assert!(read(&store, again, 0..MIB as u64).await.unwrap() == kept.bytes);
    check(&store).await;
}
