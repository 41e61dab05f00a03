//! The way into the cloud: what waits becomes one sealed pack and one put.
//!
//! A lone append is put at once. While puts are under way, others gather for a moment, or until one of them is done. A put
//! that failed may have happened, so its records are put again under another name.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Cloud;
use crate::blob::BlobError;
use crate::chunk::pack::batch::{self, Append};
use crate::chunk::pack::format::PACK_RECORDS_MAX;
use crate::chunk::pack::shared::{Pack, Shared};
use crate::chunk::pack::{AppendError, Entry, PackState};
use crate::limits::MIB;
use crate::meta::pack::Backend;

/// Puts under way at the same time. With the next two it bounds the memory for packs that are being put.
const PUTS_MAX: usize = 4;
/// Bytes after which a pack takes no further append. The largest append still fits.
pub const PACK_BYTES: usize = 16 * MIB;
/// Bytes that are put without waiting for more.
const GATHERED_BYTES: usize = 4 * MIB;
/// How long appends gather while others are being put.
const GATHER: Duration = Duration::from_millis(20);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// Bytes that are sealed on the caller's thread; more go to a blocking one.
const SEALED_IN_PLACE_BYTES: usize = 64 << 10;

/// The appends that wait. Their number is bounded by the permits of those who append.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    appends: VecDeque<Append>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub fn push(&self, append: Append) -> Result<(), AppendError> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(AppendError::Closed);
        }
        waiting.bytes += append.bytes;
        waiting.appends.push_back(append);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Nothing waits any more, and nothing will.
    pub fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.appends.clear();
    }

    fn bytes(&self) -> usize {
        self.waiting.lock().bytes
    }

    /// The appends of one pack, the oldest ones.
    fn take(&self) -> Vec<Append> {
        let mut waiting = self.waiting.lock();
        let (mut batch, mut bytes, mut records) = (Vec::new(), 0, 0);
        while let Some(append) = waiting.appends.front() {
            let fits = bytes + append.bytes <= PACK_BYTES && records + append.records.len() <= PACK_RECORDS_MAX;
            if !batch.is_empty() && !fits {
                break;
            }
            (bytes, records) = (bytes + append.bytes, records + append.records.len());
            batch.extend(waiting.appends.pop_front());
        }
        waiting.bytes -= bytes;
        batch
    }
}

/// Puts what is appended, until it is dropped.
pub async fn upload(shared: Arc<Shared>) {
    let Some(cloud) = shared.cloud.as_ref() else { return };
    let mut puts = JoinSet::new();
    loop {
        while puts.try_join_next().is_some() {}
        if cloud.queue.bytes() == 0 {
            cloud.queue.wake.notified().await;
            continue;
        }
        if !puts.is_empty() {
            gather(&cloud.queue, &mut puts).await;
        }
        while puts.len() >= PUTS_MAX {
            puts.join_next().await;
        }
        puts.spawn(put(Arc::clone(&shared), cloud.queue.take()));
    }
}

/// Lets appends come together while others are under way.
async fn gather(queue: &Queue, puts: &mut JoinSet<()>) {
    let gathered = sleep(GATHER);
    tokio::pin!(gathered);
    while queue.bytes() < GATHERED_BYTES {
        tokio::select! {
            biased;
            () = &mut gathered => return,
            _ = puts.join_next() => return,
            () = queue.wake.notified() => {}
        }
    }
}

/// Puts a batch and answers. A receiver that is gone gave up on its upload: its records are dead bytes for the collector.
async fn put(shared: Arc<Shared>, batch: Vec<Append>) {
    let (batch, result) = store(&shared, batch).await;
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

/// Makes a batch durable: under a new name at every try, as long as the failure may pass.
async fn store(shared: &Arc<Shared>, mut batch: Vec<Append>) -> (Vec<Append>, Result<Vec<Entry>, AppendError>) {
    let Some(cloud) = shared.cloud.as_ref() else {
        return (batch, Err(AppendError::Closed));
    };
    let (began, mut pause) = (Instant::now(), PAUSE_MIN);
    loop {
        let (returned, tried) = store_once(shared, cloud, batch).await;
        batch = returned;
        let error = match tried {
            Ok(entries) => return (batch, Ok(entries)),
            Err(error) => error,
        };
        cloud.metrics.put_errors.inc();
        let passes = matches!(error, BlobError::Unavailable(_));
        if !passes || began.elapsed() + pause > cloud.options.put_within {
            tracing::error!(place = cloud.options.shown, %error, "a pack cannot be put into the cloud");
            return (batch, Err(AppendError::Unavailable(error.to_string().into())));
        }
        tracing::warn!(place = cloud.options.shown, %error, "a pack is put again under another name");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn store_once(
    shared: &Arc<Shared>,
    cloud: &Cloud,
    mut batch: Vec<Append>,
) -> (Vec<Append>, Result<Vec<Entry>, BlobError>) {
    let id = shared.ids.pack_id();
    let bytes: usize = batch.iter().map(|append| append.bytes).sum();
    let sealed = if bytes <= SEALED_IN_PLACE_BYTES {
        batch::seal(id, &mut batch)
    } else {
        let job = move || {
            let sealed = batch::seal(id, &mut batch);
            (batch, sealed)
        };
        match shared.options.offload.run(job).await {
            Ok((returned, sealed)) => {
                batch = returned;
                sealed
            }
            // The receivers see that their answers were dropped.
            Err(error) => return (Vec::new(), Err(BlobError::Refused(error.to_string()))),
        }
    };
    let done = match sealed {
        Ok((pack, entries)) => named(shared, cloud, id, pack).await.map(|()| entries),
        Err(error) => Err(refused(&error)),
    };
    (batch, done)
}

fn refused(error: &io::Error) -> BlobError {
    BlobError::Refused(error.to_string())
}

/// Puts a sealed pack whose row comes first.
async fn named(shared: &Shared, cloud: &Cloud, id: crate::ids::PackId, pack: Vec<u8>) -> Result<(), BlobError> {
    let length = pack.len() as u64;
    cloud.owned().await?;
    let pending = cloud.ledger.pending(id, length).await;
    pending.map_err(|error| BlobError::Unavailable(error.to_string()))?;
    let begun = Instant::now();
    cloud.put(id, pack.into()).await?;
    cloud.metrics.put_seconds.observe(begun.elapsed().as_secs_f64());
    cloud.metrics.put_bytes.inc_by(length);
    let pack = Pack::new(id, PackState::Sealed, length, Backend::Cloud);
    shared.packs.write().insert(id, Arc::new(pack));
    Ok(())
}
