use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::copies::copy_to;
use super::{Fixture, key, noise, put_request};
use crate::chunk::Pace;
use crate::iam::Grant;
use crate::ids::{DataId, UploadId};
use crate::kv::skim::{Skim, after, skim};
use crate::kv::{Kv, Mutation, Row};
use crate::meta::key as row_key;
use crate::meta::object::ObjectHead;
use crate::meta::segment::SegmentRow;
use crate::meta::tree::{Target, TreeRow};
use crate::object::{CheckProgress, CheckReport, DamagedObject};

const FAST: Pace = Pace { bytes_per_second: None };
const MIB: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);

/// Flips a byte every 4 KiB of every pack.
fn damage(dir: &Path) {
    for folder in std::fs::read_dir(dir.join("packs")).unwrap() {
        let Ok(files) = std::fs::read_dir(folder.unwrap().path()) else {
            continue;
        };
        for file in files {
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(file.unwrap().path())
                .unwrap();
            let length = file.metadata().unwrap().len();
            for at in (6000..length).step_by(4096) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_told_by_bucket_and_key() {
    let test = Fixture::new().await;
    let (grant, other) = (test.bucket("pictures").await, test.bucket("copies").await);
    test.put(&grant, "a/one", &noise(MIB, 1)).await;
    test.put(&grant, "overwritten", &noise(MIB, 2)).await;
    test.put(&grant, "overwritten", b"small").await;
    test.objects
        .copy(&grant, &key("a/one"), &other, copy_to("two"))
        .await
        .unwrap();
    let upload = test.create(&grant, "big").await;
    test.part(&grant, "big", upload, 1, &noise(MIB, 3)).await;
    assert_eq!(test.objects.scrub(FAST).await.unwrap().damaged, 0);
    assert!(test.objects.scrub_status().await.unwrap().damage.is_empty());

    damage(test.dir.path());
    let row = test.objects.scrub(FAST).await.unwrap();
    assert!(row.damaged > 10 && !row.running && row.damaged == row.records);
    let status = test.objects.scrub_status().await.unwrap();
    assert_eq!(status.damage.len() as u64, row.damaged);
    let mut told: Vec<DamagedObject> = Vec::new();
    for object in status.damage.into_iter().flat_map(|damage| damage.objects) {
        if !told.contains(&object) {
            told.push(object);
        }
    }
    told.sort_by(|a, b| a.key.cmp(&b.key));
    let object = |bucket: &str, name: &str, upload: Option<UploadId>| DamagedObject {
        bucket: bucket.into(),
        key: name.into(),
        upload: upload.map(|upload| upload.to_string()),
    };
    let expected = [
        object("pictures", "a/one", None),
        object("pictures", "big", Some(upload)),
        object("copies", "two", None),
    ];
    assert_eq!(told, expected);
    // An upload of the same bytes brings all of them back.
    test.put(&grant, "again", &noise(MIB, 1)).await;
    assert_eq!(test.get(&other, "two").await.unwrap(), noise(MIB, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_comes_once_in_its_interval_and_goes_on_where_it_ended() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    test.put(&grant, "one", &noise(MIB, 1)).await;
    assert_eq!(test.objects.scrub_turn(HOUR).await.unwrap(), HOUR);
    test.hand.advance_ms(HOUR.as_millis() as u64);
    assert_eq!(test.objects.scrub_turn(HOUR).await.unwrap(), Duration::ZERO);
    assert_eq!(test.objects.scrub_turn(HOUR).await.unwrap(), HOUR);
    test.hand.advance_ms(HOUR.as_millis() as u64 / 4);
    assert_eq!(test.restarted().scrub_turn(HOUR).await.unwrap(), 3 * HOUR / 4);
    let first = test.objects.scrub_status().await.unwrap().row;
    assert!(first.records > 0 && !first.running);

    test.hand.advance_ms(HOUR.as_millis() as u64);
    // A pass that an earlier process left behind the last pack has nothing left to read.
    let left = crate::meta::scrub::ScrubRow {
        running: true,
        last: crate::ids::PackId([0xFF; 16]),
        records: 7,
        ..first.clone()
    };
    test.objects.keep_scrub_row(&left).await.unwrap();
    assert_eq!(test.restarted().scrub_turn(HOUR).await.unwrap(), Duration::ZERO);
    let ended = test.objects.scrub_status().await.unwrap().row;
    assert!(ended.records == 7 && !ended.running && ended.finished > first.finished);
    // And the next one reads all.
    assert_eq!(test.objects.scrub_turn(HOUR).await.unwrap(), Duration::ZERO);
    assert_eq!(test.objects.scrub_status().await.unwrap().row.records, first.records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_tells_what_does_not_fit() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    test.put(&grant, "large", &noise(MIB, 1)).await;
    test.put(&grant, "small", b"small body").await;
    test.put(&grant, "empty", b"").await;
    test.put(&grant, "flipped", b"another body").await;
    let check = async |read_data| {
        let report = test
            .objects
            .check(read_data, 2, &CheckProgress::default())
            .await
            .unwrap();
        let told = report
            .bad_objects
            .iter()
            .map(|bad| format!("{}: {}", bad.object.key, bad.reason));
        (told.collect::<Vec<_>>(), report)
    };
    let (told, report) = check(true).await;
    assert!(report.is_sound() && told.is_empty());
    assert_eq!((report.objects, report.bodies), (4, 2));
    let stored = test.chunks.usage().await.unwrap().stored_bytes;
    assert_eq!(report.bytes, stored + 22);

    let data_of = async |name: &str| data_of(&test, &grant, name).await;
    let mut mutation = Mutation::new();
    mutation.put(
        row_key::body(data_of("flipped").await),
        Bytes::from_static(b"another bodY"),
    );
    test.kv.commit(mutation).await.unwrap();
    // Only reading tells; the other rows fit.
    assert!(check(false).await.1.is_sound());
    let (told, report) = check(true).await;
    assert_eq!(told, ["flipped: its body does not have the MD5 that is its ETag"]);
    assert!(!report.is_sound());

    let mut mutation = Mutation::new();
    mutation.delete(row_key::body(data_of("small").await));
    mutation.delete(row_key::data(data_of("large").await));
    test.kv.commit(mutation).await.unwrap();
    let (told, report) = check(false).await;
    assert_eq!(told, ["large: its data is not there", "small: its body is not there"]);
    assert!(!report.is_sound() && !report.differences.is_empty());
}

async fn data_of(test: &Fixture, grant: &Grant, name: &str) -> DataId {
    let bucket = grant.bucket().unwrap().id;
    let row = test.kv.get(&row_key::object(bucket, name)).await.unwrap().unwrap();
    ObjectHead::decode(&row.bytes).unwrap().data
}

/// The names that a check tells, with what is wrong, and the rest of its report.
async fn told(test: &Fixture) -> (Vec<String>, CheckReport) {
    let report = test.objects.check(true, 2, &CheckProgress::default()).await.unwrap();
    let bad = report.bad_objects.iter();
    let mut told: Vec<_> = bad.map(|bad| format!("{}: {}", bad.object, bad.reason)).collect();
    told.sort();
    (told, report)
}

/// The first row of a range.
async fn first(test: &Fixture, range: Range<Bytes>) -> Row {
    match skim(&*test.kv, range, 1).await.unwrap() {
        Skim::Rows(mut rows) => rows.remove(0),
        Skim::Gap(gap) => panic!("{gap:?}"),
    }
}

/// The key of a row of this kind: of the small object `m/one`, or of `large`.
async fn row_of(test: &Fixture, grant: &Grant, kind: &str) -> Bytes {
    let (small, large) = (data_of(test, grant, "m/one").await, data_of(test, grant, "large").await);
    let tree = first(test, row_key::trees(large)).await;
    let Target::Segment(segment) = TreeRow::decode(tree.value.bytes.clone()).unwrap().entries[0].target else {
        panic!("a composed object");
    };
    let segment = row_key::segment(&segment);
    let row = first(test, segment.clone()..after(&segment)).await;
    let chunk = SegmentRow::decode(row.value.bytes).unwrap().distinct_chunks()[0];
    match kind {
        "body" => row_key::body(small),
        "aux" => row_key::aux(small),
        "data" => row_key::data(large),
        "tree" => tree.key,
        "segment" => segment,
        "chunk" => row_key::chunk(&chunk),
        "object" => row_key::object(grant.bucket().unwrap().id, "m/one"),
        _ => panic!("{kind}"),
    }
}

/// Whatever row of an object RocksDB cannot read, the object is named, and the others are checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_cannot_be_read_are_told_by_object() {
    for kind in ["body", "aux", "data", "tree", "segment", "chunk", "object", "part"] {
        let test = Fixture::new().await;
        let grant = test.bucket("b").await;
        test.put(&grant, "large", &noise(MIB, 1)).await;
        test.put(&grant, "m/two", b"another body").await;
        // With headers that are too long for the object's row.
        let user = vec![("long".to_owned(), "x".repeat(1900))];
        let mut request = put_request("m/one", b"small body");
        request.headers.user = user;
        test.objects.put(&grant, request).await.unwrap();
        let upload = test.create(&grant, "big").await;
        test.part(&grant, "big", upload, 1, &noise(MIB, 3)).await;
        let (names, report) = told(&test).await;
        assert!(report.is_sound(), "{names:?} {report:?}");
        let row = match kind {
            "part" => row_key::part(upload, 1),
            _ => row_of(&test, &grant, kind).await,
        };
        test.kv.inner().break_rows(row.clone()..after(&row));
        let (names, report) = told(&test).await;
        assert!(!report.is_sound());
        let named = match kind {
            "body" | "aux" => "s3://b/m/one: its ",
            "data" | "tree" | "segment" | "chunk" => "s3://b/large: ",
            "part" => "s3://b/big (a part of upload ",
            _ => {
                let unread = &report.unread_objects[..];
                let until = unread[0].until.clone().unwrap();
                let name = "s3://b/m/one".to_owned();
                assert!(
                    unread.len() == 1 && unread[0].from <= name && until > name,
                    "{unread:?}"
                );
                assert_eq!((names.len(), report.objects), (0, 2));
                continue;
            }
        };
        assert!(
            names.len() == 1 && names[0].starts_with(named),
            "{kind}: {names:?} {report:?}"
        );
        assert_eq!(report.objects, 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrub_reads_the_bodies_of_small_objects() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    for name in ["one", "three", "two"] {
        test.put(&grant, name, b"small body").await;
    }
    let row = test.objects.scrub(FAST).await.unwrap();
    assert_eq!((row.bodies, row.damaged), (3, 0));
    let mut mutation = Mutation::new();
    let body = row_key::body(data_of(&test, &grant, "two").await);
    mutation.put(body, Bytes::from_static(b"small bodY"));
    test.kv.commit(mutation).await.unwrap();
    let body = row_key::body(data_of(&test, &grant, "one").await);
    test.kv.inner().break_rows(body.clone()..after(&body));
    let row = test.objects.scrub(FAST).await.unwrap();
    assert_eq!((row.bodies, row.damaged), (3, 2));
    let found = test.objects.scrub_status().await.unwrap().bad_objects;
    let told: Vec<_> = found
        .iter()
        .map(|bad| (bad.object.key.as_str(), &bad.reason[..15]))
        .collect();
    assert_eq!(told, [("one", "its body cannot"), ("two", "its body does n")]);
    // A pass that was interrupted goes on behind the object that it had come to.
    let left = crate::meta::scrub::ScrubRow {
        running: true,
        last: crate::ids::PackId([0xFF; 16]),
        last_object: row_key::object(grant.bucket().unwrap().id, "one"),
        bodies: 1,
        ..row
    };
    test.objects.keep_scrub_row(&left).await.unwrap();
    let row = test.objects.scrub(FAST).await.unwrap();
    assert!(row.bodies == 3 && !row.running);
}
