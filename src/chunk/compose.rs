//! Data made of other data: completed uploads and copies. Only rows are written, however large the data is.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::chunk::error::{ComposeError, MetaError};
use crate::chunk::index::{self, Known};
use crate::chunk::store::ChunkStore;
use crate::chunk::stored::StoredData;
use crate::ids::{DataId, DomainId, Sequence};
use crate::kv::{CommitError, Mutation};
use crate::limits::{TREE_DEPTH_MAX, TREE_ROW_ENTRIES_MAX};
use crate::meta::data::{DataRow, DataState};
use crate::meta::key;
use crate::meta::record::UnknownFields;
use crate::meta::tree::{Target, TreeEntry, TreeRow};

/// Entries of one row, and so guards of one commit: what a commit costs the 4 KiB PUTs behind it.
const ROW_ENTRIES_MAX: usize = 256;
/// Entries from which on pieces are no longer replaced by what they are composed of: a complete of 10,000 parts has to
/// end while its client waits, and is held in memory.
const FLATTENED_ENTRIES_MAX: usize = 10_000;
const COMMIT_TRIES_MAX: u32 = 8;

/// A range of published data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub data: DataId,
    pub offset: u64,
    pub length: u64,
    /// The part of the upload that it was; 0: none.
    pub part_number: u16,
}

/// An entry to be written: `data` is what it refers to, `via` the live data that it was found in.
struct Entry {
    data: DataId,
    via: DataId,
    offset: u64,
    length: u64,
    part_number: u16,
}

impl ChunkStore {
    /// Puts `pieces` together as new data, which holds its own references: the pieces' owners may go afterwards.
    /// A piece of composed data is replaced by what it is composed of, if that is at most 1,000 entries and there are
    /// not too many already, so that copies of copies do not nest.
    pub async fn compose(&self, domain: DomainId, pieces: &[Piece]) -> Result<StoredData, ComposeError> {
        let mut depth = 1;
        let mut entries = Vec::with_capacity(pieces.len());
        for pieces in pieces.chunks(ROW_ENTRIES_MAX) {
            let ids: Vec<DataId> = pieces.iter().map(|piece| piece.data).collect();
            for (piece, row) in pieces.iter().zip(index::datas(&*self.kv, &ids).await?) {
                let row = live(piece, domain, row)?;
                let inner = self.flatten(piece, &row, &mut entries).await?;
                depth = depth.max(inner + 1);
            }
        }
        if usize::from(depth) > TREE_DEPTH_MAX {
            return Err(ComposeError::TooDeep);
        }
        let id = self.ids.data_id();
        let row = self.building_row(domain, 0, depth);
        let mut session = self.sessions.build(id);
        match self.write_tree(id, &row, &entries).await {
            Ok((version, size)) => Ok(StoredData {
                id,
                size,
                md5: [0; 16],
                row,
                version,
                session,
            }),
            Err(error) => {
                if matches!(&error, ComposeError::Meta(error) if error.is_unknown()) {
                    session.leave();
                }
                Err(error)
            }
        }
    }

    /// Adds the entries that stand for `piece`; returns the depth of what they refer to.
    async fn flatten(&self, piece: &Piece, row: &DataRow, entries: &mut Vec<Entry>) -> Result<u8, ComposeError> {
        let Piece {
            data,
            offset,
            length,
            part_number,
        } = *piece;
        if length == 0 {
            return Ok(0);
        }
        if row.depth > 1
            && entries.len() < FLATTENED_ENTRIES_MAX
            && let Some(inner) = self.inner_entries(piece).await?
        {
            entries.extend(inner.into_iter().map(|(inner, offset, length)| Entry {
                data: inner,
                via: data,
                offset,
                length,
                part_number,
            }));
            return Ok(row.depth - 1);
        }
        entries.push(Entry {
            data,
            via: data,
            offset,
            length,
            part_number,
        });
        Ok(row.depth)
    }

    /// What a piece of composed data is composed of, clipped to it; `None`: of too many entries.
    async fn inner_entries(&self, piece: &Piece) -> Result<Option<Vec<(DataId, u64, u64)>>, ComposeError> {
        let (stop, mut at) = (piece.offset + piece.length, piece.offset);
        let mut found = Vec::new();
        while at < stop {
            let row = self.tree_row(piece.data, at).await.map_err(|error| match error {
                crate::chunk::error::ReadError::Meta(error) => ComposeError::Meta(error),
                _ => ComposeError::Gone(piece.data),
            })?;
            for (begin, entry) in row.overlapping(at..stop) {
                let Target::Data(data) = entry.target else {
                    return Ok(None);
                };
                let (first, last) = (begin.max(at), (begin + entry.length).min(stop));
                found.push((data, entry.offset + (first - begin), last - first));
                if found.len() > TREE_ROW_ENTRIES_MAX {
                    return Ok(None);
                }
            }
            at = row.end().unwrap_or(stop);
        }
        Ok(Some(found))
    }

    /// Commits the building row, then the tree row by row; returns the building row's version and the size.
    async fn write_tree(&self, id: DataId, row: &DataRow, entries: &[Entry]) -> Result<(Sequence, u64), ComposeError> {
        let mut mutation = Mutation::deferred();
        self.begin(&mut mutation, id, row);
        let version = self.kv.commit(mutation).await?;
        let mut start = 0u64;
        for entries in entries.chunks(ROW_ENTRIES_MAX) {
            start = self.write_row(id, version, start, entries).await?;
        }
        Ok((version, start))
    }

    async fn write_row(
        &self,
        id: DataId,
        version: Sequence,
        start: u64,
        entries: &[Entry],
    ) -> Result<u64, ComposeError> {
        let targets: BTreeSet<DataId> = entries.iter().map(|entry| entry.data).collect();
        let holders: BTreeSet<DataId> = entries.iter().map(|entry| entry.via).collect();
        let all: Vec<DataId> = targets.union(&holders).copied().collect();
        let row = TreeRow {
            start,
            entries: entries.iter().map(tree_entry).collect(),
            unknown: UnknownFields::default(),
        };
        let end = row.end().ok_or(ComposeError::TooLong)?;
        for _ in 0..COMMIT_TRIES_MAX {
            let mut mutation = Mutation::deferred();
            let own = mutation.unchanged(key::data(id), Some(version));
            for (data, known) in all.iter().zip(index::datas(&*self.kv, &all).await?) {
                let known = known.ok_or(ComposeError::Gone(*data))?;
                // What is composed data's own may be released already: the composed data, live, holds it.
                let held = known.row.is_whole() && !holders.contains(data);
                if known.row.state != DataState::Live && !held {
                    return Err(ComposeError::Gone(*data));
                }
                mutation.unchanged(key::data(*data), Some(known.version));
            }
            for target in &targets {
                mutation.put(key::data_ref(*target, id), Bytes::new());
            }
            mutation.put(key::tree(id, end), row.encode());
            match self.kv.commit(mutation).await {
                Ok(_) => return Ok(end),
                Err(CommitError::Conflict { guard }) if guard == own => return Err(ComposeError::Gone(id)),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(MetaError::Contended.into())
    }
}

fn live(piece: &Piece, domain: DomainId, row: Option<Known<DataRow>>) -> Result<DataRow, ComposeError> {
    let row = row.ok_or(ComposeError::Gone(piece.data))?.row;
    let end = piece.offset.checked_add(piece.length).ok_or(ComposeError::TooLong)?;
    if row.state != DataState::Live || end > row.size {
        return Err(ComposeError::Gone(piece.data));
    }
    if row.domain != domain {
        return Err(ComposeError::OtherDomain(piece.data));
    }
    Ok(row)
}

fn tree_entry(entry: &Entry) -> TreeEntry {
    TreeEntry {
        target: Target::Data(entry.data),
        offset: entry.offset,
        length: entry.length,
        part_number: entry.part_number,
        unknown: UnknownFields::default(),
    }
}
