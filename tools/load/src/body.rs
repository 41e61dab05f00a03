//! Object contents. Every 4 KiB block of a body starts with a 24-byte stamp (run, object, block number) over shared
//! random bytes: no two blocks that were ever sent are equal, so neither deduplication nor compression finds anything,
//! while making a body costs one copy. A chunk of 4 KiB + 24 bytes or more always holds a whole stamp. The same three
//! numbers make the same bytes again, which is how a GET is checked.

use std::time::{SystemTime, UNIX_EPOCH};

const BLOCK_BYTES: u64 = 4096;
/// Large enough that nothing repeats within 8 MiB of a body, small enough to make in 10 ms.
const POOL_BYTES: usize = 8 << 20;
const WORDS: [&str; 16] = [
    "gateway ", "object ", "bucket ", "durable ", "the ", "of ", "and ", "stored ", "chunk ", "once ", "to ", "in ",
    "record ", "commit ", "is ", "\n",
];

/// Stands for the run in objects made beforehand, so that a later run with `--no-fill` knows what they hold.
const FILL_RUN: u64 = 0x6361_6972_6E6C_6F61;
/// Marks the number of an object made beforehand.
pub const FILLED: u64 = 1 << 63;

pub struct Content {
    pool: Vec<u8>,
    run: u64,
}

/// xorshift64*: quick, and random enough that no compressor gains.
pub fn next_random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

impl Content {
    /// `run` differs between runs, so that a second run against the same store sends new bytes again.
    pub fn new(compressible: bool, run: u64) -> Self {
        let mut state = FILL_RUN;
        let mut pool = Vec::with_capacity(POOL_BYTES + 16);
        while pool.len() < POOL_BYTES {
            let random = next_random(&mut state);
            if compressible {
                let word = WORDS.get((random >> 60) as usize).unwrap_or(&" ");
                pool.extend_from_slice(word.as_bytes());
            } else {
                pool.extend_from_slice(&random.to_le_bytes());
            }
        }
        pool.truncate(POOL_BYTES);
        Self { pool, run }
    }

    pub fn run(&self) -> u64 {
        self.run
    }

    pub fn fresh_run() -> u64 {
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |d| d.as_nanos() as u64);
        nanos.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Appends the bytes `[offset, offset + length)` of `object`; `offset` must be a multiple of 4 KiB.
    pub fn append(&self, object: u64, offset: u64, length: usize, out: &mut Vec<u8>) {
        let run = if object & FILLED == 0 { self.run } else { FILL_RUN };
        let begin = out.len();
        let spread = object.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let mut position = (spread.wrapping_mul(BLOCK_BYTES).wrapping_add(offset) % POOL_BYTES as u64) as usize;
        while out.len() < begin + length {
            let take = (begin + length - out.len()).min(POOL_BYTES - position);
            out.extend_from_slice(self.pool.get(position..position + take).unwrap_or_default());
            position = (position + take) % POOL_BYTES;
        }
        let blocks = out
            .get_mut(begin..)
            .unwrap_or_default()
            .chunks_mut(BLOCK_BYTES as usize);
        for (block, index) in blocks.zip(offset / BLOCK_BYTES..) {
            let stamp = [run, object, index];
            for (field, value) in block.chunks_mut(8).zip(stamp) {
                field
                    .iter_mut()
                    .zip(value.to_le_bytes())
                    .for_each(|(to, from)| *to = from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_unique_and_pieces_agree_with_the_whole() {
        let content = Content::new(false, 7);
        let mut whole = Vec::new();
        content.append(3, 0, 100_000, &mut whole);
        let mut pieces = Vec::new();
        content.append(3, 0, 65_536, &mut pieces);
        content.append(3, 65_536, 100_000 - 65_536, &mut pieces);
        assert!(whole == pieces);
        content.append(4, 0, 100_000, &mut whole);
        let blocks: std::collections::HashSet<&[u8]> = whole.chunks(4096).collect();
        assert_eq!(blocks.len(), whole.len().div_ceil(4096));
    }
}
