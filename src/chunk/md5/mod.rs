//! MD5 of many streams at once. MD5 is the dearest step of a PUT when hashed stream by stream; streams in flight share
//! SIMD lanes here, on hashing threads of their own.
//!
//! A thread hashes when enough streams have data to fill the lanes, when every stream that is known has data, or when
//! one has waited long enough: an upload waits for its digest only at its end, so its bytes may wait for company.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::oneshot;

mod queue;
mod worker;

use queue::{Queue, StreamId};

use crate::priority;

/// Hashing threads. Dropping it ends them once every queued byte is hashed; streams that are left hash for themselves.
pub struct Md5Lanes {
    queues: Vec<Arc<Queue>>,
    threads: Vec<JoinHandle<()>>,
}

impl Md5Lanes {
    /// Starts `threads` hashing threads. A stream stays on its thread; with none, each hashes in place.
    pub fn start(threads: usize) -> io::Result<Self> {
        let mut lanes = Self {
            queues: Vec::new(),
            threads: Vec::new(),
        };
        for number in 0..threads {
            let queue = Arc::new(Queue::new());
            lanes.queues.push(Arc::clone(&queue));
            let thread = thread::Builder::new().name(format!("md5-{number}"));
            lanes.threads.push(thread.spawn(move || {
                priority::give_way();
                worker::run(&queue);
            })?);
        }
        Ok(lanes)
    }

    /// A new stream. Dropping it before `finish` forgets it.
    pub fn stream(&self) -> Md5Stream {
        let fewest = self.queues.iter().min_by_key(|queue| queue.streams()).map(Arc::clone);
        let queue = fewest.unwrap_or_else(|| Arc::new(Queue::ended()));
        let id = queue.register();
        Md5Stream { queue, id }
    }
}

impl Drop for Md5Lanes {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.close();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an MD5 thread panicked");
            }
        }
    }
}

/// One MD5 in the making.
pub struct Md5Stream {
    queue: Arc<Queue>,
    id: StreamId,
}

impl Md5Stream {
    /// Queues `data` without a copy; waits while too many bytes are queued.
    pub async fn update(&mut self, data: Bytes) {
        if !data.is_empty() {
            let permit = self.queue.room(data.len()).await;
            self.queue.push(self.id, data, permit);
        }
    }

    /// The digest of everything queued. Ask when nothing else is left to be done: bytes that nobody waits for are hashed
    /// in company.
    pub async fn finish(self) -> [u8; 16] {
        let (answer, answered) = oneshot::channel();
        self.queue.finish(self.id, answer);
        // The queue keeps the sender until it answers; a wrong digest would be worse than a panic.
        #[allow(clippy::expect_used)]
        answered.await.expect("every registered stream is answered")
    }
}

impl Drop for Md5Stream {
    fn drop(&mut self) {
        self.queue.forget(self.id);
    }
}

/// MD5 of a small body, in place.
pub fn md5_small(data: &[u8]) -> [u8; 16] {
    md5_many::md5(data)
}

#[cfg(test)]
mod tests;
