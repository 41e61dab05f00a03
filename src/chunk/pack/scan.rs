//! Finding records without a footer: by the frames, trusting nothing but checksums.

use std::io;
use std::ops::Range;

use crate::blob::local::{ALIGNMENT, ReadFile};
use crate::chunk::pack::format::{FILE_HEADER_BYTES, FRAME_BYTES, Frame, PACK_RECORDS_MAX, TRAILER_BYTES, Trailer};
use crate::chunk::pack::{Entry, Location};
use crate::chunk::record::{HEADER_BYTES, RecordHeader, crc32c};
use crate::ids::{ChunkId, PackId};
use crate::limits::MIB;

/// What a scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Whole records in the order of writing.
    pub entries: Vec<Entry>,
    /// Records that a frame promises and that are not whole.
    pub dropped: u32,
    /// Those of them whose header is whole: chunk and offset.
    pub broken: Vec<(ChunkId, u32)>,
    /// Stretches without a frame, or behind a header that is not whole. Each begins where a record would.
    pub gaps: Vec<Range<u64>>,
    /// Where the last frame ends: a footer belongs here or behind.
    pub end: u64,
}

/// How a file ends.
#[derive(Debug)]
pub enum End {
    Sealed(Trailer),
    /// With what was a trailer of this pack once.
    Damaged,
    /// Without one.
    Open,
}

impl End {
    pub fn trailer(self) -> Option<Trailer> {
        match self {
            Self::Sealed(trailer) => Some(trailer),
            Self::Damaged | Self::Open => None,
        }
    }
}

pub fn read_end(file: &ReadFile, pack: PackId) -> io::Result<End> {
    let length = file.length()?;
    let Some(offset) = length.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(End::Open);
    };
    let mut bytes = [0; TRAILER_BYTES];
    file.read_at(&mut bytes, offset)?;
    Ok(match Trailer::decode(&bytes, pack, length) {
        Some(trailer) if length.is_multiple_of(ALIGNMENT as u64) => End::Sealed(trailer),
        None if Trailer::resembles(&bytes, pack) => End::Damaged,
        _ => End::Open,
    })
}

/// Scans `file` up to `limit`. Behind a torn or damaged frame the next one is looked for page by page, so that what was
/// synced later is still found.
pub fn scan(file: &ReadFile, pack: PackId, limit: u64) -> io::Result<Scan> {
    let mut found = Scan {
        end: FILE_HEADER_BYTES as u64,
        ..Scan::default()
    };
    let mut window = Window::new(file, limit);
    let mut payload = Vec::new();
    let mut position = FILE_HEADER_BYTES as u64;
    let mut lost_since = None;
    while position < limit {
        let frame = window
            .at(position, FRAME_BYTES)?
            .and_then(|bytes| Frame::decode(bytes, pack, position));
        match frame.filter(|frame| position + u64::from(frame.bytes) <= limit) {
            Some(frame) => {
                found.gap(lost_since.take(), position);
                scan_frame(&frame, &mut window, &mut payload, &mut found)?;
                position += u64::from(frame.bytes);
                found.end = position;
            }
            None => {
                lost_since.get_or_insert(position + FRAME_BYTES as u64);
                position += ALIGNMENT as u64;
            }
        }
    }
    found.gap(lost_since, limit);
    Ok(found)
}

impl Scan {
    fn gap(&mut self, from: Option<u64>, to: u64) {
        self.gaps.extend(from.filter(|from| *from < to).map(|from| from..to));
    }
}

fn scan_frame(frame: &Frame, window: &mut Window<'_>, payload: &mut Vec<u8>, found: &mut Scan) -> io::Result<()> {
    let end = u64::from(frame.offset) + u64::from(frame.bytes);
    let mut position = u64::from(frame.offset) + FRAME_BYTES as u64;
    for index in 0..frame.records {
        let header = window
            .at(position, HEADER_BYTES)?
            .and_then(|bytes| RecordHeader::decode(bytes).ok());
        let Some(header) = header.filter(|header| position + stored_bytes(header) <= end) else {
            // Without its length the next one cannot be found.
            found.dropped = found.dropped.saturating_add(frame.records - index);
            found.gap(Some(position), end);
            return Ok(());
        };
        if found.entries.len() < PACK_RECORDS_MAX && is_whole(window.file, position, &header, payload)? {
            let order = found.entries.len() as u32;
            found.entries.push(entry(frame.pack, position, &header, order));
        } else {
            found.dropped = found.dropped.saturating_add(1);
            if found.broken.len() < PACK_RECORDS_MAX {
                // A frame's end fits into 32 bits, and the record lies inside.
                found.broken.push((header.id, position as u32));
            }
        }
        position += stored_bytes(&header);
    }
    Ok(())
}

pub fn stored_bytes(header: &RecordHeader) -> u64 {
    HEADER_BYTES as u64 + u64::from(header.payload_len)
}

/// Whether the payload behind the header at `position` is the one that was written. Leaves it in `payload`.
pub fn is_whole(file: &ReadFile, position: u64, header: &RecordHeader, payload: &mut Vec<u8>) -> io::Result<bool> {
    payload.resize(header.payload_len as usize, 0);
    let count = file.read_at(payload, position + HEADER_BYTES as u64)?;
    Ok(count == payload.len() && crc32c(payload) == header.payload_crc)
}

pub fn entry(pack: PackId, position: u64, header: &RecordHeader, order: u32) -> Entry {
    let location = Location {
        pack,
        // A frame's end fits into 32 bits, and the record lies inside.
        offset: position as u32,
        stored_len: stored_bytes(header) as u32,
        raw_len: header.raw_len,
        codec: header.codec,
    };
    Entry {
        id: header.id,
        domain: header.domain,
        location,
        order,
        payload_crc: header.payload_crc,
        encrypted: header.envelope.is_some(),
    }
}

/// Small structures of a file, read a mebibyte at a time.
pub struct Window<'a> {
    pub file: &'a ReadFile,
    limit: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub fn new(file: &'a ReadFile, limit: u64) -> Self {
        Self {
            file,
            limit,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// `length` bytes at `offset`; `None` behind the limit.
    pub fn at(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let end = offset + length as u64;
        if end > self.limit {
            return Ok(None);
        }
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let wanted = usize::try_from(self.limit - offset).unwrap_or(MIB).min(MIB);
            self.bytes.resize(wanted, 0);
            let count = self.file.read_at(&mut self.bytes, offset)?;
            self.bytes.truncate(count);
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).and_then(|rest| rest.get(..length)))
    }
}
