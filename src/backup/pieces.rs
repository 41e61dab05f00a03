//! Packs put together from their pieces.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::Path;

use futures::{StreamExt, TryStreamExt};

use super::AT_ONCE;
use super::names::{PACKS, PieceName};
use super::restore::{RestoreError, blocking, io_error};
use super::vault::{Vault, VaultError};
use crate::blob::local::{create_dir_synced, sync_dir};
use crate::chunk::{is_pack_end, pack_path};
use crate::ids::PackId;
use crate::kv::{Counter, Kv, Row, Scan};
use crate::limits::SCAN_ROWS_MAX;
use crate::meta::chunk::ChunkRow;
use crate::meta::key::{self, PackStatKind, Table};

/// Bytes at a pack's end in which its trailer is.
const END_BYTES: u64 = 4096;

/// The packs that rows point to, and how many bytes each has at the least. Reads all chunk rows.
pub async fn needed(kv: &dyn Kv) -> Result<BTreeMap<PackId, u64>, RestoreError> {
    let malformed = || RestoreError::Read("a row of a pack or a chunk is malformed".to_owned());
    let mut found = BTreeMap::new();
    let mut rows = Rows::new(Table::PackStat);
    while let Some(page) = rows.next(kv).await? {
        for row in page {
            let pack = row.key.get(1..17).and_then(|id| id.try_into().ok()).map(PackId);
            let live = Counter::decode(&row.value.bytes).ok_or_else(malformed)?;
            if row.key.get(17) == Some(&(PackStatKind::Live as u8)) && live != 0 {
                found.insert(pack.ok_or_else(malformed)?, 0);
            }
        }
    }
    let mut rows = Rows::new(Table::Chunk);
    while let Some(page) = rows.next(kv).await? {
        for row in page {
            let place = ChunkRow::decode(row.value.bytes).map_err(|_| malformed())?.place;
            let end = u64::from(place.offset) + u64::from(place.stored_len);
            let length: &mut u64 = found.entry(place.pack).or_default();
            *length = end.max(*length);
        }
    }
    Ok(found)
}

/// A table, page by page.
struct Rows {
    start: Option<Bound<bytes::Bytes>>,
    end: bytes::Bytes,
}

impl Rows {
    fn new(table: Table) -> Self {
        let range = key::table(table);
        Self {
            start: Some(Bound::Included(range.start)),
            end: range.end,
        }
    }

    async fn next(&mut self, kv: &dyn Kv) -> Result<Option<Vec<Row>>, RestoreError> {
        let Some(start) = self.start.take() else {
            return Ok(None);
        };
        let scan = Scan {
            start,
            end: Bound::Excluded(self.end.clone()),
            limit: SCAN_ROWS_MAX,
            direction: Default::default(),
            fold: None,
        };
        let rows = kv
            .scan(scan)
            .await
            .map_err(|error| RestoreError::Read(error.to_string()))?;
        if rows.len() == SCAN_ROWS_MAX {
            self.start = rows.last().map(|row| Bound::Excluded(row.key.clone()));
        }
        Ok(Some(rows))
    }
}

/// What a backup has of the packs, by the names and lengths of the blobs.
pub struct Pieces {
    vault: Vault,
    /// By start, the longest first.
    pieces: BTreeMap<PackId, Vec<PieceName>>,
    /// Blobs that are not as long as their names say.
    cut: BTreeSet<PackId>,
}

impl Pieces {
    pub(super) async fn load(vault: Vault) -> Result<Self, VaultError> {
        let mut cut = BTreeSet::new();
        let found = vault.all(PACKS, |blob| {
            let piece = PieceName::parse(&blob.name)?;
            if blob.bytes != piece.end - piece.start {
                cut.insert(piece.pack);
                return None;
            }
            Some(piece)
        });
        let found = found.await?;
        let mut pieces: BTreeMap<PackId, Vec<PieceName>> = BTreeMap::new();
        for piece in found {
            pieces.entry(piece.pack).or_default().push(piece);
        }
        for of_pack in pieces.values_mut() {
            of_pack.sort_unstable_by_key(|piece| (piece.start, std::cmp::Reverse(piece.end)));
        }
        Ok(Self { vault, pieces, cut })
    }

    /// Bytes of a pack that the pieces cover from its start on.
    pub fn covered(&self, pack: PackId) -> u64 {
        let pieces = self.pieces.get(&pack).map_or(&[][..], Vec::as_slice);
        pieces.iter().fold(
            0,
            |end, piece| if piece.start <= end { end.max(piece.end) } else { end },
        )
    }

    /// An error if less than `needed` bytes of the pack are there.
    pub fn demand(&self, pack: PackId, needed: u64) -> Result<(), RestoreError> {
        let has = self.covered(pack);
        if has >= needed && has > 0 {
            return Ok(());
        }
        let what = if self.cut.contains(&pack) {
            "a piece is shorter than its name says"
        } else {
            "no piece has them"
        };
        Err(short(pack, has, needed, what.to_owned()))
    }

    /// Whether the last bytes that are there of the pack are its end; `false`: it was still written. They are not
    /// held against their hash.
    pub async fn is_finished(&self, pack: PackId) -> Result<bool, VaultError> {
        let end = self.covered(pack);
        let pieces = self.pieces.get(&pack).map_or(&[][..], Vec::as_slice);
        let Some(last) = pieces.iter().find(|piece| piece.end == end) else {
            return Ok(false);
        };
        let bytes = last.end - last.start;
        let from = bytes.saturating_sub(END_BYTES);
        let tail = self.vault.range(&last.to_string(), from..bytes).await?;
        Ok(is_pack_end(&tail, pack, end))
    }

    /// Makes the files of all these packs below `dir`, durably. What a pack lacks ends it, unless `lossy`: then as much as
    /// there is is taken, and told.
    pub async fn fetch_all(
        &self,
        needed: &BTreeMap<PackId, u64>,
        dir: &Path,
        lossy: bool,
    ) -> Result<Fetched, RestoreError> {
        for (pack, bytes) in needed.iter().filter(|_| !lossy) {
            self.demand(*pack, *bytes)?;
        }
        let made = dir.to_path_buf();
        blocking(move || create_dir_synced(&made).map_err(io_error(&made))).await?;
        let fetch = |(pack, bytes): (&PackId, &u64)| self.fetch(*pack, *bytes, dir);
        let fetches: Vec<_> = needed.iter().map(fetch).collect();
        let mut arriving = futures::stream::iter(fetches).buffer_unordered(AT_ONCE);
        let mut fetched = Fetched::default();
        while let Some((length, lack)) = arriving.try_next().await? {
            fetched.bytes += length;
            match lack {
                Some(lack) if lossy => fetched.lacks.push(lack.to_string()),
                Some(lack) => return Err(lack),
                None => {}
            }
        }
        Ok(fetched)
    }

    /// Makes the file of one pack. Returns its bytes, and what is wrong if these are less than `needed`.
    async fn fetch(&self, pack: PackId, needed: u64, dir: &Path) -> Result<(u64, Option<RestoreError>), RestoreError> {
        let path = pack_path(dir, pack);
        let made = path.clone();
        let create = move || {
            if let Some(folder) = made.parent() {
                create_dir_synced(folder).map_err(io_error(folder))?;
            }
            File::create_new(&made).map_err(io_error(&made))
        };
        let mut file = blocking(create).await?;
        let (mut end, mut trouble) = (0, "no piece has them".to_owned());
        for piece in self.pieces.get(&pack).map_or(&[][..], Vec::as_slice) {
            if piece.end <= end {
                continue;
            }
            if piece.start > end {
                break;
            }
            let bytes = match self.vault.get(&piece.to_string(), piece.digest).await {
                Ok(bytes) => bytes,
                // Another one may have the same bytes.
                Err(error) => {
                    trouble = error.to_string();
                    continue;
                }
            };
            let (at, path) = (piece.start, path.clone());
            file = blocking(move || {
                file.write_all_at(&bytes, at).map_err(io_error(&path))?;
                Ok(file)
            })
            .await?;
            end = piece.end;
        }
        let lack = (end < needed || end == 0).then(|| short(pack, end, needed, trouble));
        let sync = move || {
            file.sync_all().map_err(io_error(&path))?;
            path.parent()
                .map_or(Ok(()), |folder| sync_dir(folder).map_err(io_error(folder)))
        };
        blocking(sync).await?;
        Ok((end, lack))
    }
}

/// Packs that were fetched.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    pub bytes: u64,
    /// What is missing, one sentence a pack.
    pub lacks: Vec<String>,
}

fn short(pack: PackId, has: u64, needed: u64, what: String) -> RestoreError {
    RestoreError::Pack {
        pack: format!("pack {pack}"),
        has,
        needed,
        what,
    }
}
