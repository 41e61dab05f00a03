//! Packs: append-only files of records, sealed with a footer from which the index can be rebuilt.
//!
//! A pack belongs to one process. Its syncer thread groups the appends that wait into batches, writes a batch, syncs it
//! and answers; nothing is answered before it is durable. `docs/format.md` has the format to the byte.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::blob::BlobError;
use crate::chunk::cipher::Envelope;
use crate::chunk::codec::Codec;
use crate::chunk::offload::Offload;
use crate::chunk::pool::Spent;
use crate::ids::{ChunkId, DomainId, PackId};
use crate::limits::{EXTENT_BYTES_MAX, PACK_BYTES_MAX};
use crate::meta::pack::Backend;

mod batch;
mod cloud;
mod encrypt;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod mend;
mod metrics;
mod raw;
mod reader;
mod recovery;
mod salvage;
mod scan;
mod set;
mod shared;
mod syncer;
mod table;

pub(super) use cloud::LATE;
pub use cloud::{CloudOptions, CloudPack, CloudStart, Ledger, Through};
pub use format::ENTRY_BYTES;
pub(super) use format::{FILE_HEADER_BYTES, Trailer};
pub use mend::Footer;
pub use reader::Plain;
pub use set::PackSet;
pub use shared::Places;
pub(super) use shared::path_in;
pub use table::Table;

/// Of a full pack in a cloud, about.
pub(super) const CLOUD_PACK_BYTES: u64 = cloud::PACK_BYTES as u64;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    pub pack: PackId,
    /// Offset of the record's header in the pack.
    pub offset: u32,
    /// Bytes of header and payload.
    pub stored_len: u32,
    /// Bytes of the plaintext.
    pub raw_len: u32,
    pub codec: Codec,
}

impl Location {
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.stored_len)
    }
}

/// A chunk to be appended.
#[derive(Clone, Debug)]
pub struct NewRecord {
    pub domain: DomainId,
    pub id: ChunkId,
    pub raw: Bytes,
    /// What [`Codecs::encode`](crate::chunk::codec::Codecs::encode) made of `raw`; `None` stores `raw` itself.
    pub encoded: Option<(Codec, Vec<u8>)>,
    /// From [`PackSet::written_at`].
    pub written_at: u64,
    /// Of a record that was encrypted; then what is stored is in `encoded`, whatever the codec.
    pub envelope: Option<Envelope>,
}

/// A record that a reader expects at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub location: Location,
    pub domain: DomainId,
    pub id: ChunkId,
}

/// Records of one pack that lie close enough together to be read at once. Built with [`Extent::push`], which keeps the
/// bounds.
#[derive(Clone, Debug)]
pub struct Extent {
    records: Vec<Wanted>,
    raw_bytes: usize,
}

/// Bytes between two records of an extent that are read and thrown away: a batch's padding and frame.
pub const EXTENT_GAP_BYTES_MAX: u64 = 8 << 10;
/// Bytes of plaintext that the compressed records of an extent unfold to, unless it is a single record.
pub const EXTENT_RAW_BYTES_MAX: usize = 2 * EXTENT_BYTES_MAX;

impl Extent {
    pub fn new(first: Wanted) -> Self {
        Self {
            records: vec![first],
            raw_bytes: first.location.raw_len as usize,
        }
    }

    /// Adds the next record if it lies behind the last one in the same pack, near it, and the extent stays within its
    /// bounds and `bytes_max`; else returns `false` and leaves the extent as it is.
    pub fn push(&mut self, next: Wanted, bytes_max: u64) -> bool {
        let range = self.byte_range();
        let raw_bytes = self.raw_bytes + next.location.raw_len as usize;
        let start = u64::from(next.location.offset);
        let fits = self.pack() == next.location.pack
            && start >= range.end
            && start - range.end <= EXTENT_GAP_BYTES_MAX
            && next.location.end() - range.start <= bytes_max.min(EXTENT_BYTES_MAX as u64)
            && raw_bytes <= EXTENT_RAW_BYTES_MAX;
        if fits {
            self.records.push(next);
            self.raw_bytes = raw_bytes;
        }
        fits
    }

    pub fn pack(&self) -> PackId {
        self.records
            .first()
            .map_or(PackId([0; 16]), |wanted| wanted.location.pack)
    }

    pub fn records(&self) -> &[Wanted] {
        &self.records
    }

    pub fn byte_range(&self) -> Range<u64> {
        let start = self
            .records
            .first()
            .map_or(0, |wanted| u64::from(wanted.location.offset));
        let end = self.records.last().map_or(0, |wanted| wanted.location.end());
        start..end
    }
}

/// One row of a pack's footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: ChunkId,
    pub domain: DomainId,
    pub location: Location,
    /// The record's place in the order of writing, from 0.
    pub order: u32,
    /// CRC32C of the stored payload.
    pub payload_crc: u32,
    pub encrypted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackState {
    /// Takes appends.
    Open,
    /// A write or a sync failed: takes no more appends; what was durable before is readable. The next start seals it.
    Poisoned,
    Sealed,
    /// It was not sealed, and a record that the index points to is not whole. The file is left as it was found; its
    /// whole records are readable. Every start looks again.
    Damaged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackInfo {
    pub id: PackId,
    pub state: PackState,
    /// Bytes up to the end of the last durable record, or of the sealed file.
    pub bytes: u64,
    pub backend: Backend,
}

/// What the index says of a pack. [`PackSet::open`] asks before it drops anything of a pack that was not sealed: what
/// the index points to was durable, and its absence is damage, never a torn tail.
pub trait Claims {
    /// Bytes of the records that the index points to. Exact, so that a scan which accounts for them has found them all.
    fn live_bytes(&self, pack: PackId) -> Result<u64, ClaimsError>;

    /// For each chunk and offset, the stored length of the record that the index says is there; `None`: the index
    /// points elsewhere, or has no such chunk.
    fn claimed(&self, pack: PackId, places: &[(ChunkId, u32)]) -> Result<Vec<Option<u32>>, ClaimsError>;
}

pub type ClaimsError = Box<dyn std::error::Error + Send + Sync>;

/// What [`PackSet::open`] found to repair, or could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub pack: PackId,
    pub kind: RecoveredKind,
    /// Records that were found whole.
    pub records: u32,
    /// Frames or records that were not: torn by a crash, or damaged.
    pub dropped: u32,
    /// Chunks that the index points to and whose records are not whole, as far as they can be named.
    pub damaged: Vec<ChunkId>,
    /// Bytes of all records that the index points to and that are not whole.
    pub lost_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveredKind {
    /// A pack that a killed process left open has its footer now.
    Sealed,
    /// It had no whole record, the index points to none, and it is gone.
    Removed,
    /// It had been sealed and its footer was damaged. The footer is new, and no record is lost.
    FooterRebuilt,
    /// Something that the index points to is damaged. Nothing was changed.
    Damaged,
}

impl RecoveredKind {
    /// Whether synced bytes were found altered, rather than unsynced ones lost.
    pub fn is_damage(self) -> bool {
        matches!(self, Self::FooterRebuilt | Self::Damaged)
    }
}

#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Packs of the directory that take appends at the same time, each with its own syncer thread. 0: all new packs go to
    /// the cloud.
    pub open_packs: usize,
    /// A pack of this many bytes is sealed.
    pub pack_bytes: u64,
    /// Appends that wait; more wait for a place.
    pub appends_waiting_max: usize,
    /// Blocking reads at the same time.
    pub reads_max: usize,
    /// Packs whose file handles stay open.
    pub handles_max: usize,
    /// Write and read around the page cache where the filesystem can.
    pub direct: bool,
    pub offload: Offload,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            open_packs: 2,
            pack_bytes: PACK_BYTES_MAX,
            appends_waiting_max: 256,
            reads_max: 16,
            handles_max: 256,
            direct: true,
            offload: Offload::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: {reason}")]
    Unreadable { path: PathBuf, reason: &'static str },
    /// Without the index nobody can tell a torn tail from damage.
    #[error("the index cannot be asked about pack {pack}: {error}")]
    Claims { pack: PackId, error: ClaimsError },
    #[error("{packs} packs are in the cloud: set cloud.url to the place where they are")]
    NoCloud { packs: usize },
    /// The place is another store's, or refuses.
    #[error("the packs in the cloud cannot be used: {0}")]
    Cloud(BlobError),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the disk is full")]
    Full,
    /// The records were written twice, to two packs, and both failed.
    #[error("a pack cannot be written: {0}")]
    Io(Arc<io::Error>),
    /// The cloud did not take the records, under no name.
    #[error("a pack cannot be put into the cloud: {0}")]
    Unavailable(Arc<str>),
    #[error("a record of {bytes} bytes is over the limit, or is empty")]
    Size { bytes: usize },
    #[error("the pack store is closed")]
    Closed,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Busy(#[from] Spent),
    #[error("pack {0} does not exist")]
    NotFound(PackId),
    /// The bytes at this place are not what was written. Never answered with wrong bytes.
    #[error("pack {pack} is damaged at {offset}: {reason}")]
    Damaged {
        pack: PackId,
        offset: u64,
        id: Option<ChunkId>,
        reason: &'static str,
    },
    /// A whole record, but of another chunk: the location is stale.
    #[error("pack {pack} has chunk {found} at {offset}, not the one that was sought")]
    WrongChunk { pack: PackId, offset: u64, found: ChunkId },
    #[error("pack {pack} cannot be read: {error}")]
    Io { pack: PackId, error: io::Error },
}

impl ReadError {
    /// Whether the place of the pack cannot be reached.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::HostUnreachable)
    }
}

/// What can go wrong when records move from one pack to another.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
