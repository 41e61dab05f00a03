//! Read, decide, commit; again when somebody was faster.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};

use super::{CommitError, Kv, Mutation, ReadError, Row, Scan, Value};
use crate::ids::Sequence;
use crate::limits::TRANSACTION_TRIES_MAX;

/// Tries that follow at once; later ones back off.
const EAGER_TRIES: u32 = 3;
const BACKOFF_MAX: Duration = Duration::from_millis(50);
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

/// One try: what it read is guarded, what it changes is in `mutation`.
pub struct Transaction {
    kv: Arc<dyn Kv>,
    pub mutation: Mutation,
}

impl Transaction {
    /// Reads a row; the commit fails if it changes meanwhile.
    pub async fn get(&mut self, key: &Bytes) -> Result<Option<Value>, ReadError> {
        let value = self.kv.get(key).await?;
        self.mutation
            .unchanged(key.clone(), value.as_ref().map(|value| value.version));
        Ok(value)
    }

    /// Reads a row without a guard.
    pub async fn peek(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        self.kv.get(key).await
    }

    /// Reads rows; the commit fails if one of them changes meanwhile. Rows that others insert are not noticed.
    pub async fn scan(&mut self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        let rows = self.kv.scan(scan).await?;
        for row in &rows {
            self.mutation.unchanged(row.key.clone(), Some(row.value.version));
        }
        Ok(rows)
    }
}

/// What a transaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done<T> {
    pub value: T,
    /// `None`: it changed nothing, so nothing was committed and its reads were not checked against each other.
    pub sequence: Option<Sequence>,
}

#[derive(Debug, thiserror::Error)]
pub enum TransactError<E> {
    /// The closure's own error; nothing was committed.
    #[error("{0}")]
    Body(E),
    /// Every try met a conflict. Nothing was applied.
    #[error("others kept changing the same rows")]
    Contended,
    /// Never a conflict. Only [`CommitError::Unknown`] may have been applied, and it is never tried again.
    #[error(transparent)]
    Commit(CommitError),
}

/// Runs `body` and commits what it put into its transaction, again from the start after a conflict. `key` is the row
/// that concurrent callers are most likely to fight for. The transaction is passed in and given back by value, because
/// the future of an async closure that borrows it is not known to be `Send`.
pub async fn transact<T, E, F, R>(
    kv: &Arc<dyn Kv>,
    locks: &KeyLocks,
    key: &[u8],
    mut body: F,
) -> Result<Done<T>, TransactError<E>>
where
    F: FnMut(Transaction) -> R,
    R: Future<Output = Result<(Transaction, T), E>>,
{
    let _lock = locks.lock(key).await;
    for attempt in 0..TRANSACTION_TRIES_MAX {
        let fresh = Transaction {
            kv: Arc::clone(kv),
            mutation: Mutation::new(),
        };
        let (transaction, value) = body(fresh).await.map_err(TransactError::Body)?;
        if transaction.mutation.effects.is_empty() {
            return Ok(Done { value, sequence: None });
        }
        match kv.commit(transaction.mutation).await {
            Ok(sequence) => {
                return Ok(Done {
                    value,
                    sequence: Some(sequence),
                });
            }
            Err(CommitError::Conflict { .. }) => back_off(attempt).await,
            Err(error) => return Err(TransactError::Commit(error)),
        }
    }
    Err(TransactError::Contended)
}

/// Waits a random time that doubles with each try, so that rivals part.
async fn back_off(attempt: u32) {
    let Some(late) = attempt.checked_sub(EAGER_TRIES) else {
        return;
    };
    let longest = Duration::from_millis(1 << late.min(6)).min(BACKOFF_MAX);
    // Without entropy all wait the longest.
    let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    tokio::time::sleep(longest.mul_f64(share)).await;
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryKv;
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rivals_all_get_through() {
        let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
        let key = Bytes::from_static(&[0x7F, 1]);
        // Two sets of locks, as two gateways have them.
        let locks = [Arc::new(KeyLocks::new()), Arc::new(KeyLocks::new())];
        let mut tasks = Vec::new();
        for task in 0..16 {
            let (kv, locks, key) = (Arc::clone(&kv), Arc::clone(&locks[task % 2]), key.clone());
            tasks.push(tokio::spawn(async move {
                for _ in 0..20 {
                    let key = &key;
                    let body = |mut tx: Transaction| async move {
                        let length = tx.get(key).await?.map_or(0, |value| value.bytes.len());
                        tokio::task::yield_now().await;
                        tx.mutation.put(key.clone(), vec![0; length + 1]);
                        Ok::<_, ReadError>((tx, length))
                    };
                    transact(&kv, &locks, key, body).await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(kv.get(&key).await.unwrap().unwrap().bytes.len(), 320);
    }
}
