//! The bytes of file headers, frames and effects. Every integer is little-endian.

use crate::ids::Sequence;
use crate::limits::LOG_FRAME_BYTES_MAX;

pub(super) const BLOCK_BYTES: usize = 4096;
pub(super) const FRAME_HEADER_BYTES: usize = 64;

const FRAME_MAGIC: [u8; 4] = *b"CFRM";
const FILE_MAGIC: [u8; 8] = *b"CAIRNLOG";
const FORMAT: u16 = 1;
/// The file does not continue the ones before it: everything in them is flushed.
const FLAG_FRESH: u16 = 1;
/// In file headers and in frames alike.
const CHECKSUM_AT: usize = 56;

/// Numbers, offsets and sequences stay below this, so that counting on never overflows. No log comes there: at a billion
/// a second it takes a century.
pub(super) const COUNTER_MAX: u64 = 1 << 62;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// A number at a fixed place.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

fn put_at(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(at..at + value.len()) {
        target.copy_from_slice(value);
    }
}

/// CRC-64/NVME of all bytes, the checksum field counted as zero. It guards against accidents, not against an
/// adversary: who can write the file can compute any hash. At some 10 GB/s it costs a tenth of BLAKE3.
fn checksum(bytes: &mut [u8]) -> u64 {
    let stored: [u8; 8] = field(bytes, CHECKSUM_AT).unwrap_or_default();
    put_at(bytes, CHECKSUM_AT, &[0; 8]);
    let sum = crc_fast::crc64_nvme(bytes);
    put_at(bytes, CHECKSUM_AT, &stored);
    sum
}

fn is_intact(bytes: &mut [u8]) -> bool {
    u64_at(bytes, CHECKSUM_AT) == Some(checksum(bytes))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub is_fresh: bool,
    /// One more than that of the file before.
    pub number: u64,
    /// Random; in every frame of the file, so that a recycled file's stale frames are not taken for its own.
    pub id: u64,
    /// Log offset of the file's first byte.
    pub base: u64,
    /// The sequence that the file's first mutation has.
    pub first: Sequence,
    /// Checksum of the last frame before the file; 0: there is none.
    pub previous: u64,
}

impl FileHeader {
    pub fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        put_at(block, 0, &FILE_MAGIC);
        put_at(block, 8, &FORMAT.to_le_bytes());
        put_at(block, 10, &(if self.is_fresh { FLAG_FRESH } else { 0 }).to_le_bytes());
        put_at(block, 16, &self.number.to_le_bytes());
        put_at(block, 24, &self.id.to_le_bytes());
        put_at(block, 32, &self.base.to_le_bytes());
        put_at(block, 40, &self.first.0.to_le_bytes());
        put_at(block, 48, &self.previous.to_le_bytes());
        let sum = checksum(block);
        put_at(block, CHECKSUM_AT, &sum.to_le_bytes());
    }

    /// `None`: not an intact header of this format.
    pub fn decode(block: &mut [u8]) -> Option<Self> {
        let is_ours = block.starts_with(&FILE_MAGIC) && u16_at(block, 8)? == FORMAT;
        if block.len() != BLOCK_BYTES || !is_ours || !is_intact(block) {
            return None;
        }
        let header = Self {
            is_fresh: u16_at(block, 10)? & FLAG_FRESH != 0,
            number: u64_at(block, 16)?,
            id: u64_at(block, 24)?,
            base: u64_at(block, 32)?,
            first: Sequence(u64_at(block, 40)?),
            previous: u64_at(block, 48)?,
        };
        let is_sane = [header.number, header.base, header.first.0]
            .iter()
            .all(|counter| *counter < COUNTER_MAX);
        is_sane.then_some(header)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Bytes of header and effects, without the padding to the next block.
    pub length: u32,
    /// Mutations in the frame; 0: a mark.
    pub count: u32,
    pub first: Sequence,
    /// Log offset up to which all was known durable when the frame was written.
    pub synced_through: u64,
    /// Checksum of the frame before.
    pub previous: u64,
    pub file_id: u64,
    /// The frame's own log offset.
    pub offset: u64,
    pub checksum: u64,
}

impl FrameHeader {
    pub fn padded(&self) -> usize {
        (self.length as usize).next_multiple_of(BLOCK_BYTES)
    }

    /// Writes the header into `frame`, the padded frame, and returns its checksum.
    pub fn seal(&self, frame: &mut [u8]) -> u64 {
        put_at(frame, 0, &FRAME_MAGIC);
        put_at(frame, 4, &FORMAT.to_le_bytes());
        put_at(frame, 8, &self.length.to_le_bytes());
        put_at(frame, 12, &self.count.to_le_bytes());
        put_at(frame, 16, &self.first.0.to_le_bytes());
        put_at(frame, 24, &self.synced_through.to_le_bytes());
        put_at(frame, 32, &self.previous.to_le_bytes());
        put_at(frame, 40, &self.file_id.to_le_bytes());
        put_at(frame, 48, &self.offset.to_le_bytes());
        let sum = checksum(frame);
        put_at(frame, CHECKSUM_AT, &sum.to_le_bytes());
        sum
    }

    /// What `block`, the first of a frame, claims; `None`: no frame of the file `file_id` begins here.
    pub fn claimed(block: &[u8], file_id: u64) -> Option<Self> {
        if !block.starts_with(&FRAME_MAGIC) || u16_at(block, 4)? != FORMAT || u64_at(block, 40)? != file_id {
            return None;
        }
        let header = Self {
            length: u32_at(block, 8)?,
            count: u32_at(block, 12)?,
            first: Sequence(u64_at(block, 16)?),
            synced_through: u64_at(block, 24)?,
            previous: u64_at(block, 32)?,
            file_id,
            offset: u64_at(block, 48)?,
            checksum: u64_at(block, CHECKSUM_AT)?,
        };
        let length = header.length as usize;
        (FRAME_HEADER_BYTES..=LOG_FRAME_BYTES_MAX)
            .contains(&length)
            .then_some(header)
    }

    /// Whether the padded `frame`, which claims to be this one, is intact.
    pub fn verifies(&self, frame: &mut [u8]) -> bool {
        frame.len() == self.padded() && is_intact(frame)
    }
}

/// The file that the frame at the front of `bytes` says it is of.
pub(super) fn file_id(bytes: &[u8]) -> Option<u64> {
    u64_at(bytes, 40)
}

/// One resolved effect of a frame.
#[derive(Clone, Copy)]
pub(in crate::kv) enum Effect<'a> {
    /// `stored` is the row's version, then its bytes.
    Put {
        key: &'a [u8],
        stored: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
}

impl<'a> Effect<'a> {
    pub fn key(self) -> &'a [u8] {
        let (Self::Put { key, .. } | Self::Delete { key }) = self;
        key
    }
}

/// The effects of a frame, in order; `Err` once if the bytes are no effects.
#[derive(Clone)]
pub(in crate::kv) struct Effects<'a>(&'a [u8]);

impl<'a> Effects<'a> {
    pub(super) fn of(frame: &'a [u8], length: u32) -> Self {
        Self(frame.get(FRAME_HEADER_BYTES..length as usize).unwrap_or_default())
    }

    /// Effects by themselves, as [`push_put`] writes them.
    pub fn bare(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self) -> Option<Effect<'a>> {
        let kind = *self.0.first()?;
        let key_bytes = usize::from(u16_at(self.0, 1)?);
        let stored_bytes = u32_at(self.0, 3)? as usize;
        let (key, rest) = self.0.get(7..)?.split_at_checked(key_bytes)?;
        let (stored, rest) = rest.split_at_checked(stored_bytes)?;
        self.0 = rest;
        match kind {
            PUT => Some(Effect::Put { key, stored }),
            DELETE if stored.is_empty() => Some(Effect::Delete { key }),
            _ => None,
        }
    }
}

impl<'a> Iterator for Effects<'a> {
    type Item = Result<Effect<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let effect = self.take();
        if effect.is_none() {
            self.0 = &[];
        }
        Some(effect.ok_or_else(|| "a frame holds malformed effects".to_owned()))
    }
}

/// Writes the effect that puts a row; `stored` is its version, then its bytes.
pub(in crate::kv) fn push_put(out: &mut Vec<u8>, key: &[u8], stored: &[u8]) {
    out.extend_from_slice(&effect_header(key.len(), Some(stored.len())));
    out.extend_from_slice(key);
    out.extend_from_slice(stored);
}

/// The bytes before an effect's key.
pub(super) fn effect_header(key_bytes: usize, stored_bytes: Option<usize>) -> [u8; 7] {
    let mut header = [0; 7];
    put_at(&mut header, 0, &[if stored_bytes.is_some() { PUT } else { DELETE }]);
    // Lossless: a key has at most ENCODED_KEY_BYTES_MAX bytes and a value at most MUTATION_BYTES_MAX.
    put_at(&mut header, 1, &(key_bytes as u16).to_le_bytes());
    put_at(&mut header, 3, &(stored_bytes.unwrap_or(0) as u32).to_le_bytes());
    header
}
