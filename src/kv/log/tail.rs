//! Reads what of the log is durable while it is written, for a backup.
//!
//! A reader holds the log from a place on: the keeper recycles no file that reaches behind it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::chain::{Position, first_frame};
use super::frame::{BLOCK_BYTES, FrameHeader, file_id};
use super::keeper::{LogFiles, Span};
use crate::ids::Sequence;

/// Why the log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// It does not go on at this place: its files are gone, or it is another log.
    #[error("the commit log does not go on at {offset}: {what}")]
    Broken { offset: u64, what: &'static str },
    #[error("the commit log cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Whole frames of one file, as they are there.
#[derive(Debug)]
pub struct Stretch {
    pub bytes: Vec<u8>,
    /// Log offset of the first.
    pub start: u64,
    /// The place behind the last.
    pub end: Position,
}

#[derive(Clone)]
pub struct LogTail {
    files: Arc<LogFiles>,
}

fn broken<T>(offset: u64, what: &'static str) -> Result<T, TailError> {
    Err(TailError::Broken { offset, what })
}

impl LogTail {
    pub(in crate::kv) fn new(files: Arc<LogFiles>) -> Self {
        Self { files }
    }

    /// How far the log is durable.
    pub fn durable(&self) -> Position {
        self.files.durable()
    }

    /// What is before `offset` is not needed any more.
    pub fn hold_from(&self, offset: u64) {
        self.files.hold_from(offset);
    }

    /// Nothing is held, until [`LogTail::hold_from`] is called.
    pub fn release(&self) {
        self.files.hold_from(u64::MAX);
    }

    /// Bytes that are held.
    pub fn held_bytes(&self) -> u64 {
        self.files.held_bytes()
    }

    /// Whether the log goes on at `from`. Blocks.
    pub fn goes_on(&self, from: Position) -> Result<(), TailError> {
        let durable = self.durable().offset;
        self.read(from, durable.max(from.offset.saturating_add(1)), 1).map(drop)
    }

    /// Frames from `from` on: at least one, if one ends at or before log offset `to`, and more up to about `bytes_max`.
    /// `None`: nothing more is durable there. Blocks.
    pub fn read(&self, from: Position, to: u64, bytes_max: usize) -> Result<Option<Stretch>, TailError> {
        let Some((span, end)) = self.files.span_at(from.offset) else {
            return broken(from.offset, "no file has it");
        };
        let begins = span.base + BLOCK_BYTES as u64;
        if from.offset <= begins && (span.previous, span.first.0) != (from.checksum, from.sequence.0 + 1) {
            return broken(from.offset, "the next file does not continue what is before it");
        }
        let start = from.offset.max(begins);
        let end = end.min(to);
        if start > end {
            return if from.offset <= begins {
                Ok(None)
            } else {
                broken(start, "it ends before")
            };
        }
        if start == end {
            return Ok(None);
        }
        self.read_frames(&span, from, start..end, bytes_max).map(Some)
    }

    fn read_frames(
        &self,
        span: &Span,
        from: Position,
        range: std::ops::Range<u64>,
        bytes_max: usize,
    ) -> Result<Stretch, TailError> {
        let file = File::open(&span.path)?;
        let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(bytes_max.next_multiple_of(BLOCK_BYTES))];
        file.read_exact_at(&mut bytes, range.start - span.base)?;
        let first = FrameHeader::claimed(&bytes, span.id).map_or(0, |frame| frame.padded());
        if first > bytes.len() && first <= left {
            // One frame that is larger than what is wanted.
            bytes.resize(first, 0);
            file.read_exact_at(&mut bytes, range.start - span.base)?;
        }
        let (mut whole, mut position) = (0, from);
        while let Some(rest) = bytes.get_mut(whole..).filter(|rest| !rest.is_empty()) {
            let offset = range.start + whole as u64;
            let Some(frame) = first_frame(rest, span.id, offset) else {
                break;
            };
            if frame.previous != position.checksum || frame.first != Sequence(position.sequence.0 + 1) {
                return broken(offset, "a frame does not continue the one before it");
            }
            whole += frame.padded();
            position = match Position::behind(&frame) {
                Some(behind) => behind,
                None => return broken(offset, "its counters are out of range"),
            };
        }
        if whole == 0 {
            return broken(range.start, "a frame that was durable is not whole");
        }
        bytes.truncate(whole);
        debug_assert_eq!(file_id(&bytes), Some(span.id));
        Ok(Stretch {
            bytes,
            start: range.start,
            end: position,
        })
    }
}
