//! The pack set: the way in for everyone above.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::blob::BlobError;
use crate::blob::local::remove_file;
use crate::chunk::domain::DomainKey;
use crate::chunk::pack::batch::{APPEND_BYTES_MAX, Append, Record};
use crate::chunk::pack::cloud::{self, Cloud, CloudStart, Through};
use crate::chunk::pack::format::PACK_RECORDS_MAX;
use crate::chunk::pack::metrics::PackMetrics;
use crate::chunk::pack::reader::{self, Plain};
use crate::chunk::pack::recovery::{self, Opened};
use crate::chunk::pack::shared::{Job, Pack, Shared};
use crate::chunk::pack::syncer::Syncer;
use crate::chunk::pack::{
    AppendError, Claims, CopyError, Extent, Location, NewRecord, OpenError, PackInfo, PackOptions, PackState,
    ReadError, Recovered, RecoveredKind,
};
use crate::chunk::pool::BufferPool;
use crate::ids::{IdSource, PackId};
use crate::limits::MIB;
use crate::meta::pack::Backend;
use crate::priority;

/// What [`PackSet::moved_together`] says of a cloud: packs that are made of so much are not small, so that nobody puts them
/// together again.
const MOVED_TOGETHER_BYTES: u64 = 4 * MIB as u64;

/// All packs of one directory, and those in a cloud. Dropping it does what is queued for the directory, seals the open packs
/// and ends their threads, which blocks for some milliseconds; what is on its way into the cloud is given up.
pub struct PackSet {
    pub(super) shared: Arc<Shared>,
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
        let append = Append { records, bytes, answer };
        if let Some(cloud) = self.shared.cloud.as_ref().filter(|cloud| cloud.takes_packs()) {
            cloud.queue.push(append)?;
        } else {
            let slot = self.shared.idlest_slot().ok_or(AppendError::Closed)?;
            slot.push(Job::Append(append))?;
        }
        answered.await.map_err(|_| AppendError::Closed)?
    }

    /// The plaintexts of an extent's records, in their order, every one verified against its header and CRC. `keys` are
    /// those of the domains that the records are of; none where nothing is encrypted.
    pub async fn read(&self, extent: Extent, keys: Vec<Arc<DomainKey>>, through: Through) -> Result<Plain, ReadError> {
        reader::read(&self.shared, extent, keys, through).await
    }

    /// Bytes of records that are best moved at once: in the directory they come to lie side by side anyway, in a cloud each
    /// append may become a pack.
    pub fn moved_together(&self) -> u64 {
        if self.puts_new_packs() { MOVED_TOGETHER_BYTES } else { 0 }
    }

    /// Appends the extents' records, side by side in one pack, as they are stored, verified but not decoded. With one extent
    /// the bytes stay in their buffer; of several they are copied out, since who waits for memory holds none.
    pub async fn copy(&self, extents: &[Extent]) -> Result<Vec<Location>, CopyError> {
        let mut records = Vec::new();
        for extent in extents {
            let (bytes, found) = reader::read_stored(&self.shared, extent).await?;
            records.extend(found.into_iter().map(|found| {
                let payload = match extents {
                    [_] => bytes.slice(found.payload),
                    _ => Bytes::copy_from_slice(bytes.get(found.payload).unwrap_or_default()),
                };
                Record::verbatim(found.header, found.header_bytes, payload)
            }));
        }
        Ok(self.append_prepared(records).await?)
    }

    /// Whether the pack is there and was not found damaged.
    pub fn is_whole(&self, id: PackId) -> bool {
        let pack = self.shared.pack(id);
        pack.is_some_and(|pack| pack.status.lock().state != PackState::Damaged)
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

    /// Waits out the readers of a sealed or poisoned pack and removes it, at both backends if it may be there; `has_blob`: its
    /// row says that the cloud may have it, whether it is a pack here or not. One that does not exist is removed already; an
    /// open one is refused. Not synced: a file that a power cut brings back is one that no row points to.
    pub async fn delete(&self, id: PackId, has_blob: bool) -> Result<(), ReadError> {
        let Some(pack) = self.shared.pack(id) else {
            return if has_blob { self.remove_blob(id).await } else { Ok(()) };
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
        if has_blob || in_cloud || is_twice {
            self.remove_blob(id).await?;
        }
        let shared = Arc::clone(&self.shared);
        let remove = move || {
            if !in_cloud || is_twice {
                remove_file(&shared.path(id))?;
            }
            shared.forget(id);
            *gone = true;
            Ok(())
        };
        let done = self.shared.options.offload.run(remove).await;
        done.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
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
