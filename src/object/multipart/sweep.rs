//! The sweep: parts of uploads that are over, manifests of objects that are gone, uploads of deleted buckets, and
//! answers older than a day. Ticks are bounded and go on where the last one ended; every step is one commit that can be
//! done again.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ids::{BucketId, UploadId};
use crate::kv::{CommitError, Counter, Mutation, Row, Scan, Value};
use crate::meta::key::{self, Table, UsageKind, UsageScope};
use crate::meta::record::Malformed;
use crate::meta::upload::{CompletedRecord, PartRecord, Sweep};
use crate::object::multipart::complete::COMPLETED_KEPT_MS;
use crate::object::place::STRIPE;
use crate::object::{Objects, StoreError};

/// Garbage rows that one tick looks at.
const ROWS_PER_TICK: usize = 16;
/// Parts, uploads or answers that one commit removes.
const BATCH_ROWS: usize = 400;

/// How often the kept answers are gone through.
const EXPIRY_EVERY_MS: u64 = 10 * 60 * 1000;

/// Where a sweep goes on.
#[derive(Default)]
pub(crate) struct Cursor {
    garbage: Option<Bytes>,
    completed: Option<Bytes>,
    /// Unix ms before which no answer is looked at.
    next_expiry: u64,
}

/// A sweeper at work. Dropping it lets it go on; [`SweeperHandle::stop`] ends it.
pub struct SweeperHandle {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl SweeperHandle {
    /// Ends the sweeper after the step that it is in.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the sweeper failed");
        }
    }
}

impl Objects {
    /// Sweeps until it is stopped: a tick after the other while there is work, then one every `idle`.
    pub fn start_sweeper(self: &Arc<Self>, idle: Duration) -> SweeperHandle {
        let (stop, mut stopped) = watch::channel(false);
        let objects = Arc::clone(self);
        let task = tokio::spawn(async move {
            let mut cursor = Cursor::default();
            while !*stopped.borrow() {
                let pause = match objects.sweep_tick(&mut cursor).await {
                    Ok(true) => Duration::from_millis(20),
                    Ok(false) => idle,
                    Err(error) => {
                        tracing::warn!(%error, "a sweep failed and is tried again");
                        idle
                    }
                };
                tokio::select! {
                    biased;
                    // Stopped, or nobody is left who could.
                    _ = stopped.wait_for(|stopped| *stopped) => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
        SweeperHandle { stop, task }
    }

    /// One bounded step; true: there is more to do now.
    pub(crate) async fn sweep_tick(&self, cursor: &mut Cursor) -> Result<bool, StoreError> {
        let _one = self.sweeping.lock().await;
        let answers_left = self.expire_completed(cursor).await?;
        let rows = self
            .scan_from(Table::UploadGarbage, &cursor.garbage, ROWS_PER_TICK)
            .await?;
        let wrapped = rows.len() < ROWS_PER_TICK;
        cursor.garbage = if wrapped {
            None
        } else {
            rows.last().map(|row| row.key.clone())
        };
        let mut more = answers_left || !wrapped;
        for row in rows {
            let Some(id) = row.key.last_chunk::<16>().map(|id| UploadId(*id)) else {
                continue;
            };
            match self.sweep_row(id, &row.key, &row.value).await {
                Ok(left) => more |= left,
                Err(StoreError::Malformed(error)) => tracing::error!(%error, %id, "a row cannot be swept"),
                Err(error) => return Err(error),
            }
        }
        Ok(more)
    }

    /// True: the row is not done yet.
    async fn sweep_row(&self, id: UploadId, row: &Bytes, value: &Value) -> Result<bool, StoreError> {
        let mut mutation = Mutation::deferred();
        let done = match Sweep::decode(value.bytes.clone())? {
            Sweep::Parts => self.sweep_parts(&mut mutation, id).await?,
            Sweep::PartsAndManifest => {
                let done = self.sweep_parts(&mut mutation, id).await?;
                if done {
                    self.manifest_rows(id)
                        .await?
                        .into_iter()
                        .for_each(|page| mutation.delete(page));
                }
                done
            }
            Sweep::Bucket(bucket) => match self.sweep_bucket(&mut mutation, bucket).await? {
                Some(done) => done,
                // Waits for the uploads that were handed over.
                None => return Ok(false),
            },
        };
        mutation.unchanged(row.clone(), Some(value.version));
        if done {
            mutation.delete(row.clone());
        }
        match self.kv.commit(mutation).await {
            Ok(_) => {
                self.chunks.released();
                Ok(!done)
            }
            // Somebody else changed what was read: the next tick reads it again.
            Err(CommitError::Conflict { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a batch of parts; true: these were the last.
    async fn sweep_parts(&self, mutation: &mut Mutation, id: UploadId) -> Result<bool, StoreError> {
        let range = key::parts(id);
        let rows = self
            .scan_rows(Bound::Included(range.start), range.end, BATCH_ROWS)
            .await?;
        let done = rows.len() < BATCH_ROWS;
        let mut swept: Option<(BucketId, i64)> = None;
        for row in rows {
            let part = PartRecord::decode(row.value.bytes)?;
            mutation.unchanged(row.key.clone(), Some(row.value.version));
            mutation.delete(row.key);
            if let Some(data) = part.data {
                self.chunks.release(mutation, data);
            }
            let (_, bytes) = swept.get_or_insert((part.bucket, 0));
            *bytes += part.size.cast_signed();
        }
        if let Some((bucket, bytes)) = swept.filter(|(_, bytes)| *bytes != 0) {
            mutation.add(
                key::usage(UsageScope::Bucket(bucket), UsageKind::UploadBytes, STRIPE),
                -bytes,
            );
        }
        Ok(done)
    }

    /// Hands a batch of a deleted bucket's uploads over to the sweep, at last removes its counters. True: done; `None`:
    /// parts of its uploads are still to be swept.
    async fn sweep_bucket(&self, mutation: &mut Mutation, bucket: BucketId) -> Result<Option<bool>, StoreError> {
        let range = key::uploads(bucket, "");
        let rows = self
            .scan_rows(Bound::Included(range.start), range.end, BATCH_ROWS)
            .await?;
        if !rows.is_empty() {
            for row in rows {
                let malformed = Malformed {
                    record: "upload",
                    reason: "its key is none of an upload",
                };
                let (_, id) = key::parse_upload(&row.key).ok_or(malformed)?;
                mutation.unchanged(row.key.clone(), Some(row.value.version));
                mutation.delete(row.key);
                mutation.put(key::upload_garbage(id), Sweep::PartsAndManifest.encode());
            }
            return Ok(Some(false));
        }
        for kind in [UsageKind::UploadBytes, UsageKind::Objects, UsageKind::Bytes] {
            let row = key::usage(UsageScope::Bucket(bucket), kind, STRIPE);
            let Some(counter) = self.kv.get(&row).await? else {
                continue;
            };
            if kind == UsageKind::UploadBytes && Counter::decode(&counter.bytes).is_some_and(|bytes| bytes != 0) {
                return Ok(None);
            }
            mutation.unchanged(row.clone(), Some(counter.version));
            mutation.delete(row);
        }
        Ok(Some(true))
    }

    /// Removes answers that are older than a day; true: there may be more.
    async fn expire_completed(&self, cursor: &mut Cursor) -> Result<bool, StoreError> {
        let now = self.clock.now().unix_ms();
        if now < cursor.next_expiry {
            return Ok(false);
        }
        let rows = self.scan_from(Table::Completed, &cursor.completed, BATCH_ROWS).await?;
        let wrapped = rows.len() < BATCH_ROWS;
        cursor.completed = if wrapped {
            cursor.next_expiry = now + EXPIRY_EVERY_MS;
            None
        } else {
            rows.last().map(|row| row.key.clone())
        };
        let mut mutation = Mutation::deferred();
        for row in rows {
            let completed = CompletedRecord::decode(row.value.bytes)?.completed.unix_ms();
            if completed.saturating_add(COMPLETED_KEPT_MS) <= now {
                mutation.delete(row.key);
            }
        }
        if !mutation.effects.is_empty() {
            self.kv.commit(mutation).await?;
        }
        Ok(!wrapped)
    }

    async fn scan_from(&self, table: Table, cursor: &Option<Bytes>, limit: usize) -> Result<Vec<Row>, StoreError> {
        let range = key::table(table);
        let start = cursor.clone().map_or(Bound::Included(range.start), Bound::Excluded);
        self.scan_rows(start, range.end, limit).await
    }

    async fn scan_rows(&self, start: Bound<Bytes>, end: Bytes, limit: usize) -> Result<Vec<Row>, StoreError> {
        let end = Bound::Excluded(end);
        Ok(self
            .kv
            .scan(Scan {
                start,
                end,
                limit,
                direction: Default::default(),
                fold: None,
            })
            .await?)
    }
}
