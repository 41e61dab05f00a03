//! Listing: one engine for ListObjects, its second version and ListObjectVersions.

use std::ops::{Bound, Range};

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::iam::Grant;
use crate::ids::BucketId;
use crate::kv::{Fold, Row, Scan};
use crate::limits;
use crate::meta::key::{self, OBJECT_PREFIX_BYTES};
use crate::meta::object::{ObjectHead, listed_texts};
use crate::meta::record::Malformed;
use crate::object::bucket::begins_before;
use crate::object::requests::{ListEntry, ListPage, ListRequest};
use crate::object::types::{ChecksumAlgorithm, ChecksumKind, ETag};
use crate::object::{Objects, StoreError};

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
            return Err(Malformed {
                record: "object",
                reason: "a key is not UTF-8",
            });
        }
        Ok(Self {
            key,
            record: row.value.bytes,
            head,
        })
    }

    pub fn key(&self) -> &str {
        // Checked when the row was read.
        std::str::from_utf8(&self.key).unwrap_or_default()
    }

    pub fn size(&self) -> u64 {
        self.head.size
    }

    pub fn etag(&self) -> ETag {
        ETag {
            md5: self.head.md5,
            parts: self.head.parts,
        }
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
        if self.head.is_standard_class() {
            Ok(None)
        } else {
            Ok(listed_texts(self.record.clone())?.0)
        }
    }

    /// Canonical id; `None`: the bucket's owner.
    pub fn owner(&self) -> Result<Option<String>, Malformed> {
        Ok(listed_texts(self.record.clone())?.1)
    }
}

impl ListEntry {
    pub fn name(&self) -> &str {
        match self {
            Self::Object(object) => object.key(),
            Self::CommonPrefix(prefix) => prefix,
        }
    }
}

impl Objects {
    /// One page of the bucket's objects in the binary order of their keys, those that share a prefix up to the
    /// delimiter as one entry. One scan, whatever is folded.
    pub async fn list(&self, grant: &Grant, request: ListRequest) -> Result<ListPage, StoreError> {
        let limit = request.limit.min(limits::LIST_PAGE_MAX);
        let empty = ListPage {
            entries: Vec::new(),
            next: None,
        };
        let Some(bucket) = grant.bucket() else { return Ok(empty) };
        let range = key::objects(bucket.id, &request.prefix);
        let fold = request
            .delimiter
            .as_deref()
            .filter(|delimiter| !delimiter.is_empty())
            .map(|delimiter| Fold {
                skip: OBJECT_PREFIX_BYTES + request.prefix.len(),
                delimiter: Bytes::copy_from_slice(delimiter.as_bytes()),
            });
        let start = start_of(bucket.id, &range, fold.as_ref(), request.start_after.as_deref());
        if limit == 0 || !begins_before(&start, &range.end) {
            return Ok(empty);
        }
        let end = Bound::Excluded(range.end);
        let scan = Scan {
            start,
            end,
            limit: limit + 1,
            direction: Default::default(),
            fold: fold.clone(),
        };
        let rows = self.kv.scan(scan).await?;
        let more = rows.len() > limit;
        let mut entries = Vec::with_capacity(rows.len().min(limit));
        for row in rows.into_iter().take(limit) {
            entries.push(entry(row, fold.as_ref())?);
        }
        let next = if more {
            entries.last().map(|entry| entry.name().to_owned())
        } else {
            None
        };
        Ok(ListPage { entries, next })
    }
}

/// Where a page starts: behind `after`, and behind all of the common prefix that `after` is or lies in.
fn start_of(bucket: BucketId, range: &Range<Bytes>, fold: Option<&Fold>, after: Option<&str>) -> Bound<Bytes> {
    let Some(after) = after else {
        return Bound::Included(range.start.clone());
    };
    let after = key::object(bucket, after);
    if after < range.start {
        return Bound::Included(range.start.clone());
    }
    match fold.and_then(|fold| fold.prefix_of(&after)) {
        Some(prefix) => Bound::Included(key::successor(prefix)),
        None => Bound::Excluded(after),
    }
}

fn entry(row: Row, fold: Option<&Fold>) -> Result<ListEntry, Malformed> {
    let Some(prefix) = fold.and_then(|fold| fold.prefix_of(&row.key)) else {
        return Ok(ListEntry::Object(ListedObject::new(row)?));
    };
    let name = prefix
        .get(OBJECT_PREFIX_BYTES..)
        .and_then(|name| std::str::from_utf8(name).ok());
    let name = name.ok_or(Malformed {
        record: "object",
        reason: "a common prefix is not UTF-8",
    })?;
    Ok(ListEntry::CommonPrefix(name.to_owned()))
}
