//! Ships the packs, in pieces that follow each other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;

use super::names::{Digest, PACKS, PieceName};
use super::task::Backup;
use super::vault::{Vault, VaultError};
use super::{AT_ONCE, DELTA_BYTES, PIECE_BYTES};
use crate::chunk::{PackBytes, PackFile};
use crate::ids::PackId;

/// A finished pack in more pieces than this is shipped once more, in large ones.
const PIECES_MAX: u32 = 32;

/// After a read that failed for no fault of the disk.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// What the backup has of a pack.
#[derive(Clone, Copy, Debug, Default)]
struct Shipped {
    /// All before this.
    end: u64,
    pieces: u32,
    /// It has been seen in the store.
    is_seen: bool,
    /// All of it has arrived, and it does not grow.
    is_complete: bool,
    /// The disk does not give all of it.
    is_unreadable: bool,
}

/// What the backup has of the packs.
#[derive(Default)]
pub struct Inventory {
    packs: BTreeMap<PackId, Shipped>,
    /// Packs that the store had deleted at the last look.
    deleted: u64,
}

/// Work that the inventory leaves for the tidier.
#[derive(Default)]
pub struct Leftovers(Mutex<(Vec<PackId>, Vec<PackId>)>);

impl Leftovers {
    /// Packs that are gone in the store, and packs in too many pieces.
    pub fn take(&self) -> (Vec<PackId>, Vec<PackId>) {
        std::mem::take(&mut *self.0.lock())
    }

    fn gone(&self, pack: PackId) {
        self.0.lock().0.push(pack);
    }

    fn scattered(&self, pack: PackId) {
        self.0.lock().1.push(pack);
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
            if piece.start <= shipped.end {
                shipped.end = shipped.end.max(piece.end);
            }
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
                is_sound &= shipped.is_complete;
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

    /// The pieces of a pack that are still to be shipped.
    fn wanted(&self, file: PackFile) -> Vec<Range<u64>> {
        let shipped = self.packs.get(&file.id).copied().unwrap_or_default();
        let step = if file.is_final { PIECE_BYTES } else { DELTA_BYTES as u64 };
        let mut at = shipped.end;
        let mut pieces = Vec::new();
        while at < file.bytes && !shipped.is_unreadable {
            let end = (at + step).min(file.bytes);
            pieces.push(at..end);
            at = end;
        }
        pieces
    }

    fn arrived(&mut self, file: PackFile, pieces: u32, leftovers: &Leftovers) {
        let shipped = self.packs.entry(file.id).or_default();
        shipped.end = shipped.end.max(file.bytes);
        shipped.pieces += pieces;
        if file.is_final && !shipped.is_complete {
            shipped.is_complete = true;
            if shipped.pieces > PIECES_MAX {
                leftovers.scattered(file.id);
            }
        }
    }

    fn unreadable(&self) -> u64 {
        self.packs.values().filter(|shipped| shipped.is_unreadable).count() as u64
    }
}

impl Backup {
    /// Ships what the packs have now and the backup has not.
    pub(super) async fn ship_packs(&self, inventory: &mut Inventory) -> Result<Shipment, VaultError> {
        let (files, deleted) = self.sources.chunks.pack_files();
        let mut is_sound = inventory.note(&files, deleted, &self.leftovers);
        let wanted: Vec<(PackFile, Vec<Range<u64>>)> =
            files.into_iter().map(|file| (file, inventory.wanted(file))).collect();
        let ranges = wanted.iter().flat_map(|(_, pieces)| pieces);
        let pending_bytes = ranges.map(|piece| piece.end - piece.start).sum();
        self.progress.packs(pending_bytes, inventory.unreadable());
        let pieces = wanted
            .iter()
            .flat_map(|(file, pieces)| pieces.iter().map(|piece| (file.id, piece.clone())));
        let ship = |(pack, piece)| async move { (pack, self.ship_piece(pack, piece).await) };
        let mut arriving = futures::stream::iter(pieces.collect::<Vec<_>>())
            .map(ship)
            .buffer_unordered(AT_ONCE);
        let mut failed: BTreeMap<PackId, Outcome> = BTreeMap::new();
        while let Some((pack, outcome)) = arriving.next().await {
            match outcome? {
                Outcome::Shipped => {}
                outcome => drop(failed.insert(pack, outcome)),
            }
        }
        drop(arriving);
        for (file, pieces) in wanted {
            match failed.get(&file.id) {
                None => inventory.arrived(file, pieces.len() as u32, &self.leftovers),
                Some(Outcome::Unreadable) => inventory.packs.entry(file.id).or_default().is_unreadable = true,
                Some(_) => is_sound = false,
            }
        }
        self.progress.packs(0, inventory.unreadable());
        Ok(Shipment {
            pending_bytes,
            is_sound,
        })
    }

    /// Ships one piece of a pack.
    async fn ship_piece(&self, pack: PackId, piece: Range<u64>) -> Result<Outcome, VaultError> {
        let bytes = loop {
            match self.sources.chunks.pack_bytes_at(pack, piece.clone()).await {
                Ok(PackBytes::There(bytes)) => break bytes,
                Ok(PackBytes::Gone) => return Ok(Outcome::Gone),
                Ok(PackBytes::Lost(error)) => {
                    // What the gateway cannot read either must not keep everything else from being shipped.
                    tracing::error!(%pack, at = piece.start, error, "a pack cannot be read for the backup");
                    return Ok(Outcome::Unreadable);
                }
                Err(error) => {
                    tracing::warn!(%pack, at = piece.start, %error, "a pack is read again for the backup");
                    tokio::time::sleep(READ_AGAIN).await;
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
            let Outcome::Shipped = self.ship_piece(pack, at..next).await? else {
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
