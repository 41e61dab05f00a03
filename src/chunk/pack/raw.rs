//! Packs as plain bytes, for a backup.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::blob::local::ALIGNMENT;
use crate::chunk::pack::cloud::told;
use crate::chunk::pack::{PackSet, ReadError};
use crate::chunk::pool::Block;
use crate::ids::PackId;

struct Owned(Block);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl PackSet {
    /// Packs deleted since the set was opened. It counts before the pack leaves the list: who asks for the list first has
    /// each pack that is missing there counted here.
    pub fn deleted(&self) -> u64 {
        self.shared.deleted.load(Ordering::SeqCst)
    }

    /// The bytes of a range that is durable; it starts on a page. They go around the page cache and the cache of the cloud,
    /// and are not verified.
    pub async fn read_raw(&self, id: PackId, range: Range<u64>) -> Result<Bytes, ReadError> {
        let pack = self.shared.pack(id).ok_or(ReadError::NotFound(id))?;
        let lease = Arc::clone(&pack.gone).read_owned().await;
        if *lease {
            return Err(ReadError::NotFound(id));
        }
        if let Some(cloud) = self.shared.cloud.as_ref().filter(|_| pack.is_in_cloud()) {
            let (read, offset) = (cloud.get(id, range.clone()).await, range.start);
            return read.map_err(|error| told(id, offset, error));
        }
        let shared = Arc::clone(&self.shared);
        let read = move || {
            let _held = lease;
            let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
            let mut block = Block::new(length.next_multiple_of(ALIGNMENT));
            let count = shared.handle(id)?.read_direct_at(block.as_mut_slice(), range.start)?;
            if count < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(Bytes::from_owner(Owned(block)).slice(..length))
        };
        let failed = move |error| ReadError::Io { pack: id, error };
        let done = self.shared.options.offload.run(read).await;
        done.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
    }
}
