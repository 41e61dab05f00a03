//! What is refused before an operation begins: everything unauthenticated, session tokens, subresources and headers
//! of features that do not exist here. A request is never answered as if it had asked for less than it did.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Error, S3ErrorCode, S3Result};
use std::sync::Arc;

use crate::iam::Identities;
use crate::s3::error::{invalid_argument, not_implemented, refuse};
use crate::s3::{hoisted, watch};

/// Query keys that may stand in any request: the signature of a presigned URL and the SDKs' name of the operation.
pub(super) const EVERYWHERE: [&str; 8] = [
    "x-id",
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Content-Sha256",
];

const READ_KEYS: &[&str] = &[
    "versionId",
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
];

/// Parameters of listings that are names of objects or parts of them, in which S3 allows every character. What a listing
/// gives back of them is encoded where XML cannot hold it.
const NAMES: [&str; 5] = ["prefix", "delimiter", "marker", "start-after", "key-marker"];

/// The query keys that belong to an operation; `None` for an operation that does not exist here.
pub(super) fn query_keys(operation: &str) -> Option<&'static [&'static str]> {
    Some(match operation {
        "ListBuckets" => &["bucket-region", "continuation-token", "max-buckets", "prefix"],
        "CreateBucket" | "HeadBucket" | "DeleteBucket" | "PutObject" => &[],
        "GetBucketLocation" => &["location"],
        "GetBucketVersioning" => &["versioning"],
        "GetBucketOwnershipControls" => &["ownershipControls"],
        "PutBucketTagging" | "GetBucketTagging" | "DeleteBucketTagging" => &["tagging"],
        "GetBucketAcl" | "PutBucketAcl" => &["acl"],
        "GetObjectAcl" | "PutObjectAcl" => &["acl", "versionId"],
        "ListObjects" => &["delimiter", "encoding-type", "marker", "max-keys", "prefix"],
        "ListObjectsV2" => &[
            "list-type",
            "continuation-token",
            "delimiter",
            "encoding-type",
            "fetch-owner",
            "max-keys",
            "prefix",
            "start-after",
        ],
        "ListObjectVersions" => &[
            "versions",
            "delimiter",
            "encoding-type",
            "key-marker",
            "max-keys",
            "prefix",
            "version-id-marker",
        ],
        "ListMultipartUploads" => &[
            "uploads",
            "delimiter",
            "encoding-type",
            "key-marker",
            "max-uploads",
            "prefix",
            "upload-id-marker",
        ],
        "GetObject" | "HeadObject" => READ_KEYS,
        "GetObjectAttributes" => &["attributes", "versionId"],
        "DeleteObject" => &["versionId"],
        "DeleteObjects" => &["delete"],
        "CopyObject" => &[],
        "CreateMultipartUpload" => &["uploads"],
        "UploadPart" | "UploadPartCopy" => &["partNumber", "uploadId"],
        "ListParts" => &["uploadId", "max-parts", "part-number-marker"],
        "CompleteMultipartUpload" | "AbortMultipartUpload" => &["uploadId"],
        _ => return None,
    })
}

/// The check that comes after the signature and before the operation.
pub(super) struct Access;

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(refuse(
                S3ErrorCode::AccessDenied,
                "Access denied: the request is not signed.",
            ));
        }
        let operation = cx.s3_op().name();
        if cx.headers().contains_key("x-amz-security-token") {
            return Err(invalid_token());
        }
        let Some(allowed) = query_keys(operation) else {
            return Err(not_implemented(operation));
        };
        if let Some(query) = cx.uri().query() {
            check_query(query, operation, allowed)?;
        }
        check_headers(cx.headers())?;
        watch::check(cx)
    }
}

fn invalid_token() -> S3Error {
    refuse(
        S3ErrorCode::InvalidToken,
        "The provided token is malformed or otherwise invalid: this server issues no session tokens.",
    )
}

/// Keys are compared as they stand in the URL: none of ours needs an escape. A value goes back in XML or in a header, which
/// hold no control characters.
pub(super) fn check_query(query: &str, operation: &str, allowed: &[&str]) -> S3Result<()> {
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_name = NAMES.contains(&key) && operation != "ListBuckets";
        if !is_name && !is_printable(value) {
            return Err(invalid_argument("A query parameter holds control characters."));
        }
        if allowed.contains(&key) || EVERYWHERE.contains(&key) || hoisted::is_taken(operation, key) {
            continue;
        }
        if key.eq_ignore_ascii_case("x-amz-security-token") {
            return Err(invalid_token());
        }
        let shown: String = key.chars().take(64).collect();
        return Err(not_implemented(&format!(
            "The query parameter \"{shown}\" of {operation}"
        )));
    }
    Ok(())
}

pub(super) fn is_printable(value: &str) -> bool {
    let is_printable = |c: char| !c.is_control() && !matches!(c, '\u{FFFE}' | '\u{FFFF}');
    // Nothing else stands in a URL as it is.
    !value.contains('%')
        || percent_decode_str(value)
            .decode_utf8()
            .is_ok_and(|text| text.chars().all(is_printable))
}

/// Refuses the headers that ask for a feature that does not exist here.
pub(super) fn check_headers(headers: &HeaderMap) -> S3Result<()> {
    for name in headers.keys() {
        let Some(rest) = name.as_str().strip_prefix("x-amz-") else {
            continue;
        };
        let feature = match rest.as_bytes().first() {
            Some(b's') if rest.starts_with("server-side-encryption") => "Server-side encryption",
            Some(b'c') if rest.starts_with("copy-source-server-side-encryption") => "Server-side encryption",
            Some(b'o') if rest.starts_with("object-lock") => "Object lock",
            Some(b'b') if rest.starts_with("bucket-object-lock") && !is_false(headers, name) => "Object lock",
            Some(b'b') if rest == "bucket-namespace" => "A bucket namespace",
            Some(b'g') if rest.starts_with("grant-") => "A grant in an ACL",
            Some(b'm') if rest == "mfa" => "MFA delete",
            Some(b'w') if rest == "write-offset-bytes" => "Appending to an object",
            _ => continue,
        };
        return Err(not_implemented(&format!("{feature} (header {name})")));
    }
    Ok(())
}

fn is_false(headers: &HeaderMap, name: &http::HeaderName) -> bool {
    headers
        .get_all(name)
        .iter()
        .all(|value| value.as_bytes().eq_ignore_ascii_case(b"false"))
}

/// Gives s3s the secret that a signature must have been made with. s3s compares the signatures in constant time.
pub(super) struct Auth(pub Arc<Identities>);

#[async_trait::async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.by_access_key(access_key) {
            Some((_, secret)) => Ok(SecretKey::from(secret.expose())),
            None => Err(refuse(
                S3ErrorCode::InvalidAccessKeyId,
                "The AWS access key id that you provided does not exist in our records.",
            )),
        }
    }
}
