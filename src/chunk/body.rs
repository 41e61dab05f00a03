//! The bodies of small objects: in an encrypted store their rows hold them encrypted.

use bytes::{BufMut, Bytes, BytesMut};

use crate::chunk::cipher::Purpose;
use crate::chunk::error::{ReadError, WriteError};
use crate::chunk::store::ChunkStore;
use crate::ids::{DataId, DomainId};
use crate::meta::record::Malformed;

/// The row of an encrypted body: this byte, the domain, then the body in a box.
const FORMAT: u8 = 1;

impl ChunkStore {
    /// What the row of a small object's body is to hold, encrypted with the domain's data key; `None`: the body as it is.
    pub async fn seal_body(&self, domain: DomainId, data: DataId, body: &[u8]) -> Result<Option<Bytes>, WriteError> {
        if !self.keys.is_on() {
            return Ok(None);
        }
        let domain = self.domain(domain).await?;
        let Some(key) = domain.data_key() else {
            return Ok(None);
        };
        let boxed = key.seal_box(Purpose::Body, &data.0, body);
        let mut row = BytesMut::with_capacity(1 + 8 + boxed.len());
        row.put_u8(FORMAT);
        row.put_u64_le(domain.id.0);
        row.put_slice(&boxed);
        Ok(Some(row.freeze()))
    }

    /// The body that `seal_body` made this row of.
    pub async fn open_body(&self, data: DataId, row: &[u8]) -> Result<Bytes, ReadError> {
        let malformed = |reason| Malformed { record: "body", reason };
        let (format, rest) = row.split_first().ok_or(malformed("truncated"))?;
        let (domain, boxed) = rest.split_first_chunk().ok_or(malformed("truncated"))?;
        if *format != FORMAT {
            return Err(malformed("unknown format").into());
        }
        let domain = match self.domain(DomainId(u64::from_le_bytes(*domain))).await {
            Ok(domain) => domain,
            Err(WriteError::Meta(error)) => return Err(error.into()),
            Err(_) => return Err(malformed("its dedup domain is not there").into()),
        };
        let key = domain
            .data_key()
            .ok_or(malformed("it is encrypted, and the store is not"))?;
        let mut plain = key
            .open_box(Purpose::Body, &data.0, boxed)
            .map_err(|_| malformed("it fails its cipher's tag"))?;
        Ok(Bytes::from(std::mem::take(&mut *plain)))
    }
}
