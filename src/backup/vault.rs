//! The blobs of a backup, as one generation of it sees them: calls that hang or fail are made again, and what is read is
//! held against the hash in its name.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::metrics::BackupMetrics;
use super::names::Digest;
use crate::blob::{Blob, BlobError, Blobs, LIST_PAGE_MAX};

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the backup at {name}: {error}")]
    Blob { name: String, error: BlobError },
    #[error("the backup's {0} is damaged: its bytes are not those of its name")]
    Damaged(String),
}

impl VaultError {
    pub fn is_absent(&self) -> bool {
        matches!(
            self,
            Self::Blob {
                error: BlobError::NotFound,
                ..
            }
        )
    }
}

/// How often a call is made that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until it succeeds: who ships drops the call when it gives up.
    Endless,
    Tries(u32),
}

#[derive(Clone)]
pub struct Vault {
    blobs: Arc<dyn Blobs>,
    /// Empty, or ends with a slash.
    root: String,
    patience: Patience,
    attempt: Duration,
    metrics: Option<BackupMetrics>,
    /// What the last call that failed said; `None` after one that did not.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Vault {
    pub fn new(blobs: Arc<dyn Blobs>, patience: Patience, attempt: Duration, metrics: Option<BackupMetrics>) -> Self {
        Self {
            blobs,
            root: String::new(),
            patience,
            attempt,
            metrics,
            trouble: Arc::default(),
        }
    }

    /// The same below another folder.
    pub fn below(&self, root: String) -> Self {
        Self { root, ..self.clone() }
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    /// Makes a call until it succeeds, or patience ends, or it makes no sense to make it again.
    async fn insist<T, F>(&self, name: &str, mut call: impl FnMut() -> F) -> Result<T, VaultError>
    where
        F: Future<Output = Result<T, BlobError>>,
    {
        let mut pause = PAUSE_MIN;
        let mut tries = 0;
        loop {
            let answer = tokio::time::timeout(self.attempt, call()).await;
            let error =
                match answer.unwrap_or_else(|_| Err(BlobError::Unavailable("no answer came in time".to_owned()))) {
                    Ok(found) => {
                        *self.trouble.lock() = None;
                        return Ok(found);
                    }
                    Err(error) => error,
                };
            tries += 1;
            let told = VaultError::Blob {
                name: name.to_owned(),
                error: error.clone(),
            };
            let is_over =
                matches!(self.patience, Patience::Tries(max) if tries >= max || matches!(error, BlobError::Refused(_)));
            if error == BlobError::NotFound || is_over {
                return Err(told);
            }
            if let Some(metrics) = &self.metrics {
                metrics.errors.inc();
            }
            if self.trouble.lock().replace(told.to_string()).is_none() {
                tracing::warn!(error = %told, "the backup does not take what it is given, and is asked again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Writes `bytes` under the name that `name` makes of a salt, each time of another one, and returns the name that is
    /// known to be there.
    pub async fn put(&self, name: impl Fn(u32) -> String, bytes: Bytes) -> Result<String, VaultError> {
        let length = bytes.len() as u64;
        let told = name(0);
        let written = self.insist(&told, || {
            let (name, bytes) = (name(salt()), bytes.clone());
            async move { self.blobs.put(&self.full(&name), bytes).await.map(|()| name) }
        });
        let written = written.await?;
        if let Some(metrics) = &self.metrics {
            metrics.shipped_bytes.inc_by(length);
        }
        Ok(written)
    }

    /// The bytes of a blob, which are those of its digest.
    pub async fn get(&self, name: &str, digest: Digest) -> Result<Bytes, VaultError> {
        let bytes = self
            .insist(name, || async { self.blobs.get(&self.full(name), None).await })
            .await?;
        let hashed = bytes.clone();
        let found = tokio::task::spawn_blocking(move || Digest::of(&hashed)).await;
        if found.is_ok_and(|found| found == digest) {
            Ok(bytes)
        } else {
            Err(VaultError::Damaged(name.to_owned()))
        }
    }

    /// Some of the bytes of a blob, as they are there.
    pub async fn range(&self, name: &str, range: Range<u64>) -> Result<Bytes, VaultError> {
        let call = || async { self.blobs.get(&self.full(name), Some(range.clone())).await };
        self.insist(name, call).await
    }

    pub async fn delete(&self, name: &str) -> Result<(), VaultError> {
        self.insist(name, || async { self.blobs.delete(&self.full(name)).await })
            .await
    }

    /// One page of a folder's blobs, their names relative to the root, and whether there may be more.
    pub async fn page(&self, folder: &str, after: Option<&str>) -> Result<(Vec<Blob>, bool), VaultError> {
        let after = after.map(|after| self.full(after));
        let listed = self.insist(folder, || async {
            self.blobs.list(&self.full(folder), after.as_deref()).await
        });
        let mut blobs = listed.await?;
        let is_more = blobs.len() >= LIST_PAGE_MAX;
        for blob in &mut blobs {
            if let Some(name) = blob.name.strip_prefix(&self.root) {
                blob.name = name.to_owned();
            }
        }
        Ok((blobs, is_more))
    }

    /// What `parse` makes of all the names in a folder, in their order; names that it does not know are passed over.
    pub async fn all<T>(&self, folder: &str, mut parse: impl FnMut(&Blob) -> Option<T>) -> Result<Vec<T>, VaultError> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let (blobs, is_more) = self.page(folder, after.as_deref()).await?;
            found.extend(blobs.iter().filter_map(&mut parse));
            match blobs.last() {
                Some(last) if is_more => after = Some(last.name.clone()),
                _ => return Ok(found),
            }
        }
    }
}

/// Four random bytes; without entropy the time does, since a name has its bytes' hash too.
fn salt() -> u32 {
    getrandom::u32().unwrap_or_default()
}
