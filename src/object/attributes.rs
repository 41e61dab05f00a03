//! GetObjectAttributes, and the part manifests of completed multipart objects.

use std::ops::Bound;

use bytes::Bytes;

use crate::iam::Grant;
use crate::ids::UploadId;
use crate::kv::Scan;
use crate::limits;
use crate::meta::key;
use crate::meta::upload::{ManifestEntry, ManifestPage};
use crate::object::conditions::check_read;
use crate::object::get::info;
use crate::object::requests::{Attributes, AttributesParts, AttributesRequest};
use crate::object::types::{Checksum, ChecksumAlgorithm, ChecksumKind, ETag, ObjectKey, PartInfo};
use crate::object::{GetError, Objects, StoreError};

/// Entries of one manifest page: at most 29 KiB.
pub(super) const MANIFEST_PAGE_ENTRIES: usize = 500;

impl Objects {
    pub async fn attributes(
        &self,
        grant: &Grant,
        key: &ObjectKey,
        request: AttributesRequest,
    ) -> Result<Attributes, GetError> {
        let bucket = grant.bucket().ok_or(GetError::NoSuchKey)?;
        let found = self.find(bucket, key).await?.ok_or(GetError::NoSuchKey)?;
        check_read(&request.conditions, found.current())?;
        let total = found.record.parts;
        let parts = match found.record.manifest {
            None => None,
            Some(manifest) => {
                let limit = request.max_parts.min(limits::LIST_PAGE_MAX);
                let (parts, more) = self.manifest_parts(manifest, request.part_number_marker, limit).await?;
                let next = if more {
                    parts.last().map(|part| part.number)
                } else {
                    None
                };
                Some(AttributesParts { total, parts, next })
            }
        };
        Ok(Attributes {
            info: info(found.record, bucket)?,
            parts,
        })
    }

    /// The parts with a number greater than `after`, and whether more follow.
    async fn manifest_parts(
        &self,
        manifest: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<(Vec<PartInfo>, bool), StoreError> {
        let scan = Scan {
            start: Bound::Excluded(key::manifest(manifest, after)),
            end: Bound::Excluded(key::manifests(manifest).end),
            limit: limit / MANIFEST_PAGE_ENTRIES + 2,
            direction: Default::default(),
            fold: None,
        };
        let mut parts = Vec::new();
        for row in self.kv.scan(scan).await? {
            let page = ManifestPage::decode(row.value.bytes)?;
            for entry in page.entries.iter().filter(|entry| entry.number > after) {
                if parts.len() == limit {
                    return Ok((parts, true));
                }
                parts.push(part_info(&page, entry));
            }
        }
        Ok((parts, false))
    }
}

fn part_info(page: &ManifestPage, entry: &ManifestEntry) -> PartInfo {
    PartInfo {
        number: entry.number,
        size: entry.size,
        etag: ETag {
            md5: entry.md5,
            parts: 0,
        },
        checksum: part_checksum(Some(&(page.algorithm, entry.checksum.clone()))),
        last_modified: page.modified,
    }
}

/// A part's checksum is always of its full bytes.
pub(super) fn part_checksum(stored: Option<&(u8, Bytes)>) -> Option<Checksum> {
    let (algorithm, value) = stored?;
    let algorithm = ChecksumAlgorithm::from_code(*algorithm)?;
    (value.len() == algorithm.width()).then(|| Checksum {
        algorithm,
        kind: ChecksumKind::FullObject,
        value: value.to_vec(),
    })
}
