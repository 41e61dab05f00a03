//! How much is stored: the counters that every commit keeps, and the recount that they must equal (invariant I5).

use std::collections::HashMap;
use std::ops::Range;
use std::pin::pin;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::chunk::CheckProgress;
use crate::ids::BucketId;
use crate::kv::skim::Skim;
use crate::kv::{Counter, Kv, ReadError, Row};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key::{self, Table, UsageKind, UsageScope};
use crate::meta::object::ObjectHead;
use crate::meta::record::Malformed;
use crate::meta::upload::PartRecord;
use crate::object::requests::Usage;
use crate::object::walk::{bucket, skims};
use crate::object::{CheckReport, Objects, StoreError};

/// Bytes of a counter key before its kind: table, scope, id.
const SCOPE_BYTES: usize = 10;

impl Objects {
    /// What the counters say of one bucket.
    pub async fn counters(&self, bucket: &Bucket) -> Result<Usage, StoreError> {
        counters_in(&*self.kv, key::prefix_range(scope_prefix(bucket.id))).await
    }

    /// What the counters say of all buckets together.
    pub async fn counters_total(&self) -> Result<Usage, StoreError> {
        let first = scope_prefix(BucketId(0));
        let scope = first.slice(..2);
        counters_in(&*self.kv, key::prefix_range(scope)).await
    }

    /// Counts the rows of one bucket. Reads page by page: meaningful while nobody writes.
    #[cfg(test)]
    pub async fn recount(&self, bucket: &Bucket) -> Result<Usage, StoreError> {
        let mut report = CheckReport::default();
        let counted = count_rows(&*self.kv, &mut report, &CheckProgress::default()).await?;
        assert!(report.is_sound());
        Ok(counted.get(&bucket.id).copied().unwrap_or_default())
    }

    /// What the counters, the references and the index say other than the rows and the packs, one sentence each; empty: all
    /// fits. As of one moment: nobody is held off.
    pub async fn differences(&self) -> Result<Vec<String>, StoreError> {
        let mut report = CheckReport::default();
        self.compare(&mut report, &CheckProgress::default()).await?;
        let damage = report
            .damage
            .iter()
            .map(|damage| damage.to_string().trim_end().to_owned());
        Ok(report.differences.iter().cloned().chain(damage).collect())
    }

    /// Holds the counters of all buckets against the rows that they count. Of what cannot be read the check of the objects
    /// tells.
    pub(super) async fn compare_usage(
        &self,
        view: &dyn Kv,
        report: &mut CheckReport,
        progress: &CheckProgress,
    ) -> Result<(), StoreError> {
        let before = report.differences.len();
        let counted = count_rows(view, report, progress).await?;
        let is_whole = report.differences.len() == before;
        let mut steps = pin!(skims(view, key::table(Table::Bucket), limits::LIST_PAGE_MAX));
        while let Some(step) = steps.try_next().await? {
            let Skim::Rows(rows) = step else { continue };
            // A malformed one is told where the names are read.
            for Bucket { id, name, .. } in rows.into_iter().filter_map(|row| bucket(row).ok()) {
                let expected = counted.get(&id).copied().unwrap_or_default();
                match counters_in(view, key::prefix_range(scope_prefix(id))).await {
                    Ok(found) if found != expected && is_whole => report.differences.push(format!(
                        "the counters of {name} are {found:?}, the rows say {expected:?}"
                    )),
                    Ok(_) => {}
                    Err(StoreError::Read(ReadError::Corrupt(error))) => {
                        report
                            .differences
                            .push(format!("the counters of {name} cannot be read: {error}"));
                    }
                    Err(StoreError::Malformed(error)) => {
                        report.differences.push(format!("the counters of {name}: {error}"));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// What each bucket holds by its rows. Tells rows that cannot be read as a difference.
async fn count_rows(
    kv: &dyn Kv,
    report: &mut CheckReport,
    progress: &CheckProgress,
) -> Result<HashMap<BucketId, Usage>, StoreError> {
    let mut counted: HashMap<BucketId, Usage> = HashMap::new();
    for table in [Table::Object, Table::Part] {
        let mut steps = pin!(skims(kv, key::table(table), limits::LIST_PAGE_MAX));
        while let Some(step) = steps.try_next().await? {
            let rows = match step {
                Skim::Rows(rows) => rows,
                Skim::Gap(gap) => {
                    let (from, until) = (hex::encode(&gap.keys.start), hex::encode(&gap.keys.end));
                    report.differences.push(format!(
                        "rows from {from} on up to {until} cannot be read, so that the counters of buckets are not compared: {}",
                        gap.reason
                    ));
                    continue;
                }
            };
            progress.add(rows.len() as u64);
            for row in rows {
                if let Err(error) = count_row(table, &row, &mut counted) {
                    let row = hex::encode(&row.key);
                    report.differences.push(format!("row {row} is not counted: {error}"));
                }
            }
        }
    }
    Ok(counted)
}

fn count_row(table: Table, row: &Row, counted: &mut HashMap<BucketId, Usage>) -> Result<(), Malformed> {
    if table == Table::Part {
        let part = PartRecord::decode(row.value.bytes.clone())?;
        counted.entry(part.bucket).or_default().upload_bytes += part.size.cast_signed();
        return Ok(());
    }
    let bucket = row
        .key
        .get(1..key::OBJECT_PREFIX_BYTES)
        .and_then(|id| id.try_into().ok());
    let bucket = bucket.ok_or(Malformed {
        record: "object",
        reason: "its key has no bucket",
    })?;
    let usage = counted.entry(BucketId(u64::from_be_bytes(bucket))).or_default();
    usage.objects += 1;
    usage.bytes += ObjectHead::decode(&row.value.bytes)?.size.cast_signed();
    Ok(())
}

async fn counters_in(kv: &dyn Kv, range: Range<Bytes>) -> Result<Usage, StoreError> {
    let mut usage = Usage::default();
    let mut steps = pin!(skims(kv, range, limits::LIST_PAGE_MAX));
    while let Some(step) = steps.try_next().await? {
        let rows = match step {
            Skim::Rows(rows) => rows,
            Skim::Gap(gap) => return Err(ReadError::Corrupt(gap.reason).into()),
        };
        for row in rows {
            let malformed = Malformed {
                record: "usage counter",
                reason: "it has not 8 bytes",
            };
            let value = Counter::decode(&row.value.bytes).ok_or(malformed)?;
            match row.key.get(SCOPE_BYTES) {
                Some(&kind) if kind == UsageKind::Objects as u8 => usage.objects += value,
                Some(&kind) if kind == UsageKind::Bytes as u8 => usage.bytes += value,
                Some(&kind) if kind == UsageKind::UploadBytes as u8 => usage.upload_bytes += value,
                _ => {}
            }
        }
    }
    Ok(usage)
}

fn scope_prefix(bucket: BucketId) -> Bytes {
    key::usage(UsageScope::Bucket(bucket), UsageKind::Objects, 0).slice(..SCOPE_BYTES)
}
