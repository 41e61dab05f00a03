//! What each operation is asked and answers.

use bytes::Bytes;

use crate::chunk::DataStream;
use crate::clock::Timestamp;
use crate::ids::UploadId;
use crate::meta::bucket::{Bucket, Ownership};
use crate::object::ListedObject;
use crate::object::types::{
    BodyStream, Checksum, ChecksumAlgorithm, ChecksumKind, CompletedPart, ETag, IfRange, Integrity, ObjectHeaders,
    ObjectInfo, ObjectKey, PartInfo, RangeSpec, ReadConditions, UploadInfo, WriteConditions,
};

#[derive(Clone, Debug, Default)]
pub struct CreateBucket {
    /// The LocationConstraint; empty for us-east-1.
    pub location: String,
    pub ownership: Ownership,
}

/// What became of CreateBucket. The wire decides what a re-creation answers.
#[derive(Clone, Debug)]
pub enum CreateOutcome {
    Created(Bucket),
    AlreadyOwnedByYou(Bucket),
    AlreadyExists,
}

#[derive(Clone, Debug, Default)]
pub struct ListBuckets {
    pub prefix: String,
    /// Names greater than this one; empty: from the start.
    pub start_after: String,
    pub limit: usize,
}

#[derive(Clone, Debug)]
pub struct BucketPage {
    pub buckets: Vec<Bucket>,
    /// The `start_after` of the next page.
    pub next: Option<String>,
}

pub struct PutRequest {
    pub key: ObjectKey,
    pub headers: ObjectHeaders,
    pub body: BodyStream,
    pub content_length: Option<u64>,
    pub integrity: Integrity,
    pub conditions: WriteConditions,
}

/// What a write answers.
#[derive(Clone, Debug)]
pub struct Written {
    pub etag: ETag,
    pub checksum: Option<Checksum>,
    pub size: u64,
    pub last_modified: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub struct GetRequest {
    pub range: Option<RangeSpec>,
    pub if_range: Option<IfRange>,
    /// Not together with `range`: the wire refuses that.
    pub part_number: Option<u16>,
    pub conditions: ReadConditions,
}

pub struct GetOutcome {
    pub info: ObjectInfo,
    /// First byte of the answer.
    pub first: u64,
    pub length: u64,
    /// 206 instead of 200.
    pub is_range: bool,
    /// `x-amz-mp-parts-count`, where a part was asked for.
    pub parts: Option<u16>,
    /// Of the part that was asked for.
    pub part_checksum: Option<Checksum>,
    pub body: ObjectBody,
}

pub struct HeadOutcome {
    pub info: ObjectInfo,
    pub first: u64,
    pub length: u64,
    pub is_range: bool,
    pub parts: Option<u16>,
    pub part_checksum: Option<Checksum>,
}

pub enum ObjectBody {
    Inline(Bytes),
    Stream(DataStream),
}

#[derive(Clone, Debug)]
pub struct DeleteTarget {
    pub key: ObjectKey,
    pub conditions: WriteConditions,
}

pub struct CopyRequest {
    pub key: ObjectKey,
    pub source_conditions: ReadConditions,
    pub conditions: WriteConditions,
    /// REPLACE: all headers but the redirect, the tags and the class. `None` copies the source's.
    pub headers: Option<ObjectHeaders>,
    /// The redirect of a website. S3 never copies the source's.
    /// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html>
    pub website_redirect: Option<String>,
    /// REPLACE. `None` copies the source's.
    pub tags: Option<Vec<(String, String)>>,
    /// `None`: STANDARD, as S3 does for a copy that names none.
    pub storage_class: Option<String>,
    /// `None` keeps the source's.
    pub checksum: Option<ChecksumAlgorithm>,
}

#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    pub prefix: String,
    /// Not empty.
    pub delimiter: Option<String>,
    /// Entries greater than this one, in the order of their names. A common prefix that this name lies in is not
    /// greater.
    pub start_after: Option<String>,
    /// Capped at 1,000.
    pub limit: usize,
}

pub enum ListEntry {
    Object(ListedObject),
    CommonPrefix(String),
}

pub struct ListPage {
    pub entries: Vec<ListEntry>,
    /// The `start_after` of the next page: the last entry's name. `None`: nothing follows.
    pub next: Option<String>,
}

#[derive(Clone, Debug)]
pub struct AttributesRequest {
    /// Parts with a greater number.
    pub part_number_marker: u16,
    /// Capped at 1,000.
    pub max_parts: usize,
    pub conditions: ReadConditions,
}

pub struct Attributes {
    pub info: ObjectInfo,
    /// Of a multipart object.
    pub parts: Option<AttributesParts>,
}

pub struct AttributesParts {
    pub total: u16,
    pub parts: Vec<PartInfo>,
    /// The marker of the next page.
    pub next: Option<u16>,
}

pub struct CreateUpload {
    pub key: ObjectKey,
    pub headers: ObjectHeaders,
    /// The algorithm and, if the client named one, the type.
    pub checksum: Option<(ChecksumAlgorithm, Option<ChecksumKind>)>,
}

pub struct UploadPart {
    pub key: ObjectKey,
    pub upload: UploadId,
    pub number: u16,
    pub body: BodyStream,
    pub content_length: Option<u64>,
    pub integrity: Integrity,
}

pub struct UploadPartCopy {
    pub source_key: ObjectKey,
    pub source_conditions: ReadConditions,
    /// First and last byte, both included.
    pub source_range: Option<(u64, u64)>,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub number: u16,
}

#[derive(Clone, Debug)]
pub struct ListParts {
    pub key: ObjectKey,
    pub upload: UploadId,
    pub part_number_marker: u16,
    /// Capped at 1,000.
    pub limit: usize,
}

pub struct PartPage {
    pub upload: UploadInfo,
    pub parts: Vec<PartInfo>,
    pub next: Option<u16>,
}

#[derive(Clone, Debug, Default)]
pub struct ListUploads {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Empty: from the start.
    pub key_marker: String,
    /// With it: uploads of `key_marker` whose id is greater, too.
    pub upload_id_marker: Option<UploadId>,
    /// Capped at 1,000.
    pub limit: usize,
}

pub enum UploadEntry {
    Upload(UploadInfo),
    CommonPrefix(String),
}

pub struct UploadPage {
    pub entries: Vec<UploadEntry>,
    /// The key marker and, after an upload, the upload id marker of the next page.
    pub next: Option<(String, Option<UploadId>)>,
}

pub struct CompleteUpload {
    pub key: ObjectKey,
    pub upload: UploadId,
    pub parts: Vec<CompletedPart>,
    /// `x-amz-mp-object-size`.
    pub object_size: Option<u64>,
    /// The client's checksum of the whole object, without the `-N` of a composite one.
    pub checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
    pub checksum_kind: Option<ChecksumKind>,
    pub conditions: WriteConditions,
}

/// Logical sizes of one bucket, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub objects: i64,
    pub bytes: i64,
    /// Bytes of the parts of uploads in progress, and of parts that were not swept yet.
    pub upload_bytes: i64,
}
