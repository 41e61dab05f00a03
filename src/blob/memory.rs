//! Blobs in memory, for the tests of the layers above.

use std::collections::BTreeMap;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use super::store::{Blob, BlobError, Blobs, LIST_PAGE_MAX, checked, checked_folder};

#[derive(Debug, Default)]
pub struct MemoryBlobs {
    blobs: RwLock<BTreeMap<String, Bytes>>,
}

impl MemoryBlobs {
    pub fn new() -> Self {
        Self::default()
    }

    fn found(&self, name: &str) -> Result<Bytes, BlobError> {
        let blobs = self.blobs.read();
        blobs.get(checked(name)?).cloned().ok_or(BlobError::NotFound)
    }
}

#[async_trait]
impl Blobs for MemoryBlobs {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BlobError> {
        self.blobs.write().insert(checked(name)?.to_owned(), bytes);
        Ok(())
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        let bytes = self.found(name)?;
        let Some(range) = range else { return Ok(bytes) };
        if range.end > bytes.len() as u64 {
            return Err(BlobError::Short);
        }
        Ok(bytes.slice(range.start as usize..range.end.max(range.start) as usize))
    }

    async fn size(&self, name: &str) -> Result<u64, BlobError> {
        Ok(self.found(name)?.len() as u64)
    }

    async fn delete(&self, name: &str) -> Result<(), BlobError> {
        self.blobs.write().remove(checked(name)?);
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Blob>, BlobError> {
        let prefix = checked_folder(prefix)?;
        let blobs = self.blobs.read();
        let found = blobs
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
            .take(LIST_PAGE_MAX);
        let blob = |(name, bytes): (&String, &Bytes)| Blob {
            name: name.clone(),
            bytes: bytes.len() as u64,
        };
        Ok(found.map(blob).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_behaves() {
        crate::blob::suite::run(&MemoryBlobs::new()).await;
    }
}
