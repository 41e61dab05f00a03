//! Where chunks end: content-defined, by FastCDC 2020 (Xia et al., https://ieeexplore.ieee.org/document/9055082).
//!
//! Boundaries are an on-disk format: a changed boundary finds none of the chunks that are stored already. The sizes, the
//! masks and the results on known data are pinned here and in the tests.

use fastcdc::v2020;

use crate::limits::{KIB, MIB};

/// Which sizes the chunks of a payload have. The numbers are part of the on-disk format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Profile {
    /// 16, 64 and 256 KiB: minimum, average and maximum.
    #[default]
    General = 1,
    /// 4, 16 and 64 KiB, for many similar files.
    Backup = 2,
    /// 1, 2 and 4 MiB, for large files that are alike as a whole or not at all.
    Media = 3,
}

impl Profile {
    pub const ALL: [Self; 3] = [Self::General, Self::Backup, Self::Media];

    /// The profile with this number in a record.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| *profile as u8 == number)
    }

    pub fn chunk_bytes_min(self) -> usize {
        self.parameters().min
    }

    pub fn chunk_bytes_average(self) -> usize {
        self.parameters().average
    }

    pub fn chunk_bytes_max(self) -> usize {
        self.parameters().max
    }

    pub fn chunker(self) -> Box<dyn Chunker> {
        Box::new(FastCdc(self.parameters()))
    }

    const fn parameters(self) -> Parameters {
        // The masks are those of the paper's normalization level 1 for the average: one bit more than its logarithm
        // before the average, one bit less behind it.
        match self {
            Self::General => Parameters {
                min: 16 * KIB,
                average: 64 * KIB,
                max: 256 * KIB,
                mask_before: 0x0000_d907_0353_7000,
                mask_behind: 0x0000_d90f_0353_0000,
            },
            Self::Backup => Parameters {
                min: 4 * KIB,
                average: 16 * KIB,
                max: 64 * KIB,
                mask_before: 0x0000_d90f_0353_0000,
                mask_behind: 0x0000_d903_0353_0000,
            },
            Self::Media => Parameters {
                min: MIB,
                average: 2 * MIB,
                max: 4 * MIB,
                mask_before: 0x0000_d937_6753_7000,
                mask_behind: 0x0000_d917_4753_7000,
            },
        }
    }
}

/// Bytes of the largest chunk of any profile.
pub const CHUNK_BYTES_MAX: usize = 4 * MIB;

/// Finds the chunks of a stream. A chunk's end depends on the bytes from its own start alone.
pub trait Chunker: Send + Sync {
    /// The length of the chunk that starts at `data[0]`; `None` when it cannot be told without more bytes. With `last`
    /// no more bytes will come, and only empty data answers `None`.
    ///
    /// A `None` has read all of `data` in vain: callers gather some bytes before they ask again.
    fn cut(&self, data: &[u8], last: bool) -> Option<usize>;
}

#[derive(Clone, Copy)]
struct Parameters {
    min: usize,
    average: usize,
    max: usize,
    mask_before: u64,
    mask_behind: u64,
}

struct FastCdc(Parameters);

impl Chunker for FastCdc {
    fn cut(&self, data: &[u8], last: bool) -> Option<usize> {
        let known_to_end = last || data.len() >= self.0.max;
        // The scan takes bytes in pairs: an odd last byte can be no boundary yet.
        let seen = if known_to_end {
            data
        } else {
            data.get(..data.len() & !1)?
        };
        if seen.is_empty() {
            return None;
        }
        let Parameters {
            min,
            average,
            max,
            mask_before,
            mask_behind,
        } = self.0;
        let (_, length) = v2020::cut(
            seen,
            min,
            average,
            max,
            mask_before,
            mask_behind,
            mask_before << 1,
            mask_behind << 1,
        );
        (known_to_end || length < seen.len()).then_some(length)
    }
}

#[cfg(test)]
mod tests;
