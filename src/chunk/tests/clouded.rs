//! Packs in a cloud together with encryption, collection, checks and moves.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cloud::{Place, again, all_read, blobs, cloud_options, fixture_on, fixture_with, place, put_some};
use super::harness::{Fixture, content, pack_files, read};
use super::keys::masters;
use crate::blob::Blobs;
use crate::blob::fault::{BlobFault, Call};
use crate::chunk::record::{HEADER_BYTES, crc32c};
use crate::chunk::recount::Difference;
use crate::chunk::recover::all_pack_rows;
use crate::chunk::scrub::Pace;
use crate::ids::{DataId, PackId};
use crate::kv::memory::MemoryKv;
use crate::limits::MIB;
use crate::meta::pack::{Backend, PackState};

const PACE: Pace = Pace { bytes_per_second: None };

async fn all_blobs(place: &Place) -> Vec<Bytes> {
    let mut found = Vec::new();
    for name in blobs(place).await {
        found.push(place.inner().get(&name, None).await.unwrap());
    }
    found
}

fn files(dir: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(std::fs::read(path).unwrap());
        }
    }
    found
}

/// Whether 16 bytes of the plaintext are somewhere in `found`, wherever they begin.
fn shows(found: &[u8], plain: &[u8]) -> bool {
    let parts: BTreeSet<&[u8]> = plain.chunks_exact(16).collect();
    found.windows(16).any(|window| parts.contains(window))
}

async fn is_hidden(place: &Place, fixture: &Fixture, put: &[(DataId, Vec<u8>)]) {
    let (stored, cached) = (all_blobs(place).await, files(&fixture.dir.path().join("cache")));
    assert!(!stored.is_empty() && !cached.is_empty());
    for (_, bytes) in put {
        assert!(!stored.iter().any(|blob| shows(blob, bytes)), "in the cloud");
        assert!(!cached.iter().any(|file| shows(file, bytes)), "in the cache");
    }
}

/// Leaves the pack's footer as no reader takes it.
async fn spoil_footer(place: &Place, pack: PackId) {
    let name = format!("packs/{pack}");
    let mut blob = place.inner().get(&name, None).await.unwrap().to_vec();
    let at = blob.len() - 100;
    blob[at] ^= 1;
    place.inner().put(&name, blob.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_encrypted_store_is_in_clear_in_the_cloud_or_its_cache() {
    let place = place();
    let fixture = fixture_on(Arc::new(MemoryKv::new()), &place, 8 << 20, Some(masters(&[1]))).await;
    let mut put = put_some(&fixture, 3).await;
    // Compressed and raw.
    let text = b"all work and no play makes a dull gateway. ".repeat(4000);
    put.push((fixture.put(&text).await, text));
    all_read(&fixture, &put).await;
    is_hidden(&place, &fixture, &put).await;
    let deleted = put.remove(1).0;
    fixture.delete(deleted).await;
    assert!(fixture.collect().await.packs_deleted > 0);
    fixture.store.migrate_to(Backend::Local).await.unwrap();
    fixture.store.migrate().await.unwrap();
    all_read(&fixture, &put).await;
    fixture.store.migrate_to(Backend::Cloud).await.unwrap();
    fixture.store.migrate().await.unwrap();
    all_read(&fixture, &put).await;
    is_hidden(&place, &fixture, &put).await;
    // From the cache alone, by the next process.
    let mut cloud = cloud_options(&place, fixture.dir.path());
    cloud.cache_bytes = 8 << 20;
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    place.set_down(true);
    for (id, bytes) in &put {
        assert!(fixture.get(*id, 0..bytes.len() as u64).await == *bytes);
    }
    place.set_down(false);
    fixture.check().await;
}

/// A record that a cloud gave with an altered payload and checksums that fit is refused by the cipher, and does not stay in the
/// cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_record_from_the_cloud_is_refused_and_not_kept() {
    let place = place();
    let fixture = fixture_on(Arc::new(MemoryKv::new()), &place, 8 << 20, Some(masters(&[1]))).await;
    let bytes = content(1, 12_000);
    let id = fixture.put(&bytes).await;
    let pack = fixture.store.packs.packs()[0].id;
    let name = format!("packs/{pack}");
    let whole = place.inner().get(&name, None).await.unwrap();
    let mut altered = whole.to_vec();
    for entry in fixture.store.packs.records(pack).await.unwrap().iter() {
        let (from, end) = (entry.location.offset as usize, entry.location.end() as usize);
        altered[end - 1] ^= 1;
        let crc = crc32c(&altered[from + HEADER_BYTES..end]);
        altered[from + 104..from + 108].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c(&altered[from..from + 124]);
        altered[from + 124..from + 128].copy_from_slice(&crc.to_le_bytes());
    }
    place.inner().put(&name, altered.into()).await.unwrap();
    assert!(read(&fixture.store, id, 0..12_000).await.is_err());
    place.inner().put(&name, whole).await.unwrap();
    assert!(fixture.get(id, 0..12_000).await == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_packs_in_the_cloud_are_put_together_and_then_left_alone() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let mut put = Vec::new();
    for seed in 0..30 {
        let bytes = content(seed, 9_000 + 10 * seed as usize);
        put.push((fixture.put(&bytes).await, bytes));
    }
    assert_eq!(blobs(&place).await.len(), 30);
    let mut moved = 0;
    for _ in 0..10 {
        let report = fixture.collect().await;
        assert!(report.stuck.is_empty(), "{report:?}");
        moved += report.bytes_moved;
    }
    let left = blobs(&place).await.len();
    let stored: u64 = put.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(
        left < 8 && moved < 3 * stored,
        "{left} packs, {moved} of {stored} bytes moved"
    );
    assert_eq!(fixture.collect().await.bytes_moved, 0);
    all_read(&fixture, &put).await;
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_counts_packs_in_the_cloud_and_tells_what_it_could_not_look_at() {
    let place = place();
    let fixture = fixture_with(&place, 8 << 20).await;
    let put = put_some(&fixture, 4).await;
    all_read(&fixture, &put).await;
    let packs = fixture.store.packs.packs();
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!(
        (recount.packs, recount.cloud_packs),
        (packs.len() as u64, packs.len() as u64)
    );
    assert_eq!((recount.differences, recount.findings_total), (vec![], 0));
    place.set_down(true);
    let recount = fixture.store.recount().await.unwrap();
    let unread = |difference: &&Difference| matches!(difference, Difference::Unread { .. });
    let unlisted = |difference: &&Difference| matches!(difference, Difference::Unlisted { .. });
    assert_eq!(recount.differences.iter().filter(unread).count(), packs.len());
    assert_eq!(recount.differences.iter().filter(unlisted).count(), 1);
    // Nothing of it is damage.
    assert_eq!(
        (recount.findings_total, recount.differences.len()),
        (0, packs.len() + 1)
    );
    let report = fixture.store.scrub_pack(packs[0].id, PACE).await;
    assert!(report.is_err_and(|error| error.is_unreachable()));
    place.set_down(false);
    // A blob is lost: each chunk in it is told, though all of them are in the cache.
    let lost = packs[3].id;
    place.inner().delete(&format!("packs/{lost}")).await.unwrap();
    let recount = fixture.store.recount().await.unwrap();
    assert!(recount.findings_total > 0, "{recount:?}");
    assert!(
        recount
            .findings
            .iter()
            .all(|finding| finding.pack == lost && !finding.owners.rows.is_empty())
    );
    let found = fixture.store.scrub_footer(lost).await.unwrap();
    assert_eq!(found.len() as u64, recount.findings_total);
    // An upload of the same bytes heals it, and what is left of the pack goes.
    let again = fixture.put(&put[3].1).await;
    let healed = [(again, put[3].1.clone()), put[3].clone()];
    all_read(&fixture, &healed).await;
    fixture.collect().await;
    assert!(fixture.store.packs.info(lost).is_none());
    assert_eq!(fixture.store.degraded(), None);
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_with_a_damaged_footer_in_the_cloud_is_read_told_and_emptied() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let put = put_some(&fixture, 4).await;
    let pack = fixture.store.packs.packs()[2].id;
    spoil_footer(&place, pack).await;
    all_read(&fixture, &put).await;
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!(recount.differences, [Difference::Footer { pack }]);
    assert_eq!(recount.findings_total, 0);
    assert_eq!(fixture.store.scrub_footer(pack).await.unwrap(), []);
    let report = fixture.collect().await;
    assert_eq!((report.packs_deleted, &report.stuck), (1, &vec![]), "{report:?}");
    assert!(!blobs(&place).await.contains(&format!("packs/{pack}")));
    all_read(&fixture, &put).await;
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_the_cloud_does_not_take_is_made_again_by_the_next_run() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let kept = put_some(&fixture, 2).await;
    let doomed = fixture.put(&content(77, MIB)).await;
    let before = blobs(&place).await.len();
    fixture.delete(doomed).await;
    let (listed, counted) = fixture.store.pack_files();
    place.script(Call::Delete, [BlobFault::Unavailable]);
    let report = fixture.collect().await;
    assert_eq!((report.packs_deleted, &report.stuck), (0, &vec![]), "{report:?}");
    assert_eq!(blobs(&place).await.len(), before);
    let rows = all_pack_rows(&*fixture.kv).await.unwrap();
    assert!(rows.values().any(|known| known.row.state == PackState::Condemned));
    place.script(Call::Delete, [BlobFault::AnswerLost]);
    fixture.collect().await;
    fixture.collect().await;
    // As a backup counts: each pack that left the list, none more.
    let (left, now) = fixture.store.pack_files();
    let gone = listed.iter().filter(|file| !left.contains(file)).count() as u64;
    assert!(gone > 0);
    assert_eq!(now - counted, gone);
    let cloud = cloud_options(&place, fixture.dir.path());
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    for _ in 0..2 {
        fixture.collect().await;
    }
    let rows = all_pack_rows(&*fixture.kv).await.unwrap();
    assert!(rows.values().all(|known| known.row.state == PackState::Active));
    assert_eq!(blobs(&place).await.len(), rows.len());
    all_read(&fixture, &kept).await;
    fixture.check().await;
}

/// A pack dies while it is on its way into the cloud: its second copy may arrive late, and nothing would name it then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_a_copy_that_arrives_late_leaves_nothing_behind() {
    let place = place();
    let mut cloud = cloud_options(&place, Path::new("/nowhere"));
    let fixture = fixture_with(&place, 0).await;
    let id = fixture.put(&content(1, 300_000)).await;
    fixture.store.migrate_to(Backend::Local).await.unwrap();
    fixture.store.migrate().await.unwrap();
    (cloud.late, cloud.cache_dir) = (Duration::from_millis(1500), fixture.dir.path().join("cache"));
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    fixture.store.migrate_to(Backend::Cloud).await.unwrap();
    // Told as failed, done a second later.
    let pack = fixture.store.packs.packs()[0].id;
    let whole = std::fs::read(&pack_files(fixture.dir.path())[0]).unwrap();
    place.script(Call::Put, [BlobFault::Unavailable]);
    assert!(fixture.store.migrate().await.is_err());
    let late = tokio::spawn({
        let place = Arc::clone(&place);
        async move {
            tokio::time::sleep(Duration::from_millis(600)).await;
            place.inner().put(&format!("packs/{pack}"), whole.into()).await.unwrap();
        }
    });
    // Nothing is put under this name before that cannot happen any more.
    fixture.store.migrate().await.unwrap();
    assert_eq!(blobs(&place).await.len(), 0);
    fixture.delete(id).await;
    let report = fixture.collect().await;
    assert_eq!((report.packs_deleted, report.waiting), (0, 1), "{report:?}");
    late.await.unwrap();
    assert_eq!(blobs(&place).await.len(), 1);
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(fixture.collect().await.packs_deleted, 1);
    assert_eq!(
        (pack_files(fixture.dir.path()).len(), blobs(&place).await.len()),
        (0, 0)
    );
    fixture.check().await;
}

/// Collection, uploads, readers and moves there and back, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i3_moves_and_collection_at_the_same_time_lose_nothing_and_leave_nothing() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let kept = Arc::new(put_some(&fixture, 4).await);
    let end = tokio_util::sync::CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let (store, stop) = (Arc::clone(&fixture.store), end.clone());
    tasks.spawn(async move {
        while !stop.is_cancelled() {
            store.collect_once().await.unwrap();
        }
    });
    let (store, stop) = (Arc::clone(&fixture.store), end.clone());
    tasks.spawn(async move {
        for to in Backend::ALL.into_iter().cycle() {
            store.migrate_to(to).await.unwrap();
            store.migrate().await.unwrap();
            if stop.is_cancelled() {
                return;
            }
        }
    });
    let (store, stop, read_by) = (Arc::clone(&fixture.store), end.clone(), Arc::clone(&kept));
    tasks.spawn(async move {
        for (id, bytes) in read_by.iter().cycle() {
            assert!(read(&store, *id, 0..bytes.len() as u64).await.unwrap() == *bytes);
            if stop.is_cancelled() {
                return;
            }
        }
    });
    let (mut more, mut doomed) = (Vec::new(), Vec::new());
    for seed in 100..140 {
        let bytes = content(seed, 30_000 + 3_000 * (seed as usize % 17));
        let id = fixture.put(&bytes).await;
        if seed % 3 == 0 {
            more.push((id, bytes));
        } else {
            doomed.push(id);
        }
        if seed % 4 == 0 {
            for id in doomed.drain(..) {
                fixture.delete(id).await;
            }
        }
    }
    for id in doomed {
        fixture.delete(id).await;
    }
    end.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let moved = fixture.store.migrate_status().await.unwrap();
    assert!(moved.moved_packs > 4, "{moved:?}");
    fixture.store.migrate_to(Backend::Cloud).await.unwrap();
    for _ in 0..4 {
        fixture.store.migrate().await.unwrap();
        fixture.collect().await;
    }
    all_read(&fixture, &kept).await;
    all_read(&fixture, &more).await;
    assert_eq!(pack_files(fixture.dir.path()).len(), 0);
    assert_eq!(blobs(&place).await.len(), fixture.store.packs.packs().len());
    fixture.check().await;
}

/// What a network spoils on the way out of the cloud must not take the place of what the cloud has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_pack_that_was_read_wrong_does_not_leave_the_cloud() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let put = put_some(&fixture, 1).await;
    let pack = fixture.store.packs.packs()[0].id;
    let name = format!("packs/{pack}");
    let whole = place.inner().get(&name, None).await.unwrap();
    let mut spoiled = whole.to_vec();
    spoiled[6_000] ^= 1;
    // As the copy is read, and no later.
    place.inner().put(&name, spoiled.into()).await.unwrap();
    fixture.store.migrate_to(Backend::Local).await.unwrap();
    place.script(
        Call::Get,
        [BlobFault::Pass, BlobFault::Delay(Duration::from_millis(300))],
    );
    let moving = fixture.store.migrate();
    let mending = async {
        while pack_files(fixture.dir.path()).is_empty() {
            tokio::task::yield_now().await;
        }
        place.inner().put(&name, whole).await.unwrap();
    };
    let (moved, ()) = tokio::join!(moving, mending);
    moved.unwrap();
    assert_eq!(fixture.store.migrate_status().await.unwrap().moved_packs, 0);
    all_read(&fixture, &put).await;
    fixture.store.migrate().await.unwrap();
    assert_eq!(
        (pack_files(fixture.dir.path()).len(), blobs(&place).await.len()),
        (1, 0)
    );
    all_read(&fixture, &put).await;
    fixture.check().await;
}
