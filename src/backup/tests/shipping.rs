//! Shipping to what fails, and by what is killed.

use std::sync::Arc;
use std::time::Duration;

use super::site::{START_MS, Site, options, restored};
use crate::backup::names::{Digest, ROWS, RowsName};
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

/// A store that takes no commit has no checkpoint: told, and tried ever more rarely.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_checkpoint_that_cannot_be_made_is_told_and_leaves_nothing() {
    let faults = Arc::new(FaultBlobs::new(MemoryBlobs::new()));
    faults.set_down(true);
    let site = Site::new(Arc::clone(&faults) as Arc<dyn Blobs>, options()).await;
    site.put(0).await;
    site.kv.shutdown().await;
    faults.set_down(false);
    site.until(|status| status.alarms.iter().any(|alarm| alarm.contains("no checkpoint")))
        .await;
    let (backup, _) = site.backup.as_ref().unwrap();
    let (failed, other) = (backup.mint(), backup.mint());
    for (checkpoint, number) in [(failed, 0), (failed, 1), (other, 0)] {
        let digest = Digest([0; 16]);
        let name = |salt| {
            RowsName {
                checkpoint,
                number,
                salt,
                digest,
            }
            .to_string()
        };
        backup.vault.put(name, "rows".into()).await.unwrap();
    }
    backup.remove_rows(failed).await.unwrap();
    let left = backup
        .vault
        .all(ROWS, |blob| RowsName::parse(&blob.name))
        .await
        .unwrap();
    assert_eq!(left.iter().map(|rows| rows.checkpoint).collect::<Vec<_>>(), [other]);
    drop(site.kill().await);
}

/// What was condemned before it had arrived is wanted by no point: not by those that were there when it was gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_point_wants_a_pack_that_was_deleted_before_it_arrived() {
    let faults = Arc::new(FaultBlobs::new(MemoryBlobs::new()));
    let site = Site::new(Arc::clone(&faults) as Arc<dyn Blobs>, options()).await;
    let last = site.put(0).await;
    site.shipped(last).await;
    faults.set_down(true);
    site.hand.advance_ms(10_000);
    for seed in 30..42 {
        site.put(seed).await;
    }
    // A moment of its own, at which the log is looked at and nothing is deleted yet.
    site.hand.advance_ms(2_000);
    site.put(42).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let between = site.clock.now();
    site.hand.advance_ms(10_000);
    let (before, _) = site.store.pack_files();
    for seed in 30..43 {
        site.delete(seed).await;
    }
    site.collect().await;
    let (after, deleted) = site.store.pack_files();
    assert!(deleted > 0 && before.iter().any(|pack| after.iter().all(|left| left.id != pack.id)));
    faults.set_down(false);
    let last = site.put(1).await;
    site.shipped(last).await;
    drop(site.kill().await);
    let shared = || Arc::clone(&faults) as Arc<dyn Blobs>;
    assert_eq!(restored(shared(), Wanted::Last).await.0, [0, 1]);
    // What had been put then may be there as far as it had arrived, and is whole.
    let (items, _) = restored(shared(), Wanted::At(between)).await;
    let wanted: Vec<u64> = std::iter::once(0).chain(30..43).take(items.len()).collect();
    assert_eq!(items, wanted);
}

/// Any error that comes again is the disk's: the rest is shipped, it is told, and what reads again arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pack_that_cannot_be_read_holds_nothing_up_and_arrives_once_it_can() {
    let faults = Arc::new(FaultBlobs::new(MemoryBlobs::new()));
    faults.set_down(true);
    let site = Site::new(Arc::clone(&faults) as Arc<dyn Blobs>, options()).await;
    for seed in 30..42 {
        site.put(seed).await;
    }
    let (files, _) = site.store.pack_files();
    let cut = files.iter().find(|file| file.is_final).unwrap();
    let path = Site::pack(&site.dir, cut.id);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(8192)
        .unwrap();
    faults.set_down(false);
    let last = site.put(42).await;
    site.shipped(last).await;
    let (backup, _) = site.backup.as_ref().unwrap();
    let told = backup.degraded().unwrap_or_default();
    assert!(
        told.contains(&cut.id.to_string()) && backup.status().unreadable_packs == 1,
        "{told} {cut:?} {:?}",
        backup.status()
    );
    std::fs::write(&path, bytes).unwrap();
    site.until(|status| status.unreadable_packs == 0 && status.alarms.is_empty())
        .await;
    drop(site.kill().await);
    assert_eq!(restored(faults, Wanted::Last).await.0, (30..43).collect::<Vec<_>>());
}

/// As `cairn check` on a gateway that is stopped: log files without a frame are left, and the run goes on behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_was_only_looked_at_goes_on_with_its_run() {
    let blobs = Arc::new(MemoryBlobs::new());
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    let site = Site::new(shared(), options()).await;
    let last = site.put(0).await;
    site.shipped(last).await;
    let dir = site.kill().await;
    Site::look(&dir).await;
    Site::look(&dir).await;
    let site = Site::open(dir, Some((shared(), options())), START_MS + 1000).await;
    let last = site.put(1).await;
    site.shipped(last).await;
    let (backup, _) = site.backup.as_ref().unwrap();
    assert_eq!(backup.status().breaks, 0);
    drop(site.kill().await);
    let all = blobs.list("", None).await.unwrap();
    let checkpoints = all.iter().filter(|blob| blob.name.contains("/checkpoints/"));
    assert_eq!(checkpoints.count(), 1);
    assert_eq!(restored(shared(), Wanted::Last).await.0, [0, 1]);
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
