//! Appends frames to the newest log file.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::buffer::AlignedBuffer;
use super::chain::Position;
use super::file::LogFile;
use super::frame::{BLOCK_BYTES, Effects, FRAME_HEADER_BYTES, FileHeader, FrameHeader, effect_header};
use super::keeper::{LOG_SUFFIX, LogFiles, Span};
use super::recover::Recovered;
use crate::blob::local::sync_dir;
use crate::ids::Sequence;
use crate::kv::Value;
use crate::limits::{LOG_FRAME_BYTES_MAX, MIB};

/// Bytes of the frame buffer that are kept between groups.
const BUFFER_KEEP_BYTES: usize = MIB;

/// Why a frame was not appended.
#[derive(Debug, thiserror::Error)]
pub(in crate::kv) enum AppendError {
    /// There is no room for another file. Nothing was written, and the log is as it was: it can be tried again.
    #[error("no new file for the commit log: {0}")]
    NoFile(io::Error),
    #[error("writing the commit log failed: {0}")]
    Failed(#[from] io::Error),
}

/// The log's writing end. After an error other than [`AppendError::NoFile`] nothing may be appended any more; the committer sees to it.
pub(in crate::kv) struct Log {
    files: Arc<LogFiles>,
    file: LogFile,
    header: FileHeader,
    /// Where the next frame begins in the file.
    at: u64,
    /// Log offset up to which all is durable.
    synced_through: u64,
    last: Sequence,
    previous: u64,
    /// Whether acknowledged frames are not yet covered by a later frame's `synced_through`.
    wants_mark: bool,
    buffer: AlignedBuffer,
}

impl Log {
    /// Begins a fresh file after what recovery found. All of that must be flushed in the engine.
    pub fn begin(files: Arc<LogFiles>, found: &Recovered, applied: Sequence) -> io::Result<Self> {
        let header = FileHeader {
            is_fresh: true,
            number: found.number + 1,
            id: random_id()?,
            base: found.end,
            first: Sequence(applied.0 + 1),
            previous: found.previous,
        };
        let file = start_file(&files, &header).map_err(|error| match error {
            AppendError::NoFile(error) | AppendError::Failed(error) => error,
        })?;
        let log = Self {
            files,
            file,
            header,
            at: BLOCK_BYTES as u64,
            synced_through: header.base + BLOCK_BYTES as u64,
            last: applied,
            previous: header.previous,
            wants_mark: false,
            buffer: AlignedBuffer::new(),
        };
        log.tell_file();
        Ok(log)
    }

    /// Tells the readers of the log that it goes on in this file.
    fn tell_file(&self) {
        let span = Span {
            path: self.file.path.clone(),
            id: self.header.id,
            base: self.header.base,
            first: self.header.first,
            previous: self.header.previous,
        };
        self.files.begin(span, self.last);
        self.tell_synced();
    }

    fn tell_synced(&self) {
        self.files.synced(Position {
            offset: self.synced_through,
            sequence: self.last,
            checksum: self.previous,
        });
    }

    /// The last sequence in the log.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// The file that is written, and where its next frame begins.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn position(&self) -> (std::path::PathBuf, u64) {
        (self.file.path.clone(), self.at)
    }

    /// Begins the next frame in the buffer.
    pub fn start_frame(&mut self) {
        self.buffer.reset(FRAME_HEADER_BYTES, BUFFER_KEEP_BYTES);
    }

    pub fn push(&mut self, key: &Bytes, value: Option<&Value>) {
        let stored = value.map(|value| value.bytes.len() + 8);
        self.buffer.push(&effect_header(key.len(), stored));
        self.buffer.push(key);
        if let Some(value) = value {
            self.buffer.push(&value.version.0.to_le_bytes());
            self.buffer.push(&value.bytes);
        }
    }

    /// Writes the frame of `count` mutations that the buffer holds, and returns its effects. Not durable until
    /// [`Log::sync`].
    pub fn append(&mut self, count: u32) -> Result<Effects<'_>, AppendError> {
        let length = u32::try_from(self.buffer.len()).map_err(io::Error::other)?;
        if self.buffer.len() > LOG_FRAME_BYTES_MAX {
            // Recovery would take it for damage. The committer keeps groups far below.
            return Err(
                io::Error::other(format!("a frame of {length} bytes; {LOG_FRAME_BYTES_MAX} are allowed")).into(),
            );
        }
        self.buffer.pad();
        let padded = self.buffer.len() as u64;
        if self.at + padded > self.file.bytes && self.at > BLOCK_BYTES as u64 {
            self.roll()?;
        }
        let frame = FrameHeader {
            length,
            count,
            first: Sequence(self.last.0 + 1),
            synced_through: self.synced_through,
            previous: self.previous,
            file_id: self.header.id,
            offset: self.header.base + self.at,
            checksum: 0,
        };
        self.previous = frame.seal(self.buffer.as_mut_slice());
        self.file.write(self.buffer.as_slice(), self.at)?;
        self.at += padded;
        self.last = Sequence(self.last.0 + u64::from(count));
        self.files.metrics.log_bytes.inc_by(padded);
        Ok(Effects::of(self.buffer.as_slice(), length))
    }

    /// The effects of the frame that was appended last.
    pub fn appended(&self) -> Effects<'_> {
        let length = FrameHeader::claimed(self.buffer.as_slice(), self.header.id).map_or(0, |frame| frame.length);
        Effects::of(self.buffer.as_slice(), length)
    }

    /// Makes all that was appended durable.
    pub fn sync(&mut self) -> io::Result<()> {
        let start = Instant::now();
        self.file.sync()?;
        self.files.metrics.sync_seconds.observe(start.elapsed().as_secs_f64());
        self.synced_through = self.header.base + self.at;
        self.tell_synced();
        self.wants_mark = true;
        Ok(())
    }

    pub fn wants_mark(&self) -> bool {
        self.wants_mark
    }

    /// Writes an empty durable frame that says how far the log is durable, so that damage to the last acknowledged
    /// frame cannot be taken for a torn tail.
    pub fn mark(&mut self) -> io::Result<()> {
        self.start_frame();
        match self.append(0) {
            Ok(_) => {}
            Err(AppendError::Failed(error)) => return Err(error),
            // The next synced frame says it as well, and asks for a mark of its own.
            Err(AppendError::NoFile(_)) => {
                self.wants_mark = false;
                return Ok(());
            }
        }
        self.sync()?;
        self.wants_mark = false;
        Ok(())
    }

    /// Goes on in a new file. What is in the old one is made durable first: a file's existence says so.
    fn roll(&mut self) -> Result<(), AppendError> {
        self.file.sync()?;
        let header = FileHeader {
            is_fresh: false,
            number: self.header.number + 1,
            id: random_id()?,
            base: self.header.base + self.at,
            first: Sequence(self.last.0 + 1),
            previous: self.previous,
        };
        self.file = start_file(&self.files, &header)?;
        self.header = header;
        self.at = BLOCK_BYTES as u64;
        self.synced_through = header.base + self.at;
        self.tell_file();
        Ok(())
    }
}

/// Makes a spare the log's next file. It gets its name once its header is durable.
fn start_file(files: &LogFiles, header: &FileHeader) -> Result<LogFile, AppendError> {
    let mut file = files.take_spare().map_err(AppendError::NoFile)?;
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    header.encode(block.as_mut_slice());
    file.write(block.as_slice(), 0)?;
    file.sync()?;
    file.rename(files.dir.join(format!("{:016x}.{LOG_SUFFIX}", header.number)))?;
    sync_dir(&files.dir)?;
    Ok(file)
}

fn random_id() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}
