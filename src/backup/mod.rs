//! The backup: packs and the commit log, shipped to blobs somewhere else, and the way back.
//!
//! The design and its reasons are in `docs/backup.md`; the names and formats in `docs/format.md`. In short: how far the
//! log is durable is read first, then how far each pack is; the packs' bytes are shipped, then the log up to there. So
//! whatever a restored log says is stored has arrived before it. A checkpoint, all rows as of one commit, is what the
//! log of one *run* stands on; where a run breaks off, a new one begins with a new checkpoint.

use std::time::Duration;

use crate::limits::MIB;

mod checkpoint;
mod lineage;
mod metrics;
mod names;
mod packs;
mod pieces;
mod points;
mod progress;
mod restore;
mod ship;
mod task;
#[cfg(test)]
mod tests;
mod tidy;
mod vault;

pub use lineage::{Lineage, LineageError};
pub use names::Id;
pub use pieces::Pieces;
pub use points::{Point, Wanted};
pub use progress::{BackupStatus, told};
pub use restore::{RestoreError, RestoreOptions, Restored, Source, brought_home, is_unfinished, restore};
pub use task::{Backup, BackupHandle, Sources};
pub use vault::VaultError;

/// Bytes of one piece of a pack that is still written, of one stretch of the log and of one part of a checkpoint.
const DELTA_BYTES: usize = 4 * MIB;
/// Bytes of one piece of a pack that is finished: a pack is shipped in several, so that memory stays bounded.
const PIECE_BYTES: u64 = 8 * MIB as u64;
/// What one call gets.
const ATTEMPT: Duration = Duration::from_secs(30);
/// Blobs on their way at once.
const AT_ONCE: usize = 4;

#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// Bytes of the commit log that are kept for a backup that does not take them. With more, the run is broken off.
    pub log_max_bytes: u64,
    /// Bytes of the commit log after which a checkpoint is taken.
    pub checkpoint_log_bytes: u64,
    /// How long back a restore reaches.
    pub window: Duration,
    /// Between two shipments.
    pub ship_every: Duration,
    /// Between two looks for what is not needed any more.
    pub tidy_every: Duration,
    /// What one call gets; a piece of 8 MiB goes through in 30 s at 300 KiB/s.
    pub attempt: Duration,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            log_max_bytes: 1 << 30,
            checkpoint_log_bytes: 1 << 30,
            window: Duration::from_secs(7 * 24 * 3600),
            ship_every: Duration::from_secs(1),
            tidy_every: Duration::from_secs(60),
            attempt: ATTEMPT,
        }
    }
}
