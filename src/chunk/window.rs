//! One window of an upload: cut, name, look up, append what is missing, commit as building.
//!
//! A chunk row never precedes its durable bytes: rows are committed after the append resolved. What was looked up is
//! guarded in the commit; after a conflict it is looked up again, and what vanished is written again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::chunk::chunker::Chunker;
use crate::chunk::codec::{Codec, Compression, Hint};
use crate::chunk::domain::DomainKey;
use crate::chunk::error::{MetaError, WriteError};
use crate::chunk::index::{self, Known};
use crate::chunk::pack::{AppendError, Location, NewRecord};
use crate::chunk::packs::Counts;
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, DataId, PackId, SegmentId, Sequence};
use crate::kv::{CommitError, Mutation};
use crate::limits::{MIB, WINDOW_CHUNKS_MAX};
use crate::meta::chunk::ChunkRow;
use crate::meta::data::DataRow;
use crate::meta::key;
use crate::meta::record::UnknownFields;
use crate::meta::segment::{SegmentEntry, SegmentRow};
use crate::meta::tree::{Target, TreeEntry, TreeRow};

/// Times that a window's commit is tried against rivals.
const COMMIT_TRIES_MAX: u32 = 16;
/// Plaintext that is encoded in one turn: at a high level a whole window takes seconds, in which the windows of others
/// would wait for a thread.
const TURN_BYTES: usize = MIB;
const ZEROS: [u8; 4096] = [0; 4096];

/// The building row of the data that the window belongs to.
pub(super) enum Anchor {
    /// The window's first commit makes it.
    New(DataRow),
    Committed(Sequence),
}

pub(super) struct Window {
    pub store: Arc<ChunkStore>,
    pub key: Arc<DomainKey>,
    pub chunker: Arc<dyn Chunker>,
    pub compression: Compression,
    pub hint: Hint,
    pub data: DataId,
    pub anchor: Anchor,
    /// Where the bytes stand in the payload.
    pub offset: u64,
    pub bytes: Bytes,
    pub last: bool,
}

/// A stretch of the window; `None`: zeros.
struct Piece {
    id: Option<ChunkId>,
    len: u32,
}

struct Segment {
    id: SegmentId,
    pieces: Vec<Piece>,
    /// The chunks, each once.
    chunks: Vec<ChunkId>,
    /// In the payload.
    start: u64,
    end: u64,
}

/// What blocking work made of the window.
struct Cut {
    segments: Vec<Segment>,
    /// Where in the window each chunk stands.
    places: HashMap<ChunkId, (usize, usize)>,
}

/// What is known about the window's chunks so far.
#[derive(Default)]
struct Index {
    rows: HashMap<ChunkId, Known<ChunkRow>>,
    segments: HashSet<SegmentId>,
    /// Records of this window that no row points to yet.
    placed: HashMap<ChunkId, Location>,
}

impl Index {
    /// Whether the chunk has neither a good row nor a record.
    fn lacks(&self, id: &ChunkId) -> bool {
        self.rows.get(id).is_none_or(|known| known.row.damaged) && !self.placed.contains_key(id)
    }
}

impl Window {
    /// Stores the window. `tail` is told how many bytes at the end are an unfinished chunk and belong to the next
    /// window. Returns the version of the building row if this window made it.
    pub async fn run(mut self, tail: oneshot::Sender<usize>) -> Result<Option<Sequence>, WriteError> {
        let cut = self.cut(tail).await?;
        let metrics = &self.store.metrics;
        metrics.windows.inc();
        let mut state = Index::default();
        let mut ids: Vec<ChunkId> = cut.places.keys().copied().collect();
        ids.sort_unstable();
        self.refresh(&mut state, &ids, &cut.segments).await?;
        let missing: Vec<ChunkId> = ids.iter().filter(|id| state.lacks(id)).copied().collect();
        metrics.chunk_hits.inc_by((ids.len() - missing.len()) as u64);
        metrics.chunk_misses.inc_by(missing.len() as u64);
        self.place(&mut state, &cut, missing).await?;
        let mut made = None;
        for segment in &cut.segments {
            let holes = segment
                .pieces
                .iter()
                .filter(|piece| piece.id.is_none())
                .map(|piece| u64::from(piece.len));
            self.store.metrics.hole_bytes.inc_by(holes.sum());
            self.store.metrics.written_bytes.inc_by(segment.end - segment.start);
            let sequence = self.commit(&mut state, &cut, segment).await?;
            if let Anchor::New(_) = self.anchor {
                self.anchor = Anchor::Committed(sequence);
                made = Some(sequence);
            }
        }
        Ok(made)
    }

    async fn cut(&self, tail: oneshot::Sender<usize>) -> Result<Cut, WriteError> {
        let (chunker, key, bytes) = (Arc::clone(&self.chunker), Arc::clone(&self.key), self.bytes.clone());
        let (offset, last) = (self.offset, self.last);
        let job = move || {
            let mut ends = Vec::new();
            let mut at = 0;
            while let Some(length) = bytes.get(at..).and_then(|rest| chunker.cut(rest, last)) {
                at += length;
                ends.push(at);
            }
            // The writer is gone if it was dropped: its windows end with it.
            let _ = tail.send(bytes.len() - at);
            name(&key, &bytes, &ends, offset)
        };
        self.store.bulk.run(job).await.ok_or(WriteError::Stopped)
    }

    /// Looks up `ids` and `segments`. Records in packs that are being collected by now are forgotten.
    async fn refresh(&self, state: &mut Index, ids: &[ChunkId], segments: &[Segment]) -> Result<(), WriteError> {
        let mut keys: Vec<Bytes> = ids.iter().map(key::chunk).collect();
        keys.extend(segments.iter().map(|segment| key::segment(&segment.id)));
        let mut values = self.store.kv.get_many(&keys).await?.into_iter();
        for id in ids {
            state.rows.remove(id);
            if let Some(value) = values.next().flatten() {
                let mut row = ChunkRow::decode(value.bytes)?;
                // Nobody knows which records of a damaged pack are left: none of them is built upon.
                row.damaged |= !self.store.packs.is_whole(row.place.pack);
                // Nor upon one that lies there in clear, once new bytes are to be encrypted.
                row.damaged |= self.key.data_key().is_some() && !row.encrypted;
                state.rows.insert(
                    *id,
                    Known {
                        row,
                        version: value.version,
                    },
                );
            }
        }
        for (segment, value) in segments.iter().zip(values) {
            match value {
                Some(_) => state.segments.insert(segment.id),
                None => state.segments.remove(&segment.id),
            };
        }
        let packs: HashSet<PackId> = state.placed.values().map(|location| location.pack).collect();
        for pack in packs {
            if self.store.table.active(pack).await?.is_none() {
                state.placed.retain(|_, location| location.pack != pack);
            }
        }
        Ok(())
    }

    /// Encodes and appends chunks; they are durable when it returns.
    async fn place(&self, state: &mut Index, cut: &Cut, missing: Vec<ChunkId>) -> Result<(), WriteError> {
        if missing.is_empty() {
            return Ok(());
        }
        // In the order of the payload, so that reads find them side by side.
        let mut missing: Vec<(usize, usize, ChunkId)> = missing
            .into_iter()
            .filter_map(|id| cut.places.get(&id).map(|(start, end)| (*start, *end, id)))
            .collect();
        missing.sort_unstable();
        if !self.store.has_room() {
            return Err(AppendError::Full.into());
        }
        let records = self.encode(missing).await?;
        let ids: Vec<ChunkId> = records.iter().map(|record| record.id).collect();
        let locations = self.store.packs.append(records).await?;
        for (id, location) in ids.into_iter().zip(locations) {
            self.store.metrics.unique_bytes.inc_by(u64::from(location.raw_len));
            self.store.metrics.stored_bytes.inc_by(u64::from(location.stored_len));
            state.placed.insert(id, location);
        }
        Ok(())
    }

    async fn encode(&self, chunks: Vec<(usize, usize, ChunkId)>) -> Result<Vec<NewRecord>, WriteError> {
        let mut records = Vec::with_capacity(chunks.len());
        let mut chunks = chunks.into_iter().peekable();
        while chunks.peek().is_some() {
            let mut left = TURN_BYTES;
            let turn: Vec<_> = std::iter::from_fn(|| {
                let next = chunks.next_if(|_| left > 0)?;
                left = left.saturating_sub(next.1 - next.0);
                Some(next)
            })
            .collect();
            let (store, bytes, domain) = (Arc::clone(&self.store), self.bytes.clone(), Arc::clone(&self.key));
            let (compression, hint) = (self.compression, self.hint);
            let job = move || {
                let encode = |(start, end, id): (usize, usize, ChunkId)| {
                    let raw = bytes.slice(start..end);
                    let mut out = Vec::new();
                    let codec = store.codecs.encode(&raw, compression, hint, &mut out);
                    let encoded = (codec != Codec::Raw).then_some((codec, out));
                    let mut record = NewRecord {
                        domain: domain.id,
                        id,
                        raw,
                        encoded,
                        written_at: store.packs.written_at(),
                        envelope: None,
                    };
                    if let Some(key) = domain.data_key() {
                        record.encrypt(key);
                    }
                    record
                };
                turn.into_iter().map(encode).collect::<Vec<_>>()
            };
            records.extend(self.store.bulk.run(job).await.ok_or(WriteError::Stopped)?);
        }
        Ok(records)
    }

    async fn commit(&self, state: &mut Index, cut: &Cut, segment: &Segment) -> Result<Sequence, WriteError> {
        for _ in 0..COMMIT_TRIES_MAX {
            if let Some(attempt) = self.attempt(state, segment).await? {
                match self.store.kv.commit(attempt.mutation).await {
                    Ok(sequence) => {
                        for (id, row) in attempt.rows {
                            state.placed.remove(&id);
                            state.rows.insert(id, Known { row, version: sequence });
                        }
                        for id in &attempt.wasted {
                            state.placed.remove(id);
                        }
                        if !state.segments.insert(segment.id) {
                            self.store.metrics.segment_hits.inc();
                        }
                        return Ok(sequence);
                    }
                    Err(CommitError::Conflict { guard: 0 }) => return Err(WriteError::Abandoned),
                    Err(CommitError::Conflict { .. }) => self.store.metrics.window_conflicts.inc(),
                    Err(error) => return Err(error.into()),
                }
            }
            self.refresh(state, &segment.chunks, std::slice::from_ref(segment))
                .await?;
            let missing = segment.chunks.iter().filter(|id| state.lacks(id)).copied().collect();
            self.place(state, cut, missing).await?;
        }
        Err(MetaError::Contended.into())
    }

    /// The commit as things are known to stand; `None`: a record is in a pack that is being collected.
    async fn attempt(&self, state: &Index, segment: &Segment) -> Result<Option<Attempt>, WriteError> {
        let mut attempt = Attempt {
            mutation: Mutation::deferred(),
            rows: Vec::new(),
            wasted: Vec::new(),
        };
        let m = &mut attempt.mutation;
        match &self.anchor {
            Anchor::New(row) => self.store.begin(m, self.data, row),
            Anchor::Committed(version) => {
                m.unchanged(key::data(self.data), Some(*version));
            }
        }
        let known = state.segments.contains(&segment.id);
        let (mut counts, mut packs) = (Counts::default(), HashSet::new());
        for id in &segment.chunks {
            let (row, placed) = (state.rows.get(id), state.placed.get(id));
            match (row, placed) {
                (Some(row), placed) if !row.row.damaged => {
                    if !known {
                        m.unchanged(key::chunk(id), Some(row.version));
                    }
                    if let Some(location) = placed {
                        counts.wasted(location.pack, location.stored_len);
                        packs.insert(location.pack);
                        attempt.wasted.push(*id);
                    }
                }
                (old, Some(location)) => {
                    m.unchanged(key::chunk(id), old.map(|old| old.version));
                    let mut row = ChunkRow::new(index::place(location), self.key.data_key().is_some());
                    if let Some(Known { row: old, .. }) = old {
                        counts.died(old.place.pack, old.place.stored_len, old.place.raw_len);
                        row.unknown = old.unknown.clone();
                    }
                    counts.born(location.pack, location.stored_len, location.raw_len);
                    m.put(key::chunk(id), row.encode());
                    packs.insert(location.pack);
                    attempt.rows.push((*id, row));
                }
                _ => return Ok(None),
            }
        }
        for pack in packs {
            let Some(version) = self.store.table.active(pack).await? else {
                return Ok(None);
            };
            m.unchanged(key::pack(pack), Some(version));
        }
        counts.add_to(m);
        if known {
            m.exists(key::segment(&segment.id));
        } else if !self.add_segment(state, segment, &mut attempt) {
            return Ok(None);
        }
        self.add_tree(segment, &mut attempt.mutation);
        Ok(Some(attempt))
    }

    /// Adds the segment and its references; `false`: a chunk has no place.
    fn add_segment(&self, state: &Index, segment: &Segment, attempt: &mut Attempt) -> bool {
        let fresh: HashMap<ChunkId, &ChunkRow> = attempt.rows.iter().map(|(id, row)| (*id, row)).collect();
        let mut entries = Vec::with_capacity(segment.pieces.len());
        for piece in &segment.pieces {
            let Some(id) = piece.id else {
                entries.push(SegmentEntry::Hole(piece.len));
                continue;
            };
            let row = fresh
                .get(&id)
                .copied()
                .or_else(|| state.rows.get(&id).map(|known| &known.row));
            let Some(row) = row else { return false };
            entries.push(SegmentEntry::Chunk { id, place: row.place });
        }
        let row = SegmentRow {
            domain: self.key.id,
            entries,
            unknown: UnknownFields::default(),
        };
        let m = &mut attempt.mutation;
        m.absent(key::segment(&segment.id));
        m.put(key::segment(&segment.id), row.encode());
        for id in &segment.chunks {
            m.put(key::chunk_ref(id, &segment.id), Bytes::new());
        }
        true
    }

    fn add_tree(&self, segment: &Segment, mutation: &mut Mutation) {
        let entry = TreeEntry {
            target: Target::Segment(segment.id),
            offset: 0,
            length: segment.end - segment.start,
            part_number: 0,
            unknown: UnknownFields::default(),
        };
        let row = TreeRow {
            start: segment.start,
            entries: vec![entry],
            unknown: UnknownFields::default(),
        };
        mutation.put(key::tree(self.data, segment.end), row.encode());
        mutation.put(key::segment_ref(&segment.id, self.data, segment.end), Bytes::new());
    }
}

struct Attempt {
    mutation: Mutation,
    /// Chunk rows that it writes.
    rows: Vec<(ChunkId, ChunkRow)>,
    /// Chunks whose record of this window is not needed: a rival was faster.
    wasted: Vec<ChunkId>,
}

/// Names the chunks that end at `ends` and groups them into segments.
fn name(key: &DomainKey, bytes: &[u8], ends: &[usize], offset: u64) -> Cut {
    let mut cut = Cut {
        segments: Vec::new(),
        places: HashMap::with_capacity(ends.len()),
    };
    let (mut pieces, mut chunks, mut start): (Vec<Piece>, usize, usize) = (Vec::new(), 0, 0);
    let mut segment_start = offset;
    for (index, &end) in ends.iter().enumerate() {
        let chunk = bytes.get(start..end).unwrap_or_default();
        let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        if is_zero(chunk) {
            match pieces.last_mut() {
                Some(Piece { id: None, len: hole }) => *hole += len,
                _ => pieces.push(Piece { id: None, len }),
            }
        } else {
            let id = key.chunk_id(chunk);
            cut.places.entry(id).or_insert((start, end));
            pieces.push(Piece { id: Some(id), len });
            chunks += 1;
        }
        start = end;
        if chunks == WINDOW_CHUNKS_MAX || index + 1 == ends.len() {
            let segment_end = offset + end as u64;
            cut.segments
                .push(segment(key, std::mem::take(&mut pieces), segment_start, segment_end));
            (chunks, segment_start) = (0, segment_end);
        }
    }
    cut
}

fn segment(key: &DomainKey, pieces: Vec<Piece>, start: u64, end: u64) -> Segment {
    let id = SegmentRow::name(
        key.segment_key.expose(),
        pieces.iter().map(|piece| (piece.id, piece.len)),
    );
    let mut chunks: Vec<ChunkId> = pieces.iter().filter_map(|piece| piece.id).collect();
    chunks.sort_unstable();
    chunks.dedup();
    Segment {
        id,
        pieces,
        chunks,
        start,
        end,
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|part| ZEROS.starts_with(part))
}
