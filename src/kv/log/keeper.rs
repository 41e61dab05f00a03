//! The log's files beside the one that is written: closed ones that recovery still needs, and spares.
//!
//! Overwriting blocks that were written before makes a sync several times cheaper than writing fresh extents, which
//! must commit the file system's journal. So new files are filled with zeros ahead of time and old ones are recycled.
//! A spare never bears a log file's name: it gets one only after its new header is durable, so that every file with a
//! log's name has an intact header, whatever a power cut loses.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::buffer::AlignedBuffer;
use super::chain::Position;
use super::file::{LogFault, LogFile};
use crate::blob::local::{remove_file, sync_dir};
use crate::ids::Sequence;
use crate::kv::metrics::KvMetrics;
use crate::limits::{KIB, MIB};

pub(super) const LOG_SUFFIX: &str = "log";
const SPARE_SUFFIX: &str = "spare";
/// Spares kept; more are removed.
const SPARES_MAX: usize = 2;
/// Zeros written at once, with a pause after, so that preparing a file does not hold up the syncs.
const ZERO_SLICE_BYTES: usize = 256 * KIB;
const ZERO_PAUSE: Duration = Duration::from_millis(1);
/// The first file of a store is made while it opens, so it is small.
const FIRST_FILE_BYTES_MAX: u64 = 4 * MIB as u64;
const POLL: Duration = Duration::from_millis(500);
/// Closed files' bytes, in log files, from which the engine is asked to flush.
const CLOSED_FILES_MAX: u64 = 4;

/// A file's place in the log.
#[derive(Clone, Debug)]
pub(in crate::kv) struct Span {
    pub path: PathBuf,
    pub id: u64,
    /// Log offset of its first byte.
    pub base: u64,
    pub first: Sequence,
    /// Checksum of the last frame before it.
    pub previous: u64,
}

/// A file that is not written any more.
#[derive(Debug)]
pub(in crate::kv) struct Closed {
    pub span: Span,
    /// Log offset of its end.
    pub end: u64,
    pub last: Sequence,
}

impl Closed {
    fn bytes(&self) -> u64 {
        self.end - self.span.base
    }
}

#[derive(Default)]
struct State {
    spares: Vec<LogFile>,
    closed: VecDeque<Closed>,
    current: Option<Span>,
    /// What the engine has flushed, as far as is known.
    flushed: Sequence,
    /// Log offset from which on files are kept though they are flushed.
    hold: u64,
    spares_made: u64,
    is_stopping: bool,
}

/// Shared by the log's writer and its keeper.
pub(in crate::kv) struct LogFiles {
    pub(super) dir: PathBuf,
    file_bytes: u64,
    fault: Option<Arc<dyn LogFault>>,
    pub(super) metrics: Arc<KvMetrics>,
    state: Mutex<State>,
    durable: Mutex<Position>,
    wake: Condvar,
}

pub(super) fn paths(dir: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(suffix)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

impl LogFiles {
    pub fn new(dir: PathBuf, file_bytes: u64, fault: Option<Arc<dyn LogFault>>, metrics: Arc<KvMetrics>) -> Self {
        Self {
            dir,
            file_bytes,
            fault,
            metrics,
            state: Mutex::new(State {
                hold: u64::MAX,
                ..State::default()
            }),
            durable: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Removes the spares of an earlier process, which may be half made, and makes a small one for the first file.
    pub fn prepare_first(&self) -> io::Result<()> {
        for path in paths(&self.dir, SPARE_SUFFIX)? {
            std::fs::remove_file(path)?;
        }
        let spare = self.make_spare(self.file_bytes.min(FIRST_FILE_BYTES_MAX), Duration::ZERO)?;
        self.state.lock().spares.push(spare);
        Ok(())
    }

    /// Makes spares of the log files at `paths`, which nobody needs any more, and removes what is over.
    pub fn retire(&self, paths: Vec<PathBuf>) -> io::Result<()> {
        let mut renamed = Vec::new();
        for path in paths {
            if self.state.lock().spares.len() + renamed.len() >= SPARES_MAX {
                std::fs::remove_file(path)?;
                continue;
            }
            let mut file = LogFile::open(path, self.fault.clone())?;
            file.rename(self.spare_path())?;
            renamed.push(file);
        }
        // Before a spare's header is overwritten, its old name must be gone for good.
        sync_dir(&self.dir)?;
        self.state.lock().spares.append(&mut renamed);
        Ok(())
    }

    /// A file to write the log in: a spare, or else a new one with space reserved.
    pub(super) fn take_spare(&self) -> io::Result<LogFile> {
        let spare = self.state.lock().spares.pop();
        self.wake.notify_all();
        if let Some(spare) = spare {
            return Ok(spare);
        }
        let path = self.spare_path();
        let made = LogFile::create(path.clone(), self.fault.clone()).and_then(|mut file| {
            file.reserve(self.file_bytes)?;
            Ok(file)
        });
        made.inspect_err(|_| discard(&path))
    }

    /// The log goes on in the file `next`; what is before it ends at its base, with sequence `last`.
    pub(super) fn begin(&self, next: Span, last: Sequence) {
        let mut state = self.state.lock();
        let end = next.base;
        if let Some(span) = state.current.replace(next) {
            state.closed.push_back(Closed { span, end, last });
        }
        self.wake.notify_all();
    }

    /// Files of an earlier process, oldest first: kept until nobody holds them.
    pub fn keep(&self, files: Vec<Closed>) {
        let mut state = self.state.lock();
        state.hold = 0;
        state.closed.extend(files);
    }

    /// All before `position` is durable.
    pub(super) fn synced(&self, position: Position) {
        *self.durable.lock() = position;
    }

    pub(super) fn durable(&self) -> Position {
        *self.durable.lock()
    }

    pub(super) fn hold_from(&self, offset: u64) {
        self.state.lock().hold = offset;
        self.wake.notify_all();
    }

    /// The file that has the frame at `offset`, or goes on there, and the log offset of its durable end.
    pub(super) fn span_at(&self, offset: u64) -> Option<(Span, u64)> {
        let durable = self.durable().offset;
        let state = self.state.lock();
        let closed = state.closed.iter().map(|file| (&file.span, file.end));
        let current = state.current.iter().map(|span| (span, durable.max(span.base)));
        let mut all = closed.chain(current);
        // The end of a file is the base of the next one; that of the last may be its own.
        let has = |(span, end): &(&Span, u64)| span.base <= offset && (offset < *end || *end == durable);
        all.find(has).map(|(span, end)| (span.clone(), end))
    }

    pub(super) fn held_bytes(&self) -> u64 {
        let durable = self.durable().offset;
        let state = self.state.lock();
        let closed = state.closed.iter().map(|file| (file.span.base, file.end));
        let current = state.current.iter().map(|span| (span.base, durable));
        let held = |(base, end): (u64, u64)| end.saturating_sub(base.max(state.hold));
        closed.chain(current).map(held).sum()
    }

    fn spare_path(&self) -> PathBuf {
        let mut state = self.state.lock();
        state.spares_made += 1;
        self.dir.join(format!("{:08x}.{SPARE_SUFFIX}", state.spares_made))
    }

    fn make_spare(&self, bytes: u64, pause: Duration) -> io::Result<LogFile> {
        let path = self.spare_path();
        let made = self.fill_spare(path.clone(), bytes, pause);
        // Half a spare on a full disk would keep it full.
        made.inspect_err(|_| discard(&path))
    }

    fn fill_spare(&self, path: PathBuf, bytes: u64, pause: Duration) -> io::Result<LogFile> {
        let mut file = LogFile::create(path, self.fault.clone())?;
        // A disk without room for it is told at once, and not filled.
        file.reserve(bytes)?;
        let zeros = AlignedBuffer::zeroed(ZERO_SLICE_BYTES);
        let mut at = 0;
        while at < bytes && !self.state.lock().is_stopping {
            file.write(zeros.as_slice(), at)?;
            at += ZERO_SLICE_BYTES as u64;
            std::thread::sleep(pause);
        }
        file.sync()?;
        Ok(file)
    }

    /// Files whose last group is flushed and that nobody holds, oldest first.
    fn take_flushed(&self, flushed: Sequence) -> Vec<PathBuf> {
        let mut state = self.state.lock();
        state.flushed = flushed;
        let hold = state.hold;
        let mut done = Vec::new();
        while let Some(file) = state
            .closed
            .pop_front_if(|file| file.last <= flushed && file.end <= hold)
        {
            done.push(file.span.path);
        }
        let left: u64 = state.closed.iter().map(Closed::bytes).sum();
        self.metrics
            .log_unflushed_bytes
            .set(i64::try_from(left).unwrap_or(i64::MAX));
        done
    }

    fn unflushed_bytes(&self) -> u64 {
        let state = self.state.lock();
        let unflushed = state.closed.iter().filter(|file| file.last > state.flushed);
        unflushed.map(Closed::bytes).sum()
    }

    fn keep_once(&self, engine: &dyn Flushed) -> io::Result<()> {
        let has_closed = !self.state.lock().closed.is_empty();
        if has_closed && let Some(flushed) = engine.flushed() {
            let done = self.take_flushed(flushed);
            if !done.is_empty() {
                self.retire(done)?;
            }
        }
        if self.unflushed_bytes() > CLOSED_FILES_MAX * self.file_bytes {
            engine.ask_flush();
        }
        if self.state.lock().spares.is_empty() {
            let spare = self.make_spare(self.file_bytes, ZERO_PAUSE)?;
            self.state.lock().spares.push(spare);
        }
        Ok(())
    }
}

/// Removes a spare that was not finished. What cannot be removed goes at the next start.
pub(super) fn discard(path: &Path) {
    if let Err(error) = remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "an unfinished log file could not be removed");
    }
}

/// What the keeper asks the engine.
pub(in crate::kv) trait Flushed: Send {
    /// The last sequence whose effects the engine has on stable storage without the log; `None`: not known now.
    fn flushed(&self) -> Option<Sequence>;

    fn ask_flush(&self);
}

/// The thread that recycles and prepares log files.
pub(in crate::kv) struct Keeper {
    files: Arc<LogFiles>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub fn start(files: Arc<LogFiles>, engine: Box<dyn Flushed>) -> io::Result<Self> {
        let shared = Arc::clone(&files);
        let work = move || {
            loop {
                if let Err(error) = shared.keep_once(&*engine) {
                    // The log goes on with new files; only space and speed suffer.
                    tracing::warn!(%error, "log files could not be recycled");
                }
                let mut state = shared.state.lock();
                if !state.is_stopping {
                    shared.wake.wait_for(&mut state, POLL);
                }
                if state.is_stopping {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("cairn-kv-log".to_owned())
            .spawn(work)?;
        Ok(Self {
            files,
            thread: Some(thread),
        })
    }

    pub fn stop(&mut self) {
        self.files.state.lock().is_stopping = true;
        self.files.wake.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's keeper panicked");
        }
    }
}
