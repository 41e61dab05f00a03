//! An ordered key-value store with mini-transactions: the only place where metadata lives.
//!
//! The trait is small enough for RocksDB, PostgreSQL, TiKV or FoundationDB. A caller reads, builds a [`Mutation`] from
//! guards (what must still hold) and effects (what to change), and commits it. The engine checks all guards and applies
//! all effects atomically, in one total order.

use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::ids::Sequence;

#[cfg(test)]
pub mod broken;
mod committer;
pub mod fault;
mod group;
mod key_locks;
pub mod log;
pub mod memory;
pub mod metrics;
mod mutation;
mod range;
pub mod rocks;
pub mod skim;
#[cfg(test)]
mod suite;

pub use key_locks::KeyLocks;
pub use mutation::{Counter, Durability, Effect, Guard, Mutation};

/// A row's bytes and the commit that wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub bytes: Bytes,
    pub version: Sequence,
}

/// A row as a scan returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub key: Bytes,
    pub value: Value,
}

/// The column families. A key's family is the high nibble of its first byte, so that an engine needs to know nothing
/// else about the grammar. The numbers are part of the on-disk format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// Buckets and current objects: what listings read.
    Heads = 1,
    /// Small bodies, kept in blob files.
    Bodies = 2,
    /// The chunk index: point reads by hash.
    Chunks = 3,
    /// References as rows.
    References = 4,
    /// Data, trees and segments.
    Trees = 5,
    /// Work to do: rows that live shortly.
    Queues = 6,
    /// Everything small: uploads, parts, packs, usage, format.
    Rest = 7,
}

impl Family {
    pub const ALL: [Self; 7] = [
        Self::Heads,
        Self::Bodies,
        Self::Chunks,
        Self::References,
        Self::Trees,
        Self::Queues,
        Self::Rest,
    ];

    /// The family of `key`; `None` when its first byte names none.
    pub fn of(key: &[u8]) -> Option<Self> {
        let nibble = key.first()? >> 4;
        Self::ALL.into_iter().find(|family| *family as u8 == nibble)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    #[default]
    Forward,
    Backward,
}

/// A bounded range read inside one family.
#[derive(Clone, Debug)]
pub struct Scan {
    pub start: Bound<Bytes>,
    pub end: Bound<Bytes>,
    /// Rows returned at the most; the engine caps it at [`crate::limits::SCAN_ROWS_MAX`].
    pub limit: usize,
    pub direction: Direction,
    /// Forward only: rows whose key contains `delimiter` at or after byte `skip` are folded; see [`Fold`].
    pub fold: Option<Fold>,
}

/// Folds rows that share a prefix into one, as a listing with a delimiter does: for the first row whose key has
/// `delimiter` at or after byte `skip`, that row alone is returned and the scan seeks past every key that begins with
/// the row's key up to and including the delimiter. Cost: one seek a common prefix, however many rows are below it.
#[derive(Clone, Debug)]
pub struct Fold {
    pub skip: usize,
    pub delimiter: Bytes,
}

impl Fold {
    /// The folded prefix of `key`, delimiter included; `None` when the row stands for itself.
    pub fn prefix_of<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        let tail = key.get(self.skip..)?;
        let width = self.delimiter.len();
        let at = tail.windows(width.max(1)).position(|window| window == self.delimiter)?;
        key.get(..self.skip + at + width)
    }
}

/// A read that could not be answered. Never means "absent".
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("the metadata store is damaged: {0}")]
    Corrupt(String),
    #[error("the metadata store cannot be read: {0}")]
    Unavailable(String),
}

/// Why a mutation was not known to be committed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Guard number `guard` (in the order they were added) did not hold. Nothing was applied.
    #[error("guard {guard} of the mutation did not hold")]
    Conflict { guard: usize },
    /// The mutation is over its limits or malformed. Nothing was applied.
    #[error("the mutation was refused: {0}")]
    Refused(String),
    /// The engine takes no commits now. Nothing was applied.
    #[error("the metadata store takes no writes: {0}")]
    Unavailable(String),
    /// The mutation may or may not be applied, now or after a restart. The caller must clean up nothing.
    #[error("the outcome of the commit is unknown: {0}")]
    Unknown(String),
}

impl CommitError {
    /// Whether it is certain that the mutation will never be applied.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// An engine. All methods may be called from any task; none blocks an async thread.
///
/// Contract: a commit that returned is seen by every read that starts afterwards; reads see only commits that are
/// durable or were committed with [`Durability::Deferred`]; commits are applied in one total order.
#[async_trait]
pub trait Kv: Send + Sync + 'static {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError>;

    /// The values of `keys`, in their order, each as of some moment during the call.
    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError>;

    /// The rows of one range, as of one moment.
    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError>;

    /// Checks the guards and applies the effects, atomically. Returns the sequence that the written rows carry.
    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError>;

    /// The store between two commits: its reads see no later one, and it refuses to commit. For who reads for long. What is
    /// overwritten or deleted takes up room until it is dropped.
    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<K: Kv + ?Sized> Kv for Arc<K> {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        (**self).get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        (**self).get_many(keys).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        (**self).scan(scan).await
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        (**self).commit(mutation).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        (**self).snapshot().await
    }
}
