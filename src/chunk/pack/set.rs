//! The pack set: the way in for everyone above.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::blob::local::{ReadFile, remove_file};
use crate::chunk::domain::DomainKey;
use crate::chunk::pack::batch::{APPEND_BYTES_MAX, Append, Record};
use crate::chunk::pack::format::{PACK_RECORDS_MAX, Trailer};
use crate::chunk::pack::metrics::PackMetrics;
use crate::chunk::pack::reader;
use crate::chunk::pack::recovery::{self, Opened};
use crate::chunk::pack::scan::{Scan, read_end, scan};
use crate::chunk::pack::shared::{Job, Pack, Shared};
use crate::chunk::pack::syncer::Syncer;
use crate::chunk::pack::{
    AppendError, Claims, CopyError, Entry, Extent, Location, NewRecord, OpenError, PackInfo, PackOptions, PackState,
    ReadError, Recovered, RecoveredKind,
};
use crate::chunk::pool::BufferPool;
use crate::ids::{ChunkId, IdSource, PackId};
use crate::priority;

/// All packs of one directory. Dropping it does what is queued, seals the open packs and ends their threads, which
/// blocks for some milliseconds.
pub struct PackSet {
    pub(super) shared: Arc<Shared>,
    syncers: Vec<JoinHandle<()>>,
    recovered: Vec<Recovered>,
}

/// What a pack has, by id then offset.
#[derive(Clone, Debug)]
pub struct Table {
    pub entries: Arc<[Entry]>,
    /// The footer is not the one that was sealed: the entries are those of a scan.
    pub footer_damaged: bool,
}

impl PackSet {
    /// Opens the packs below `dir`, which is made if it is not there. Blocks. Never appends to a pack of an earlier
    /// process, and drops nothing of one that `claims` says was durable.
    pub fn open(
        dir: &Path,
        options: PackOptions,
        ids: Arc<IdSource>,
        pool: BufferPool,
        registry: &prometheus::Registry,
        claims: &dyn Claims,
    ) -> Result<Self, OpenError> {
        let metrics = PackMetrics::new(registry)?;
        let (found, recovered) = recovery::open_all(dir, options.direct, claims)?;
        for repair in &recovered {
            tell(repair, &metrics);
        }
        let shared = Arc::new(Shared::new(dir, options, ids, pool, metrics));
        let pack = |Opened { info, entries }: Opened| {
            let pack = Pack::new(info.id, info.state, info.bytes);
            pack.status.lock().entries = entries;
            (info.id, Arc::new(pack))
        };
        shared.packs.write().extend(found.into_iter().map(pack));
        let mut set = Self {
            shared,
            syncers: Vec::new(),
            recovered,
        };
        for slot in 0..set.shared.slots.len() {
            let syncer = Syncer::new(Arc::clone(&set.shared), slot);
            let spawned = thread::Builder::new().name(format!("pack-{slot}")).spawn(move || {
                priority::give_way();
                syncer.run();
            });
            set.syncers.push(spawned.map_err(|error| OpenError::Io {
                path: dir.to_path_buf(),
                error,
            })?);
        }
        Ok(set)
    }

    /// What `open` had to repair.
    pub fn recovered(&self) -> &[Recovered] {
        &self.recovered
    }

    /// The next number for a record that is made: higher than all before it.
    pub fn written_at(&self) -> u64 {
        self.shared.written_at()
    }

    /// Appends `records`, at most 16 MiB, side by side in one pack. Resolves when all of them are durable, in their
    /// order. Dropping the future does not undo it.
    pub async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Location>, AppendError> {
        self.append_prepared(records.into_iter().map(Record::new).collect::<Result<_, _>>()?)
            .await
    }

    async fn append_prepared(&self, records: Vec<Record>) -> Result<Vec<Location>, AppendError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = records.iter().map(Record::stored_bytes).sum();
        if bytes > APPEND_BYTES_MAX || records.len() > PACK_RECORDS_MAX {
            return Err(AppendError::Size { bytes });
        }
        let _place = self.shared.appends.acquire().await.map_err(|_| AppendError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let slot = self.shared.idlest_slot().ok_or(AppendError::Closed)?;
        slot.push(Job::Append(Append { records, bytes, answer }))?;
        answered.await.map_err(|_| AppendError::Closed)?
    }

    /// The plaintexts of an extent's records, in their order, every one verified against its header and CRC. `keys` are
    /// those of the domains that the records are of; none where nothing is encrypted.
    pub async fn read(&self, extent: Extent, keys: Vec<Arc<DomainKey>>) -> Result<Vec<(ChunkId, Bytes)>, ReadError> {
        reader::read(&self.shared, extent, keys).await
    }

    /// Appends an extent's records to an open pack as they are stored, verified but not decoded.
    pub async fn copy(&self, extent: Extent) -> Result<Vec<Location>, CopyError> {
        let (bytes, found) = reader::read_stored(&self.shared, &extent).await?;
        let records = found
            .into_iter()
            .map(|found| Record::verbatim(found.header, found.header_bytes, bytes.slice(found.payload)));
        Ok(self.append_prepared(records.collect()).await?)
    }

    /// All records of a pack, by id then offset.
    pub async fn records(&self, id: PackId) -> Result<Arc<[Entry]>, ReadError> {
        Ok(self.table(id).await?.entries)
    }

    /// All records of a pack; of an open one those that are durable. A footer that fails its hash is answered from a scan.
    pub async fn table(&self, id: PackId) -> Result<Table, ReadError> {
        let pack = self.shared.pack(id).ok_or(ReadError::NotFound(id))?;
        let lease = Arc::clone(&pack.gone).read_owned().await;
        if *lease {
            return Err(ReadError::NotFound(id));
        }
        {
            let status = pack.status.lock();
            if status.state != PackState::Sealed {
                let mut entries = status.entries.clone();
                entries.sort_unstable_by_key(|entry| (entry.id, entry.location.offset));
                return Ok(Table {
                    entries: entries.into(),
                    footer_damaged: false,
                });
            }
        }
        let shared = Arc::clone(&self.shared);
        let failed = move |error| ReadError::Io { pack: id, error };
        let read = move || {
            let _held = lease;
            read_entries(&shared, id)
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| failed(io::Error::other(error)))?
            .map_err(failed)
    }

    /// Whether the pack is there and was not found damaged.
    pub fn is_whole(&self, id: PackId) -> bool {
        let pack = self.shared.pack(id);
        pack.is_some_and(|pack| pack.status.lock().state != PackState::Damaged)
    }

    /// How far each pack's bytes reach now: those that are durable, or, where nothing is appended any more, the file's
    /// length. A pack whose file is not to be found is left out.
    pub async fn lengths(&self) -> BTreeMap<PackId, u64> {
        let (packs, shared) = (self.packs(), Arc::clone(&self.shared));
        let length = move |info: PackInfo| {
            let length = fs::metadata(shared.path(info.id)).ok()?.len();
            Some((info.id, length.min(info.bytes)))
        };
        let ask = move || packs.into_iter().filter_map(length).collect();
        tokio::task::spawn_blocking(ask).await.unwrap_or_default()
    }

    /// Whether a sealed pack's footer is the one that was written. `false` too if it cannot be read, or the pack is none.
    pub async fn has_footer(&self, id: PackId) -> bool {
        let shared = Arc::clone(&self.shared);
        let is_sealed = self
            .shared
            .pack(id)
            .is_some_and(|pack| pack.status.lock().state == PackState::Sealed);
        is_sealed
            && tokio::task::spawn_blocking(move || has_footer(&shared, id))
                .await
                .unwrap_or_default()
    }

    /// All packs, by id.
    pub fn packs(&self) -> Vec<PackInfo> {
        self.shared.packs.read().values().map(|pack| pack.info()).collect()
    }

    /// Seals the open packs behind what was appended before the call. Later appends go to new packs.
    pub async fn seal_all(&self) -> Result<(), AppendError> {
        let mut answers = Vec::new();
        for slot in &self.shared.slots {
            let (answer, answered) = oneshot::channel();
            slot.push(Job::Seal(answer))?;
            answers.push(answered);
        }
        for answered in answers {
            answered.await.map_err(|_| AppendError::Closed)??;
        }
        Ok(())
    }

    /// Waits out the readers of a sealed or poisoned pack and removes it. A pack that does not exist is removed already;
    /// an open one is refused. Not synced: a file that a power cut brings back is one that no row points to.
    pub async fn delete(&self, id: PackId) -> Result<(), ReadError> {
        let Some(pack) = self.shared.pack(id) else {
            return Ok(());
        };
        let failed = move |error| ReadError::Io { pack: id, error };
        if pack.status.lock().state == PackState::Open {
            return Err(failed(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "the pack takes appends",
            )));
        }
        let mut gone = Arc::clone(&pack.gone).write_owned().await;
        let shared = Arc::clone(&self.shared);
        let remove = move || {
            remove(&shared, id)?;
            *gone = true;
            Ok(())
        };
        tokio::task::spawn_blocking(remove)
            .await
            .map_err(|error| failed(io::Error::other(error)))?
            .map_err(failed)
    }
}

impl Drop for PackSet {
    fn drop(&mut self) {
        for slot in &self.shared.slots {
            slot.close();
        }
        for syncer in self.syncers.drain(..) {
            if syncer.join().is_err() {
                tracing::error!("a pack's syncer thread panicked");
            }
        }
    }
}

/// Chunks that one line of the log names.
const CHUNKS_TOLD_MAX: usize = 16;

fn tell(repair: &Recovered, metrics: &PackMetrics) {
    let (pack, records, dropped) = (&repair.pack, repair.records, repair.dropped);
    match repair.kind {
        RecoveredKind::Sealed | RecoveredKind::Removed => {
            tracing::warn!(%pack, kind = ?repair.kind, records, dropped, "a pack was not sealed");
        }
        RecoveredKind::FooterRebuilt => {
            metrics.damaged.inc();
            tracing::error!(%pack, records, "a pack's footer was damaged; no record is lost, and it is written anew");
        }
        RecoveredKind::Damaged => {
            metrics.damaged.inc();
            let chunks: Vec<String> = repair
                .damaged
                .iter()
                .take(CHUNKS_TOLD_MAX)
                .map(ToString::to_string)
                .collect();
            tracing::error!(%pack, records, lost_bytes = repair.lost_bytes, damaged = repair.damaged.len(), chunks = chunks.join(" "),
                "a pack is damaged: it lacks records that were durable; its file is left as it is");
        }
    }
}

fn remove(shared: &Shared, id: PackId) -> io::Result<()> {
    remove_file(&shared.path(id))?;
    shared.deleted.fetch_add(1, Ordering::SeqCst);
    shared.handles.invalidate(&id);
    shared.packs.write().remove(&id);
    Ok(())
}

/// The footer's entries, or those of a scan when the footer is not what was sealed.
fn read_entries(shared: &Shared, id: PackId) -> io::Result<Table> {
    let file = shared.handle(id)?;
    let trailer = read_end(&file, id)?.trailer();
    if let Some(entries) = read_table(&file, trailer.as_ref())? {
        return Ok(Table {
            entries: entries.into(),
            footer_damaged: false,
        });
    }
    shared.metrics.damaged.inc();
    let limit = trailer.map_or(file.length()?, |trailer| trailer.table_offset);
    let Scan {
        mut entries, dropped, ..
    } = scan(&file, id, limit)?;
    tracing::error!(pack = %id, records = entries.len(), dropped, "a footer is damaged; its records come from a scan");
    entries.sort_unstable_by_key(|entry| (entry.id, entry.location.offset));
    Ok(Table {
        entries: entries.into(),
        footer_damaged: true,
    })
}

fn has_footer(shared: &Shared, id: PackId) -> bool {
    let read = || {
        let file = ReadFile::open(&shared.path(id), false)?;
        read_table(&file, read_end(&file, id)?.trailer().as_ref())
    };
    matches!(read(), Ok(Some(_)))
}

/// The entries of the table that `trailer` vouches for; `None` when it is not the one.
pub(super) fn read_table(file: &ReadFile, trailer: Option<&Trailer>) -> io::Result<Option<Vec<Entry>>> {
    let Some(trailer) = trailer else { return Ok(None) };
    let mut table = vec![0; trailer.table_bytes()];
    let count = file.read_at(&mut table, trailer.table_offset)?;
    Ok(table.get(..count).and_then(|table| trailer.entries(table)))
}
