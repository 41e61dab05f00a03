//! Dedup domains and their keys.

use std::fmt;
use std::sync::Arc;

use crate::chunk::error::{MetaError, WriteError};
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, DomainId};
use crate::kv::{CommitError, Mutation};
use crate::meta::domain::DomainRow;
use crate::meta::key;
use crate::meta::record::UnknownFields;

/// Tries to find an unused number; the first is as good as sure to be unused.
const DOMAIN_TRIES_MAX: u32 = 8;

/// A domain's keys. Chunks and segments have their own, so that no plaintext can be made that has a segment's name.
pub struct DomainKey {
    pub id: DomainId,
    key: [u8; 32],
    pub(super) segment_key: [u8; 32],
}

impl fmt::Debug for DomainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DomainKey({})", self.id.0)
    }
}

impl DomainKey {
    fn new(id: DomainId, key: [u8; 32]) -> Self {
        Self {
            id,
            key,
            segment_key: blake3::derive_key("cairn 2026-11 segment names", &key),
        }
    }

    /// The name of a chunk of this domain.
    pub fn chunk_id(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.key, plaintext).as_bytes())
    }
}

impl ChunkStore {
    /// Makes a domain with a random key, durably.
    pub async fn create_domain(&self) -> Result<DomainId, MetaError> {
        let mut secret = [0; 32];
        // Without entropy there are no secret keys, and without them no domains.
        #[allow(clippy::expect_used)]
        getrandom::fill(&mut secret).expect("the operating system's random source");
        for _ in 0..DOMAIN_TRIES_MAX {
            let [.., a, b, c, d, e, f, g, h] = self.ids.next();
            let id = DomainId(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
            let row = DomainRow {
                key: secret,
                created: self.clock.now(),
                unknown: UnknownFields::default(),
            };
            let mut mutation = Mutation::new();
            mutation.absent(key::domain(id));
            mutation.put(key::domain(id), row.encode());
            match self.kv.commit(mutation).await {
                Ok(_) => return Ok(id),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(MetaError::Contended)
    }

    /// The keys of `id`. A domain never changes, so it is read once.
    pub(super) async fn domain(&self, id: DomainId) -> Result<Arc<DomainKey>, WriteError> {
        if let Some(key) = self.domains.get(&id) {
            return Ok(key);
        }
        let value = self
            .kv
            .get(&key::domain(id))
            .await?
            .ok_or(WriteError::UnknownDomain(id))?;
        let key = Arc::new(DomainKey::new(id, DomainRow::decode(value.bytes)?.key));
        self.domains.insert(id, Arc::clone(&key));
        Ok(key)
    }
}
