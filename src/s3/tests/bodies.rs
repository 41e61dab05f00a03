//! Bodies in all the forms that clients send, and what is refused of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::client::{Answer, Call, Gateway, Payload, send};
use crate::s3::Body;

const DATA: &[u8] = b"The quick brown fox";

fn sha256(data: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(data))
}

fn md5(data: &[u8]) -> String {
    STANDARD.encode(md5::Md5::digest(data))
}

/// An upload in aws-chunks; `framing` makes the body.
async fn chunked(
    gateway: &Gateway,
    payload: &str,
    trailer: Option<&str>,
    framing: impl FnOnce(&mut super::client::Signer) -> Vec<u8>,
) -> Answer {
    let mut call = Call::put("/media/key")
        .payload(Payload::Literal(payload.to_owned()))
        .header("content-encoding", "aws-chunked")
        .header("x-amz-decoded-content-length", &DATA.len().to_string())
        .without_length();
    if let Some(trailer) = trailer {
        call = call.header("x-amz-trailer", trailer);
    }
    let (request, mut signer) = call.sign();
    let body = framing(&mut signer);
    send(gateway, request.map(|_| Body::from(body))).await
}

const SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const SIGNED_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const TRAILER: &str = "x-amz-checksum-sha256";

fn unsigned(data: &[u8], trailer: &str) -> Vec<u8> {
    let mut body = format!("{:x}\r\n", data.len()).into_bytes();
    body.extend_from_slice(data);
    body.extend_from_slice(b"\r\n0\r\n");
    body.extend_from_slice(trailer.as_bytes());
    body.extend_from_slice(b"\r\n");
    body
}

#[tokio::test]
async fn aws_chunks_arrive_decoded() {
    let gateway = Gateway::with_bucket().await;
    let whole = |answer: Answer| async {
        let answer = answer.expect(200);
        let read = Call::get("/media/key")
            .header("x-amz-checksum-mode", "ENABLED")
            .send(&gateway)
            .await
            .expect(200);
        assert_eq!(read.body, DATA);
        assert_eq!(read.header("content-encoding"), "");
        Call::delete("/media/key").send(&gateway).await.expect(204);
        (answer, read)
    };
    let signed = chunked(&gateway, SIGNED, None, |signer| {
        [
            signer.chunk(&DATA[..7]),
            signer.chunk(&DATA[7..]),
            signer.chunk(b""),
            b"\r\n".to_vec(),
        ]
        .concat()
    });
    whole(signed.await).await;
    let trailed = chunked(&gateway, SIGNED_TRAILER, Some(TRAILER), |signer| {
        [
            signer.chunk(DATA),
            signer.chunk(b""),
            signer.trailer(TRAILER, &sha256(DATA)),
        ]
        .concat()
    });
    let (answer, read) = whole(trailed.await).await;
    assert_eq!(answer.header(TRAILER), sha256(DATA));
    assert_eq!(read.header(TRAILER), sha256(DATA));
    assert_eq!(read.header("x-amz-checksum-type"), "FULL_OBJECT");
    let trailer = format!("{TRAILER}:{}\r\n", sha256(DATA));
    whole(chunked(&gateway, UNSIGNED_TRAILER, Some(TRAILER), |_| unsigned(DATA, &trailer)).await).await;
}

#[tokio::test]
async fn a_wrong_or_missing_byte_leaves_nothing() {
    let gateway = Gateway::with_bucket().await;
    let good = format!("{TRAILER}:{}\r\n", sha256(DATA));
    let wrong = format!("{TRAILER}:{}\r\n", sha256(b"other"));
    let other = format!("x-amz-checksum-crc32:{}\r\n", STANDARD.encode([1; 4]));
    for (body, code) in [
        (unsigned(DATA, &wrong), "BadDigest"),
        (unsigned(DATA, ""), "MalformedTrailerError"),
        (unsigned(DATA, &other), "MalformedTrailerError"),
        (unsigned(&DATA[1..], &good), "IncompleteBody"),
        (unsigned(b"The quick brown fox jumps", &good), "IncompleteBody"),
        (b"13\r\nThe quick".to_vec(), "IncompleteBody"),
        (b"no chunk".to_vec(), "IncompleteBody"),
        (DATA.to_vec(), "IncompleteBody"),
    ] {
        chunked(&gateway, UNSIGNED_TRAILER, Some(TRAILER), |_| body)
            .await
            .refused(400, code);
    }
    let forged = chunked(&gateway, SIGNED, None, |signer| {
        let mut body = [signer.chunk(DATA), signer.chunk(b""), b"\r\n".to_vec()].concat();
        let at = body.windows(3).position(|window| window == b"fox").unwrap();
        body[at] = b'b';
        body
    });
    forged.await.refused(403, "SignatureDoesNotMatch");
    let ended = chunked(&gateway, SIGNED, None, |signer| signer.chunk(&DATA[..7]));
    ended.await.refused(400, "IncompleteBody");
    let endless = chunked(&gateway, SIGNED, None, |signer| signer.chunk(DATA));
    endless.await.refused(400, "IncompleteBody");
    Call::head("/media/key").send(&gateway).await.expect(404);
}

#[tokio::test]
async fn documents_are_refused_for_what_is_wrong_with_them() {
    let gateway = Gateway::with_bucket().await;
    let large = vec![b' '; 9 << 20];
    let delete = || Call::post("/media").query("delete", "");
    let tags = Call::put("/media").query("tagging", "");
    for call in [
        delete(),
        Call::put("/other"),
        Call::put("/media").query("acl", ""),
        tags,
    ] {
        let hashed = call.clone().body(large.clone()).send(&gateway).await;
        hashed.refused(400, "MaxMessageLengthExceeded");
        let presigned = send(&gateway, call.clone().body(large.clone()).presign(60)).await;
        presigned.refused(400, "MaxMessageLengthExceeded");
        // In chunks of HTTP, whose sum nobody knows.
        let mut request = call.clone().body(large.clone()).presign(60);
        request.headers_mut().remove("content-length");
        send(&gateway, request).await.refused(411, "MissingContentLength");
        let framed = call
            .clone()
            .payload(Payload::Literal(SIGNED.to_owned()))
            .header("x-amz-decoded-content-length", &large.len().to_string());
        framed
            .body("x")
            .send(&gateway)
            .await
            .refused(400, "MaxMessageLengthExceeded");
        let other = call.payload(Payload::Literal(hex::encode([7; 32]))).body("<a/>");
        other.send(&gateway).await.refused(400, "XAmzContentSHA256Mismatch");
    }
    let forged = Call::post("/media").query("delete", "").by("ALICE", "wrong-secret");
    forged
        .body(large)
        .send(&gateway)
        .await
        .refused(403, "SignatureDoesNotMatch");
    Call::head("/other").send(&gateway).await.expect(404);
}

#[tokio::test]
async fn digests_in_headers_are_checked() {
    let gateway = Gateway::with_bucket().await;
    let put = || Call::put("/media/key").body(DATA);
    put()
        .header("content-md5", &md5(b"other"))
        .send(&gateway)
        .await
        .refused(400, "BadDigest");
    put()
        .header("content-md5", "YWJyYWNhZGFicmE=")
        .send(&gateway)
        .await
        .refused(400, "InvalidDigest");
    put()
        .header("content-md5", "")
        .send(&gateway)
        .await
        .refused(400, "InvalidDigest");
    put()
        .header(TRAILER, &sha256(b"other"))
        .send(&gateway)
        .await
        .refused(400, "BadDigest");
    for bad in ["bad", "AAAAAA=="] {
        put()
            .header(TRAILER, bad)
            .send(&gateway)
            .await
            .refused(400, "BadDigest");
    }
    let two = put()
        .header(TRAILER, &sha256(DATA))
        .header("x-amz-checksum-crc32", "AAAAAA==");
    two.send(&gateway).await.refused(400, "InvalidRequest");
    let other = put()
        .header(TRAILER, &sha256(DATA))
        .header("x-amz-sdk-checksum-algorithm", "CRC32");
    other.send(&gateway).await.refused(400, "InvalidRequest");
    put()
        .header("x-amz-checksum-sha512", "AA==")
        .send(&gateway)
        .await
        .refused(501, "NotImplemented");
    put()
        .header("x-amz-sdk-checksum-algorithm", "ROT13")
        .send(&gateway)
        .await
        .refused(400, "InvalidRequest");
    put()
        .header("x-amz-trailer", TRAILER)
        .send(&gateway)
        .await
        .refused(400, "InvalidRequest");
    Call::head("/media/key").send(&gateway).await.expect(404);
    let good = put()
        .header("content-md5", &md5(DATA))
        .header(TRAILER, &sha256(DATA))
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(good.header(TRAILER), sha256(DATA));
}

#[tokio::test]
async fn a_length_is_demanded_and_kept() {
    let gateway = Gateway::with_bucket().await;
    let (request, _) = Call::put("/media/key")
        .payload(Payload::Literal("UNSIGNED-PAYLOAD".to_owned()))
        .without_length()
        .sign();
    let stream = futures::stream::once(async {
        Ok::<_, std::io::Error>(http_body::Frame::data(bytes::Bytes::from_static(DATA)))
    });
    let request = request.map(|_| Body::http_body_unsync(http_body_util::StreamBody::new(Box::pin(stream))));
    send(&gateway, request).await.refused(411, "MissingContentLength");
    let (mut request, _) = Call::put("/media/key")
        .payload(Payload::Literal("UNSIGNED-PAYLOAD".to_owned()))
        .sign();
    request
        .headers_mut()
        .insert("content-length", "6000000000".parse().unwrap());
    send(&gateway, request).await.refused(400, "EntityTooLarge");
    Call::head("/media/key").send(&gateway).await.expect(404);
}
