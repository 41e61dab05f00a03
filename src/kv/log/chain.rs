//! The chain of frames away from its files: as a backup keeps it and a restore follows it.

use super::frame::{BLOCK_BYTES, Effects, FrameHeader, file_id};
use crate::ids::Sequence;

/// A place between two frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Log offset.
    pub offset: u64,
    /// Of the last mutation before.
    pub sequence: Sequence,
    /// Of the frame before; 0: there is none.
    pub checksum: u64,
}

impl Position {
    /// The place behind `frame`; `None`: counters out of range.
    pub(super) fn behind(frame: &FrameHeader) -> Option<Self> {
        let next = frame.first.0.checked_add(u64::from(frame.count))?;
        Some(Self {
            offset: frame.offset.checked_add(frame.padded() as u64)?,
            sequence: Sequence(next.checked_sub(1)?),
            checksum: frame.checksum,
        })
    }

    /// Whether `frame` is the next one.
    fn leads_to(&self, frame: &FrameHeader) -> bool {
        frame.previous == self.checksum && frame.first.0.checked_sub(1) == Some(self.sequence.0)
    }
}

/// The first frame of `bytes`, which stand at log offset `offset`, if it is whole; with its padding.
pub(super) fn first_frame(bytes: &mut [u8], id: u64, offset: u64) -> Option<FrameHeader> {
    let claim = FrameHeader::claimed(bytes.get(..BLOCK_BYTES)?, id)?;
    let frame = bytes.get_mut(..claim.padded())?;
    (claim.offset == offset && claim.verifies(frame)).then_some(claim)
}

/// Follows the frames that `bytes` hold, all of one file, the first of them at log offset `start`. Frames up to `from`
/// are passed over; `visit` gets the effects and the last sequence of each one behind it that has any. Returns the place
/// behind the last frame, or what is wrong: a frame that is not whole or does not continue the one before it.
pub(in crate::kv) fn follow(
    bytes: &mut [u8],
    start: u64,
    from: Position,
    visit: &mut dyn FnMut(Effects<'_>, Sequence) -> Result<(), String>,
) -> Result<Position, String> {
    let id = file_id(bytes).ok_or("no frame begins there")?;
    let mut position = from;
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let offset = start.saturating_add(at as u64);
        let frame = first_frame(rest, id, offset).ok_or_else(|| format!("the frame at {offset} is not whole"))?;
        at += frame.padded();
        if offset < position.offset {
            continue;
        }
        let behind = Position::behind(&frame).filter(|_| position.leads_to(&frame));
        position = behind.ok_or_else(|| format!("the frame at {offset} does not continue the one before it"))?;
        if frame.count > 0 {
            visit(Effects::of(rest, frame.length), position.sequence)?;
        }
    }
    Ok(position)
}

/// The place behind the last of the frames that `bytes` hold, as [`follow`] would find it.
pub fn end_of(bytes: &mut [u8], start: u64) -> Result<Position, String> {
    let id = file_id(bytes).ok_or("no frame begins there")?;
    let first = first_frame(bytes, id, start).ok_or("the first frame is not whole")?;
    let before = Position {
        offset: start,
        sequence: Sequence(first.first.0.saturating_sub(1)),
        checksum: first.previous,
    };
    follow(bytes, start, before, &mut |_, _| Ok(()))
}
