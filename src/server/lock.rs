//! The directory lock: one process on one data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("the data directory {dir} is in use by process {holder}; stop it or choose another with --data")]
    Held { dir: PathBuf, holder: String },
    #[error("cannot lock the data directory {dir}: {source}")]
    Io { dir: PathBuf, source: io::Error },
}

/// Held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Makes the directory if it is missing (open to its owner alone) and takes its lock.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        Self::try_take(dir).map_err(|error| match error {
            Failure::Held(holder) => LockError::Held {
                dir: dir.to_path_buf(),
                holder,
            },
            Failure::Io(source) => LockError::Io {
                dir: dir.to_path_buf(),
                source,
            },
        })
    }

    fn try_take(dir: &Path) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        sync_names_above(dir)?;
        let path = dir.join("LOCK");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                let holder = holder.trim();
                return Err(Failure::Held(
                    if holder.is_empty() { "(unknown)" } else { holder }.to_owned(),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // Who holds it, for the message above only; the lock itself is the kernel's.
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

/// Makes the names of `dir` and of the directories above it durable. Who made them, and whether they were synced, is
/// unknown when they are there already. What may not be opened is not ours and was not made by us.
fn sync_names_above(dir: &Path) -> io::Result<()> {
    for above in dir.canonicalize()?.ancestors().skip(1) {
        match File::open(above).and_then(|above| above.sync_all()) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput
                ) =>
            {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

enum Failure {
    Held(String),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let held = DirectoryLock::take(&data).unwrap();
        let refused = DirectoryLock::take(&data).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        DirectoryLock::take(&data).unwrap();
    }
}
