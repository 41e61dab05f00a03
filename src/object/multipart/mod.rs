//! Multipart uploads: create, fill with parts, list, complete, abort, and the sweep of what is left.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::iam::Grant;
use crate::ids::{Sequence, UploadId};
use crate::kv::{CommitError, Mutation};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key;
use crate::meta::upload::{Sweep, UploadRecord, UploadState};
use crate::object::place::recorded_class;
use crate::object::requests::CreateUpload;
use crate::object::types::{ChecksumAlgorithm, ChecksumKind, ObjectKey, UploadInfo};
use crate::object::{CreateUploadError, Objects, StoreError, UploadError, headers};

mod complete;
mod list;
mod part;
mod part_copy;
mod publish;
mod sweep;

pub use sweep::SweeperHandle;

/// An upload's row.
pub(super) struct FoundUpload {
    record: UploadRecord,
    version: Sequence,
}

impl FoundUpload {
    fn checksum(&self) -> Option<(ChecksumAlgorithm, ChecksumKind)> {
        let (algorithm, kind) = self.record.checksum?;
        Some((ChecksumAlgorithm::from_code(algorithm)?, ChecksumKind::from_code(kind)?))
    }

    fn info(&self, key: &ObjectKey, id: UploadId) -> UploadInfo {
        UploadInfo {
            key: key.clone(),
            id,
            initiated: self.record.initiated,
            owner: self.record.owner.clone(),
            storage_class: self.record.storage_class.clone(),
            checksum: self.checksum(),
        }
    }
}

/// The uploads that this process completes at the moment, each by one task at a time.
#[derive(Default)]
pub(super) struct Completing(Mutex<HashMap<UploadId, Queue>>);

/// The tasks that complete one upload.
#[derive(Default)]
struct Queue {
    tasks: usize,
    lock: Arc<tokio::sync::Mutex<()>>,
}

/// A task's place in the queue of one upload; the upload counts as being completed while there is one.
struct Turn<'a> {
    registry: &'a Completing,
    upload: UploadId,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Completing {
    fn enter(&self, upload: UploadId) -> Turn<'_> {
        let mut uploads = self.0.lock();
        let queue = uploads.entry(upload).or_default();
        queue.tasks += 1;
        let lock = Arc::clone(&queue.lock);
        Turn {
            registry: self,
            upload,
            lock,
        }
    }

    fn is_active(&self, upload: UploadId) -> bool {
        self.0.lock().contains_key(&upload)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut uploads = self.registry.0.lock();
        if let Some(queue) = uploads.get_mut(&self.upload) {
            queue.tasks -= 1;
            if queue.tasks == 0 {
                uploads.remove(&self.upload);
            }
        }
    }
}

impl Objects {
    pub async fn create_upload(&self, grant: &Grant, request: CreateUpload) -> Result<UploadInfo, CreateUploadError> {
        let bucket = grant.bucket().ok_or(CreateUploadError::NoSuchBucket)?;
        let checksum = match request.checksum {
            None => None,
            Some((algorithm, asked)) => {
                let kind = ChecksumKind::for_multipart(algorithm, asked);
                Some((
                    algorithm as u8,
                    kind.ok_or(CreateUploadError::ChecksumType(algorithm))? as u8,
                ))
            }
        };
        let record = UploadRecord {
            state: UploadState::Open,
            initiated: self.clock.now(),
            checksum,
            owner: grant.identity().canonical_id.clone(),
            storage_class: recorded_class(request.headers.storage_class.clone()),
            headers: headers::to_fields(&request.headers),
            unknown: Default::default(),
        };
        let id = self.ids.upload_id();
        let mut mutation = Mutation::new();
        mutation.exists(key::bucket_anchor(bucket.id));
        mutation.put(key::upload(bucket.id, request.key.as_str(), id), record.encode());
        match self.kv.commit(mutation).await {
            Ok(version) => Ok(FoundUpload { record, version }.info(&request.key, id)),
            Err(CommitError::Conflict { .. }) => Err(CreateUploadError::NoSuchBucket),
            Err(error) => Err(StoreError::from(error).into()),
        }
    }

    async fn find_upload(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<FoundUpload>, StoreError> {
        let Some(value) = self.kv.get(&key::upload(bucket.id, key.as_str(), id)).await? else {
            return Ok(None);
        };
        Ok(Some(FoundUpload {
            record: UploadRecord::decode(value.bytes)?,
            version: value.version,
        }))
    }

    /// Whether parts may be added. An upload whose completing process or task ended is open again.
    fn takes_parts(&self, upload: &FoundUpload, id: UploadId) -> bool {
        match upload.record.state {
            UploadState::Open => true,
            UploadState::Completing { boot } => boot != self.boot || !self.completing.is_active(id),
        }
    }

    /// Ends an upload; its parts are swept. Afterwards it is unknown.
    pub async fn abort_upload(&self, grant: &Grant, key: &ObjectKey, upload: UploadId) -> Result<(), UploadError> {
        let bucket = grant.bucket().ok_or(UploadError::NoSuchUpload)?;
        for _ in 0..limits::TRANSACTION_TRIES_MAX {
            let found = self
                .find_upload(bucket, key, upload)
                .await?
                .ok_or(UploadError::NoSuchUpload)?;
            let row = key::upload(bucket.id, key.as_str(), upload);
            let mut mutation = Mutation::new();
            mutation.unchanged(row.clone(), Some(found.version));
            mutation.delete(row);
            mutation.put(key::upload_garbage(upload), Sweep::PartsAndManifest.encode());
            match self.kv.commit(mutation).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
        Err(StoreError::Contended.into())
    }
}
