//! One log file on the local file system.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::blob::local::{reserve, write_direct_or_not};

/// A step of the log that a test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStep {
    /// A new file, with its space.
    Create,
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
    pub path: PathBuf,
    pub bytes: u64,
    fault: Option<Arc<dyn LogFault>>,
}

impl LogFile {
    /// A new empty file.
    pub fn create(path: PathBuf, fault: Option<Arc<dyn LogFault>>) -> io::Result<Self> {
        fault.as_ref().map_or(Ok(()), |fault| fault.before(LogStep::Create))?;
        File::create_new(&path)?;
        Self::open(path, fault)
    }

    pub fn open(path: PathBuf, fault: Option<Arc<dyn LogFault>>) -> io::Result<Self> {
        let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match options.clone().custom_flags(direct).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => options.open(&path)?,
            opened => opened?,
        };
        let bytes = file.metadata()?.len();
        Ok(Self {
            file,
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
        write_direct_or_not(&self.file, || {
            self.check(LogStep::Write)?;
            self.file.write_all_at(data, at)
        })?;
        self.bytes = self.bytes.max(at + data.len() as u64);
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        self.check(LogStep::Sync)?;
        self.file.sync_data()
    }

    /// Reserves space without writing it; where the file system cannot, the writes do it one by one.
    pub fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        if reserve(&self.file, bytes)? {
            self.bytes = self.bytes.max(bytes);
        }
        Ok(())
    }

    pub fn rename(&mut self, to: PathBuf) -> io::Result<()> {
        std::fs::rename(&self.path, &to)?;
        self.path = to;
        Ok(())
    }
}
