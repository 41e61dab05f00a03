//! Whatever arrived, a restore gives a state that was, or says that there is none.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::site::{Recording, START_MS, Site, after, options, restored, try_restore};
use crate::backup::{BackupOptions, RestoreError, Wanted};
use crate::blob::Blobs;
use crate::blob::memory::MemoryBlobs;
use crate::clock::Timestamp;
use crate::limits::MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_comes_back_and_its_gateway_begins_a_generation_of_its_own() {
    let blobs: Arc<dyn Blobs> = Arc::new(Recording::default());
    let site = Site::new(Arc::clone(&blobs), options()).await;
    let mut last = site.put(0).await;
    for seed in 1..12 {
        last = site.put(seed).await;
    }
    site.shipped(last).await;
    drop(site.kill().await);
    let (dir, first) = try_restore(Arc::clone(&blobs), Wanted::Last).await.unwrap();
    assert!(first.point.sequence >= last);

    let site = Site::open(dir, Some((Arc::clone(&blobs), options())), START_MS + 1000).await;
    assert_eq!(site.items().await, (0..12).collect::<Vec<_>>());
    site.delete(3).await;
    let last = site.put(12).await;
    site.shipped(last).await;
    let (items, second) = restored(blobs, Wanted::Last).await;
    assert_eq!(items, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(first.store, second.store);
    assert!(second.generation > first.generation);
    drop(site.kill().await);
}

/// The state after each commit is known; after each blob that arrived or went, a restore must give one of them, never
/// one that is older than what the blobs before gave, and in the end the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_prefix_of_what_was_shipped_restores_to_a_state_that_was() {
    restores_to_states_that_were(None).await;
}

/// The same of packs in a cloud, which the restored stores do not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_prefix_of_what_was_shipped_of_packs_in_a_cloud_restores_to_a_state_that_was() {
    restores_to_states_that_were(Some(Arc::new(MemoryBlobs::new()))).await;
}

async fn restores_to_states_that_were(cloud: Option<Arc<dyn Blobs>>) {
    let recording = Arc::new(Recording::default());
    let often = BackupOptions {
        checkpoint_log_bytes: MIB as u64 / 4,
        window: std::time::Duration::ZERO,
        ..options()
    };
    let backup = Some((Arc::clone(&recording) as Arc<dyn Blobs>, often));
    let dir = tempfile::tempdir().unwrap();
    let site = Site::try_open(dir, backup, cloud, START_MS).await.unwrap();
    let mut states = BTreeMap::new();
    let mut alive: Vec<u64> = Vec::new();
    let mut last = site.put(100).await;
    alive.push(100);
    states.insert(last, alive.clone());
    for step in 0..24u64 {
        site.hand.advance_ms(1000);
        if step % 4 == 3 {
            let seed = alive.remove(0);
            site.delete(seed).await;
            last = site.kv.log_tail().durable().sequence;
            site.collect().await;
        } else {
            last = site.put(step).await;
            alive.push(step);
        }
        alive.sort_unstable();
        states.insert(last, alive.clone());
        if step % 5 == 0 {
            site.shipped(last).await;
        }
    }
    site.shipped(last).await;
    drop(site.kill().await);
    let told = recording.told();
    let mut tried = 0;
    let mut newest = None;
    for count in 0..=told.len() {
        // The first blobs one by one, then some, and the last.
        if count > 12 && count % 11 != 0 && count != told.len() {
            continue;
        }
        match try_restore(after(&told[..count]).await, Wanted::Last).await {
            Err(RestoreError::Empty | RestoreError::NoPoint(_)) => assert_eq!(newest, None, "a state was lost"),
            Err(error) => panic!("after {count} blobs: {error}"),
            Ok((dir, found)) => {
                assert!(newest <= Some(found.point.sequence), "after {count} blobs");
                newest = Some(found.point.sequence);
                let site = Site::open(dir, None, START_MS).await;
                let state = states
                    .range(..=found.point.sequence)
                    .next_back()
                    .map(|(_, items)| items.clone());
                assert_eq!(site.items().await, state.unwrap_or_default(), "after {count} blobs");
                drop(site.kill().await);
                tried += 1;
            }
        }
    }
    assert!(tried > 5, "{tried} of {}", told.len());
    assert!(newest >= Some(last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restore_goes_back_to_a_time() {
    let blobs: Arc<dyn Blobs> = Arc::new(Recording::default());
    let site = Site::new(Arc::clone(&blobs), options()).await;
    let mut times = Vec::new();
    for seed in 0..6 {
        let sequence = site.put(seed).await;
        if seed == 4 {
            site.delete(1).await;
            site.collect().await;
        }
        site.shipped(sequence).await;
        site.until(|status| status.durable_seq == status.restorable_seq.unwrap_or(0))
            .await;
        times.push(site.hand_ms());
        site.hand.advance_ms(10_000);
    }
    for (seed, time) in times.iter().enumerate() {
        for late_ms in [0, 4_000] {
            let at = Wanted::At(Timestamp::from_unix_ms(time + late_ms));
            let (items, found) = restored(Arc::clone(&blobs), at).await;
            let wanted: Vec<u64> = (0..=seed as u64).filter(|item| seed < 4 || *item != 1).collect();
            assert_eq!(items, wanted);
            assert!(found.point.time.unix_ms() <= time + late_ms);
        }
    }
    let before = Wanted::At(Timestamp::from_unix_ms(START_MS - 1));
    assert!(matches!(
        try_restore(Arc::clone(&blobs), before).await,
        Err(RestoreError::NoPoint(_))
    ));
    drop(site.kill().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broken_chain_is_told_and_not_passed_over() {
    let blobs: Arc<dyn Blobs> = Arc::new(Recording::default());
    let site = Site::new(Arc::clone(&blobs), options()).await;
    for seed in 0..6 {
        let last = site.put(seed).await;
        site.shipped(last).await;
        site.hand.advance_ms(10_000);
    }
    drop(site.kill().await);
    let names: Vec<String> = blobs
        .list("", None)
        .await
        .unwrap()
        .into_iter()
        .map(|blob| blob.name)
        .collect();
    let log: Vec<&String> = names.iter().filter(|name| name.contains("/log/")).collect();
    let broken = log[log.len() - 3];
    let bytes = blobs.get(broken, None).await.unwrap();
    let mut flipped = bytes.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    blobs.put(broken, flipped.into()).await.unwrap();
    let error = try_restore(Arc::clone(&blobs), Wanted::Last).await.unwrap_err();
    assert!(
        matches!(&error, RestoreError::BrokenLog { whole: Some(_), .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("is damaged") && error.to_string().contains("--at"),
        "{error}"
    );
    blobs.delete(broken).await.unwrap();
    let error = try_restore(Arc::clone(&blobs), Wanted::Last).await.unwrap_err();
    let RestoreError::BrokenLog { whole: Some(whole), .. } = error else {
        panic!("{error}");
    };
    let (items, found) = restored(Arc::clone(&blobs), Wanted::At(whole.time)).await;
    assert_eq!(found.point, whole);
    assert!(!items.is_empty() && items.len() < 6);
    blobs.put(broken, bytes).await.unwrap();
    let piece = names.iter().find(|name| name.contains("/packs/")).unwrap();
    blobs.put(piece, vec![0; 10].into()).await.unwrap();
    let error = try_restore(Arc::clone(&blobs), Wanted::Last).await.unwrap_err();
    assert!(matches!(error, RestoreError::Pack { .. }), "{error}");
}

impl Site {
    fn hand_ms(&self) -> u64 {
        self.clock.now().unix_ms()
    }
}
