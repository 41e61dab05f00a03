//! The way out: a range of a payload as a stream of verified plaintext.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use tokio::task::JoinHandle;

use crate::chunk::error::ReadError;
use crate::chunk::index;
use crate::chunk::pack::{self, Extent, Wanted};
use crate::chunk::session::ReadPin;
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, DataId, DomainId, SegmentId};
use crate::limits::{EXTENT_BYTES_MAX, EXTENT_BYTES_MIN, TREE_DEPTH_MAX};
use crate::meta::chunk::ChunkRow;
use crate::meta::key;
use crate::meta::record::Malformed;
use crate::meta::segment::{SegmentEntry, SegmentRow};
use crate::meta::tree::{Target, TreeRow};

/// What holes are read from.
const ZEROS: &[u8] = &[0; 64 << 10];
/// A part of a chunk that is at most this share of it is copied out of its buffer.
const COPY_SHARE: usize = 4;
/// Times that a chunk's row is read again because its record has moved meanwhile.
const MOVES_MAX: u32 = 4;

/// What reading an extent gives: where it stopped, the bytes, and whether it had to wait for them.
type Extents = Result<(Cursor, VecDeque<Bytes>, bool), ReadError>;

/// The extent behind the one that is being sent.
enum Next {
    /// Read when it is asked for, on the caller's thread: what memory has is best read just before it is sent.
    Asked(Pin<Box<dyn Future<Output = Extents> + Send>>),
    /// Read while the caller sends.
    Ahead(JoinHandle<Extents>),
}

/// A range of a payload. Ends after exactly its bytes, or with an error.
pub struct DataStream {
    ready: VecDeque<Bytes>,
    /// Whether bytes were given since the caller last had a turn to send them.
    given: bool,
    next: Option<Next>,
    _pin: ReadPin,
}

impl Drop for DataStream {
    fn drop(&mut self) {
        if let Some(Next::Ahead(task)) = &self.next {
            task.abort();
        }
    }
}

impl DataStream {
    /// Takes what was read, and goes on in the way that suits how long it took.
    fn take(&mut self, (cursor, bytes, waited): (Cursor, VecDeque<Bytes>, bool)) {
        self.ready = bytes;
        self.next = if cursor.remaining == 0 {
            None
        } else if waited {
            Some(Next::Ahead(tokio::spawn(cursor.timed_extent())))
        } else {
            Some(Next::Asked(Box::pin(cursor.timed_extent())))
        };
    }
}

impl Stream for DataStream {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.given = true;
                return Poll::Ready(Some(Ok(bytes)));
            }
            // What was given goes out, and others have their turn, before the next extent takes memory.
            if self.next.is_some() && std::mem::take(&mut self.given) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let result = match self.next.as_mut() {
                None => return Poll::Ready(None),
                Some(Next::Asked(read)) => ready!(read.as_mut().poll(cx)),
                Some(Next::Ahead(task)) => ready!(Pin::new(task).poll(cx)).unwrap_or(Err(ReadError::Stopped)),
            };
            self.next = None;
            match result {
                Ok(read) => self.take(read),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl ChunkStore {
    /// Reads `range` of `data`. The first extent is read before it returns, so that damage and absence show before
    /// an answer is begun. While the stream lives, the data is not unwound.
    pub async fn read(self: &Arc<Self>, data: DataId, range: Range<u64>) -> Result<DataStream, ReadError> {
        let pin = self.sessions.read(data).ok_or(ReadError::Gone(data))?;
        let length = range.end.saturating_sub(range.start);
        let span = Span {
            target: Target::Data(data),
            offset: range.start,
            length,
            depth: 0,
        };
        let cursor = Cursor {
            store: Arc::clone(self),
            root: data,
            spans: vec![span],
            segment: None,
            remaining: length,
        };
        let mut stream = DataStream {
            ready: VecDeque::new(),
            given: false,
            next: None,
            _pin: pin,
        };
        if length > 0 {
            stream.take(cursor.timed_extent().await?);
        }
        Ok(stream)
    }

    /// Bytes that a stream reads at once: fewer when many read or little memory is left, since a slow client holds them.
    fn extent_bytes(&self) -> u64 {
        let half = self.pool.budget_bytes() / 2;
        let spare = self.pool.available_bytes().saturating_sub(half);
        let fair = (half / self.sessions.reads().max(1)).min(spare);
        fair.clamp(EXTENT_BYTES_MIN, EXTENT_BYTES_MAX) as u64
    }

    /// The row that holds byte `offset` of `data`.
    pub(super) async fn tree_row(&self, data: DataId, offset: u64) -> Result<Arc<TreeRow>, ReadError> {
        if let Some(row) = self.trees.get(&(data, offset)) {
            self.metrics.tree_cache_hits.inc();
            return Ok(row);
        }
        self.metrics.tree_cache_misses.inc();
        let range = key::tree(data, offset.saturating_add(1))..key::trees(data).end;
        let rows = index::page(&*self.kv, range, 1).await?;
        let row = rows.into_iter().next().ok_or(ReadError::Gone(data))?;
        let row = Arc::new(TreeRow::decode(row.value.bytes)?);
        if row.start > offset {
            return Err(ReadError::Gone(data));
        }
        if row.start == offset {
            self.trees.insert((data, offset), Arc::clone(&row));
        }
        Ok(row)
    }

    async fn segment_row(&self, root: DataId, id: SegmentId) -> Result<Arc<SegmentRow>, ReadError> {
        if let Some(row) = self.segments.get(&id) {
            self.metrics.segment_cache_hits.inc();
            return Ok(row);
        }
        self.metrics.segment_cache_misses.inc();
        let row = index::segment(&*self.kv, &id).await?.ok_or(ReadError::Gone(root))?.row;
        let row = Arc::new(row);
        self.segments.insert(id, Arc::clone(&row));
        Ok(row)
    }

    /// Reads one chunk where its row says it is. A record that does not read back is noted in the row, so that the
    /// next upload of the same bytes stores them anew.
    async fn read_chunk(&self, root: DataId, domain: DomainId, id: ChunkId) -> Result<(ChunkRow, Bytes), ReadError> {
        let mut before = None;
        for _ in 0..MOVES_MAX {
            let Some(known) = index::chunk(&*self.kv, &id).await? else {
                return Err(ReadError::Gone(root));
            };
            let pack = known.row.place.pack;
            if before == Some(known.row.place) {
                self.note_damage(&id, known).await?;
                return Err(ReadError::Damaged { chunk: id, pack });
            }
            let wanted = Wanted {
                location: index::location(&known.row.place)?,
                domain,
                id,
            };
            match self.read_records(Extent::new(wanted)).await {
                Ok(read) => {
                    let bytes = read.into_iter().next().map(|(_, bytes)| bytes);
                    return Ok((known.row, bytes.ok_or(ReadError::Damaged { chunk: id, pack })?));
                }
                Err(error @ pack::ReadError::Io { .. }) => return Err(ReadError::Pack(Arc::new(error))),
                Err(pack::ReadError::Busy(spent)) => return Err(spent.into()),
                Err(error) => {
                    tracing::error!(chunk = %id, %error, "a chunk does not read back");
                    before = Some(known.row.place);
                }
            }
        }
        Err(ReadError::Meta(crate::chunk::error::MetaError::Contended))
    }
}

/// Bytes still to be given, from the innermost target known so far.
struct Span {
    target: Target,
    offset: u64,
    length: u64,
    depth: usize,
}

/// A segment in the reading.
struct Open {
    id: SegmentId,
    row: Arc<SegmentRow>,
    /// The next entry, and how many of its bytes to pass over.
    entry: usize,
    skip: u64,
    /// Bytes wanted of the segment from there.
    length: u64,
}

/// Where a read stands.
struct Cursor {
    store: Arc<ChunkStore>,
    root: DataId,
    /// The next span is the last one.
    spans: Vec<Span>,
    segment: Option<Open>,
    remaining: u64,
}

/// A run of a segment's entries that is read at once.
struct Run {
    segment: SegmentId,
    domain: DomainId,
    extent: Option<Extent>,
    /// For each entry: whether it is a record of the extent, and the part of it that is wanted.
    parts: Vec<(bool, Range<u64>)>,
}

impl Cursor {
    /// Reads the next run, and notes whether that waited for anything.
    async fn timed_extent(self) -> Extents {
        let mut waited = false;
        let mut read = pin!(self.extent());
        let (cursor, bytes) = poll_fn(|cx| {
            let poll = read.as_mut().poll(cx);
            waited |= poll.is_pending();
            poll
        })
        .await?;
        Ok((cursor, bytes, waited))
    }

    /// Reads the next run.
    async fn extent(mut self) -> Result<(Self, VecDeque<Bytes>), ReadError> {
        loop {
            if let Some(run) = self.run()? {
                let bytes = self.bytes(run).await?;
                let length: u64 = bytes.iter().map(|bytes| bytes.len() as u64).sum();
                if length == 0 || length > self.remaining {
                    return Err(Malformed {
                        record: "segment",
                        reason: "its lengths do not add up",
                    }
                    .into());
                }
                self.remaining -= length;
                self.store.metrics.read_bytes.inc_by(length);
                return Ok((self, bytes));
            }
            self.descend().await?;
        }
    }

    /// Opens the next span's segment, or replaces the span by those of its tree row.
    async fn descend(&mut self) -> Result<(), ReadError> {
        let Span {
            target,
            offset,
            length,
            depth,
        } = self.spans.pop().ok_or(ReadError::Gone(self.root))?;
        match target {
            Target::Segment(id) => {
                let row = self.store.segment_row(self.root, id).await?;
                let (mut entry, mut skip) = (0, offset);
                for candidate in &row.entries {
                    let width = u64::from(candidate.raw_len());
                    if skip < width {
                        break;
                    }
                    skip -= width;
                    entry += 1;
                }
                self.segment = Some(Open {
                    id,
                    row,
                    entry,
                    skip,
                    length,
                });
            }
            Target::Data(_) if depth > TREE_DEPTH_MAX => {
                return Err(Malformed {
                    record: "tree",
                    reason: "nested too deeply",
                }
                .into());
            }
            Target::Data(data) => {
                let row = self.store.tree_row(data, offset).await?;
                let end = row.end().unwrap_or(offset);
                let stop = end.min(offset + length);
                if stop < offset + length {
                    self.spans.push(Span {
                        target,
                        offset: stop,
                        length: offset + length - stop,
                        depth,
                    });
                }
                let from = self.spans.len();
                for (at, entry) in row.overlapping(offset..stop) {
                    let (first, last) = (at.max(offset), (at + entry.length).min(stop));
                    self.spans.push(Span {
                        target: entry.target,
                        offset: entry.offset + (first - at),
                        length: last - first,
                        depth: depth + 1,
                    });
                }
                if let Some(fresh) = self.spans.get_mut(from..) {
                    fresh.reverse();
                }
            }
        }
        Ok(())
    }

    /// The next entries of the open segment that can be read at once; `None`: no segment is open.
    fn run(&mut self) -> Result<Option<Run>, ReadError> {
        let Some(open) = self.segment.as_mut() else {
            return Ok(None);
        };
        let mut run = Run {
            segment: open.id,
            domain: open.row.domain,
            extent: None,
            parts: Vec::new(),
        };
        let (mut holes, bytes_max) = (0, self.store.extent_bytes());
        while open.length > 0 {
            let short = Malformed {
                record: "segment",
                reason: "shorter than its tree says",
            };
            let entry = open.row.entries.get(open.entry).ok_or(short)?;
            let width = u64::from(entry.raw_len());
            let end = width.min(open.skip + open.length);
            let is_chunk = match entry {
                SegmentEntry::Chunk { id, place } => {
                    let wanted = Wanted {
                        location: index::location(place)?,
                        domain: run.domain,
                        id: *id,
                    };
                    match run.extent.as_mut() {
                        None => run.extent = Some(Extent::new(wanted)),
                        Some(extent) => {
                            if !extent.push(wanted, bytes_max) {
                                break;
                            }
                        }
                    }
                    true
                }
                SegmentEntry::Hole(_) if holes >= EXTENT_BYTES_MAX as u64 => break,
                SegmentEntry::Hole(_) => {
                    holes += end - open.skip;
                    false
                }
            };
            run.parts.push((is_chunk, open.skip..end));
            open.length -= end - open.skip;
            (open.entry, open.skip) = (open.entry + 1, 0);
        }
        if open.length == 0 {
            self.segment = None;
        }
        Ok(Some(run))
    }

    async fn bytes(&self, run: Run) -> Result<VecDeque<Bytes>, ReadError> {
        let Run {
            segment,
            domain,
            extent,
            parts,
        } = run;
        let mut plain = match extent {
            None => Vec::new(),
            Some(extent) => {
                let ids: Vec<ChunkId> = extent.records().iter().map(|wanted| wanted.id).collect();
                match self.store.read_records(extent).await {
                    Ok(read) => read.into_iter().map(|(_, bytes)| bytes).collect(),
                    Err(error @ pack::ReadError::Io { .. }) => return Err(ReadError::Pack(Arc::new(error))),
                    Err(pack::ReadError::Busy(spent)) => return Err(spent.into()),
                    Err(_) => self.by_index(segment, domain, &ids).await?,
                }
            }
        }
        .into_iter();
        let mut bytes = VecDeque::with_capacity(parts.len());
        for (is_chunk, range) in parts {
            if !is_chunk {
                bytes.extend(zeros(range.end - range.start));
                continue;
            }
            let chunk: Bytes = plain.next().ok_or(ReadError::Gone(self.root))?;
            let (start, end) = (range.start as usize, range.end as usize);
            if end > chunk.len() {
                return Err(Malformed {
                    record: "segment",
                    reason: "a chunk is shorter than its entry",
                }
                .into());
            }
            bytes.push_back(match chunk.get(start..end) {
                Some(part) if part.len() == chunk.len() => chunk,
                // A small slice would keep a large buffer from the pool while the caller holds it.
                Some(part) if part.len() <= chunk.len() / COPY_SHARE => Bytes::copy_from_slice(part),
                _ => chunk.slice(start..end),
            });
        }
        Ok(bytes)
    }

    /// Reads chunks where their rows say they are, because the hints do not hold, and keeps the better hints in
    /// memory.
    async fn by_index(&self, segment: SegmentId, domain: DomainId, ids: &[ChunkId]) -> Result<Vec<Bytes>, ReadError> {
        self.store.metrics.stale_hints.inc();
        let mut found = Vec::with_capacity(ids.len());
        let mut places = std::collections::HashMap::new();
        for id in ids {
            let (row, bytes) = self.store.read_chunk(self.root, domain, *id).await?;
            places.insert(*id, row.place);
            found.push(bytes);
        }
        if let Some(row) = self.store.segments.get(&segment) {
            let mut fresh = SegmentRow::clone(&row);
            for entry in &mut fresh.entries {
                if let SegmentEntry::Chunk { id, place } = entry
                    && let Some(better) = places.get(id)
                {
                    *place = *better;
                }
            }
            self.store.segments.insert(segment, Arc::new(fresh));
        }
        Ok(found)
    }
}

fn zeros(length: u64) -> impl Iterator<Item = Bytes> {
    let width = ZEROS.len() as u64;
    let whole = std::iter::repeat_n(Bytes::from_static(ZEROS), (length / width) as usize);
    let rest = Bytes::from_static(ZEROS).slice(..(length % width) as usize);
    whole.chain((!rest.is_empty()).then_some(rest))
}
