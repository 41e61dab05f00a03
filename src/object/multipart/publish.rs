//! CompleteMultipartUpload: from checked parts to an object. Everything that grows with the parts is written before, in
//! batches; the commit that publishes is as small as that of any PUT.

use std::sync::Arc;

use bytes::Bytes;

use crate::chunk::StoredData;
use crate::iam::Grant;
use crate::ids::UploadId;
use crate::kv::{CommitError, Mutation, Scan};
use crate::meta::bucket::Bucket;
use crate::meta::key;
use crate::meta::object::{ObjectRecord, Payload};
use crate::meta::upload::{CompletedRecord, ManifestPage, Sweep};
use crate::object::attributes::MANIFEST_PAGE_ENTRIES;
use crate::object::checksum;
use crate::object::multipart::FoundUpload;
use crate::object::multipart::complete::Assembled;
use crate::object::place::{Content, Placement, object_owner, settle};
use crate::object::requests::{CompleteUpload, Written};
use crate::object::{CompleteError, Objects, PlaceError, StoreError};

/// Pages of a manifest that one commit writes: at most 120 KiB.
const PAGES_PER_COMMIT: usize = 4;
/// Pages that a manifest may have, and some more of an attempt before.
const PAGES_MAX: usize = 64;

impl Objects {
    pub(super) async fn publish_upload(
        &self,
        grant: &Grant,
        bucket: &Arc<Bucket>,
        upload: &FoundUpload,
        request: &CompleteUpload,
        assembled: Assembled,
    ) -> Result<Written, CompleteError> {
        let modified = self.clock.now();
        let upload_row = key::upload(bucket.id, request.key.as_str(), request.upload);
        let pages = manifest_pages(request, &assembled, modified);
        self.write_manifest(&upload_row, upload, request, pages).await?;
        let data = match assembled.pieces.is_empty() {
            true => None,
            false => {
                let composed = self.chunks.compose(bucket.domain, &assembled.pieces).await;
                Some(composed.map_err(StoreError::from)?)
            }
        };
        let record = self.assembled_record((grant, bucket), (upload, request.upload), &assembled, data.as_ref());
        let answer = self.answer(bucket, request, &record);
        let (version, completed_row) = (upload.version, key::completed(request.upload));
        let extra = |mutation: &mut Mutation| {
            mutation.unchanged(upload_row.clone(), Some(version));
            mutation.delete(upload_row.clone());
            mutation.put(key::upload_garbage(request.upload), Sweep::Parts.encode());
            mutation.put(completed_row.clone(), answer.clone());
        };
        let written = Written {
            etag: assembled.etag,
            checksum: assembled.checksum,
            size: assembled.size,
            last_modified: record.modified,
        };
        let content = data.as_ref().map_or(Content::None, Content::Data);
        let (key, conditions, extra) = (&request.key, &request.conditions, Some(&extra as _));
        let outcome = self
            .place(Placement {
                bucket,
                key,
                record,
                content,
                conditions,
                extra,
            })
            .await;
        if let Some(data) = data {
            settle(
                data,
                outcome.as_ref().err().and_then(PlaceError::store),
                outcome.is_ok(),
            );
        }
        match outcome {
            Ok(()) => Ok(written),
            Err(PlaceError::Conflict) => {
                let now = self.find_upload(bucket, &request.key, request.upload).await?;
                // Aborted while it was completed.
                Err(if now.is_none() {
                    CompleteError::NoSuchUpload
                } else {
                    PlaceError::Conflict.into()
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn assembled_record(
        &self,
        (grant, bucket): (&Grant, &Bucket),
        (upload, id): (&FoundUpload, UploadId),
        assembled: &Assembled,
        data: Option<&StoredData>,
    ) -> ObjectRecord {
        ObjectRecord {
            size: assembled.size,
            modified: self.clock.now(),
            md5: assembled.etag.md5,
            parts: assembled.etag.parts,
            checksum: assembled.checksum.as_ref().map(checksum::to_record),
            payload: if data.is_some() { Payload::Data } else { Payload::None },
            data: data.map_or_else(|| self.ids.data_id(), |data| data.id),
            owner: object_owner(grant, bucket),
            storage_class: upload.record.storage_class.clone(),
            manifest: Some(id),
            headers: upload.record.headers.clone(),
            unknown: Default::default(),
        }
    }

    fn answer(&self, bucket: &Bucket, request: &CompleteUpload, record: &ObjectRecord) -> Bytes {
        let answer = CompletedRecord {
            bucket: bucket.id,
            key: request.key.as_str().to_owned(),
            completed: record.modified,
            modified: record.modified,
            size: record.size,
            md5: record.md5,
            parts: record.parts,
            checksum: record.checksum.clone(),
        };
        answer.encode()
    }

    /// Writes the pages, and deletes those of an attempt before. They belong to the upload until its object is
    /// published: who aborts the upload sweeps them.
    async fn write_manifest(
        &self,
        upload_row: &Bytes,
        upload: &FoundUpload,
        request: &CompleteUpload,
        pages: Vec<(Bytes, Bytes)>,
    ) -> Result<(), CompleteError> {
        let mut changes: Vec<(Bytes, Option<Bytes>)> = Vec::with_capacity(pages.len());
        for row in self.manifest_rows(request.upload).await? {
            if !pages.iter().any(|(page, _)| *page == row) {
                changes.push((row, None));
            }
        }
        changes.extend(pages.into_iter().map(|(row, page)| (row, Some(page))));
        for batch in changes.chunks(PAGES_PER_COMMIT) {
            let mut mutation = Mutation::deferred();
            mutation.unchanged(upload_row.clone(), Some(upload.version));
            for (row, page) in batch {
                match page {
                    Some(page) => mutation.put(row.clone(), page.clone()),
                    None => mutation.delete(row.clone()),
                }
            }
            match self.kv.commit(mutation).await {
                Ok(_) => {}
                Err(CommitError::Conflict { .. }) => return Err(CompleteError::NoSuchUpload),
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
        Ok(())
    }

    pub(super) async fn manifest_rows(&self, upload: UploadId) -> Result<Vec<Bytes>, StoreError> {
        let range = key::manifests(upload);
        let scan = Scan {
            start: std::ops::Bound::Included(range.start),
            end: std::ops::Bound::Excluded(range.end),
            limit: PAGES_MAX,
            direction: Default::default(),
            fold: None,
        };
        Ok(self.kv.scan(scan).await?.into_iter().map(|row| row.key).collect())
    }
}

/// The rows and pages of a manifest. A page's key is its last part number: one seek finds any part.
fn manifest_pages(
    request: &CompleteUpload,
    assembled: &Assembled,
    modified: crate::clock::Timestamp,
) -> Vec<(Bytes, Bytes)> {
    let mut first_byte = 0;
    let mut pages = Vec::with_capacity(assembled.entries.len().div_ceil(MANIFEST_PAGE_ENTRIES));
    for entries in assembled.entries.chunks(MANIFEST_PAGE_ENTRIES) {
        let Some(last) = entries.last() else { continue };
        let algorithm = assembled.algorithm.map_or(0, |algorithm| algorithm as u8);
        let page = ManifestPage {
            first_byte,
            modified,
            algorithm,
            entries: entries.to_vec(),
        };
        pages.push((key::manifest(request.upload, last.number), page.encode()));
        first_byte += entries.iter().map(|entry| entry.size).sum::<u64>();
    }
    pages
}
