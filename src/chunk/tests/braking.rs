use std::sync::Arc;

use super::harness::{Fixture, content, pack_files, read};
use crate::chunk::CollectError;
use crate::chunk::index::page;
use crate::chunk::recover::pack_rows;
use crate::ids::DataId;
use crate::kv::fault::FaultKv;
use crate::kv::memory::MemoryKv;
use crate::kv::{Kv, Mutation};
use crate::limits::MIB;
use crate::meta::key::{self, PackStatKind, Table, UsageKind, UsageScope};

/// Packs of which much is dead, all sealed.
async fn fixture() -> (Fixture, Vec<(DataId, Vec<u8>)>) {
    let fixture = Fixture::new().await;
    let kept = fixture.put_and_delete_most().await;
    fixture.store.packs.seal_all().await.unwrap();
    (fixture, kept)
}

async fn add(fixture: &Fixture, counter: bytes::Bytes, delta: i64) {
    let mut mutation = Mutation::new();
    mutation.add(counter, delta);
    fixture.kv.commit(mutation).await.unwrap();
}

/// Collection is stopped, tells it, deletes nothing, and stays so over a restart.
async fn is_stopped(fixture: Fixture) -> Fixture {
    let before = pack_files(fixture.dir.path());
    for _ in 0..2 {
        let outcome = fixture.store.collect_once().await;
        assert!(matches!(outcome, Err(CollectError::Stopped(_))), "{outcome:?}");
    }
    assert!(fixture.store.degraded().unwrap().starts_with("collection is stopped: "));
    let fixture = fixture.restart().await;
    assert!(fixture.store.degraded().unwrap().starts_with("collection is stopped: "));
    assert!(fixture.store.collect_once().await.is_err());
    fixture.store.refresh_gc_metrics().await.unwrap();
    assert_eq!(fixture.store.metrics.gc.stopped.get(), 1);
    for file in before {
        assert!(file.exists());
    }
    fixture
}

/// Goes on when it is told to, and only then.
async fn goes_on(fixture: &Fixture, kept: &[(DataId, Vec<u8>)]) {
    assert!(fixture.store.resume_collection().await.unwrap());
    assert!(!fixture.store.resume_collection().await.unwrap());
    assert_eq!(fixture.store.degraded(), None);
    assert!(fixture.collect().await.packs_deleted > 0);
    for (id, bytes) in kept {
        assert!(fixture.get(*id, 0..bytes.len() as u64).await == *bytes);
    }
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_chunks_that_lost_their_rows_stop_collection_and_are_not_deleted() {
    let (fixture, kept) = fixture().await;
    // What is garbage goes first, so that only what is needed loses its row.
    let epoch = fixture.store.epoch().await.unwrap();
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    fixture.store.unwind(epoch, 1000, until).await.unwrap();
    let rows = page(&*fixture.kv, key::table(Table::Chunk), 4000).await.unwrap();
    let mut mutation = Mutation::new();
    rows.iter().for_each(|row| mutation.delete(row.key.clone()));
    fixture.kv.commit(mutation).await.unwrap();
    let fixture = is_stopped(fixture).await;
    // As a check with --repair does.
    fixture.store.rebuild_index().await.unwrap();
    goes_on(&fixture, &kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_that_do_not_add_up_stop_collection() {
    let (fixture, kept) = fixture().await;
    let stored = key::usage(UsageScope::Store, UsageKind::StoredBytes, 0);
    add(&fixture, stored, MIB as i64).await;
    let fixture = is_stopped(fixture).await;
    fixture.store.rebuild_index().await.unwrap();
    goes_on(&fixture, &kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_disagreement_keeps_its_pack_and_no_other() {
    let (fixture, kept) = fixture().await;
    let odd = *pack_rows(&*fixture.kv).await.unwrap().keys().next().unwrap();
    add(&fixture, key::pack_stat(odd, PackStatKind::Live), 100).await;
    let report = fixture.collect().await;
    assert_eq!(report.stuck, [odd]);
    assert!(report.packs_deleted > 0);
    let status = fixture.store.gc_status().await.unwrap();
    assert!(
        status.stuck[0].pack == odd && status.stuck[0].why.contains("counter"),
        "{status:?}"
    );
    for (id, bytes) in kept {
        assert!(fixture.get(id, 0..bytes.len() as u64).await == bytes);
    }
}

/// An error is never read as absence: whichever read of a run fails, the run ends, nothing that is needed is gone, and
/// the next one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_any_read_that_fails_ends_the_run() {
    let bytes = content(1, MIB / 4);
    let mut reads = 0;
    loop {
        let kv = Arc::new(FaultKv::new(MemoryKv::new()));
        let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
        let id = fixture.put(&bytes).await;
        for seed in 2..4 {
            let doomed = fixture.put(&content(seed, MIB / 4)).await;
            fixture.delete(doomed).await;
        }
        fixture.store.packs.seal_all().await.unwrap();
        kv.fail_read_after(reads);
        let outcome = fixture.store.collect_once().await;
        if kv.read_fault_is_left() {
            assert!(outcome.unwrap().packs_deleted > 0);
            break;
        }
        assert!(outcome.is_err(), "read {reads}: {outcome:?}");
        let told = fixture.store.gc_status().await.unwrap().last.unwrap().error.unwrap();
        assert!(told.contains("injected"), "{told}");
        assert!(read(&fixture.store, id, 0..bytes.len() as u64).await.unwrap() == bytes);
        fixture.collect().await;
        let usage = fixture.store.usage().await.unwrap();
        assert!(
            usage.pack_bytes * 100 <= usage.stored_bytes * 118,
            "read {reads}: {usage:?}"
        );
        assert!(read(&fixture.store, id, 0..bytes.len() as u64).await.unwrap() == bytes);
        fixture.check().await;
        reads += 1;
    }
    assert!(reads > 40, "{reads}");
}
