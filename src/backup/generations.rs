//! The generations of a store's backup: which there are, and whether two gateways write at once.
//!
//! A restored gateway begins a generation of its own. If the one that it was restored from is still served, both go on: the
//! copy of neither may be given up, and somebody has to be told.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::lineage::Lineage;
use super::names::{self, INDEX, Id, LOG, SegmentName};
use super::progress::Alarm;
use super::task::Backup;
use super::vault::{Vault, VaultError};
use crate::clock::Timestamp;

const FORMAT: u32 = 1;

/// What the index says of a generation.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    format: u32,
    /// The generation that it was restored from.
    parent: Option<String>,
    /// When it began, by the clock of its machine.
    begun_ms: u64,
}

impl Beginning {
    pub fn of(lineage: &Lineage) -> Self {
        Self {
            format: FORMAT,
            parent: lineage.parent.map(|parent| parent.to_string()),
            begun_ms: lineage.begun.unix_ms(),
        }
    }

    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let found: Self = serde_json::from_slice(bytes).ok()?;
        (found.format == FORMAT).then_some(found)
    }
}

/// When a generation began. Where its entry is damaged, the time in its id, which is never later.
pub async fn begun(whole: &Vault, store: Id, generation: Id) -> Result<Timestamp, VaultError> {
    let entry = match whole.raw(&names::index(store, generation)).await {
        Err(error) if !error.is_lost() => return Err(error),
        read => read.ok().and_then(|bytes| Beginning::decode(&bytes)),
    };
    Ok(entry.map_or(generation.time(), |entry| Timestamp::from_unix_ms(entry.begun_ms)))
}

/// How far the logs of other generations were looked at: the last name, and the latest time in a name.
#[derive(Default)]
pub struct Seen(BTreeMap<Id, (Option<String>, Timestamp)>);

impl Seen {
    /// The time of the last stretch of a generation's log. Lists what is new since the last look.
    async fn last(&mut self, vault: &Vault, generation: Id) -> Result<Timestamp, VaultError> {
        let (after, last) = self.0.entry(generation).or_default();
        loop {
            let (blobs, is_more) = vault.page(LOG, after.as_deref()).await?;
            for segment in blobs.iter().filter_map(|blob| SegmentName::parse(&blob.name)) {
                *last = segment.time.max(*last);
            }
            if let Some(blob) = blobs.into_iter().next_back() {
                *after = Some(blob.name);
            }
            if !is_more {
                return Ok(*last);
            }
        }
    }
}

impl Backup {
    /// Looks whether another gateway writes to this store's backup, and tells. Returns the generations before this one to
    /// which nothing was written since it began.
    pub(super) async fn look_at_generations(&self, seen: &mut Seen) -> Result<Vec<Id>, VaultError> {
        let Lineage { store, generation, .. } = self.lineage;
        let folder = format!("{INDEX}{store}/");
        let all = self.whole.all(&folder, |blob| names::parse_index(&blob.name)).await?;
        let newest = all.iter().map(|(_, id)| *id).max();
        let newer = newest.filter(|newest| *newest > generation).map(|newest| {
            format!(
                "the backup has the newer generation {newest}: what was restored from it is served beside this gateway, \
                 and only one of the two may go on"
            )
        });
        let is_there = all.contains(&(store, generation));
        let gone = || format!("generation {generation} was removed from the backup, which a restart begins anew");
        self.progress
            .set_alarm(Alarm::Newer, newer.or_else(|| (!is_there).then(gone)));
        let (mut quiet, mut active) = (Vec::new(), None);
        for (_, older) in all.into_iter().filter(|(_, id)| *id < generation) {
            let last = seen.last(&self.whole.below(names::root(store, older)), older).await?;
            if last > self.lineage.begun {
                active = Some(older);
            } else {
                quiet.push(older);
            }
        }
        let told = active.map(|older| {
            format!(
                "generation {older}, from before this gateway was restored, is still written to: stop the gateway that does; \
                 until then its backup is kept"
            )
        });
        self.progress.set_alarm(Alarm::Older, told);
        Ok(quiet)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_is_read_back_and_any_bytes_are_or_not(begun_ms: u64, parent: Option<[u8; 16]>, other: Vec<u8>) {
            let parent = parent.map(|id| Id(id).to_string());
            let entry = Beginning { format: FORMAT, parent, begun_ms };
            prop_assert_eq!(Beginning::decode(&entry.encode()), Some(entry));
            let _ = Beginning::decode(&other);
        }
    }
}
