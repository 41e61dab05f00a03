//! The chunk index from the packs alone (invariant I7).

use bytes::Bytes;

use crate::chunk::error::{CollectError, MetaError};
use crate::chunk::index::{self, page};
use crate::chunk::pack::Entry;
use crate::chunk::store::ChunkStore;
use crate::ids::ChunkId;
use crate::kv::{CommitError, Kv, Mutation};
use crate::meta::chunk::ChunkRow;
use crate::meta::key;
use crate::meta::pack::PackState;

/// Records looked at in one step.
const STEP_RECORDS: usize = 256;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RebuildReport {
    /// Records of all packs.
    pub records: u64,
    /// Chunk rows that were absent and are there again.
    pub restored: u64,
    /// Counters that did not fit the rows and do now.
    pub counters: u64,
}

impl ChunkStore {
    /// Makes every absent chunk row that a `chunk_ref` asks for again, from the footers of the packs, then sets the
    /// counters right. Of several records of a chunk the one in the newest pack is taken. For a store at rest.
    pub async fn rebuild_index(&self) -> Result<RebuildReport, CollectError> {
        let mut report = RebuildReport::default();
        let rows = super::recover::pack_rows(&*self.kv).await?;
        for pack in self.packs.packs().iter().rev() {
            if rows
                .get(&pack.id)
                .is_none_or(|known| known.row.state == PackState::Condemned)
            {
                continue;
            }
            let entries = self.packs.records(pack.id).await?;
            for entries in entries.chunks(STEP_RECORDS) {
                report.records += entries.len() as u64;
                report.restored += self.restore(entries).await?;
            }
        }
        report.counters = self.repair_counters().await?;
        Ok(report)
    }

    async fn restore(&self, entries: &[Entry]) -> Result<u64, MetaError> {
        let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
        let mut mutation = Mutation::deferred();
        let mut restored = Vec::new();
        for (entry, known) in entries.iter().zip(index::chunks(&*self.kv, &ids).await?) {
            if known.is_some() || restored.contains(&entry.id) {
                continue;
            }
            let Some(reference) = first_ref(&*self.kv, &entry.id).await? else {
                continue;
            };
            mutation.exists(reference);
            mutation.absent(key::chunk(&entry.id));
            mutation.put(
                key::chunk(&entry.id),
                ChunkRow::new(index::place(&entry.location), entry.encrypted).encode(),
            );
            restored.push(entry.id);
        }
        if restored.is_empty() {
            return Ok(0);
        }
        match self.kv.commit(mutation).await {
            Ok(_) => Ok(restored.len() as u64),
            Err(CommitError::Conflict { .. }) => Err(MetaError::Contended),
            Err(error) => Err(error.into()),
        }
    }
}

async fn first_ref(kv: &dyn Kv, id: &ChunkId) -> Result<Option<Bytes>, MetaError> {
    Ok(page(kv, key::chunk_refs(id), 1)
        .await?
        .into_iter()
        .next()
        .map(|row| row.key))
}
