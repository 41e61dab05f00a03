//! The pack's own structures: file header, frame, footer table and trailer. Everything is little-endian; each structure
//! carries its magic, its version and a CRC32C of what lies before the CRC.

use bytes::{Buf, BufMut};

use crate::blob::local::ALIGNMENT;
use crate::chunk::codec::Codec;
use crate::chunk::pack::{Entry, Location};
use crate::chunk::record::{HEADER_BYTES, crc32c};
use crate::ids::{ChunkId, DomainId, PackId};

/// Bytes of the file header: one page. The first frame follows.
pub const FILE_HEADER_BYTES: usize = ALIGNMENT;
pub const FRAME_BYTES: usize = 64;
pub const ENTRY_BYTES: usize = 64;
pub const TRAILER_BYTES: usize = 128;
/// Records of one pack, which bounds the footer to 4 MiB.
pub const PACK_RECORDS_MAX: usize = 65_536;

const VERSION: u16 = 1;
const FILE_MAGIC: [u8; 8] = *b"CairnPck";
const FRAME_MAGIC: [u8; 4] = *b"CrnF";
const TRAILER_MAGIC: [u8; 8] = *b"CairnEnd";
const TRAILER_PACK_OFFSET: usize = 16;

/// `bytes` rounded up to whole pages.
pub fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT as u64)
}

fn seal(bytes: &mut [u8]) {
    if let Some((body, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32c(body).to_le_bytes();
    }
}

fn is_sealed(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<4>()
        .is_some_and(|(body, crc)| crc32c(body).to_le_bytes() == *crc)
}

pub fn file_header(pack: PackId) -> Vec<u8> {
    let mut out = Vec::with_capacity(FILE_HEADER_BYTES);
    out.put_slice(&FILE_MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(FILE_HEADER_BYTES as u16);
    out.put_u32_le(0); // required features
    out.put_slice(&pack.0);
    out.resize(FILE_HEADER_BYTES, 0);
    seal(&mut out);
    out
}

/// What precedes the records of one batch. It names its pack and its own offset: nothing that a client stores can be
/// taken for one, because pack ids are random and never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub pack: PackId,
    pub offset: u32,
    /// Bytes of frame, records and padding.
    pub bytes: u32,
    pub records: u32,
}

impl Frame {
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        let mut out = bytes.as_mut_slice();
        out.put_slice(&FRAME_MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(FRAME_BYTES as u16);
        out.put_u32_le(0); // required features
        out.put_slice(&self.pack.0);
        out.put_u32_le(self.offset);
        out.put_u32_le(self.bytes);
        out.put_u32_le(self.records);
        seal(&mut bytes);
        bytes
    }

    /// The frame of `pack` that lies at `offset`, if these bytes are one.
    pub fn decode(bytes: &[u8], pack: PackId, offset: u64) -> Option<Self> {
        let bytes: &[u8; FRAME_BYTES] = bytes.first_chunk()?;
        if !bytes.starts_with(&FRAME_MAGIC) || !is_sealed(bytes) {
            return None;
        }
        let mut rest = bytes.as_slice();
        rest.advance(FRAME_MAGIC.len());
        let known = rest.get_u16_le() == VERSION && rest.get_u16_le() == FRAME_BYTES as u16 && rest.get_u32_le() == 0;
        let mut id = [0; 16];
        rest.copy_to_slice(&mut id);
        let frame = Self {
            pack: PackId(id),
            offset: rest.get_u32_le(),
            bytes: rest.get_u32_le(),
            records: rest.get_u32_le(),
        };
        let plausible = known
            && frame.pack == pack
            && u64::from(frame.offset) == offset
            && frame.bytes > 0
            && (frame.bytes as usize).is_multiple_of(ALIGNMENT);
        plausible.then_some(frame)
    }
}

/// The last bytes of a sealed pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub pack: PackId,
    pub table_offset: u64,
    pub records: u32,
    /// BLAKE3 of the trailer up to this field and of the table.
    pub root: [u8; 32],
}

impl Trailer {
    fn prefix(pack: PackId, table_offset: u64, records: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER_BYTES);
        out.put_slice(&TRAILER_MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(TRAILER_BYTES as u16);
        out.put_u32_le(0); // required features
        out.put_slice(&pack.0);
        out.put_u64_le(table_offset);
        out.put_u32_le(records);
        out.put_u32_le(ENTRY_BYTES as u32);
        out
    }

    fn root_of(prefix: &[u8], table: &[u8]) -> [u8; 32] {
        *blake3::Hasher::new().update(prefix).update(table).finalize().as_bytes()
    }

    /// Reads the trailer from the last bytes of a file of `file_bytes`.
    pub fn decode(bytes: &[u8], pack: PackId, file_bytes: u64) -> Option<Self> {
        let bytes: &[u8; TRAILER_BYTES] = bytes.last_chunk()?;
        if !bytes.starts_with(&TRAILER_MAGIC) || !is_sealed(bytes) {
            return None;
        }
        let mut rest = bytes.as_slice();
        rest.advance(TRAILER_MAGIC.len());
        let known = rest.get_u16_le() == VERSION && rest.get_u16_le() == TRAILER_BYTES as u16 && rest.get_u32_le() == 0;
        let mut id = [0; 16];
        rest.copy_to_slice(&mut id);
        let (table_offset, records, entry_bytes) = (rest.get_u64_le(), rest.get_u32_le(), rest.get_u32_le());
        let mut root = [0; 32];
        rest.copy_to_slice(&mut root);
        let trailer = Self {
            pack: PackId(id),
            table_offset,
            records,
            root,
        };
        let end = table_offset
            .checked_add(trailer.table_bytes() as u64)?
            .checked_add(TRAILER_BYTES as u64)?;
        let plausible = known
            && trailer.pack == pack
            && entry_bytes as usize == ENTRY_BYTES
            && records as usize <= PACK_RECORDS_MAX
            && end <= file_bytes;
        plausible.then_some(trailer)
    }

    /// Whether the last bytes of a file were once a trailer of `pack`: the one is magic, the other cannot be there by
    /// accident. A trailer lies in one sector, so that a torn one is not there at all.
    pub fn resembles(bytes: &[u8], pack: PackId) -> bool {
        let has = |at: usize, wanted: &[u8]| bytes.get(at..at + wanted.len()) == Some(wanted);
        has(0, &TRAILER_MAGIC) || has(TRAILER_PACK_OFFSET, &pack.0)
    }

    pub fn table_bytes(&self) -> usize {
        self.records as usize * ENTRY_BYTES
    }

    /// The entries of `table`; `None` when it is not the table that was sealed.
    pub fn entries(&self, table: &[u8]) -> Option<Vec<Entry>> {
        let prefix = Self::prefix(self.pack, self.table_offset, self.records);
        if table.len() != self.table_bytes() || Self::root_of(&prefix, table) != self.root {
            return None;
        }
        table
            .chunks_exact(ENTRY_BYTES)
            .map(|bytes| decode_entry(bytes, self.pack))
            .collect()
    }
}

fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.put_slice(&entry.id.0);
    out.put_u64_le(entry.domain.0);
    out.put_u32_le(entry.location.offset);
    out.put_u32_le(entry.location.stored_len);
    out.put_u32_le(entry.location.raw_len);
    out.put_u32_le(entry.order);
    out.put_u32_le(entry.payload_crc);
    out.put_u8(entry.location.codec as u8);
    out.put_u8(u8::from(entry.encrypted));
    out.put_bytes(0, 2);
}

fn decode_entry(mut bytes: &[u8], pack: PackId) -> Option<Entry> {
    if bytes.len() != ENTRY_BYTES {
        return None;
    }
    let mut id = [0; 32];
    bytes.copy_to_slice(&mut id);
    let domain = DomainId(bytes.get_u64_le());
    let (offset, stored_len, raw_len) = (bytes.get_u32_le(), bytes.get_u32_le(), bytes.get_u32_le());
    let (order, payload_crc) = (bytes.get_u32_le(), bytes.get_u32_le());
    let (codec, encrypted) = (Codec::from_u8(bytes.get_u8())?, bytes.get_u8() != 0);
    let location = Location {
        pack,
        offset,
        stored_len,
        raw_len,
        codec,
    };
    (stored_len as usize > HEADER_BYTES).then_some(Entry {
        id: ChunkId(id),
        domain,
        location,
        order,
        payload_crc,
        encrypted,
    })
}

/// The footer of a pack whose records end before `table_offset`, which is aligned: table, padding, trailer; whole pages.
pub fn footer(pack: PackId, table_offset: u64, entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(aligned((entries.len() * ENTRY_BYTES + TRAILER_BYTES) as u64) as usize);
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_unstable_by_key(|entry| (entry.id, entry.location.offset));
    for entry in sorted {
        encode_entry(entry, &mut out);
    }
    let mut trailer = Trailer::prefix(pack, table_offset, entries.len() as u32);
    trailer.put_slice(&Trailer::root_of(&trailer, &out));
    trailer.resize(TRAILER_BYTES, 0);
    seal(&mut trailer);
    out.resize(aligned((out.len() + TRAILER_BYTES) as u64) as usize - TRAILER_BYTES, 0);
    out.put_slice(&trailer);
    out
}
