//! MD5 of many streams at once. MD5 is the dearest step of a PUT when hashed stream by stream; streams in flight share
//! SIMD lanes here, on hashing threads of their own.

use std::io;

use bytes::Bytes;

/// Hashing threads. Dropping it ends them when the streams are done.
pub struct Md5Lanes;

impl Md5Lanes {
    pub fn start(threads: usize) -> io::Result<Self> {
        unimplemented!("{threads}")
    }

    /// A new stream. Dropping it before `finish` forgets it.
    pub fn stream(&self) -> Md5Stream {
        unimplemented!()
    }
}

/// One MD5 in the making.
pub struct Md5Stream;

impl Md5Stream {
    /// Queues `data` without a copy; waits while too many bytes are queued.
    pub async fn update(&mut self, data: Bytes) {
        unimplemented!("{}", data.len())
    }

    /// The digest of everything queued.
    pub async fn finish(self) -> [u8; 16] {
        unimplemented!()
    }
}

/// MD5 of a small body, in place.
pub fn md5_small(data: &[u8]) -> [u8; 16] {
    md5_many::md5(data)
}
