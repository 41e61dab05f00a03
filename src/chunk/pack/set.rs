//! The pack set: the way in for everyone above.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::blob::BlobError;
use crate::blob::local::{ReadFile, remove_file};
use crate::chunk::pack::batch::{APPEND_BYTES_MAX, Append, Record};
use crate::chunk::pack::cloud::{self, Cloud, CloudStart, Through};
use crate::chunk::pack::format::{PACK_RECORDS_MAX, Trailer};
use crate::chunk::pack::metrics::PackMetrics;
use crate::chunk::pack::reader;
use crate::chunk::pack::recovery::{self, Opened};
use crate::chunk::pack::scan::{Scan, read_end, scan};
use crate::chunk::pack::shared::{Job, Pack, Places, Shared};
use crate::chunk::pack::syncer::Syncer;
use crate::chunk::pack::{
    AppendError, Claims, CopyError, Entry, Extent, Location, NewRecord, OpenError, PackInfo, PackOptions, PackState,
    ReadError, Recovered, RecoveredKind,
};
use crate::chunk::pool::BufferPool;
use crate::ids::{ChunkId, IdSource, PackId};
use crate::meta::pack::Backend;
use crate::priority;

/// All packs of one directory, and those in a cloud. Dropping it does what is queued for the directory, seals the open packs
/// and ends their threads, which blocks for some milliseconds; what is on its way into the cloud is given up.
pub struct PackSet {
    shared: Arc<Shared>,
    syncers: Vec<JoinHandle<()>>,
    uploader: Option<AbortHandle>,
    recovered: Vec<Recovered>,
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
        start: Option<CloudStart>,
    ) -> Result<Self, OpenError> {
        let metrics = PackMetrics::new(registry)?;
        let (found, recovered) = recovery::open_all(dir, options.direct, claims)?;
        for repair in &recovered {
            tell(repair, &metrics);
        }
        let (mut there, mut twice, mut runtime, mut cloud) = (Vec::new(), BTreeSet::new(), None, None);
        if let Some(start) = start {
            there = start.packs.clone();
            twice.extend(start.twice.iter().copied());
            runtime = Some(start.runtime.clone());
            cloud = Some(Cloud::open(start, registry)?);
        }
        cloud::remove_partial(dir).map_err(|error| OpenError::Io {
            path: dir.to_path_buf(),
            error,
        })?;
        let shared = Arc::new(Shared::new(dir, options, ids, pool, metrics, cloud));
        let pack = |Opened { info, entries }: Opened| {
            let pack = Pack::new(info.id, info.state, info.bytes, Backend::Local);
            pack.status.lock().entries = entries;
            (info.id, Arc::new(pack))
        };
        {
            let mut packs = shared.packs.write();
            packs.extend(found.into_iter().map(pack));
            // The row decides where a pack is: of one that was on its way out of the directory a file may be left.
            packs.extend(there.into_iter().map(|pack| {
                let there = Pack::new(pack.id, PackState::Sealed, pack.bytes, Backend::Cloud);
                (pack.id, Arc::new(there))
            }));
            for pack in twice.iter().filter_map(|id| packs.get(id)) {
                pack.status.lock().is_twice = true;
            }
        }
        let mut set = Self {
            shared,
            syncers: Vec::new(),
            uploader: None,
            recovered,
        };
        if let Some(runtime) = runtime {
            let uploading = runtime.spawn(cloud::upload(Arc::clone(&set.shared)));
            set.uploader = Some(uploading.abort_handle());
        }
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

    /// Fails if it is sure that the place in the cloud is not this store's. One that does not answer is asked again by who
    /// needs it.
    pub async fn check_owner(&self) -> Result<(), OpenError> {
        let Some(cloud) = &self.shared.cloud else { return Ok(()) };
        match cloud.owned().await {
            Err(error @ BlobError::Unavailable(_)) => {
                tracing::warn!(%error, "the cloud does not answer: what is only there cannot be read now");
                Ok(())
            }
            asked => asked.map_err(OpenError::Cloud),
        }
    }

    /// What `open` had to repair.
    pub fn recovered(&self) -> &[Recovered] {
        &self.recovered
    }

    /// Appends `records`, at most 16 MiB, side by side in one pack. Resolves when all of them are durable, in their
    /// order. Dropping the future does not undo it.
    pub async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Location>, AppendError> {
        let prepare = |record| Record::new(record, self.shared.written_at());
        self.append_prepared(records.into_iter().map(prepare).collect::<Result<_, _>>()?)
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
        let append = Append { records, bytes, answer };
        if let Some(cloud) = self.shared.cloud.as_ref().filter(|cloud| cloud.takes_packs()) {
            cloud.queue.push(append)?;
        } else {
            let slot = self.shared.idlest_slot().ok_or(AppendError::Closed)?;
            slot.push(Job::Append(append))?;
        }
        answered.await.map_err(|_| AppendError::Closed)?
    }

    /// The plaintexts of an extent's records, in their order, every one verified against its header and CRC.
    pub async fn read(&self, extent: Extent) -> Result<Vec<(ChunkId, Bytes)>, ReadError> {
        reader::read(&self.shared, extent, Through::Cache).await
    }

    /// As `read`, from the pack itself, never from a cache in front of it.
    pub async fn read_itself(&self, extent: Extent) -> Result<Vec<(ChunkId, Bytes)>, ReadError> {
        reader::read(&self.shared, extent, Through::Source).await
    }

    /// Whether what is read of the pack comes over a network or through a cache: its bytes are to be held against the full
    /// hash that names them.
    pub fn is_far(&self, id: PackId) -> bool {
        self.shared.cloud.is_some() && self.shared.pack(id).is_some_and(|pack| pack.is_in_cloud())
    }

    /// Forgets what a cache has of an extent.
    pub fn uncache(&self, extent: &Extent) {
        if let Some(cloud) = &self.shared.cloud {
            cloud.uncache(extent);
        }
    }

    /// Tells where packs are, without keeping the set alive.
    pub fn places(&self) -> Places {
        Places(Arc::downgrade(&self.shared))
    }

    /// Appends an extent's records to an open pack as they are stored, verified but not decoded.
    pub async fn copy(&self, extent: Extent) -> Result<Vec<Location>, CopyError> {
        let found = reader::read_stored(&self.shared, &extent).await?;
        let records = found
            .into_iter()
            .map(|found| Record::verbatim(found.header, found.header_bytes, found.payload));
        Ok(self.append_prepared(records.collect()).await?)
    }

    /// All records of a pack, by id then offset; of an open pack those that are durable. A footer that fails its hash
    /// is answered from a scan.
    pub async fn records(&self, id: PackId) -> Result<Arc<[Entry]>, ReadError> {
        let pack = self.shared.pack(id).ok_or(ReadError::NotFound(id))?;
        let lease = Arc::clone(&pack.gone).read_owned().await;
        if *lease {
            return Err(ReadError::NotFound(id));
        }
        if let Some(cloud) = self.shared.cloud.as_ref().filter(|_| pack.is_in_cloud()) {
            return Ok(cloud::records(&self.shared, cloud, id, pack.info().bytes).await?.into());
        }
        {
            let status = pack.status.lock();
            if status.state != PackState::Sealed {
                let mut entries = status.entries.clone();
                entries.sort_unstable_by_key(|entry| (entry.id, entry.location.offset));
                return Ok(entries.into());
            }
        }
        let shared = Arc::clone(&self.shared);
        let failed = move |error| ReadError::Io { pack: id, error };
        let read = move || {
            let _held = lease;
            read_entries(&shared, id).map(Arc::from)
        };
        let read = self.shared.options.offload.run(read).await;
        read.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
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
            if info.backend != Backend::Local {
                return None;
            }
            let length = fs::metadata(shared.path(info.id)).ok()?.len();
            Some((info.id, length.min(info.bytes)))
        };
        let ask = move || packs.into_iter().filter_map(length).collect();
        let mut found: BTreeMap<_, _> = self.shared.options.offload.run(ask).await.unwrap_or_default();
        if let Some(cloud) = &self.shared.cloud {
            found.extend(cloud::lengths(&self.shared, cloud).await);
        }
        found
    }

    /// The sealed packs whose footer is not the one that was written, or cannot be read. Reads all footers.
    pub async fn damaged_footers(&self) -> Vec<PackId> {
        let (packs, shared) = (self.packs(), Arc::clone(&self.shared));
        let is_damaged = move |info: &PackInfo| {
            let read = || {
                let file = ReadFile::open(&shared.path(info.id), false)?;
                read_table(&file, read_end(&file, info.id)?.trailer().as_ref())
            };
            info.backend == Backend::Local && info.state == PackState::Sealed && !matches!(read(), Ok(Some(_)))
        };
        let ask = move || packs.into_iter().filter(is_damaged).map(|info| info.id).collect();
        let mut damaged: Vec<PackId> = self.shared.options.offload.run(ask).await.unwrap_or_default();
        if let Some(cloud) = &self.shared.cloud {
            damaged.extend(cloud::damaged_footers(&self.shared, cloud).await);
        }
        damaged
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
        let (in_cloud, is_twice) = {
            let status = pack.status.lock();
            (status.backend == Backend::Cloud, status.is_twice)
        };
        if in_cloud || is_twice {
            self.remove_blob(id).await?;
        }
        if in_cloud && !is_twice {
            self.shared.packs.write().remove(&id);
            *gone = true;
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let remove = move || {
            remove(&shared, id)?;
            *gone = true;
            Ok(())
        };
        let removed = self.shared.options.offload.run(remove).await;
        removed
            .map_err(|error| failed(io::Error::other(error)))?
            .map_err(failed)
    }
}

impl PackSet {
    async fn remove_blob(&self, id: PackId) -> Result<(), ReadError> {
        let Some(cloud) = &self.shared.cloud else { return Ok(()) };
        cloud.remove(id).await.map_err(|error| cloud::told(id, 0, error))
    }

    pub fn has_cloud(&self) -> bool {
        self.shared.cloud.is_some()
    }

    pub fn info(&self, id: PackId) -> Option<PackInfo> {
        self.shared.pack(id).map(|pack| pack.info())
    }

    /// From now on a deletion of the pack removes both copies.
    pub fn set_twice(&self, id: PackId) {
        if let Some(pack) = self.shared.pack(id) {
            pack.status.lock().is_twice = true;
        }
    }

    /// Copies a sealed pack to the other backend, byte for byte, and reads it back.
    pub async fn copy_whole(&self, id: PackId, to: Backend) -> Result<(), ReadError> {
        let pack = self.shared.pack(id).ok_or(ReadError::NotFound(id))?;
        let cloud = self.shared.cloud.as_ref().ok_or(ReadError::NotFound(id))?;
        let lease = Arc::clone(&pack.gone).read_owned().await;
        if *lease {
            return Err(ReadError::NotFound(id));
        }
        cloud::copy(&self.shared, cloud, id, pack.info().bytes, to).await
    }

    /// Turns readers to the copy at `to`, waits out those of the other one, and removes that.
    pub async fn switch(&self, id: PackId, to: Backend) -> Result<(), ReadError> {
        let (Some(pack), Some(cloud)) = (self.shared.pack(id), self.shared.cloud.as_ref()) else {
            return Ok(());
        };
        {
            let gone = Arc::clone(&pack.gone).write_owned().await;
            if *gone {
                return Ok(());
            }
            pack.status.lock().backend = to;
        }
        // Nobody waits for this: a cloud that is down answers late.
        let from = match to {
            Backend::Local => Backend::Cloud,
            Backend::Cloud => Backend::Local,
        };
        cloud::remove_other(&self.shared, cloud, id, from).await?;
        pack.status.lock().is_twice = false;
        Ok(())
    }

    /// Removes a pack that was, or was to be, put into the cloud, and that nothing points to.
    pub async fn discard(&self, id: PackId) -> Result<(), ReadError> {
        self.remove_blob(id).await?;
        self.delete(id).await
    }
}

impl Drop for PackSet {
    fn drop(&mut self) {
        if let Some(uploader) = &self.uploader {
            uploader.abort();
        }
        if let Some(cloud) = &self.shared.cloud {
            cloud.queue.close();
        }
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
    shared.handles.invalidate(&id);
    shared.packs.write().remove(&id);
    Ok(())
}

/// The footer's entries, or those of a scan when the footer is not what was sealed.
fn read_entries(shared: &Shared, id: PackId) -> io::Result<Vec<Entry>> {
    let file = shared.handle(id)?;
    let trailer = read_end(&file, id)?.trailer();
    if let Some(entries) = read_table(&file, trailer.as_ref())? {
        return Ok(entries);
    }
    shared.metrics.damaged.inc();
    let limit = trailer.map_or(file.length()?, |trailer| trailer.table_offset);
    let Scan {
        mut entries, dropped, ..
    } = scan(&file, id, limit)?;
    tracing::error!(pack = %id, records = entries.len(), dropped, "a footer is damaged; its records come from a scan");
    entries.sort_unstable_by_key(|entry| (entry.id, entry.location.offset));
    Ok(entries)
}

/// The entries of the table that `trailer` vouches for; `None` when it is not the one.
fn read_table(file: &ReadFile, trailer: Option<&Trailer>) -> io::Result<Option<Vec<Entry>>> {
    let Some(trailer) = trailer else { return Ok(None) };
    let mut table = vec![0; trailer.table_bytes()];
    let count = file.read_at(&mut table, trailer.table_offset)?;
    Ok(table.get(..count).and_then(|table| trailer.entries(table)))
}
