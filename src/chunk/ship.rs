//! What a backup asks of the packs.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::io::Errno;

use crate::chunk::error::ReadError;
use crate::chunk::index;
use crate::chunk::pack::{self, FILE_HEADER_BYTES, PackInfo, PackState, Trailer, path_in};
use crate::chunk::store::ChunkStore;
use crate::ids::{DataId, PackId};
use crate::meta::tree::Target;

/// A pack's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackFile {
    pub id: PackId,
    /// Bytes that are durable.
    pub bytes: u64,
    /// Nothing will be added to it by this process.
    pub is_final: bool,
}

/// What reading a pack's bytes gives. An error beside it: another try may give more.
#[derive(Debug)]
pub enum PackBytes {
    There(Bytes),
    /// The pack is deleted.
    Gone,
    /// The disk does not give them, or the blob is not there: the gateway cannot read them either.
    Lost(String),
}

/// Where a pack's file is, below the directory of the packs.
pub fn pack_path(dir: &Path, id: PackId) -> PathBuf {
    path_in(dir, id)
}

/// Whether these are the last bytes of a finished pack of `length` bytes.
pub fn is_pack_end(bytes: &[u8], id: PackId, length: u64) -> bool {
    Trailer::decode(bytes, id, length).is_some()
}

impl ChunkStore {
    /// All packs, by id, and how many have been deleted since the store was opened. Each one that is missing in the list is
    /// in the count.
    pub fn pack_files(&self) -> (Vec<PackFile>, u64) {
        let file = |info: PackInfo| {
            let is_final = matches!(info.state, PackState::Sealed | PackState::Damaged);
            // The header of a pack is written with its first batch.
            let is_begun = is_final || info.bytes > FILE_HEADER_BYTES as u64;
            PackFile {
                id: info.id,
                bytes: if is_begun { info.bytes } else { 0 },
                is_final,
            }
        };
        let files = self.packs.packs().into_iter().map(file).collect();
        (files, self.packs.deleted())
    }

    /// Durable bytes of a pack as they are, from the disk or from the cloud. The range starts on a page.
    pub async fn pack_bytes_at(&self, id: PackId, range: Range<u64>) -> Result<PackBytes, std::io::Error> {
        match self.packs.read_raw(id, range).await {
            Ok(bytes) => Ok(PackBytes::There(bytes)),
            Err(pack::ReadError::NotFound(_)) => Ok(PackBytes::Gone),
            Err(pack::ReadError::Io { error, .. }) if Errno::from_io_error(&error) != Some(Errno::IO) => Err(error),
            Err(error @ pack::ReadError::Busy(_)) => Err(std::io::Error::other(error)),
            Err(error) => Ok(PackBytes::Lost(error.to_string())),
        }
    }

    /// The packs that all bytes of `data` are in.
    pub async fn packs_of(&self, data: DataId) -> Result<BTreeSet<PackId>, ReadError> {
        let mut packs = BTreeSet::new();
        let mut waiting = vec![data];
        while let Some(data) = waiting.pop() {
            let size = index::data(&*self.kv, data)
                .await?
                .ok_or(ReadError::Gone(data))?
                .row
                .size;
            let mut at = 0;
            while at < size {
                let row = self.tree_row(data, at).await?;
                for entry in &row.entries {
                    match entry.target {
                        Target::Data(inner) => waiting.push(inner),
                        Target::Segment(id) => {
                            let segment = index::segment(&*self.kv, &id).await?.ok_or(ReadError::Gone(data))?;
                            let chunks = index::chunks(&*self.kv, &segment.row.distinct_chunks()).await?;
                            packs.extend(chunks.into_iter().flatten().map(|known| known.row.place.pack));
                        }
                    }
                }
                at = row.end().filter(|end| *end > at).ok_or(ReadError::Gone(data))?;
            }
        }
        Ok(packs)
    }
}
