//! The chunk index from the packs alone (invariant I7).

use bytes::Bytes;

use crate::chunk::compare::Lost;
use crate::chunk::error::{CollectError, MetaError};
use crate::chunk::index::{self, Known, page};
use crate::chunk::pack::{self, Entry, Wanted};
use crate::chunk::store::ChunkStore;
use crate::ids::ChunkId;
use crate::kv::{CommitError, Kv, Mutation};
use crate::meta::chunk::ChunkRow;
use crate::meta::key;
use crate::meta::pack::PackState;

/// Records looked at in one step.
const STEP_RECORDS: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RebuildReport {
    /// Records of all packs that could be read.
    pub records: u64,
    /// Chunk rows that were absent and are there again.
    pub restored: u64,
    /// Chunk rows that pointed to a place without their record, and point to a record in another pack now.
    pub repointed: u64,
    /// Counters that did not fit the rows and do now.
    pub counters: u64,
    /// What was passed over, as it cannot be read: packs, and rows of chunks.
    pub unread: Vec<String>,
}

impl ChunkStore {
    /// Makes every absent chunk row that a `chunk_ref` asks for again, from the footers of the packs, points rows to another
    /// record where theirs is not there, then sets the counters right. Of several records of a chunk the one in the newest
    /// pack is taken. What cannot be read is passed over. For a store at rest.
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
            let entries = match self.packs.records(pack.id).await {
                Ok(entries) => entries,
                Err(error @ pack::ReadError::Busy(_)) => return Err(error.into()),
                Err(error) => {
                    report.unread.push(error.to_string());
                    continue;
                }
            };
            for entries in entries.chunks(STEP_RECORDS) {
                report.records += entries.len() as u64;
                self.restore(entries, &mut report).await?;
            }
        }
        let recount = loop {
            let mut recount = self.recount().await?;
            let lost = std::mem::take(&mut recount.lost);
            let repointed = self.repoint(lost).await?;
            if repointed == 0 {
                break recount;
            }
            report.repointed += repointed;
        };
        report.counters = self.repair_counters(&recount).await?;
        Ok(report)
    }

    async fn restore(&self, entries: &[Entry], report: &mut RebuildReport) -> Result<(), MetaError> {
        let mut mutation = Mutation::deferred();
        let mut restored = Vec::new();
        for (entry, known) in entries.iter().zip(self.known(entries, report).await?) {
            if known || restored.contains(&entry.id) {
                continue;
            }
            let reference = match first_ref(&*self.kv, &entry.id).await {
                Ok(Some(reference)) => reference,
                Ok(None) => continue,
                Err(error) if error.is_damage() => {
                    report.unread.push(format!("references of chunk {}: {error}", entry.id));
                    continue;
                }
                Err(error) => return Err(error),
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
            return Ok(());
        }
        match self.kv.commit(mutation).await {
            Ok(_) => report.restored += restored.len() as u64,
            Err(CommitError::Conflict { .. }) => return Err(MetaError::Contended),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Whether each chunk has a row, be it one that cannot be read.
    async fn known(&self, entries: &[Entry], report: &mut RebuildReport) -> Result<Vec<bool>, MetaError> {
        let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
        match index::chunks(&*self.kv, &ids).await {
            Err(error) if error.is_damage() => {}
            rows => return Ok(rows?.iter().map(Option::is_some).collect()),
        }
        let mut known = Vec::with_capacity(ids.len());
        for id in &ids {
            known.push(match index::chunk(&*self.kv, id).await {
                Err(error) if error.is_damage() => {
                    report.unread.push(format!("the row of chunk {id}: {error}"));
                    true
                }
                row => row?.is_some(),
            });
        }
        Ok(known)
    }

    /// Points each row to the record that was found elsewhere, if that reads back. Returns how many it were.
    async fn repoint(&self, lost: Vec<Lost>) -> Result<u64, CollectError> {
        let mut repointed = 0;
        for Lost { id, place, elsewhere } in lost {
            let Some(entry) = elsewhere else { continue };
            let wanted = Wanted {
                location: entry.location,
                domain: entry.domain,
                id,
            };
            match self.reason(&wanted).await {
                Ok(None) => {}
                Err(error) if !error.is_of_pack() => return Err(error),
                _ => continue,
            }
            let Some(Known { row, version }) = index::chunk(&*self.kv, &id).await? else {
                continue;
            };
            if row.place != place {
                continue;
            }
            let mut mutation = Mutation::deferred();
            mutation.unchanged(key::chunk(&id), Some(version));
            let row = ChunkRow {
                place: index::place(&entry.location),
                damaged: false,
                encrypted: entry.encrypted,
                ..row
            };
            mutation.put(key::chunk(&id), row.encode());
            match self.kv.commit(mutation).await {
                Ok(_) => repointed += 1,
                Err(CommitError::Conflict { .. }) => return Err(MetaError::Contended.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(repointed)
    }
}

async fn first_ref(kv: &dyn Kv, id: &ChunkId) -> Result<Option<Bytes>, MetaError> {
    Ok(page(kv, key::chunk_refs(id), 1)
        .await?
        .into_iter()
        .next()
        .map(|row| row.key))
}
