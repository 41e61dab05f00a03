use super::uploads::complete;
use super::{Fixture, key, noise, put_request};
use crate::iam::Grant;
use crate::meta::key::Table;
use crate::object::types::{ChecksumAlgorithm, ETagCondition, ObjectHeaders, ReadConditions, WriteConditions};
use crate::object::{CopyError, CopyPartError, CopyRequest, PlaceError, PutRequest, UploadPartCopy};

pub fn copy_to(name: &str) -> CopyRequest {
    CopyRequest {
        key: key(name),
        source_conditions: ReadConditions::default(),
        conditions: WriteConditions::default(),
        headers: None,
        website_redirect: None,
        tags: None,
        storage_class: None,
        checksum: None,
    }
}

fn headers(content_type: &str) -> ObjectHeaders {
    let tags = vec![("t".into(), "1".into())];
    ObjectHeaders {
        content_type: Some(content_type.into()),
        tags,
        ..Default::default()
    }
}

async fn put(test: &Fixture, grant: &Grant, name: &str, data: &[u8]) {
    let request = PutRequest {
        headers: headers("text/a"),
        ..put_request(name, data)
    };
    test.objects.put(grant, request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_hold_the_bytes_and_what_was_not_replaced() {
    let test = Fixture::new().await;
    let (grant, other) = (test.bucket("b").await, test.bucket("c").await);
    let foreign = test.bucket_of(&test.bob, "bobs").await;
    for size in [0, 100, 300_000] {
        let data = noise(size, 4);
        put(&test, &grant, "src", &data).await;
        let source = test.info(&grant, "src").await.unwrap();
        for dest in [&other, &foreign] {
            let chunks = test.rows(Table::Chunk).await;
            let written = test
                .objects
                .copy(&grant, &key("src"), dest, copy_to("dst"))
                .await
                .unwrap();
            assert_eq!((written.etag, &written.checksum), (source.etag, &source.checksum));
            assert_eq!(test.get(dest, "dst").await.unwrap(), data);
            assert_eq!(test.info(dest, "dst").await.unwrap().headers, headers("text/a"));
            // Domains share nothing; inside one nothing is stored again.
            let stored_again = test.rows(Table::Chunk).await > chunks;
            assert_eq!(stored_again, size > 8192 && std::ptr::eq(dest, &foreign), "{size}");
        }
        let request = CopyRequest {
            headers: Some(ObjectHeaders {
                tags: vec![],
                ..headers("text/b")
            }),
            checksum: Some(ChecksumAlgorithm::Sha256),
            ..copy_to("src")
        };
        let written = test.objects.copy(&grant, &key("src"), &grant, request).await.unwrap();
        let mut hasher = crate::object::checksum::Hasher::new(ChecksumAlgorithm::Sha256);
        hasher.update(&data);
        assert_eq!(written.checksum.unwrap().value, hasher.finish());
        assert_eq!(test.get(&grant, "src").await.unwrap(), data);
        assert_eq!(test.info(&grant, "src").await.unwrap().headers, headers("text/b"));
        // The source goes, the copies stay.
        test.objects
            .delete(&grant, &key("src"), Default::default())
            .await
            .unwrap();
        test.chunks.collect_once().await.unwrap();
        for dest in [&other, &foreign] {
            assert_eq!(test.get(dest, "dst").await.unwrap(), data);
            test.usage(dest).await;
        }
        test.usage(&grant).await;
    }
}

#[tokio::test]
async fn copies_are_refused_as_s3_does() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    put(&test, &grant, "k", b"v").await;
    let copy = |from: &str, request| {
        let from = key(from);
        let (test, grant) = (&test, &grant);
        async move { test.objects.copy(grant, &from, grant, request).await }
    };
    assert!(matches!(
        copy("k", copy_to("k")).await,
        Err(CopyError::SelfCopyUnchanged)
    ));
    assert!(matches!(
        copy("absent", copy_to("d")).await,
        Err(CopyError::NoSuchSource)
    ));
    let source_conditions = ReadConditions {
        if_none_match: Some(ETagCondition::Any),
        ..Default::default()
    };
    let request = CopyRequest {
        source_conditions,
        ..copy_to("d")
    };
    assert!(matches!(
        copy("k", request).await,
        Err(CopyError::SourcePreconditionFailed("If-None-Match"))
    ));
    let request = CopyRequest {
        conditions: super::create_only(),
        headers: Some(headers("x")),
        ..copy_to("k")
    };
    assert!(matches!(
        copy("k", request).await,
        Err(CopyError::Place(PlaceError::PreconditionFailed(_)))
    ));
    let request = CopyRequest {
        storage_class: Some("STANDARD_IA".into()),
        ..copy_to("k")
    };
    copy("k", request).await.unwrap();
    assert_eq!(
        test.info(&grant, "k").await.unwrap().headers.storage_class.as_deref(),
        Some("STANDARD_IA")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_set_and_not_copied() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    put(&test, &grant, "k", b"0123456789").await;
    let copy = |from: &'static str, to: &str, redirect: Option<&str>, headers| {
        let request = CopyRequest {
            headers,
            website_redirect: redirect.map(str::to_owned),
            ..copy_to(to)
        };
        let (objects, grant) = (&test.objects, &grant);
        async move { objects.copy(grant, &key(from), grant, request).await }
    };
    let redirect = async |name: &str| test.info(&grant, name).await.unwrap().headers.website_redirect_location;
    copy("k", "k", Some("/there"), None).await.unwrap();
    assert_eq!(redirect("k").await.as_deref(), Some("/there"));
    assert_eq!(
        test.info(&grant, "k").await.unwrap().headers.content_type.as_deref(),
        Some("text/a")
    );
    assert!(matches!(
        copy("k", "k", None, None).await,
        Err(CopyError::SelfCopyUnchanged)
    ));
    copy("k", "copied", None, None).await.unwrap();
    assert_eq!(redirect("copied").await, None);
    copy("k", "replaced", Some("/else"), Some(headers("text/b")))
        .await
        .unwrap();
    assert_eq!(redirect("replaced").await.as_deref(), Some("/else"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_copied_from_ranges() {
    for test in [Fixture::new().await, Fixture::encrypted().await] {
        copy_ranges(&test).await;
    }
}

async fn copy_ranges(test: &Fixture) {
    let (grant, foreign) = (test.bucket("b").await, test.bucket_of(&test.bob, "bobs").await);
    let (large, small) = (noise(6 << 20, 1), b"0123456789".to_vec());
    put(test, &grant, "large", &large).await;
    put(test, &grant, "small", &small).await;
    for dest in [&grant, &foreign] {
        let upload = test.create(dest, "k").await;
        let part = |number, source: &str, source_range| UploadPartCopy {
            source_key: key(source),
            source_conditions: ReadConditions::default(),
            source_range,
            key: key("k"),
            upload,
            number,
        };
        let run = |request| test.objects.upload_part_copy(&grant, dest, request);
        let outside = run(part(1, "small", Some((0, 10)))).await;
        assert!(matches!(outside, Err(CopyPartError::InvalidRange { size: 10 })));
        let parts = [
            run(part(1, "large", Some((7, (6 << 20) - 1)))).await.unwrap(),
            run(part(2, "large", None)).await.unwrap(),
            run(part(3, "small", Some((2, 4)))).await.unwrap(),
        ];
        test.objects
            .complete_upload(dest, complete("k", upload, &parts))
            .await
            .unwrap();
        let expected = [&large[7..], &large, &small[2..5]].concat();
        assert_eq!(test.get(dest, "k").await.unwrap(), expected);
        // A copy of the multipart object keeps its tag and is one piece.
        let written = test.objects.copy(dest, &key("k"), dest, copy_to("copy")).await.unwrap();
        assert_eq!(written.etag.parts, 3);
        assert_eq!(test.get(dest, "copy").await.unwrap(), expected);
    }
}
