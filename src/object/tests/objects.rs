use super::{Fixture, body, integrity, key, noise, put_request};
use crate::kv::{Kv, Scan};
use crate::meta::key::{self as row, Table};
use crate::object::types::{
    BodyError, ChecksumAlgorithm, ChecksumKind, ExpectedChecksum, Integrity, ObjectHeaders, RangeSpec, ReadConditions,
};
use crate::object::types::{ETagCondition, WriteConditions};
use crate::object::{DeleteError, DeleteTarget, GetError, GetRequest, PlaceError, PutError, PutRequest, ReceiveError};

impl Fixture {
    pub(super) async fn rows(&self, table: Table) -> usize {
        let range = row::table(table);
        let scan = Scan {
            start: std::ops::Bound::Included(range.start),
            end: std::ops::Bound::Excluded(range.end),
            limit: 4096,
            direction: Default::default(),
            fold: None,
        };
        self.kv.scan(scan).await.unwrap().len()
    }
}

#[tokio::test]
async fn objects_of_every_size_read_back() {
    let test = Fixture::new().await;
    let grant = test.bucket("sizes").await;
    let mut bytes = 0;
    for size in [0, 1, 8191, 8192, 8193, 65_536, 3 << 20] {
        let (name, data) = (format!("k{size}"), noise(size, size as u64));
        let written = test.put(&grant, &name, &data).await;
        bytes += size as i64;
        assert_eq!(written.etag.md5, crate::chunk::md5::md5_small(&data), "{size}");
        let checksum = written.checksum.unwrap();
        assert_eq!(
            (checksum.algorithm, checksum.kind),
            (ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)
        );
        assert_eq!(test.get(&grant, &name).await.unwrap(), data, "{size}");
        assert_eq!(test.info(&grant, &name).await.unwrap().size, size as u64);
        if size > 2 {
            let range = RangeSpec::From(1, Some(size as u64 - 2));
            assert_eq!(
                test.get_range(&grant, &name, range).await.unwrap(),
                &data[1..size - 1],
                "{size}"
            );
        }
    }
    let usage = test.usage(&grant).await;
    assert_eq!((usage.objects, usage.bytes), (7, bytes));
    assert_eq!(test.objects.counters_total().await.unwrap(), usage);
}

#[tokio::test]
async fn overwriting_and_deleting_free_what_was_there() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let user: Vec<_> = (0..4).map(|at| (format!("n{at}"), "v".repeat(400))).collect();
    let headers = ObjectHeaders {
        user,
        content_type: Some("text/plain".into()),
        ..Default::default()
    };
    let request = PutRequest {
        headers: headers.clone(),
        ..put_request("k", b"small")
    };
    test.objects.put(&grant, request).await.unwrap();
    assert_eq!(test.info(&grant, "k").await.unwrap().headers, headers);
    assert_eq!((test.rows(Table::Aux).await, test.rows(Table::Body).await), (1, 1));
    test.put(&grant, "k", &noise(100_000, 1)).await;
    assert_eq!((test.rows(Table::Aux).await, test.rows(Table::Body).await), (0, 0));
    assert_eq!(test.rows(Table::Garbage).await, 0);
    test.put(&grant, "k", b"small again").await;
    assert_eq!((test.rows(Table::Garbage).await, test.rows(Table::Body).await), (1, 1));
    assert_eq!(test.usage(&grant).await.objects, 1);
    test.objects
        .delete(&grant, &key("k"), Default::default())
        .await
        .unwrap();
    test.objects
        .delete(&grant, &key("k"), Default::default())
        .await
        .unwrap();
    assert_eq!(test.rows(Table::Body).await, 0);
    assert_eq!(test.usage(&grant).await, Default::default());
    test.chunks.collect_once().await.unwrap();
    assert_eq!((test.rows(Table::Data).await, test.rows(Table::Chunk).await), (0, 0));
}

fn with_checksum(put: PutRequest, checksum: ExpectedChecksum) -> PutRequest {
    let integrity = Integrity {
        content_md5: None,
        checksum,
    };
    PutRequest { integrity, ..put }
}

#[tokio::test]
async fn a_body_that_is_not_what_was_sent_leaves_nothing() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    for size in [10, 100_000] {
        let data = noise(size, 3);
        let put = |change: fn(PutRequest) -> PutRequest| test.objects.put(&grant, change(put_request("k", &data)));
        let refused = |result: Result<_, PutError>| match result {
            Err(PutError::Receive(error)) => error,
            other => panic!("{:?}", other.map(|_: super::Written| ())),
        };
        let error = put(|put| PutRequest {
            integrity: Integrity {
                content_md5: Some([1; 16]),
                ..integrity()
            },
            ..put
        });
        assert!(matches!(refused(error.await), ReceiveError::BadMd5));
        let error = put(|put| with_checksum(put, ExpectedChecksum::Header(ChecksumAlgorithm::Sha256, vec![0; 32])));
        assert!(matches!(
            refused(error.await),
            ReceiveError::BadChecksum(ChecksumAlgorithm::Sha256)
        ));
        let error = put(|put| {
            with_checksum(
                put,
                ExpectedChecksum::Trailer(ChecksumAlgorithm::Crc32, Box::new(|| None)),
            )
        });
        assert!(matches!(
            refused(error.await),
            ReceiveError::MissingTrailer(ChecksumAlgorithm::Crc32)
        ));
        let error = put(|put| PutRequest {
            content_length: put.content_length.map(|length| length + 1),
            ..put
        });
        assert!(matches!(refused(error.await), ReceiveError::Incomplete { .. }));
        let error = put(|put| PutRequest {
            content_length: Some((5 << 30) + 1),
            ..put
        });
        assert!(matches!(refused(error.await), ReceiveError::TooLarge));
        let broken = futures::StreamExt::chain(
            body(&data),
            futures::stream::iter([Err(BodyError(Box::new(std::io::Error::other("cut"))))]),
        );
        let request = PutRequest {
            body: Box::pin(broken),
            content_length: None,
            ..put_request("k", &data)
        };
        assert!(matches!(
            refused(test.objects.put(&grant, request).await),
            ReceiveError::Body(_)
        ));
        assert!(matches!(test.get(&grant, "k").await, Err(GetError::NoSuchKey)));
    }
    assert_eq!(test.usage(&grant).await, Default::default());
    test.chunks.collect_once().await.unwrap();
    assert_eq!((test.rows(Table::Object).await, test.rows(Table::Data).await), (0, 0));
}

#[tokio::test]
async fn ranges_parts_and_conditions_of_reads() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let written = test.put(&grant, "k", b"0123456789").await;
    test.put(&grant, "empty", b"").await;
    assert_eq!(test.get_range(&grant, "k", RangeSpec::Suffix(3)).await.unwrap(), b"789");
    assert_eq!(
        test.get_range(&grant, "k", RangeSpec::From(8, Some(99))).await.unwrap(),
        b"89"
    );
    for (name, range) in [
        ("k", RangeSpec::From(10, None)),
        ("k", RangeSpec::Suffix(0)),
        ("empty", RangeSpec::From(0, None)),
    ] {
        assert!(
            matches!(
                test.get_range(&grant, name, range).await,
                Err(GetError::InvalidRange { .. })
            ),
            "{range:?}"
        );
    }
    let part = |number| GetRequest {
        part_number: Some(number),
        ..Default::default()
    };
    assert_eq!(test.get_with(&grant, "k", part(1)).await.unwrap(), b"0123456789");
    assert!(matches!(
        test.get_with(&grant, "k", part(2)).await,
        Err(GetError::InvalidPartNumber { parts: 1, .. })
    ));
    let if_none_match = Some(ETagCondition::OneOf(vec![written.etag.to_string()]));
    let conditions = ReadConditions {
        if_none_match,
        ..Default::default()
    };
    let request = GetRequest {
        conditions,
        ..Default::default()
    };
    match test.get_with(&grant, "k", request).await {
        Err(GetError::NotModified { etag, .. }) => assert_eq!(etag, written.etag),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn many_keys_are_deleted_in_groups() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    for at in 0..450 {
        test.put(&grant, &format!("k{at:04}"), if at % 100 == 0 { b"" } else { b"v" })
            .await;
    }
    let target = |name: &str| DeleteTarget {
        key: key(name),
        conditions: WriteConditions::default(),
    };
    let mut targets: Vec<_> = (0..440).map(|at| target(&format!("k{at:04}"))).collect();
    targets.push(target("k0001"));
    targets.push(target("absent"));
    targets.push(DeleteTarget {
        key: key("k0445"),
        conditions: super::if_match("0123"),
    });
    let results = test.objects.delete_many(&grant, targets).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 442);
    assert!(matches!(results[442], Err(DeleteError::PreconditionFailed("If-Match"))));
    assert_eq!(test.usage(&grant).await.objects, 10);
    assert_eq!(test.rows(Table::Body).await, 10);
}

#[tokio::test]
async fn conditional_writes_have_the_outcomes_of_s3() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let absent = test.put_if(&grant, "k", b"x", super::if_match("00")).await;
    assert!(matches!(absent, Err(PutError::Place(PlaceError::NoSuchKey))));
    let first = test.put_if(&grant, "k", b"1", super::create_only()).await.unwrap();
    for data in [b"2".to_vec(), noise(20_000, 2)] {
        let taken = test.put_if(&grant, "k", &data, super::create_only()).await;
        assert!(matches!(
            taken,
            Err(PutError::Place(PlaceError::PreconditionFailed("If-None-Match")))
        ));
    }
    test.put_if(&grant, "k", b"3", super::if_match(first.etag))
        .await
        .unwrap();
    let stale = test.put_if(&grant, "k", b"4", super::if_match(first.etag)).await;
    assert!(matches!(
        stale,
        Err(PutError::Place(PlaceError::PreconditionFailed("If-Match")))
    ));
    let wrong = test
        .objects
        .delete(&grant, &key("k"), super::if_match(first.etag))
        .await;
    assert!(matches!(wrong, Err(DeleteError::PreconditionFailed(_))));
    test.objects
        .delete(&grant, &key("absent"), super::if_match("00"))
        .await
        .unwrap();
    assert_eq!(test.get(&grant, "k").await.unwrap(), b"3");
}
