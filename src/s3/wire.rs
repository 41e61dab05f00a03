//! The door in front of s3s: what s3s would take too lightly is settled here, before it reads the request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use s3s::service::S3Service;
use s3s::{Body, HttpError, HttpRequest, HttpResponse, S3Error, S3ErrorCode, S3Response, S3Result, StdError};

use crate::object::types::ChecksumAlgorithm;
use crate::s3::error::{invalid_request, not_implemented, refuse};
use crate::s3::framing::{SIGNED_CHUNKS, SignedChunks};
use crate::s3::query::pairs;
use crate::s3::watch::{self, BodyWatch, PAYLOAD_HASH};
use crate::s3::{checksum, range, signed};

const TRAILER: &str = "x-amz-trailer";
const CDATA: &[u8] = b"<![CDATA[";

/// The S3 service. Cheap to clone.
#[derive(Clone)]
pub struct S3Wire {
    service: S3Service,
    region: Arc<str>,
}

impl S3Wire {
    pub(super) fn new(service: S3Service, region: Arc<str>) -> Self {
        Self { service, region }
    }

    /// Answers one request. An error means that no answer can be made and the connection is to be closed.
    pub async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if signed::bad_region(request.headers(), request.uri().query()) {
            return Ok(other_region(&self.region));
        }
        if let Err(error) = prepare(&mut request) {
            return respond(error);
        }
        let is_head = request.method() == Method::HEAD;
        let watch = request.extensions().get::<BodyWatch>().cloned();
        let mut response = self.service.call(request).await?;
        // s3s gives a HEAD of a range the headers of a GET, but not its status.
        if is_head && response.status() == StatusCode::OK && response.headers().contains_key(CONTENT_RANGE) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if let Some(Status(status)) = response.extensions_mut().remove() {
            *response.status_mut() = status;
        }
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
            if let Some(error) = watch.and_then(|watch| watch.failure()) {
                return respond(error);
            }
            let document = response.body().bytes().unwrap_or_default();
            let document = String::from_utf8_lossy(&document);
            tracing::error!(%document, "a request was answered with an internal error");
        }
        Ok(response)
    }
}

/// The status of a typed answer, for which s3s has one of its own.
#[derive(Clone, Copy)]
struct Status(StatusCode);

/// An operation's answer; with `status` where S3 gives another one than s3s.
pub(super) fn answer<T>(output: T, status: Option<StatusCode>) -> S3Response<T> {
    let mut response = S3Response::new(output);
    if let Some(status) = status {
        response.extensions.insert(Status(status));
    }
    response
}

/// Tells the region to sign for; clients try again with the one in the document. s3s's errors have no field for it.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
fn other_region(region: &str) -> HttpResponse {
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header \
         is malformed; the region is wrong; expecting '{region}'</Message><Region>{region}</Region></Error>"
    );
    let mut response = HttpResponse::new(Body::from(document));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

fn respond(error: S3Error) -> Result<HttpResponse, HttpError> {
    error
        .to_http_response()
        .map_err(|error| HttpError::from_std_error(Box::new(error)))
}

fn prepare(request: &mut HttpRequest) -> S3Result<()> {
    // An empty Authorization header signs nothing: the request is anonymous, and denied as such.
    if request.headers().get(AUTHORIZATION).is_some_and(HeaderValue::is_empty) {
        request.headers_mut().remove(AUTHORIZATION);
    }
    let (headers, query) = (request.headers(), request.uri().query());
    signed::check(headers, query)?;
    if query.is_some_and(never_valid) {
        return Err(refuse(S3ErrorCode::AccessDenied, "Request has expired."));
    }
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_read && headers.contains_key(RANGE) && signed::covers(headers, query, RANGE.as_str()) == Some(false) {
        range::repair(request.headers_mut());
    }
    watch::begin(request);
    if request
        .headers()
        .get(PAYLOAD_HASH)
        .is_some_and(|hash| hash == SIGNED_CHUNKS)
    {
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::http_body_unsync(SignedChunks::new(body));
    }
    if request.method() == Method::POST {
        refuse_form(request.headers())?;
    }
    if keeps_body(request.method(), request.uri().query()) {
        let frames = Arc::new(Mutex::new(Vec::new()));
        request.extensions_mut().insert(KeptBody(Arc::clone(&frames)));
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::http_body_unsync(Keeping { body, frames });
    }
    Ok(())
}

/// s3s reads a form before it knows who sent it.
fn refuse_form(headers: &HeaderMap) -> S3Result<()> {
    let is_form = |value: &HeaderValue| {
        value
            .as_bytes()
            .get(..19)
            .is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/form-data"))
    };
    if headers.get(CONTENT_TYPE).is_some_and(is_form) {
        return Err(not_implemented("An upload by a browser's form (POST object)"));
    }
    Ok(())
}

/// Whether the operation checks the digests of its document: DeleteObjects and PutBucketTagging.
fn keeps_body(method: &Method, query: Option<&str>) -> bool {
    let named = match *method {
        Method::POST => "delete",
        Method::PUT => "tagging",
        _ => return false,
    };
    pairs(query).any(|(name, _)| name == named)
}

/// Whether a presigned URL says that it was valid for no time at all: to its user it has expired.
pub(super) fn never_valid(query: &str) -> bool {
    let expires = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Expires="));
    expires.is_some_and(|seconds| seconds.starts_with('-') || seconds.parse() == Ok(0_u64))
}

/// The bytes of a document as they came: s3s hands over only what it parsed, and the digests are ours to
/// check. Bounded by s3s's limit of an XML body, above which it stops reading.
#[derive(Clone)]
pub(super) struct KeptBody(Arc<Mutex<Vec<Bytes>>>);

struct Keeping {
    body: Body,
    frames: Arc<Mutex<Vec<Bytes>>>,
}

impl HttpBody for Keeping {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            self.frames.lock().push(bytes.clone());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl KeptBody {
    /// S3 demands a digest of the body of DeleteObjects.
    /// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html>
    pub(super) fn verify_announced(&self, headers: &HeaderMap) -> S3Result<()> {
        if !headers.contains_key(TRAILER) && !checksum::is_announced(headers) {
            return Err(invalid_request(
                "Missing required header for this request: Content-MD5 or x-amz-checksum-*.",
            ));
        }
        self.verify(headers)
    }

    /// Compares the digests that came with the document, if any.
    pub(super) fn verify(&self, headers: &HeaderMap) -> S3Result<()> {
        if headers.contains_key(TRAILER) {
            return Err(not_implemented("A trailer of a document"));
        }
        let frames = std::mem::take(&mut *self.0.lock());
        // s3s passes over such a section: the key would be another one than is named.
        if frames.concat().windows(CDATA.len()).any(|bytes| bytes == CDATA) {
            return Err(not_implemented("A CDATA section in a document"));
        }
        let expected = checksum::integrity(headers, None)?;
        if let Some(md5) = expected.content_md5
            && <[u8; 16]>::from(digest::<md5::Md5>(&frames)) != md5
        {
            return Err(bad_digest("Content-MD5"));
        }
        match expected.checksum {
            crate::object::types::ExpectedChecksum::Header(algorithm, value)
                if checksum_of(algorithm, &frames) != value =>
            {
                Err(bad_digest(algorithm.name()))
            }
            _ => Ok(()),
        }
    }
}

fn bad_digest(what: &str) -> S3Error {
    refuse(
        S3ErrorCode::BadDigest,
        format!("The {what} that you specified did not match what was received."),
    )
}

fn digest<D: sha2::Digest>(frames: &[Bytes]) -> sha2::digest::Output<D> {
    let mut hasher = D::new();
    for frame in frames {
        hasher.update(frame);
    }
    hasher.finalize()
}

fn checksum_of(algorithm: ChecksumAlgorithm, frames: &[Bytes]) -> Vec<u8> {
    let crc = |algorithm| {
        let mut crc = crc_fast::Digest::new(algorithm);
        frames.iter().for_each(|frame| crc.update(frame));
        crc.finalize()
    };
    // A 32-bit CRC stands in the low half.
    let low = |value: u64| value.to_be_bytes().into_iter().skip(4).collect();
    match algorithm {
        ChecksumAlgorithm::Crc32 => low(crc(crc_fast::CrcAlgorithm::Crc32IsoHdlc)),
        ChecksumAlgorithm::Crc32c => low(crc(crc_fast::CrcAlgorithm::Crc32Iscsi)),
        ChecksumAlgorithm::Crc64Nvme => crc(crc_fast::CrcAlgorithm::Crc64Nvme).to_be_bytes().to_vec(),
        ChecksumAlgorithm::Sha1 => digest::<sha1::Sha1>(frames).to_vec(),
        ChecksumAlgorithm::Sha256 => digest::<sha2::Sha256>(frames).to_vec(),
    }
}
