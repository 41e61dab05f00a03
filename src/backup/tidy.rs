//! Removes from the backup what no restore needs any more: bounded, and begun anew after a crash.
//!
//! A point inside the window stays restorable: the last checkpoint before the window is kept with all that follows, and a
//! pack for as long after its deletion as the window is wide. What the store has lost, without having deleted it, is
//! never removed here.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::checkpoint::Manifest;
use super::names::{
    self, CHECKPOINTS, CheckpointName, GONE, GoneName, INDEX, Id, LOG, PACKS, ROWS, RowsName, SegmentName,
};
use super::task::{Backup, Interrupted};
use super::vault::Vault;
use crate::ids::PackId;
use crate::kv::{Counter, Kv, ReadError};
use crate::meta::key::{self, PackStatKind};

/// Blobs that one step of a look removes.
const REMOVED_MAX: usize = 1000;

impl Backup {
    /// Looks every minute. For a task that is dropped with its run.
    pub(super) async fn tidy_until_dropped(self: Arc<Self>) {
        loop {
            if let Err(error) = self.tidy().await {
                tracing::warn!(%error, "the backup was not tidied and will be");
            }
            tokio::time::sleep(self.options.tidy_every).await;
        }
    }

    async fn tidy(&self) -> Result<(), Interrupted> {
        let (gone, scattered) = self.leftovers.take();
        self.tidy_packs(gone).await?;
        for pack in scattered {
            self.merge_pieces(pack).await?;
        }
        self.tidy_history().await
    }

    /// Notes which packs the store has deleted, and removes those that it deleted long enough ago.
    async fn tidy_packs(&self, gone: Vec<PackId>) -> Result<(), Interrupted> {
        let noted = self.vault.all(GONE, |blob| GoneName::parse(&blob.name)).await?;
        let known: BTreeSet<PackId> = noted.iter().map(|gone| gone.pack).collect();
        for pack in gone {
            if known.contains(&pack) {
                continue;
            }
            if self.is_needed(pack).await? {
                tracing::error!(%pack, "a pack with live chunks is missing in the store: the backup keeps it");
                continue;
            }
            let name = |_| {
                let time = self.sources.clock.now();
                GoneName { time, pack }.to_string()
            };
            // Its name says it all.
            self.vault.put(name, "gone".into()).await?;
        }
        let horizon = self.horizon();
        for old in noted.iter().take_while(|gone| gone.time < horizon).take(REMOVED_MAX) {
            if self.is_needed(old.pack).await? {
                continue;
            }
            if remove_front(&self.vault, &format!("{PACKS}{}/", old.pack), |_| true).await? {
                self.vault.delete(&old.to_string()).await?;
            }
        }
        Ok(())
    }

    /// Whether chunk rows point to the pack.
    async fn is_needed(&self, pack: PackId) -> Result<bool, ReadError> {
        let live = self.sources.kv.get(&key::pack_stat(pack, PackStatKind::Live)).await?;
        Ok(live.is_some_and(|row| Counter::decode(&row.bytes) != Some(0)))
    }

    /// Removes checkpoints, their rows, the log and the generations that no point of the window needs.
    async fn tidy_history(&self) -> Result<(), Interrupted> {
        let mut checkpoints = self
            .vault
            .all(CHECKPOINTS, |blob| CheckpointName::parse(&blob.name))
            .await?;
        checkpoints.sort_unstable_by_key(|name| name.checkpoint);
        let horizon = self.horizon();
        let Some(first) = checkpoints.iter().rposition(|name| name.time < horizon) else {
            // The window begins before the first checkpoint: everything is needed.
            return Ok(());
        };
        // A manifest goes first, so that no checkpoint looks whole that is not.
        for old in checkpoints.drain(..first) {
            self.vault.delete(&old.to_string()).await?;
        }
        let Some(first) = checkpoints.first() else {
            return Ok(());
        };
        let manifest = Manifest::load(&self.vault, first).await?;
        let is_old = |name: &str| RowsName::parse(name).is_some_and(|rows| rows.checkpoint < first.checkpoint);
        remove_front(&self.vault, ROWS, is_old).await?;
        let run = manifest.run().unwrap_or(Id([0; 16]));
        let is_old = |name: &str| {
            let segment = SegmentName::parse(name);
            segment.is_some_and(|it| it.run < run || (it.run == run && it.end <= manifest.log.offset))
        };
        remove_front(&self.vault, LOG, is_old).await?;
        self.tidy_generations().await
    }

    /// Removes the generations before this one, which reaches back over the whole window by itself.
    async fn tidy_generations(&self) -> Result<(), Interrupted> {
        let folder = format!("{INDEX}{}/", self.lineage.store);
        let generations = self.whole.all(&folder, |blob| names::parse_index(&blob.name)).await?;
        for (store, generation) in generations {
            if generation >= self.lineage.generation {
                continue;
            }
            let root = names::root(store, generation);
            if remove_front(&self.whole, &root, |_| true).await? {
                self.whole.delete(&names::index(store, generation)).await?;
            }
        }
        Ok(())
    }
}

/// Removes the blobs at the front of a folder as long as they are old, [`REMOVED_MAX`] at the most. `true`: all of the
/// folder is gone.
async fn remove_front(vault: &Vault, folder: &str, is_old: impl Fn(&str) -> bool) -> Result<bool, Interrupted> {
    let (blobs, is_more) = vault.page(folder, None).await?;
    let all = blobs.len();
    let old: Vec<_> = blobs
        .into_iter()
        .take(REMOVED_MAX)
        .take_while(|blob| is_old(&blob.name))
        .collect();
    for blob in &old {
        vault.delete(&blob.name).await?;
    }
    Ok(!is_more && old.len() == all)
}
