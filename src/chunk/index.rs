//! Lookups in the chunk index.

use bytes::Bytes;

use crate::chunk::codec::Codec;
use crate::chunk::error::MetaError;
use crate::chunk::pack::Location;
use crate::ids::{ChunkId, DataId, SegmentId, Sequence};
pub(super) use crate::kv::skim::after;
use crate::kv::{Direction, Kv, Row, Scan, Value};
use crate::meta::chunk::{ChunkRow, Place};
use crate::meta::data::DataRow;
use crate::meta::key;
use crate::meta::record::Malformed;
use crate::meta::segment::SegmentRow;

/// A row as it was read, and the commit that wrote it.
#[derive(Clone, Debug)]
pub(super) struct Known<T> {
    pub row: T,
    pub version: Sequence,
}

fn known<T>(value: Value, decode: fn(Bytes) -> Result<T, Malformed>) -> Result<Known<T>, Malformed> {
    Ok(Known {
        row: decode(value.bytes)?,
        version: value.version,
    })
}

/// The rows of `ids`, in their order.
pub(super) async fn chunks(kv: &dyn Kv, ids: &[ChunkId]) -> Result<Vec<Option<Known<ChunkRow>>>, MetaError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<Bytes> = ids.iter().map(key::chunk).collect();
    let values = kv.get_many(&keys).await?;
    values
        .into_iter()
        .map(|value| Ok(value.map(|value| known(value, ChunkRow::decode)).transpose()?))
        .collect()
}

pub(super) async fn chunk(kv: &dyn Kv, id: &ChunkId) -> Result<Option<Known<ChunkRow>>, MetaError> {
    let value = kv.get(&key::chunk(id)).await?;
    Ok(value.map(|value| known(value, ChunkRow::decode)).transpose()?)
}

pub(super) async fn segment(kv: &dyn Kv, id: &SegmentId) -> Result<Option<Known<SegmentRow>>, MetaError> {
    let value = kv.get(&key::segment(id)).await?;
    Ok(value.map(|value| known(value, SegmentRow::decode)).transpose()?)
}

pub(super) async fn data(kv: &dyn Kv, id: DataId) -> Result<Option<Known<DataRow>>, MetaError> {
    let value = kv.get(&key::data(id)).await?;
    Ok(value.map(|value| known(value, DataRow::decode)).transpose()?)
}

/// The rows of `ids`, in their order.
pub(super) async fn datas(kv: &dyn Kv, ids: &[DataId]) -> Result<Vec<Option<Known<DataRow>>>, MetaError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<Bytes> = ids.iter().map(|id| key::data(*id)).collect();
    let values = kv.get_many(&keys).await?;
    values
        .into_iter()
        .map(|value| Ok(value.map(|value| known(value, DataRow::decode)).transpose()?))
        .collect()
}

/// The first rows of a range.
pub(super) async fn page(kv: &dyn Kv, range: std::ops::Range<Bytes>, limit: usize) -> Result<Vec<Row>, MetaError> {
    let scan = Scan {
        start: std::ops::Bound::Included(range.start),
        end: std::ops::Bound::Excluded(range.end),
        limit,
        direction: Direction::Forward,
        fold: None,
    };
    Ok(kv.scan(scan).await?)
}

pub(super) fn place(location: &Location) -> Place {
    let Location {
        pack,
        offset,
        stored_len,
        raw_len,
        codec,
    } = *location;
    Place {
        pack,
        offset,
        stored_len,
        raw_len,
        codec: codec as u8,
    }
}

pub(super) fn location(place: &Place) -> Result<Location, Malformed> {
    let Place {
        pack,
        offset,
        stored_len,
        raw_len,
        codec,
    } = *place;
    let codec = Codec::from_u8(codec).ok_or(Malformed {
        record: "chunk",
        reason: "unknown codec",
    })?;
    Ok(Location {
        pack,
        offset,
        stored_len,
        raw_len,
        codec,
    })
}
