//! Listing: one engine for ListObjects, its second version and ListObjectVersions.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::kv::Row;
use crate::meta::key::OBJECT_PREFIX_BYTES;
use crate::meta::object::{ObjectHead, listed_texts};
use crate::meta::record::Malformed;
use crate::object::types::{ChecksumAlgorithm, ChecksumKind, ETag};

/// A listed object. Reads its row in place: nothing is copied that nobody asks for.
pub struct ListedObject {
    key: Bytes,
    record: Bytes,
    head: ObjectHead,
}

impl ListedObject {
    fn new(row: Row) -> Result<Self, Malformed> {
        let head = ObjectHead::decode(&row.value.bytes)?;
        let key = row.key.slice(OBJECT_PREFIX_BYTES.min(row.key.len())..);
        if std::str::from_utf8(&key).is_err() {
            return Err(Malformed { record: "object", reason: "a key is not UTF-8" });
        }
        Ok(Self { key, record: row.value.bytes, head })
    }

    pub fn key(&self) -> &str {
        // Checked when the row was read.
        std::str::from_utf8(&self.key).unwrap_or_default()
    }

    pub fn size(&self) -> u64 {
        self.head.size
    }

    pub fn etag(&self) -> ETag {
        ETag { md5: self.head.md5, parts: self.head.parts }
    }

    pub fn last_modified(&self) -> Timestamp {
        self.head.modified
    }

    pub fn checksum(&self) -> Option<(ChecksumAlgorithm, ChecksumKind)> {
        let (algorithm, kind) = self.head.checksum;
        Some((ChecksumAlgorithm::from_code(algorithm)?, ChecksumKind::from_code(kind)?))
    }

    /// `None`: STANDARD.
    pub fn storage_class(&self) -> Result<Option<String>, Malformed> {
        if self.head.is_standard_class() { Ok(None) } else { Ok(listed_texts(self.record.clone())?.0) }
    }

    /// Canonical id; `None`: the bucket's owner.
    pub fn owner(&self) -> Result<Option<String>, Malformed> {
        Ok(listed_texts(self.record.clone())?.1)
    }
}
