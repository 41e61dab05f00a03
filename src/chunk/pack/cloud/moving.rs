//! Whole packs from one backend to the other, byte for byte.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{Cloud, name, told};
use crate::blob::local::{ReadFile, create_dir_synced, remove_file, sync_dir};
use crate::chunk::pack::ReadError;
use crate::chunk::pack::shared::Shared;
use crate::ids::PackId;
use crate::limits::MIB;
use crate::meta::pack::Backend;

/// Bytes that are read at once, where not the whole pack is needed.
const PIECE_BYTES: u64 = 4 * MIB as u64;

fn failed(pack: PackId) -> impl Fn(io::Error) -> ReadError {
    move |error| ReadError::Io { pack, error }
}

/// Copies a sealed pack of `bytes` to `to`, durably, and reads the copy back. What an earlier try left there is written over:
/// it is of the same bytes. Holds one pack in memory.
pub async fn copy(shared: &Arc<Shared>, cloud: &Cloud, pack: PackId, bytes: u64, to: Backend) -> Result<(), ReadError> {
    let wrong = |error| told(pack, 0, error);
    match to {
        Backend::Cloud => {
            let path = shared.path(pack);
            let whole = spawn_blocking(move || fs::read(path)).await.map_err(io::Error::other);
            let whole = Bytes::from(whole.flatten().map_err(failed(pack))?);
            let sum = blake3::hash(&whole);
            cloud.owned().await.map_err(wrong)?;
            let name = name(pack);
            let put = cloud.in_time(cloud.options.blobs.put(&name, whole));
            put.await.map_err(wrong)?;
            let mut back = blake3::Hasher::new();
            for piece in pieces(bytes) {
                back.update(&cloud.get(pack, piece).await.map_err(wrong)?);
            }
            same(pack, sum, back.finalize())
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
            same(pack, sum.finalize(), back)
        }
    }
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
        let path = shared.dir.join(format!("{pack}{PARTIAL}"));
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

/// The end of the names of files that are being written.
const PARTIAL: &str = ".part";

/// Removes what a killed process was writing. Blocks.
pub fn remove_partial(dir: &std::path::Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_file() && (name.ends_with(PARTIAL) || name.ends_with(".scan")) {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Removes the copy of a pack that is not the pack any more, or not yet.
pub async fn remove_other(shared: &Arc<Shared>, cloud: &Cloud, pack: PackId, from: Backend) -> Result<(), ReadError> {
    match from {
        Backend::Cloud => cloud.remove(pack).await.map_err(|error| told(pack, 0, error)),
        Backend::Local => {
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
