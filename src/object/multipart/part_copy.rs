//! UploadPartCopy: a part from a range of an object.

use std::ops::Range;

use bytes::Bytes;
use futures::StreamExt;

use crate::chunk::codec::Hint;
use crate::chunk::md5::md5_small;
use crate::chunk::{Piece, StoredData};
use crate::iam::Grant;
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::object::{ObjectRecord, Payload};
use crate::meta::upload::PartRecord;
use crate::object::checksum::{self, Hasher};
use crate::object::conditions::check_source;
use crate::object::copy::full_object;
use crate::object::multipart::part::PartPlace;
use crate::object::receive::write;
use crate::object::requests::UploadPartCopy;
use crate::object::types::{Checksum, ChecksumAlgorithm, PartInfo};
use crate::object::{CopyPartError, Objects, StoreError, UploadPartError};

/// Times that a copy starts again because its source was replaced under it.
const SOURCE_TRIES_MAX: u32 = 4;

struct CopiedPart {
    data: Option<StoredData>,
    md5: [u8; 16],
    checksum: Option<Checksum>,
}

impl From<StoreError> for CopyPartError {
    fn from(error: StoreError) -> Self {
        Self::Part(error.into())
    }
}

impl Objects {
    /// Adds a part from a stored object. Inside a dedup domain only metadata moves; the bytes are read if the upload
    /// asked for a checksum that is not stored already. The ETag of such a part is the source's if it is a whole plain
    /// object, else a hash of the source's ETag and the range: the MD5 would need the bytes.
    pub async fn upload_part_copy(
        &self,
        source: &Grant,
        dest: &Grant,
        request: UploadPartCopy,
    ) -> Result<PartInfo, CopyPartError> {
        let source_bucket = source.bucket().ok_or(CopyPartError::NoSuchSource)?;
        let bucket = dest.bucket().ok_or(UploadPartError::NoSuchUpload)?;
        let place = PartPlace {
            bucket,
            key: &request.key,
            upload: request.upload,
            number: request.number,
        };
        let upload = self.open_upload(&place).await?;
        let wanted = upload.checksum().map(|(algorithm, _)| algorithm);
        let mut tries = 0;
        let (copied, size) = loop {
            let found = self
                .find(source_bucket, &request.source_key)
                .await?
                .ok_or(CopyPartError::NoSuchSource)?;
            check_source(&request.source_conditions, found.current())
                .map_err(CopyPartError::SourcePreconditionFailed)?;
            let range = source_range(&request, found.record.size)?;
            match self
                .copy_range(source_bucket, bucket, &found.record, range.clone(), wanted)
                .await
            {
                Ok(copied) => break (copied, range.end - range.start),
                Err(error) => {
                    tries += 1;
                    let now = self.find(source_bucket, &request.source_key).await?;
                    if tries == SOURCE_TRIES_MAX || now.is_some_and(|now| now.version == found.version) {
                        return Err(error.into());
                    }
                }
            }
        };
        let checksum = copied.checksum.as_ref().map(|checksum| {
            let (algorithm, _, value) = checksum::to_record(checksum);
            (algorithm, value)
        });
        let record = PartRecord {
            bucket: bucket.id,
            size,
            modified: self.clock.now(),
            md5: copied.md5,
            data: copied.data.as_ref().map(|data| data.id),
            checksum,
            unknown: Default::default(),
        };
        Ok(self.place_part(&place, upload, record, copied.data).await?)
    }

    async fn copy_range(
        &self,
        source_bucket: &Bucket,
        bucket: &Bucket,
        source: &ObjectRecord,
        range: Range<u64>,
        wanted: Option<ChecksumAlgorithm>,
    ) -> Result<CopiedPart, StoreError> {
        let algorithm = wanted.unwrap_or(ChecksumAlgorithm::Crc64Nvme);
        match source.payload {
            _ if range.is_empty() => self.copy_bytes(bucket, Bytes::new(), algorithm).await,
            Payload::None | Payload::Body | Payload::EncryptedBody => {
                let body = self.body_of(source).await?.ok_or(StoreError::Contended)?;
                let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX).min(body.len());
                self.copy_bytes(bucket, body.slice(at(range.start)..at(range.end)), algorithm)
                    .await
            }
            Payload::Data if source_bucket.domain != bucket.domain => {
                let mut hasher = Hasher::new(algorithm);
                let data = self.rechunk(source, range, bucket, &mut hasher).await?;
                Ok(CopiedPart {
                    md5: data.md5,
                    data: Some(data),
                    checksum: Some(full_object(algorithm, hasher)),
                })
            }
            Payload::Data => {
                let is_whole = range == (0..source.size);
                let stored = checksum::from_record(source.checksum.as_ref()).filter(|stored| {
                    is_whole
                        && stored.algorithm == algorithm
                        && stored.kind == crate::object::types::ChecksumKind::FullObject
                });
                let checksum = match (stored, wanted) {
                    (Some(stored), _) => Some(stored),
                    (None, None) => None,
                    (None, Some(_)) => Some(self.hash_range(source, range.clone(), algorithm).await?),
                };
                let length = range.end - range.start;
                let piece = Piece {
                    data: source.data,
                    offset: range.start,
                    length,
                    part_number: 0,
                };
                let md5 = if is_whole && source.parts == 0 {
                    source.md5
                } else {
                    derived_tag(source, &range)
                };
                let data = self.chunks.compose(bucket.domain, &[piece]).await?;
                Ok(CopiedPart {
                    data: Some(data),
                    md5,
                    checksum,
                })
            }
        }
    }

    async fn copy_bytes(
        &self,
        bucket: &Bucket,
        bytes: Bytes,
        algorithm: ChecksumAlgorithm,
    ) -> Result<CopiedPart, StoreError> {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&bytes);
        let (md5, checksum) = (md5_small(&bytes), Some(full_object(algorithm, hasher)));
        let data = if bytes.is_empty() {
            None
        } else {
            let mut writer = self.writer(bucket, Some(bytes.len() as u64), Hint::Unknown);
            write(&mut writer, bytes).await?;
            Some(writer.finish().await?)
        };
        Ok(CopiedPart { data, md5, checksum })
    }

    async fn hash_range(
        &self,
        source: &ObjectRecord,
        range: Range<u64>,
        algorithm: ChecksumAlgorithm,
    ) -> Result<Checksum, StoreError> {
        let mut hasher = Hasher::new(algorithm);
        let mut stream = self.chunks.read(source.data, range).await?;
        while let Some(piece) = stream.next().await {
            hasher.update(&piece?);
        }
        Ok(full_object(algorithm, hasher))
    }
}

fn source_range(request: &UploadPartCopy, size: u64) -> Result<Range<u64>, CopyPartError> {
    let range = match request.source_range {
        None => 0..size,
        Some((first, last)) if first <= last && last < size => first..last + 1,
        Some(_) => return Err(CopyPartError::InvalidRange { size }),
    };
    if range.end - range.start > limits::PUT_BYTES_MAX {
        Err(CopyPartError::TooLarge)
    } else {
        Ok(range)
    }
}

/// An entity tag for bytes that nobody read: the same source and range give the same one.
fn derived_tag(source: &ObjectRecord, range: &Range<u64>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&source.md5).update(&source.parts.to_le_bytes());
    hasher
        .update(&range.start.to_le_bytes())
        .update(&range.end.to_le_bytes());
    let mut tag = [0; 16];
    hasher.finalize_xof().fill(&mut tag);
    tag
}
