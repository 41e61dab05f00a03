//! A store made from rows and frames that a backup kept.

use std::sync::Arc;

use super::engine::Database;
use super::options::RocksOptions;
use crate::blob::local::sync_dir;
use crate::ids::Sequence;
use crate::kv::committer::Engine;
use crate::kv::log::{Effects, Log, LogFiles, Position, Recovered, follow};
use crate::kv::metrics::KvMetrics;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("RocksDB: {0}")]
    Rocks(#[from] rocksdb::Error),
    #[error("the metadata store's files: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// What was kept does not fit together.
    #[error("{0}")]
    Malformed(String),
    #[error("a store is there already")]
    NotEmpty,
}

/// Rows first, then frames, then [`Loader::finish`]. Everything here blocks; nothing is durable before the end.
pub struct Loader {
    options: RocksOptions,
    database: Database,
    /// Of the rows, then of the frames.
    sequence: Sequence,
}

impl Loader {
    /// Begins in the directory of `options`, which has no store, with rows as of `sequence` to come.
    pub fn begin(options: RocksOptions, sequence: Sequence) -> Result<Self, LoadError> {
        for name in ["db", "log"] {
            match std::fs::create_dir(options.dir.join(name)) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(LoadError::NotEmpty),
                made => made?,
            }
        }
        sync_dir(&options.dir)?;
        let database = Database::open(&options)?;
        Ok(Self {
            options,
            database,
            sequence,
        })
    }

    /// Puts the rows of one part of a [`Dump`](super::Dump).
    pub fn rows(&self, part: &[u8]) -> Result<(), LoadError> {
        let applied = self.database.apply(Effects::bare(part), self.sequence);
        applied.map_err(LoadError::Malformed)
    }

    /// Replays what a [`Stretch`](crate::kv::log::Stretch) holds behind `from`, as far as the rows do not have it, and
    /// returns where it ends.
    pub fn frames(&mut self, bytes: &mut [u8], start: u64, from: Position) -> Result<Position, LoadError> {
        let (database, sequence) = (&self.database, self.sequence);
        let end = follow(bytes, start, from, &mut |effects, last| {
            if last <= sequence {
                return Ok(());
            }
            database.apply(effects, last)
        });
        let end = end.map_err(LoadError::Malformed)?;
        self.sequence = self.sequence.max(end.sequence);
        Ok(end)
    }

    /// The sequence up to which everything is there.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Makes it durable, with a log that begins behind it.
    pub fn finish(self) -> Result<(), LoadError> {
        // Also where there was no row at all, the store says how far it is.
        self.rows(&[])?;
        self.database.flush()?;
        let metrics = Arc::new(KvMetrics::new(&prometheus::Registry::new())?);
        let log = self.options.dir.join("log");
        let files = Arc::new(LogFiles::new(log, self.options.log_file_bytes, None, metrics));
        files.prepare_first()?;
        Log::begin(files, &Recovered::default(), self.sequence)?;
        self.database.stop_background_work();
        Ok(())
    }
}
