//! Multipart uploads.

use bytes::Bytes;

use super::client::{Answer, Call, Gateway};

const MIN: usize = 5 << 20;

async fn create(gateway: &Gateway, path: &str) -> String {
    Call::post(path)
        .query("uploads", "")
        .send(gateway)
        .await
        .expect(200)
        .element("UploadId")
}

async fn part(gateway: &Gateway, path: &str, upload: &str, number: u32, body: Bytes) -> String {
    let call = Call::put(path)
        .query("partNumber", &number.to_string())
        .query("uploadId", upload)
        .body(body);
    call.send(gateway).await.expect(200).header("etag").to_owned()
}

fn complete_call(path: &str, upload: &str, parts: &[(u32, &str)]) -> Call {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    Call::post(path).query("uploadId", upload).body(body)
}

async fn complete(gateway: &Gateway, path: &str, upload: &str, parts: &[(u32, &str)]) -> Answer {
    complete_call(path, upload, parts).send(gateway).await
}

#[tokio::test]
async fn an_upload_from_first_to_last() {
    let gateway = Gateway::with_bucket().await;
    let upload = create(&gateway, "/media/big").await;
    let first = part(&gateway, "/media/big", &upload, 1, Bytes::from(vec![1; MIN])).await;
    let second = part(&gateway, "/media/big", &upload, 2, Bytes::from_static(b"end")).await;
    let listed = Call::get("/media/big")
        .query("uploadId", &upload)
        .query("max-parts", "1")
        .send(&gateway)
        .await;
    let listed = listed.expect(200);
    assert_eq!(
        (
            listed.elements("PartNumber"),
            listed.element("NextPartNumberMarker").as_str()
        ),
        (vec!["1".into()], "1")
    );
    assert_eq!(listed.element("IsTruncated"), "true");
    let uploads = Call::get("/media")
        .query("uploads", "")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(
        (uploads.element("UploadId"), uploads.element("Key").as_str()),
        (upload.clone(), "big")
    );
    Call::get("/media/big")
        .query("partNumber", "1")
        .send(&gateway)
        .await
        .refused(404, "NoSuchKey");
    let parts = [(1, first.as_str()), (2, second.as_str())];
    let done = complete(&gateway, "/media/big", &upload, &parts).await.expect(200);
    assert!(done.element("ETag").contains("-2"), "{done:?}");
    let again = complete(&gateway, "/media/big", &upload, &parts).await.expect(200);
    assert_eq!(again.element("ETag"), done.element("ETag"));
    let read = Call::get("/media/big").send(&gateway).await.expect(200);
    assert_eq!((read.body.len(), &read.body[MIN..]), (MIN + 3, b"end".as_slice()));
    let one = Call::get("/media/big")
        .query("partNumber", "2")
        .send(&gateway)
        .await
        .expect(206);
    assert_eq!((one.text().as_str(), one.header("x-amz-mp-parts-count")), ("end", "2"));
    Call::get("/media/big")
        .query("partNumber", "3")
        .send(&gateway)
        .await
        .refused(400, "InvalidPart");
}

#[tokio::test]
async fn what_a_complete_refuses() {
    let gateway = Gateway::with_bucket().await;
    let upload = create(&gateway, "/media/big").await;
    let first = part(&gateway, "/media/big", &upload, 1, Bytes::from_static(b"small")).await;
    let second = part(&gateway, "/media/big", &upload, 2, Bytes::from_static(b"end")).await;
    let (first, second) = (first.as_str(), second.as_str());
    let refused = async |parts: &[(u32, &str)], code| {
        complete(&gateway, "/media/big", &upload, parts)
            .await
            .refused(400, code);
    };
    refused(&[(1, first), (2, second)], "EntityTooSmall").await;
    refused(&[(2, second), (1, first)], "InvalidPartOrder").await;
    refused(&[(1, second)], "InvalidPart").await;
    refused(&[(3, first)], "InvalidPart").await;
    refused(&[], "MalformedXML").await;
    refused(&[(0, first)], "InvalidArgument").await;
    Call::post("/media/big")
        .query("uploadId", &upload)
        .body("<a")
        .send(&gateway)
        .await
        .refused(400, "MalformedXML");
    complete(&gateway, "/media/other", &upload, &[(1, first)])
        .await
        .refused(404, "NoSuchUpload");
    complete(&gateway, "/media/big", "no-such-id", &[(1, first)])
        .await
        .refused(404, "NoSuchUpload");
    Call::delete("/media/big")
        .query("uploadId", &upload)
        .send(&gateway)
        .await
        .expect(204);
    complete(&gateway, "/media/big", &upload, &[(1, first)])
        .await
        .refused(404, "NoSuchUpload");
    Call::delete("/media/big")
        .query("uploadId", &upload)
        .send(&gateway)
        .await
        .refused(404, "NoSuchUpload");
    let late = Call::put("/media/big")
        .query("partNumber", "1")
        .query("uploadId", &upload)
        .body("x");
    late.send(&gateway).await.refused(404, "NoSuchUpload");
    Call::head("/media/big").send(&gateway).await.expect(404);
}

#[tokio::test]
async fn parts_by_copy() {
    let gateway = Gateway::with_bucket().await;
    Call::put("/media/source")
        .body("0123456789")
        .send(&gateway)
        .await
        .expect(200);
    let upload = create(&gateway, "/media/big").await;
    let copy = |number: &str, range: &str| {
        Call::put("/media/big")
            .query("partNumber", number)
            .query("uploadId", &upload)
            .header("x-amz-copy-source", "media/source")
            .header("x-amz-copy-source-range", range)
    };
    let etag = copy("1", "bytes=2-4").send(&gateway).await.expect(200).element("ETag");
    for range in [
        "0-2",
        "bytes=0",
        "bytes=hello-world",
        "bytes=0-bar",
        "bytes=0-2,3-5",
        "bytes=5-",
        "bytes=-5",
        "bytes=5-4",
    ] {
        copy("1", range).send(&gateway).await.refused(400, "InvalidArgument");
    }
    copy("1", "bytes=5-10")
        .send(&gateway)
        .await
        .refused(416, "InvalidRange");
    copy("0", "bytes=2-4")
        .send(&gateway)
        .await
        .refused(400, "InvalidArgument");
    copy("10001", "bytes=2-4")
        .send(&gateway)
        .await
        .refused(400, "InvalidArgument");
    complete(&gateway, "/media/big", &upload, &[(1, &etag)])
        .await
        .expect(200);
    assert_eq!(Call::get("/media/big").send(&gateway).await.expect(200).text(), "234");
}

#[tokio::test]
async fn a_composite_checksum_counts_its_parts() {
    let gateway = Gateway::with_bucket().await;
    let create = Call::post("/media/big")
        .query("uploads", "")
        .header("x-amz-checksum-algorithm", "SHA256");
    let created = create.send(&gateway).await.expect(200);
    assert_eq!(created.header("x-amz-checksum-algorithm"), "SHA256");
    let upload = created.element("UploadId");
    let etag = part(&gateway, "/media/big", &upload, 1, Bytes::from_static(b"end")).await;
    let done = complete(&gateway, "/media/big", &upload, &[(1, &etag)])
        .await
        .expect(200);
    assert!(done.element("ChecksumSHA256").ends_with("-1"), "{done:?}");
    assert_eq!(done.element("ChecksumType"), "COMPOSITE");
    let head = Call::head("/media/big")
        .header("x-amz-checksum-mode", "ENABLED")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(head.header("x-amz-checksum-sha256"), done.element("ChecksumSHA256"));
    let typed = Call::post("/media/big")
        .query("uploads", "")
        .header("x-amz-checksum-type", "COMPOSITE");
    typed.send(&gateway).await.refused(400, "InvalidRequest");
    let conditional = complete_call("/media/big", &upload, &[(1, &etag)]).header("if-none-match", "bad tag");
    conditional.send(&gateway).await.refused(400, "InvalidArgument");
}
