use super::{Fixture, body, integrity, key, noise};
use crate::chunk::md5::md5_small;
use crate::iam::Grant;
use crate::ids::UploadId;
use crate::meta::key::Table;
use crate::object::types::{
    ChecksumAlgorithm, ChecksumKind, CompletedPart, ExpectedChecksum, Integrity, ObjectHeaders, PartInfo,
    WriteConditions,
};
use crate::object::{
    AttributesRequest, CompleteError, CompleteUpload, CreateUpload, CreateUploadError, GetError, GetRequest, ListParts,
    ListUploads, PlaceError, UploadEntry, UploadError, UploadPart, UploadPartError, Written,
};

const PART: usize = 5 << 20;

impl Fixture {
    pub(super) async fn create(&self, grant: &Grant, name: &str) -> UploadId {
        let request = CreateUpload {
            key: key(name),
            headers: ObjectHeaders::default(),
            checksum: None,
        };
        self.objects.create_upload(grant, request).await.unwrap().id
    }

    pub(super) async fn part(&self, grant: &Grant, name: &str, upload: UploadId, number: u16, data: &[u8]) -> PartInfo {
        self.try_part(grant, name, upload, number, data).await.unwrap()
    }

    async fn try_part(
        &self,
        grant: &Grant,
        name: &str,
        upload: UploadId,
        number: u16,
        data: &[u8],
    ) -> Result<PartInfo, UploadPartError> {
        let content_length = Some(data.len() as u64);
        let (body, integrity) = (body(data), integrity());
        let request = UploadPart {
            key: key(name),
            upload,
            number,
            body,
            content_length,
            integrity,
        };
        self.objects.upload_part(grant, request).await
    }
}

pub fn completed(part: &PartInfo) -> CompletedPart {
    CompletedPart {
        number: part.number,
        etag: part.etag.to_string(),
        checksum: None,
    }
}

pub fn complete(name: &str, upload: UploadId, parts: &[PartInfo]) -> CompleteUpload {
    CompleteUpload {
        key: key(name),
        upload,
        parts: parts.iter().map(completed).collect(),
        object_size: None,
        checksum: None,
        checksum_kind: None,
        conditions: WriteConditions::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_becomes_an_object() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let upload = test.create(&grant, "k").await;
    let (one, two) = (noise(PART, 1), noise(70_000, 2));
    let older = test.part(&grant, "k", upload, 1, b"replaced").await;
    let first = test.part(&grant, "k", upload, 1, &one).await;
    let last = test.part(&grant, "k", upload, 7, &two).await;
    test.part(&grant, "k", upload, 9, b"not listed").await;
    assert_ne!(older.etag, first.etag);
    assert_eq!(test.usage(&grant).await.upload_bytes, (PART + 70_000 + 10) as i64);
    let request = || complete("k", upload, &[first.clone(), last.clone()]);
    let written = test.objects.complete_upload(&grant, request()).await.unwrap();
    assert_eq!(
        written.etag.to_string(),
        format!(
            "{}-2",
            hex::encode(md5_small(&[first.etag.md5, last.etag.md5].concat()))
        )
    );
    let checksum = written.checksum.unwrap();
    assert_eq!(
        (checksum.algorithm, checksum.kind),
        (ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)
    );
    let whole = [one.clone(), two.clone()].concat();
    assert_eq!(test.get(&grant, "k").await.unwrap(), whole);
    // A retry gets the same answer, other parts do not.
    let again: Written = test.objects.complete_upload(&grant, request()).await.unwrap();
    assert_eq!((again.etag, again.size), (written.etag, whole.len() as u64));
    let other = test
        .objects
        .complete_upload(&grant, complete("k", upload, std::slice::from_ref(&first)))
        .await;
    assert!(matches!(other, Err(CompleteError::NoSuchUpload)));
    assert!(matches!(
        test.try_part(&grant, "k", upload, 1, b"x").await,
        Err(UploadPartError::NoSuchUpload)
    ));
    test.sweep().await;
    test.chunks.collect_once().await.unwrap();
    assert_eq!(test.get(&grant, "k").await.unwrap(), whole);
    let usage = test.usage(&grant).await;
    assert_eq!(
        (usage.objects, usage.bytes, usage.upload_bytes),
        (1, whole.len() as i64, 0)
    );
    // Part 7 is found by its number.
    let part = |number| GetRequest {
        part_number: Some(number),
        ..Default::default()
    };
    assert_eq!(test.get_with(&grant, "k", part(7)).await.unwrap(), two);
    assert!(matches!(
        test.get_with(&grant, "k", part(2)).await,
        Err(GetError::InvalidPartNumber { parts: 2, .. })
    ));
    let head = test.objects.head(&grant, &key("k"), part(1)).await.unwrap();
    assert_eq!((head.parts, head.length), (Some(2), PART as u64));
    nothing_is_left_of(&test, &grant, "k").await;
}

async fn nothing_is_left_of(test: &Fixture, grant: &Grant, name: &str) {
    test.objects
        .delete(grant, &key(name), Default::default())
        .await
        .unwrap();
    test.sweep().await;
    test.hand.advance_ms(25 * 60 * 60 * 1000);
    test.sweep().await;
    for _ in 0..3 {
        test.chunks.collect_once().await.unwrap();
    }
    let left = [
        Table::Aux,
        Table::Part,
        Table::UploadGarbage,
        Table::Completed,
        Table::Data,
        Table::Chunk,
    ];
    for table in left {
        assert_eq!(test.rows(table).await, 0, "{table:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_list_of_parts_is_refused_and_can_be_corrected() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let upload = test.create(&grant, "k").await;
    let small = test.part(&grant, "k", upload, 1, b"small").await;
    let last = test.part(&grant, "k", upload, 2, b"").await;
    let run = |request| test.objects.complete_upload(&grant, request);
    assert!(matches!(
        run(complete("k", upload, &[])).await,
        Err(CompleteError::PartCount)
    ));
    let order = complete("k", upload, &[last.clone(), small.clone()]);
    assert!(matches!(run(order).await, Err(CompleteError::InvalidPartOrder)));
    let two = complete("k", upload, &[small.clone(), last.clone()]);
    assert!(matches!(
        run(two).await,
        Err(CompleteError::PartTooSmall { number: 1, size: 5 })
    ));
    let absent = PartInfo {
        number: 3,
        ..last.clone()
    };
    assert!(matches!(
        run(complete("k", upload, &[absent])).await,
        Err(CompleteError::InvalidPart(3))
    ));
    let renamed = PartInfo {
        etag: last.etag,
        ..small.clone()
    };
    assert!(matches!(
        run(complete("k", upload, &[renamed])).await,
        Err(CompleteError::InvalidPart(1))
    ));
    let sized = CompleteUpload {
        object_size: Some(6),
        ..complete("k", upload, std::slice::from_ref(&small))
    };
    assert!(matches!(
        run(sized).await,
        Err(CompleteError::SizeMismatch { expected: 6, actual: 5 })
    ));
    let checksum = Some((ChecksumAlgorithm::Crc64Nvme, vec![0; 8]));
    let wrong = CompleteUpload {
        checksum,
        ..complete("k", upload, std::slice::from_ref(&small))
    };
    assert!(matches!(run(wrong).await, Err(CompleteError::BadChecksum(_))));
    test.put(&grant, "k", b"there").await;
    let conditional = CompleteUpload {
        conditions: super::create_only(),
        ..complete("k", upload, std::slice::from_ref(&small))
    };
    assert!(matches!(
        run(conditional).await,
        Err(CompleteError::Place(PlaceError::PreconditionFailed(_)))
    ));
    // Still open, and of one empty part an empty object is made.
    let empty = test.part(&grant, "k", upload, 1, b"").await;
    run(complete("k", upload, &[empty])).await.unwrap();
    assert_eq!(test.get(&grant, "k").await.unwrap(), b"");
    assert_eq!(test.usage(&grant).await.objects, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checksums_of_uploads_are_composite_or_of_the_full_object() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let create = |algorithm, kind| {
        let request = CreateUpload {
            key: key("k"),
            headers: Default::default(),
            checksum: Some((algorithm, kind)),
        };
        test.objects.create_upload(&grant, request)
    };
    let refused = create(ChecksumAlgorithm::Sha256, Some(ChecksumKind::FullObject)).await;
    assert!(matches!(
        refused,
        Err(CreateUploadError::ChecksumType(ChecksumAlgorithm::Sha256))
    ));
    let (one, two) = (noise(PART, 1), b"tail".to_vec());
    let cases = [
        (ChecksumAlgorithm::Crc32, Some(ChecksumKind::FullObject)),
        (ChecksumAlgorithm::Crc32, None),
        (ChecksumAlgorithm::Sha256, None),
        (ChecksumAlgorithm::Crc64Nvme, None),
    ];
    for (algorithm, kind) in cases {
        let info = create(algorithm, kind).await.unwrap();
        let parts = [
            test.part(&grant, "k", info.id, 1, &one).await,
            test.part(&grant, "k", info.id, 2, &two).await,
        ];
        let values: Vec<_> = parts.iter().map(|part| part.checksum.clone().unwrap().value).collect();
        let mut hasher = crate::object::checksum::Hasher::new(algorithm);
        let kind = info.checksum.unwrap().1;
        match kind {
            ChecksumKind::FullObject => [&one, &two].into_iter().for_each(|part| hasher.update(part)),
            ChecksumKind::Composite => values.iter().for_each(|value| hasher.update(value)),
        }
        let expected = hasher.finish();
        let request = CompleteUpload {
            checksum: Some((algorithm, expected.clone())),
            checksum_kind: Some(kind),
            ..complete("k", info.id, &parts)
        };
        let written = test.objects.complete_upload(&grant, request).await.unwrap();
        assert_eq!(written.checksum.unwrap().value, expected);
        let request = AttributesRequest {
            part_number_marker: 1,
            max_parts: 1000,
            conditions: Default::default(),
        };
        let attributes = test.objects.attributes(&grant, &key("k"), request).await.unwrap();
        assert_eq!(attributes.info.checksum.unwrap().kind, kind);
        let listed = attributes.parts.unwrap();
        assert_eq!((listed.total, listed.parts.len(), listed.next), (2, 1, None));
        assert_eq!(listed.parts[0].checksum.clone().unwrap().value, values[1]);
    }
}

#[tokio::test]
async fn parts_with_another_checksum_than_their_upload_are_refused() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let request = CreateUpload {
        key: key("k"),
        headers: ObjectHeaders::default(),
        checksum: Some((ChecksumAlgorithm::Sha1, None)),
    };
    let info = test.objects.create_upload(&grant, request).await.unwrap();
    let checksum = ExpectedChecksum::Compute(ChecksumAlgorithm::Crc32);
    let request = UploadPart {
        key: key("k"),
        upload: info.id,
        number: 1,
        body: body(b"x"),
        content_length: Some(1),
        integrity: Integrity {
            content_md5: None,
            checksum,
        },
    };
    let refused = test.objects.upload_part(&grant, request).await;
    assert!(matches!(
        refused,
        Err(UploadPartError::ChecksumAlgorithm(ChecksumAlgorithm::Sha1))
    ));
}

#[tokio::test]
async fn parts_are_listed_in_pages() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let upload = test.create(&grant, "k").await;
    for number in [3, 1, 2] {
        test.part(&grant, "k", upload, number, b"data").await;
    }
    let parts = |marker, limit| ListParts {
        key: key("k"),
        upload,
        part_number_marker: marker,
        limit,
    };
    let page = test.objects.list_parts(&grant, parts(0, 2)).await.unwrap();
    assert_eq!(
        (page.parts.iter().map(|part| part.number).collect::<Vec<_>>(), page.next),
        (vec![1, 2], Some(2))
    );
    let page = test.objects.list_parts(&grant, parts(2, 2)).await.unwrap();
    assert_eq!((page.parts.len(), page.next), (1, None));
}

#[tokio::test]
async fn uploads_are_listed_in_pages() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    for name in ["a/1", "a/2", "a/2", "b", "c/1", "k", "é"] {
        test.create(&grant, name).await;
    }
    let mut request = ListUploads {
        delimiter: Some("/".into()),
        limit: 2,
        ..Default::default()
    };
    let mut names = Vec::new();
    loop {
        let page = test.objects.list_uploads(&grant, request.clone()).await.unwrap();
        names.extend(page.entries.iter().map(|entry| match entry {
            UploadEntry::Upload(upload) => upload.key.as_str().to_owned(),
            UploadEntry::CommonPrefix(prefix) => prefix.clone(),
        }));
        let Some((key_marker, upload_id_marker)) = page.next else {
            break;
        };
        request = ListUploads {
            key_marker,
            upload_id_marker,
            ..request
        };
    }
    assert_eq!(names, ["a/", "b", "c/", "k", "é"]);
    let under = ListUploads {
        prefix: "a/2".into(),
        limit: 1,
        ..Default::default()
    };
    let page = test.objects.list_uploads(&grant, under.clone()).await.unwrap();
    let (key_marker, upload_id_marker) = page.next.unwrap();
    let page = test
        .objects
        .list_uploads(
            &grant,
            ListUploads {
                key_marker,
                upload_id_marker,
                ..under
            },
        )
        .await
        .unwrap();
    assert_eq!((page.entries.len(), page.next.is_none()), (1, true));
}

#[tokio::test]
async fn aborted_uploads_and_those_of_a_deleted_bucket_are_swept() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let upload = test.create(&grant, "k").await;
    for number in [3, 1, 2] {
        test.part(&grant, "k", upload, number, b"data").await;
    }
    test.objects.abort_upload(&grant, &key("k"), upload).await.unwrap();
    let again = test.objects.abort_upload(&grant, &key("k"), upload).await;
    assert!(matches!(again, Err(UploadError::NoSuchUpload)));
    assert_eq!(test.usage(&grant).await.upload_bytes, 12);
    // A deleted bucket takes its uploads with it.
    let upload = test.create(&grant, "z").await;
    test.part(&grant, "z", upload, 1, b"data").await;
    test.objects.delete_bucket(&grant).await.unwrap();
    assert!(matches!(
        test.try_part(&grant, "z", upload, 2, b"x").await,
        Err(UploadPartError::NoSuchUpload)
    ));
    test.sweep().await;
    test.sweep().await;
    for table in [
        Table::Upload,
        Table::Part,
        Table::UploadGarbage,
        Table::BucketAnchor,
        Table::OwnerBucket,
    ] {
        assert_eq!(test.rows(table).await, 0, "{table:?}");
    }
}

#[tokio::test]
async fn an_upload_whose_completion_was_cut_off_is_open_again() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    let upload = test.create(&grant, "k").await;
    let part = test.part(&grant, "k", upload, 1, b"one").await;
    // The commit that gives the upload back after the refusal is lost, as in a crash.
    let faults = [
        crate::kv::fault::CommitFault::Pass,
        crate::kv::fault::CommitFault::Unavailable,
    ];
    test.kv.script(faults);
    let wrong = CompleteUpload {
        object_size: Some(99),
        ..complete("k", upload, std::slice::from_ref(&part))
    };
    assert!(test.objects.complete_upload(&grant, wrong).await.is_err());
    let part = test.part(&grant, "k", upload, 1, b"two").await;
    test.restarted()
        .complete_upload(&grant, complete("k", upload, &[part]))
        .await
        .unwrap();
    assert_eq!(test.get(&grant, "k").await.unwrap(), b"two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_parts_complete_quickly() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    test.put(&grant, "big", &noise(PART, 1)).await;
    let upload = test.create(&grant, "k").await;
    let mut parts = Vec::new();
    for number in 1..=10_000 {
        let request = crate::object::UploadPartCopy {
            source_key: key("big"),
            source_conditions: Default::default(),
            source_range: None,
            key: key("k"),
            upload,
            number,
        };
        parts.push(test.objects.upload_part_copy(&grant, &grant, request).await.unwrap());
    }
    let begun = std::time::Instant::now();
    let written = test
        .objects
        .complete_upload(&grant, complete("k", upload, &parts))
        .await
        .unwrap();
    let took = begun.elapsed();
    println!("10,000 parts completed in {took:?}");
    assert_eq!((written.etag.parts, written.size), (10_000, 10_000 * PART as u64));
    assert!(took.as_secs() < 2, "{took:?}");
    let part = GetRequest {
        part_number: Some(9_999),
        ..Default::default()
    };
    let head = test.objects.head(&grant, &key("k"), part).await.unwrap();
    assert_eq!((head.first, head.parts), (9_998 * PART as u64, Some(10_000)));
    let range = crate::object::types::RangeSpec::From(PART as u64 * 5_000 - 2, Some(PART as u64 * 5_000 + 1));
    assert_eq!(test.get_range(&grant, "k", range).await.unwrap().len(), 4);
    let request = AttributesRequest {
        part_number_marker: 8_999,
        max_parts: 1000,
        conditions: Default::default(),
    };
    let listed = test
        .objects
        .attributes(&grant, &key("k"), request)
        .await
        .unwrap()
        .parts
        .unwrap();
    assert_eq!(
        (listed.parts.len(), listed.parts[0].number, listed.next),
        (1000, 9_000, Some(9_999))
    );
    test.sweep().await;
    assert_eq!(test.usage(&grant).await.upload_bytes, 0);
}
