//! Bodies made from a seed, so that a body is checked without being kept.

use fastrand::Rng;
use md5::{Digest, Md5};

/// What an object holds: `pieces` of (seed, bytes) behind each other (a multipart object has several).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub pieces: Vec<(u64, usize)>,
}

impl Content {
    pub fn one(seed: u64, bytes: usize) -> Self {
        Self {
            pieces: vec![(seed, bytes)],
        }
    }

    pub fn size(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes).sum()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        for (seed, bytes) in &self.pieces {
            generate(*seed, *bytes, &mut out);
        }
        out
    }
}

/// Some bodies are random, some text, some zeros, and some share long runs with others, so that every way of storing
/// a chunk is met.
fn generate(seed: u64, bytes: usize, out: &mut Vec<u8>) {
    let mut rng = Rng::with_seed(seed);
    let end = out.len() + bytes;
    let shared = rng.u32(0..4) == 0;
    while out.len() < end {
        let run = rng.usize(1..=200_000).min(end - out.len());
        let from = out.len();
        match rng.u32(0..10) {
            0 => out.resize(from + run, 0),
            1 => out.extend(b"the same words over and over ".iter().copied().cycle().take(run)),
            _ => {
                out.resize(from + run, 0);
                let mut source = Rng::with_seed(if shared { rng.u64(0..8) } else { rng.u64(..) });
                source.fill(out.get_mut(from..).unwrap_or_default());
            }
        }
    }
}

pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// The ETag of a plain put.
pub fn etag(bytes: &[u8]) -> String {
    hex::encode(md5(bytes))
}

/// The ETag of a multipart object: the MD5 of its parts' MD5s and their number.
pub fn multipart_etag(parts: &[[u8; 16]]) -> String {
    format!("{}-{}", hex::encode(md5(&parts.concat())), parts.len())
}
