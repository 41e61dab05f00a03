use bytes::Bytes;
use md5::{Digest, Md5};

use super::harness::{Fixture, Random, build, content, publish, read};
use crate::chunk::chunker::Profile;
use crate::chunk::{ReadError, WriteError, WriteOptions};
use crate::ids::{DataId, DomainId};
use crate::limits::{KIB, MIB};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_of_all_sizes_read_back() {
    let fixture = Fixture::new().await;
    let mut random = Random(7);
    for profile in Profile::ALL {
        for size in [0, 1, 9 * KIB, MIB - 1, MIB, MIB + 1, 3 * MIB + 17, 19 * MIB + 5] {
            let bytes = content(size as u64, size);
            for expected_bytes in [None, Some(size as u64), Some(100)] {
                let options = WriteOptions {
                    profile,
                    expected_bytes,
                    ..fixture.write_options()
                };
                let data = build(&fixture.store, options, &bytes).await.unwrap();
                assert_eq!(data.size, size as u64);
                assert_eq!(data.md5.as_slice(), Md5::digest(&bytes).as_slice());
                let id = publish(&fixture.store, data).await.unwrap();
                assert!(fixture.get(id, 0..size as u64).await == bytes, "{profile:?} {size}");
                for _ in 0..if size > 0 { 10 } else { 0 } {
                    let start = random.below(size as u64);
                    let end = start + random.below(size as u64 - start) + 1;
                    assert!(fixture.get(id, start..end).await == bytes[start as usize..end as usize]);
                }
                assert!(matches!(
                    read(&fixture.store, id, 0..size as u64 + 1).await,
                    Err(ReadError::Gone(_))
                ));
            }
        }
    }
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_duplicates_add_no_chunk() {
    let fixture = Fixture::new().await;
    let bytes = content(1, 20 * MIB);
    fixture.put(&bytes).await;
    let (before, usage) = (
        fixture.store.recount().await.unwrap(),
        fixture.store.usage().await.unwrap(),
    );
    let again = fixture.put(&bytes).await;
    let after = fixture.store.recount().await.unwrap();
    assert_eq!((before.chunks, before.segments), (after.chunks, after.segments));
    assert_eq!(fixture.store.usage().await.unwrap(), usage);
    assert!(fixture.get(again, 0..bytes.len() as u64).await == bytes);
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunk_boundaries_do_not_depend_on_windows() {
    for profile in Profile::ALL {
        let fixture = Fixture::new().await;
        let bytes = content(2, 17 * MIB + 3);
        let put = async || {
            let options = WriteOptions {
                profile,
                ..fixture.write_options()
            };
            let data = build(&fixture.store, options, &bytes).await.unwrap();
            publish(&fixture.store, data).await.unwrap()
        };
        put().await;
        let before = fixture.store.usage().await.unwrap();
        // With many uploads at the same time a window is 1 MiB, or as long as the longest chunk.
        let others: Vec<_> = (0..100)
            .map(|_| fixture.store.writer(fixture.write_options()))
            .collect();
        let again = put().await;
        drop(others);
        assert_eq!(fixture.store.usage().await.unwrap().unique_bytes, before.unique_bytes);
        assert!(fixture.get(again, 0..bytes.len() as u64).await == bytes);
        fixture.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeros_take_no_chunk() {
    let fixture = Fixture::new().await;
    let size = 9 * MIB as u64 + 5;
    let id = fixture.put(&vec![0; size as usize]).await;
    assert_eq!(fixture.store.recount().await.unwrap().chunks, 0);
    assert!(fixture.get(id, 3..size).await.iter().all(|byte| *byte == 0));
    let mut sparse = content(3, 2 * MIB);
    sparse.extend(vec![0; 3 * MIB]);
    sparse.extend(content(4, MIB));
    let id = fixture.put(&sparse).await;
    assert!(fixture.get(id, 0..sparse.len() as u64).await == sparse);
    let usage = fixture.store.usage().await.unwrap();
    assert!(usage.unique_bytes < 3 * MIB as u64 + 600 * KIB as u64, "{usage:?}");
    fixture.delete(id).await;
    fixture.collect().await;
    assert_eq!(fixture.store.recount().await.unwrap().chunks, 0);
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_stores_its_own_duplicates_once() {
    let fixture = Fixture::new().await;
    let block = content(5, 300 * KIB);
    let bytes: Vec<u8> = std::iter::repeat_n(block, 20).flatten().collect();
    let id = fixture.put(&bytes).await;
    assert!(fixture.get(id, 0..bytes.len() as u64).await == bytes);
    let usage = fixture.store.usage().await.unwrap();
    assert!(usage.unique_bytes < MIB as u64, "{usage:?}");
    fixture.check().await;
    fixture.delete(id).await;
    fixture.collect().await;
    assert_eq!(fixture.store.recount().await.unwrap().data, 0);
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_published_goes_away() {
    let fixture = Fixture::new().await;
    let mut writer = fixture.store.writer(fixture.write_options());
    for part in content(6, 12 * MIB).chunks(MIB) {
        writer.write(Bytes::copy_from_slice(part)).await.unwrap();
    }
    let built = fixture.build(&content(7, MIB)).await;
    let report = fixture.collect().await;
    assert_eq!((report.unwound, report.skipped), (0, 2));
    drop((writer, built));
    let report = fixture.collect().await;
    assert_eq!((report.unwound, report.skipped), (2, 0));
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!((recount.data, recount.segments, recount.chunks), (0, 0, 0));
    assert_eq!(fixture.store.usage().await.unwrap().stored_bytes, 0);
}

#[tokio::test]
async fn unknown_domains_and_data_are_refused() {
    let fixture = Fixture::new().await;
    let options = WriteOptions {
        domain: DomainId(1),
        ..fixture.write_options()
    };
    assert!(matches!(
        build(&fixture.store, options, b"x").await,
        Err(WriteError::UnknownDomain(_))
    ));
    assert!(matches!(
        read(&fixture.store, DataId([9; 16]), 0..1).await,
        Err(ReadError::Gone(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_lets_its_data_go() {
    let fixture = Fixture::new().await;
    let bytes = content(8, 5 * MIB);
    let id = fixture.put(&bytes).await;
    let stream = fixture.store.read(id, 0..bytes.len() as u64).await.unwrap();
    fixture.delete(id).await;
    assert_eq!(fixture.collect().await.skipped, 1);
    let parts: Vec<Bytes> = futures::TryStreamExt::try_collect(stream).await.unwrap();
    assert!(parts.concat() == bytes);
    assert_eq!(fixture.collect().await.unwound, 1);
    assert!(matches!(read(&fixture.store, id, 0..1).await, Err(ReadError::Gone(_))));
}
