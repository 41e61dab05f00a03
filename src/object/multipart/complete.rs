//! CompleteMultipartUpload: what is checked before anything is published.

use std::sync::Arc;

use crate::chunk::Piece;
use crate::clock::Timestamp;
use crate::iam::Grant;
use crate::kv::{CommitError, Mutation};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key;
use crate::meta::upload::{CompletedRecord, ManifestEntry, PartRecord, UploadRecord, UploadState};
use crate::object::attributes::part_checksum;
use crate::object::checksum::{self, of_parts};
use crate::object::multipart::FoundUpload;
use crate::object::requests::{CompleteUpload, Written};
use crate::object::types::{Checksum, ChecksumAlgorithm, ChecksumKind, CompletedPart, ETag};
use crate::object::{CompleteError, Objects, PlaceError, StoreError};

/// How long the answer of a completed upload is kept for a retry.
pub(super) const COMPLETED_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// A valid list of parts, put together.
pub(super) struct Assembled {
    pub pieces: Vec<Piece>,
    pub entries: Vec<ManifestEntry>,
    /// Of the entries' checksums; `None`: the parts have no common one.
    pub algorithm: Option<ChecksumAlgorithm>,
    pub size: u64,
    pub etag: ETag,
    pub checksum: Option<Checksum>,
}

impl From<StoreError> for CompleteError {
    fn from(error: StoreError) -> Self {
        Self::Place(error.into())
    }
}

impl Objects {
    /// Makes an object of the listed parts. The answer is kept for a day: a retry gets the same one.
    pub async fn complete_upload(&self, grant: &Grant, mut request: CompleteUpload) -> Result<Written, CompleteError> {
        let bucket = grant.bucket().ok_or(CompleteError::NoSuchUpload)?;
        check_order(&mut request.parts)?;
        let turn = self.completing.enter(request.upload);
        let _turn = turn.lock.lock().await;
        let Some(upload) = self.claim(bucket, &request).await? else {
            return self.completed_answer(bucket, &request).await;
        };
        let outcome = match self.assemble(&upload, &request).await {
            Ok(assembled) => self.publish_upload(grant, bucket, &upload, &request, assembled).await,
            Err(error) => Err(error),
        };
        let unknown = matches!(
            &outcome,
            Err(CompleteError::Place(PlaceError::Store(StoreError::Unknown(_))))
        );
        if outcome.is_err() && !unknown {
            self.reopen(bucket, &request, upload).await;
        }
        outcome
    }

    /// Marks the upload as being completed, so that no part changes under the completion; `None`: there is none.
    async fn claim(&self, bucket: &Arc<Bucket>, request: &CompleteUpload) -> Result<Option<FoundUpload>, StoreError> {
        for _ in 0..limits::TRANSACTION_TRIES_MAX {
            let Some(found) = self.find_upload(bucket, &request.key, request.upload).await? else {
                return Ok(None);
            };
            let record = UploadRecord {
                state: UploadState::Completing { boot: self.boot },
                ..found.record
            };
            match self.change_upload(bucket, request, &record, found.version).await {
                Ok(version) => return Ok(Some(FoundUpload { record, version })),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended)
    }

    /// The publishing commit makes this durable; lost in a crash, the upload is open as it was.
    async fn change_upload(
        &self,
        bucket: &Bucket,
        request: &CompleteUpload,
        record: &UploadRecord,
        version: crate::ids::Sequence,
    ) -> Result<crate::ids::Sequence, CommitError> {
        let row = key::upload(bucket.id, request.key.as_str(), request.upload);
        let mut mutation = Mutation::deferred();
        mutation.unchanged(row.clone(), Some(version));
        mutation.put(row, record.encode());
        self.kv.commit(mutation).await
    }

    /// After a refusal the client may try again with other parts. If this fails, the next attempt takes the upload
    /// over all the same.
    async fn reopen(&self, bucket: &Bucket, request: &CompleteUpload, upload: FoundUpload) {
        let record = UploadRecord {
            state: UploadState::Open,
            ..upload.record
        };
        if let Err(error) = self.change_upload(bucket, request, &record, upload.version).await {
            tracing::debug!(upload = %request.upload, %error, "an upload was not opened again");
        }
    }

    /// The answer of an upload that was completed with the same parts.
    async fn completed_answer(&self, bucket: &Bucket, request: &CompleteUpload) -> Result<Written, CompleteError> {
        let row = self
            .kv
            .get(&key::completed(request.upload))
            .await
            .map_err(StoreError::from)?;
        let value = row.ok_or(CompleteError::NoSuchUpload)?;
        let record = CompletedRecord::decode(value.bytes).map_err(StoreError::from)?;
        let kept_until = record.completed.unix_ms().saturating_add(COMPLETED_KEPT_MS);
        let is_ours = record.bucket == bucket.id && record.key == request.key.as_str();
        let etag = requested_etag(&request.parts).filter(|etag| etag.md5 == record.md5 && etag.parts == record.parts);
        match etag {
            Some(etag) if is_ours && self.clock.now() < Timestamp::from_unix_ms(kept_until) => Ok(Written {
                etag,
                checksum: checksum::from_record(record.checksum.as_ref()),
                size: record.size,
                last_modified: record.modified,
            }),
            _ => Err(CompleteError::NoSuchUpload),
        }
    }

    async fn assemble(&self, upload: &FoundUpload, request: &CompleteUpload) -> Result<Assembled, CompleteError> {
        let mut stored = Vec::new();
        loop {
            let after = stored.last().map_or(0, |(number, _)| *number);
            let page = self.part_rows(request.upload, after, limits::SCAN_ROWS_MAX).await?;
            let is_last = page.len() < limits::SCAN_ROWS_MAX;
            stored.extend(page);
            if is_last {
                break;
            }
        }
        let parts = listed_parts(&request.parts, &stored)?;
        let assembled = join_parts(&parts, upload.checksum())?;
        if let Some(expected) = request.object_size.filter(|expected| *expected != assembled.size) {
            return Err(CompleteError::SizeMismatch {
                expected,
                actual: assembled.size,
            });
        }
        if let Some(kind) = request.checksum_kind
            && assembled
                .checksum
                .as_ref()
                .is_some_and(|checksum| checksum.kind != kind)
        {
            return Err(CompleteError::ChecksumType);
        }
        if let Some((algorithm, value)) = &request.checksum {
            let same = |checksum: &Checksum| checksum.algorithm == *algorithm && checksum.value == *value;
            if !assembled.checksum.as_ref().is_some_and(same) {
                return Err(CompleteError::BadChecksum(*algorithm));
            }
        }
        Ok(assembled)
    }
}

/// Parts ascend. Of a part that is named more than once the last mention counts: a client that sent a part again may
/// list both.
fn check_order(parts: &mut Vec<CompletedPart>) -> Result<(), CompleteError> {
    if parts.is_empty() || parts.len() > usize::from(limits::PART_NUMBER_MAX) {
        return Err(CompleteError::PartCount);
    }
    if !parts.is_sorted_by_key(|part| part.number) {
        return Err(CompleteError::InvalidPartOrder);
    }
    parts.dedup_by(|later, kept| {
        let is_again = later.number == kept.number;
        if is_again {
            std::mem::swap(later, kept);
        }
        is_again
    });
    Ok(())
}

/// The stored parts that the list names, checked against it.
fn listed_parts<'a>(
    listed: &[CompletedPart],
    stored: &'a [(u16, PartRecord)],
) -> Result<Vec<(u16, &'a PartRecord)>, CompleteError> {
    let mut parts = Vec::with_capacity(listed.len());
    for (at, wanted) in listed.iter().enumerate() {
        let found = stored.binary_search_by_key(&wanted.number, |(number, _)| *number).ok();
        let found = found.and_then(|at| stored.get(at)).map(|(_, record)| record);
        let found = found.filter(|record| is_as_listed(wanted, record));
        let record = found.ok_or(CompleteError::InvalidPart(wanted.number))?;
        let is_last = at + 1 == listed.len();
        if !is_last && record.size < limits::PART_BYTES_MIN {
            return Err(CompleteError::PartTooSmall {
                number: wanted.number,
                size: record.size,
            });
        }
        parts.push((wanted.number, record));
    }
    Ok(parts)
}

fn is_as_listed(wanted: &CompletedPart, record: &PartRecord) -> bool {
    let same_tag = wanted.etag.eq_ignore_ascii_case(&hex::encode(record.md5));
    let same_checksum = wanted.checksum.as_ref().is_none_or(|(algorithm, value)| {
        record
            .checksum
            .as_ref()
            .is_some_and(|(stored, bytes)| *stored == *algorithm as u8 && *bytes == *value)
    });
    same_tag && same_checksum
}

fn join_parts(
    parts: &[(u16, &PartRecord)],
    wanted: Option<(ChecksumAlgorithm, ChecksumKind)>,
) -> Result<Assembled, CompleteError> {
    let size = parts
        .iter()
        .try_fold(0u64, |size, (_, record)| size.checked_add(record.size));
    let size = size
        .filter(|size| *size <= limits::OBJECT_BYTES_MAX)
        .ok_or(CompleteError::TooLarge)?;
    let algorithm = common_algorithm(parts);
    let kind = match (wanted, algorithm) {
        (Some((wanted, kind)), Some(algorithm)) if wanted == algorithm => Some(kind),
        (None, Some(algorithm)) => ChecksumKind::for_multipart(algorithm, Some(ChecksumKind::FullObject)),
        _ => None,
    };
    let checksum = algorithm.zip(kind).map(|(algorithm, kind)| {
        let value = |record: &PartRecord| record.checksum.clone().unwrap_or_default().1;
        let values: Vec<_> = parts.iter().map(|(_, record)| (value(record), record.size)).collect();
        let values = values.iter().map(|(value, size)| (value.as_ref(), *size));
        Checksum {
            algorithm,
            kind,
            value: of_parts(algorithm, kind, values),
        }
    });
    let piece = |(number, record): &(u16, &PartRecord)| {
        Some(Piece {
            data: record.data?,
            offset: 0,
            length: record.size,
            part_number: *number,
        })
    };
    let entry = |(number, record): &(u16, &PartRecord)| ManifestEntry {
        number: *number,
        size: record.size,
        md5: record.md5,
        checksum: record
            .checksum
            .clone()
            .filter(|_| algorithm.is_some())
            .unwrap_or_default()
            .1,
    };
    Ok(Assembled {
        pieces: parts.iter().filter_map(piece).collect(),
        entries: parts.iter().map(entry).collect(),
        algorithm,
        size,
        etag: etag_of(parts.iter().map(|(_, record)| record.md5)),
        checksum,
    })
}

/// The algorithm that all parts have a checksum of.
fn common_algorithm(parts: &[(u16, &PartRecord)]) -> Option<ChecksumAlgorithm> {
    let of = |record: &PartRecord| part_checksum(record.checksum.as_ref()).map(|checksum| checksum.algorithm);
    let (_, first) = parts.first()?;
    let algorithm = of(first)?;
    parts
        .iter()
        .all(|(_, record)| of(record) == Some(algorithm))
        .then_some(algorithm)
}

/// S3's entity tag of a multipart object: the MD5 of the parts' MD5s, and their count.
fn etag_of(md5s: impl Iterator<Item = [u8; 16]>) -> ETag {
    let all: Vec<[u8; 16]> = md5s.collect();
    let parts = u16::try_from(all.len()).unwrap_or(u16::MAX);
    ETag {
        md5: crate::chunk::md5::md5_small(all.as_flattened()),
        parts,
    }
}

/// The entity tag that an object of the listed parts has.
fn requested_etag(parts: &[CompletedPart]) -> Option<ETag> {
    let mut md5s = Vec::with_capacity(parts.len());
    for part in parts {
        let mut md5 = [0; 16];
        hex::decode_to_slice(&part.etag, &mut md5).ok()?;
        md5s.push(md5);
    }
    Some(etag_of(md5s.into_iter()))
}
