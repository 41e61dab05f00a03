//! Objects of an encrypted store.

use bytes::Bytes;

use super::copies::copy_to;
use super::{Fixture, key, noise};
use crate::iam::Grant;
use crate::kv::{Kv, Mutation};
use crate::meta::key::{self as row_key, Table};
use crate::meta::object::{ObjectHead, Payload};
use crate::object::types::RangeSpec;
use crate::object::{CheckProgress, CheckReport, GetError, StoreError};

const TEXT: &[u8] = b"a body that nobody may find in a row";

async fn head(test: &Fixture, grant: &Grant, name: &str) -> ObjectHead {
    let row = row_key::object(grant.bucket().unwrap().id, name);
    ObjectHead::decode(&test.kv.get(&row).await.unwrap().unwrap().bytes).unwrap()
}

async fn body_row(test: &Fixture, grant: &Grant, name: &str) -> Bytes {
    let row = row_key::body(head(test, grant, name).await.data);
    test.kv.get(&row).await.unwrap().unwrap().bytes
}

async fn check(test: &Fixture, read_data: bool) -> CheckReport {
    let report = test.objects.check(read_data, 1, &CheckProgress::default()).await;
    report.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_encrypted_and_read_whole_in_ranges_and_by_copies() {
    let (clear, test) = (Fixture::new().await, Fixture::encrypted().await);
    let grant = clear.bucket("b").await;
    clear.put(&grant, "small", TEXT).await;
    assert_eq!(body_row(&clear, &grant, "small").await, TEXT);
    assert_eq!(head(&clear, &grant, "small").await.payload, Payload::Body);

    let grant = test.bucket("b").await;
    let foreign = test.bucket_of(&test.bob, "bobs").await;
    test.put(&grant, "small", TEXT).await;
    test.put(&grant, "again", TEXT).await;
    test.put(&grant, "empty", b"").await;
    test.put(&grant, "large", &noise(300_000, 1)).await;
    assert_eq!(head(&test, &grant, "small").await.payload, Payload::EncryptedBody);
    assert_eq!(head(&test, &grant, "empty").await.payload, Payload::None);
    let (first, second) = (
        body_row(&test, &grant, "small").await,
        body_row(&test, &grant, "again").await,
    );
    assert!(!first.windows(8).any(|part| TEXT.windows(8).any(|text| text == part)));
    assert!(first[9..] != second[9..], "equal bodies do not look equal");
    assert_eq!(test.get(&grant, "small").await.unwrap(), TEXT);
    let range = RangeSpec::From(2, Some(5));
    assert_eq!(test.get_range(&grant, "small", range).await.unwrap(), &TEXT[2..=5]);
    for dest in [&grant, &foreign] {
        for (name, bytes) in [("small", TEXT), ("large", &noise(300_000, 1)), ("empty", b"")] {
            let copy = test.objects.copy(&grant, &key(name), dest, copy_to("copy")).await;
            copy.unwrap();
            assert_eq!(test.get(dest, "copy").await.unwrap(), bytes);
        }
    }
    let report = check(&test, true).await;
    assert!(report.is_sound() && report.bodies == 2, "{report:?}");
    test.put(&grant, "small", b"another").await;
    test.put(&grant, "again", b"").await;
    assert_eq!(test.rows(Table::Body).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_body_is_damage_and_never_read() {
    let test = Fixture::encrypted().await;
    let grant = test.bucket("b").await;
    test.put(&grant, "altered", TEXT).await;
    test.put(&grant, "swapped", &TEXT[1..]).await;
    test.put(&grant, "source", TEXT).await;
    let (mut altered, source) = (
        body_row(&test, &grant, "altered").await.to_vec(),
        body_row(&test, &grant, "source").await,
    );
    *altered.last_mut().unwrap() ^= 1;
    let mut mutation = Mutation::new();
    mutation.put(
        row_key::body(head(&test, &grant, "altered").await.data),
        Bytes::from(altered),
    );
    // One that is sound, in the place of another.
    mutation.put(row_key::body(head(&test, &grant, "swapped").await.data), source);
    test.kv.commit(mutation).await.unwrap();
    for name in ["altered", "swapped"] {
        let outcome = test.get(&grant, name).await;
        assert!(
            matches!(outcome, Err(GetError::Store(StoreError::Data(_)))),
            "{name}: {outcome:?}"
        );
    }
    assert_eq!(test.get(&grant, "source").await.unwrap(), TEXT);
    let report = check(&test, false).await;
    let told: Vec<_> = report
        .bad_objects
        .iter()
        .map(|bad| (&*bad.object.key, &*bad.reason))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for ((name, reason), wanted) in told.into_iter().zip(["altered", "swapped"]) {
        assert!(
            name == wanted && reason.ends_with("it fails its cipher's tag"),
            "{name}: {reason}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_tokens_stands_in_no_row() {
    let (clear, test) = (Fixture::new().await, Fixture::encrypted().await);
    let row = row_key::store("token-key");
    let kept = clear.objects.store_secret().await.unwrap();
    assert_eq!(clear.kv.get(&row).await.unwrap().unwrap().bytes, kept[..]);
    // One of the time before encryption goes.
    let mut mutation = Mutation::new();
    mutation.put(row.clone(), Bytes::copy_from_slice(&kept));
    test.kv.commit(mutation).await.unwrap();
    let derived = test.objects.store_secret().await.unwrap();
    assert_eq!(test.objects.store_secret().await.unwrap(), derived);
    assert!(derived != kept && test.kv.get(&row).await.unwrap().is_none());
}
