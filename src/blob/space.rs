//! The reserve: a file that holds room on the disk, so that a full disk can be emptied.
//!
//! Deleting needs room too: the commit log, the engine's tables, and the pack that a collector moves live records to. So
//! new data is taken only while the reserve is held; where little else is free, the reserve is given up to those.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::blob::local::{remove_file, reserve};

const NAME: &str = "reserve";

#[derive(Debug)]
pub struct Space {
    path: PathBuf,
    bytes: u64,
    is_held: AtomicBool,
}

impl Space {
    /// The reserve of the directory: `bytes` of it, or none. It is not held before [`Space::look`].
    pub fn new(dir: &Path, bytes: u64) -> Self {
        Self {
            path: dir.join(NAME),
            bytes,
            is_held: AtomicBool::new(false),
        }
    }

    /// Whether there is room for new data, by the last look.
    pub fn has_room(&self) -> bool {
        self.bytes == 0 || self.is_held.load(Relaxed)
    }

    /// Takes or gives up the reserve, as the disk's free space demands. Blocking.
    pub fn look(&self) -> io::Result<()> {
        self.look_at(free_bytes(&self.path)?)
    }

    /// As [`Space::look`], with so many bytes free.
    pub(crate) fn look_at(&self, free: u64) -> io::Result<()> {
        let margin = self.bytes / 4;
        if self.bytes == 0 {
            return Ok(());
        }
        if self.is_held.load(Relaxed) {
            if free < margin {
                self.is_held.store(false, Relaxed);
                remove_file(&self.path)?;
                tracing::error!(
                    free,
                    "the disk is nearly full: no new data is taken until there is room"
                );
            }
            return Ok(());
        }
        let left = self.path.metadata().map_or(0, |metadata| metadata.len());
        // Twice the margin, so that it is not given up again at once.
        let is_there = left == self.bytes;
        if (is_there && free >= margin) || free + left >= self.bytes + 2 * margin {
            if !is_there {
                self.take()?;
            }
            self.is_held.store(true, Relaxed);
            tracing::info!(free, reserve = self.bytes, "there is room for new data");
        } else {
            remove_file(&self.path)?;
            tracing::debug!(free, reserve = self.bytes, "there is no room for new data");
        }
        Ok(())
    }

    fn take(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        let taken = reserve(&file, self.bytes).and_then(|is_taken| {
            // Where room cannot be reserved, it is filled.
            let bytes = if is_taken { 0 } else { self.bytes };
            io::copy(&mut io::repeat(0).take(bytes), &mut file)
        });
        taken.map(drop).inspect_err(|_| drop(remove_file(&self.path)))
    }
}

/// What an ordinary process may still use of the file system that `path` is to lie on.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path.parent().unwrap_or(path))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVE: u64 = 4 << 20;
    const MARGIN: u64 = RESERVE / 4;

    fn held(dir: &Path) -> u64 {
        dir.join(NAME).metadata().map_or(0, |metadata| metadata.len())
    }

    #[test]
    fn the_reserve_is_given_up_on_a_full_disk_and_taken_back_with_some_room_over() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path(), RESERVE);
        // (free bytes, whether there is room, bytes that the reserve takes up)
        for (free, has_room, bytes) in [
            (RESERVE + 2 * MARGIN - 1, false, 0),
            (RESERVE + 2 * MARGIN, true, RESERVE),
            (MARGIN, true, RESERVE),
            (MARGIN - 1, false, 0),
            (RESERVE + MARGIN, false, 0),
            (RESERVE + 2 * MARGIN, true, RESERVE),
        ] {
            space.look_at(free).unwrap();
            assert_eq!((space.has_room(), held(dir.path())), (has_room, bytes), "{free}");
        }
        // The next process finds what this one holds.
        let next = Space::new(dir.path(), RESERVE);
        assert!(!next.has_room());
        next.look_at(MARGIN).unwrap();
        assert!(next.has_room());
        // Another size is another reserve.
        let larger = Space::new(dir.path(), 2 * RESERVE);
        larger.look_at(2 * RESERVE).unwrap();
        assert_eq!((larger.has_room(), held(dir.path())), (true, 2 * RESERVE));
    }

    #[test]
    fn a_real_disk_has_room_and_none_is_asked_for_without_a_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path(), 1 << 16);
        space.look().unwrap();
        assert!(space.has_room() && held(dir.path()) == 1 << 16);
        let none = Space::new(dir.path(), 0);
        none.look_at(0).unwrap();
        assert!(none.has_room());
    }
}
