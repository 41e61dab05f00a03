//! What is deleted stays in the backup as long as a restore may want it, and then goes.

use std::sync::Arc;
use std::time::Duration;

use super::site::{START_MS, Site, options, restored};
use crate::backup::{BackupOptions, Wanted};
use crate::blob::Blobs;
use crate::blob::memory::MemoryBlobs;
use crate::clock::Timestamp;
use crate::limits::KIB;

const WINDOW_MS: u64 = 3_600_000;

async fn count(blobs: &dyn Blobs, folder: &str) -> usize {
    let all = blobs.list("", None).await.unwrap();
    all.iter().filter(|blob| blob.name.contains(folder)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deleted_packs_and_old_checkpoints_go_after_the_window() {
    let blobs = Arc::new(MemoryBlobs::new());
    let often = BackupOptions {
        window: Duration::from_millis(WINDOW_MS),
        checkpoint_log_bytes: 64 * KIB as u64,
        ..options()
    };
    let site = Site::new(Arc::clone(&blobs) as Arc<dyn Blobs>, often).await;
    for seed in 0..10 {
        let last = site.put(seed).await;
        site.shipped(last).await;
    }
    site.until(|status| status.durable_seq == status.restorable_seq.unwrap_or(0))
        .await;
    site.hand.advance_ms(60_000);
    let before = Wanted::At(Timestamp::from_unix_ms(START_MS + 30_000));
    for seed in 0..8 {
        site.delete(seed).await;
    }
    site.collect().await;
    let last = site.put(20).await;
    site.shipped(last).await;
    for _ in 0..200 {
        if count(&*blobs, "/gone/").await > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(count(&*blobs, "/gone/").await > 0);
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    assert_eq!(restored(shared(), Wanted::Last).await.0, [8, 9, 20]);
    assert_eq!(restored(shared(), before).await.0, (0..10).collect::<Vec<_>>());

    let packs = count(&*blobs, "/packs/").await;
    site.hand.advance_ms(WINDOW_MS + 60_000);
    for seed in 21..25 {
        let last = site.put(seed).await;
        site.shipped(last).await;
        site.hand.advance_ms(WINDOW_MS + 60_000);
    }
    for _ in 0..500 {
        if count(&*blobs, "/gone/").await == 0 && count(&*blobs, "/checkpoints/").await <= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(count(&*blobs, "/gone/").await, 0);
    assert!(count(&*blobs, "/checkpoints/").await <= 2);
    assert!(count(&*blobs, "/packs/").await < packs);
    drop(site.kill().await);
    assert_eq!(restored(shared(), Wanted::Last).await.0, [8, 9, 20, 21, 22, 23, 24]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_generation_that_reaches_back_over_the_window_removes_those_before() {
    let blobs = Arc::new(MemoryBlobs::new());
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    let site = Site::new(shared(), options()).await;
    let last = site.put(0).await;
    site.shipped(last).await;
    drop(site.kill().await);
    let (dir, first) = super::site::try_restore(shared(), Wanted::Last).await.unwrap();
    let site = Site::open(dir, Some((shared(), options())), START_MS + 1000).await;
    let last = site.put(1).await;
    site.shipped(last).await;
    let old = format!("{}/", first.generation);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(count(&*blobs, &old).await > 0, "it is inside the window");
    site.hand.advance_ms(2 * WINDOW_MS);
    for _ in 0..500 {
        if count(&*blobs, &first.generation.to_string()).await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(count(&*blobs, &first.generation.to_string()).await, 0);
    drop(site.kill().await);
    assert_eq!(restored(shared(), Wanted::Last).await.0, [0, 1]);
}
