//! From where a record lies to its plaintext: the one way for all who read chunks.

use std::sync::Arc;

use bytes::Bytes;

use crate::chunk::domain::DomainKey;
use crate::chunk::error::{CollectError, WriteError};
use crate::chunk::pack::{self, Extent, Through, Wanted};
use crate::chunk::store::ChunkStore;
use crate::ids::ChunkId;

/// Why a record is damaged whose checksums fit.
pub(super) const NOT_ITS_NAME: &str = "its bytes are not those that its name was made from";

impl ChunkStore {
    /// The plaintexts of an extent's records. Where their keys cannot be had, that is said, and nothing of the records. What
    /// comes over a network, or from a cache of such, is held against the full hash that names it.
    pub(super) async fn read_records(&self, extent: Extent) -> Result<Vec<(ChunkId, Bytes)>, pack::ReadError> {
        let keys = self.keys_of(&extent).await?;
        let read = self.packs.read(extent.clone(), keys, Through::Cache).await;
        let read = match read {
            Ok(read) if read.is_far => self.held_against_names(&extent, read.records).await,
            read => read.map(|read| read.records),
        };
        if let Err(pack::ReadError::Damaged { .. } | pack::ReadError::WrongChunk { .. }) = &read {
            // The next read asks the pack itself.
            self.packs.uncache(&extent);
        }
        read
    }

    /// The same from the packs themselves, for those who look whether these are good, and compare the hashes: no cache answers.
    pub(super) async fn read_packs(&self, extent: Extent) -> Result<Vec<(ChunkId, Bytes)>, pack::ReadError> {
        let keys = self.keys_of(&extent).await?;
        Ok(self.packs.read(extent, keys, Through::Source).await?.records)
    }

    async fn keys_of(&self, extent: &Extent) -> Result<Vec<Arc<DomainKey>>, pack::ReadError> {
        let mut keys: Vec<Arc<DomainKey>> = Vec::new();
        if self.keys.is_on() {
            for domain in extent.records().iter().map(|wanted| wanted.domain) {
                if keys.iter().any(|key| key.id == domain) {
                    continue;
                }
                match self.domain(domain).await {
                    Ok(key) => keys.push(key),
                    // A clear record needs none; one that does is told by the reader.
                    Err(WriteError::UnknownDomain(_)) => {}
                    Err(error) => {
                        return Err(pack::ReadError::Io {
                            pack: extent.pack(),
                            error: std::io::Error::other(error),
                        });
                    }
                }
            }
        }
        Ok(keys)
    }

    async fn held_against_names(
        &self,
        extent: &Extent,
        read: Vec<(ChunkId, Bytes)>,
    ) -> Result<Vec<(ChunkId, Bytes)>, pack::ReadError> {
        let bad = self.misnamed(extent.records(), read.clone()).await;
        let bad = bad.map_err(|error| pack::ReadError::Io {
            pack: extent.pack(),
            error: std::io::Error::other(error),
        })?;
        match extent.records().iter().find(|wanted| bad.contains(&wanted.id)) {
            None => Ok(read),
            Some(first) => Err(pack::ReadError::Damaged {
                pack: extent.pack(),
                offset: u64::from(first.location.offset),
                id: Some(first.id),
                reason: NOT_ITS_NAME,
            }),
        }
    }

    /// The records whose plaintext is not what their id names.
    pub(super) async fn misnamed(
        &self,
        records: &[Wanted],
        read: Vec<(ChunkId, Bytes)>,
    ) -> Result<Vec<ChunkId>, CollectError> {
        let mut named = Vec::with_capacity(read.len());
        for (wanted, (id, bytes)) in records.iter().zip(read) {
            let key = self.domain(wanted.domain).await.map_err(|error| match error {
                WriteError::Meta(error) => CollectError::Meta(error),
                _ => CollectError::Copy(wanted.id),
            })?;
            named.push((key, id, bytes));
        }
        let job = move || {
            let bad = named.into_iter().filter(|(key, id, bytes)| key.chunk_id(bytes) != *id);
            bad.map(|(_, id, _)| id).collect()
        };
        let first = records.first().map_or(ChunkId([0; 32]), |record| record.id);
        self.bulk.run(job).await.ok_or(CollectError::Copy(first))
    }
}
