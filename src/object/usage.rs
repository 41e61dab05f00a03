//! How much is stored: the counters that every commit keeps, and the recount that they must equal (invariant I5).

use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::ids::BucketId;
use crate::kv::{Counter, Row};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key::{self, Table, UsageKind, UsageScope};
use crate::meta::object::ObjectHead;
use crate::meta::record::Malformed;
use crate::meta::upload::PartRecord;
use crate::object::requests::Usage;
use crate::object::{Objects, StoreError};

/// Bytes of a counter key before its kind: table, scope, id.
const SCOPE_BYTES: usize = 10;
/// Recounts that may differ from each other because somebody writes; then the last one is told.
const RECOUNTS_MAX: u32 = 5;
const RECOUNT_PAUSE: Duration = Duration::from_millis(100);

impl Objects {
    /// What the counters say of one bucket.
    pub async fn counters(&self, bucket: &Bucket) -> Result<Usage, StoreError> {
        self.sum_counters(key::prefix_range(scope_prefix(bucket.id))).await
    }

    /// What the counters say of all buckets together.
    pub async fn counters_total(&self) -> Result<Usage, StoreError> {
        let first = scope_prefix(BucketId(0));
        let scope = first.slice(..2);
        self.sum_counters(key::prefix_range(scope)).await
    }

    async fn sum_counters(&self, range: Range<Bytes>) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        self.each_row(range, |row| {
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
            Ok(())
        })
        .await?;
        Ok(usage)
    }

    /// Counts the rows of one bucket. Reads page by page: meaningful while nobody writes.
    pub async fn recount(&self, bucket: &Bucket) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        self.each_row(key::objects(bucket.id, ""), |row| {
            usage.objects += 1;
            usage.bytes += ObjectHead::decode(&row.value.bytes)?.size.cast_signed();
            Ok(())
        })
        .await?;
        self.each_row(key::table(Table::Part), |row| {
            let part = PartRecord::decode(row.value.bytes)?;
            if part.bucket == bucket.id {
                usage.upload_bytes += part.size.cast_signed();
            }
            Ok(())
        })
        .await?;
        Ok(usage)
    }

    /// What the counters and the references say other than the rows; empty: all fits. The sweeper and the collector are
    /// held off, but a request under way may change rows between two reads: what differs counts only if a second look
    /// finds the same.
    pub async fn differences(&self) -> Result<Vec<String>, StoreError> {
        let _swept = self.sweeping.lock().await;
        let _collected = self.chunks.pause_collector().await;
        let mut found = self.differences_once().await?;
        for _ in 0..RECOUNTS_MAX {
            if found.is_empty() {
                break;
            }
            tokio::time::sleep(RECOUNT_PAUSE).await;
            let again = self.differences_once().await?;
            let before = found.len();
            found.retain(|difference| again.contains(difference));
            if found.len() == before {
                break;
            }
        }
        Ok(found)
    }

    async fn differences_once(&self) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        let mut buckets = pin!(self.buckets());
        while let Some(bucket) = buckets.try_next().await? {
            let (counted, expected) = (self.counters(&bucket).await?, self.recount(&bucket).await?);
            if counted != expected {
                let name = &bucket.name;
                found.push(format!(
                    "the counters of {name} are {counted:?}, the rows say {expected:?}"
                ));
            }
        }
        let recount = self.chunks.recount().await?;
        found.extend(recount.differences.iter().map(ToString::to_string));
        Ok(found)
    }

    async fn each_row(
        &self,
        range: Range<Bytes>,
        mut visit: impl FnMut(Row) -> Result<(), Malformed> + Send,
    ) -> Result<(), StoreError> {
        let mut pages = pin!(self.pages(range, limits::LIST_PAGE_MAX));
        while let Some(rows) = pages.try_next().await? {
            for row in rows {
                visit(row)?;
            }
        }
        Ok(())
    }
}

fn scope_prefix(bucket: BucketId) -> Bytes {
    key::usage(UsageScope::Bucket(bucket), UsageKind::Objects, 0).slice(..SCOPE_BYTES)
}
