//! What the object operations can fail with: one enum a family. The wire turns each into S3's code once.

use crate::chunk;
use crate::clock::Timestamp;
use crate::kv;
use crate::meta::record::Malformed;
use crate::object::settings::UnknownSetting;
use crate::object::types::{BodyError, ChecksumAlgorithm, ETag};

/// The store could not answer. Says nothing about what the client asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Read(#[from] kv::ReadError),
    /// Nothing was applied.
    #[error(transparent)]
    Commit(kv::CommitError),
    /// The change may or may not have been applied.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Meta(#[from] chunk::MetaError),
    #[error(transparent)]
    Data(#[from] chunk::ReadError),
    #[error(transparent)]
    Write(#[from] chunk::WriteError),
    #[error(transparent)]
    Compose(#[from] chunk::ComposeError),
    #[error("the operating system gives no random bytes: {0}")]
    Entropy(String),
    /// Other writers of the same row won every time.
    #[error("too many writers of one row")]
    Contended,
}

impl From<kv::CommitError> for StoreError {
    fn from(error: kv::CommitError) -> Self {
        match error {
            kv::CommitError::Unknown(why) => Self::Unknown(why),
            other => Self::Commit(other),
        }
    }
}

/// A body that is not stored.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The wire's own error, given back to it.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Over 5 GiB: EntityTooLarge.
    #[error("the body is larger than one request may store")]
    TooLarge,
    /// IncompleteBody.
    #[error("the body has {received} bytes instead of {expected}")]
    Incomplete { expected: u64, received: u64 },
    /// BadDigest.
    #[error("the body's MD5 is not the one in Content-MD5")]
    BadMd5,
    /// BadDigest for the named algorithm.
    #[error("the body's {} is not the one that was sent", .0.name())]
    BadChecksum(ChecksumAlgorithm),
    /// The trailer that was announced did not come.
    #[error("the trailer with the {} is missing", .0.name())]
    MissingTrailer(ChecksumAlgorithm),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A write that its conditions or its bucket forbid.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("the bucket is gone")]
    NoSuchBucket,
    /// If-Match on an absent key.
    #[error("there is no such key")]
    NoSuchKey,
    /// 412; names the header that failed.
    #[error("the precondition {0} does not hold")]
    PreconditionFailed(&'static str),
    /// 409 ConditionalRequestConflict: other writers won every time.
    #[error("a conflicting write of the same key was in progress")]
    Conflict,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Place(#[from] PlaceError),
}

#[derive(Debug, thiserror::Error)]
pub enum GetError {
    #[error("there is no such key")]
    NoSuchKey,
    /// 412; names the header that failed.
    #[error("the precondition {0} does not hold")]
    PreconditionFailed(&'static str),
    /// 304, with the headers that it carries.
    #[error("the object was not modified")]
    NotModified { etag: ETag, last_modified: Timestamp },
    /// 416 InvalidRange.
    #[error("the range is outside of the object's {size} bytes")]
    InvalidRange { size: u64 },
    /// 416 InvalidPartNumber.
    #[error("the object has {parts} parts")]
    InvalidPartNumber { parts: u16, size: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// 412; names the header that failed.
    #[error("the precondition {0} does not hold")]
    PreconditionFailed(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source's bucket or key: NoSuchKey.
    #[error("there is no such source")]
    NoSuchSource,
    /// 412 about the source; names the header without `x-amz-copy-source-`.
    #[error("the source's precondition {0} does not hold")]
    SourcePreconditionFailed(&'static str),
    /// InvalidRequest: over 5 GiB.
    #[error("the source is larger than one copy may be")]
    TooLarge,
    /// InvalidRequest: a copy onto itself that changes nothing.
    #[error("a copy of an object to itself must change something")]
    SelfCopyUnchanged,
    #[error(transparent)]
    Place(#[from] PlaceError),
}

#[derive(Debug, thiserror::Error)]
pub enum DeleteBucketError {
    #[error("the bucket is not empty")]
    NotEmpty,
    #[error("the bucket is gone")]
    NoSuchBucket,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum BucketTagsError {
    #[error("the bucket is gone")]
    NoSuchBucket,
    /// InvalidTag: a tag with our prefix that means nothing.
    #[error(transparent)]
    Setting(#[from] UnknownSetting),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum CreateUploadError {
    #[error("the bucket is gone")]
    NoSuchBucket,
    /// InvalidRequest: this algorithm has no checksum of this kind.
    #[error("a multipart {} cannot be of the asked type", .0.name())]
    ChecksumType(ChecksumAlgorithm),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum UploadPartError {
    /// Unknown, completed, aborted, or being completed.
    #[error("there is no such upload")]
    NoSuchUpload,
    #[error("a part number is 1 to 10000")]
    InvalidPartNumber,
    /// InvalidRequest: the upload was created for another algorithm.
    #[error("the upload's parts carry {}", .0.name())]
    ChecksumAlgorithm(ChecksumAlgorithm),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

#[derive(Debug, thiserror::Error)]
pub enum CopyPartError {
    #[error("there is no such source")]
    NoSuchSource,
    #[error("the source's precondition {0} does not hold")]
    SourcePreconditionFailed(&'static str),
    /// InvalidRange, or InvalidArgument: the range must lie inside the source.
    #[error("the range is outside of the source's {size} bytes")]
    InvalidRange { size: u64 },
    #[error("the source range is larger than one part may be")]
    TooLarge,
    #[error(transparent)]
    Part(#[from] UploadPartError),
}

#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("there is no such upload")]
    NoSuchUpload,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum CompleteError {
    #[error("there is no such upload")]
    NoSuchUpload,
    /// MalformedXML: no parts, or more than 10,000.
    #[error("the list of parts is empty or too long")]
    PartCount,
    /// InvalidPart: not uploaded, or with another ETag or checksum.
    #[error("part {0} was not uploaded, or not so")]
    InvalidPart(u16),
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// EntityTooSmall.
    #[error("part {number} has {size} bytes, fewer than the minimum of 5 MiB")]
    PartTooSmall { number: u16, size: u64 },
    /// EntityTooLarge.
    #[error("the object would be larger than S3 allows")]
    TooLarge,
    /// InvalidRequest: `x-amz-mp-object-size` differs.
    #[error("the object has {actual} bytes instead of {expected}")]
    SizeMismatch { expected: u64, actual: u64 },
    /// InvalidRequest: `x-amz-checksum-type` is not the upload's.
    #[error("the upload was created with another checksum type")]
    ChecksumType,
    /// BadDigest: the whole object's checksum differs.
    #[error("the object's {} is not the one that was sent", .0.name())]
    BadChecksum(ChecksumAlgorithm),
    #[error(transparent)]
    Place(#[from] PlaceError),
}
