//! The check: whether everything that is stored fits together, and on request whether every byte is what it was.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::chunk::md5::md5_small;
use crate::chunk::{CollectError, MetaError, Pace, ReadError};
use crate::kv::{Row, Value};
use crate::meta::bucket::Bucket;
use crate::meta::data::{DataRow, DataState};
use crate::meta::key;
use crate::meta::object::{ObjectHead, Payload};
use crate::object::{Damage, DamagedObject, Objects, StoreError};

/// Findings of one kind that are told one by one; all are counted.
const TOLD_MAX: usize = 1000;
/// Rows looked at in one step.
const STEP_ROWS: usize = 500;

/// An object whose rows do not fit, or whose bytes in the metadata store are not what they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadObject {
    pub object: DamagedObject,
    pub reason: String,
}

/// What a check found. Nothing in the three lists: the store is sound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    pub objects: u64,
    /// Records and bodies whose bytes were read, and how many bytes these are.
    pub records: u64,
    pub bodies: u64,
    pub bytes: u64,
    /// Counters and references that disagree with the rows, one sentence each.
    pub differences: Vec<String>,
    pub bad_objects: Vec<BadObject>,
    pub bad_objects_total: u64,
    pub damage: Vec<Damage>,
    pub damage_total: u64,
}

impl CheckReport {
    pub fn is_sound(&self) -> bool {
        self.differences.is_empty() && self.bad_objects_total == 0 && self.damage_total == 0
    }
}

/// How far the reading has come, in bytes of packs.
#[derive(Debug, Default)]
pub struct CheckProgress {
    pub total: AtomicU64,
    pub done: AtomicU64,
}

impl Objects {
    /// Compares all counters and references with the rows, and each object with what it refers to; with `read_data` also
    /// reads every record of the packs, `at_once` packs side by side, and every body of a small object.
    pub async fn check(
        &self,
        read_data: bool,
        at_once: usize,
        progress: &CheckProgress,
    ) -> Result<CheckReport, StoreError> {
        let mut report = CheckReport {
            differences: self.differences().await?,
            ..CheckReport::default()
        };
        let mut buckets = pin!(self.buckets());
        while let Some(bucket) = buckets.try_next().await? {
            self.check_bucket(&bucket, read_data, &mut report).await?;
        }
        if read_data {
            self.check_packs(at_once, progress, &mut report).await?;
        }
        Ok(report)
    }

    async fn check_packs(
        &self,
        at_once: usize,
        progress: &CheckProgress,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let packs = self.chunks.pack_sizes();
        progress
            .total
            .store(packs.iter().map(|(_, bytes)| bytes).sum(), Relaxed);
        let fast = Pace { bytes_per_second: None };
        let read = |(pack, bytes)| async move { (pack, bytes, self.scrub_pack(pack, fast).await) };
        let mut reads = futures::stream::iter(packs).map(read).buffer_unordered(at_once.max(1));
        while let Some((pack, bytes, outcome)) = reads.next().await {
            progress.done.fetch_add(bytes, Relaxed);
            match outcome {
                Ok(scrubbed) => {
                    report.records += scrubbed.records;
                    report.bytes += scrubbed.bytes;
                    report.damage_total += scrubbed.damaged;
                    if scrubbed.unread > 0 {
                        let (unread, why) = (scrubbed.unread, &scrubbed.unread_reason);
                        let told =
                            format!("{unread} records of pack {pack} could not be read, and may be whole: {why}");
                        report.differences.push(told);
                    }
                    let room = TOLD_MAX.saturating_sub(report.damage.len());
                    report
                        .damage
                        .extend(self.named(scrubbed.findings).await?.into_iter().take(room));
                }
                Err(CollectError::Meta(error)) => return Err(error.into()),
                Err(error) => report
                    .differences
                    .push(format!("pack {pack} could not be read: {error}")),
            }
        }
        Ok(())
    }

    async fn check_bucket(&self, bucket: &Bucket, read_data: bool, report: &mut CheckReport) -> Result<(), StoreError> {
        let mut pages = pin!(self.pages(key::objects(bucket.id, ""), STEP_ROWS));
        while let Some(rows) = pages.try_next().await? {
            report.objects += rows.len() as u64;
            self.check_objects(bucket, rows, read_data, report).await?;
        }
        Ok(())
    }

    async fn check_objects(
        &self,
        bucket: &Bucket,
        rows: Vec<Row>,
        read_data: bool,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let heads = rows.iter().map(|row| ObjectHead::decode(&row.value.bytes));
        let heads: Vec<ObjectHead> = heads.collect::<Result<_, _>>()?;
        let mut needed: Vec<Bytes> = heads.iter().flat_map(needs).collect();
        needed.sort_unstable();
        let values = self.kv.get_many(&needed).await?;
        let mut values: HashMap<Bytes, Value> = needed
            .into_iter()
            .zip(values)
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        self.open_bodies(&heads, &mut values).await?;
        for (row, head) in rows.iter().zip(&heads) {
            if read_data && matches!(head.payload, Payload::Body | Payload::EncryptedBody) {
                report.bodies += 1;
                report.bytes += head.size;
            }
            let Some(reason) = fault(head, &values, read_data)? else {
                continue;
            };
            // Who overwrote or deleted it meanwhile took away what it referred to.
            if self.kv.get(&row.key).await?.map(|value| value.version) != Some(row.value.version) {
                continue;
            }
            report.bad_objects_total += 1;
            if report.bad_objects.len() < TOLD_MAX {
                let name = row.key.get(key::OBJECT_PREFIX_BYTES..).unwrap_or_default();
                report.bad_objects.push(BadObject {
                    object: DamagedObject {
                        bucket: bucket.name.clone(),
                        key: String::from_utf8_lossy(name).into_owned(),
                        upload: None,
                    },
                    reason: reason.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Puts the bodies in place of the rows that hold them encrypted. One that does not open is left out.
    async fn open_bodies(&self, heads: &[ObjectHead], values: &mut HashMap<Bytes, Value>) -> Result<(), StoreError> {
        for head in heads.iter().filter(|head| head.payload == Payload::EncryptedBody) {
            let row = key::body(head.data);
            let Some(value) = values.get_mut(&row) else { continue };
            match self.chunks.open_body(head.data, &value.bytes).await {
                Ok(body) => value.bytes = body,
                Err(ReadError::Meta(MetaError::Malformed(_))) => drop(values.remove(&row)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
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

/// What is wrong with what an object refers to.
fn fault(
    head: &ObjectHead,
    values: &HashMap<Bytes, Value>,
    read_data: bool,
) -> Result<Option<&'static str>, StoreError> {
    if head.has_aux() && !values.contains_key(&key::aux(head.data)) {
        return Ok(Some("its headers are not there"));
    }
    Ok(match head.payload {
        Payload::None => (head.size != 0).then_some("it has a size and no data"),
        Payload::Body | Payload::EncryptedBody => match values.get(&key::body(head.data)) {
            None if head.payload == Payload::EncryptedBody => Some("its body is not there, or fails its cipher's tag"),
            None => Some("its body is not there"),
            Some(body) if body.bytes.len() as u64 != head.size => Some("its body is not as long as it is"),
            // The ETag of an object of parts is not the MD5 of its bytes.
            Some(body) => (read_data && head.parts == 0 && md5_small(&body.bytes) != head.md5)
                .then_some("its body does not have the MD5 that is its ETag"),
        },
        Payload::Data => match values.get(&key::data(head.data)) {
            None => Some("its data is not there"),
            Some(value) => {
                let row = DataRow::decode(value.bytes.clone())?;
                if row.state != DataState::Live {
                    Some("its data is not live")
                } else {
                    (row.size != head.size).then_some("its data is not as long as it is")
                }
            }
        },
    })
}
