//! Whole packs from one backend to the other, byte for byte.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::cache::is_whole;
use super::{Cloud, told};
use crate::blob::local::{ReadFile, create_dir_synced, remove_file, sync_dir};
use crate::chunk::pack::format::Trailer;
use crate::chunk::pack::shared::Shared;
use crate::chunk::pack::{Entry, ReadError, Wanted};
use crate::ids::PackId;
use crate::limits::MIB;
use crate::meta::pack::Backend;

/// Bytes that are read at once, where not the whole pack is needed.
const PIECE_BYTES: u64 = 4 * MIB as u64;

fn failed(pack: PackId) -> impl Fn(io::Error) -> ReadError {
    move |error| ReadError::Io { pack, error }
}

/// Copies a sealed pack of `bytes` to `to`, durably, reads the copy back, and answers how many bytes it has. What an earlier
/// try left there is written over: it is of the same bytes. Holds one pack in memory.
pub async fn copy(
    shared: &Arc<Shared>,
    cloud: &Cloud,
    pack: PackId,
    bytes: u64,
    to: Backend,
) -> Result<u64, ReadError> {
    let wrong = |error| told(pack, 0, error);
    match to {
        Backend::Cloud => {
            let path = shared.path(pack);
            let whole = spawn_blocking(move || read_whole(&path, pack))
                .await
                .map_err(io::Error::other);
            let whole = whole.flatten().map_err(failed(pack))?;
            let (bytes, sum) = (whole.len() as u64, blake3::hash(&whole));
            cloud.owned().await.map_err(wrong)?;
            cloud.put(pack, whole).await.map_err(wrong)?;
            let mut back = blake3::Hasher::new();
            for piece in pieces(bytes) {
                back.update(&cloud.get(pack, piece).await.map_err(wrong)?);
            }
            same(pack, sum, back.finalize())?;
            Ok(bytes)
        }
        Backend::Local => {
            let mut file = Partial::create(shared, pack).await?;
            let mut sum = blake3::Hasher::new();
            for piece in pieces(bytes) {
                let bytes = cloud.get(pack, piece).await.map_err(wrong)?;
                sum.update(&bytes);
                file = file.write(bytes).await?;
            }
            let back = file.finish(shared, bytes).await?;
            // An earlier copy may be open still.
            shared.handles.invalidate(&pack);
            same(pack, sum.finalize(), back)?;
            Ok(bytes)
        }
    }
}

/// All bytes of a sealed pack's file. With a record that fails its checksum it is read once more: what is damaged on the disk
/// reads the same again, what was read wrong does not.
fn read_whole(path: &Path, pack: PackId) -> io::Result<Bytes> {
    let whole = fs::read(path)?;
    let trailer = Trailer::decode(&whole, pack, whole.len() as u64);
    let table = |trailer: &Trailer| {
        let from = usize::try_from(trailer.table_offset).ok()?;
        whole.get(from..from + trailer.table_bytes())
    };
    let entries = trailer.and_then(|trailer| trailer.entries(table(&trailer)?));
    let entries = entries.ok_or_else(|| io::Error::other("its footer is damaged: it moves once that is mended"))?;
    let is_good = |entry: &Entry| {
        let from = entry.location.offset as usize;
        let record = whole.get(from..from + entry.location.stored_len as usize);
        let wanted = Wanted {
            location: entry.location,
            domain: entry.domain,
            id: entry.id,
        };
        record.is_some_and(|record| is_whole(record, &wanted))
    };
    if !entries.iter().all(is_good) && fs::read(path)? != whole {
        return Err(io::Error::other("its file does not read the same twice"));
    }
    Ok(whole.into())
}

fn pieces(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let starts = (0..bytes).step_by(PIECE_BYTES as usize);
    starts.map(move |start| start..bytes.min(start + PIECE_BYTES))
}

fn same(pack: PackId, sum: blake3::Hash, back: blake3::Hash) -> Result<(), ReadError> {
    if sum == back {
        return Ok(());
    }
    Err(failed(pack)(io::Error::other(
        "its copy does not read back as it was written",
    )))
}

/// A pack's file that is being written. It lies beside the folders of the packs, where a start looks for no pack.
struct Partial {
    pack: PackId,
    path: PathBuf,
    file: File,
}

impl Partial {
    async fn create(shared: &Shared, pack: PackId) -> Result<Self, ReadError> {
        let path = shared.scratch(pack, PARTIAL);
        let create = move || {
            let file = File::create(&path)?;
            Ok(Self { pack, path, file })
        };
        let created = spawn_blocking(create).await.map_err(io::Error::other);
        created.flatten().map_err(failed(pack))
    }

    async fn write(mut self, bytes: Bytes) -> Result<Self, ReadError> {
        let pack = self.pack;
        let write = move || self.file.write_all(&bytes).map(|()| self);
        let written = spawn_blocking(write).await.map_err(io::Error::other);
        written.flatten().map_err(failed(pack))
    }

    /// Syncs the file, gives it its name, durably, and reads it back.
    async fn finish(self, shared: &Shared, bytes: u64) -> Result<blake3::Hash, ReadError> {
        let (pack, path) = (self.pack, shared.path(self.pack));
        let finish = move || {
            self.file.sync_all()?;
            let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
            create_dir_synced(folder)?;
            fs::rename(&self.path, &path)?;
            sync_dir(folder)?;
            let file = ReadFile::open(&path, true)?;
            let (mut back, mut into) = (blake3::Hasher::new(), vec![0; PIECE_BYTES as usize]);
            for piece in pieces(bytes) {
                let count = file.read_at(&mut into, piece.start)?;
                back.update(into.get(..count).unwrap_or_default());
            }
            Ok(back.finalize())
        };
        let finished = spawn_blocking(finish).await.map_err(io::Error::other);
        finished.flatten().map_err(failed(pack))
    }
}

/// The ends of the names of files that are being written: of copies, and of blobs that are scanned.
const PARTIAL: &str = ".part";
pub const SCAN: &str = ".scan";

/// Removes what a killed process was writing. Blocks.
pub fn remove_partial(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_file() && (name.ends_with(PARTIAL) || name.ends_with(SCAN)) {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Removes the copy of a pack that is not at `keep`.
pub async fn remove_other(shared: &Arc<Shared>, cloud: &Cloud, pack: PackId, keep: Backend) -> Result<(), ReadError> {
    match keep {
        Backend::Local => cloud.remove(pack).await.map_err(|error| told(pack, 0, error)),
        Backend::Cloud => {
            let shared = Arc::clone(shared);
            let remove = move || {
                remove_file(&shared.path(pack))?;
                shared.handles.invalidate(&pack);
                Ok(())
            };
            let removed = spawn_blocking(remove).await.map_err(io::Error::other);
            removed.flatten().map_err(failed(pack))
        }
    }
}
