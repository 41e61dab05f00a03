//! UploadPart.

use crate::chunk::StoredData;
use crate::iam::Grant;
use crate::ids::UploadId;
use crate::kv::{CommitError, Mutation};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key::{self, UsageKind, UsageScope};
use crate::meta::upload::PartRecord;
use crate::object::attributes::part_checksum;
use crate::object::checksum;
use crate::object::multipart::FoundUpload;
use crate::object::place::{Arrived, STRIPE, settle};
use crate::object::receive::{Incoming, hint_of};
use crate::object::requests::UploadPart;
use crate::object::types::{ChecksumAlgorithm, ETag, ObjectKey, PartInfo};
use crate::object::{Objects, StoreError, UploadPartError, headers};

const GUARD_UPLOAD: usize = 1;
const GUARD_PART: usize = 2;

/// Where a part goes.
pub(super) struct PartPlace<'a> {
    pub bucket: &'a Bucket,
    pub key: &'a ObjectKey,
    pub upload: UploadId,
    pub number: u16,
}

impl From<StoreError> for UploadPartError {
    fn from(error: StoreError) -> Self {
        Self::Receive(error.into())
    }
}

impl UploadPartError {
    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Receive(crate::object::ReceiveError::Store(error)) => Some(error),
            _ => None,
        }
    }
}

impl Objects {
    /// The upload of a part that is to be added.
    pub(super) async fn open_upload(&self, place: &PartPlace<'_>) -> Result<FoundUpload, UploadPartError> {
        if !(1..=limits::PART_NUMBER_MAX).contains(&place.number) {
            return Err(UploadPartError::InvalidPartNumber);
        }
        let found = self.find_upload(place.bucket, place.key, place.upload).await?;
        found
            .filter(|found| self.takes_parts(found, place.upload))
            .ok_or(UploadPartError::NoSuchUpload)
    }

    /// Stores a part; an older one of that number is replaced.
    pub async fn upload_part(&self, grant: &Grant, request: UploadPart) -> Result<PartInfo, UploadPartError> {
        let bucket = grant.bucket().ok_or(UploadPartError::NoSuchUpload)?;
        let place = PartPlace {
            bucket,
            key: &request.key,
            upload: request.upload,
            number: request.number,
        };
        let upload = self.open_upload(&place).await?;
        let wanted = upload.checksum().map(|(algorithm, _)| algorithm);
        let named = checksum::named(&request.integrity.checksum);
        if let (Some(wanted), Some(named)) = (wanted, named)
            && wanted != named
        {
            return Err(UploadPartError::ChecksumAlgorithm(wanted));
        }
        let stored = headers::from_fields(&upload.record.headers, None).map_err(StoreError::from)?;
        let incoming = Incoming {
            body: request.body,
            content_length: request.content_length,
            integrity: request.integrity,
            default_checksum: wanted.unwrap_or(ChecksumAlgorithm::Crc64Nvme),
            inline_bytes_max: 0,
            hint: hint_of(&stored),
        };
        let received = self.receive(bucket, incoming).await?;
        let data = match received.payload {
            Arrived::Data(data) => Some(data),
            // Only a part of zero bytes stays in memory.
            Arrived::Inline(_) => None,
        };
        let (algorithm, _, value) = checksum::to_record(&received.checksum);
        let record = PartRecord {
            bucket: bucket.id,
            size: received.size,
            modified: self.clock.now(),
            md5: received.md5,
            data: data.as_ref().map(|data| data.id),
            checksum: Some((algorithm, value)),
            unknown: Default::default(),
        };
        self.place_part(&place, upload, record, data).await
    }

    /// Commits a part whose bytes are stored.
    pub(super) async fn place_part(
        &self,
        place: &PartPlace<'_>,
        upload: FoundUpload,
        record: PartRecord,
        data: Option<StoredData>,
    ) -> Result<PartInfo, UploadPartError> {
        let outcome = self.commit_part(place, upload, &record, data.as_ref()).await;
        if let Some(data) = data {
            settle(
                data,
                outcome.as_ref().err().and_then(UploadPartError::store),
                outcome.is_ok(),
            );
        }
        outcome.map(|()| part_info(place.number, &record))
    }

    async fn commit_part(
        &self,
        place: &PartPlace<'_>,
        mut upload: FoundUpload,
        record: &PartRecord,
        data: Option<&StoredData>,
    ) -> Result<(), UploadPartError> {
        let row = key::part(place.upload, place.number);
        let mut lock = self.keys.lock_if_held(&row).await;
        for _ in 0..limits::TRANSACTION_TRIES_MAX {
            let older = self.kv.get(&row).await.map_err(StoreError::from)?;
            let mut mutation = Mutation::new();
            mutation.exists(key::bucket_anchor(place.bucket.id));
            let owner = key::upload(place.bucket.id, place.key.as_str(), place.upload);
            mutation.unchanged(owner.clone(), Some(upload.version));
            mutation.unchanged(row.clone(), older.as_ref().map(|value| value.version));
            mutation.put(row.clone(), record.encode());
            let mut delta = record.size.cast_signed();
            if let Some(value) = older {
                let older = PartRecord::decode(value.bytes).map_err(StoreError::from)?;
                delta -= older.size.cast_signed();
                if let Some(data) = older.data {
                    self.chunks.release(&mut mutation, data);
                }
            }
            if delta != 0 {
                let scope = UsageScope::Bucket(place.bucket.id);
                mutation.add(key::usage(scope, UsageKind::UploadBytes, STRIPE), delta);
            }
            if let Some(data) = data {
                self.chunks.publish(&mut mutation, data, owner);
            }
            match self.kv.commit(mutation).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { guard: GUARD_UPLOAD }) => upload = self.open_upload(place).await?,
                Err(CommitError::Conflict { guard: GUARD_PART }) => {
                    if lock.is_none() {
                        lock = self.keys.lock(&row).await;
                    }
                }
                Err(CommitError::Conflict { guard: 0 }) => return Err(UploadPartError::NoSuchUpload),
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
        Err(StoreError::Contended.into())
    }
}

pub(super) fn part_info(number: u16, record: &PartRecord) -> PartInfo {
    PartInfo {
        number,
        size: record.size,
        etag: ETag {
            md5: record.md5,
            parts: 0,
        },
        checksum: part_checksum(record.checksum.as_ref()),
        last_modified: record.modified,
    }
}
