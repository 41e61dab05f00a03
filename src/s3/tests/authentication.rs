//! Who gets in, and what is refused at the door.

use http::Request;

use super::client::{Call, Gateway, HOST, Payload, send};
use crate::s3::Body;

#[tokio::test]
async fn the_unsigned_are_denied() {
    let gateway = Gateway::with_bucket().await;
    for authorization in [None, Some(""), Some("AWS ALICE:c2lnbmF0dXJl")] {
        for path in ["/", "/media", "/media/key", "/missing"] {
            let mut request = Request::get(path)
                .header("host", HOST)
                .header("date", "Mon, 01 Jan 2024 00:00:00 GMT");
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            send(&gateway, request.body(Body::empty()).unwrap())
                .await
                .refused(403, "AccessDenied");
        }
    }
}

#[tokio::test]
async fn who_signs_for_no_region_is_told_ours() {
    let gateway = Gateway::with_bucket().await;
    let (mut request, _) = Call::get("/media").sign();
    let authorization = request.headers()["authorization"]
        .to_str()
        .unwrap()
        .replace("us-east-1", "US");
    request
        .headers_mut()
        .insert("authorization", authorization.parse().unwrap());
    let answer = send(&gateway, request).await.expect(400);
    assert_eq!(answer.element("Code"), "AuthorizationHeaderMalformed");
    assert_eq!(answer.element("Region"), "us-east-1");
}

#[tokio::test]
async fn acls_may_be_put_back_as_they_were_read() {
    let gateway = Gateway::with_bucket().await;
    Call::put("/media/key").body("x").send(&gateway).await.expect(200);
    for path in ["/media", "/media/key"] {
        let read = Call::get(path).query("acl", "").send(&gateway).await.expect(200).text();
        let put = |body: String| Call::put(path).query("acl", "").body(body);
        put(read.clone()).send(&gateway).await.expect(200);
        put(read.replace("FULL_CONTROL", "READ"))
            .send(&gateway)
            .await
            .refused(400, "AccessControlListNotSupported");
    }
}

#[tokio::test]
async fn a_wrong_signature_is_refused() {
    let gateway = Gateway::with_bucket().await;
    Call::get("/media")
        .by("ALICE", "wrong-secret")
        .send(&gateway)
        .await
        .refused(403, "SignatureDoesNotMatch");
    Call::get("/media")
        .by("NOBODY", "alice-secret")
        .send(&gateway)
        .await
        .refused(403, "InvalidAccessKeyId");
    Call::get("/media")
        .late_secs(16 * 60)
        .send(&gateway)
        .await
        .refused(403, "RequestTimeTooSkewed");
    Call::get("/media")
        .late_secs(-16 * 60)
        .send(&gateway)
        .await
        .refused(403, "RequestTimeTooSkewed");
    Call::get("/media").late_secs(14 * 60).send(&gateway).await.expect(200);
    let (mut request, _) = Call::get("/media").sign();
    request
        .headers_mut()
        .insert("x-amz-acl", "public-read".parse().unwrap());
    send(&gateway, request).await.refused(403, "AccessDenied");
    let (mut request, _) = Call::get("/media").sign();
    *request.uri_mut() = "/media?prefix=a".parse().unwrap();
    send(&gateway, request).await.refused(403, "SignatureDoesNotMatch");
}

#[tokio::test]
async fn session_tokens_are_refused() {
    let gateway = Gateway::with_bucket().await;
    Call::get("/media")
        .header("x-amz-security-token", "t")
        .send(&gateway)
        .await
        .refused(400, "InvalidToken");
    let request = Call::get("/media").query("X-Amz-Security-Token", "t").presign(60);
    send(&gateway, request).await.refused(400, "InvalidToken");
}

#[tokio::test]
async fn presigned_urls_work_for_a_while() {
    let gateway = Gateway::with_bucket().await;
    send(&gateway, Call::put("/media/a%20b").body("hello").presign(60))
        .await
        .expect(200);
    assert_eq!(
        send(&gateway, Call::get("/media/a%20b").presign(60))
            .await
            .expect(200)
            .text(),
        "hello"
    );
    let request = Call::get("/media/a%20b")
        .query("response-content-type", "text/x")
        .presign(60);
    assert_eq!(
        send(&gateway, request).await.expect(200).header("content-type"),
        "text/x"
    );
    send(&gateway, Call::get("/media/a%20b").late_secs(61).presign(60))
        .await
        .refused(403, "AccessDenied");
    let too_long = Call::get("/media/a%20b").presign(7 * 24 * 3600 + 1);
    send(&gateway, too_long)
        .await
        .refused(400, "AuthorizationQueryParametersError");
    // A header that nobody signed must not turn an upload into a copy.
    let mut request = Call::put("/media/other").presign(60);
    request
        .headers_mut()
        .insert("x-amz-copy-source", "/media/a%20b".parse().unwrap());
    send(&gateway, request).await.refused(403, "AccessDenied");
}

#[tokio::test]
async fn headers_in_a_presigned_query_count() {
    let gateway = Gateway::with_bucket().await;
    let put = |checksum: &str| {
        Call::put("/media/a")
            .body("hello")
            .query("x-amz-checksum-crc32", checksum)
            .query("x-amz-sdk-checksum-algorithm", "CRC32")
            .query("x-amz-meta-color", "blue green")
            .presign(60)
    };
    send(&gateway, put("AAAAAQ==")).await.refused(400, "BadDigest");
    // Signed before there was a body.
    send(&gateway, put("AAAAAA==")).await.expect(200);
    send(&gateway, put("NhCmhg==")).await.expect(200);
    let answer = Call::head("/media/a")
        .header("x-amz-checksum-mode", "ENABLED")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(answer.header("x-amz-meta-color"), "blue green");
    assert_eq!(answer.header("x-amz-checksum-crc32"), "NhCmhg==");
    let request = Call::get("/media/a")
        .query("x-amz-checksum-mode", "ENABLED")
        .presign(60);
    let answer = send(&gateway, request).await.expect(200);
    assert_eq!(answer.header("x-amz-checksum-crc32"), "NhCmhg==");
    // What would change more than the body's check is still refused.
    let request = Call::put("/media/a").query("x-amz-acl", "public-read").presign(60);
    send(&gateway, request).await.refused(501, "NotImplemented");
}

#[tokio::test]
async fn everybody_stays_in_his_own_buckets() {
    let gateway = Gateway::with_bucket().await;
    let bob = |call: Call| call.by("BOB", "bobs-secret");
    Call::put("/media/key").body("x").send(&gateway).await.expect(200);
    bob(Call::get("/media/key"))
        .send(&gateway)
        .await
        .refused(403, "AccessDenied");
    bob(Call::put("/media/key").body("y"))
        .send(&gateway)
        .await
        .refused(403, "AccessDenied");
    bob(Call::get("/media"))
        .send(&gateway)
        .await
        .refused(403, "AccessDenied");
    bob(Call::delete("/media"))
        .send(&gateway)
        .await
        .refused(403, "AccessDenied");
    bob(Call::head("/media")).send(&gateway).await.expect(403);
    bob(Call::put("/media"))
        .send(&gateway)
        .await
        .refused(409, "BucketAlreadyExists");
    bob(Call::get("/missing"))
        .send(&gateway)
        .await
        .refused(404, "NoSuchBucket");
    bob(Call::put("/bobs")).send(&gateway).await.expect(200);
    bob(Call::put("/bobs/copy").header("x-amz-copy-source", "media/key"))
        .send(&gateway)
        .await
        .refused(403, "AccessDenied");
    assert_eq!(
        bob(Call::get("/")).send(&gateway).await.expect(200).elements("Name"),
        ["bobs"]
    );
    let root = |call: Call| call.by("ROOTKEY", "root-secret");
    assert_eq!(
        root(Call::get("/media/key")).send(&gateway).await.expect(200).text(),
        "x"
    );
    Call::get("/media/key")
        .header("x-amz-expected-bucket-owner", "b0b")
        .send(&gateway)
        .await
        .refused(403, "AccessDenied");
    Call::get("/media/key")
        .header("x-amz-expected-bucket-owner", "a11ce")
        .send(&gateway)
        .await
        .expect(200);
}

#[tokio::test]
async fn what_is_not_built_is_not_ignored() {
    let gateway = Gateway::with_bucket().await;
    for (call, name) in [
        (Call::delete("/media"), "unknown"),
        (Call::delete("/media"), "website"),
        (Call::get("/media"), "website"),
        (Call::get("/media"), "policy"),
        (Call::put("/media"), "versioning"),
        (Call::get("/media/key"), "tagging"),
        (Call::put("/media/key"), "retention"),
        (Call::get("/media/key"), "torrent"),
        (Call::put("/media/key"), "uploadId"),
        (Call::delete("/media/key"), "Acl"),
    ] {
        call.query(name, "")
            .body("<a/>")
            .send(&gateway)
            .await
            .refused(501, "NotImplemented");
    }
    for name in [
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-customer-algorithm",
        "x-amz-object-lock-mode",
        "x-amz-grant-read",
        "x-amz-write-offset-bytes",
    ] {
        Call::put("/media/key")
            .header(name, "1")
            .body("x")
            .send(&gateway)
            .await
            .refused(501, "NotImplemented");
    }
    let form = Call::post("/media")
        .header("content-type", "multipart/form-data; boundary=b")
        .body("--b--");
    form.send(&gateway).await.refused(501, "NotImplemented");
    Call::get("/media/key").send(&gateway).await.refused(404, "NoSuchKey");
    Call::head("/media").send(&gateway).await.expect(200);
}

#[tokio::test]
async fn a_bucket_may_stand_in_the_host() {
    let gateway = Gateway::with_bucket().await;
    let host = format!("media.{HOST}:9000");
    Call::put("/key")
        .header("host", &host)
        .body("x")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(Call::get("/media/key").send(&gateway).await.expect(200).text(), "x");
    assert_eq!(
        Call::get("/")
            .header("host", &host)
            .send(&gateway)
            .await
            .expect(200)
            .elements("Key"),
        ["key"]
    );
    assert_eq!(
        Call::get("/media/key")
            .header("host", "127.0.0.1:9000")
            .send(&gateway)
            .await
            .expect(200)
            .text(),
        "x"
    );
}

#[tokio::test]
async fn a_body_that_is_not_the_signed_one_leaves_nothing() {
    let gateway = Gateway::with_bucket().await;
    let hash = hex::encode([7; 32]);
    let call = Call::put("/media/key").payload(Payload::Literal(hash)).body("hello");
    call.send(&gateway).await.refused(400, "XAmzContentSHA256Mismatch");
    Call::head("/media/key").send(&gateway).await.expect(404);
}

#[tokio::test]
async fn a_signature_is_for_one_host_and_stands_in_one_place() {
    let gateway = Gateway::with_bucket().await;
    let hostless = Call::get("/media").unsigned("host", HOST);
    hostless.send(&gateway).await.refused(403, "AccessDenied");
    let (signed, _) = Call::get("/media").sign();
    let mut twice = Call::get("/media").presign(60);
    let authorization = signed.headers()["authorization"].clone();
    twice.headers_mut().insert("authorization", authorization);
    send(&gateway, twice).await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn a_hash_without_a_body_is_refused() {
    let gateway = Gateway::with_bucket().await;
    let hash = Payload::Literal(hex::encode(<sha2::Sha256 as sha2::Digest>::digest(b"other")));
    for call in [Call::get("/media"), Call::put("/media/key"), Call::delete("/media/key")] {
        let call = call.payload(hash.clone());
        call.send(&gateway).await.refused(400, "XAmzContentSHA256Mismatch");
    }
    let forged = Call::get("/media").payload(hash).by("ALICE", "wrong-secret");
    forged.send(&gateway).await.refused(403, "SignatureDoesNotMatch");
}
