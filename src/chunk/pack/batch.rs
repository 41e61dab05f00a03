//! A batch: the appends that one sync makes durable, laid out as a frame, its records and padding to the page.

use std::io;
use std::mem;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::blob::local::{ALIGNMENT, AppendFile};
use crate::chunk::codec::Codec;
use crate::chunk::pack::format::{
    ENTRY_BYTES, FILE_HEADER_BYTES, FRAME_BYTES, Frame, TRAILER_BYTES, aligned, file_header, footer,
};
use crate::chunk::pack::{AppendError, Entry, Location, NewRecord};
use crate::chunk::pool::Block;
use crate::chunk::record::{HEADER_BYTES, RECORD_RAW_BYTES_MAX, RecordHeader, crc32c};
use crate::ids::PackId;

/// Bytes of one append.
pub const APPEND_BYTES_MAX: usize = 16 << 20;

/// A record ready to be laid out.
pub struct Record {
    pub header: RecordHeader,
    /// The header as it was read, when the record is copied from another pack.
    verbatim: Option<[u8; HEADER_BYTES]>,
    payload: Bytes,
}

impl Record {
    /// The CRC is left for the syncer's thread.
    pub fn new(new: NewRecord) -> Result<Self, AppendError> {
        let (raw_len, header) = (new.raw.len(), new.header());
        let payload = new.encoded.map_or(new.raw, |(_, stored)| Bytes::from(stored));
        let shrinks = if header.codec == Codec::Raw {
            payload.len() == raw_len
        } else {
            payload.len() < raw_len
        };
        if raw_len == 0 || raw_len > RECORD_RAW_BYTES_MAX || payload.is_empty() || !shrinks {
            return Err(AppendError::Size { bytes: raw_len });
        }
        Ok(Self {
            header,
            verbatim: None,
            payload,
        })
    }

    /// A record that was read and verified: it is written again to the byte.
    pub fn verbatim(header: RecordHeader, bytes: [u8; HEADER_BYTES], payload: Bytes) -> Self {
        Self {
            header,
            verbatim: Some(bytes),
            payload,
        }
    }

    pub fn stored_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    fn header_bytes(&mut self) -> [u8; HEADER_BYTES] {
        if let Some(bytes) = self.verbatim {
            return bytes;
        }
        self.header.payload_crc = crc32c(&self.payload);
        let bytes = self.header.encode();
        self.verbatim = Some(bytes);
        bytes
    }
}

/// One call's records and where its answer goes.
pub struct Append {
    pub records: Vec<Record>,
    pub bytes: usize,
    pub answer: oneshot::Sender<Result<Vec<Location>, AppendError>>,
}

impl Append {
    pub fn locations(&self, entries: &mut impl Iterator<Item = Entry>) -> Vec<Location> {
        entries
            .by_ref()
            .take(self.records.len())
            .map(|entry| entry.location)
            .collect()
    }
}

/// Bytes that a batch takes in the file.
pub fn batch_bytes(appends: &[Append]) -> u64 {
    aligned(FRAME_BYTES as u64 + appends.iter().map(|append| append.bytes as u64).sum::<u64>())
}

/// Aligned memory through which everything goes to the file; whole pages only.
pub struct Staging {
    block: Block,
    filled: usize,
}

impl Staging {
    pub fn new(bytes: usize) -> Self {
        Self {
            block: Block::new(bytes),
            filled: 0,
        }
    }

    /// A writer that starts at `offset` of `file`, which is aligned.
    pub fn begin<'a>(&'a mut self, file: &'a AppendFile, offset: u64) -> StagedWriter<'a> {
        self.filled = 0;
        StagedWriter {
            staging: self,
            file,
            offset,
        }
    }
}

pub struct StagedWriter<'a> {
    staging: &'a mut Staging,
    file: &'a AppendFile,
    offset: u64,
}

/// Where a batch is laid out.
pub trait Sink {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Sink for StagedWriter<'_> {
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self
                .staging
                .block
                .as_mut_slice()
                .get_mut(self.staging.filled..)
                .unwrap_or_default();
            let count = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            if let Some(room) = room.get_mut(..count) {
                room.copy_from_slice(now);
            }
            self.staging.filled += count;
            bytes = later;
            if self.staging.filled == self.staging.block.capacity() {
                self.flush()?;
            }
        }
        Ok(())
    }
}

impl StagedWriter<'_> {
    /// Pads to the page with zeros and writes what is left.
    pub fn finish(mut self) -> io::Result<()> {
        let padding = self.staging.filled.next_multiple_of(ALIGNMENT) - self.staging.filled;
        self.put([0; ALIGNMENT].get(..padding).unwrap_or_default())?;
        if self.staging.filled > 0 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = self
            .staging
            .block
            .as_slice()
            .get(..self.staging.filled)
            .unwrap_or_default();
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += mem::take(&mut self.staging.filled) as u64;
        Ok(())
    }
}

/// Writes the footer of a pack whose records end before `end` and cuts the file behind it. Returns the file's length.
///
/// The table is durable before the trailer is written, so that a trailer never vouches for a table that a power cut took.
/// The trailer needs no sync: a start that finds none finds the same records by a scan.
pub fn write_footer(
    staging: &mut Staging,
    file: &AppendFile,
    pack: PackId,
    end: u64,
    entries: &[Entry],
) -> io::Result<u64> {
    let mut footer = footer(pack, end, entries);
    let length = end + footer.len() as u64;
    let last_page = footer.split_off(footer.len().saturating_sub(ALIGNMENT));
    let mut writer = staging.begin(file, end);
    writer.put(&footer)?;
    writer.put(last_page.get(..ALIGNMENT - TRAILER_BYTES).unwrap_or_default())?;
    writer.finish()?;
    file.truncate_and_sync(length)?;
    let mut writer = staging.begin(file, length - ALIGNMENT as u64);
    writer.put(&last_page)?;
    writer.finish()?;
    Ok(length)
}

/// A whole sealed pack of `appends`, and a footer entry for each record, in order.
pub fn seal(pack: PackId, appends: &mut [Append]) -> io::Result<(Vec<u8>, Vec<Entry>)> {
    let end = FILE_HEADER_BYTES as u64 + batch_bytes(appends);
    let records: usize = appends.iter().map(|append| append.records.len()).sum();
    let length = end + aligned((records * ENTRY_BYTES + TRAILER_BYTES) as u64);
    let mut out = Vec::with_capacity(length as usize);
    out.put(&file_header(pack))?;
    let entries = write(&mut out, pack, FILE_HEADER_BYTES as u64, 0, appends)?;
    out.resize(end as usize, 0);
    out.put(&footer(pack, end, &entries))?;
    Ok((out, entries))
}

/// Lays `appends` out at `offset` of `pack` and returns a footer entry for each record, in order.
pub fn write(
    writer: &mut impl Sink,
    pack: PackId,
    offset: u64,
    first_order: u32,
    appends: &mut [Append],
) -> io::Result<Vec<Entry>> {
    let too_far = || io::Error::other("a pack is longer than 4 GiB");
    let records: usize = appends.iter().map(|append| append.records.len()).sum();
    let frame = Frame {
        pack,
        offset: u32::try_from(offset).map_err(|_| too_far())?,
        bytes: u32::try_from(batch_bytes(appends)).map_err(|_| too_far())?,
        records: records as u32,
    };
    frame.offset.checked_add(frame.bytes).ok_or_else(too_far)?;
    writer.put(&frame.encode())?;
    let mut entries = Vec::with_capacity(records);
    let mut position = frame.offset + FRAME_BYTES as u32;
    for record in appends.iter_mut().flat_map(|append| &mut append.records) {
        writer.put(&record.header_bytes())?;
        writer.put(&record.payload)?;
        let stored_len = record.stored_bytes() as u32;
        let RecordHeader {
            domain,
            id,
            codec,
            raw_len,
            payload_crc,
            envelope,
            ..
        } = record.header;
        let location = Location {
            pack,
            offset: position,
            stored_len,
            raw_len,
            codec,
        };
        let order = first_order + entries.len() as u32;
        entries.push(Entry {
            id,
            domain,
            location,
            order,
            payload_crc,
            encrypted: envelope.is_some(),
        });
        position += stored_len;
    }
    Ok(entries)
}
