//! Queues for keys that many write at once, so that optimistic commits end.
//!
//! A writer commits without a lock first. Only after a conflict it takes its key's stripe; whoever comes while a stripe
//! is taken queues behind it. So the holder loses at most to the writers that were already on their way.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

const STRIPES: usize = 256;

pub struct KeyLocks {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl KeyLocks {
    pub fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
        }
    }

    fn stripe(&self, row: &[u8]) -> Option<&Mutex<()>> {
        let at = self.hasher.hash_one(row) % STRIPES as u64;
        self.stripes.get(usize::try_from(at).unwrap_or(0))
    }

    /// Waits if others queue for `row` already.
    pub async fn queue(&self, row: &[u8]) -> Option<MutexGuard<'_, ()>> {
        let stripe = self.stripe(row)?;
        match stripe.try_lock() {
            // Nobody queues: no lock is needed yet.
            Ok(_) => None,
            Err(_) => Some(stripe.lock().await),
        }
    }

    /// After a conflict.
    pub async fn take(&self, row: &[u8]) -> Option<MutexGuard<'_, ()>> {
        Some(self.stripe(row)?.lock().await)
    }
}
