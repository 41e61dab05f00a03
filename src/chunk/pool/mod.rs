//! Buffers under one byte budget, reused: the first touch of a fresh page is dear on a virtual machine.
//!
//! A buffer has the size of its class. The budget counts classes, not bytes asked for, so that the resident size is
//! bounded by it. Freed blocks wait for their next use; they go back to the operating system only when another class
//! needs their share of the budget.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::blob::local::ALIGNMENT;
use crate::limits::{BUFFER_WAIT, KIB, MIB};

mod memory;

pub use memory::Block;

/// Sizes of the buffers. Those past 1 MiB carry some room for record headers and for the alignment of direct reads.
const CLASSES: [usize; 8] = [
    64 * KIB,
    128 * KIB,
    256 * KIB,
    512 * KIB,
    MIB + 64 * KIB,
    2 * MIB + 64 * KIB,
    4 * MIB + 64 * KIB,
    BUFFER_BYTES_MAX,
];

/// Bytes of the largest buffer: an upload window and its record headers.
pub const BUFFER_BYTES_MAX: usize = 9 * MIB;

/// The budget is spent, and was for as long as a request may wait.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the memory for bodies is spent")]
pub struct Spent;

/// Hands out buffers; a cheap handle to the one pool.
#[derive(Clone)]
pub struct BufferPool(Arc<Shared>);

struct Shared {
    budget_bytes: usize,
    /// How long a buffer is waited for.
    wait: Duration,
    /// One permit a page that buffers in use may take.
    pages: Arc<Semaphore>,
    blocks: Mutex<Blocks>,
}

struct Blocks {
    free: [Vec<Block>; CLASSES.len()],
    /// Bytes of all blocks, in use and free. Never above the budget.
    allocated_bytes: usize,
}

impl BufferPool {
    /// A pool of at most `budget_bytes`, and never less than two of the largest buffers.
    pub fn new(budget_bytes: usize) -> Self {
        Self::with_wait(budget_bytes, BUFFER_WAIT)
    }

    /// As `new`, with a wait of the caller's.
    pub fn with_wait(budget_bytes: usize, wait: Duration) -> Self {
        let budget_bytes = budget_bytes.max(2 * BUFFER_BYTES_MAX);
        Self(Arc::new(Shared {
            budget_bytes,
            wait,
            pages: Arc::new(Semaphore::new(budget_bytes / ALIGNMENT)),
            blocks: Mutex::new(Blocks {
                free: [const { Vec::new() }; CLASSES.len()],
                allocated_bytes: 0,
            }),
        }))
    }

    pub fn budget_bytes(&self) -> usize {
        self.0.budget_bytes
    }

    /// Bytes that no buffer in use holds.
    pub fn available_bytes(&self) -> usize {
        self.0.pages.available_permits() * ALIGNMENT
    }

    /// An empty buffer with room for `bytes` (at most [`BUFFER_BYTES_MAX`]; more is cut to that). Waits for its turn
    /// while the budget is spent, but not for ever: those who hold it may be waiting for slow clients.
    pub async fn take(&self, bytes: usize) -> Result<PooledBuf, Spent> {
        let class = class_of(bytes);
        let permit = self.permit(pages_of(class)).await?;
        Ok(self.buffer(class, permit))
    }

    /// Two buffers in one step, so that nobody waits for the second while holding the first.
    pub async fn take_two(&self, first: usize, second: usize) -> Result<(PooledBuf, PooledBuf), Spent> {
        let (first, second) = (class_of(first), class_of(second));
        let mut permit = self.permit(pages_of(first) + pages_of(second)).await?;
        // The permit covers both.
        #[allow(clippy::expect_used)]
        let half = permit.split(pages_of(second)).expect("a permit of both buffers");
        Ok((self.buffer(first, permit), self.buffer(second, half)))
    }

    /// As `take`, at once, and only if it leaves one part in `share` of the budget to others.
    pub fn try_take_leaving(&self, bytes: usize, share: usize) -> Option<PooledBuf> {
        let class = class_of(bytes);
        // A race may leave a little less.
        if self.available_bytes() < class_bytes(class) + self.0.budget_bytes / share {
            return None;
        }
        let pages = u32::try_from(pages_of(class)).ok()?;
        let permit = Arc::clone(&self.0.pages).try_acquire_many_owned(pages).ok()?;
        Some(self.buffer(class, permit))
    }

    async fn permit(&self, pages: usize) -> Result<OwnedSemaphorePermit, Spent> {
        let pages = u32::try_from(pages).map_err(|_| Spent)?;
        if let Ok(permit) = Arc::clone(&self.0.pages).try_acquire_many_owned(pages) {
            return Ok(permit);
        }
        let waiting = Arc::clone(&self.0.pages).acquire_many_owned(pages);
        let waited = tokio::time::timeout(self.0.wait, waiting).await;
        waited.ok().and_then(Result::ok).ok_or(Spent)
    }

    fn buffer(&self, class: usize, permit: OwnedSemaphorePermit) -> PooledBuf {
        let block = self.0.block(class);
        PooledBuf {
            length: 0,
            lease: Lease {
                class,
                block: Some(block),
                shared: Arc::clone(&self.0),
                _permit: permit,
            },
        }
    }
}

impl Shared {
    fn block(&self, class: usize) -> Block {
        let bytes = class_bytes(class);
        let mut evicted = Vec::new();
        {
            let mut blocks = self.blocks.lock();
            if let Some(block) = blocks.free.get_mut(class).and_then(Vec::pop) {
                return block;
            }
            blocks.allocated_bytes += bytes;
            // The permits of buffers in use stay within the budget, so free blocks of other classes are what is over.
            while blocks.allocated_bytes > self.budget_bytes
                && let Some(block) = blocks.free.iter_mut().rev().find_map(Vec::pop)
            {
                blocks.allocated_bytes -= block.capacity();
                evicted.push(block);
            }
        }
        drop(evicted);
        Block::new(bytes)
    }
}

fn class_of(bytes: usize) -> usize {
    CLASSES
        .iter()
        .position(|class| *class >= bytes)
        .unwrap_or(CLASSES.len() - 1)
}

fn class_bytes(class: usize) -> usize {
    CLASSES.get(class).copied().unwrap_or(BUFFER_BYTES_MAX)
}

fn pages_of(class: usize) -> usize {
    class_bytes(class) / ALIGNMENT
}

/// A block that returns to its pool; the permit goes after it.
struct Lease {
    class: usize,
    block: Option<Block>,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    fn slice(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], Block::as_slice)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(block) = self.block.take()
            && let Some(free) = self.shared.blocks.lock().free.get_mut(self.class)
        {
            free.push(block);
        }
    }
}

/// A page-aligned buffer of the pool. It never grows past its capacity; its contents are what was written into it.
pub struct PooledBuf {
    length: usize,
    lease: Lease,
}

impl PooledBuf {
    pub fn capacity(&self) -> usize {
        class_bytes(self.lease.class)
    }

    pub fn remaining_capacity(&self) -> usize {
        self.capacity() - self.length
    }

    /// Appends as much of `bytes` as there is room for and returns how much that was.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.remaining_capacity());
        let start = self.length;
        self.set_filled(start + count);
        if let (Some(room), Some(taken)) = (self.get_mut(start..), bytes.get(..count)) {
            room.copy_from_slice(taken);
        }
        count
    }

    /// Says that the first `length` bytes (at most the capacity) are the contents. Bytes that were never written are
    /// left from an earlier use: the caller overwrites them before anyone else sees them.
    pub fn set_filled(&mut self, length: usize) {
        self.length = length.min(self.capacity());
    }

    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Makes the contents shared and read-only; the block returns to the pool with the last clone or slice.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for PooledBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.lease.slice().get(..self.length).unwrap_or(&[])
    }
}

impl DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        self.lease
            .block
            .as_mut()
            .and_then(|block| block.as_mut_slice().get_mut(..length))
            .unwrap_or(&mut [])
    }
}

impl fmt::Debug for PooledBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PooledBuf({} of {} bytes)", self.length, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn buffers_are_aligned_reused_and_bounded() {
        let pool = BufferPool::new(0);
        let mut first = pool.take(100).await.unwrap();
        assert_eq!(first.as_ptr() as usize % ALIGNMENT, 0);
        assert_eq!(first.extend_from_slice(&vec![7; 70 * KIB]), 64 * KIB);
        let address = first.as_ptr();
        let shared = first.freeze();
        let slice = shared.slice(5..10);
        drop(shared);
        assert_eq!(slice.as_ref(), [7; 5]);
        drop(slice);
        let again = pool.take(64 * KIB).await.unwrap();
        assert!(again.is_empty());
        assert_eq!(again.lease.slice().as_ptr(), address);
        drop(again);
        assert_eq!(pool.available_bytes(), pool.budget_bytes());
    }

    #[tokio::test]
    async fn the_budget_holds_over_all_classes() {
        let pool = BufferPool::new(0);
        for bytes in [1, 200 * KIB, MIB, 4 * MIB, BUFFER_BYTES_MAX, 3 * MIB, 1] {
            let mut held = Vec::new();
            while let Some(buffer) = pool.try_take_leaving(bytes, usize::MAX) {
                held.push(buffer);
            }
            assert!(!held.is_empty());
            assert!(pool.0.blocks.lock().allocated_bytes <= pool.budget_bytes());
        }
        let (first, second) = pool.take_two(BUFFER_BYTES_MAX, BUFFER_BYTES_MAX).await.unwrap();
        assert!(pool.try_take_leaving(1, usize::MAX).is_none());
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.take(10).await.unwrap().capacity() }
        });
        drop(first);
        assert_eq!(waiting.await.unwrap(), 64 * KIB);
        drop(second);
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_and_a_share_is_left() {
        let pool = BufferPool::with_wait(0, Duration::from_millis(20));
        let held = pool.try_take_leaving(BUFFER_BYTES_MAX, 4).unwrap();
        assert!(pool.try_take_leaving(5 * MIB, 4).is_none());
        let rest = pool.take(BUFFER_BYTES_MAX).await.unwrap();
        assert!(pool.take(1).await.is_err());
        drop((held, rest));
        assert!(pool.take(1).await.is_ok());
    }
}
