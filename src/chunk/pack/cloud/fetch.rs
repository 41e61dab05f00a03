//! The way out of the cloud: ranges of packs, footers, lengths.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{Either, select};
use tokio::time::{Instant, sleep};

use super::moving::SCAN;
use super::{Cloud, FOLDER, name};
use crate::blob::local::{ReadFile, remove_file};
use crate::blob::{BlobError, LIST_PAGE_MAX};
use crate::chunk::pack::format::{FILE_HEADER_BYTES, Trailer};
use crate::chunk::pack::scan::scan;
use crate::chunk::pack::shared::{Pack, Shared};
use crate::chunk::pack::{Entry, Extent, ReadError, Table};
use crate::chunk::pool::PooledBuf;
use crate::ids::PackId;
use crate::meta::pack::Backend;

/// Bytes of a pack's end that are read at once: the footer of a thousand records.
const FOOTER_BYTES: u64 = 64 << 10;

/// Whether the disk cache may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    Cache,
    /// What is asked is whether the pack itself reads.
    Source,
}

/// As errors of a file: what may pass is told apart from what is wrong with the pack.
pub fn told(pack: PackId, offset: u64, error: BlobError) -> ReadError {
    let damaged = |reason| ReadError::Damaged {
        pack,
        offset,
        id: None,
        reason,
    };
    match error {
        BlobError::NotFound => damaged("its blob is gone"),
        BlobError::Short => damaged("its blob ends before it"),
        BlobError::Unavailable(reason) | BlobError::Refused(reason) => ReadError::Io {
            pack,
            error: io::Error::new(io::ErrorKind::HostUnreachable, reason),
        },
    }
}

/// Fills the buffer, which begins at `start` of the pack, with the extent's bytes.
pub async fn fill(
    shared: &Shared,
    cloud: &Cloud,
    extent: &Extent,
    mut buffer: PooledBuf,
    start: u64,
    through: Through,
) -> Result<PooledBuf, ReadError> {
    let range = extent.byte_range();
    if through == Through::Cache && cloud.cache.is_on() {
        let (returned, found) = cloud.cache.load(extent, buffer, start).await;
        buffer = returned.ok_or_else(|| told(extent.pack(), range.start, stopped()))?;
        if found {
            cloud.metrics.cache_hits.inc();
            let source = shared.metrics.read_bytes.with_label_values(&["cloud_cache"]);
            source.inc_by(range.end - range.start);
            return Ok(buffer);
        }
        cloud.metrics.cache_misses.inc();
    }
    let read = cloud.get(extent.pack(), range.clone()).await;
    let bytes = read.map_err(|error| told(extent.pack(), range.start, error))?;
    let source = shared.metrics.read_bytes.with_label_values(&["cloud"]);
    source.inc_by(bytes.len() as u64);
    let from = (range.start - start) as usize;
    if let Some(place) = buffer.get_mut(from..from + bytes.len()) {
        place.copy_from_slice(&bytes);
    }
    if through == Through::Cache && cloud.cache.is_on() {
        cloud.cache.keep(extent, bytes).await;
    }
    Ok(buffer)
}

fn stopped() -> BlobError {
    BlobError::Unavailable("the store is shutting down".to_owned())
}

impl Cloud {
    /// A range of a pack. A slow read is asked for once more, and the first good answer counts.
    pub async fn get(&self, pack: PackId, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.again(|| self.get_once(pack, range.clone())).await
    }

    async fn get_once(&self, pack: PackId, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.owned().await?;
        // The semaphore is never closed.
        let _place = self.gets.acquire().await.ok();
        let (begun, wanted) = (Instant::now(), range.end - range.start);
        let read = self.in_time(self.hedged(&name(pack), range)).await;
        let read = read.and_then(|bytes| {
            // A server that cuts what it gives short, and says that it is all.
            let is_whole = bytes.len() as u64 == wanted;
            let cut = || BlobError::Unavailable("the answer was cut off".to_owned());
            is_whole.then_some(bytes).ok_or_else(cut)
        });
        match &read {
            Ok(bytes) => {
                self.metrics.get_seconds.observe(begun.elapsed().as_secs_f64());
                self.metrics.get_bytes.inc_by(bytes.len() as u64);
            }
            Err(_) => self.metrics.get_errors.inc(),
        }
        read
    }

    async fn hedged(&self, name: &str, range: Range<u64>) -> Result<Bytes, BlobError> {
        let begun = Instant::now();
        let mut first = pin!(self.options.blobs.get(name, Some(range.clone())));
        let slow = pin!(sleep(self.latency.slow()));
        let answered = match select(first.as_mut(), slow).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(_) => None,
        };
        let answer = match (answered, self.hedges.try_acquire()) {
            (Some(answer), _) => answer,
            (None, Err(_)) => first.await,
            (None, Ok(_place)) => {
                self.metrics.hedges.inc();
                let second = pin!(self.options.blobs.get(name, Some(range)));
                match select(first, second).await {
                    Either::Left((Err(BlobError::Unavailable(_)), second)) => second.await,
                    Either::Right((Err(BlobError::Unavailable(_)), first)) => first.await,
                    Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
                }
            }
        };
        if answer.is_ok() {
            self.latency.note(begun.elapsed());
        }
        answer
    }

    /// All of a pack.
    pub async fn whole(&self, pack: PackId, bytes: u64) -> Result<Bytes, BlobError> {
        self.get(pack, 0..bytes).await
    }

    /// Forgets what the cache has of an extent.
    pub fn uncache(&self, extent: &Extent) {
        self.cache.forget(extent);
    }

    /// The footer's entries; `None` when it is not the one that was sealed.
    pub async fn footer(&self, pack: PackId, bytes: u64) -> Result<Option<Vec<Entry>>, BlobError> {
        let from = bytes.saturating_sub(FOOTER_BYTES);
        let end = self.get(pack, from..bytes).await?;
        let Some(trailer) = Trailer::decode(&end, pack, bytes) else {
            return Ok(None);
        };
        let table = trailer.table_offset..trailer.table_offset + trailer.table_bytes() as u64;
        let table = if table.start >= from {
            end.slice((table.start - from) as usize..(table.end - from) as usize)
        } else {
            self.get(pack, table).await?
        };
        Ok(trailer.entries(&table))
    }
}

/// What a pack has, by id then offset. A footer that fails its hash is answered from a scan of the whole pack.
pub async fn table(shared: &Shared, cloud: &Cloud, pack: PackId, bytes: u64) -> Result<Table, ReadError> {
    let failed = |error| told(pack, FILE_HEADER_BYTES as u64, error);
    if let Some(entries) = cloud.footer(pack, bytes).await.map_err(failed)? {
        return Ok(Table {
            entries: entries.into(),
            footer_damaged: false,
        });
    }
    shared.metrics.damaged.inc();
    let whole = cloud.whole(pack, bytes).await.map_err(failed)?;
    let (path, trailer) = (
        shared.scratch(pack, SCAN),
        Trailer::decode(&whole, pack, bytes).map(|trailer| trailer.table_offset),
    );
    let scanned = shared.options.offload.run(move || {
        fs::write(&path, &whole)?;
        let found = ReadFile::open(&path, false).and_then(|file| scan(&file, pack, trailer.unwrap_or(bytes)));
        remove_file(&path)?;
        found
    });
    let failed = |error| ReadError::Io { pack, error };
    let found = scanned.await.map_err(io::Error::other).flatten().map_err(failed)?;
    let mut entries = found.entries;
    tracing::error!(%pack, records = entries.len(), dropped = found.dropped, "a footer is damaged; its records come from a scan");
    entries.sort_unstable_by_key(|entry| (entry.id, entry.location.offset));
    Ok(Table {
        entries: entries.into(),
        footer_damaged: true,
    })
}

/// How long the blobs of the packs in the cloud are. One that is not there is left out; where the place does not tell, for
/// which the reason is given, they are as long as they should be.
pub async fn lengths(shared: &Shared, cloud: &Cloud) -> (BTreeMap<PackId, u64>, Option<BlobError>) {
    let packs: Vec<Arc<Pack>> = shared.packs.read().values().cloned().collect();
    let there = packs.iter().map(|pack| pack.info());
    let there = there.filter(|info| info.backend == Backend::Cloud);
    let mut expected: BTreeMap<PackId, u64> = there.map(|info| (info.id, info.bytes)).collect();
    if expected.is_empty() {
        return (expected, None);
    }
    match cloud.listed().await {
        Ok(found) => expected.retain(|pack, bytes| match found.get(pack) {
            Some(length) => {
                *bytes = (*bytes).min(*length);
                true
            }
            None => false,
        }),
        Err(error) => return (expected, Some(error)),
    }
    (expected, None)
}

impl Cloud {
    async fn listed(&self) -> Result<BTreeMap<PackId, u64>, BlobError> {
        self.owned().await?;
        let (mut found, mut after) = (BTreeMap::new(), None::<String>);
        loop {
            let list = || self.in_time(self.options.blobs.list(FOLDER, after.as_deref()));
            let page = self.again(list).await?;
            let is_last = page.len() < LIST_PAGE_MAX;
            after = page.last().map(|blob| blob.name.clone());
            found.extend(page.into_iter().filter_map(|blob| {
                let id = blob.name.strip_prefix(FOLDER)?.parse().ok()?;
                Some((id, blob.bytes))
            }));
            if is_last {
                return Ok(found);
            }
        }
    }
}
