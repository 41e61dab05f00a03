//! What a backup asks of the packs.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::chunk::pack::{PackState, ReadError, path_in};
use crate::chunk::store::ChunkStore;
use crate::ids::PackId;

/// A pack's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackFile {
    pub id: PackId,
    /// Bytes that are durable.
    pub bytes: u64,
    /// Nothing will be added to it by this process.
    pub is_final: bool,
}

/// Where a pack's file is, below the directory of the packs.
pub fn pack_path(dir: &Path, id: PackId) -> PathBuf {
    path_in(dir, id)
}

impl ChunkStore {
    /// All packs, by id, and how many have been deleted since the store was opened. Each one that is missing in the list is
    /// in the count.
    pub fn pack_files(&self) -> (Vec<PackFile>, u64) {
        let file = |info: crate::chunk::pack::PackInfo| PackFile {
            id: info.id,
            bytes: info.bytes,
            is_final: matches!(info.state, PackState::Sealed | PackState::Damaged),
        };
        let files = self.packs.packs().into_iter().map(file).collect();
        (files, self.packs.deleted())
    }

    /// Durable bytes of a pack as they are; `None`: the pack is deleted. The range starts on a page.
    pub async fn pack_bytes_at(&self, id: PackId, range: Range<u64>) -> Result<Option<Bytes>, std::io::Error> {
        match self.packs.read_raw(id, range).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReadError::NotFound(_)) => Ok(None),
            Err(ReadError::Io { error, .. }) => Err(error),
            Err(error) => Err(std::io::Error::other(error)),
        }
    }
}
