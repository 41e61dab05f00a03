//! The brake: bytes that died without explanation stop collection.
//!
//! Chunk rows say what lives. Two other accounts say it as well, and are kept by the same commits: the references, and
//! the counters. Before anything of a pack is touched its records are counted by all three; once a run, the packs'
//! counters are held against the store's. Where they disagree an index was lost or a counter is wrong, and the collector
//! would delete what is needed: a pack that does not fit is kept, and beyond 1 % everything stops until an administrator
//! has looked.

use crate::chunk::epoch::Epoch;
use crate::chunk::error::{CollectError, MetaError};
use crate::chunk::index::{self, page};
use crate::chunk::pack::Entry;
use crate::chunk::recover::live_by_pack;
use crate::chunk::store::{ChunkStore, counter};
use crate::ids::{ChunkId, PackId};
use crate::kv::Value;
use crate::meta::key::{self, PackStatKind, UsageKind, UsageScope};

/// Rows looked at in one step.
const STEP_RECORDS: usize = 256;
/// Times that a pack is counted while uploads change it.
const COUNTS_MAX: u32 = 3;
/// Bytes that may disagree before everything stops, in percent.
const UNEXPLAINED_PERCENT_MAX: u64 = 1;

/// The records of a pack, by what the rows say of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// Records that chunk rows point to, and their bytes.
    pub records: u64,
    pub live: u64,
    /// Bytes of those whose chunk is named by references and has no row.
    lost: u64,
}

/// What a count came to.
pub(super) enum Weighed {
    Fits(Count),
    /// The accounts disagree: the pack is kept.
    Odd(String),
}

impl ChunkStore {
    /// Counts `pack` by rows, references and counter. A large disagreement stops collection. A pack that changed all the
    /// while is kept as well.
    pub(super) async fn weigh(&self, pack: PackId, bytes: u64, epoch: Epoch) -> Result<Weighed, CollectError> {
        let stat = key::pack_stat(pack, PackStatKind::Live);
        for _ in 0..COUNTS_MAX {
            let before = self.kv.get(&stat).await?;
            let count = self.count(pack).await?;
            if before != self.kv.get(&stat).await? {
                continue;
            }
            let counted = told(before)?;
            let rows = i64::try_from(count.live + count.lost).unwrap_or(i64::MAX);
            let unexplained = count.lost + counted.abs_diff(rows);
            // Records that a damaged footer does not name are no riddle; the counter keeps the pack.
            if unexplained == 0 || (count.lost == 0 && !self.packs.has_footer(pack).await) {
                return Ok(Weighed::Fits(count));
            }
            let Count { live, lost, .. } = count;
            let why = format!(
                "pack {pack}: its counter says {counted} live bytes, chunk rows {live}, references {lost} more"
            );
            if unexplained * 100 > bytes * UNEXPLAINED_PERCENT_MAX {
                return Err(self.stop_collection(epoch, why).await);
            }
            return Ok(Weighed::Odd(why));
        }
        Ok(Weighed::Odd("it was changed while it was counted".to_owned()))
    }

    async fn count(&self, pack: PackId) -> Result<Count, CollectError> {
        let mut count = Count::default();
        for entries in self.entries_of(pack).await?.chunks(STEP_RECORDS) {
            let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
            let rows = index::chunks(&*self.kv, &ids).await?;
            for (Entry { id, location, .. }, known) in entries.iter().zip(rows) {
                let stored = u64::from(location.stored_len);
                match known.map(|known| known.row.place) {
                    Some(place) if place.pack == pack && place.offset == location.offset => {
                        count.records += 1;
                        count.live += stored;
                    }
                    Some(_) => {}
                    None if self.is_lost(id).await? => count.lost += stored,
                    None => {}
                }
            }
        }
        Ok(count)
    }

    /// Whether references name a chunk that has no row. Both come in one commit: a row that came after it was looked for
    /// is seen when it is looked for again.
    async fn is_lost(&self, id: &ChunkId) -> Result<bool, MetaError> {
        Ok(!page(&*self.kv, key::chunk_refs(id), 1).await?.is_empty() && index::chunk(&*self.kv, id).await?.is_none())
    }

    /// Stops collection if the live bytes of all packs do not add up to what the store's counter says.
    pub(super) async fn compare_sums(&self, epoch: Epoch) -> Result<(), CollectError> {
        let key = key::usage(UsageScope::Store, UsageKind::StoredBytes, 0);
        for _ in 0..COUNTS_MAX {
            let before = self.kv.get(&key).await?;
            let packs: i64 = live_by_pack(&*self.kv).await?.into_values().sum();
            if before != self.kv.get(&key).await? {
                continue;
            }
            let stored = told(before)?;
            if stored.abs_diff(packs) * 100 > stored.max(packs).max(0).unsigned_abs() * UNEXPLAINED_PERCENT_MAX {
                let why = format!("the counters of the packs say {packs} live bytes, that of the store {stored}");
                return Err(self.stop_collection(epoch, why).await);
            }
            return Ok(());
        }
        // Uploads changed them all the while: the next run compares.
        Ok(())
    }
}

fn told(value: Option<Value>) -> Result<i64, MetaError> {
    Ok(value
        .map(|value| counter(&value.bytes))
        .transpose()?
        .unwrap_or_default())
}
