//! What each family of the chunk store's operations can return.

use std::sync::Arc;

use crate::chunk::pack;
use crate::chunk::pool::Spent;
use crate::ids::{ChunkId, DataId, DomainId, PackId};
use crate::kv;
use crate::meta::record::Malformed;

/// A step on the metadata store that did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MetaError {
    #[error(transparent)]
    Read(#[from] kv::ReadError),
    #[error(transparent)]
    Commit(#[from] kv::CommitError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Others kept changing the same rows; trying again later is safe.
    #[error("others kept changing the same rows")]
    Contended,
    /// Another process collects by now. Nothing was changed.
    #[error("the collector's epoch was taken by another")]
    Fenced,
}

impl MetaError {
    /// Whether a row is not what was written.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Read(kv::ReadError::Corrupt(_)) | Self::Malformed(_))
    }

    /// Whether a commit may or may not have been applied.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Commit(kv::CommitError::Unknown(_)))
    }
}

/// Why a payload was not stored. Nothing of it is visible; what was written of it is taken back in time.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Busy(#[from] Spent),
    #[error(transparent)]
    Append(#[from] pack::AppendError),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("there is no dedup domain {}", .0.0)]
    UnknownDomain(DomainId),
    /// An earlier call on the same writer failed.
    #[error("the upload has failed already")]
    Failed,
    /// The row that an upload holds was taken from it.
    #[error("the upload lost its place in the store")]
    Abandoned,
    /// A worker ended early: the process is going down.
    #[error("the store is shutting down")]
    Stopped,
}

/// Why bytes were not given.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Busy(#[from] Spent),
    /// The data, or what it was built from, is not there: deleted since its id was read. Read the owner's row again.
    #[error("data {0} is gone, or shorter than the range")]
    Gone(DataId),
    /// The bytes in the pack are not those that were stored, and no other copy is known.
    #[error("chunk {chunk} cannot be read back from pack {pack}")]
    Damaged { chunk: ChunkId, pack: PackId },
    #[error("a pack cannot be read: {0}")]
    Pack(Arc<pack::ReadError>),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("the store is shutting down")]
    Stopped,
}

/// Why pieces were not put together.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ComposeError {
    /// The piece's data is gone, was never published or is shorter than the piece.
    #[error("data {0} is gone, or shorter than the piece")]
    Gone(DataId),
    #[error("data {0} is of another dedup domain")]
    OtherDomain(DataId),
    #[error("data that refers to data is nested too deeply")]
    TooDeep,
    #[error("the pieces are too long together")]
    TooLong,
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Why a run of the collector stopped early. Nothing is lost; the next run resumes.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("a pack cannot be read: {0}")]
    Read(#[from] pack::ReadError),
    #[error(transparent)]
    Append(#[from] pack::AppendError),
    /// A copy did not read back as the original: nothing was changed.
    #[error("a moved record of chunk {0} does not read back")]
    Copy(ChunkId),
    /// Bytes died that nothing explains: nothing is collected until an administrator says so.
    #[error("collection is stopped: {0}")]
    Stopped(String),
}

impl CollectError {
    /// Whether only the pack in hand is to blame, so that others can be emptied. A shortage of memory is nobody's.
    pub fn is_of_pack(&self) -> bool {
        match self {
            Self::Read(error) => !matches!(error, pack::ReadError::Busy(_)),
            Self::Copy(_) => true,
            _ => false,
        }
    }

    /// Whether a pack's place does not answer: the pack may be whole.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Read(error) if error.is_unreachable())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Packs(#[from] pack::OpenError),
    #[error("the hashing threads cannot be started: {0}")]
    Threads(std::io::Error),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("the store is shutting down")]
    Stopped,
}

macro_rules! from_meta {
    ($($source:ty => $($target:ty),+;)+) => {
        $($(impl From<$source> for $target {
            fn from(error: $source) -> Self {
                Self::Meta(error.into())
            }
        })+)+
    };
}

from_meta! {
    kv::ReadError => WriteError, ReadError, ComposeError, CollectError, OpenError;
    kv::CommitError => WriteError, ComposeError, CollectError, OpenError;
    Malformed => WriteError, ReadError, ComposeError, CollectError, OpenError;
}
