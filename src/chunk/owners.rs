//! Whose bytes a chunk holds: up its references to the rows that own them.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use crate::chunk::error::MetaError;
use crate::chunk::index::{self, page};
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, DataId, SegmentId};
use crate::kv::Row;
use crate::meta::data::DataState;
use crate::meta::key;

/// Rows of one kind that one chunk's owners are looked for in. A chunk that more refer to has `more` owners.
const ROWS_MAX: usize = 1000;

/// What is stored with the help of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// The data, and the key of the object or upload row that it was published under. That row may name other data by now.
    pub rows: BTreeMap<DataId, Bytes>,
    /// There may be others.
    pub more: bool,
}

impl ChunkStore {
    /// What is stored with the help of `chunk`. Reads a few thousand rows at the most.
    pub async fn owners(&self, chunk: &ChunkId) -> Result<Owners, MetaError> {
        let kv = &*self.kv;
        let (mut owners, mut left) = (Owners::default(), Vec::new());
        let segments = page(kv, key::chunk_refs(chunk), ROWS_MAX).await?;
        owners.more |= segments.len() == ROWS_MAX;
        for row in &segments {
            let Some(segment) = field::<32>(row, 33).map(SegmentId) else {
                continue;
            };
            let refs = page(kv, key::segment_refs(&segment), ROWS_MAX).await?;
            owners.more |= refs.len() == ROWS_MAX;
            left.extend(refs.iter().filter_map(|row| field(row, 33).map(DataId)));
        }
        let mut seen = HashSet::new();
        while let Some(data) = left.pop() {
            if !seen.insert(data) {
                continue;
            }
            if seen.len() > ROWS_MAX {
                owners.more = true;
                break;
            }
            if let Some(known) = index::data(kv, data).await?
                && known.row.state == DataState::Live
                && !known.row.owner.is_empty()
            {
                owners.rows.insert(data, known.row.owner);
            }
            let refs = page(kv, key::data_refs(data), ROWS_MAX).await?;
            left.extend(refs.iter().filter_map(|row| field(row, 17).map(DataId)));
        }
        Ok(owners)
    }
}

/// A field of a reference row's key.
fn field<const WIDTH: usize>(row: &Row, at: usize) -> Option<[u8; WIDTH]> {
    row.key.get(at..at + WIDTH)?.try_into().ok()
}
