//! Dedup domains and their keys.

use std::fmt;
use std::sync::Arc;

use crate::chunk::cipher::Key;
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
    naming: Key,
    pub(super) segment_key: Key,
    data: Option<Key>,
}

impl fmt::Debug for DomainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DomainKey({})", self.id.0)
    }
}

impl DomainKey {
    fn new(id: DomainId, naming: Key, data: Option<Key>) -> Self {
        let segment_key = Key::new(blake3::derive_key("cairn 2026-11 segment names", naming.expose()));
        Self {
            id,
            naming,
            segment_key,
            data,
        }
    }

    /// The name of a chunk of this domain.
    pub fn chunk_id(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(self.naming.expose(), plaintext).as_bytes())
    }

    /// What its bytes are encrypted with; `None`: the store is not encrypted.
    pub fn data_key(&self) -> Option<&Key> {
        self.data.as_ref()
    }
}

impl ChunkStore {
    /// Makes a domain with random keys, durably.
    pub async fn create_domain(&self) -> Result<DomainId, MetaError> {
        let naming = Key::random();
        for _ in 0..DOMAIN_TRIES_MAX {
            let [.., a, b, c, d, e, f, g, h] = self.ids.next();
            let id = DomainId(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
            let row = DomainRow {
                secret: self.keys.domain_secret(id, &naming),
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

    /// The keys of `id`. A domain's keys never change, so they are read once.
    pub(super) async fn domain(&self, id: DomainId) -> Result<Arc<DomainKey>, WriteError> {
        if let Some(key) = self.domains.get(&id) {
            return Ok(key);
        }
        let value = self
            .kv
            .get(&key::domain(id))
            .await?
            .ok_or(WriteError::UnknownDomain(id))?;
        let (naming, data) = self.keys.domain_keys(id, &DomainRow::decode(value.bytes)?.secret)?;
        let key = Arc::new(DomainKey::new(id, naming, data));
        self.domains.insert(id, Arc::clone(&key));
        Ok(key)
    }
}
