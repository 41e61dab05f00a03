//! Packs put together from their pieces.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::AT_ONCE;
use super::names::{Digest, PACKS, PieceName};
use super::restore::{RestoreError, blocking, io_error};
use super::vault::{Vault, VaultError};
use crate::blob::Blob;
use crate::blob::local::{create_dir_synced, remove_file, sync_dir};
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

/// By start, the longest first.
fn order(piece: &PieceName) -> (u64, Reverse<u64>) {
    (piece.start, Reverse(piece.end))
}

/// Bytes that pieces in this order cover from the start on.
fn covered(pieces: &[PieceName]) -> u64 {
    let reach = |end: u64, piece: &PieceName| if piece.start <= end { end.max(piece.end) } else { end };
    pieces.iter().fold(0, reach)
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
            of_pack.sort_unstable_by_key(order);
        }
        Ok(Self { vault, pieces, cut })
    }

    /// Bytes of a pack that the pieces cover from its start on.
    pub fn covered(&self, pack: PackId) -> u64 {
        covered(self.of(pack))
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
        let mut of_pack = Cow::Borrowed(self.of(pack));
        loop {
            let end = covered(&of_pack);
            let Some(last) = of_pack.iter().find(|piece| piece.end == end) else {
                return Ok(false);
            };
            let bytes = last.end - last.start;
            let from = bytes.saturating_sub(END_BYTES);
            match self.vault.range(&last.to_string(), from..bytes).await {
                // Put together meanwhile, by the gateway that writes the backup.
                Err(error) if error.is_lost() && matches!(of_pack, Cow::Borrowed(_)) => {
                    of_pack = Cow::Owned(self.listed(pack).await?);
                }
                tail => return Ok(is_pack_end(&tail?, pack, end)),
            }
        }
    }

    fn of(&self, pack: PackId) -> &[PieceName] {
        self.pieces.get(&pack).map_or(&[], Vec::as_slice)
    }

    /// The pieces that are there now.
    async fn listed(&self, pack: PackId) -> Result<Vec<PieceName>, VaultError> {
        let folder = format!("{PACKS}{pack}/");
        let parse = |blob: &Blob| PieceName::parse(&blob.name).filter(|piece| blob.bytes == piece.end - piece.start);
        let mut pieces = self.vault.all(&folder, parse).await?;
        pieces.sort_unstable_by_key(order);
        Ok(pieces)
    }

    /// Makes the files of all these packs below `dir`, durably; what an interrupted restore left there is taken if it is
    /// right. What a pack lacks ends it, unless `lossy`: then all that there is is taken, each piece at its place, and what
    /// is missing is told.
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
        let kept: BTreeSet<PathBuf> = needed.keys().map(|pack| pack_path(dir, *pack)).collect();
        let make = move || {
            create_dir_synced(&made)
                .and_then(|()| remove_others(&made, &kept))
                .map_err(io_error(&made))
        };
        blocking(make).await?;
        let fetch = |(pack, bytes): (&PackId, &u64)| self.fetch(*pack, *bytes, dir, lossy);
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
    async fn fetch(
        &self,
        pack: PackId,
        needed: u64,
        dir: &Path,
        lossy: bool,
    ) -> Result<(u64, Option<RestoreError>), RestoreError> {
        let mut file = PackCopy::open(pack_path(dir, pack)).await?;
        let mut trouble = None;
        let mut of_pack = Cow::Borrowed(self.of(pack));
        loop {
            let found = self.fill(&mut file, &of_pack, lossy).await?;
            // Put together meanwhile, by the gateway that writes the backup.
            let is_moved = found.as_ref().is_some_and(VaultError::is_lost) && matches!(of_pack, Cow::Borrowed(_));
            trouble = found.or(trouble);
            if !is_moved || file.end >= needed.max(1) {
                break;
            }
            of_pack = Cow::Owned(self.listed(pack).await?);
        }
        let (end, bytes) = (file.end, file.bytes);
        file.finish().await?;
        let what = || trouble.map_or("no piece has them".to_owned(), |error| error.to_string());
        let lack = (end < needed || end == 0).then(|| short(pack, end, needed, what()));
        Ok((bytes, lack))
    }

    /// Brings pieces into a file that it does not have. Returns the last that was lost; another one may have its bytes.
    async fn fill(
        &self,
        file: &mut PackCopy,
        pieces: &[PieceName],
        lossy: bool,
    ) -> Result<Option<VaultError>, RestoreError> {
        let mut lost = None;
        for piece in pieces {
            if piece.end <= file.end || file.has(piece).await? {
                file.count(piece);
                continue;
            }
            if piece.start > file.end && !lossy {
                break;
            }
            let bytes = Some(piece.end - piece.start);
            match self.vault.get(&piece.to_string(), piece.digest, bytes).await {
                Ok(bytes) => {
                    file.write(bytes, piece.start).await?;
                    file.count(piece);
                }
                Err(error) if error.is_lost() => lost = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(lost)
    }
}

/// The file of a pack that is put together.
struct PackCopy {
    path: PathBuf,
    file: Arc<File>,
    /// Bytes that were there before.
    had: u64,
    /// All before this is there.
    end: u64,
    /// The end of the last piece that is there.
    length: u64,
    /// Bytes that are there.
    bytes: u64,
}

impl PackCopy {
    async fn open(path: PathBuf) -> Result<Self, RestoreError> {
        let open = move || {
            if let Some(folder) = path.parent() {
                create_dir_synced(folder).map_err(io_error(folder))?;
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.open(&path).map_err(io_error(&path))?;
            let had = file.metadata().map_err(io_error(&path))?.len();
            Ok(Self {
                path,
                file: Arc::new(file),
                had,
                end: 0,
                length: 0,
                bytes: 0,
            })
        };
        blocking(open).await
    }

    /// Whether an interrupted restore brought the piece.
    async fn has(&self, piece: &PieceName) -> Result<bool, RestoreError> {
        if piece.end > self.had {
            return Ok(false);
        }
        let (file, path, piece) = (Arc::clone(&self.file), self.path.clone(), *piece);
        let check = move || {
            let mut bytes = vec![0; usize::try_from(piece.end - piece.start).unwrap_or_default()];
            file.read_exact_at(&mut bytes, piece.start).map_err(io_error(&path))?;
            Ok(Digest::of(&bytes) == piece.digest)
        };
        blocking(check).await
    }

    async fn write(&self, bytes: Bytes, at: u64) -> Result<(), RestoreError> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        blocking(move || file.write_all_at(&bytes, at).map_err(io_error(&path))).await
    }

    /// The piece is there. Pieces come by their start.
    fn count(&mut self, piece: &PieceName) {
        if piece.start <= self.end {
            self.end = self.end.max(piece.end);
        }
        self.bytes += piece.end.saturating_sub(piece.start.max(self.length));
        self.length = self.length.max(piece.end);
    }

    async fn finish(self) -> Result<(), RestoreError> {
        let finish = move || {
            let Self { path, file, length, .. } = self;
            file.set_len(length)
                .and_then(|()| file.sync_all())
                .map_err(io_error(&path))?;
            path.parent()
                .map_or(Ok(()), |folder| sync_dir(folder).map_err(io_error(folder)))
        };
        blocking(finish).await
    }
}

/// Removes the packs that an interrupted restore of another point brought.
fn remove_others(dir: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, kept)?;
        } else if !kept.contains(&path) {
            remove_file(&path)?;
        }
    }
    Ok(())
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
