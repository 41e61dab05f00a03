//! Shipping to what fails, and by what is killed.

use std::sync::Arc;
use std::time::Duration;

use super::site::{START_MS, Site, options, restored};
use crate::backup::{BackupOptions, Wanted};
use crate::blob::Blobs;
use crate::blob::fault::{BlobFault, BlobFaultRates, Call, FaultBlobs};
use crate::blob::memory::MemoryBlobs;
use crate::limits::MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_fail_hang_or_lose_their_answer_are_made_again() {
    let faults = Arc::new(FaultBlobs::new(MemoryBlobs::new()));
    let lost = [
        BlobFault::Pass,
        BlobFault::Hang,
        BlobFault::AnswerLost,
        BlobFault::Unavailable,
        BlobFault::Refused,
    ];
    faults.script(Call::Put, lost.into_iter().cycle().take(15));
    faults.script(Call::List, [BlobFault::Unavailable]);
    let site = Site::new(Arc::clone(&faults) as Arc<dyn Blobs>, options()).await;
    for seed in 0..4 {
        let last = site.put(seed).await;
        site.shipped(last).await;
    }
    faults.set_rates(BlobFaultRates {
        unavailable: 100,
        answer_lost: 200,
    });
    let mut last = site.put(4).await;
    for seed in 5..10 {
        last = site.put(seed).await;
    }
    site.shipped(last).await;
    drop(site.kill().await);
    faults.set_rates(BlobFaultRates::default());
    assert_eq!(restored(faults, Wanted::Last).await.0, (0..10).collect::<Vec<_>>());
}

/// Killed at any moment, the next process goes on where the backup ends, without a new checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_process_is_followed_by_one_that_goes_on() {
    let blobs = Arc::new(MemoryBlobs::new());
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    let mut site = Site::new(shared(), options()).await;
    let last = site.put(0).await;
    site.shipped(last).await;
    for life in 1..8u64 {
        let last = site.put(life).await;
        if life % 3 == 0 {
            site.shipped(last).await;
        } else {
            tokio::time::sleep(Duration::from_millis(life * 3)).await;
        }
        let dir = site.kill().await;
        site = Site::open(dir, Some((shared(), options())), START_MS + life * 1000).await;
    }
    let last = site.put(8).await;
    site.shipped(last).await;
    drop(site.kill().await);
    let checkpoints = blobs.list("", None).await.unwrap();
    let checkpoints = checkpoints
        .iter()
        .filter(|blob| blob.name.contains("/checkpoints/"))
        .count();
    assert_eq!(checkpoints, 1);
    assert_eq!(restored(shared(), Wanted::Last).await.0, (0..9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_that_is_down_keeps_a_bounded_log_and_begins_anew() {
    let faults = Arc::new(FaultBlobs::new(MemoryBlobs::new()));
    let small = BackupOptions {
        log_max_bytes: MIB as u64,
        ..options()
    };
    let site = Site::new(Arc::clone(&faults) as Arc<dyn Blobs>, small).await;
    let first = site.put(0).await;
    site.shipped(first).await;
    faults.set_down(true);
    let (backup, _) = site.backup.as_ref().unwrap();
    let mut seed = 1;
    while backup.status().breaks == 0 {
        site.put(seed).await;
        seed += 1;
        assert!(seed < 190, "{:?}", backup.status());
        let mut filler = crate::kv::Mutation::new();
        filler.put(crate::meta::key::store("filler"), vec![seed as u8; 300_000]);
        crate::kv::Kv::commit(&*site.kv, filler).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        backup.degraded().unwrap().contains("broke off"),
        "{:?}",
        backup.degraded()
    );
    site.until(|status| status.held_log_bytes == 0 && status.trouble.is_some())
        .await;
    faults.set_down(false);
    let last = site.put(seed).await;
    site.shipped(last).await;
    site.until(|status| status.state == "following").await;
    drop(site.kill().await);
    assert_eq!(restored(faults, Wanted::Last).await.0, (0..=seed).collect::<Vec<_>>());
}
