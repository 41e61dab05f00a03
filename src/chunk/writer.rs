//! The way in: gathers bytes into windows and keeps two of them on their way.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::chunk::chunker::{Chunker, Profile};
use crate::chunk::codec::{Compression, Hint};
use crate::chunk::domain::DomainKey;
use crate::chunk::error::{MetaError, WriteError};
use crate::chunk::md5::Md5Stream;
use crate::chunk::pool::PooledBuf;
use crate::chunk::session::{ActiveUpload, Session};
use crate::chunk::store::ChunkStore;
use crate::chunk::stored::StoredData;
use crate::chunk::window::{Anchor, Window};
use crate::ids::{DataId, DomainId, Sequence};
use crate::kv::Mutation;
use crate::limits::{WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, WINDOW_CHUNKS_MAX, WINDOWS_IN_FLIGHT};
use crate::meta::data::{DataRow, DataState, GarbageRow};
use crate::meta::key;
use crate::meta::record::UnknownFields;

/// What a buffer begins with while others hold much of the pool, so that a client that sends nothing holds little.
const FIRST_BYTES: usize = 64 << 10;
/// What it grows to next, before it takes room for a whole window.
const SECOND_BYTES: usize = 1 << 20;
/// A whole window is taken at once if that leaves one part in so many of the pool.
const EASY_SHARE: usize = 2;
/// A buffer grows past what it needs to be cut only if that leaves one part in so many: the rest is for those who read
/// and for those who begin.
const RESERVE_SHARE: usize = 4;
/// Segments that one window makes at the most, each of up to [`WINDOW_CHUNKS_MAX`] chunks.
const WINDOW_SEGMENTS_MAX: usize = 4;

#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    pub domain: DomainId,
    pub profile: Profile,
    /// A hint for the size of the buffer; more or fewer bytes may come.
    pub expected_bytes: Option<u64>,
    /// `None`: as the store is set.
    pub compression: Option<Compression>,
    pub hint: Hint,
}

/// Stores one payload. Dropping it gives up: nothing becomes visible, and what was stored is taken back.
pub struct DataWriter {
    store: Arc<ChunkStore>,
    options: WriteOptions,
    chunker: Arc<dyn Chunker>,
    key: Option<Arc<DomainKey>>,
    id: DataId,
    row: DataRow,
    /// Of the building row, once it is committed.
    version: Option<Sequence>,
    md5: Md5Stream,
    buffer: Option<PooledBuf>,
    /// Bytes at which the buffer counts as full.
    target: usize,
    /// Bytes at the front of the buffer that the window before has hashed already.
    carried: usize,
    /// Where the buffer stands in the payload.
    offset: u64,
    windows: JoinSet<Result<Option<Sequence>, WriteError>>,
    failed: bool,
    /// Declared behind `windows`: these are ended before the data counts as garbage.
    session: Session,
    _active: ActiveUpload,
}

impl ChunkStore {
    /// Begins a payload. Nothing is written before the first window is full or the writer finishes.
    pub fn writer(self: &Arc<Self>, options: WriteOptions) -> DataWriter {
        let id = self.ids.data_id();
        let row = self.building_row(options.domain, options.profile as u8, 1);
        DataWriter {
            store: Arc::clone(self),
            options,
            chunker: Arc::from(options.profile.chunker()),
            key: None,
            id,
            row,
            version: None,
            md5: self.md5.stream(),
            buffer: None,
            target: 0,
            carried: 0,
            offset: 0,
            windows: JoinSet::new(),
            failed: false,
            session: self.sessions.build(id),
            _active: self.sessions.upload(),
        }
    }

    pub(super) fn building_row(&self, domain: DomainId, profile: u8, depth: u8) -> DataRow {
        DataRow {
            state: DataState::Building,
            domain,
            profile,
            depth,
            size: 0,
            boot: self.boot,
            created: self.clock.now(),
            owner: Bytes::new(),
            unknown: UnknownFields::default(),
        }
    }

    /// Adds to `mutation` the rows that begin `data`: the building row, and the garbage row by which it is found if
    /// this process dies.
    pub(super) fn begin(&self, mutation: &mut Mutation, data: DataId, row: &DataRow) {
        mutation.absent(key::data(data));
        mutation.put(key::data(data), row.encode());
        mutation.put(key::garbage(data), GarbageRow::new(row.created).encode());
    }

    fn window_bytes(&self, profile: Profile) -> usize {
        let fair = self.pool.budget_bytes() / self.sessions.uploads().max(1);
        let most = (profile.chunk_bytes_min() * WINDOW_CHUNKS_MAX * WINDOW_SEGMENTS_MAX).min(WINDOW_BYTES_MAX);
        // The longest chunk can be cut from it: more would let a few uploads of large chunks take the pool.
        let least = profile.chunk_bytes_max().clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        fair.min(most).max(least)
    }
}

impl DataWriter {
    /// Takes the next bytes of the payload; waits while two windows are on their way or the pool is spent.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::Failed);
        }
        let result = self.take(&mut bytes).await;
        self.note(result)
    }

    /// Waits until everything is durable and committed as building.
    pub async fn finish(mut self) -> Result<StoredData, WriteError> {
        if self.failed {
            return Err(WriteError::Failed);
        }
        let result = self.complete().await;
        self.note(result)?;
        let size = self.offset;
        let version = self.version.ok_or(WriteError::Stopped)?;
        let Self {
            id, row, md5, session, ..
        } = self;
        Ok(StoredData {
            id,
            size,
            md5: md5.finish().await,
            row,
            version,
            session,
        })
    }

    /// A failure is final; one of unknown outcome leaves the data to the next start.
    fn note(&mut self, result: Result<(), WriteError>) -> Result<(), WriteError> {
        if let Err(error) = &result {
            self.failed = true;
            if matches!(error, WriteError::Meta(error) if error.is_unknown()) {
                self.session.leave();
            }
        }
        result
    }

    async fn take(&mut self, bytes: &mut Bytes) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            // A full window leaves only when more follows, so that the last one knows that it is the last.
            if self.buffer.as_ref().is_some_and(|buffer| buffer.len() >= self.target) {
                self.send(false).await?;
            }
            if self.buffer.is_none() {
                self.open_window(0).await?;
            }
            let Some(buffer) = self.buffer.as_mut() else { continue };
            let room = self.target.min(buffer.capacity()).saturating_sub(buffer.len());
            if room == 0 {
                self.grow().await?;
                continue;
            }
            let count = bytes.len().min(room);
            buffer.extend_from_slice(&bytes.split_to(count));
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), WriteError> {
        self.send(true).await?;
        while self.join().await? {}
        if self.version.is_none() {
            self.begin_data().await?;
        }
        Ok(())
    }

    /// Begins the next window. `carry` bytes of it are known to come from the window before.
    async fn open_window(&mut self, carry: usize) -> Result<(), WriteError> {
        let window = self.store.window_bytes(self.options.profile);
        let expected = self
            .options
            .expected_bytes
            .map_or(u64::MAX, |bytes| bytes.saturating_sub(self.offset));
        // More than was expected gets whole windows.
        let expected = usize::try_from(expected).unwrap_or(usize::MAX);
        self.target = if expected > carry { window.min(expected) } else { window };
        let pool = &self.store.pool;
        self.buffer = Some(match pool.try_take_leaving(self.target, EASY_SHARE) {
            Some(buffer) => buffer,
            None => pool.take(self.target.min(carry + FIRST_BYTES)).await?,
        });
        Ok(())
    }

    /// Makes room in a full buffer, or lets it be a window if the pool is wanted by others.
    async fn grow(&mut self) -> Result<(), WriteError> {
        let Some(buffer) = self.buffer.take() else {
            return Ok(());
        };
        let needed = 2 * self.options.profile.chunk_bytes_max();
        let pool = &self.store.pool;
        let most = if buffer.len() < SECOND_BYTES {
            SECOND_BYTES
        } else {
            self.target
        };
        let mut grown = match pool.try_take_leaving(self.target.min(most), RESERVE_SHARE) {
            Some(grown) => grown,
            None if buffer.len() >= needed => {
                self.target = buffer.len();
                self.buffer = Some(buffer);
                return Ok(());
            }
            // Too short to be cut: it has to wait, with what it holds.
            None => pool.take(self.target.min(needed)).await?,
        };
        grown.extend_from_slice(&buffer);
        self.buffer = Some(grown);
        Ok(())
    }

    /// Sends the buffer on its way as a window and opens the next with its unfinished tail.
    async fn send(&mut self, last: bool) -> Result<(), WriteError> {
        let Some(buffer) = self.buffer.take() else {
            return Ok(());
        };
        let bytes = buffer.freeze();
        self.md5.update(bytes.slice(self.carried..)).await;
        let key = match &self.key {
            Some(key) => Arc::clone(key),
            None => self.store.domain(self.options.domain).await?,
        };
        self.key = Some(Arc::clone(&key));
        while self.windows.len() >= WINDOWS_IN_FLIGHT {
            self.join().await?;
        }
        if !last && self.version.is_none() {
            self.begin_data().await?;
        }
        let (tail, told) = oneshot::channel();
        let window = Window {
            store: Arc::clone(&self.store),
            key,
            chunker: Arc::clone(&self.chunker),
            compression: self.options.compression.unwrap_or(self.store.compression),
            hint: self.options.hint,
            data: self.id,
            anchor: match self.version {
                Some(version) => Anchor::Committed(version),
                None => Anchor::New(self.row.clone()),
            },
            offset: self.offset,
            bytes: bytes.clone(),
            last,
        };
        self.windows.spawn(window.run(tail));
        let Ok(tail) = told.await else {
            while self.join().await? {}
            return Err(WriteError::Stopped);
        };
        self.offset += (bytes.len() - tail) as u64;
        if !last {
            // A copy, so that the window goes back to the pool while this waits for the next.
            let rest = bytes.slice(bytes.len() - tail..).to_vec();
            drop(bytes);
            self.open_window(tail).await?;
            self.carried = tail;
            if let Some(buffer) = self.buffer.as_mut() {
                buffer.extend_from_slice(&rest);
            }
        }
        Ok(())
    }

    async fn begin_data(&mut self) -> Result<(), WriteError> {
        let mut mutation = Mutation::deferred();
        self.store.begin(&mut mutation, self.id, &self.row);
        self.version = Some(self.store.kv.commit(mutation).await.map_err(MetaError::from)?);
        Ok(())
    }

    /// Waits for a window; `false` when there is none.
    async fn join(&mut self) -> Result<bool, WriteError> {
        match self.windows.join_next().await {
            None => Ok(false),
            Some(Ok(Ok(version))) => {
                self.version = self.version.or(version);
                Ok(true)
            }
            Some(Ok(Err(error))) => Err(error),
            Some(Err(_)) => Err(WriteError::Stopped),
        }
    }
}
