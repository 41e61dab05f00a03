//! What the pack set, its syncer threads and its readers share.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{Semaphore, oneshot};

use crate::blob::local::ReadFile;
use crate::chunk::codec::Codecs;
use crate::chunk::pack::batch::Append;
use crate::chunk::pack::cloud::Cloud;
use crate::chunk::pack::metrics::PackMetrics;
use crate::chunk::pack::{AppendError, Entry, PackInfo, PackOptions, PackState};
use crate::chunk::pool::BufferPool;
use crate::ids::{IdSource, PackId};
use crate::meta::pack::Backend;

pub struct Shared {
    pub dir: PathBuf,
    pub options: PackOptions,
    pub ids: Arc<IdSource>,
    pub pool: BufferPool,
    pub metrics: PackMetrics,
    pub codecs: Codecs,
    pub packs: RwLock<BTreeMap<PackId, Arc<Pack>>>,
    pub handles: moka::sync::Cache<PackId, Arc<ReadFile>>,
    pub slots: Vec<Slot>,
    /// Places for appends that wait.
    pub appends: Semaphore,
    pub reads_before: ReadsBefore,
    /// Places for blocking reads.
    pub reads: Arc<Semaphore>,
    /// Packs deleted since the set was opened.
    pub deleted: AtomicU64,
    next_written_at: AtomicU64,
    pub cloud: Option<Cloud>,
}

impl Shared {
    pub fn new(
        dir: &Path,
        options: PackOptions,
        ids: Arc<IdSource>,
        pool: BufferPool,
        metrics: PackMetrics,
        cloud: Option<Cloud>,
    ) -> Self {
        // The front of a fresh id is Unix milliseconds and 16 random bits: above whatever an earlier process counted to.
        let start = ids.next().first_chunk().map_or(0, |front| u64::from_be_bytes(*front));
        Self {
            dir: dir.to_path_buf(),
            handles: moka::sync::Cache::new(options.handles_max as u64),
            slots: (0..options.open_packs).map(|_| Slot::default()).collect(),
            appends: Semaphore::new(options.appends_waiting_max),
            reads_before: ReadsBefore::default(),
            reads: Arc::new(Semaphore::new(options.reads_max)),
            codecs: Codecs::new(options.reads_max.min(8)),
            options,
            ids,
            pool,
            metrics,
            packs: RwLock::new(BTreeMap::new()),
            deleted: AtomicU64::new(0),
            next_written_at: AtomicU64::new(start),
            cloud,
        }
    }

    pub fn path(&self, pack: PackId) -> PathBuf {
        path_in(&self.dir, pack)
    }

    /// A name that no other call gets, for a file that is removed again: beside the folders of the packs, where a start looks
    /// for no pack.
    pub fn scratch(&self, pack: PackId, end: &str) -> PathBuf {
        self.dir.join(format!("{pack}-{}{end}", self.ids.pack_id()))
    }

    pub fn pack(&self, id: PackId) -> Option<Arc<Pack>> {
        self.packs.read().get(&id).cloned()
    }

    /// Takes a deleted pack from the list. It is counted before it leaves the list: who asks for the list first has each pack
    /// that is missing there in the count.
    pub fn forget(&self, id: PackId) {
        self.deleted.fetch_add(1, Ordering::SeqCst);
        self.handles.invalidate(&id);
        self.packs.write().remove(&id);
    }

    pub fn written_at(&self) -> u64 {
        self.next_written_at.fetch_add(1, Ordering::Relaxed)
    }

    /// An open file of `pack`; opening one is a short call on a directory that is in memory.
    pub fn handle(&self, pack: PackId) -> io::Result<Arc<ReadFile>> {
        if let Some(file) = self.handles.get(&pack) {
            return Ok(file);
        }
        let file = Arc::new(ReadFile::open(&self.path(pack), self.options.direct)?);
        self.handles.insert(pack, Arc::clone(&file));
        Ok(file)
    }

    /// The slot with the fewest bytes ahead.
    pub fn idlest_slot(&self) -> Option<&Slot> {
        self.slots
            .iter()
            .min_by_key(|slot| slot.bytes_ahead.load(Ordering::Relaxed))
    }
}

/// `DIR/xx/ID.pack`, xx being the last two hex digits of the id: the random end, so that directories fill evenly.
pub fn path_in(dir: &Path, pack: PackId) -> PathBuf {
    let name = pack.to_string();
    let bucket = name.get(name.len().saturating_sub(2)..).unwrap_or_default();
    dir.join(bucket).join(format!("{name}.pack"))
}

/// Remembers roughly how often extents were read lately. What is read once goes around the page cache, which costs a
/// seventh of the CPU time; what is read again is worth a place in it.
pub struct ReadsBefore(Box<[AtomicU64]>);

/// How an extent is best read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Not read lately: around the page cache. Even asking whether it is cached would fetch it.
    First,
    /// Into the page cache.
    Second,
    /// It may be in the page cache.
    Later,
}

/// Remembered extents: 128 KiB of memory, 16 GiB of extents.
const READS_REMEMBERED: usize = 16_384;

impl Default for ReadsBefore {
    fn default() -> Self {
        Self((0..READS_REMEMBERED).map(|_| AtomicU64::new(0)).collect())
    }
}

impl ReadsBefore {
    /// Counts a read of this place. Places that share a slot push each other out, which costs time and nothing else.
    pub fn visit(&self, pack: PackId, offset: u64) -> Visit {
        // The id's end is random.
        let random = pack.0.last_chunk().map_or(0, |end| u64::from_be_bytes(*end));
        let first = random.wrapping_add(offset).wrapping_mul(0x9E37_79B9_7F4A_7C15) & !3 | 1;
        let place = usize::try_from(first >> 32).unwrap_or(0) % READS_REMEMBERED;
        let Some(slot) = self.0.get(place) else {
            return Visit::First;
        };
        let seen = slot.load(Ordering::Relaxed);
        if seen == first {
            slot.store(first + 1, Ordering::Relaxed);
            Visit::Second
        } else if seen == first + 1 {
            Visit::Later
        } else {
            slot.store(first, Ordering::Relaxed);
            Visit::First
        }
    }
}

/// Tells where packs are, without keeping the set alive.
#[derive(Clone, Default)]
pub struct Places(pub(super) Weak<Shared>);

impl Places {
    /// `None`: there is no such pack.
    pub fn backend(&self, pack: PackId) -> Option<Backend> {
        Some(self.0.upgrade()?.pack(pack)?.info().backend)
    }
}

/// A pack that exists.
pub struct Pack {
    pub id: PackId,
    pub status: Mutex<Status>,
    /// Held shared by readers and alone by the one who deletes; true once the file is gone.
    pub gone: Arc<tokio::sync::RwLock<bool>>,
}

pub struct Status {
    pub state: PackState,
    pub bytes: u64,
    pub backend: Backend,
    /// Whether a copy may be at the other backend as well.
    pub is_twice: bool,
    /// The whole records in the order of writing, while there is no footer.
    pub entries: Vec<Entry>,
}

impl Pack {
    pub fn new(id: PackId, state: PackState, bytes: u64, backend: Backend) -> Self {
        let status = Mutex::new(Status {
            state,
            bytes,
            backend,
            is_twice: false,
            entries: Vec::new(),
        });
        Self {
            id,
            status,
            gone: Arc::new(tokio::sync::RwLock::new(false)),
        }
    }

    pub fn info(&self) -> PackInfo {
        let status = self.status.lock();
        PackInfo {
            id: self.id,
            state: status.state,
            bytes: status.bytes,
            backend: status.backend,
        }
    }

    pub fn is_in_cloud(&self) -> bool {
        self.status.lock().backend == Backend::Cloud
    }
}

/// What a syncer is asked to do.
pub enum Job {
    Append(Append),
    Seal(oneshot::Sender<Result<(), AppendError>>),
}

/// The queue before one syncer thread. Its length is bounded by the permits of those who append.
#[derive(Default)]
pub struct Slot {
    pub queue: Mutex<Queue>,
    pub wake: Condvar,
    pub bytes_ahead: AtomicUsize,
}

#[derive(Default)]
pub struct Queue {
    pub jobs: VecDeque<Job>,
    pub closing: bool,
}

impl Slot {
    /// Queues a job; gives it back when the set is closing.
    pub fn push(&self, job: Job) -> Result<(), AppendError> {
        let mut queue = self.queue.lock();
        if queue.closing {
            return Err(AppendError::Closed);
        }
        if let Job::Append(append) = &job {
            self.bytes_ahead.fetch_add(append.bytes, Ordering::Relaxed);
        }
        queue.jobs.push_back(job);
        self.wake.notify_one();
        Ok(())
    }

    pub fn close(&self) {
        self.queue.lock().closing = true;
        self.wake.notify_all();
    }
}
