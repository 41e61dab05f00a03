//! One log file on the local file system.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

/// A step of the log that a test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStep {
    Write,
    Sync,
}

/// Asked before each step of the log; an error fails the step without doing it.
pub trait LogFault: Send + Sync {
    fn before(&self, step: LogStep) -> io::Result<()>;
}

/// Writes go past the page cache where the file system allows it: filling fresh page cache costs more CPU than the
/// device needs time.
pub(super) struct LogFile {
    file: File,
    is_direct: bool,
    pub path: PathBuf,
    pub bytes: u64,
    fault: Option<Arc<dyn LogFault>>,
}

impl LogFile {
    /// A new empty file.
    pub fn create(path: PathBuf, fault: Option<Arc<dyn LogFault>>) -> io::Result<Self> {
        File::create_new(&path)?;
        Self::open(path, fault)
    }

    pub fn open(path: PathBuf, fault: Option<Arc<dyn LogFault>>) -> io::Result<Self> {
        let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
        let (file, is_direct) = match OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(direct)
            .open(&path)
        {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => (open_buffered(&path)?, false),
            opened => (opened?, true),
        };
        let bytes = file.metadata()?.len();
        Ok(Self {
            file,
            is_direct,
            path,
            bytes,
            fault,
        })
    }

    fn check(&self, step: LogStep) -> io::Result<()> {
        self.fault.as_ref().map_or(Ok(()), |fault| fault.before(step))
    }

    /// `data` and `at` are multiples of a block, `data` aligned to one.
    pub fn write(&mut self, data: &[u8], at: u64) -> io::Result<()> {
        match self.try_write(data, at) {
            // Some file systems take the flag and then refuse the write, or want larger blocks.
            Err(error) if self.is_direct && error.kind() == io::ErrorKind::InvalidInput => {
                self.file = open_buffered(&self.path)?;
                self.is_direct = false;
                self.try_write(data, at)?;
            }
            done => done?,
        }
        self.bytes = self.bytes.max(at + data.len() as u64);
        Ok(())
    }

    fn try_write(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.check(LogStep::Write)?;
        self.file.write_all_at(data, at)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.check(LogStep::Sync)?;
        self.file.sync_data()
    }

    /// Reserves space without writing it; where the file system cannot, the writes do it one by one.
    pub fn reserve(&mut self, bytes: u64) {
        if rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, bytes).is_ok() {
            self.bytes = self.bytes.max(bytes);
        }
    }

    pub fn rename(&mut self, to: PathBuf) -> io::Result<()> {
        std::fs::rename(&self.path, &to)?;
        self.path = to;
        Ok(())
    }
}

fn open_buffered(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Makes creations, renames and removals in `dir` durable.
pub(in crate::kv) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
