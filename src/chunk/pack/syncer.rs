//! The thread behind an open pack: takes what waits as one batch, writes it, syncs it, answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::blob::local::{AppendFile, create_dir_synced, remove_file, sync_dir};
use crate::chunk::pack::batch::{self, Append, Sink, Staging, batch_bytes};
use crate::chunk::pack::format::{FILE_HEADER_BYTES, PACK_RECORDS_MAX, file_header};
use crate::chunk::pack::shared::{Job, Pack, Shared, Slot};
use crate::chunk::pack::{AppendError, Entry, PackState};
use crate::limits::MIB;
use crate::meta::pack::Backend;

/// Bytes after which a batch takes no further append.
const BATCH_BYTES: usize = 8 * MIB;
/// Bytes of one write. Two of these stay allocated with two open packs.
const STAGING_BYTES: usize = MIB;
/// An open pack takes room on the disk in steps of this many bytes: a whole pack's would be space that nothing is in.
const RESERVE_BYTES: u64 = 8 * MIB as u64;

/// What the thread takes from its queue at once.
enum Work {
    Batch(Vec<Append>),
    Seal(oneshot::Sender<Result<(), AppendError>>),
    End,
}

pub struct Syncer {
    shared: Arc<Shared>,
    slot: usize,
    staging: Staging,
    open: Option<OpenPack>,
}

struct OpenPack {
    pack: Arc<Pack>,
    file: AppendFile,
    /// Where the next batch goes; everything before is durable.
    end: u64,
    /// Room is made up to here.
    reserved: u64,
    records: usize,
}

impl Syncer {
    pub fn new(shared: Arc<Shared>, slot: usize) -> Self {
        Self {
            shared,
            slot,
            staging: Staging::new(STAGING_BYTES),
            open: None,
        }
    }

    pub fn run(mut self) {
        loop {
            match self.take() {
                Work::Batch(batch) => self.append(batch),
                Work::Seal(answer) => {
                    // Nobody waits any more: the seal itself is what counted.
                    let _ = answer.send(self.seal());
                }
                Work::End => break,
            }
        }
        if let Err(error) = self.seal() {
            tracing::error!(%error, "a pack stays open; the next start seals it");
        }
    }

    fn slot(&self) -> Option<&Slot> {
        self.shared.slots.get(self.slot)
    }

    /// Waits for work. What is queued when the set closes is still done.
    fn take(&self) -> Work {
        let Some(slot) = self.slot() else { return Work::End };
        let mut queue = slot.queue.lock();
        loop {
            let mut batch: Vec<Append> = Vec::new();
            let (mut bytes, mut records) = (0, 0);
            while let Some(job) = queue.jobs.pop_front() {
                match job {
                    Job::Append(append) if batch.is_empty() || fits(bytes, records, &append) => {
                        bytes += append.bytes;
                        records += append.records.len();
                        batch.push(append);
                    }
                    Job::Seal(answer) if batch.is_empty() => return Work::Seal(answer),
                    later => {
                        queue.jobs.push_front(later);
                        break;
                    }
                }
            }
            if !batch.is_empty() {
                return Work::Batch(batch);
            }
            if queue.closing {
                return Work::End;
            }
            slot.wake.wait(&mut queue);
        }
    }

    fn append(&mut self, mut batch: Vec<Append>) {
        let bytes: usize = batch.iter().map(|append| append.bytes).sum();
        let result = self.write(&mut batch);
        if let Some(slot) = self.slot() {
            slot.bytes_ahead.fetch_sub(bytes, Ordering::Relaxed);
        }
        // A receiver that is gone gave up on its upload: its records are dead bytes for the collector.
        match result {
            Ok(entries) => {
                let mut entries = entries.into_iter();
                for append in batch {
                    let locations = append.locations(&mut entries);
                    let _ = append.answer.send(Ok(locations));
                }
            }
            Err(error) => {
                for append in batch {
                    let _ = append.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Makes a batch durable, at the second try in a new pack: the bytes of a failed sync may be lost whatever a later
    /// sync says.
    fn write(&mut self, batch: &mut [Append]) -> Result<Vec<Entry>, AppendError> {
        let bytes = batch_bytes(batch);
        let records: usize = batch.iter().map(|append| append.records.len()).sum();
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.is_full(bytes, records, self.shared.options.pack_bytes))
        {
            // A pack that cannot be sealed is given up like any other; its records stay where they are.
            if let Err(error) = self.seal() {
                tracing::error!(%error, "a pack could not be sealed");
            }
        }
        // Nothing is written yet: the pack takes what fits later.
        self.make_room(bytes).map_err(failure)?;
        match self.write_once(batch, bytes) {
            Ok(entries) => Ok(entries),
            Err(error) if self.poison(&error) => self.write_once(batch, bytes).map_err(|error| {
                self.poison(&error);
                failure(error)
            }),
            Err(error) => Err(failure(error)),
        }
    }

    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(open) = self.open.as_mut().filter(|open| open.end + bytes > open.reserved) {
            let end = (open.end + bytes).next_multiple_of(RESERVE_BYTES);
            open.file.reserve(end)?;
            open.reserved = end;
        }
        Ok(())
    }

    fn write_once(&mut self, batch: &mut [Append], bytes: u64) -> io::Result<Vec<Entry>> {
        if self.open.is_none() {
            self.open = Some(self.create()?);
        }
        let Some(open) = self.open.as_mut() else {
            return Err(io::Error::other("no pack is open"));
        };
        let first = open.records == 0;
        let start = if first { 0 } else { open.end };
        let mut writer = self.staging.begin(&open.file, start);
        if first {
            writer.put(&file_header(open.pack.id))?;
        }
        let entries = batch::write(&mut writer, open.pack.id, open.end, open.records as u32, batch)?;
        writer.finish()?;
        let begun = Instant::now();
        open.file.sync_data()?;
        let metrics = &self.shared.metrics;
        metrics.sync_seconds.observe(begun.elapsed().as_secs_f64());
        metrics.batch_records.observe(entries.len() as f64);
        metrics.records.inc_by(entries.len() as u64);
        metrics
            .written_bytes
            .inc_by(bytes + if first { FILE_HEADER_BYTES as u64 } else { 0 });
        open.end += bytes;
        open.records += entries.len();
        let mut status = open.pack.status.lock();
        status.bytes = open.end;
        status.entries.extend_from_slice(&entries);
        Ok(entries)
    }

    /// A new pack file under a durable name.
    fn create(&self) -> io::Result<OpenPack> {
        let id = self.shared.ids.pack_id();
        let path = self.shared.path(id);
        let parent = path.parent().unwrap_or(&self.shared.dir);
        create_dir_synced(parent)?;
        let file = AppendFile::create(&path, self.shared.options.direct, RESERVE_BYTES)?;
        sync_dir(parent)?;
        let pack = Arc::new(Pack::new(id, PackState::Open, FILE_HEADER_BYTES as u64, Backend::Local));
        self.shared.packs.write().insert(id, Arc::clone(&pack));
        Ok(OpenPack {
            pack,
            file,
            end: FILE_HEADER_BYTES as u64,
            reserved: RESERVE_BYTES,
            records: 0,
        })
    }

    /// Gives up the open pack after a failed write or sync. `false` when there is none: then nothing was written.
    fn poison(&mut self, error: &io::Error) -> bool {
        let Some(open) = self.open.take() else { return false };
        tracing::error!(pack = %open.pack.id, %error, "a pack is given up after a failed write or sync");
        self.shared.metrics.poisoned.inc();
        open.pack.status.lock().state = PackState::Poisoned;
        true
    }

    /// Ends the open pack with its footer. One without a record is removed.
    fn seal(&mut self) -> Result<(), AppendError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let id = open.pack.id;
        if open.records == 0 {
            self.shared.packs.write().remove(&id);
            return remove_file(&self.shared.path(id)).map_err(failure);
        }
        let entries = open.pack.status.lock().entries.clone();
        match batch::write_footer(&mut self.staging, &open.file, open.pack.id, open.end, &entries) {
            Ok(length) => {
                let mut status = open.pack.status.lock();
                status.state = PackState::Sealed;
                status.bytes = length;
                status.entries = Vec::new();
                self.shared.metrics.sealed.inc();
                Ok(())
            }
            Err(error) => {
                self.open = Some(open);
                self.poison(&error);
                Err(failure(error))
            }
        }
    }
}

impl OpenPack {
    fn is_full(&self, bytes: u64, records: usize, pack_bytes: u64) -> bool {
        self.records > 0 && (self.end + bytes > pack_bytes || self.records + records > PACK_RECORDS_MAX)
    }
}

fn fits(bytes: usize, records: usize, append: &Append) -> bool {
    bytes + append.bytes <= BATCH_BYTES && records + append.records.len() <= PACK_RECORDS_MAX
}

fn failure(error: io::Error) -> AppendError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::Full,
        _ => AppendError::Io(Arc::new(error)),
    }
}
