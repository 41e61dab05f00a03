//! ListParts and ListMultipartUploads.

use std::ops::Bound;

use bytes::Bytes;

use crate::iam::Grant;
use crate::ids::UploadId;
use crate::kv::{Row, Scan};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key;
use crate::meta::record::Malformed;
use crate::meta::upload::{PartRecord, UploadRecord};
use crate::object::bucket::begins_before;
use crate::object::multipart::FoundUpload;
use crate::object::multipart::part::part_info;
use crate::object::requests::{ListParts, ListUploads, PartPage, UploadEntry, UploadPage};
use crate::object::types::ObjectKey;
use crate::object::{Objects, StoreError, UploadError};

const MALFORMED_ROW: Malformed = Malformed {
    record: "upload",
    reason: "its key is none of an upload",
};

impl Objects {
    pub async fn list_parts(&self, grant: &Grant, request: ListParts) -> Result<PartPage, UploadError> {
        let bucket = grant.bucket().ok_or(UploadError::NoSuchUpload)?;
        let upload = self.find_upload(bucket, &request.key, request.upload).await?;
        let upload = upload
            .ok_or(UploadError::NoSuchUpload)?
            .info(&request.key, request.upload);
        let limit = request.limit.min(limits::LIST_PAGE_MAX);
        let (mut parts, mut next) = (Vec::new(), None);
        for (number, record) in self
            .part_rows(request.upload, request.part_number_marker, limit + 1)
            .await?
        {
            if parts.len() == limit {
                next = parts.last().map(|part: &crate::object::types::PartInfo| part.number);
                break;
            }
            parts.push(part_info(number, &record));
        }
        Ok(PartPage { upload, parts, next })
    }

    /// Parts with a number greater than `after`, at most `limit`.
    pub(super) async fn part_rows(
        &self,
        upload: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<(u16, PartRecord)>, StoreError> {
        let range = key::parts(upload);
        let scan = Scan {
            start: Bound::Excluded(key::part(upload, after)),
            end: Bound::Excluded(range.end),
            limit,
            direction: Default::default(),
            fold: None,
        };
        self.kv.scan(scan).await?.into_iter().map(part_of).collect()
    }

    /// Uploads in progress by key, then by id. Rows that share a common prefix are skipped by one seek.
    pub async fn list_uploads(&self, grant: &Grant, request: ListUploads) -> Result<UploadPage, StoreError> {
        let limit = request.limit.min(limits::LIST_PAGE_MAX);
        let (mut entries, mut next) = (Vec::new(), None);
        let Some(bucket) = grant.bucket() else {
            return Ok(UploadPage { entries, next });
        };
        let end = key::uploads(bucket.id, &request.prefix).end;
        let mut start = first_upload(bucket, &request);
        'pages: while limit > 0 && begins_before(&start, &end) {
            let bound = Bound::Excluded(end.clone());
            let wanted = limit + 1 - entries.len();
            let scan = Scan {
                start,
                end: bound,
                limit: wanted,
                direction: Default::default(),
                fold: None,
            };
            let rows = self.kv.scan(scan).await?;
            let (found, Some(last)) = (rows.len(), rows.last().map(|row| row.key.clone())) else {
                break;
            };
            start = Bound::Excluded(last);
            for row in rows {
                if entries.len() == limit {
                    next = entries.last().map(marker);
                    break 'pages;
                }
                let entry = entry(row, &request)?;
                if let UploadEntry::CommonPrefix(prefix) = &entry {
                    start = Bound::Included(key::uploads(bucket.id, prefix).end);
                    entries.push(entry);
                    continue 'pages;
                }
                entries.push(entry);
            }
            if found < wanted {
                break;
            }
        }
        Ok(UploadPage { entries, next })
    }
}

pub(super) fn part_of(row: Row) -> Result<(u16, PartRecord), StoreError> {
    let number = row.key.last_chunk::<2>().map(|number| u16::from_be_bytes(*number));
    Ok((number.ok_or(MALFORMED_ROW)?, PartRecord::decode(row.value.bytes)?))
}

/// Where a page starts.
fn first_upload(bucket: &Bucket, request: &ListUploads) -> Bound<Bytes> {
    let range = key::uploads(bucket.id, &request.prefix);
    if request.key_marker.is_empty() {
        return Bound::Included(range.start);
    }
    let after = match (request.upload_id_marker, common_prefix(&request.key_marker, request)) {
        (Some(id), _) => Bound::Excluded(key::upload(bucket.id, &request.key_marker, id)),
        (None, Some(prefix)) => Bound::Included(key::uploads(bucket.id, prefix).end),
        // Behind the last upload of the marker's key.
        (None, None) => {
            let first = key::upload(bucket.id, &request.key_marker, UploadId([0; 16]));
            Bound::Included(key::successor(&first.slice(..first.len() - 16)))
        }
    };
    match &after {
        Bound::Included(row) | Bound::Excluded(row) if *row < range.start => Bound::Included(range.start),
        _ => after,
    }
}

/// The part of `key` up to the first delimiter behind the prefix.
fn common_prefix<'a>(key: &'a str, request: &ListUploads) -> Option<&'a str> {
    let delimiter = request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty())?;
    let at = key.strip_prefix(request.prefix.as_str())?.find(delimiter)?;
    key.get(..request.prefix.len() + at + delimiter.len())
}

fn entry(row: Row, request: &ListUploads) -> Result<UploadEntry, StoreError> {
    let (key, id) = key::parse_upload(&row.key).ok_or(MALFORMED_ROW)?;
    if let Some(prefix) = common_prefix(&key, request) {
        return Ok(UploadEntry::CommonPrefix(prefix.to_owned()));
    }
    let key = ObjectKey::parse(key).map_err(|_| MALFORMED_ROW)?;
    let found = FoundUpload {
        record: UploadRecord::decode(row.value.bytes)?,
        version: row.value.version,
    };
    Ok(UploadEntry::Upload(found.info(&key, id)))
}

fn marker(entry: &UploadEntry) -> (String, Option<UploadId>) {
    match entry {
        UploadEntry::Upload(upload) => (upload.key.as_str().to_owned(), Some(upload.id)),
        UploadEntry::CommonPrefix(prefix) => (prefix.clone(), None),
    }
}
