//! What the object operations take and give: S3's terms without its wire.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;

use crate::clock::Timestamp;
use crate::ids::UploadId;
use crate::limits;

/// An object key: 1 to 1,024 bytes of UTF-8.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key has 1 to {} bytes", limits::KEY_BYTES_MAX)]
pub struct InvalidKey;

impl ObjectKey {
    pub fn parse(key: impl Into<String>) -> Result<Self, InvalidKey> {
        let key = key.into();
        if key.is_empty() || key.len() > limits::KEY_BYTES_MAX {
            Err(InvalidKey)
        } else {
            Ok(Self(key))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// S3's entity tag: the MD5 of the body, or, of a multipart object, the MD5 of its parts' MD5s and their count.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ETag {
    pub md5: [u8; 16],
    /// 0: not a multipart object.
    pub parts: u16,
}

impl fmt::Display for ETag {
    /// Without the quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.md5))?;
        if self.parts > 0 {
            write!(f, "-{}", self.parts)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One side of If-Match or If-None-Match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ETagCondition {
    Any,
    /// Tags without quotes and weakness marks, as the client wrote them.
    OneOf(Vec<String>),
}

impl ETagCondition {
    pub fn matches(&self, etag: &ETag) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(tags) => {
                let text = etag.to_string();
                tags.iter().any(|tag| tag.eq_ignore_ascii_case(&text))
            }
        }
    }
}

/// The conditions of a read, or of a copy's source. Times are compared in whole seconds, as HTTP dates are.
#[derive(Clone, Debug, Default)]
pub struct ReadConditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
    pub if_modified_since: Option<Timestamp>,
    pub if_unmodified_since: Option<Timestamp>,
}

/// If-Range: the range is only wanted of this version, else the whole object is.
/// Source: <https://www.rfc-editor.org/rfc/rfc9110.html#section-13.1.5>
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfRange {
    /// A strong tag, without its quotes.
    ETag(String),
    /// The version's date, to the second.
    Modified(Timestamp),
    /// A weak tag, or what is neither tag nor date.
    Never,
}

/// The conditions of a write, decided inside its commit.
#[derive(Clone, Debug, Default)]
pub struct WriteConditions {
    /// The current version must exist and match.
    pub if_match: Option<ETagCondition>,
    /// `Any`: there must be no current version; tags: the current version, if any, must match none.
    pub if_none_match: Option<ETagCondition>,
    /// DeleteObject(s) only.
    pub if_match_size: Option<u64>,
    pub if_match_last_modified: Option<Timestamp>,
}

/// A body as it arrives. The stream ends after the last byte; an error means that the body is not to be stored.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// Why a body stopped: the wire's own error, which the wire turns into its answer.
#[derive(Debug, thiserror::Error)]
#[error("the body ended early: {0}")]
pub struct BodyError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChecksumAlgorithm {
    Crc32 = 1,
    Crc32c = 2,
    Crc64Nvme = 3,
    Sha1 = 4,
    Sha256 = 5,
}

impl ChecksumAlgorithm {
    /// S3's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Bytes of a value.
    pub fn width(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256]
            .into_iter()
            .find(|algorithm| *algorithm as u8 == code)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChecksumKind {
    FullObject = 1,
    /// The checksum of the parts' checksums.
    Composite = 2,
}

impl ChecksumKind {
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::FullObject, Self::Composite]
            .into_iter()
            .find(|kind| *kind as u8 == code)
    }
}

/// A checksum of a stored object or part. `value` has the algorithm's width, big-endian for CRCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub algorithm: ChecksumAlgorithm,
    pub kind: ChecksumKind,
    pub value: Vec<u8>,
}

/// Where the client's own checksum of the body comes from.
pub enum ExpectedChecksum {
    /// None was announced: the server computes CRC64NVME and keeps it.
    None,
    /// The client named an algorithm, but no value: the server computes it.
    Compute(ChecksumAlgorithm),
    Header(ChecksumAlgorithm, Vec<u8>),
    /// Announced by `x-amz-trailer`; the closure is called once the body has ended and gives the trailer's value.
    Trailer(ChecksumAlgorithm, Box<dyn FnOnce() -> Option<Vec<u8>> + Send>),
}

/// What a body must be equal to.
pub struct Integrity {
    pub content_md5: Option<[u8; 16]>,
    pub checksum: ExpectedChecksum,
}

/// The headers that are stored with an object and given back with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    /// As the client wrote it.
    pub expires: Option<String>,
    pub website_redirect_location: Option<String>,
    /// S3's name of the class; `None` is STANDARD.
    pub storage_class: Option<String>,
    /// Lower-case names without `x-amz-meta-`, in the order of the names.
    pub user: Vec<(String, String)>,
    /// Object tags (`x-amz-tagging`), recorded from the first day.
    pub tags: Vec<(String, String)>,
}

/// What HEAD tells.
#[derive(Clone, Debug)]
pub struct ObjectInfo {
    pub size: u64,
    pub etag: ETag,
    pub last_modified: Timestamp,
    pub headers: ObjectHeaders,
    pub checksum: Option<Checksum>,
    /// Canonical id of the object's owner.
    pub owner: String,
}

/// A Range header that was understood. Anything else is ignored, as RFC 9110 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// First and last byte, both included; no last byte: to the end.
    From(u64, Option<u64>),
    /// The last n bytes.
    Suffix(u64),
}

/// One part of an upload, or of a completed multipart object.
#[derive(Clone, Debug)]
pub struct PartInfo {
    pub number: u16,
    pub size: u64,
    pub etag: ETag,
    pub checksum: Option<Checksum>,
    pub last_modified: Timestamp,
}

/// A part as CompleteMultipartUpload names it.
#[derive(Clone, Debug)]
pub struct CompletedPart {
    pub number: u16,
    /// Without quotes.
    pub etag: String,
    pub checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
}

/// A multipart upload in progress.
#[derive(Clone, Debug)]
pub struct UploadInfo {
    pub key: ObjectKey,
    pub id: UploadId,
    pub initiated: Timestamp,
    pub owner: String,
    pub storage_class: Option<String>,
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}
