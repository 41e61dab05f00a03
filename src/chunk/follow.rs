//! Whether everything that reading a payload needs is there: from its data row down to the chunk rows.

use std::collections::HashSet;

use crate::chunk::error::MetaError;
use crate::chunk::index::{self, page};
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, DataId, SegmentId};
use crate::kv::skim::after;
use crate::meta::key;
use crate::meta::segment::SegmentRow;
use crate::meta::tree::{Target, TreeRow};

/// Tree rows read at once.
const STEP_ROWS: usize = 64;
/// Chunk rows read at once.
const STEP_CHUNKS: usize = 256;

/// What one walk has seen already, so that what is shared is read once.
#[derive(Default)]
struct Seen {
    data: HashSet<DataId>,
    segments: HashSet<SegmentId>,
    /// Data that is still to be looked at.
    left: Vec<DataId>,
}

impl ChunkStore {
    /// What keeps `data` from being read, as far as the rows tell, for people; `None`: nothing. Reads no pack. Tells nothing
    /// of value about data that is deleted meanwhile.
    pub async fn follow(&self, data: DataId) -> Result<Option<String>, MetaError> {
        let mut seen = Seen {
            left: vec![data],
            ..Seen::default()
        };
        while let Some(data) = seen.left.pop() {
            if !seen.data.insert(data) {
                continue;
            }
            match self.follow_one(data, &mut seen).await {
                Err(error) if error.is_damage() => return Ok(Some(format!("a row that it needs: {error}"))),
                Ok(None) => {}
                outcome => return outcome,
            }
        }
        Ok(None)
    }

    async fn follow_one(&self, data: DataId, seen: &mut Seen) -> Result<Option<String>, MetaError> {
        let Some(known) = index::data(&*self.kv, data).await? else {
            return Ok(Some(format!("data {data} is not there")));
        };
        let (range, mut covered) = (key::trees(data), 0);
        let mut from = range.start;
        loop {
            let rows = page(&*self.kv, from..range.end.clone(), STEP_ROWS).await?;
            for row in &rows {
                let tree = TreeRow::decode(row.value.bytes.clone())?;
                if tree.start != covered {
                    return Ok(Some(format!("nothing says where its bytes from {covered} on are")));
                }
                covered = tree.end().unwrap_or(covered);
                for entry in &tree.entries {
                    match entry.target {
                        Target::Data(child) => seen.left.push(child),
                        Target::Segment(segment) => {
                            if seen.segments.insert(segment)
                                && let Some(reason) = self.follow_segment(&segment).await?
                            {
                                return Ok(Some(reason));
                            }
                        }
                    }
                }
            }
            match rows.last() {
                Some(last) => from = after(&last.key),
                None => break,
            }
        }
        Ok((covered != known.row.size).then(|| format!("nothing says where its bytes from {covered} on are")))
    }

    async fn follow_segment(&self, segment: &SegmentId) -> Result<Option<String>, MetaError> {
        let Some(value) = self.kv.get(&key::segment(segment)).await? else {
            return Ok(Some(format!("segment {} is not there", hex::encode(segment.0))));
        };
        let chunks: Vec<ChunkId> = SegmentRow::decode(value.bytes)?.distinct_chunks();
        for ids in chunks.chunks(STEP_CHUNKS) {
            let rows = index::chunks(&*self.kv, ids).await?;
            let absent = ids.iter().zip(rows).find(|(_, row)| row.is_none());
            if let Some((id, _)) = absent {
                return Ok(Some(format!("the index has no chunk {id}")));
            }
        }
        Ok(None)
    }
}
