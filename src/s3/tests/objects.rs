//! PutObject, GetObject, HeadObject, DeleteObject(s) and CopyObject.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest;

use super::client::{Call, Gateway, send};

const PAST: &str = "Sat, 01 Jan 2000 00:00:00 GMT";
const FUTURE: &str = "Fri, 01 Jan 2100 00:00:00 GMT";

async fn with_object() -> (Gateway, String) {
    let gateway = Gateway::with_bucket().await;
    let put = Call::put("/media/key")
        .body("0123456789")
        .send(&gateway)
        .await
        .expect(200);
    let etag = put.header("etag").to_owned();
    (gateway, etag)
}

#[tokio::test]
async fn headers_come_back() {
    let gateway = Gateway::with_bucket().await;
    let given = [
        ("content-type", "text/plain"),
        ("content-language", "de"),
        ("content-disposition", "attachment"),
        ("cache-control", "no-cache"),
        ("expires", "Thu, 01 Dec 1994 16:00:00 GMT"),
        ("x-amz-website-redirect-location", "/other"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-meta-color", "blue"),
        ("x-amz-meta-name", "=?UTF-8?B?w6k=?="),
    ];
    let mut put = Call::put("/media/key")
        .body("x")
        .header("content-encoding", "aws-chunked,gzip");
    for (name, value) in given {
        put = put.header(name, value);
    }
    put.header("x-amz-tagging", "a=1&b=x%20y")
        .send(&gateway)
        .await
        .expect(200);
    for read in [Call::get("/media/key"), Call::head("/media/key")] {
        let read = read.send(&gateway).await.expect(200);
        for (name, value) in given {
            assert_eq!(read.header(name), value);
        }
        assert_eq!(
            (read.header("content-encoding"), read.header("x-amz-tagging-count")),
            ("gzip", "2")
        );
        assert_eq!(
            (read.header("accept-ranges"), read.header("content-length")),
            ("bytes", "1")
        );
    }
    Call::put("/media/plain").body("x").send(&gateway).await.expect(200);
    let plain = Call::head("/media/plain").send(&gateway).await.expect(200);
    assert_eq!(
        (plain.header("content-type"), plain.header("x-amz-storage-class")),
        ("binary/octet-stream", "")
    );
    let head = Call::head("/media/key")
        .query("response-content-type", "a/b")
        .query("response-expires", FUTURE);
    let head = head.send(&gateway).await.expect(200);
    assert_eq!((head.header("content-type"), head.header("expires")), ("a/b", FUTURE));
}

#[tokio::test]
async fn limits_are_told() {
    let gateway = Gateway::with_bucket().await;
    let long = format!("/media/{}", "k".repeat(1024));
    Call::put(&long).body("x").send(&gateway).await.expect(200);
    Call::put(&format!("{long}k"))
        .body("x")
        .send(&gateway)
        .await
        .refused(400, "KeyTooLongError");
    let put = |name: &str, value: &str| Call::put("/media/key").header(name, value).body("x");
    put("x-amz-meta-a", &"v".repeat(2047)).send(&gateway).await.expect(200);
    put("x-amz-meta-a", &"v".repeat(2048))
        .send(&gateway)
        .await
        .refused(400, "MetadataTooLarge");
    put("x-amz-storage-class", "COLD")
        .send(&gateway)
        .await
        .refused(400, "InvalidStorageClass");
    put("x-amz-tagging", "a=1&a=2")
        .send(&gateway)
        .await
        .refused(400, "InvalidTag");
    put("x-amz-tagging", "aws:a=1")
        .send(&gateway)
        .await
        .refused(400, "InvalidTag");
    let many: Vec<String> = (0..11).map(|n| format!("t{n}=v")).collect();
    put("x-amz-tagging", &many.join("&"))
        .send(&gateway)
        .await
        .refused(400, "InvalidTag");
    Call::get("/media/key")
        .query("versionId", "null")
        .send(&gateway)
        .await
        .expect(200);
    Call::get("/media/key")
        .query("versionId", "abc")
        .send(&gateway)
        .await
        .refused(404, "NoSuchVersion");
}

#[tokio::test]
async fn ranges_and_parts() {
    let (gateway, _) = with_object().await;
    let range = |range: &str| Call::get("/media/key").header("range", range);
    for (asked, body, told) in [
        ("bytes=4-7", "4567", "bytes 4-7/10"),
        ("bytes=4-", "456789", "bytes 4-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-100", "0123456789", "bytes 0-9/10"),
    ] {
        let answer = range(asked).send(&gateway).await.expect(206);
        assert_eq!((answer.text().as_str(), answer.header("content-range")), (body, told));
        assert_eq!(answer.header("content-length"), body.len().to_string());
    }
    range("bytes=10-").send(&gateway).await.refused(416, "InvalidRange");
    range("bytes=-0").send(&gateway).await.refused(416, "InvalidRange");
    let part = |number: &str| Call::get("/media/key").query("partNumber", number);
    part("1").send(&gateway).await.expect(206);
    part("2").send(&gateway).await.refused(400, "InvalidPart");
    part("0").send(&gateway).await.refused(400, "InvalidArgument");
    part("10001").send(&gateway).await.refused(400, "InvalidArgument");
    part("1")
        .header("range", "bytes=0-1")
        .send(&gateway)
        .await
        .refused(400, "InvalidRequest");
}

#[tokio::test]
async fn a_range_that_is_none_is_ignored() {
    let (gateway, _) = with_object().await;
    let ranges = [
        ("bytes=5-4", 200, "0123456789"),
        ("bytes=0-1,3-4", 200, "0123456789"),
        ("bytes=a-b", 200, "0123456789"),
        ("items=0-1", 200, "0123456789"),
        ("nonsense", 200, "0123456789"),
        ("bytes=8-99999999999999999999", 206, "89"),
        ("bytes=-99999999999999999999", 206, "0123456789"),
    ];
    for (range, status, body) in ranges {
        let call = || Call::get("/media/key").unsigned("range", range);
        let answer = call().send(&gateway).await.expect(status);
        assert_eq!(answer.text(), body, "{range}");
        assert_eq!(send(&gateway, call().presign(60)).await.expect(status).text(), body);
        Call::head("/media/key")
            .unsigned("range", range)
            .send(&gateway)
            .await
            .expect(status);
    }
    let beyond = Call::get("/media/key").unsigned("range", "bytes=99999999999999999999-");
    beyond.send(&gateway).await.refused(416, "InvalidRange");
    // What the signature covers stays as it is, and s3s reads it.
    let signed = Call::get("/media/key").header("range", "bytes=5-4");
    signed.send(&gateway).await.refused(400, "InvalidArgument");
    let head = Call::head("/media/key").header("range", "bytes=4-7");
    let head = head.send(&gateway).await.expect(206);
    assert_eq!(
        (head.header("content-range"), head.header("content-length")),
        ("bytes 4-7/10", "4")
    );
}

/// s3s would resolve the reference, and pass over the section.
#[tokio::test]
async fn a_key_that_xml_twists_deletes_nothing() {
    let gateway = Gateway::with_bucket().await;
    for (path, named, status, code) in [
        ("/media/a%01", "a&#1;", 400, "MalformedXML"),
        ("/media/a", "a<![CDATA[b]]>", 501, "NotImplemented"),
    ] {
        Call::put(path).body("x").send(&gateway).await.expect(200);
        let call = delete_call(&delete_body(&[named], false));
        call.send(&gateway).await.refused(status, code);
        Call::head(path).send(&gateway).await.expect(200);
    }
}

#[tokio::test]
async fn a_range_of_another_version_gives_the_whole_object() {
    let (gateway, etag) = with_object().await;
    let head = Call::head("/media/key").send(&gateway).await.expect(200);
    let weak = format!("W/{etag}");
    for (condition, status) in [
        (etag.as_str(), 206),
        (head.header("last-modified"), 206),
        ("\"0123\"", 200),
        (&weak, 200),
        (PAST, 200),
        (FUTURE, 200),
        ("nonsense", 200),
    ] {
        for read in [Call::get("/media/key"), Call::head("/media/key")] {
            let read = read.header("range", "bytes=4-").header("if-range", condition);
            let length = read
                .send(&gateway)
                .await
                .expect(status)
                .header("content-length")
                .to_owned();
            assert_eq!(length, if status == 206 { "6" } else { "10" }, "{condition}");
        }
    }
    let beyond = Call::get("/media/key")
        .header("range", "bytes=10-")
        .header("if-range", PAST);
    beyond.send(&gateway).await.expect(200);
}

#[tokio::test]
async fn conditions_of_reads() {
    let (gateway, etag) = with_object().await;
    let get = |name: &str, value: &str| Call::get("/media/key").header(name, value);
    get("if-match", &etag).send(&gateway).await.expect(200);
    get("if-match", "\"other\"")
        .send(&gateway)
        .await
        .refused(412, "PreconditionFailed");
    get("if-match", &format!("\"other\", {etag}"))
        .send(&gateway)
        .await
        .expect(200);
    get("if-none-match", "\"other\"").send(&gateway).await.expect(200);
    let unchanged = get("if-none-match", &etag).send(&gateway).await.expect(304);
    assert_eq!((unchanged.header("etag"), unchanged.body.len()), (etag.as_str(), 0));
    assert!(unchanged.header("last-modified").ends_with("GMT"));
    get("if-modified-since", PAST).send(&gateway).await.expect(200);
    get("if-modified-since", FUTURE).send(&gateway).await.expect(304);
    get("if-unmodified-since", FUTURE).send(&gateway).await.expect(200);
    get("if-unmodified-since", PAST)
        .send(&gateway)
        .await
        .refused(412, "PreconditionFailed");
    Call::head("/media/key")
        .header("if-none-match", &etag)
        .send(&gateway)
        .await
        .expect(304);
    Call::head("/media/key")
        .header("if-match", "\"other\"")
        .send(&gateway)
        .await
        .expect(412);
}

#[tokio::test]
async fn conditions_of_writes() {
    let (gateway, etag) = with_object().await;
    let put = |name: &str, value: &str| Call::put("/media/key").header(name, value).body("new");
    put("if-none-match", "*")
        .send(&gateway)
        .await
        .refused(412, "PreconditionFailed");
    put("if-match", "\"other\"")
        .send(&gateway)
        .await
        .refused(412, "PreconditionFailed");
    put("if-match", &etag).send(&gateway).await.expect(200);
    let absent = |name: &str, value: &str| Call::put("/media/absent").header(name, value).body("new");
    absent("if-match", &etag).send(&gateway).await.refused(404, "NoSuchKey");
    absent("if-none-match", "*").send(&gateway).await.expect(200);
    Call::delete("/media/absent")
        .header("if-match", "\"other\"")
        .send(&gateway)
        .await
        .refused(412, "PreconditionFailed");
    Call::delete("/media/absent")
        .header("if-match", "*")
        .send(&gateway)
        .await
        .expect(204);
    Call::delete("/media/absent").send(&gateway).await.expect(204);
}

fn delete_body(keys: &[&str], quiet: bool) -> String {
    let objects: String = keys
        .iter()
        .map(|key| format!("<Object><Key>{key}</Key></Object>"))
        .collect();
    format!("<Delete><Quiet>{quiet}</Quiet>{objects}</Delete>")
}

fn delete_call(body: &str) -> Call {
    let md5 = STANDARD.encode(md5::Md5::digest(body));
    Call::post("/media")
        .query("delete", "")
        .header("content-md5", &md5)
        .body(body.to_owned())
}

#[tokio::test]
async fn many_deletes_at_once() {
    let (gateway, _) = with_object().await;
    let body = delete_body(&["key", "absent", "a&amp;b"], false);
    let answer = delete_call(&body).send(&gateway).await.expect(200);
    assert_eq!(answer.elements("Key"), ["key", "absent", "a&amp;b"]);
    assert_eq!(answer.elements("Error").len(), 0);
    Call::get("/media/key").send(&gateway).await.refused(404, "NoSuchKey");
    Call::put("/media/key").body("x").send(&gateway).await.expect(200);
    let bare = Call::post("/media").query("delete", "").body(body.clone());
    bare.send(&gateway).await.refused(400, "InvalidRequest");
    let wrong = delete_call(&body).header("content-md5", &STANDARD.encode([1; 16]));
    wrong.send(&gateway).await.refused(400, "BadDigest");
    for (name, value) in [
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-checksum-crc32c", "AAAAAA=="),
        ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
    ] {
        Call::post("/media")
            .query("delete", "")
            .header(name, value)
            .body(body.clone())
            .send(&gateway)
            .await
            .refused(400, "BadDigest");
    }
    delete_call("<Delete></Delete>")
        .send(&gateway)
        .await
        .refused(400, "MalformedXML");
    delete_call("<Delete>")
        .send(&gateway)
        .await
        .refused(400, "MalformedXML");
    delete_call(&delete_body(&["k"; 1001], true))
        .send(&gateway)
        .await
        .refused(400, "MalformedXML");
    Call::head("/media/key").send(&gateway).await.expect(200);
    let quiet = delete_body(&["key"], true);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, quiet.as_bytes());
    let crc = STANDARD.encode(&crc.to_be_bytes()[4..]);
    let call = Call::post("/media")
        .query("delete", "")
        .header("x-amz-checksum-crc32", &crc)
        .body(quiet);
    assert_eq!(call.send(&gateway).await.expect(200).elements("Key").len(), 0);
    Call::head("/media/key").send(&gateway).await.expect(404);
}

#[tokio::test]
async fn copies() {
    let (gateway, _) = with_object().await;
    let copy = |to: &str, source: &str| Call::put(to).header("x-amz-copy-source", source);
    let replace = |call: Call| {
        call.header("x-amz-metadata-directive", "REPLACE")
            .header("x-amz-meta-a", "1")
    };
    Call::put("/media/a%20b")
        .body("spaced")
        .header("x-amz-meta-from", "source")
        .send(&gateway)
        .await
        .expect(200);
    for source in ["media/a%20b", "/media/a%20b?versionId=null"] {
        let answer = copy("/media/to", source).send(&gateway).await.expect(200);
        assert!(answer.element("ETag").len() > 30 && !answer.element("LastModified").is_empty());
        let read = Call::get("/media/to").send(&gateway).await.expect(200);
        assert_eq!(
            (read.text().as_str(), read.header("x-amz-meta-from")),
            ("spaced", "source")
        );
    }
    copy("/media/key", "media/key")
        .send(&gateway)
        .await
        .refused(400, "InvalidRequest");
    replace(copy("/media/key", "media/key"))
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(
        Call::head("/media/key")
            .send(&gateway)
            .await
            .expect(200)
            .header("x-amz-meta-a"),
        "1"
    );
    copy("/media/to", "media/absent")
        .send(&gateway)
        .await
        .refused(404, "NoSuchKey");
    copy("/media/to", "missing/key")
        .send(&gateway)
        .await
        .refused(404, "NoSuchBucket");
    copy("/missing/to", "media/key")
        .send(&gateway)
        .await
        .refused(404, "NoSuchBucket");
    copy("/media/to", "media/key?versionId=abc")
        .send(&gateway)
        .await
        .refused(404, "NoSuchVersion");
    copy("/media/to", "nobucket")
        .send(&gateway)
        .await
        .refused(400, "InvalidArgument");
}

#[tokio::test]
async fn conditions_of_copies() {
    let (gateway, etag) = with_object().await;
    let condition = |name: &str, value: &str| {
        Call::put("/media/to")
            .header("x-amz-copy-source", "media/key")
            .header(name, value)
    };
    condition("x-amz-copy-source-if-match", &etag)
        .send(&gateway)
        .await
        .expect(200);
    for (name, value) in [
        ("x-amz-copy-source-if-match", "\"other\""),
        ("x-amz-copy-source-if-none-match", etag.as_str()),
        ("x-amz-copy-source-if-unmodified-since", PAST),
        ("if-none-match", "*"),
    ] {
        condition(name, value)
            .send(&gateway)
            .await
            .refused(412, "PreconditionFailed");
    }
    condition("x-amz-metadata-directive", "MOVE")
        .send(&gateway)
        .await
        .refused(400, "InvalidArgument");
}

#[tokio::test]
async fn attributes_of_an_object() {
    let (gateway, etag) = with_object().await;
    let call = |names: &str| {
        Call::get("/media/key")
            .query("attributes", "")
            .header("x-amz-object-attributes", names)
    };
    let answer = call("ETag,ObjectSize,StorageClass,Checksum,ObjectParts")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(answer.element("ETag"), etag.trim_matches('"'));
    assert_eq!(
        (
            answer.element("ObjectSize").as_str(),
            answer.element("StorageClass").as_str()
        ),
        ("10", "STANDARD")
    );
    assert!(!answer.element("ChecksumCRC64NVME").is_empty());
    let answer = call("ObjectSize").send(&gateway).await.expect(200);
    assert_eq!(
        (answer.element("ETag").as_str(), answer.element("ObjectSize").as_str()),
        ("", "10")
    );
    call("Color").send(&gateway).await.refused(400, "InvalidArgument");
    Call::get("/media/key")
        .query("attributes", "")
        .send(&gateway)
        .await
        .refused(400, "InvalidRequest");
    let acl = Call::get("/media/key")
        .query("acl", "")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(
        (acl.element("ID").as_str(), acl.element("Permission").as_str()),
        ("a11ce", "FULL_CONTROL")
    );
}
