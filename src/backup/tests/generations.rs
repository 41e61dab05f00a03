//! Two gateways with one store, and clocks that were set back.

use std::sync::Arc;
use std::time::Duration;

use super::site::{START_MS, Site, options, restored, try_restore, try_restore_of};
use crate::backup::{Choice, RestoreError, Wanted};
use crate::blob::Blobs;
use crate::blob::memory::MemoryBlobs;

const WINDOW_MS: u64 = 3_600_000;

fn degraded(site: &Site) -> String {
    site.backup.as_ref().unwrap().0.degraded().unwrap_or_default()
}

async fn wait(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

/// A restored copy that is served beside its living original harms neither backup, and both say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_gateways_with_one_store_keep_both_backups_and_tell() {
    let blobs = Arc::new(MemoryBlobs::new());
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    let original = Site::new(shared(), options()).await;
    let last = original.put(0).await;
    original.shipped(last).await;
    let (dir, first) = try_restore(shared(), Wanted::Last).await.unwrap();
    let copy = Site::open(dir, Some((shared(), options())), START_MS + 1000).await;
    let last = copy.put(1).await;
    copy.shipped(last).await;
    wait("the original hears of the copy", async || {
        degraded(&original).contains("newer generation")
    })
    .await;
    assert_eq!(degraded(&copy), "");

    original.hand.advance_ms(2000);
    let last = original.put(2).await;
    original.shipped(last).await;
    wait("the copy hears of the original", async || {
        degraded(&copy).contains(&format!("generation {}", first.generation))
    })
    .await;
    let error = try_restore(shared(), Wanted::Last).await.unwrap_err();
    let told = error.to_string();
    assert!(
        told.contains(&first.generation.to_string()) && told.contains("--generation"),
        "{told}"
    );
    let RestoreError::Rivals { newest, others } = error else {
        panic!("{told}");
    };
    assert_eq!(others.len(), 2);
    for (generation, items) in [(first.generation, [0, 2]), (newest.0, [0, 1])] {
        let choice = Choice {
            generation: Some(generation),
            ..Choice::default()
        };
        let (dir, _) = try_restore_of(shared(), choice, false).await.unwrap();
        let site = Site::open(dir, None, START_MS).await;
        assert_eq!(site.items().await, items);
        drop(site.kill().await);
    }
    // Before the copy began there was one history.
    let at = Wanted::At(crate::clock::Timestamp::from_unix_ms(START_MS + 500));
    assert_eq!(restored(shared(), at).await.0, [0]);

    copy.hand.advance_ms(2 * WINDOW_MS);
    let last = copy.put(3).await;
    copy.shipped(last).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let choice = Choice {
        generation: Some(first.generation),
        ..Choice::default()
    };
    drop(try_restore_of(shared(), choice, false).await.unwrap());
    drop(original.kill().await);
    drop(copy.kill().await);
}

/// A generation that somebody removed is not silently gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_whose_generation_is_gone_says_so() {
    let blobs = Arc::new(MemoryBlobs::new());
    let site = Site::new(Arc::clone(&blobs) as Arc<dyn Blobs>, options()).await;
    let last = site.put(0).await;
    site.shipped(last).await;
    for blob in blobs.list("index/", None).await.unwrap() {
        blobs.delete(&blob.name).await.unwrap();
    }
    wait("it is told", async || degraded(&site).contains("was removed")).await;
    drop(site.kill().await);
}

/// Each life's clock stands before the one of the life before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clocks_that_go_back_neither_restore_an_older_state_nor_remove_the_live_log() {
    let blobs = Arc::new(MemoryBlobs::new());
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    let often = || crate::backup::BackupOptions {
        checkpoint_log_bytes: 1,
        window: Duration::ZERO,
        ..options()
    };
    let site = Site::new(shared(), often()).await;
    let last = site.put(0).await;
    site.shipped(last).await;
    let dir = site.kill().await;
    // The end of the run is damaged, so that another one begins: it must come behind.
    let all = blobs.list("", None).await.unwrap();
    let end = all.iter().rfind(|blob| blob.name.contains("/log/")).unwrap();
    blobs.put(&end.name, vec![7; end.bytes as usize].into()).await.unwrap();
    let site = Site::open(dir, Some((shared(), often())), START_MS - 10_000_000).await;
    for seed in 1..6 {
        let last = site.put(seed).await;
        site.shipped(last).await;
        site.hand.advance_ms(1000);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(site.kill().await);
    assert_eq!(restored(shared(), Wanted::Last).await.0, [0, 1, 2, 3, 4, 5]);

    let (dir, first) = try_restore(shared(), Wanted::Last).await.unwrap();
    let site = Site::open(dir, Some((shared(), often())), START_MS - 20_000_000).await;
    let last = site.put(6).await;
    site.shipped(last).await;
    drop(site.kill().await);
    let (items, second) = restored(shared(), Wanted::Last).await;
    assert_eq!(items, [0, 1, 2, 3, 4, 5, 6]);
    assert!(second.generation > first.generation);
}
