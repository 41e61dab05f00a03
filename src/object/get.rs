//! GetObject and HeadObject.

use bytes::Bytes;

use crate::chunk;
use crate::iam::Grant;
use crate::ids::Sequence;
use crate::kv::Scan;
use crate::meta::bucket::Bucket;
use crate::meta::key;
use crate::meta::object::{ObjectRecord, Payload, decode_headers};
use crate::meta::upload::ManifestPage;
use crate::object::attributes::part_checksum;
use crate::object::conditions::{Current, check_read};
use crate::object::requests::{GetOutcome, GetRequest, HeadOutcome, ObjectBody};
use crate::object::types::{Checksum, ETag, IfRange, ObjectInfo, ObjectKey, RangeSpec};
use crate::object::{GetError, Objects, StoreError, checksum, headers};

/// Times that a read starts again because the object was replaced under it.
const READ_TRIES_MAX: u32 = 8;

/// An object as its rows tell it.
pub(super) struct Found {
    pub record: ObjectRecord,
    pub version: Sequence,
}

impl Found {
    pub(super) fn current(&self) -> Current {
        Current {
            size: self.record.size,
            etag: etag(&self.record),
            modified: self.record.modified,
        }
    }
}

fn etag(record: &ObjectRecord) -> ETag {
    ETag {
        md5: record.md5,
        parts: record.parts,
    }
}

/// Which bytes a read gives.
struct Selected {
    first: u64,
    length: u64,
    is_range: bool,
    parts: Option<u16>,
    part_checksum: Option<Checksum>,
}

impl Objects {
    /// The current version, with the headers that do not fit into its row.
    pub(super) async fn find(&self, bucket: &Bucket, key: &ObjectKey) -> Result<Option<Found>, StoreError> {
        let row = key::object(bucket.id, key.as_str());
        for _ in 0..READ_TRIES_MAX {
            let Some(value) = self.kv.get(&row).await? else {
                return Ok(None);
            };
            let (mut record, head) = ObjectRecord::decode(value.bytes)?;
            if head.has_aux() {
                // Absent: the object was replaced between the two reads.
                let Some(aux) = self.kv.get(&key::aux(record.data)).await? else {
                    continue;
                };
                record.headers = decode_headers(aux.bytes)?;
            }
            return Ok(Some(Found {
                record,
                version: value.version,
            }));
        }
        Err(StoreError::Contended)
    }

    pub async fn head(&self, grant: &Grant, key: &ObjectKey, request: GetRequest) -> Result<HeadOutcome, GetError> {
        let bucket = grant.bucket().ok_or(GetError::NoSuchKey)?;
        let found = self.find(bucket, key).await?.ok_or(GetError::NoSuchKey)?;
        check_read(&request.conditions, found.current())?;
        let Selected {
            first,
            length,
            is_range,
            parts,
            part_checksum,
        } = self.select(&found.record, &request).await?;
        Ok(HeadOutcome {
            info: info(found.record, bucket)?,
            first,
            length,
            is_range,
            parts,
            part_checksum,
        })
    }

    pub async fn get(&self, grant: &Grant, key: &ObjectKey, request: GetRequest) -> Result<GetOutcome, GetError> {
        let bucket = grant.bucket().ok_or(GetError::NoSuchKey)?;
        let mut seen = None;
        for _ in 0..READ_TRIES_MAX {
            let found = self.find(bucket, key).await?.ok_or(GetError::NoSuchKey)?;
            check_read(&request.conditions, found.current())?;
            let selected = self.select(&found.record, &request).await?;
            match self.open(&found.record, selected.first, selected.length).await {
                Ok(Some(body)) => {
                    let Selected {
                        first,
                        length,
                        is_range,
                        parts,
                        part_checksum,
                    } = selected;
                    let info = info(found.record, bucket)?;
                    return Ok(GetOutcome {
                        info,
                        first,
                        length,
                        is_range,
                        parts,
                        part_checksum,
                        body,
                    });
                }
                // The payload went with the row, if another version is there now; else it is damaged.
                Ok(None) if seen != Some(found.version) => seen = Some(found.version),
                Err(StoreError::Data(chunk::ReadError::Busy(spent))) => {
                    return Err(StoreError::Data(spent.into()).into());
                }
                Err(_) if seen != Some(found.version) => seen = Some(found.version),
                Ok(None) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let malformed = crate::meta::record::Malformed {
            record: "object",
            reason: "its body row is missing",
        };
        Err(StoreError::Malformed(malformed).into())
    }

    /// `None`: the body row is gone.
    async fn open(&self, record: &ObjectRecord, first: u64, length: u64) -> Result<Option<ObjectBody>, StoreError> {
        match record.payload {
            _ if length == 0 => Ok(Some(ObjectBody::Inline(Bytes::new()))),
            Payload::Data => {
                let stream = self.chunks.read(record.data, first..first + length).await?;
                Ok(Some(ObjectBody::Stream(stream)))
            }
            Payload::Body | Payload::EncryptedBody | Payload::None => {
                let Some(body) = self.body_of(record).await? else {
                    return Ok(None);
                };
                let first = usize::try_from(first).unwrap_or(usize::MAX).min(body.len());
                let length = usize::try_from(length).unwrap_or(usize::MAX).min(body.len() - first);
                Ok(Some(ObjectBody::Inline(body.slice(first..first + length))))
            }
        }
    }

    /// The payload of a small object; `None`: the row is gone.
    pub(super) async fn body_of(&self, record: &ObjectRecord) -> Result<Option<Bytes>, StoreError> {
        match self.kv.get(&key::body(record.data)).await? {
            Some(row) if record.payload == Payload::EncryptedBody => {
                Ok(Some(self.chunks.open_body(record.data, &row.bytes).await?))
            }
            row => Ok(row.map(|row| row.bytes)),
        }
    }

    async fn select(&self, record: &ObjectRecord, request: &GetRequest) -> Result<Selected, GetError> {
        let size = record.size;
        if let Some(number) = request.part_number {
            return self.select_part(record, number).await;
        }
        let is_same = match &request.if_range {
            None => true,
            Some(IfRange::ETag(tag)) => *tag == etag(record).to_string(),
            Some(IfRange::Modified(time)) => time.unix_secs() == record.modified.unix_secs(),
            Some(IfRange::Never) => false,
        };
        let Some(range) = request.range.filter(|_| is_same) else {
            return Ok(Selected {
                first: 0,
                length: size,
                is_range: false,
                parts: None,
                part_checksum: None,
            });
        };
        let (first, length) = resolve(range, size).ok_or(GetError::InvalidRange { size })?;
        Ok(Selected {
            first,
            length,
            is_range: true,
            parts: None,
            part_checksum: None,
        })
    }

    async fn select_part(&self, record: &ObjectRecord, number: u16) -> Result<Selected, GetError> {
        let Some(manifest) = record.manifest else {
            // A part number is also valid on an object that was stored in one piece.
            return match number {
                1 => Ok(Selected {
                    first: 0,
                    length: record.size,
                    is_range: record.size > 0,
                    parts: None,
                    part_checksum: None,
                }),
                _ => Err(GetError::InvalidPartNumber {
                    parts: 1,
                    size: record.size,
                }),
            };
        };
        let scan = Scan {
            start: std::ops::Bound::Included(key::manifest(manifest, number)),
            end: std::ops::Bound::Excluded(key::manifests(manifest).end),
            limit: 1,
            direction: Default::default(),
            fold: None,
        };
        let rows = self.kv.scan(scan).await.map_err(StoreError::from)?;
        if let Some(row) = rows.into_iter().next() {
            let page = ManifestPage::decode(row.value.bytes).map_err(StoreError::from)?;
            let mut first = page.first_byte;
            for entry in page.entries {
                if entry.number == number {
                    let is_range = entry.size > 0;
                    return Ok(Selected {
                        first,
                        length: entry.size,
                        is_range,
                        parts: Some(record.parts),
                        part_checksum: part_checksum(Some(&(page.algorithm, entry.checksum))),
                    });
                }
                first += entry.size;
            }
        }
        Err(GetError::InvalidPartNumber {
            parts: record.parts,
            size: record.size,
        })
    }
}

/// First byte and length; `None`: nothing of the object is in the range.
fn resolve(range: RangeSpec, size: u64) -> Option<(u64, u64)> {
    match range {
        RangeSpec::From(first, last) if first < size => {
            let last = last.unwrap_or(u64::MAX).min(size - 1);
            (last >= first).then(|| (first, last - first + 1))
        }
        RangeSpec::Suffix(length) if length > 0 && size > 0 => {
            let length = length.min(size);
            Some((size - length, length))
        }
        RangeSpec::From(..) | RangeSpec::Suffix(_) => None,
    }
}

pub(super) fn info(record: ObjectRecord, bucket: &Bucket) -> Result<ObjectInfo, StoreError> {
    Ok(ObjectInfo {
        size: record.size,
        etag: etag(&record),
        last_modified: record.modified,
        headers: headers::from_fields(&record.headers, record.storage_class)?,
        checksum: checksum::from_record(record.checksum.as_ref()),
        owner: record.owner.unwrap_or_else(|| bucket.owner.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clipped_to_the_object() {
        let cases = [
            (RangeSpec::From(0, Some(0)), 10, Some((0, 1))),
            (RangeSpec::From(4, None), 10, Some((4, 6))),
            (RangeSpec::From(9, Some(u64::MAX)), 10, Some((9, 1))),
            (RangeSpec::From(10, None), 10, None),
            (RangeSpec::From(5, Some(4)), 10, None),
            (RangeSpec::Suffix(0), 10, None),
            (RangeSpec::Suffix(3), 10, Some((7, 3))),
            (RangeSpec::Suffix(30), 10, Some((0, 10))),
            (RangeSpec::Suffix(1), 0, None),
            (RangeSpec::From(0, None), 0, None),
        ];
        for (range, size, expected) in cases {
            assert_eq!(resolve(range, size), expected, "{range:?} of {size}");
        }
    }
}
