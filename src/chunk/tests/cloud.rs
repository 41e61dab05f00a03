//! Packs in a cloud that fails, hangs, loses and cuts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use tempfile::TempDir;

use super::epochs::GateKv;
use super::harness::{Fixture, build, content, options, pack_files, publish};
use crate::blob::fault::{BlobFault, Call, FaultBlobs};
use crate::blob::memory::MemoryBlobs;
use crate::blob::{BlobError, Blobs};
use crate::chunk::pack::{Extent, NewRecord, OpenError as PacksError, ReadError as PackError, Through, Wanted};
use crate::chunk::scrub::Pace;
use crate::chunk::{AppendError, ChunkStore, CloudOptions, Keys, MasterKeys, OpenError, ReadError, WriteError};
use crate::clock::Clock;
use crate::ids::{DataId, IdSource};
use crate::kv::Kv;
use crate::kv::memory::MemoryKv;
use crate::limits::MIB;
use crate::meta::pack::Backend;

pub type Place = Arc<FaultBlobs<MemoryBlobs>>;

pub fn place() -> Place {
    Arc::new(FaultBlobs::new(MemoryBlobs::new()))
}

pub fn cloud_options(place: &Place, dir: &Path) -> CloudOptions {
    let blobs = Arc::clone(place) as Arc<dyn Blobs>;
    let mut options = CloudOptions::new(blobs, "memory".to_owned(), dir.join("cache"), 0);
    options.timeout = Duration::from_millis(400);
    options.put_within = Duration::from_secs(5);
    options.hedge_min = Duration::from_millis(5);
    options.late = Duration::ZERO;
    options
}

pub async fn open(
    kv: &Arc<dyn Kv>,
    dir: &Path,
    cloud: Option<CloudOptions>,
    masters: Option<&MasterKeys>,
) -> Result<Arc<ChunkStore>, OpenError> {
    let clock = Clock::system();
    let mut options = options(dir);
    options.cloud = cloud;
    options.keys = Keys::open(&**kv, masters, &clock).await.unwrap();
    let ids = Arc::new(IdSource::new(clock.clone()));
    ChunkStore::open(Arc::clone(kv), options, clock, ids, &prometheus::Registry::new()).await
}

/// A store whose new packs go to `place`.
pub async fn fixture_with(place: &Place, cache_bytes: u64) -> Fixture {
    fixture_on(Arc::new(MemoryKv::new()), place, cache_bytes, None).await
}

pub async fn fixture_on(kv: Arc<dyn Kv>, place: &Place, cache_bytes: u64, masters: Option<MasterKeys>) -> Fixture {
    let dir = TempDir::new().unwrap();
    let mut cloud = cloud_options(place, dir.path());
    cloud.cache_bytes = cache_bytes;
    let store = open(&kv, dir.path(), Some(cloud), masters.as_ref()).await.unwrap();
    let domain = store.create_domain().await.unwrap();
    Fixture {
        dir,
        kv,
        store,
        domain,
        masters,
    }
}

/// Opens the store again as a new process would.
pub async fn again(fixture: Fixture, cloud: Option<CloudOptions>) -> Result<Fixture, OpenError> {
    let Fixture {
        dir,
        kv,
        store,
        domain,
        masters,
    } = fixture;
    let mut left = store;
    let left = loop {
        match Arc::try_unwrap(left) {
            Ok(store) => break store,
            Err(held) => left = held,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    tokio::task::spawn_blocking(move || drop(left)).await.unwrap();
    let store = open(&kv, dir.path(), cloud, masters.as_ref()).await?;
    Ok(Fixture {
        dir,
        kv,
        store,
        domain,
        masters,
    })
}

pub async fn blobs(place: &Place) -> Vec<String> {
    let found = place.inner().list("packs/", None).await.unwrap();
    found.into_iter().map(|blob| blob.name).collect()
}

pub async fn put_some(fixture: &Fixture, count: u64) -> Vec<(DataId, Vec<u8>)> {
    let mut put = Vec::new();
    for seed in 0..count {
        let bytes = content(seed, 10_000 + 200_000 * seed as usize);
        put.push((fixture.put(&bytes).await, bytes));
    }
    put
}

pub async fn all_read(fixture: &Fixture, put: &[(DataId, Vec<u8>)]) {
    for (id, bytes) in put {
        assert!(fixture.get(*id, 0..bytes.len() as u64).await == *bytes);
    }
    for (id, bytes) in put {
        let (start, end) = (bytes.len() / 3, bytes.len() / 2);
        assert!(fixture.get(*id, start as u64..end as u64).await == bytes[start..end]);
    }
}

fn cached(dir: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(dir.join("cache")).unwrap();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i7_what_is_in_the_cloud_reads_back_after_a_restart_and_from_the_packs_alone() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let put = put_some(&fixture, 8).await;
    all_read(&fixture, &put).await;
    assert!(pack_files(fixture.dir.path()).is_empty());
    assert_eq!(blobs(&place).await.len(), fixture.store.packs.packs().len());
    fixture.check().await;
    let cloud = cloud_options(&place, fixture.dir.path());
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    assert_eq!(fixture.store.recovered(), &Default::default());
    all_read(&fixture, &put).await;
    fixture.check().await;
    // Every chunk row is lost, and made again from the footers.
    let mut lost = crate::kv::Mutation::new();
    let mut records = 0;
    for pack in fixture.store.packs.packs() {
        for entry in fixture.store.packs.records(pack.id).await.unwrap().iter() {
            lost.delete(crate::meta::key::chunk(&entry.id));
            records += 1;
        }
    }
    fixture.kv.commit(lost).await.unwrap();
    let report = fixture.store.rebuild_index().await.unwrap();
    assert_eq!((report.records, report.restored), (records, records));
    all_read(&fixture, &put).await;
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_failed_is_made_again_under_another_name_and_what_it_left_is_taken_back() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    place.script(
        Call::Put,
        [BlobFault::Unavailable, BlobFault::AnswerLost, BlobFault::Hang],
    );
    let put = put_some(&fixture, 1).await;
    all_read(&fixture, &put).await;
    let packs = fixture.store.packs.packs().len();
    assert_eq!((packs, blobs(&place).await.len()), (1, 3));
    // Not as long as they may still happen; then by the next process.
    let mut cloud = cloud_options(&place, fixture.dir.path());
    cloud.late = Duration::from_secs(60);
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    fixture.collect().await;
    assert_eq!(blobs(&place).await.len(), 3);
    let cloud = cloud_options(&place, fixture.dir.path());
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    assert_eq!(fixture.collect().await.packs_deleted, 3);
    assert_eq!(fixture.collect().await.packs_deleted, 0);
    assert_eq!(blobs(&place).await.len(), 1);
    all_read(&fixture, &put).await;
    fixture.check().await;
}

fn record(fixture: &Fixture, raw: &Bytes) -> NewRecord {
    NewRecord {
        domain: fixture.domain,
        id: crate::ids::ChunkId(*blake3::hash(raw).as_bytes()),
        raw: raw.clone(),
        encoded: None,
        written_at: fixture.store.packs.written_at(),
        envelope: None,
    }
}

/// The two orders of an upload's first commit and of the collector of a process that took over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_pack_in_the_middle_of_its_upload_is_never_taken_back_under_a_row() {
    let place = place();
    let gate = Arc::new(GateKv::default());
    let fixture = fixture_on(Arc::clone(&gate.inner) as Arc<dyn Kv>, &place, 0, None).await;
    let raw = Bytes::from(content(1, 30_000));
    let append = || async { fixture.store.packs.append(vec![record(&fixture, &raw)]).await.unwrap()[0].pack };
    let other_dir = TempDir::new().unwrap();
    let kv = Arc::clone(&gate) as Arc<dyn Kv>;
    let cloud = cloud_options(&place, other_dir.path());
    let other = open(&kv, other_dir.path(), Some(cloud), None).await.unwrap();
    // The upload comes first: the collector has looked already, and is about to condemn.
    let early = append().await;
    gate.stop_after(1).await;
    let collecting = tokio::spawn({
        let other = Arc::clone(&other);
        async move { other.collect_once().await }
    });
    gate.reached.notified().await;
    assert!(fixture.store.table.active(early).await.unwrap().is_some());
    gate.go.notify_one();
    assert_eq!(collecting.await.unwrap().unwrap().packs_deleted, 0);
    assert_eq!(blobs(&place).await, [format!("packs/{early}")]);
    // The collector comes first. Who was late comes to point to nothing, now and when everything about the pack is forgotten.
    let late = append().await;
    assert_eq!(other.collect_once().await.unwrap().packs_deleted, 1);
    assert_eq!(blobs(&place).await, [format!("packs/{early}")]);
    for _ in 0..2 {
        assert_eq!(fixture.store.table.active(late).await.unwrap(), None);
        fixture.store.table.prune();
    }
    // An upload whose pack is taken back while it is not looking stores its bytes anew.
    let bytes = content(2, MIB);
    let data = build(&fixture.store, fixture.write_options(), &bytes).await.unwrap();
    fixture.collect().await;
    let id = publish(&fixture.store, data).await.unwrap();
    all_read(&fixture, &[(id, bytes)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_that_refuses_or_is_down_is_told_and_loses_nothing() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let put = put_some(&fixture, 2).await;
    let unavailable = |error| matches!(error, WriteError::Append(AppendError::Unavailable(_)));
    place.script(Call::Put, [BlobFault::Refused]);
    let begun = Instant::now();
    let refused = build(&fixture.store, fixture.write_options(), &content(99, 50_000)).await;
    assert!(refused.is_err_and(unavailable) && begun.elapsed() < Duration::from_secs(2));
    place.set_down(true);
    let failed = build(&fixture.store, fixture.write_options(), &content(98, 50_000)).await;
    assert!(failed.is_err_and(unavailable));
    let read = super::harness::read(&fixture.store, put[0].0, 0..5).await;
    assert!(
        matches!(&read, Err(ReadError::Pack(error)) if error.is_unreachable()),
        "{read:?}"
    );
    // A start does not need it either.
    let cloud = cloud_options(&place, fixture.dir.path());
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    assert!(super::harness::read(&fixture.store, put[0].0, 0..5).await.is_err());
    place.set_down(false);
    all_read(&fixture, &put).await;
    fixture.put(&content(97, 50_000)).await;
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_hanging_and_cut_reads_give_the_right_bytes_or_an_error() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let bytes = content(1, 60_000);
    let id = fixture.put(&bytes).await;
    let all = 0..bytes.len() as u64;
    // Enough reads to know what is slow.
    for _ in 0..20 {
        fixture.get(id, all.clone()).await;
    }
    for slow in [BlobFault::Delay(Duration::from_secs(3600)), BlobFault::Hang] {
        place.script(Call::Get, [slow]);
        assert!(fixture.get(id, all.clone()).await == bytes);
    }
    for faults in [
        [BlobFault::Cut, BlobFault::Cut],
        [BlobFault::Hang, BlobFault::Hang],
        [BlobFault::Hang, BlobFault::Unavailable],
    ] {
        place.script(Call::Get, faults);
        let read = super::harness::read(&fixture.store, id, all.clone()).await;
        assert!(
            matches!(&read, Err(ReadError::Pack(error)) if error.is_unreachable()),
            "{faults:?}"
        );
        // What one read left of the script.
        let _ = super::harness::read(&fixture.store, id, all.clone()).await;
        assert!(
            fixture.get(id, all.clone()).await == bytes,
            "nothing was noted as damaged"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_is_bounded_survives_a_restart_and_a_flipped_byte_in_it_is_a_miss() {
    const CACHE: u64 = 512 << 10;
    let place = place();
    let fixture = fixture_with(&place, CACHE).await;
    let bytes = content(1, 300_000);
    let id = fixture.put(&bytes).await;
    let all = 0..bytes.len() as u64;
    let cloud = || {
        let mut cloud = cloud_options(&place, fixture.dir.path());
        cloud.cache_bytes = CACHE;
        cloud
    };
    assert!(fixture.get(id, all.clone()).await == bytes);
    place.set_down(true);
    assert!(fixture.get(id, all.clone()).await == bytes, "from the cache");
    let cloud = cloud();
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    assert!(
        fixture.get(id, all.clone()).await == bytes,
        "from the cache of the last process"
    );
    place.set_down(false);
    for path in cached(fixture.dir.path()) {
        let mut record = std::fs::read(&path).unwrap();
        let middle = record.len() / 2;
        record[middle] ^= 1;
        std::fs::write(&path, record).unwrap();
    }
    assert!(fixture.get(id, all.clone()).await == bytes, "a miss");
    place.set_down(true);
    assert!(fixture.get(id, all.clone()).await == bytes, "mended");
    place.set_down(false);
    let put = put_some(&fixture, 8).await;
    all_read(&fixture, &put).await;
    let kept: u64 = cached(fixture.dir.path())
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(kept <= CACHE && kept > CACHE / 2, "{kept}");
}

/// A record whose checksums fit and whose bytes are not those that its name was made from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_from_the_cloud_is_held_against_the_full_hash() {
    let place = place();
    let fixture = fixture_with(&place, 1 << 20).await;
    let raw = Bytes::from(content(1, 30_000));
    let record = record(&fixture, &raw);
    let (id, domain) = (record.id, record.domain);
    let location = fixture.store.packs.append(vec![record]).await.unwrap()[0];
    let extent = Extent::new(Wanted { location, domain, id });
    let read = fixture.store.packs.read(extent.clone(), Vec::new(), Through::Cache);
    assert!(read.await.is_ok_and(|read| read.is_far));
    for _ in 0..2 {
        let read = fixture.store.read_records(extent.clone()).await;
        assert!(matches!(read, Err(PackError::Damaged { .. })), "{read:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_in_the_cloud_comes_back_and_scrub_reads_the_packs_themselves() {
    let place = place();
    let fixture = fixture_with(&place, 8 << 20).await;
    let kept = fixture.put_and_delete_most().await;
    let before = blobs(&place).await.len();
    let report = fixture.collect().await;
    assert!(report.packs_deleted > 0 && report.stuck.is_empty(), "{report:?}");
    assert!(blobs(&place).await.len() < before);
    assert_eq!(blobs(&place).await.len(), fixture.store.packs.packs().len());
    all_read(&fixture, &kept).await;
    fixture.check().await;
    // All of it is in the cache; the damage in the cloud is found all the same, told, and healed by an upload.
    let pack = fixture.store.packs.packs().pop().unwrap();
    assert_eq!(pack.backend, Backend::Cloud);
    place.inner().delete(&format!("packs/{}", pack.id)).await.unwrap();
    assert!(matches!(
        place.size(&format!("packs/{}", pack.id)).await,
        Err(BlobError::NotFound)
    ));
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!(recount.differences.len(), 1, "{recount:?}");
    assert!(recount.findings_total > 0, "{recount:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_the_cloud_is_found_by_scrub_and_healed_by_an_upload() {
    let place = place();
    let fixture = fixture_with(&place, 8 << 20).await;
    let bytes = content(5, 200_000);
    let id = fixture.put(&bytes).await;
    assert!(fixture.get(id, 0..200_000).await == bytes);
    let pack = fixture.store.packs.packs()[0].id;
    let name = format!("packs/{pack}");
    let mut blob = place.get(&name, None).await.unwrap().to_vec();
    blob[100_000] ^= 1;
    place.put(&name, blob.into()).await.unwrap();
    let pace = Pace { bytes_per_second: None };
    let report = fixture.store.scrub_pack(pack, pace).await.unwrap();
    assert_eq!((report.damaged, report.unread), (1, 0), "{report:?}");
    let other = fixture.put(&bytes).await;
    for id in [id, other] {
        assert!(fixture.get(id, 0..200_000).await == bytes);
    }
    fixture.check().await;
}

/// Durable in the cloud 50 ms and one round trip after it began; the machine is busy with other tests, so the best of some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_write_takes_a_round_trip_and_little_more() {
    const ROUND_TRIP: Duration = Duration::from_millis(120);
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let mut best = Duration::MAX;
    for seed in 0..8 {
        place.script(Call::Put, [BlobFault::Delay(ROUND_TRIP)]);
        let (bytes, begun) = (content(seed, 9_000), Instant::now());
        fixture.put(&bytes).await;
        best = best.min(begun.elapsed());
    }
    assert_eq!(blobs(&place).await.len(), 8);
    assert!(
        best >= ROUND_TRIP && best < ROUND_TRIP + Duration::from_millis(50),
        "{best:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_writes_that_come_together_share_packs() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    place.script(Call::Put, (0..64).map(|_| BlobFault::Delay(Duration::from_millis(60))));
    let put = join_all((0..48).map(|seed| {
        let fixture = &fixture;
        async move {
            let bytes = content(seed, 20_000);
            (fixture.put(&bytes).await, bytes)
        }
    }))
    .await;
    let packs = fixture.store.packs.packs().len();
    assert!(packs <= 16, "{packs} packs");
    all_read(&fixture, &put).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_place_of_another_store_or_no_place_at_all_is_refused() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    put_some(&fixture, 1).await;
    let (dir, kv): (_, Arc<dyn Kv>) = (TempDir::new().unwrap(), Arc::new(MemoryKv::new()));
    let other = open(&kv, dir.path(), Some(cloud_options(&place, dir.path())), None).await;
    assert!(matches!(
        other.map(drop),
        Err(OpenError::Packs(PacksError::Cloud(BlobError::Refused(_))))
    ));
    let empty = cloud_options(&self::place(), fixture.dir.path());
    let (dir, kv) = (fixture.dir.path().to_owned(), Arc::clone(&fixture.kv));
    let moved = open(&kv, &dir, Some(empty), None).await;
    assert!(matches!(
        moved.map(drop),
        Err(OpenError::Packs(PacksError::Cloud(BlobError::Refused(_))))
    ));
    let none = open(&kv, &dir, None, None).await;
    assert!(matches!(
        none.map(drop),
        Err(OpenError::Packs(PacksError::NoCloud { packs: 1 }))
    ));
}
