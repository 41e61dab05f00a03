//! Whether what objects and parts of uploads refer to is there, and on request whether it is what it was.

use std::collections::HashMap;
use std::pin::pin;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::chunk::md5::md5_small;
use crate::chunk::{MetaError, ReadError as ChunkReadError};
use crate::ids::{BucketId, DataId};
use crate::kv::skim::{Skim, skim};
use crate::kv::{ReadError, Row, Value};
use crate::meta::data::{DataRow, DataState};
use crate::meta::key::{self, Table};
use crate::meta::object::{ObjectHead, ObjectRecord, Payload};
use crate::meta::upload::PartRecord;
use crate::object::walk::skims;
use crate::object::{DamagedObject, Objects, StoreError};

/// Rows looked at in one step.
pub(super) const STEP_ROWS: usize = 500;
/// Pages that a list of parts has at the most.
const MANIFEST_PAGES_MAX: usize = 64;

/// How closely objects are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// Read the bodies of small objects too.
    pub bodies: bool,
    /// Go down to the chunk rows of large ones.
    pub down: bool,
}

/// What looking at some rows came to.
#[derive(Debug, Default)]
pub(super) struct Inspected {
    /// Bodies that were read, and their bytes.
    pub bodies: u64,
    pub bytes: u64,
    /// Keys of object rows, and what is wrong.
    pub bad: Vec<(Bytes, String)>,
}

/// Rows as they were read, or why they could not be.
type Found = HashMap<Bytes, Result<Value, String>>;

impl Objects {
    /// Looks at the objects of `rows`. What was overwritten or deleted meanwhile is passed over.
    pub(super) async fn inspect(&self, rows: &[Row], look: Look) -> Result<Inspected, StoreError> {
        let mut inspected = Inspected::default();
        let heads: Vec<_> = rows.iter().map(|row| ObjectHead::decode(&row.value.bytes)).collect();
        let needed = heads.iter().flatten().flat_map(needs).collect();
        let mut found = self.found_rows(needed).await?;
        self.open_bodies(heads.iter().flatten(), &mut found).await?;
        for (row, head) in rows.iter().zip(&heads) {
            let reason = match head {
                Ok(head) => {
                    if look.bodies && matches!(head.payload, Payload::Body | Payload::EncryptedBody) {
                        inspected.bodies += 1;
                        inspected.bytes += head.size;
                    }
                    self.fault(row, head, &found, look).await?
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = reason
                && self.is_unchanged(row).await?
            {
                inspected.bad.push((row.key.clone(), reason));
            }
        }
        Ok(inspected)
    }

    /// Looks at the parts of all uploads in progress.
    pub(super) async fn inspect_uploads(
        &self,
        down: bool,
        mut tell: impl FnMut(Bytes, String) + Send,
    ) -> Result<(), StoreError> {
        let mut uploads = pin!(skims(&*self.kv, key::table(Table::Upload), STEP_ROWS));
        while let Some(step) = uploads.try_next().await? {
            let rows = match step {
                Skim::Rows(rows) => rows,
                Skim::Gap(gap) => {
                    tell(
                        gap.keys.start,
                        format!("uploads from here on cannot be read: {}", gap.reason),
                    );
                    continue;
                }
            };
            for upload in rows {
                let Some((_, id)) = key::parse_upload(&upload.key) else {
                    tell(upload.key, "its key is malformed".to_owned());
                    continue;
                };
                let mut parts = pin!(skims(&*self.kv, key::parts(id), STEP_ROWS));
                while let Some(step) = parts.try_next().await? {
                    match step {
                        Skim::Gap(gap) => tell(
                            upload.key.clone(),
                            format!("parts of it cannot be read: {}", gap.reason),
                        ),
                        Skim::Rows(parts) => {
                            for part in parts {
                                if let Some(reason) = self.part_fault(&part, down).await?
                                    && self.is_unchanged(&part).await?
                                {
                                    tell(upload.key.clone(), reason);
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn part_fault(&self, row: &Row, down: bool) -> Result<Option<String>, StoreError> {
        let number = row.key.last_chunk().map_or(0, |number| u16::from_be_bytes(*number));
        let part = match PartRecord::decode(row.value.bytes.clone()) {
            Ok(part) => part,
            Err(error) => return Ok(Some(format!("part {number}: {error}"))),
        };
        let Some(data) = part.data else {
            return Ok((part.size != 0).then(|| format!("part {number} has a size and no data")));
        };
        let found = self.found_rows(vec![key::data(data)]).await?;
        let reason = match data_fault(&found, data, part.size) {
            None if down => self.chunks.follow(data).await?,
            reason => reason,
        };
        Ok(reason.map(|reason| format!("part {number}: {reason}")))
    }

    /// What is wrong with what an object refers to.
    async fn fault(
        &self,
        row: &Row,
        head: &ObjectHead,
        found: &Found,
        look: Look,
    ) -> Result<Option<String>, StoreError> {
        if head.has_aux() {
            match found.get(&key::aux(head.data)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Ok(Some(format!("its headers cannot be read: {error}"))),
                None => return Ok(Some("its headers are not there".to_owned())),
            }
        }
        if head.has_manifest()
            && let Some(reason) = self.manifest_fault(row, look).await?
        {
            return Ok(Some(reason));
        }
        Ok(match head.payload {
            Payload::None => (head.size != 0).then(|| "it has a size and no data".to_owned()),
            Payload::Body | Payload::EncryptedBody => body_fault(head, found, look),
            Payload::Data => match data_fault(found, head.data, head.size) {
                None if look.down => self.chunks.follow(head.data).await?,
                reason => reason,
            },
        })
    }

    /// What is wrong with an object's list of parts: that it cannot be read, or is not there.
    async fn manifest_fault(&self, row: &Row, look: Look) -> Result<Option<String>, StoreError> {
        let record = match ObjectRecord::decode(row.value.bytes.clone()) {
            Ok((record, _)) => record,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let Some(manifest) = record.manifest else {
            return Ok(Some("its list of parts has no name".to_owned()));
        };
        let limit = if look.bodies || look.down {
            MANIFEST_PAGES_MAX
        } else {
            1
        };
        Ok(match skim(&*self.kv, key::manifests(manifest), limit).await? {
            Skim::Rows(rows) => rows.is_empty().then(|| "its list of parts is not there".to_owned()),
            Skim::Gap(gap) => Some(format!("its list of parts cannot be read: {}", gap.reason)),
        })
    }

    /// The rows of `keys` that are there, each by itself if one of them cannot be read.
    async fn found_rows(&self, mut keys: Vec<Bytes>) -> Result<Found, StoreError> {
        keys.sort_unstable();
        match self.kv.get_many(&keys).await {
            Ok(values) => {
                let there = keys.into_iter().zip(values);
                return Ok(there.filter_map(|(key, value)| Some((key, Ok(value?)))).collect());
            }
            Err(ReadError::Corrupt(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let mut found = Found::new();
        for key in keys {
            match self.kv.get(&key).await {
                Ok(Some(value)) => drop(found.insert(key, Ok(value))),
                Ok(None) => {}
                Err(ReadError::Corrupt(error)) => drop(found.insert(key, Err(error))),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// Puts the bodies in place of the rows that hold them encrypted.
    async fn open_bodies(&self, heads: impl Iterator<Item = &ObjectHead>, found: &mut Found) -> Result<(), StoreError> {
        for head in heads.filter(|head| head.payload == Payload::EncryptedBody) {
            let Some(row) = found.get_mut(&key::body(head.data)) else {
                continue;
            };
            let Ok(value) = row else { continue };
            match self.chunks.open_body(head.data, &value.bytes).await {
                Ok(body) => value.bytes = body,
                Err(ChunkReadError::Meta(MetaError::Malformed(error))) => *row = Err(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Who overwrote or deleted a row took away what it referred to.
    async fn is_unchanged(&self, row: &Row) -> Result<bool, StoreError> {
        Ok(match self.kv.get(&row.key).await {
            Ok(now) => now.map(|value| value.version) == Some(row.value.version),
            Err(ReadError::Corrupt(_)) => true,
            Err(error) => return Err(error.into()),
        })
    }
}

/// The object or upload whose row has this key.
pub(super) fn told_as(row: &[u8], names: &HashMap<BucketId, String>) -> DamagedObject {
    let bucket = row.get(1..key::OBJECT_PREFIX_BYTES).and_then(|id| id.try_into().ok());
    let bucket = bucket.map_or(BucketId(0), |id| BucketId(u64::from_be_bytes(id)));
    let (key, upload) = match key::parse_owner(row) {
        Some((_, key, upload)) => (key, upload),
        None => {
            let key = row.get(key::OBJECT_PREFIX_BYTES..).unwrap_or_default();
            (String::from_utf8_lossy(key).into_owned(), None)
        }
    };
    let unnamed = || format!("(bucket {})", bucket.0);
    DamagedObject {
        bucket: names.get(&bucket).cloned().unwrap_or_else(unnamed),
        key,
        upload: upload.map(|upload| upload.to_string()),
    }
}

/// The rows that an object cannot do without.
fn needs(head: &ObjectHead) -> Vec<Bytes> {
    let payload = match head.payload {
        Payload::None => None,
        Payload::Body | Payload::EncryptedBody => Some(key::body(head.data)),
        Payload::Data => Some(key::data(head.data)),
    };
    payload
        .into_iter()
        .chain(head.has_aux().then(|| key::aux(head.data)))
        .collect()
}

fn body_fault(head: &ObjectHead, found: &Found, look: Look) -> Option<String> {
    let reason = match found.get(&key::body(head.data)) {
        None => "its body is not there",
        Some(Err(error)) => return Some(format!("its body cannot be read: {error}")),
        Some(Ok(body)) if body.bytes.len() as u64 != head.size => "its body is not as long as it is",
        // The ETag of an object of parts is not the MD5 of its bytes.
        Some(Ok(body)) if look.bodies && head.parts == 0 && md5_small(&body.bytes) != head.md5 => {
            "its body does not have the MD5 that is its ETag"
        }
        Some(Ok(_)) => return None,
    };
    Some(reason.to_owned())
}

fn data_fault(found: &Found, data: DataId, size: u64) -> Option<String> {
    let row = match found.get(&key::data(data)) {
        None => return Some("its data is not there".to_owned()),
        Some(Err(error)) => return Some(format!("its data cannot be read: {error}")),
        Some(Ok(value)) => DataRow::decode(value.bytes.clone()),
    };
    let reason = match row {
        Err(error) => return Some(error.to_string()),
        Ok(row) if row.state != DataState::Live => "its data is not live",
        Ok(row) if row.size != size => "its data is not as long as it is",
        Ok(_) => return None,
    };
    Some(reason.to_owned())
}
