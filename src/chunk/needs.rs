//! What each row of the chunk store needs of others, for a recount.

use std::ops::Range;

use bytes::Bytes;

use crate::chunk::compare::FINDINGS_MAX;
use crate::chunk::error::MetaError;
use crate::chunk::recount::Recount;
use crate::chunk::sum::Sum;
use crate::ids::{ChunkId, DataId, SegmentId};
use crate::kv::Row;
use crate::meta::chunk::ChunkRow;
use crate::meta::data::{DataRow, DataState};
use crate::meta::key::{self, Table};
use crate::meta::segment::SegmentRow;
use crate::meta::tree::{Target, TreeRow};

/// The chunks and their references as each table has them; in a sound store two and two are equal.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    chunks: Sum,
    chunks_referred: Sum,
    refs: Sum,
    refs_listed: Sum,
    last_referred: Option<ChunkId>,
}

impl Sums {
    pub fn agree(&self) -> bool {
        self.chunks == self.chunks_referred && self.refs == self.refs_listed
    }

    /// Adds a `chunk_ref` row; they come in the order of their chunks.
    fn add_ref(&mut self, chunk: ChunkId, segment: &SegmentId) {
        self.refs.add(&(chunk, segment));
        if self.last_referred != Some(chunk) {
            self.chunks_referred.add(&chunk);
            self.last_referred = Some(chunk);
        }
    }
}

/// A row that another row needs: its key, or any row of a range.
pub(super) enum Need {
    Key(Bytes),
    /// The list of the segment has the chunk.
    Named {
        chunk: ChunkId,
        segment: SegmentId,
    },
    Any(Range<Bytes>),
    /// The tree row of `data` that ends at this offset, unless windows are still to come or were unwound.
    Joined {
        data: DataId,
        at: u64,
    },
    /// A reference to data whose owner is gone, or the garbage row that says that the last one has just gone.
    Held(DataId),
    /// The reference of `child` to its tree's data; not while that is unwound, since a child's reference goes with the
    /// first of the entries that share it.
    Child {
        child: DataId,
        data: DataId,
    },
}

/// Which of the two looks at a table it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    First,
    /// Of the tables whose sums do not agree, or that have gaps: tells which rows it is.
    Again,
}

/// The bytes of a row's key from `at` on.
fn id<const WIDTH: usize>(row: &Row, at: usize) -> [u8; WIDTH] {
    let bytes = row.key.get(at..at + WIDTH).and_then(|bytes| bytes.try_into().ok());
    bytes.unwrap_or([0; WIDTH])
}

/// What `row` of `table` needs, but for what sums tell.
pub(super) fn needs(table: Table, row: &Row, recount: &mut Recount) -> Result<Vec<Need>, MetaError> {
    let value = row.value.bytes.clone();
    let data = |at| DataId(id(row, at));
    Ok(match table {
        Table::Chunk => {
            let name = ChunkId(id(row, 1));
            recount.sums.chunks.add(&name);
            let chunk = ChunkRow::decode(value)?;
            recount.chunks += 1;
            recount.tally.add(&chunk);
            if chunk.damaged {
                recount.findings_total += 1;
                if recount.damaged.len() < FINDINGS_MAX {
                    recount.damaged.push((name, chunk.place.pack));
                }
            }
            let pack = chunk.place.pack;
            let is_first = !recount.claims.contains_key(&pack);
            recount.claims.entry(pack).or_default().add(&name, &chunk.place);
            is_first.then(|| Need::Key(key::pack(pack))).into_iter().collect()
        }
        Table::ChunkRef => {
            recount.sums.add_ref(ChunkId(id(row, 1)), &SegmentId(id(row, 33)));
            vec![]
        }
        Table::Segment => {
            recount.segments += 1;
            let name = SegmentId(id(row, 1));
            for chunk in SegmentRow::decode(value)?.distinct_chunks() {
                recount.sums.refs_listed.add(&(chunk, name));
            }
            vec![Need::Any(key::segment_refs(&name))]
        }
        Table::SegmentRef => {
            // A row that is being unwound keeps its key, so the row of the entry is the next one.
            let (data, end) = (data(33), u64::from_be_bytes(id(row, 49)));
            let tree = key::tree(data, end)..key::trees(data).end;
            vec![Need::Key(key::segment(&SegmentId(id(row, 1)))), Need::Any(tree)]
        }
        Table::Tree => {
            let (data, tree) = (data(1), TreeRow::decode(value)?);
            let before = recount
                .tree_end
                .filter(|(last, _)| *last == data)
                .map_or(0, |(_, end)| end);
            recount.tree_end = tree.end().map(|end| (data, end));
            let mut needs = tree_needs(data, &tree);
            if tree.start != before {
                needs.push(Need::Joined { data, at: tree.start });
            }
            needs
        }
        Table::DataRef => vec![Need::Key(key::data(data(1))), Need::Key(key::data(data(17)))],
        Table::Data => {
            recount.data += 1;
            data_needs(data(1), &DataRow::decode(value)?)
        }
        _ => vec![],
    })
}

fn tree_needs(data: DataId, tree: &TreeRow) -> Vec<Need> {
    let mut at = tree.start;
    let refs = tree.entries.iter().map(|entry| {
        at += entry.length;
        match entry.target {
            Target::Segment(segment) => Need::Key(key::segment_ref(&segment, data, at)),
            Target::Data(child) => Need::Child { child, data },
        }
    });
    refs.chain([Need::Key(key::data(data))]).collect()
}

fn data_needs(id: DataId, data: &DataRow) -> Vec<Need> {
    let mut needs = match data.state {
        DataState::Live => vec![],
        DataState::Released => vec![Need::Held(id)],
        DataState::Building | DataState::Unwinding => vec![Need::Key(key::garbage(id))],
    };
    if data.is_whole() && data.size > 0 {
        needs.push(Need::Key(key::tree(id, data.size)));
    }
    needs
}

/// What `row` needs of what the sums are of. What cannot be decoded was told at the first look.
pub(super) fn needs_again(table: Table, row: &Row, recount: &Recount) -> Vec<Need> {
    match table {
        Table::Chunk => vec![Need::Any(key::chunk_refs(&ChunkId(id(row, 1))))],
        Table::ChunkRef => {
            let (chunk, segment) = (ChunkId(id(row, 1)), SegmentId(id(row, 33)));
            let mut needs = vec![Need::Key(key::chunk(&chunk))];
            if !recount.has_gaps {
                needs.push(Need::Named { chunk, segment });
            }
            needs
        }
        Table::Segment => {
            let name = SegmentId(id(row, 1));
            let listed = SegmentRow::decode(row.value.bytes.clone()).map(|segment| segment.distinct_chunks());
            let refs = listed.into_iter().flatten();
            refs.map(|chunk| Need::Key(key::chunk_ref(&chunk, &name))).collect()
        }
        _ => vec![],
    }
}
