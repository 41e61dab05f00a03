//! Ships the packs, in pieces that follow each other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::names::{Digest, PACKS, PieceName};
use super::task::Backup;
use super::vault::{Vault, VaultError};
use super::{AT_ONCE, DELTA_BYTES, PIECE_BYTES};
use crate::chunk::{PackBytes, PackFile};
use crate::ids::PackId;

/// A finished pack in more pieces than this is shipped once more, in large ones.
const PIECES_MAX: u32 = 32;

/// Reads of a piece before it is given up for now.
const READS: u32 = 3;
/// After a read that failed for no fault of the disk.
const READ_PAUSE: Duration = Duration::from_millis(500);
/// Ranges that could not be read and are tried again by one shipment: on a dying disk each takes long.
const FAILED_MAX: usize = 16;

/// Bytes that the backup has not.
#[derive(Clone, Copy, Debug)]
struct Hole {
    end: u64,
    /// When the disk did not give them.
    failed: Option<Instant>,
}

/// What the backup has of a pack.
#[derive(Clone, Debug, Default)]
struct Shipped {
    /// All before this but for the holes.
    end: u64,
    /// By their starts.
    holes: BTreeMap<u64, Hole>,
    pieces: u32,
    /// It has been seen in the store.
    is_seen: bool,
    /// It does not grow.
    is_final: bool,
    /// Its pieces have been counted when all of it had arrived.
    is_counted: bool,
}

impl Shipped {
    fn is_complete(&self) -> bool {
        self.is_final && self.holes.is_empty()
    }

    /// The first range that the disk does not give.
    fn unreadable(&self) -> Option<Range<u64>> {
        let mut failed = self.holes.iter().filter(|(_, hole)| hole.failed.is_some());
        failed.next().map(|(start, hole)| *start..hole.end)
    }
}

/// What the backup has of the packs.
#[derive(Default)]
pub struct Inventory {
    packs: BTreeMap<PackId, Shipped>,
    /// Packs that the store had deleted at the last look.
    deleted: u64,
}

/// Work that the inventory leaves for the tidier, until it is done.
#[derive(Default)]
pub struct Leftovers(Mutex<Work>);

#[derive(Default)]
struct Work {
    gone: BTreeSet<PackId>,
    scattered: BTreeSet<PackId>,
}

impl Leftovers {
    /// Packs that are gone in the store, and packs in too many pieces.
    pub fn all(&self) -> (Vec<PackId>, Vec<PackId>) {
        let work = self.0.lock();
        let all = |packs: &BTreeSet<PackId>| packs.iter().copied().collect();
        (all(&work.gone), all(&work.scattered))
    }

    /// The backup says of these that they are gone.
    pub fn noted(&self, gone: &[PackId]) {
        self.0.lock().gone.retain(|pack| !gone.contains(pack));
    }

    pub fn merged(&self, pack: PackId) {
        self.0.lock().scattered.remove(&pack);
    }

    fn gone(&self, pack: PackId) {
        let mut work = self.0.lock();
        work.scattered.remove(&pack);
        work.gone.insert(pack);
    }

    fn scattered(&self, pack: PackId) {
        self.0.lock().scattered.insert(pack);
    }
}

/// What became of a piece.
enum Outcome {
    Shipped,
    /// The pack was deleted meanwhile.
    Gone,
    Unreadable,
}

/// What a shipment did.
#[derive(Clone, Copy, Debug)]
pub struct Shipment {
    /// Bytes that were to be shipped when it began.
    pub pending_bytes: u64,
    /// No pack was deleted in the store before all of it had arrived.
    pub is_sound: bool,
}

impl Inventory {
    /// Asks the backup what it has.
    pub async fn load(vault: &Vault) -> Result<Self, VaultError> {
        let mut pieces = vault.all(PACKS, |blob| PieceName::parse(&blob.name)).await?;
        pieces.sort_unstable_by_key(|piece| (piece.pack, piece.start));
        let mut packs: BTreeMap<PackId, Shipped> = BTreeMap::new();
        for piece in pieces {
            let shipped = packs.entry(piece.pack).or_default();
            if piece.start > shipped.end {
                let (end, failed) = (piece.start, None);
                shipped.holes.insert(shipped.end, Hole { end, failed });
            }
            shipped.end = shipped.end.max(piece.end);
            shipped.pieces += 1;
        }
        Ok(Self { packs, deleted: 0 })
    }

    /// Compares with the packs of the store. `false`: one was deleted of which not all had arrived.
    fn note(&mut self, files: &[PackFile], deleted: u64, leftovers: &Leftovers) -> bool {
        let (mut vanished, mut is_sound) = (0, true);
        let is_there = |id: &PackId| files.binary_search_by_key(id, |file| file.id).is_ok();
        self.packs.retain(|id, shipped| {
            if is_there(id) {
                return true;
            }
            if shipped.is_seen {
                vanished += 1;
                is_sound &= shipped.is_complete();
            }
            if shipped.pieces > 0 {
                leftovers.gone(*id);
            }
            false
        });
        is_sound &= deleted - self.deleted <= vanished;
        self.deleted = deleted;
        for file in files {
            self.packs.entry(file.id).or_default().is_seen = true;
        }
        is_sound
    }

    /// The pieces of a pack to be shipped now: all that it lacks, but of what could not be read only what waited for
    /// `again`, and so many of these as `failed_max` says, which counts them.
    fn wanted(&mut self, file: PackFile, again: Duration, failed_max: &mut usize) -> Vec<Range<u64>> {
        let shipped = self.packs.entry(file.id).or_default();
        shipped.is_final = file.is_final;
        if shipped.end < file.bytes {
            let (end, failed) = (file.bytes, None);
            shipped.holes.insert(shipped.end, Hole { end, failed });
            shipped.end = file.bytes;
        }
        let step = if file.is_final { PIECE_BYTES } else { DELTA_BYTES as u64 };
        let mut pieces = Vec::new();
        for (start, hole) in shipped.holes.clone() {
            if let Some(failed) = hole.failed {
                if failed.elapsed() < again || *failed_max == 0 {
                    continue;
                }
                *failed_max -= 1;
            }
            let mut at = start;
            while at < hole.end {
                let end = (at + step).min(hole.end);
                shipped.holes.insert(at, Hole { end, ..hole });
                pieces.push(at..end);
                at = end;
            }
        }
        pieces
    }

    /// Whether it is time to try again what could not be read.
    pub fn is_due(&self, again: Duration) -> bool {
        let mut holes = self.packs.values().flat_map(|shipped| shipped.holes.values());
        holes.any(|hole| hole.failed.is_some_and(|failed| failed.elapsed() >= again))
    }

    fn arrived(&mut self, pack: PackId, piece: &Range<u64>) {
        let shipped = self.packs.entry(pack).or_default();
        shipped.holes.remove(&piece.start);
        shipped.pieces += 1;
    }

    fn failed(&mut self, pack: PackId, piece: &Range<u64>) {
        let shipped = self.packs.entry(pack).or_default();
        if let Some(hole) = shipped.holes.get_mut(&piece.start) {
            hole.failed = Some(Instant::now());
        }
    }

    fn is_failed(&self, pack: PackId, piece: &Range<u64>) -> bool {
        let hole = self
            .packs
            .get(&pack)
            .and_then(|shipped| shipped.holes.get(&piece.start));
        hole.is_some_and(|hole| hole.failed.is_some())
    }

    /// Finds the packs that are complete in too many pieces.
    fn count(&mut self, leftovers: &Leftovers) {
        for (id, shipped) in &mut self.packs {
            if shipped.is_complete() && !shipped.is_counted {
                shipped.is_counted = true;
                if shipped.pieces > PIECES_MAX {
                    leftovers.scattered(*id);
                }
            }
        }
    }

    /// The packs that the disk does not give whole, with the first range of each.
    fn unreadable(&self) -> Vec<(PackId, Range<u64>)> {
        let unreadable = |(id, shipped): (&PackId, &Shipped)| Some((*id, shipped.unreadable()?));
        self.packs.iter().filter_map(unreadable).collect()
    }
}

impl Backup {
    /// Ships what the packs have now and the backup has not.
    pub(super) async fn ship_packs(&self, inventory: &mut Inventory) -> Result<Shipment, VaultError> {
        let (files, deleted) = self.sources.chunks.pack_files();
        let mut is_sound = inventory.note(&files, deleted, &self.leftovers);
        let (again, mut failed_max) = (self.options.read_again, FAILED_MAX);
        let mut wanted = Vec::new();
        for file in files {
            let pieces = inventory.wanted(file, again, &mut failed_max);
            wanted.extend(pieces.into_iter().map(|piece| (file.id, piece)));
        }
        let pending_bytes = wanted.iter().map(|(_, piece)| piece.end - piece.start).sum();
        self.progress.packs(pending_bytes, &inventory.unreadable());
        let ship = |(pack, piece): (PackId, Range<u64>)| {
            let reads = if inventory.is_failed(pack, &piece) { 1 } else { READS };
            async move { (pack, piece.clone(), self.ship_piece(pack, piece, reads).await) }
        };
        let ships: Vec<_> = wanted.into_iter().map(ship).collect();
        let mut arriving = futures::stream::iter(ships).buffer_unordered(AT_ONCE);
        while let Some((pack, piece, outcome)) = arriving.next().await {
            match outcome? {
                Outcome::Shipped => inventory.arrived(pack, &piece),
                Outcome::Unreadable => inventory.failed(pack, &piece),
                Outcome::Gone => is_sound = false,
            }
        }
        drop(arriving);
        inventory.count(&self.leftovers);
        self.progress.packs(0, &inventory.unreadable());
        Ok(Shipment {
            pending_bytes,
            is_sound,
        })
    }

    /// Ships one piece of a pack, which is read so many times at the most. What the gateway cannot read either must not keep
    /// everything else from being shipped.
    async fn ship_piece(&self, pack: PackId, piece: Range<u64>, reads: u32) -> Result<Outcome, VaultError> {
        let mut tries = 0;
        let bytes = loop {
            tries += 1;
            match self.sources.chunks.pack_bytes_at(pack, piece.clone()).await {
                Ok(PackBytes::There(bytes)) => break bytes,
                Ok(PackBytes::Gone) => return Ok(Outcome::Gone),
                Ok(PackBytes::Lost(error)) => {
                    tracing::error!(%pack, at = piece.start, error, "a pack cannot be read for the backup");
                    return Ok(Outcome::Unreadable);
                }
                // A cloud that does not answer gives the bytes once it does.
                Err(error) if tries >= reads && error.kind() != std::io::ErrorKind::HostUnreachable => {
                    tracing::error!(%pack, at = piece.start, %error, "a pack cannot be read for the backup");
                    return Ok(Outcome::Unreadable);
                }
                Err(error) => {
                    tracing::warn!(%pack, at = piece.start, %error, "a pack is read again for the backup");
                    tokio::time::sleep(READ_PAUSE).await;
                }
            }
        };
        let hashed = bytes.clone();
        let digest = tokio::task::spawn_blocking(move || Digest::of(&hashed)).await;
        let Ok(digest) = digest else {
            return Ok(Outcome::Gone);
        };
        let name = |salt| {
            let (start, end) = (piece.start, piece.end);
            PieceName {
                pack,
                start,
                end,
                salt,
                digest,
            }
            .to_string()
        };
        self.vault.put(name, bytes).await?;
        Ok(Outcome::Shipped)
    }

    /// Ships a finished pack in large pieces, and removes the small ones.
    pub(super) async fn merge_pieces(&self, pack: PackId) -> Result<(), VaultError> {
        let folder = format!("{PACKS}{pack}/");
        let before = self
            .vault
            .all(&folder, |blob| Some((blob.name.clone(), PieceName::parse(&blob.name)?)))
            .await?;
        let end = before.iter().map(|(_, piece)| piece.end).max().unwrap_or(0);
        let mut at = 0;
        while at < end {
            let next = (at + PIECE_BYTES).min(end);
            let Outcome::Shipped = self.ship_piece(pack, at..next, READS).await? else {
                return Ok(());
            };
            at = next;
        }
        for (name, _) in before {
            self.vault.delete(&name).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGAIN: Duration = Duration::from_secs(60);

    fn file(bytes: u64, is_final: bool) -> PackFile {
        let id = PackId([7; 16]);
        PackFile { id, bytes, is_final }
    }

    /// What cannot be read holds nothing else up, is tried again, and the pack is not complete without it.
    #[test]
    fn a_range_that_cannot_be_read_is_a_hole_and_no_more() {
        let (mut inventory, leftovers, mib) = (Inventory::default(), Leftovers::default(), 1 << 20);
        let now = |inventory: &mut Inventory, file| inventory.wanted(file, AGAIN, &mut FAILED_MAX.clone());
        assert!(inventory.note(&[file(5 * mib, false)], 0, &leftovers));
        let id = file(0, false).id;
        assert_eq!(
            now(&mut inventory, file(5 * mib, false)),
            [0..4 * mib, 4 * mib..5 * mib]
        );
        inventory.failed(id, &(0..4 * mib));
        inventory.arrived(id, &(4 * mib..5 * mib));
        assert_eq!(inventory.unreadable(), [(id, 0..4 * mib)]);
        // It grows, and what is new is wanted at once.
        let grown = now(&mut inventory, file(6 * mib, true));
        assert_eq!(grown, std::slice::from_ref(&(5 * mib..6 * mib)));
        inventory.arrived(id, &(5 * mib..6 * mib));
        assert!(now(&mut inventory, file(6 * mib, true)).is_empty());
        let later = inventory.wanted(file(6 * mib, true), Duration::ZERO, &mut FAILED_MAX.clone());
        assert_eq!(later, std::slice::from_ref(&(0..4 * mib)));
        assert!(inventory.is_failed(id, &(0..4 * mib)));
        assert!(inventory.wanted(file(6 * mib, true), Duration::ZERO, &mut 0).is_empty());
        let mut deleted = Inventory {
            packs: inventory.packs.clone(),
            deleted: 0,
        };
        assert!(
            !deleted.note(&[], 1, &leftovers),
            "it had not arrived when it was deleted"
        );
        inventory.arrived(id, &(0..4 * mib));
        assert!(inventory.unreadable().is_empty());
        assert!(inventory.note(&[], 1, &leftovers));
    }

    /// Of four pieces on their way at a kill any may have arrived.
    #[tokio::test]
    async fn what_a_killed_process_left_out_is_wanted() {
        let blobs = std::sync::Arc::new(crate::blob::memory::MemoryBlobs::new());
        let vault = Vault::new(
            blobs,
            super::super::vault::Patience::Endless,
            super::super::Pace::default(),
            None,
        );
        for (start, end) in [(8 << 20, 16 << 20), (20 << 20, 24 << 20)] {
            let (pack, digest) = (file(0, true).id, Digest([0; 16]));
            let name = |salt| {
                PieceName {
                    pack,
                    start,
                    end,
                    salt,
                    digest,
                }
                .to_string()
            };
            vault.put(name, "piece".into()).await.unwrap();
        }
        let mut inventory = Inventory::load(&vault).await.unwrap();
        let wanted = inventory.wanted(file(25 << 20, true), AGAIN, &mut FAILED_MAX.clone());
        assert_eq!(wanted, [0..8 << 20, 16 << 20..20 << 20, 24 << 20..25 << 20]);
    }
}
