//! Locks on keys, so that writers of one row in this process take turns.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

const STRIPES: usize = 1024;

/// Locks on keys, striped: writers of one key inside this process queue up instead of exhausting their tries. They
/// keep no promise that correctness rests on.
pub struct KeyLocks {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for KeyLocks {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyLocks {
    pub fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
        }
    }

    /// For a caller that tries without a lock first: `None` while nobody holds the stripe of `key`, else queues for
    /// it. So a holder loses at most to the callers that were already on their way.
    pub async fn lock_if_held(&self, key: &[u8]) -> Option<MutexGuard<'_, ()>> {
        let stripe = self.stripes.get(self.hasher.hash_one(key) as usize % STRIPES)?;
        match stripe.try_lock() {
            Ok(_) => None,
            Err(_) => Some(stripe.lock().await),
        }
    }

    /// Waits for the stripe of `key`. Two at once may be one stripe: never hold more than one.
    pub async fn lock(&self, key: &[u8]) -> Option<MutexGuard<'_, ()>> {
        let stripe = self.hasher.hash_one(key) as usize % STRIPES;
        Some(self.stripes.get(stripe)?.lock().await)
    }
}
