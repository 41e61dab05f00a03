//! Local files that are appended to and read in pieces.
//!
//! Writes go around the page cache where the filesystem can: on a virtual machine the first touch of a fresh page
//! costs more than the copy. Such writes, their offsets and the memory they come from are multiples of
//! [`ALIGNMENT`]. A failed sync is final: the kernel may have dropped the pages, so the caller must write the bytes
//! somewhere else and never ask again (https://wiki.postgresql.org/wiki/Fsync_Errors).

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// What direct I/O wants of addresses, offsets and lengths: the page, and at least the sector of every disk.
pub const ALIGNMENT: usize = 4096;

/// A file that its creator appends to.
pub struct AppendFile {
    file: File,
}

impl AppendFile {
    /// Makes a file that must not exist yet and reserves `reserve_bytes` for it, so that a full disk shows here. The
    /// name is durable only after [`sync_dir`].
    pub fn create(path: &Path, direct: bool, reserve_bytes: u64) -> io::Result<Self> {
        let buffered = OpenOptions::new().write(true).create_new(true).open(path)?;
        if let Err(error) = reserve(&buffered, reserve_bytes) {
            drop(buffered);
            fs::remove_file(path)?;
            return Err(error);
        }
        Ok(Self::around(buffered, path, direct))
    }

    /// Makes room for the first `bytes`, so that a full disk shows here and not halfway through a write.
    pub fn reserve(&self, bytes: u64) -> io::Result<()> {
        reserve(&self.file, bytes).map(drop)
    }

    /// Opens a file to repair its end.
    pub fn open(path: &Path, direct: bool) -> io::Result<Self> {
        let buffered = OpenOptions::new().write(true).open(path)?;
        Ok(Self::around(buffered, path, direct))
    }

    fn around(buffered: File, path: &Path, direct: bool) -> Self {
        let around_cache = direct
            .then(|| open_direct(OpenOptions::new().write(true), path).ok())
            .flatten();
        Self {
            file: around_cache.unwrap_or(buffered),
        }
    }

    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_direct_or_not(&self.file, || self.file.write_all_at(bytes, offset))
    }

    /// Makes the bytes durable that were written before, and the length if it grew.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Cuts the file and makes that durable with everything before.
    pub fn truncate_and_sync(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()
    }
}

/// A file that is read in pieces, through the page cache or around it.
pub struct ReadFile {
    buffered: File,
    direct: Option<File>,
}

impl ReadFile {
    pub fn open(path: &Path, direct: bool) -> io::Result<Self> {
        let buffered = File::open(path)?;
        // Callers ask for what they need in one piece: reading ahead would only fetch what nobody asked for.
        rustix::fs::fadvise(&buffered, 0, None, Advice::Random)?;
        let direct = direct
            .then(|| open_direct(OpenOptions::new().read(true), path).ok())
            .flatten();
        Ok(Self { buffered, direct })
    }

    pub fn length(&self) -> io::Result<u64> {
        Ok(self.buffered.metadata()?.len())
    }

    /// Fills `into` if all of it is in the page cache, without waiting for a disk; `false` otherwise.
    pub fn read_cached(&self, into: &mut [u8], offset: u64) -> bool {
        let wanted = into.len();
        let read = rustix::io::preadv2(
            &self.buffered,
            &mut [IoSliceMut::new(into)],
            offset,
            ReadWriteFlags::NOWAIT,
        );
        read.is_ok_and(|count| count == wanted)
    }

    /// Reads up to the end of `into` or of the file, through the page cache, and returns how much it was. Blocks.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full(&self.buffered, into, offset)
    }

    /// As `read_at`, around the page cache where that is possible; `into` and `offset` are aligned.
    pub fn read_direct_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let direct = self.direct.as_ref().map(|direct| read_full(direct, into, offset));
        match direct {
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => read_full(&self.buffered, into, offset),
            Some(read) => read,
            None => read_full(&self.buffered, into, offset),
        }
    }
}

/// Does a write of `file`, and once more if direct I/O is refused: some file systems take the flag and then refuse the
/// write, or want larger blocks than ours. Then the file is written through the page cache from now on; the next sync
/// covers both kinds.
pub fn write_direct_or_not(file: &File, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match write() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && leave_direct(file)? => write(),
        done => done,
    }
}

/// Turns direct I/O off; `false` when it was off.
fn leave_direct(file: &File) -> io::Result<bool> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let was_direct = flags.contains(OFlags::DIRECT);
    if was_direct {
        rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?;
    }
    Ok(was_direct)
}

fn open_direct(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    options.custom_flags(flags).open(path)
}

fn read_full(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Makes the names in a directory durable: created and removed ones.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory if it is not there, durably; its parent exists. One that is there may be unsynced yet: its maker
/// was killed, or is a thread that has not come to it.
pub fn create_dir_synced(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => path.parent().map_or(Ok(()), sync_dir),
    }
}

/// Makes room for the first `bytes` of `file`, and makes it as long; `false`: the file system cannot, and the writes must.
pub fn reserve(file: &File, bytes: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes a file. One that is not there is removed already. Not durable: a power cut may bring it back.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory that is not aligned is refused by file systems that take the flag, as block sizes larger than ours are.
    #[test]
    fn a_write_that_direct_io_refuses_goes_through_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..ALIGNMENT + 1).map(|at| at as u8).collect();
        let file = AppendFile::create(&path, true, 3 * ALIGNMENT as u64).unwrap();
        for page in 0..3 {
            file.write_all_at(&bytes[1..], page * ALIGNMENT as u64).unwrap();
        }
        file.sync_data().unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes[1..].repeat(3));
        let file = ReadFile::open(&path, true).unwrap();
        let mut read = vec![0; ALIGNMENT + 1];
        assert_eq!(
            file.read_direct_at(&mut read[1..], ALIGNMENT as u64).unwrap(),
            ALIGNMENT
        );
        assert_eq!(read[1..], bytes[1..]);
    }

    #[test]
    fn only_direct_io_is_left_for_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [0; ALIGNMENT]).unwrap();
        let buffered = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(!leave_direct(&buffered).unwrap());
        if let Ok(direct) = open_direct(OpenOptions::new().write(true), &path) {
            assert!(leave_direct(&direct).unwrap() && !leave_direct(&direct).unwrap());
        }
    }
}
