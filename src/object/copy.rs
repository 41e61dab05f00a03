//! CopyObject: inside a dedup domain only metadata moves; across domains the bytes are chunked anew.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use crate::chunk::codec::Hint;
use crate::chunk::{Piece, StoredData};
use crate::iam::Grant;
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::object::{ObjectRecord, Payload};
use crate::object::checksum::Hasher;
use crate::object::conditions::check_source;
use crate::object::get::Found;
use crate::object::place::{Arrived, object_owner, recorded_class};
use crate::object::receive::write;
use crate::object::requests::{CopyRequest, Written};
use crate::object::types::{Checksum, ChecksumAlgorithm, ChecksumKind, ETag, ObjectKey};
use crate::object::{CopyError, Objects, PlaceError, StoreError, checksum, headers};

/// Times that a copy starts again because its source was replaced under it.
const SOURCE_TRIES_MAX: u32 = 4;

/// The copied bytes, and what was learned of them if they were read.
struct CopiedContent {
    copied: Arrived,
    /// Of bytes that passed through: the plain MD5.
    md5: Option<[u8; 16]>,
    checksum: Option<Checksum>,
}

impl Objects {
    /// Copies an object. A source that is a multipart object keeps its ETag in a copy that only moves metadata: S3's
    /// new plain MD5 would need all bytes. A copy is one piece: it answers part number 1 with all of its bytes.
    pub async fn copy(
        &self,
        source: &Grant,
        source_key: &ObjectKey,
        dest: &Grant,
        request: CopyRequest,
    ) -> Result<Written, CopyError> {
        let source_bucket = source.bucket().ok_or(CopyError::NoSuchSource)?;
        let bucket = dest.bucket().ok_or(PlaceError::NoSuchBucket)?;
        let mut tries = 0;
        loop {
            let found = self.find(source_bucket, source_key).await.map_err(PlaceError::from)?;
            let found = found.ok_or(CopyError::NoSuchSource)?;
            check_source(&request.source_conditions, found.current()).map_err(CopyError::SourcePreconditionFailed)?;
            if found.record.size > limits::PUT_BYTES_MAX {
                return Err(CopyError::TooLarge);
            }
            let to_itself = source_bucket.id == bucket.id && *source_key == request.key;
            if to_itself && changes_nothing(&found.record, &request) {
                return Err(CopyError::SelfCopyUnchanged);
            }
            match self
                .copy_content(source_bucket, bucket, &found.record, request.checksum)
                .await
            {
                Ok(content) => return self.place_copy(dest, bucket, found, content, request).await,
                Err(error) => {
                    tries += 1;
                    let now = self.find(source_bucket, source_key).await.map_err(PlaceError::from)?;
                    if tries == SOURCE_TRIES_MAX || now.is_some_and(|now| now.version == found.version) {
                        return Err(PlaceError::from(error).into());
                    }
                }
            }
        }
    }

    async fn place_copy(
        &self,
        dest: &Grant,
        bucket: &Arc<Bucket>,
        found: Found,
        content: CopiedContent,
        request: CopyRequest,
    ) -> Result<Written, CopyError> {
        let source = found.record;
        let parts = if content.md5.is_some() { 0 } else { source.parts };
        let checksum = content
            .checksum
            .or_else(|| checksum::from_record(source.checksum.as_ref()));
        let record = ObjectRecord {
            size: source.size,
            modified: self.clock.now(),
            md5: content.md5.unwrap_or(source.md5),
            parts,
            checksum: checksum.as_ref().map(checksum::to_record),
            payload: Payload::None,
            data: self.ids.data_id(),
            owner: object_owner(dest, bucket),
            storage_class: recorded_class(request.storage_class),
            manifest: None,
            headers: headers::replace_fields(
                source.headers,
                request.headers.as_ref(),
                request.website_redirect.as_deref(),
                request.tags.as_deref(),
            ),
            unknown: Default::default(),
        };
        let etag = ETag { md5: record.md5, parts };
        let written = Written {
            etag,
            checksum,
            size: record.size,
            last_modified: record.modified,
        };
        self.place_arrived(bucket, &request.key, record, content.copied, &request.conditions)
            .await?;
        Ok(written)
    }

    async fn copy_content(
        &self,
        source_bucket: &Bucket,
        bucket: &Bucket,
        source: &ObjectRecord,
        asked: Option<ChecksumAlgorithm>,
    ) -> Result<CopiedContent, StoreError> {
        let stored = checksum::from_record(source.checksum.as_ref());
        let fits = |stored: &Checksum| asked.is_none_or(|asked| asked == stored.algorithm);
        let keeps = stored.as_ref().is_some_and(fits) || (stored.is_none() && asked.is_none());
        let algorithm = asked.or(stored.as_ref().map(|stored| stored.algorithm));
        let algorithm = algorithm.unwrap_or(ChecksumAlgorithm::Crc64Nvme);
        match source.payload {
            Payload::None | Payload::Body | Payload::EncryptedBody => {
                let bytes = match source.payload {
                    Payload::None => Bytes::new(),
                    _ => self.body_of(source).await?.ok_or(StoreError::Contended)?,
                };
                let checksum = (!keeps).then(|| {
                    let mut hasher = Hasher::new(algorithm);
                    hasher.update(&bytes);
                    full_object(algorithm, hasher)
                });
                Ok(CopiedContent {
                    copied: Arrived::Inline(bytes),
                    md5: None,
                    checksum,
                })
            }
            Payload::Data if source_bucket.domain == bucket.domain => {
                let checksum = if keeps {
                    None
                } else {
                    Some(self.hash_data(source, algorithm).await?)
                };
                let piece = Piece {
                    data: source.data,
                    offset: 0,
                    length: source.size,
                    part_number: 0,
                };
                let data = self.chunks.compose(bucket.domain, &[piece]).await?;
                Ok(CopiedContent {
                    copied: Arrived::Data(data),
                    md5: None,
                    checksum,
                })
            }
            Payload::Data => {
                let mut hasher = Hasher::new(algorithm);
                let data = self.rechunk(source, 0..source.size, bucket, &mut hasher).await?;
                let (md5, checksum) = (Some(data.md5), Some(full_object(algorithm, hasher)));
                Ok(CopiedContent {
                    copied: Arrived::Data(data),
                    md5,
                    checksum,
                })
            }
        }
    }

    async fn hash_data(&self, source: &ObjectRecord, algorithm: ChecksumAlgorithm) -> Result<Checksum, StoreError> {
        let mut hasher = Hasher::new(algorithm);
        let mut stream = self.chunks.read(source.data, 0..source.size).await?;
        while let Some(piece) = stream.next().await {
            hasher.update(&piece?);
        }
        Ok(full_object(algorithm, hasher))
    }

    /// Stores a range of an object's data again, in the domain of `bucket`.
    pub(super) async fn rechunk(
        &self,
        source: &ObjectRecord,
        range: std::ops::Range<u64>,
        bucket: &Bucket,
        hasher: &mut Hasher,
    ) -> Result<StoredData, StoreError> {
        let _permit = self.chunks.transfer().await;
        let mut writer = self.writer(bucket, Some(range.end - range.start), Hint::Unknown);
        let mut stream = self.chunks.read(source.data, range).await?;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            hasher.update(&piece);
            write(&mut writer, piece).await?;
        }
        Ok(writer.finish().await?)
    }
}

pub(super) fn full_object(algorithm: ChecksumAlgorithm, hasher: Hasher) -> Checksum {
    Checksum {
        algorithm,
        kind: ChecksumKind::FullObject,
        value: hasher.finish(),
    }
}

/// S3 refuses a copy onto itself unless metadata, class, redirect, checksum or tags change.
fn changes_nothing(source: &ObjectRecord, request: &CopyRequest) -> bool {
    let class = request.storage_class.clone();
    let same_class = class.is_none() || recorded_class(class) == source.storage_class;
    let stored = source.checksum.as_ref().map(|(algorithm, ..)| *algorithm);
    let same_checksum = request.checksum.is_none_or(|asked| stored == Some(asked as u8));
    let same_headers = request.headers.is_none() && request.tags.is_none() && request.website_redirect.is_none();
    same_headers && same_class && same_checksum
}
