//! Compression of single chunks.
//!
//! A chunk is compressed only where a cheap probe says that it pays, the result is kept only where it is at most nine
//! tenths of the plaintext, and only after it was decoded again and compared.

use std::ops::RangeInclusive;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use parking_lot::Mutex;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, ResetDirective};

use crate::limits::{KIB, MIB};

/// How a record's payload is stored. The numbers are part of the on-disk format; 3 is kept for zstd with a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    Raw = 0,
    Zstd = 1,
    Lz4 = 2,
}

impl Codec {
    /// The codec with this number in a record; `None` for one that this version cannot read.
    pub fn from_u8(number: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd, Self::Lz4]
            .into_iter()
            .find(|codec| *codec as u8 == number)
    }
}

/// How much work new chunks are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Off,
    /// LZ4.
    Fast,
    /// zstd at this level.
    Zstd(i32),
}

impl Compression {
    pub const BALANCED: Self = Self::Zstd(3);
    /// Above it nothing is gained but time lost: 19 takes twice as long for the same bytes in chunks of 64 KiB.
    pub const MAX: Self = Self::Zstd(18);
    pub const ZSTD_LEVELS: RangeInclusive<i32> = 1..=22;
}

impl Default for Compression {
    fn default() -> Self {
        Self::BALANCED
    }
}

/// What is known about the bytes before they are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hint {
    #[default]
    Unknown,
    /// The content type says so: such bytes are not even probed.
    AlreadyCompressed,
}

/// A payload that does not decode to what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {codec:?} payload does not decode to {raw_len} bytes")]
pub struct DecodeError {
    pub codec: Codec,
    pub raw_len: usize,
}

/// Bytes of one probed sample.
const SAMPLE_BYTES: usize = 4 * KIB;
/// Chunks up to this length are probed as a whole.
const PROBE_WHOLE_BYTES: usize = 2 * SAMPLE_BYTES;
/// A decoding scratch beyond this is given back after use.
const SCRATCH_BYTES_KEPT: usize = 512 * KIB;

/// An encoder beyond this is not kept for the next chunk. All levels up to 9 stay below it in chunks of 256 KiB; to make
/// one anew is little beside what the others do with it.
const CONTEXT_BYTES_KEPT: usize = 4 * MIB;
/// How far back zstd looks, as a power of two. Above level 9 its tables are many times the window's size: 67 MiB for a
/// chunk of 4 MiB at level 22 without this bound, and each thread may have one.
const WINDOW_LOG: u32 = 20;

/// Encoders and decoders with their contexts, which are large and reused. A call beyond the number kept makes its own
/// and drops it.
pub struct Codecs {
    contexts_max: usize,
    encoders: Mutex<Vec<Encoder>>,
    decoders: Mutex<Vec<Decompressor<'static>>>,
}

struct Encoder {
    level: i32,
    zstd: Compressor<'static>,
    table: CompressTable,
    sample: Vec<u8>,
    scratch: Vec<u8>,
}

impl Codecs {
    /// Keeps at most `contexts_max` idle contexts of each kind.
    pub fn new(contexts_max: usize) -> Self {
        Self {
            contexts_max,
            encoders: Mutex::new(Vec::new()),
            decoders: Mutex::new(Vec::new()),
        }
    }

    /// Compresses `raw` into `out`, which is cleared first, if that pays. `Codec::Raw` leaves `out` empty.
    pub fn encode(&self, raw: &[u8], setting: Compression, hint: Hint, out: &mut Vec<u8>) -> Codec {
        out.clear();
        if setting == Compression::Off || hint == Hint::AlreadyCompressed || raw.len() < 64 {
            return Codec::Raw;
        }
        let kept = self.encoders.lock().pop();
        let Some(mut encoder) = kept.or_else(Encoder::new) else {
            return Codec::Raw;
        };
        let codec = encoder
            .encode(raw, setting, out)
            .filter(|codec| self.decodes_to(*codec, raw, out, &mut encoder));
        if encoder.scratch.capacity() > SCRATCH_BYTES_KEPT {
            encoder.scratch = Vec::new();
        }
        if encoder.zstd.context_mut().sizeof() <= CONTEXT_BYTES_KEPT {
            let mut encoders = self.encoders.lock();
            if encoders.len() < self.contexts_max {
                encoders.push(encoder);
            }
        }
        if codec.is_none() {
            out.clear();
        }
        codec.unwrap_or(Codec::Raw)
    }

    /// Decodes `stored` into `out`, whose length is the plaintext's: nothing is allocated for it.
    pub fn decode(&self, codec: Codec, stored: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
        let raw_len = out.len();
        let wrong = DecodeError { codec, raw_len };
        let written = match codec {
            Codec::Raw if stored.len() == raw_len => {
                out.copy_from_slice(stored);
                Some(raw_len)
            }
            Codec::Raw => None,
            Codec::Lz4 => decompress_into(stored, out).ok(),
            Codec::Zstd => self.decode_zstd(stored, out),
        };
        if written == Some(raw_len) { Ok(()) } else { Err(wrong) }
    }

    fn decode_zstd(&self, stored: &[u8], out: &mut [u8]) -> Option<usize> {
        let kept = self.decoders.lock().pop();
        let mut decoder = match kept {
            Some(decoder) => decoder,
            None => Decompressor::new().ok()?,
        };
        let written = decoder.decompress_to_buffer(stored, out).ok();
        let mut decoders = self.decoders.lock();
        if decoders.len() < self.contexts_max {
            decoders.push(decoder);
        }
        written
    }

    fn decodes_to(&self, codec: Codec, raw: &[u8], stored: &[u8], encoder: &mut Encoder) -> bool {
        encoder.scratch.resize(raw.len(), 0);
        self.decode(codec, stored, &mut encoder.scratch).is_ok() && encoder.scratch == raw
    }
}

impl Encoder {
    fn new() -> Option<Self> {
        let level = 3;
        let mut zstd = Compressor::new(level).ok()?;
        zstd.set_parameter(CParameter::WindowLog(WINDOW_LOG)).ok()?;
        let sample = vec![0; get_maximum_output_size(PROBE_WHOLE_BYTES)];
        Some(Self {
            level,
            zstd,
            table: CompressTable::small(),
            sample,
            scratch: Vec::new(),
        })
    }

    /// `None` when `raw` is better stored as it is.
    fn encode(&mut self, raw: &[u8], setting: Compression, out: &mut Vec<u8>) -> Option<Codec> {
        if !self.probe(raw) {
            return None;
        }
        let limit = raw.len() / 10 * 9;
        let (codec, length) = match setting {
            Compression::Off => return None,
            Compression::Fast => {
                // A private table: the probe's small one would be replaced by a large one for good.
                out.resize(get_maximum_output_size(raw.len()), 0);
                (Codec::Lz4, lz4_flex::block::compress_into(raw, out).ok()?)
            }
            Compression::Zstd(level) => {
                if level != self.level {
                    self.zstd.set_compression_level(level).ok()?;
                    self.level = level;
                }
                // A result beyond the limit does not fit, which ends the attempt early.
                out.resize(limit, 0);
                let Ok(length) = self.zstd.compress_to_buffer(raw, out.as_mut_slice()) else {
                    // A broken-off session refuses a change of level.
                    self.zstd.context_mut().reset(ResetDirective::SessionOnly).ok()?;
                    return None;
                };
                (Codec::Zstd, length)
            }
        };
        out.truncate(length);
        (length <= limit).then_some(codec)
    }

    /// Whether LZ4 saves at least 6 % of samples from the start and the middle.
    fn probe(&mut self, raw: &[u8]) -> bool {
        if raw.len() <= PROBE_WHOLE_BYTES {
            return self.saves(raw.len(), &[raw]);
        }
        let middle = raw.len() / 2;
        let samples = [raw.get(..SAMPLE_BYTES), raw.get(middle..middle + SAMPLE_BYTES)];
        self.saves(PROBE_WHOLE_BYTES, &samples.map(Option::unwrap_or_default))
    }

    fn saves(&mut self, total: usize, samples: &[&[u8]]) -> bool {
        let mut packed = 0;
        for sample in samples {
            match compress_into_with_table(sample, &mut self.sample, &mut self.table) {
                Ok(length) => packed += length,
                Err(_) => return false,
            }
        }
        packed * 100 < total * 94
    }
}

#[cfg(test)]
mod tests;
