//! Restores from a backup that is damaged, or that is worked on meanwhile, and restores that are interrupted.

use std::sync::Arc;

use bytes::Bytes;

use super::site::{Recording, START_MS, Site, options, restore_into, try_restore, try_restore_of};
use crate::backup::names::{CheckpointName, Digest, PieceName};
use crate::backup::{BackupOptions, Choice, RestoreError, Source, Wanted};
use crate::blob::Blobs;
use crate::limits::KIB;

/// A backup of these payloads, with a checkpoint every now and then.
async fn backup_of(seeds: std::ops::Range<u64>) -> Arc<Recording> {
    let blobs = Arc::new(Recording::default());
    let often = BackupOptions {
        checkpoint_log_bytes: 64 * KIB as u64,
        ..options()
    };
    let site = Site::new(Arc::clone(&blobs) as Arc<dyn Blobs>, often).await;
    for seed in seeds {
        let last = site.put(seed).await;
        site.shipped(last).await;
        site.until(|status| status.restorable_seq == Some(status.durable_seq))
            .await;
    }
    drop(site.kill().await);
    blobs
}

async fn names(blobs: &Recording, folder: &str) -> Vec<String> {
    let all = blobs.list("", None).await.unwrap();
    all.into_iter()
        .map(|blob| blob.name)
        .filter(|name| name.contains(folder))
        .collect()
}

async fn flip(blobs: &Recording, name: &str) -> Bytes {
    let bytes = blobs.get(name, None).await.unwrap();
    let mut flipped = bytes.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    blobs.put(name, flipped.into()).await.unwrap();
    bytes
}

async fn items(dir: tempfile::TempDir) -> Vec<u64> {
    let site = Site::open(dir, None, START_MS).await;
    let items = site.items().await;
    drop(site.kill().await);
    items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_checkpoint_of_which_something_is_lost_gives_way_to_the_one_before() {
    let blobs = backup_of(0..12).await;
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    let mut checkpoints = names(&blobs, "/checkpoints/").await;
    checkpoints.sort_by_key(|name| CheckpointName::parse(name).unwrap().checkpoint);
    assert!(checkpoints.len() > 2, "{checkpoints:?}");
    let (_, whole) = try_restore(shared(), Wanted::Last).await.unwrap();
    assert!(whole.passed_over.is_empty());
    let newest = checkpoints.last().unwrap();
    let manifest = flip(&blobs, newest).await;
    let (dir, found) = try_restore(shared(), Wanted::Last).await.unwrap();
    assert_eq!((found.point, found.passed_over.len()), (whole.point, 1));
    assert_eq!(items(dir).await, (0..12).collect::<Vec<_>>());

    blobs.put(newest, manifest).await.unwrap();
    let checkpoint = CheckpointName::parse(newest).unwrap().checkpoint;
    for rows in names(&blobs, &format!("/rows/{checkpoint}/")).await {
        blobs.delete(&rows).await.unwrap();
    }
    let (dir, found) = try_restore(shared(), Wanted::Last).await.unwrap();
    assert_eq!((found.point, found.passed_over.len()), (whole.point, 1));
    assert_eq!(items(dir).await, (0..12).collect::<Vec<_>>());
    for name in checkpoints {
        flip(&blobs, &name).await;
    }
    let error = try_restore(shared(), Wanted::Last).await.unwrap_err();
    assert!(error.is_answer() && matches!(error, RestoreError::Vault(_)), "{error}");
}

/// The pieces of the pack that has most of them, in their order.
async fn most_pieces(blobs: &Recording) -> Vec<(String, PieceName)> {
    let mut packs: std::collections::BTreeMap<_, Vec<_>> = std::collections::BTreeMap::new();
    for name in names(blobs, "/packs/").await {
        let piece = PieceName::parse(&name).unwrap();
        packs.entry(piece.pack).or_default().push((name, piece));
    }
    packs.into_values().max_by_key(Vec::len).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lossy_restore_brings_all_that_there_is_behind_a_hole() {
    let blobs = backup_of(0..12).await;
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    let pieces = most_pieces(&blobs).await;
    assert!(pieces.len() > 3, "{pieces:?}");
    let lost = &pieces[1];
    blobs.delete(&lost.0).await.unwrap();
    let error = try_restore(shared(), Wanted::Last).await.unwrap_err();
    assert!(matches!(error, RestoreError::Pack { .. }), "{error}");
    let (dir, found) = try_restore_of(shared(), Choice::default(), true).await.unwrap();
    assert_eq!(found.lacks.len(), 1, "{:?}", found.lacks);
    let restored = std::fs::read(Site::pack(&dir, lost.1.pack)).unwrap();
    for (name, piece) in pieces.iter().filter(|piece| piece.0 != lost.0) {
        let there = &restored[piece.start as usize..piece.end as usize];
        assert!(blobs.get(name, None).await.unwrap() == there, "{name}");
    }
}

/// As the gateway does beside a drill, between its listing and its reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pieces_that_are_put_together_meanwhile_are_found() {
    let blobs = backup_of(0..12).await;
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    let source = Source::choose(shared(), Choice::default()).await.unwrap();
    let listed = source.pieces().await.unwrap();
    let pieces = most_pieces(&blobs).await;
    let mut whole = Vec::new();
    for (name, _) in &pieces {
        whole.extend(blobs.get(name, None).await.unwrap());
        blobs.delete(name).await.unwrap();
    }
    let (name, first) = &pieces[0];
    let root = name.split_once("packs/").unwrap().0;
    let merged = PieceName {
        end: whole.len() as u64,
        salt: 1,
        digest: Digest::of(&whole),
        ..*first
    };
    blobs.put(&format!("{root}{merged}"), whole.into()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bytes = listed.covered(first.pack);
    listed.is_finished(first.pack).await.unwrap();
    let wanted = [(first.pack, bytes)].into();
    let fetched = listed
        .fetch_all(&wanted, &dir.path().join("packs"), false)
        .await
        .unwrap();
    assert_eq!(fetched.bytes, bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_interrupted_restore_fetches_only_what_it_has_not() {
    let blobs = backup_of(30..40).await;
    let shared = || Arc::clone(&blobs) as Arc<dyn Blobs>;
    let (dir, first) = try_restore(shared(), Wanted::Last).await.unwrap();
    std::fs::write(dir.path().join("restore-unfinished"), "").unwrap();
    let pieces = most_pieces(&blobs).await;
    // One byte is wrong, the file is too long, and another pack is of another point.
    let path = Site::pack(&dir, pieces[0].1.pack);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[pieces[1].1.start as usize] ^= 1;
    bytes.extend([7; 100]);
    std::fs::write(&path, bytes).unwrap();
    let stray = dir.path().join("packs/00/stray.pack");
    std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
    std::fs::write(&stray, "another").unwrap();
    blobs.take_got();
    let again = restore_into(&dir, shared(), Choice::default(), false).await.unwrap();
    assert_eq!((again.point, again.bytes), (first.point, first.bytes));
    let got: Vec<String> = blobs
        .take_got()
        .into_iter()
        .filter(|name| name.contains("/packs/"))
        .collect();
    assert_eq!(got, std::slice::from_ref(&pieces[1].0));
    assert!(!stray.exists());
    let site = Site::open(dir, None, START_MS).await;
    assert!(crate::backup::pieces::needed(&*site.kv).await.unwrap().len() > 1);
    assert_eq!(site.items().await, (30..40).collect::<Vec<_>>());
    drop(site.kill().await);
}
