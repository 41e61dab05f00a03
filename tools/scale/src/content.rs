//! The chunks, known by their numbers: nothing has to be remembered to look one up.

use bytes::Bytes;
use cairn::ids::{ChunkId, DomainId};

/// The one dedup domain of the store, and its key.
pub const DOMAIN: DomainId = DomainId(1);
pub const DOMAIN_KEY: [u8; 32] = [7; 32];
/// Bytes of every chunk. Only rows are to be many here, so the packs' records are as short as can be.
pub const CHUNK_BYTES: usize = 64;

/// The plaintext of chunk `number`, and its name as the gateway would give it.
pub fn chunk(number: u64) -> (ChunkId, Bytes) {
    let mut plain = vec![0; CHUNK_BYTES];
    blake3::Hasher::new()
        .update(&number.to_le_bytes())
        .finalize_xof()
        .fill(&mut plain);
    let id = ChunkId(*blake3::keyed_hash(&DOMAIN_KEY, &plain).as_bytes());
    (id, plain.into())
}
