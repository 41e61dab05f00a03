//! The backup of a store whose packs are in a cloud: a restore needs nothing of it, and touches nothing there.

use std::sync::Arc;
use std::time::Duration;

use super::site::{START_MS, Site, options, restored, try_restore};
use crate::backup::Wanted;
use crate::blob::fault::{BlobFault, Call, FaultBlobs};
use crate::blob::memory::MemoryBlobs;
use crate::blob::{Blob, Blobs};
use crate::chunk::OpenError;
use crate::chunk::pack::OpenError as PacksError;
use crate::meta::pack::Backend;

async fn all(blobs: &dyn Blobs) -> Vec<Blob> {
    blobs.list("", None).await.unwrap()
}

async fn migrate(site: &Site, to: Backend) {
    site.store.migrate_to(to).await.unwrap();
    site.store.migrate().await.unwrap();
    assert!(site.store.migrate_status().await.unwrap().to.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_in_a_cloud_comes_back_in_its_directory_and_takes_another_place() {
    let (backup, cloud) = (Arc::new(MemoryBlobs::new()), Arc::new(MemoryBlobs::new()));
    let shipped_to = || Arc::clone(&backup) as Arc<dyn Blobs>;
    let dir = tempfile::tempdir().unwrap();
    let site = Site::try_open(
        dir,
        Some((shipped_to(), options())),
        Some(Arc::clone(&cloud) as _),
        START_MS,
    )
    .await;
    let site = site.unwrap();
    for seed in 0..8 {
        site.put(seed).await;
    }
    // Some of them there and back again, and one on the way when the machine is lost.
    migrate(&site, Backend::Local).await;
    let last = site.put(8).await;
    site.shipped(last).await;
    migrate(&site, Backend::Cloud).await;
    site.delete(2).await;
    site.collect().await;
    site.store.migrate_to(Backend::Local).await.unwrap();
    let last = site.put(9).await;
    site.shipped(last).await;
    drop(site.kill().await);
    let before = all(&*cloud).await;

    let (dir, _) = try_restore(shipped_to(), Wanted::Last).await.unwrap();
    let site = Site::open(dir, None, START_MS).await;
    let items = [0, 1, 3, 4, 5, 6, 7, 8, 9];
    assert_eq!(site.items().await, items);
    let status = site.store.migrate_status().await.unwrap();
    assert!(
        status.cloud.0 == 0 && status.local.0 > 0 && status.to.is_none(),
        "{status:?}"
    );
    site.delete(4).await;
    site.collect().await;
    assert_eq!(
        all(&*cloud).await,
        before,
        "the place of the lost machine is not touched"
    );
    let dir = site.kill().await;
    // Nor is it taken by mistake.
    let taken = Site::try_open(dir, None, Some(Arc::clone(&cloud) as _), START_MS).await;
    assert!(matches!(taken.map(drop), Err(OpenError::Packs(PacksError::Cloud(_)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restored_store_moves_to_a_new_place_in_the_cloud() {
    let (backup, cloud) = (Arc::new(MemoryBlobs::new()), Arc::new(MemoryBlobs::new()));
    let dir = tempfile::tempdir().unwrap();
    let shipped_to = (Arc::clone(&backup) as Arc<dyn Blobs>, options());
    let site = Site::try_open(dir, Some(shipped_to), Some(cloud), START_MS)
        .await
        .unwrap();
    let mut last = site.put(0).await;
    for seed in 1..4 {
        last = site.put(seed).await;
    }
    site.shipped(last).await;
    drop(site.kill().await);
    let (dir, _) = try_restore(Arc::clone(&backup) as _, Wanted::Last).await.unwrap();
    let other = Arc::new(MemoryBlobs::new());
    let site = Site::try_open(dir, None, Some(Arc::clone(&other) as _), START_MS)
        .await
        .unwrap();
    migrate(&site, Backend::Cloud).await;
    assert_eq!(site.store.migrate_status().await.unwrap().local.0, 0);
    assert_eq!(site.items().await, [0, 1, 2, 3]);
    drop(site.kill().await);
}

/// The log waits for packs that the cloud does not give, and goes on when it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cloud_that_does_not_answer_holds_the_backup_up_and_loses_nothing() {
    let (backup, cloud) = (
        Arc::new(MemoryBlobs::new()),
        Arc::new(FaultBlobs::new(MemoryBlobs::new())),
    );
    let dir = tempfile::tempdir().unwrap();
    let shipped_to = (Arc::clone(&backup) as Arc<dyn Blobs>, options());
    let site = Site::try_open(dir, Some(shipped_to), Some(Arc::clone(&cloud) as _), START_MS).await;
    let site = site.unwrap();
    let first = site.put(0).await;
    site.shipped(first).await;
    // The put is done, and then nothing is given.
    cloud.script(Call::Get, [BlobFault::Unavailable; 2]);
    let last = site.put(1).await;
    let (handle, _) = site.backup.as_ref().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        handle
            .status()
            .restorable_seq
            .is_some_and(|restorable| restorable < last.0)
    );
    site.shipped(last).await;
    assert_eq!(handle.status().breaks, 0);
    drop(site.kill().await);
    assert_eq!(restored(backup, Wanted::Last).await.0, [0, 1]);
}
