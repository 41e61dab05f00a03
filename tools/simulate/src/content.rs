//! Bodies: put together from a few blocks, so that objects share chunks.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use md5::{Digest, Md5};
use parking_lot::Mutex;

use crate::world::World;

const BLOCKS: usize = 10;
const SMALL_BYTES_MAX: u64 = 9_000;
/// Bytes of all parts of an upload but the last.
pub const PART_BYTES: usize = 5 << 20;

pub struct Contents {
    blocks: Vec<Bytes>,
    /// Every body that was ever sent, by its ETag.
    known: Mutex<BTreeMap<String, Bytes>>,
}

/// The ETag of a plain body.
pub fn tag_of(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// The ETag of an object of parts.
pub fn tag_of_parts(tags: &[String]) -> String {
    let md5s: Vec<u8> = tags
        .iter()
        .flat_map(|tag| hex::decode(tag).unwrap_or_default())
        .collect();
    format!("{}-{}", tag_of(&md5s), tags.len())
}

impl Contents {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let block = |number: usize| {
            let length = rng.usize(10_000..90_000);
            let mut block = vec![0; length];
            match number {
                // A hole.
                0 => block.resize(300_000, 0),
                // Text that compresses.
                1..4 => block.iter_mut().for_each(|byte| *byte = b'a' + rng.u8(0..4)),
                _ => rng.fill(&mut block),
            }
            block.into()
        };
        Self {
            blocks: (0..BLOCKS).map(block).collect(),
            known: Mutex::default(),
        }
    }

    /// Notes a body that is going to be sent.
    pub fn know(&self, tag: String, bytes: Bytes) {
        self.known.lock().insert(tag, bytes);
    }

    pub fn known(&self, tag: &str) -> Option<Bytes> {
        self.known.lock().get(tag).cloned()
    }

    /// A body of one request.
    pub fn body(&self, world: &World) -> Bytes {
        if world.chance(world.plan.large) {
            return self.blocks_of(world, 3_000_000);
        }
        match world.below(10) {
            0 => Bytes::new(),
            1..4 => self.slice(world, SMALL_BYTES_MAX),
            4..6 => self.blocks_of(world, 1),
            _ => {
                let mut body = BytesMut::from(self.blocks_of(world, 60_000));
                body.extend_from_slice(&self.slice(world, 20_000));
                body.freeze()
            }
        }
    }

    /// The bytes of a part that others follow: mostly zeros, as five MiB of anything else would take long.
    pub fn part(&self, world: &World) -> Bytes {
        let mut part = BytesMut::from(self.blocks_of(world, 60_000));
        part.resize(PART_BYTES, 0);
        part.freeze()
    }

    fn blocks_of(&self, world: &World, least: usize) -> Bytes {
        let mut body = BytesMut::new();
        while body.len() < least {
            body.extend_from_slice(world.pick(&self.blocks).map_or(&[], |block| block));
        }
        body.freeze()
    }

    fn slice(&self, world: &World, most: u64) -> Bytes {
        let block = world.pick(&self.blocks).cloned().unwrap_or_default();
        let from = world.below(block.len() as u64 / 2) as usize;
        let length = 1 + world.below(most) as usize;
        block.slice(from..block.len().min(from + length))
    }
}
