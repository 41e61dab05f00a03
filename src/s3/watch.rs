//! What the wire has to know of a request's body that s3s does not tell: an XML document is read and checked inside s3s,
//! which has no name for most that can be wrong with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::Extensions;
use http::header::CONTENT_LENGTH;
use http_body::Body;
use s3s::access::S3AccessContext;
use s3s::{HttpRequest, S3Error, S3ErrorCode, S3Result};

use crate::limits;
use crate::s3::error::{content_sha256_mismatch, incomplete_body, refuse};

pub(super) const PAYLOAD_HASH: &str = "x-amz-content-sha256";
/// Of no bytes.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const SENT: u8 = 0;
const READ_WHOLE: u8 = 1;
const TAKEN: u8 = 2;

/// How far a request's body has come.
#[derive(Clone)]
pub(super) struct BodyWatch {
    stage: Arc<AtomicU8>,
    is_hashed: bool,
}

/// What is wrong with a body by the request's head; only who signed it is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// The signed hash is that of a body, and there is none.
    Missing,
    Unmeasured,
}

/// Notes what the head says of the body.
pub(super) fn begin(request: &mut HttpRequest) {
    let hash = request.headers().get(PAYLOAD_HASH).map(|hash| hash.as_bytes());
    let hash = hash.filter(|hash| hash.len() == EMPTY_SHA256.len() && hash.iter().all(u8::is_ascii_hexdigit));
    let flaw = if request.body().is_end_stream() {
        let is_empty = hash.is_none_or(|hash| hash == EMPTY_SHA256.as_bytes());
        (!is_empty).then_some(Flaw::Missing)
    } else {
        let watch = BodyWatch {
            stage: Arc::new(AtomicU8::new(SENT)),
            is_hashed: hash.is_some(),
        };
        let is_measured = request.headers().contains_key(CONTENT_LENGTH);
        request.extensions_mut().insert(watch);
        (!is_measured).then_some(Flaw::Unmeasured)
    };
    if let Some(flaw) = flaw {
        request.extensions_mut().insert(flaw);
    }
}

/// Refuses by its length or its hash a body that is not worth reading. After the signature.
pub(super) fn check(cx: &mut S3AccessContext<'_>) -> S3Result<()> {
    let flaw = cx.extensions_mut().get::<Flaw>().copied();
    if flaw == Some(Flaw::Missing) {
        return Err(content_sha256_mismatch());
    }
    if !reads_xml(cx.s3_op().name()) {
        return Ok(());
    }
    if flaw == Some(Flaw::Unmeasured) {
        let message = "You must provide the Content-Length HTTP header.";
        return Err(refuse(S3ErrorCode::MissingContentLength, message));
    }
    let is_too_large = |name: &str| {
        let length = cx.headers().get(name).and_then(|length| length.to_str().ok());
        let bytes = length.and_then(|length| length.parse::<u64>().ok());
        bytes.is_some_and(|bytes| bytes > limits::XML_BODY_BYTES_MAX as u64)
    };
    if is_too_large(CONTENT_LENGTH.as_str()) || is_too_large("x-amz-decoded-content-length") {
        return Err(refuse(
            S3ErrorCode::MaxMessageLengthExceeded,
            format!(
                "Your request was too big: its document has more than {} bytes.",
                limits::XML_BODY_BYTES_MAX
            ),
        ));
    }
    if let Some(watch) = cx.extensions_mut().get::<BodyWatch>() {
        watch.stage.store(READ_WHOLE, Ordering::Relaxed);
    }
    Ok(())
}

/// The operations whose document s3s reads whole before it calls them.
fn reads_xml(operation: &str) -> bool {
    matches!(
        operation,
        "CompleteMultipartUpload"
            | "CreateBucket"
            | "DeleteObjects"
            | "PutBucketAcl"
            | "PutBucketTagging"
            | "PutObjectAcl"
    )
}

/// The operation has begun: from here on errors are its own.
pub(super) fn taken(extensions: &Extensions) {
    if let Some(watch) = extensions.get::<BodyWatch>() {
        watch.stage.store(TAKEN, Ordering::Relaxed);
    }
}

impl BodyWatch {
    /// What an internal error of s3s means, if it is that the document could not be read: either it is not the one that
    /// was signed, or it broke off or is framed wrongly.
    pub(super) fn failure(&self) -> Option<S3Error> {
        (self.stage.load(Ordering::Relaxed) == READ_WHOLE).then(|| {
            if self.is_hashed {
                content_sha256_mismatch()
            } else {
                incomplete_body()
            }
        })
    }
}
