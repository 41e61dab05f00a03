use std::time::Duration;

use super::harness::{Fixture, content, pack_files};
use crate::chunk::pack::PackState as FileState;
use crate::limits::MIB;

/// Puts `count` payloads of one MiB and deletes all but every `keep`th; returns those that stay.
async fn leave_some(fixture: &Fixture, count: u64, keep: u64) -> Vec<(crate::ids::DataId, Vec<u8>)> {
    let mut kept = Vec::new();
    for seed in 0..count {
        let bytes = content(1000 + seed, MIB);
        let id = fixture.put(&bytes).await;
        if seed % keep == 0 {
            kept.push((id, bytes));
        } else {
            fixture.delete(id).await;
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_of_deleted_data_comes_back() {
    let fixture = Fixture::new().await;
    let kept = leave_some(&fixture, 16, 4).await;
    let before = fixture.store.usage().await.unwrap();
    let report = fixture.collect().await;
    assert!(report.packs_deleted > 0 && report.stuck.is_empty(), "{report:?}");
    let after = fixture.store.usage().await.unwrap();
    assert!(
        after.pack_bytes * 100 <= after.stored_bytes * 118,
        "{before:?} {after:?}"
    );
    fixture.check().await;
    for (id, bytes) in &kept {
        assert!(fixture.get(*id, 0..bytes.len() as u64).await == *bytes);
    }
    // The stale hints of the segments are found out again after a restart.
    let fixture = fixture.restart().await;
    for (id, bytes) in &kept {
        assert!(fixture.get(*id, 0..bytes.len() as u64).await == *bytes);
    }
    fixture.check().await;
    for (id, _) in kept {
        fixture.delete(id).await;
    }
    fixture.collect().await;
    let usage = fixture.store.usage().await.unwrap();
    assert_eq!((usage.unique_bytes, usage.stored_bytes, usage.pack_bytes), (0, 0, 0));
    assert!(pack_files(fixture.dir.path()).len() <= 2);
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_on_dying_content_is_never_lost() {
    let fixture = Fixture::new().await;
    let bytes = content(1, 2 * MIB);
    let first = fixture.put(&bytes).await;
    // A segment hit is looked up, its last reference goes, and only then the hit is committed: the commit is refused
    // and the bytes are written again. Many rounds, so that the steps meet in many orders.
    let mut last = first;
    for _ in 0..20 {
        let (store, options) = (fixture.store.clone(), fixture.write_options());
        let again = bytes.clone();
        let upload = tokio::spawn(async move { super::harness::build(&store, options, &again).await });
        fixture.delete(last).await;
        let (_, built) = tokio::join!(fixture.store.collect_once(), upload);
        last = super::harness::publish(&fixture.store, built.unwrap().unwrap())
            .await
            .unwrap();
        assert!(fixture.get(last, 0..bytes.len() as u64).await == bytes);
        fixture.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_runs_by_itself_and_stops() {
    let fixture = Fixture::new().await;
    let collector = fixture.store.start_collector();
    leave_some(&fixture, 6, 100).await;
    let mut tries = 0;
    while fixture.store.usage().await.unwrap().stored_bytes > MIB as u64 + 200_000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        tries += 1;
        assert!(tries < 500, "nothing was collected");
    }
    collector.stop().await;
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_that_is_dead_is_left_alone() {
    let fixture = Fixture::new().await;
    leave_some(&fixture, 2, 1).await;
    let doomed = fixture.put(&content(77, 100_000)).await;
    fixture.delete(doomed).await;
    let report = fixture.collect().await;
    assert_eq!((report.unwound, report.packs_deleted), (1, 0));
    assert!(
        fixture
            .store
            .packs
            .packs()
            .iter()
            .any(|pack| pack.state == FileState::Open)
    );
}
