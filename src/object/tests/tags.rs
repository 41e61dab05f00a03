//! The tags of a bucket, and what the settings among them do to new bytes.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::{Fixture, key, noise};
use crate::chunk::StoreUsage;
use crate::iam::{Action, Grant, authorize};
use crate::kv::fault::CommitFault;
use crate::meta::key::Table;
use crate::object::{BucketTagsError, StoreError, UnknownSetting};

const COMPRESSION: &str = "cairn:compression";
const CHUNKING: &str = "cairn:chunking";

fn tags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// Lines that compress, more so the harder one tries.
fn text(length: usize, seed: u64) -> Vec<u8> {
    let words = [
        "gateway", "object", "chunk", "window", "segment", "commit", "row", "guard",
    ];
    let choices = noise(length, seed);
    let mut text = Vec::with_capacity(length + 32);
    for (line, choice) in choices.chunks(4).enumerate() {
        if text.len() >= length {
            break;
        }
        for pick in choice {
            text.extend_from_slice(words[usize::from(*pick) % 8].as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(format!("{}\n", line / 3).as_bytes());
    }
    text.truncate(length);
    text
}

impl Fixture {
    /// Gives the bucket these tags; the grant that the next request would have.
    async fn tagged(&self, grant: &Grant, pairs: &[(&str, &str)]) -> Grant {
        self.objects.put_bucket_tags(grant, tags(pairs)).await.unwrap();
        self.granted_anew(grant).await
    }

    async fn granted_anew(&self, grant: &Grant) -> Grant {
        let bucket = self.objects.bucket(&grant.bucket().unwrap().name).await.unwrap();
        authorize(grant.identity(), Action::PutObject, bucket).unwrap()
    }
}

/// What one object of `data` takes in a bucket with these tags, and its chunks.
async fn stored(pairs: &[(&str, &str)], data: &[u8]) -> (StoreUsage, u64) {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let grant = test.tagged(&grant, pairs).await;
    test.put(&grant, "k", data).await;
    assert!(test.get(&grant, "k").await.unwrap() == data);
    let chunks = test.chunks.recount().await.unwrap().chunks;
    (test.chunks.usage().await.unwrap(), chunks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_compression_takes_less_room() {
    let data = text(3 << 20, 1);
    let mut bytes = Vec::new();
    for value in ["off", "fast", "balanced", "max"] {
        let (usage, _) = stored(&[("team", "a"), (COMPRESSION, value)], &data).await;
        assert_eq!(usage.unique_bytes, data.len() as u64);
        bytes.push(usage.stored_bytes);
    }
    assert!(bytes[0] >= data.len() as u64, "{bytes:?}");
    assert!(bytes.windows(2).all(|pair| pair[1] < pair[0] * 19 / 20), "{bytes:?}");
    // Levels by number, and the server's default where the bucket says nothing.
    let of = |pairs: &'static [(&str, &str)]| stored(pairs, &data);
    assert_eq!(of(&[(COMPRESSION, "3")]).await.0.stored_bytes, bytes[2]);
    assert_eq!(of(&[]).await.0.stored_bytes, bytes[2]);
    assert!(of(&[(COMPRESSION, "9")]).await.0.stored_bytes < bytes[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunking_decides_how_large_chunks_are() {
    let data = noise(24 << 20, 2);
    let mut counts = Vec::new();
    for value in ["media", "general", "backup"] {
        counts.push(stored(&[(CHUNKING, value)], &data).await.1);
    }
    assert!(counts.windows(2).all(|pair| pair[1] > pair[0] * 3), "{counts:?}");
    assert_eq!(stored(&[], &data).await.1, counts[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_read_back_whatever_the_settings_were() {
    let test = Fixture::new().await;
    let mut grant = test.bucket("b").await;
    let mut written = Vec::new();
    for (at, compression) in ["off", "fast", "1", "balanced", "12", "max", "22"]
        .into_iter()
        .enumerate()
    {
        for chunking in ["general", "backup", "media"] {
            grant = test
                .tagged(&grant, &[(COMPRESSION, compression), (CHUNKING, chunking)])
                .await;
            let name = format!("{compression}-{chunking}");
            let mut data = text(700_000, at as u64);
            data.extend(noise(300_000, at as u64));
            data.extend(vec![0; 100_000]);
            test.put(&grant, &name, &data).await;
            written.push((name, data));
        }
    }
    grant = test.tagged(&grant, &[]).await;
    for (name, data) in &written {
        assert!(test.get(&grant, name).await.unwrap() == *data, "{name}");
        test.objects
            .delete(&grant, &key(name), Default::default())
            .await
            .unwrap();
    }
    test.sweep().await;
    for _ in 0..3 {
        test.chunks.collect_once().await.unwrap();
    }
    assert_eq!(test.rows(Table::Chunk).await, 0);
    assert_eq!(test.chunks.recount().await.unwrap().differences, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_and_copies_follow_the_bucket_that_they_go_to() {
    let test = Fixture::new().await;
    let data = text(400_000, 3);
    let grown = async |before: StoreUsage| {
        let after = test.chunks.usage().await.unwrap();
        assert_eq!(after.unique_bytes - before.unique_bytes, data.len() as u64);
        after.stored_bytes - before.stored_bytes
    };
    let grant = test.bucket("b").await;
    let grant = test.tagged(&grant, &[(COMPRESSION, "off")]).await;
    let upload = test.create(&grant, "k").await;
    let before = test.chunks.usage().await.unwrap();
    test.part(&grant, "k", upload, 1, &data).await;
    assert!(grown(before).await >= data.len() as u64);
    test.put(&grant, "whole", &data).await;
    // To another owner, whose bytes are kept apart.
    let foreign = test.bucket_of(&test.bob, "bobs").await;
    let foreign = test.tagged(&foreign, &[(COMPRESSION, "max")]).await;
    let before = test.chunks.usage().await.unwrap();
    let request = super::copies::copy_to("copy");
    let copied = test.objects.copy(&grant, &key("whole"), &foreign, request).await;
    copied.unwrap();
    assert!(grown(before).await < data.len() as u64 / 3);
    assert!(test.get(&foreign, "copy").await.unwrap() == data);
}

#[tokio::test]
async fn tags_are_kept_in_order_and_survive_a_restart() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let given = [("z", "1"), ("a", ""), (COMPRESSION, "fast"), ("Ä ö", "ü")];
    test.tagged(&grant, &given).await;
    let of = async || test.restarted().bucket("b").await.unwrap().unwrap();
    assert_eq!(of().await.tags, tags(&given));
    assert_eq!(of().await.owner, grant.bucket().unwrap().owner);
    test.tagged(&grant, &[("b", "2")]).await;
    assert_eq!(of().await.tags, tags(&[("b", "2")]));
    test.tagged(&grant, &[]).await;
    assert_eq!(of().await.tags, []);
}

#[tokio::test]
async fn a_setting_without_a_meaning_changes_nothing() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let grant = test.tagged(&grant, &[("a", "1")]).await;
    for (key, value, why) in [
        (COMPRESSION, "zip", UnknownSetting::Compression),
        (CHUNKING, "large", UnknownSetting::Chunking),
        ("cairn:colour", "red", UnknownSetting::Key),
    ] {
        let refused = test
            .objects
            .put_bucket_tags(&grant, tags(&[("b", "2"), (key, value)]))
            .await;
        assert!(matches!(refused, Err(BucketTagsError::Setting(found)) if found == why));
    }
    let now = test.granted_anew(&grant).await;
    assert_eq!(now.bucket().unwrap().tags, tags(&[("a", "1")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_never_bring_back_a_bucket_that_is_deleted() {
    let test = Fixture::new().await;
    let slow = Duration::from_millis(200);
    let late = async |grant: Grant| {
        tokio::time::sleep(slow / 4).await;
        test.objects.put_bucket_tags(&grant, tags(&[("late", "")])).await
    };
    // The tags are read, then the bucket goes, then they would be written.
    let grant = test.bucket("b").await;
    test.kv.script([CommitFault::Delay(slow)]);
    let (tagged, deleted) = tokio::join!(test.objects.put_bucket_tags(&grant, tags(&[("a", "")])), async {
        tokio::time::sleep(slow / 4).await;
        test.objects.delete_bucket(&grant).await
    });
    deleted.unwrap();
    assert!(matches!(tagged, Err(BucketTagsError::NoSuchBucket)), "{tagged:?}");
    assert!(test.objects.bucket("b").await.unwrap().is_none());
    // The other way round, tags do not keep a bucket.
    let grant = test.bucket("b").await;
    test.kv.script([CommitFault::Delay(slow)]);
    let (deleted, tagged) = tokio::join!(test.objects.delete_bucket(&grant), late(grant.clone()));
    deleted.unwrap();
    tagged.unwrap();
    assert!(test.objects.bucket("b").await.unwrap().is_none());
    // A grant from before does not reach the bucket that has the name by now.
    test.bucket("b").await;
    assert!(matches!(late(grant).await, Err(BucketTagsError::NoSuchBucket)));
    assert_eq!(test.objects.bucket("b").await.unwrap().unwrap().tags, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_set_tags_all_succeed() {
    let test = Arc::new(Fixture::new().await);
    let grant = test.bucket("b").await;
    let writers = (0..100).map(|at| {
        let (test, grant) = (Arc::clone(&test), grant.clone());
        tokio::spawn(async move {
            let own = tags(&[("writer", &at.to_string()), ("again", &at.to_string())]);
            test.objects.put_bucket_tags(&grant, own).await
        })
    });
    for outcome in join_all(writers).await {
        outcome.unwrap().unwrap();
    }
    let left = test.objects.bucket("b").await.unwrap().unwrap().tags.clone();
    assert_eq!((left.len(), &left[0].1), (2, &left[1].1));
}

#[tokio::test]
async fn a_store_that_takes_no_writes_keeps_the_tags() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let grant = test.tagged(&grant, &[("a", "1")]).await;
    test.kv.script([CommitFault::Unavailable]);
    let refused = test.objects.put_bucket_tags(&grant, Vec::new()).await;
    assert!(matches!(refused, Err(BucketTagsError::Store(StoreError::Commit(_)))));
    let now = test.granted_anew(&grant).await;
    assert_eq!(now.bucket().unwrap().tags, tags(&[("a", "1")]));
}
