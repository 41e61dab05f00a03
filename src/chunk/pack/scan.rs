//! Finding records without a footer: by the frames, trusting nothing but checksums.

use std::io;

use crate::blob::local::{ALIGNMENT, ReadFile};
use crate::chunk::pack::format::{FILE_HEADER_BYTES, FRAME_BYTES, Frame, PACK_RECORDS_MAX, TRAILER_BYTES, Trailer};
use crate::chunk::pack::{Entry, Location};
use crate::chunk::record::{HEADER_BYTES, RecordHeader, crc32c};
use crate::ids::PackId;
use crate::limits::MIB;

/// What a scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Whole records in the order of writing.
    pub entries: Vec<Entry>,
    /// Records that a frame promises and that are not whole.
    pub dropped: u32,
    /// Where the last frame ends: a footer belongs here or behind.
    pub end: u64,
}

/// Reads the trailer; `None` when the file does not end with one of this pack.
pub fn read_trailer(file: &ReadFile, pack: PackId) -> io::Result<Option<Trailer>> {
    let length = file.length()?;
    let Some(offset) = length.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    let mut bytes = [0; TRAILER_BYTES];
    file.read_at(&mut bytes, offset)?;
    Ok(Trailer::decode(&bytes, pack, length))
}

/// Whether the file's last page holds anything. An open pack ends in reserved zeros.
pub fn ends_in_bytes(file: &ReadFile) -> io::Result<bool> {
    let mut page = [0; ALIGNMENT];
    let count = file.read_at(&mut page, file.length()?.saturating_sub(ALIGNMENT as u64))?;
    Ok(page.iter().take(count).any(|byte| *byte != 0))
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
    while position < limit {
        let frame = window
            .at(position, FRAME_BYTES)?
            .and_then(|bytes| Frame::decode(bytes, pack, position));
        match frame.filter(|frame| position + u64::from(frame.bytes) <= limit) {
            Some(frame) => {
                scan_frame(&frame, &mut window, &mut payload, &mut found)?;
                position += u64::from(frame.bytes);
                found.end = position;
            }
            None => position += ALIGNMENT as u64,
        }
    }
    Ok(found)
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
            return Ok(());
        };
        payload.resize(header.payload_len as usize, 0);
        let count = window.file.read_at(payload, position + HEADER_BYTES as u64)?;
        if count == payload.len() && crc32c(payload) == header.payload_crc && found.entries.len() < PACK_RECORDS_MAX {
            found
                .entries
                .push(entry(frame.pack, position, &header, found.entries.len() as u32));
        } else {
            found.dropped = found.dropped.saturating_add(1);
        }
        position += stored_bytes(&header);
    }
    Ok(())
}

fn stored_bytes(header: &RecordHeader) -> u64 {
    HEADER_BYTES as u64 + u64::from(header.payload_len)
}

fn entry(pack: PackId, position: u64, header: &RecordHeader, order: u32) -> Entry {
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
    }
}

/// Small structures of a file, read a mebibyte at a time.
struct Window<'a> {
    file: &'a ReadFile,
    limit: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a ReadFile, limit: u64) -> Self {
        Self {
            file,
            limit,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// `length` bytes at `offset`; `None` behind the limit.
    fn at(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
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
