//! Which packs are worth emptying: those with the most dead bytes, and many small ones.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use crate::chunk::error::MetaError;
use crate::chunk::pack::{ENTRY_BYTES, PackInfo, PackState as FileState};
use crate::chunk::recover::{live_by_pack, pack_rows};
use crate::chunk::store::ChunkStore;
use crate::ids::PackId;
use crate::meta::pack::PackState;

/// A pack with less than one part in this many dead is not worth moving.
const WORTH_SHARE: u64 = 20;
/// A sealed pack below one part in this many of a full one is small.
const SMALL_SHARE: u64 = 4;
/// Small packs of one tier that are put together at the least. A tier spans a factor of 4 in size.
const MERGED_MIN: usize = 8;

/// Whether so many dead bytes of a pack are worth moving the others.
pub(super) fn above_mark(dead: u64, bytes: u64) -> bool {
    dead * WORTH_SHARE > bytes
}

/// Bytes of a pack that no collection gives back: its header, its footer and padding, without the footer's entries.
const FRAME_BYTES: u64 = 16 << 10;

/// What deleting a pack of `bytes` gives back, if its live records are written again.
pub(super) fn dead_bytes(bytes: u64, live: i64) -> u64 {
    match live.max(0).unsigned_abs() {
        0 => bytes,
        live => bytes.saturating_sub(live + FRAME_BYTES),
    }
}

/// Whether a pack with `records` live ones is worth emptying. Without the entries that these need again, packs of very
/// small records would be moved for ever.
pub(super) fn worth_moving(bytes: u64, live: u64, records: u64) -> bool {
    live == 0
        || above_mark(
            bytes.saturating_sub(live + FRAME_BYTES + records * ENTRY_BYTES as u64),
            bytes,
        )
}

/// What is dead in the packs that chunk rows may point to.
#[derive(Default)]
pub(super) struct Dead {
    /// Dead bytes of the packs that are worth emptying, worst first.
    pub packs: Vec<(u64, PackInfo)>,
    /// Dead bytes of all packs.
    sum: u64,
    /// Bytes of all pack files.
    total: u64,
    /// Sealed packs.
    sealed: Vec<PackInfo>,
}

impl Dead {
    /// Dead bytes above what is left alone: `percent` of those that live, and `bytes` at the least.
    pub fn excess(&self, percent: u64, bytes: u64) -> u64 {
        let live = self.total.saturating_sub(self.sum);
        self.sum.saturating_sub((live / 100 * percent).max(bytes))
    }

    /// How long to rest, of `percent` of a step's time: up to a fifth dead all of it, the more is dead the less, and from
    /// three fifths on, or with a `backlog` of garbage, a third: who deletes steadily must not outrun the collector.
    pub fn rest_percent(&self, percent: u32, backlog: bool) -> u32 {
        if backlog {
            return percent / 3;
        }
        let live = self.total.saturating_sub(self.sum).max(1);
        let share = (self.sum.saturating_mul(100) / live).clamp(20, 60) - 20;
        percent - percent * 2 / 3 * share as u32 / 40
    }

    /// Small packs to be put together, with which the run has nothing to do yet; none: too few of one size.
    ///
    /// What is moved lands side by side in one open pack. That is at least [`MERGED_MIN`] times as long as the least of
    /// them, so at least a tier above each: a byte is moved this way once a tier, six times from 4 KiB to a quarter of a
    /// full pack, and then no more. Without new small packs there soon is nothing to be done.
    pub fn small(&self, pack_bytes: u64, tried: &HashSet<PackId>) -> Vec<PackInfo> {
        let mut tiers: BTreeMap<u32, Vec<PackInfo>> = BTreeMap::new();
        for info in &self.sealed {
            if info.bytes < pack_bytes / SMALL_SHARE && !tried.contains(&info.id) {
                tiers.entry(info.bytes.max(1).ilog2() / 2).or_default().push(*info);
            }
        }
        let mut room = pack_bytes;
        let Some(mut packs) = tiers.into_values().find(|packs| packs.len() >= MERGED_MIN) else {
            return Vec::new();
        };
        packs.retain(|info| {
            let fits = info.bytes <= room;
            room = room.saturating_sub(info.bytes);
            fits
        });
        packs
    }
}

impl ChunkStore {
    pub(super) async fn dead(&self) -> Result<Dead, MetaError> {
        let rows = pack_rows(&*self.kv).await?;
        let live = live_by_pack(&*self.kv).await?;
        let mut dead = Dead::default();
        for info in self.packs.packs() {
            if rows
                .get(&info.id)
                .is_none_or(|known| known.row.state != PackState::Active)
            {
                continue;
            }
            let bytes = dead_bytes(info.bytes, live.get(&info.id).copied().unwrap_or_default());
            dead.total += info.bytes;
            dead.sum += bytes;
            if info.state == FileState::Sealed {
                dead.sealed.push(info);
            }
            if above_mark(bytes, info.bytes) {
                dead.packs.push((bytes, info));
            }
        }
        dead.packs
            .sort_unstable_by_key(|(bytes, info)| (Reverse(*bytes), info.id));
        Ok(dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::pack::PackState;
    use crate::meta::pack::Backend;

    fn info(number: u8, bytes: u64) -> PackInfo {
        PackInfo {
            id: PackId([number; 16]),
            state: PackState::Sealed,
            bytes,
            backend: Backend::Local,
        }
    }

    #[test]
    fn what_is_written_again_is_not_dead() {
        assert_eq!((dead_bytes(50_000, 0), dead_bytes(50_000, 40_000)), (50_000, 0));
        assert_eq!(dead_bytes(1 << 20, 1 << 19), (1 << 19) - FRAME_BYTES);
        assert!(worth_moving(1 << 20, 0, 0) && worth_moving(1 << 20, 900_000, 10));
        // 9,000 records of 100 bytes: what seems dead is the footer.
        assert!(!worth_moving(1_500_000, 900_000, 9000));
    }

    #[test]
    fn the_more_is_dead_the_shorter_the_rest() {
        let rest = |sum| {
            let dead = Dead {
                sum,
                total: 1000 + sum,
                ..Dead::default()
            };
            dead.rest_percent(300, false)
        };
        assert_eq!([0, 200, 400, 600, 9000].map(rest), [300, 300, 200, 100, 100]);
        assert_eq!(Dead::default().rest_percent(300, true), 100);
    }

    #[test]
    fn many_small_packs_of_a_size_are_put_together_until_a_pack_is_full() {
        let full = 64 << 20;
        let of = |sealed: Vec<PackInfo>| {
            let dead = Dead {
                sealed,
                ..Dead::default()
            };
            dead.small(full, &HashSet::from([PackId([0; 16])])).len()
        };
        assert_eq!(of((0..8).map(|number| info(number, 100_000)).collect()), 0);
        assert_eq!(of((0..9).map(|number| info(number, 100_000)).collect()), 8);
        // Of many sizes there are few of each.
        assert_eq!(of((1..9).map(|number| info(number, 4 << (2 * number))).collect()), 0);
        assert_eq!(of((1..40).map(|number| info(number, 10 << 20)).collect()), 6);
        assert_eq!(of((1..40).map(|number| info(number, 16 << 20)).collect()), 0);
    }

    /// Restarts seal small packs for ever: how often is a byte moved?
    #[test]
    fn merging_moves_a_byte_once_a_tier() {
        let (full, mut packs, mut moved, mut made) = (1u64 << 20, Vec::new(), 0, 0);
        for _ in 0..100_000 {
            packs.push(info(0, 5000));
            made += 5000;
            loop {
                let dead = Dead {
                    sealed: packs.clone(),
                    ..Dead::default()
                };
                let chosen = dead.small(full, &HashSet::new());
                if chosen.is_empty() {
                    break;
                }
                let bytes: u64 = chosen.iter().map(|info| info.bytes).sum();
                chosen.iter().for_each(|gone| {
                    let at = packs.iter().position(|info| info.bytes == gone.bytes).unwrap();
                    packs.swap_remove(at);
                });
                packs.push(info(0, bytes));
                moved += bytes;
            }
            packs.retain(|info| info.bytes < full / SMALL_SHARE);
            assert!(packs.len() < 5 * MERGED_MIN);
        }
        let tiers = u64::from((full / SMALL_SHARE / 4096).ilog2().div_ceil(2));
        assert!(moved > made && moved <= made * tiers, "{moved} of {made}");
    }
}
