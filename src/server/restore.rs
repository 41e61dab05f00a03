//! `cairn restore`: a data directory from a backup.

use std::path::Path;

use crate::backup::{self, Id, RestoreError, RestoreOptions, Restored, Wanted};
use crate::config::Config;

use super::lock::{DirectoryLock, LockError};
use super::options::rocks_options;

/// Names in an empty directory that are none of ours, or that taking it makes.
const PASSED_OVER: [&str; 3] = ["LOCK", "lost+found", "root-key"];

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("there is no backup to restore from: set backup.url")]
    NoBackup,
    #[error("{0} is not empty; a restore wants an empty directory, in which there may be the file root-key")]
    NotEmpty(String),
    #[error("the data directory cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("the backup cannot be opened: {0}")]
    Blobs(#[from] crate::blob::OpenError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreRequest {
    pub wanted: Wanted,
    /// Needed where there are backups of several stores.
    pub store: Option<Id>,
    /// Bring back what there is, also where packs are missing.
    pub lossy: bool,
}

/// Restores into the data directory, whose lock it takes.
pub fn restore(config: &Config, request: RestoreRequest) -> Result<Restored, CommandError> {
    let location = &config.backup.as_ref().ok_or(CommandError::NoBackup)?.location;
    let _lock = DirectoryLock::take(&config.data)?;
    if !backup::is_unfinished(&config.data) && !is_empty(&config.data)? {
        return Err(CommandError::NotEmpty(config.data.display().to_string()));
    }
    let blobs = crate::blob::open(location)?;
    let options = RestoreOptions {
        dir: config.data.clone(),
        rocks: rocks_options(config),
        store: request.store,
        wanted: request.wanted,
        lossy: request.lossy,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(runtime.block_on(backup::restore(blobs, options))?)
}

fn is_empty(dir: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !PASSED_OVER.iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}
