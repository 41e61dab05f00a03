//! Each operation's errors, turned once into S3's code, status and a message that a user can act on.
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>

use std::error::Error;

use http::header::{ETAG, HeaderValue, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};
use s3s::stream::aws_chunked_stream::AwsChunkedStreamError;
use s3s::stream::upload_stream::UploadStreamError;
use s3s::{BodySizeLimitExceeded, S3Error, S3ErrorCode};

use crate::chunk::{self, AppendError, ComposeError, MetaError, WriteError};
use crate::iam::AccessDenied;
use crate::kv;
use crate::limits;
use crate::object::types::BodyError;
use crate::object::{
    BucketTagsError, CompleteError, CopyError, CopyPartError, CreateUploadError, DeleteBucketError, DeleteError,
    GetError, PlaceError, PutError, ReceiveError, StoreError, UploadError, UploadPartError,
};
use crate::s3::convert;

/// An error with one of the codes that s3s knows; its status follows.
pub(super) fn refuse(code: S3ErrorCode, message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    S3Error::with_message(code, message)
}

pub(super) fn not_implemented(what: &str) -> S3Error {
    refuse(
        S3ErrorCode::NotImplemented,
        format!("{what} is not supported by this server."),
    )
}

pub(super) fn invalid_argument(message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    refuse(S3ErrorCode::InvalidArgument, message)
}

pub(super) fn invalid_request(message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    refuse(S3ErrorCode::InvalidRequest, message)
}

pub(super) fn no_such_bucket() -> S3Error {
    refuse(S3ErrorCode::NoSuchBucket, "The specified bucket does not exist.")
}

fn no_such_key() -> S3Error {
    refuse(S3ErrorCode::NoSuchKey, "The specified key does not exist.")
}

pub(super) fn no_such_upload() -> S3Error {
    refuse(
        S3ErrorCode::NoSuchUpload,
        "The specified multipart upload does not exist. The upload id may be wrong, or the upload was aborted or completed.",
    )
}

/// A code that s3s has no name for.
fn custom(code: &'static str, status: StatusCode, message: String) -> S3Error {
    let mut error = refuse(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}

fn precondition_failed(condition: &str) -> S3Error {
    let message = format!("At least one of the preconditions that you specified did not hold: {condition}.");
    refuse(S3ErrorCode::PreconditionFailed, message)
}

impl From<AccessDenied> for S3Error {
    fn from(denied: AccessDenied) -> Self {
        refuse(S3ErrorCode::AccessDenied, format!("Access denied: {denied}."))
    }
}

impl From<StoreError> for S3Error {
    /// The cause goes to the log and not to the client, which can only try again.
    fn from(error: StoreError) -> Self {
        if let StoreError::Contended | StoreError::Commit(kv::CommitError::Conflict { .. }) = &error {
            return refuse(
                S3ErrorCode::OperationAborted,
                "Too many other requests change the same resource. Please try again.",
            );
        }
        if let StoreError::Data(chunk::ReadError::Busy(_)) | StoreError::Write(WriteError::Busy(_)) = &error {
            return refuse(S3ErrorCode::SlowDown, "Please reduce your request rate.");
        }
        // Said once by who watches the disk, not at every request.
        if let StoreError::Write(WriteError::Append(AppendError::Full)) = &error {
            return refuse(
                S3ErrorCode::ServiceUnavailable,
                "The server's disk is full. Nothing was stored.",
            );
        }
        // Said by who puts the packs, once a try.
        if let StoreError::Write(WriteError::Append(AppendError::Unavailable(_))) = &error {
            return refuse(
                S3ErrorCode::ServiceUnavailable,
                "The cloud storage behind this server does not take data now. Nothing was stored.",
            );
        }
        tracing::error!(error = &error as &dyn Error, "an operation failed in the store");
        if let StoreError::Data(chunk::ReadError::Pack(error)) = &error
            && error.is_unreachable()
        {
            return refuse(
                S3ErrorCode::ServiceUnavailable,
                "The cloud storage behind this server does not answer now.",
            );
        }
        if let Some(why) = takes_no_writes(&error) {
            return refuse(S3ErrorCode::ServiceUnavailable, why);
        }
        match error {
            StoreError::Unknown(_) => refuse(
                S3ErrorCode::InternalError,
                "The outcome of the request is unknown: it may have been applied. Read the object before you try again.",
            ),
            _ => refuse(
                S3ErrorCode::InternalError,
                "The store could not answer. The server's log tells why.",
            ),
        }
    }
}

/// Why the store takes no writes at the moment, if that is what failed.
fn takes_no_writes(error: &StoreError) -> Option<&'static str> {
    let commit = match error {
        StoreError::Commit(error)
        | StoreError::Meta(MetaError::Commit(error))
        | StoreError::Write(WriteError::Meta(MetaError::Commit(error)))
        | StoreError::Compose(ComposeError::Meta(MetaError::Commit(error))) => error,
        _ => return None,
    };
    let why = "The store takes no writes at the moment. The server's log tells why.";
    matches!(commit, kv::CommitError::Unavailable(_)).then_some(why)
}

impl From<BodyError> for S3Error {
    fn from(error: BodyError) -> Self {
        body_error(error.0.as_ref())
    }
}

/// Looks through the wrappers of a body for the reason that it stopped.
fn body_error(error: &(dyn Error + Send + Sync + 'static)) -> S3Error {
    if let Some(error) = error.downcast_ref::<UploadStreamError>() {
        return match error {
            UploadStreamError::Underlying(inner) => body_error(inner.as_ref()),
            UploadStreamError::Sha256Mismatch => content_sha256_mismatch(),
            UploadStreamError::LengthMismatch | UploadStreamError::Incomplete => incomplete_body(),
        };
    }
    if let Some(error) = error.downcast_ref::<AwsChunkedStreamError>() {
        return match error {
            AwsChunkedStreamError::Underlying(inner) => body_error(inner.as_ref()),
            AwsChunkedStreamError::SignatureMismatch => refuse(
                S3ErrorCode::SignatureDoesNotMatch,
                "The signature of a chunk or of the trailer does not match the one that was computed.",
            ),
            AwsChunkedStreamError::ChunkMetaTooLarge(..) | AwsChunkedStreamError::ChunkDataTooLarge(..) => refuse(
                S3ErrorCode::InvalidRequest,
                format!("A signed chunk may have at most {} bytes.", limits::AWS_CHUNK_BYTES_MAX),
            ),
            AwsChunkedStreamError::FormatError
            | AwsChunkedStreamError::Incomplete
            | AwsChunkedStreamError::LengthMismatch
            | AwsChunkedStreamError::TrailersTooLarge(..)
            | AwsChunkedStreamError::TooManyTrailerHeaders(..) => incomplete_body(),
        };
    }
    if error.downcast_ref::<BodySizeLimitExceeded>().is_some() {
        return entity_too_large();
    }
    incomplete_body()
}

pub(super) fn content_sha256_mismatch() -> S3Error {
    custom(
        "XAmzContentSHA256Mismatch",
        StatusCode::BAD_REQUEST,
        "The provided 'x-amz-content-sha256' header does not match what was computed.".to_owned(),
    )
}

pub(super) fn incomplete_body() -> S3Error {
    refuse(
        S3ErrorCode::IncompleteBody,
        "The body is not what its headers announce: it ended early, is too long, or its chunks are malformed.",
    )
}

pub(super) fn entity_too_large() -> S3Error {
    let message = format!(
        "The upload exceeds the maximum of {} bytes in one request.",
        limits::PUT_BYTES_MAX
    );
    refuse(S3ErrorCode::EntityTooLarge, message)
}

impl From<ReceiveError> for S3Error {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Body(error) => error.into(),
            ReceiveError::TooLarge => entity_too_large(),
            ReceiveError::Incomplete { expected, received } => refuse(
                S3ErrorCode::IncompleteBody,
                format!("The body has {received} bytes instead of the announced {expected}."),
            ),
            ReceiveError::BadMd5 => refuse(
                S3ErrorCode::BadDigest,
                "The Content-MD5 that you specified did not match what was received.",
            ),
            ReceiveError::BadChecksum(algorithm) => refuse(
                S3ErrorCode::BadDigest,
                format!(
                    "The {} that you specified did not match the calculated checksum.",
                    algorithm.name()
                ),
            ),
            ReceiveError::MissingTrailer(algorithm) => custom(
                "MalformedTrailerError",
                StatusCode::BAD_REQUEST,
                format!(
                    "The request announced a trailer with the body's {}, which is missing or malformed.",
                    algorithm.name()
                ),
            ),
            ReceiveError::Store(error) => error.into(),
        }
    }
}

impl From<PlaceError> for S3Error {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::NoSuchBucket => no_such_bucket(),
            PlaceError::NoSuchKey => no_such_key(),
            PlaceError::PreconditionFailed(condition) => precondition_failed(condition),
            PlaceError::Conflict => refuse(
                S3ErrorCode::ConditionalRequestConflict,
                "Other writes of the same key were in progress. Read the object and try again.",
            ),
            PlaceError::Store(error) => error.into(),
        }
    }
}

impl From<PutError> for S3Error {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Receive(error) => error.into(),
            PutError::Place(error) => error.into(),
        }
    }
}

impl From<GetError> for S3Error {
    fn from(error: GetError) -> Self {
        match error {
            GetError::NoSuchKey => no_such_key(),
            GetError::PreconditionFailed(condition) => precondition_failed(condition),
            GetError::NotModified { etag, last_modified } => {
                let mut error = S3Error::new(S3ErrorCode::NotModified);
                let mut headers = HeaderMap::with_capacity(2);
                if let Ok(value) = HeaderValue::try_from(format!("\"{etag}\"")) {
                    headers.insert(ETAG, value);
                }
                if let Some(value) = convert::http_date(last_modified) {
                    headers.insert(LAST_MODIFIED, value);
                }
                error.set_headers(headers);
                error
            }
            GetError::InvalidRange { size } => refuse(
                S3ErrorCode::InvalidRange,
                format!("The range is not inside the object's {size} bytes."),
            ),
            GetError::InvalidPartNumber { parts, .. } => refuse(
                S3ErrorCode::InvalidPart,
                format!("The object has {parts} parts; there is no such part number."),
            ),
            GetError::Store(error) => error.into(),
        }
    }
}

impl From<DeleteError> for S3Error {
    fn from(error: DeleteError) -> Self {
        match error {
            DeleteError::PreconditionFailed(condition) => precondition_failed(condition),
            DeleteError::Store(error) => error.into(),
        }
    }
}

impl From<CopyError> for S3Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::NoSuchSource => no_such_key(),
            CopyError::SourcePreconditionFailed(condition) => {
                precondition_failed(&format!("x-amz-copy-source-{}", condition.to_ascii_lowercase()))
            }
            CopyError::TooLarge => invalid_request(format!(
                "The copy source is larger than the maximum of {} bytes. Use UploadPartCopy.",
                limits::PUT_BYTES_MAX
            )),
            CopyError::SelfCopyUnchanged => invalid_request(
                "This copy request is illegal because it is trying to copy an object to itself without changing the \
                 object's metadata, storage class, website redirect location or encryption attributes.",
            ),
            CopyError::Place(error) => error.into(),
        }
    }
}

impl From<DeleteBucketError> for S3Error {
    fn from(error: DeleteBucketError) -> Self {
        match error {
            DeleteBucketError::NotEmpty => refuse(
                S3ErrorCode::BucketNotEmpty,
                "The bucket that you tried to delete is not empty. Delete its objects and abort its uploads first.",
            ),
            DeleteBucketError::NoSuchBucket => no_such_bucket(),
            DeleteBucketError::Store(error) => error.into(),
        }
    }
}

impl From<BucketTagsError> for S3Error {
    fn from(error: BucketTagsError) -> Self {
        match error {
            BucketTagsError::NoSuchBucket => no_such_bucket(),
            BucketTagsError::Setting(error) => refuse(S3ErrorCode::InvalidTag, format!("Invalid tag: {error}.")),
            BucketTagsError::Store(error) => error.into(),
        }
    }
}

impl From<CreateUploadError> for S3Error {
    fn from(error: CreateUploadError) -> Self {
        match error {
            CreateUploadError::NoSuchBucket => no_such_bucket(),
            CreateUploadError::ChecksumType(algorithm) => {
                let name = algorithm.name();
                invalid_request(format!(
                    "This x-amz-checksum-type cannot be used with the {name} checksum algorithm."
                ))
            }
            CreateUploadError::Store(error) => error.into(),
        }
    }
}

impl From<UploadPartError> for S3Error {
    fn from(error: UploadPartError) -> Self {
        match error {
            UploadPartError::NoSuchUpload => no_such_upload(),
            UploadPartError::InvalidPartNumber => convert::invalid_part_number(),
            UploadPartError::ChecksumAlgorithm(algorithm) => invalid_request(format!(
                "The upload was created for {} checksums; the part came with another algorithm.",
                algorithm.name()
            )),
            UploadPartError::Receive(error) => error.into(),
        }
    }
}

impl From<CopyPartError> for S3Error {
    fn from(error: CopyPartError) -> Self {
        match error {
            CopyPartError::NoSuchSource => no_such_key(),
            CopyPartError::SourcePreconditionFailed(condition) => {
                precondition_failed(&format!("x-amz-copy-source-{}", condition.to_ascii_lowercase()))
            }
            CopyPartError::InvalidRange { size } => refuse(
                S3ErrorCode::InvalidRange,
                format!("The range specified is not valid for a source object of size {size}."),
            ),
            CopyPartError::TooLarge => invalid_request(format!(
                "The copy source is larger than the maximum of {} bytes for one part. Give a x-amz-copy-source-range.",
                limits::PUT_BYTES_MAX
            )),
            CopyPartError::Part(error) => error.into(),
        }
    }
}

impl From<UploadError> for S3Error {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::NoSuchUpload => no_such_upload(),
            UploadError::Store(error) => error.into(),
        }
    }
}

impl From<CompleteError> for S3Error {
    fn from(error: CompleteError) -> Self {
        let text = error.to_string();
        match error {
            CompleteError::NoSuchUpload => no_such_upload(),
            CompleteError::PartCount => refuse(
                S3ErrorCode::MalformedXML,
                "The request must name 1 to 10,000 parts, each with its PartNumber and ETag.",
            ),
            CompleteError::InvalidPart(number) => refuse(
                S3ErrorCode::InvalidPart,
                format!(
                    "Part {number} could not be found. It may not have been uploaded, or its entity tag or checksum \
                     does not match."
                ),
            ),
            CompleteError::InvalidPartOrder => refuse(
                S3ErrorCode::InvalidPartOrder,
                "The list of parts was not in ascending order. Order the parts by their numbers.",
            ),
            CompleteError::PartTooSmall { number, size } => refuse(
                S3ErrorCode::EntityTooSmall,
                format!(
                    "Part {number} has {size} bytes; every part but the last must have at least {}.",
                    limits::PART_BYTES_MIN
                ),
            ),
            CompleteError::TooLarge => refuse(
                S3ErrorCode::EntityTooLarge,
                format!(
                    "The object would exceed the maximum of {} bytes.",
                    limits::OBJECT_BYTES_MAX
                ),
            ),
            CompleteError::SizeMismatch { .. } => invalid_request(format!("x-amz-mp-object-size is wrong: {text}.")),
            CompleteError::ChecksumType => {
                invalid_request("The x-amz-checksum-type is not the one that the upload was created with.")
            }
            CompleteError::BadChecksum(_) => refuse(S3ErrorCode::BadDigest, format!("Checksum mismatch: {text}.")),
            CompleteError::Place(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_takes_no_writes_says_so_whatever_step_failed() {
        let full = StoreError::Write(WriteError::Append(AppendError::Full));
        let steps = |error: kv::CommitError| {
            let meta = || MetaError::Commit(error.clone());
            [
                StoreError::Commit(error.clone()),
                StoreError::Meta(meta()),
                StoreError::Write(WriteError::Meta(meta())),
                StoreError::Compose(ComposeError::Meta(meta())),
            ]
        };
        let code = |error: StoreError| S3Error::from(error).code().clone();
        let unavailable = steps(kv::CommitError::Unavailable("poisoned".into()));
        for error in unavailable.into_iter().chain([full]) {
            assert_eq!(code(error), S3ErrorCode::ServiceUnavailable);
        }
        for error in steps(kv::CommitError::Refused("too large".into())) {
            assert_eq!(code(error), S3ErrorCode::InternalError);
        }
    }
}
