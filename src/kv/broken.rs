//! An engine of which some rows do not read, as after a flipped byte in a block of RocksDB's. For tests.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, Semaphore};

use super::range::{family_of, half_open};
use super::skim::after;
use super::{CommitError, Kv, Mutation, ReadError, Row, Scan, Value};
use crate::ids::Sequence;

/// Forwards to `K`, except reads that meet broken rows.
pub struct BrokenKv<K> {
    inner: K,
    broken: Arc<Mutex<Vec<Range<Bytes>>>>,
    /// Held shared by each read of a snapshot.
    gate: Arc<RwLock<()>>,
    /// Snapshots so far.
    taken: Arc<Semaphore>,
    is_snapshot: bool,
}

impl<K: Kv> BrokenKv<K> {
    pub fn new(inner: K) -> Self {
        Self {
            inner,
            broken: Arc::default(),
            gate: Arc::default(),
            taken: Arc::new(Semaphore::new(0)),
            is_snapshot: false,
        }
    }

    /// Reads of snapshots wait while the answer lives.
    pub async fn hold_snapshots(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// Waits for a snapshot that was not waited for.
    pub async fn wait_for_snapshot(&self) {
        self.taken.acquire().await.unwrap().forget();
    }

    async fn pass_gate(&self) {
        if self.is_snapshot {
            drop(self.gate.read().await);
        }
    }

    /// From now on no row in `keys` reads, in snapshots neither.
    pub fn break_rows(&self, keys: Range<Bytes>) {
        self.broken.lock().push(keys);
    }

    /// Fails if `read` reaches a broken stretch.
    fn pass(&self, read: &Range<Bytes>) -> Result<(), ReadError> {
        let broken = self.broken.lock();
        let meets = |keys: &Range<Bytes>| keys.start < read.end && read.start < keys.end;
        if broken.iter().any(meets) {
            return Err(ReadError::Corrupt("block checksum mismatch".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<K: Kv> Kv for BrokenKv<K> {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        self.pass_gate().await;
        self.pass(&(Bytes::copy_from_slice(key)..after(key)))?;
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        self.pass_gate().await;
        for key in keys {
            self.pass(&(key.clone()..after(key)))?;
        }
        self.inner.get_many(keys).await
    }

    /// Reaches as far as its last row, or its end if it is not full.
    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        self.pass_gate().await;
        let range = half_open(&scan, family_of(&scan)?);
        let limit = scan.limit;
        let rows = self.inner.scan(scan).await?;
        let reached = rows.last().filter(|_| rows.len() == limit).map(|row| after(&row.key));
        self.pass(&(range.start..reached.unwrap_or(range.end)))?;
        Ok(rows)
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        self.inner.commit(mutation).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        let inner = self.inner.snapshot().await?;
        self.taken.add_permits(1);
        Ok(Arc::new(BrokenKv {
            inner,
            broken: Arc::clone(&self.broken),
            gate: Arc::clone(&self.gate),
            taken: Arc::clone(&self.taken),
            is_snapshot: true,
        }))
    }
}
