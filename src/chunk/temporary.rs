//! Stands in for the chunk store until it is merged.
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use bytes::Bytes;
use crate::chunk::{chunker::Profile, codec::Hint};
use crate::ids::{DataId, DomainId};
use crate::kv::Mutation;
#[derive(Debug, thiserror::Error)]
#[error("read")]
pub enum ReadError { NotFound }
#[derive(Debug, thiserror::Error)]
#[error("write")]
pub struct WriteError;
#[derive(Debug, thiserror::Error)]
#[error("compose")]
pub struct ComposeError;
pub struct ChunkStore;
pub struct WriteOptions { pub domain: DomainId, pub profile: Profile, pub expected_bytes: Option<u64>, pub hint: Hint }
pub struct StoredData { pub id: DataId, pub size: u64, pub md5: [u8; 16] }
impl StoredData { pub fn published(self) {} pub fn outcome_unknown(self) {} }
pub struct Piece { pub data: DataId, pub offset: u64, pub length: u64, pub part_number: u16 }
pub struct DataWriter;
impl DataWriter {
    pub async fn write(&mut self, _: Bytes) -> Result<(), WriteError> { Ok(()) }
    pub async fn finish(self) -> Result<StoredData, WriteError> { Err(WriteError) }
}
pub struct DataStream;
impl futures::Stream for DataStream {
    type Item = Result<Bytes, ReadError>;
    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> { Poll::Ready(None) }
}
impl ChunkStore {
    pub async fn create_domain(&self) -> Result<DomainId, WriteError> { Err(WriteError) }
    pub fn writer(self: &Arc<Self>, _: WriteOptions) -> DataWriter { DataWriter }
    pub fn publish(&self, _: &mut Mutation, _: &StoredData) {}
    pub fn release(&self, _: &mut Mutation, _: DataId) {}
    pub async fn compose(&self, _: DomainId, _: &[Piece]) -> Result<StoredData, ComposeError> { Err(ComposeError) }
    pub async fn read(self: &Arc<Self>, _: DataId, _: Range<u64>) -> Result<DataStream, ReadError> { Ok(DataStream) }
}
