//! Whose bytes a chunk holds: up its references to the rows that own them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use bytes::Bytes;

use crate::chunk::error::MetaError;
use crate::chunk::index::{self, page};
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, DataId, SegmentId};
use crate::kv::{Kv, Row};
use crate::limits::SCAN_ROWS_MAX;
use crate::meta::data::DataState;
use crate::meta::key;

/// Rows that one chunk's owners are looked for in. A chunk that more refer to has `more` owners.
const ROWS_MAX: usize = 4000;
/// Owners of one chunk that are told. A base image may have thousands, of each of its chunks.
const OWNERS_MAX: usize = 100;

/// What is stored with the help of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// The data, and the key of the object or upload row that it was published under. That row may name other data by now.
    pub rows: BTreeMap<DataId, Bytes>,
    /// There are others, or may be.
    pub more: bool,
}

impl ChunkStore {
    /// What is stored with the help of `chunk`, a hundred of it at the most. Reads a few thousand rows at the most.
    pub async fn owners(&self, chunk: &ChunkId) -> Result<Owners, MetaError> {
        let kv = &*self.kv;
        let (mut owners, mut left, mut budget) = (Owners::default(), Vec::new(), ROWS_MAX);
        let segments = some(kv, key::chunk_refs(chunk), &mut budget).await?;
        for row in &segments {
            let Some(segment) = field::<32>(row, 33).map(SegmentId) else {
                continue;
            };
            let refs = some(kv, key::segment_refs(&segment), &mut budget).await?;
            left.extend(refs.iter().filter_map(|row| field(row, 33).map(DataId)));
        }
        let mut seen = HashSet::new();
        while let Some(data) = left.pop() {
            if budget == 0 {
                break;
            }
            if !seen.insert(data) {
                continue;
            }
            budget -= 1;
            if let Some(known) = index::data(kv, data).await?
                && known.row.state == DataState::Live
            {
                if owners.rows.len() == OWNERS_MAX {
                    owners.more = true;
                    break;
                }
                if known.row.owner.is_empty() {
                    // Published by a version that did not say under what.
                    owners.more = true;
                } else {
                    owners.rows.insert(data, known.row.owner);
                }
            }
            let refs = some(kv, key::data_refs(data), &mut budget).await?;
            left.extend(refs.iter().filter_map(|row| field(row, 17).map(DataId)));
        }
        owners.more |= budget == 0;
        Ok(owners)
    }
}

/// The first rows of a range, as many as may still be read.
async fn some(kv: &dyn Kv, range: Range<Bytes>, budget: &mut usize) -> Result<Vec<Row>, MetaError> {
    if *budget == 0 {
        return Ok(Vec::new());
    }
    let rows = page(kv, range, (*budget).min(SCAN_ROWS_MAX)).await?;
    *budget -= rows.len();
    Ok(rows)
}

/// A field of a reference row's key.
fn field<const WIDTH: usize>(row: &Row, at: usize) -> Option<[u8; WIDTH]> {
    row.key.get(at..at + WIDTH)?.try_into().ok()
}
