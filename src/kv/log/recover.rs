//! Reads the log back: what is whole is replayed, a torn tail is dropped, anything else is damage.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::LogError;
use super::frame::{BLOCK_BYTES, COUNTER_MAX, Effects, FileHeader, FrameHeader};
use super::keeper::{Closed, LOG_SUFFIX, Span, paths};
use crate::ids::Sequence;
use crate::limits::MIB;

/// Bytes read at once when looking for a frame behind a bad one.
const SEARCH_BYTES: usize = MIB;

/// Where the log ends.
#[derive(Debug, Default)]
pub(in crate::kv) struct Recovered {
    /// Number of the newest file.
    pub number: u64,
    /// Log offset of the end of the last whole frame.
    pub end: u64,
    /// The last frame's checksum.
    pub previous: u64,
    /// The last sequence in the log or in the engine.
    pub last: Sequence,
    /// Frames that were replayed.
    pub replayed: u64,
    /// All files found: obsolete once the engine has flushed.
    pub files: Vec<PathBuf>,
    /// Those of them that follow each other up to the end, for a reader that is not yet through.
    pub spans: Vec<Closed>,
}

struct Source {
    file: File,
    path: PathBuf,
    bytes: u64,
    header: FileHeader,
}

impl Source {
    fn corrupt(&self, at: u64, what: &str) -> LogError {
        corrupt(&self.path, at, what)
    }

    fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, LogError> {
        let mut data = vec![0; bytes];
        self.file
            .read_exact_at(&mut data, at)
            .map_err(|source| io_error(&self.path, source))?;
        Ok(data)
    }

    /// The whole frame at `at`, if there is one.
    fn frame(&self, at: u64) -> Result<Option<(FrameHeader, Vec<u8>)>, LogError> {
        if at.saturating_add(BLOCK_BYTES as u64) > self.bytes {
            return Ok(None);
        }
        let Some(claim) = FrameHeader::claimed(&self.read(at, BLOCK_BYTES)?, self.header.id) else {
            return Ok(None);
        };
        let is_here = self.header.base.checked_add(at) == Some(claim.offset);
        if !is_here || at.saturating_add(claim.padded() as u64) > self.bytes {
            return Ok(None);
        }
        let mut data = self.read(at, claim.padded())?;
        Ok(claim.verifies(&mut data).then_some((claim, data)))
    }

    /// Whether a whole frame behind `at` says that the log was durable beyond `at`.
    fn is_synced_beyond(&self, at: u64) -> Result<bool, LogError> {
        let offset = self.header.base.saturating_add(at);
        let mut next = at + BLOCK_BYTES as u64;
        while next + BLOCK_BYTES as u64 <= self.bytes {
            let left = usize::try_from(self.bytes - next).unwrap_or(usize::MAX);
            let blocks = left.min(SEARCH_BYTES) / BLOCK_BYTES;
            for block in self.read(next, blocks * BLOCK_BYTES)?.chunks_exact(BLOCK_BYTES) {
                let may_say = FrameHeader::claimed(block, self.header.id).is_some_and(|f| f.synced_through > offset);
                if may_say && self.frame(next)?.is_some() {
                    return Ok(true);
                }
                next += BLOCK_BYTES as u64;
            }
        }
        Ok(false)
    }
}

fn corrupt(path: &Path, offset: u64, what: &str) -> LogError {
    LogError::Corrupt {
        file: path.display().to_string(),
        offset,
        what: what.to_owned(),
    }
}

fn io_error(path: &Path, source: std::io::Error) -> LogError {
    LogError::Io {
        path: path.display().to_string(),
        source,
    }
}

/// Opens a log file; `None`: one that was never written.
fn open(path: &Path) -> Result<Option<Source>, LogError> {
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    let bytes = file.metadata().map_err(|source| io_error(path, source))?.len();
    if bytes == 0 {
        return Ok(None);
    }
    let mut block = vec![0; BLOCK_BYTES];
    let is_whole = bytes >= BLOCK_BYTES as u64 && file.read_exact_at(&mut block, 0).is_ok();
    match FileHeader::decode(&mut block) {
        Some(header) if is_whole => Ok(Some(Source {
            file,
            path: path.to_owned(),
            bytes,
            header,
        })),
        _ => Err(corrupt(path, 0, "its header is not intact")),
    }
}

/// The files that recovery must read, oldest first: from the last one that begins afresh, or from the last gap. A gap
/// comes from removals that a power cut undid in part; what is before it was flushed, or the removals had not begun.
/// `sources` come in the order of their numbers.
fn chain(mut sources: Vec<Source>, applied: Sequence) -> Result<Vec<Source>, LogError> {
    let mut first = 0;
    for (index, pair) in sources.windows(2).enumerate() {
        if let [a, b] = pair
            && (b.header.is_fresh || a.header.number.checked_add(1) != Some(b.header.number))
        {
            first = index + 1;
        }
    }
    let chain = sources.split_off(first);
    match chain.first() {
        Some(source) if source.header.first.0 > applied.0.saturating_add(1) => {
            Err(source.corrupt(0, "the files before it are missing"))
        }
        _ => Ok(chain),
    }
}

/// Replays the log in `dir` onto an engine that has everything up to `applied`. `apply` gets each newer frame's effects
/// and its last sequence.
pub(in crate::kv) fn recover(
    dir: &Path,
    applied: Sequence,
    apply: &mut dyn FnMut(Effects<'_>, Sequence) -> Result<(), String>,
) -> Result<Recovered, LogError> {
    let files = paths(dir, LOG_SUFFIX).map_err(|source| io_error(dir, source))?;
    let mut sources = Vec::new();
    for path in &files {
        sources.extend(open(path)?);
    }
    let mut state = Recovered {
        last: applied,
        files,
        ..Recovered::default()
    };
    sources.sort_by_key(|source| source.header.number);
    let headers: Vec<_> = sources
        .iter()
        .map(|source| (source.path.clone(), source.header))
        .collect();
    let chain = chain(sources, applied)?;
    if chain.is_empty() && applied.0 > 0 {
        return Err(corrupt(dir, 0, "the log's files are missing"));
    }
    if let Some(first) = chain.first() {
        state.previous = first.header.previous;
    }
    let mut expected = chain.first().map_or(Sequence(1), |source| source.header.first);
    for (index, source) in chain.iter().enumerate() {
        let next = chain.get(index + 1).map(|next| next.header.base);
        expected = replay(source, next, expected, applied, &mut state, apply)?;
    }
    state.last = state.last.max(Sequence(expected.0.saturating_sub(1)));
    // What is written from here on counts further, and must be readable as well.
    if [state.number, state.end, state.last.0]
        .iter()
        .any(|counter| *counter >= COUNTER_MAX / 2)
    {
        return Err(corrupt(dir, 0, "its counters are out of range"));
    }
    state.spans = spans(headers, state.end, state.last);
    Ok(state)
}

/// The last files that follow each other without a gap, the last of which ends at log offset `end`.
fn spans(headers: Vec<(PathBuf, FileHeader)>, end: u64, last: Sequence) -> Vec<Closed> {
    let mut found = Vec::new();
    let (mut end, mut last, mut next) = (end, last, None);
    for (path, header) in headers.into_iter().rev() {
        let follows = next.is_none_or(|next| header.number.checked_add(1) == Some(next));
        if !follows || header.base > end {
            break;
        }
        let span = Span {
            path,
            id: header.id,
            base: header.base,
            first: header.first,
            previous: header.previous,
        };
        found.push(Closed { span, end, last });
        (end, last, next) = (
            header.base,
            Sequence(header.first.0.saturating_sub(1)),
            Some(header.number),
        );
    }
    found.reverse();
    found
}

/// Replays one file, which ends at log offset `next` if another follows; returns the sequence to come.
fn replay(
    source: &Source,
    next: Option<u64>,
    mut expected: Sequence,
    applied: Sequence,
    state: &mut Recovered,
    apply: &mut dyn FnMut(Effects<'_>, Sequence) -> Result<(), String>,
) -> Result<Sequence, LogError> {
    let header = &source.header;
    if header.first != expected || header.previous != state.previous {
        return Err(source.corrupt(0, "it does not continue the file before it"));
    }
    let mut at = BLOCK_BYTES as u64;
    loop {
        let offset = header.base.saturating_add(at);
        if next == Some(offset) {
            break;
        }
        let Some((frame, data)) = source.frame(at)? else {
            if next.is_some() || source.is_synced_beyond(at)? {
                return Err(source.corrupt(at, "a frame that was durable is not intact"));
            }
            break;
        };
        if frame.first != expected || frame.previous != state.previous {
            return Err(source.corrupt(at, "a frame does not continue the one before it"));
        }
        let last = expected
            .0
            .checked_add(u64::from(frame.count))
            .map(|next| Sequence(next.saturating_sub(1)));
        let last = last.ok_or_else(|| source.corrupt(at, "the sequence overflows"))?;
        if last > applied && frame.count > 0 {
            apply(Effects::of(&data, frame.length), last).map_err(LogError::Apply)?;
            state.replayed += 1;
        }
        state.previous = frame.checksum;
        expected = Sequence(last.0 + 1);
        at += frame.padded() as u64;
    }
    state.number = header.number;
    state.end = header.base.saturating_add(at);
    Ok(expected)
}
