//! The blobs of a backup, as one generation of it sees them: calls that hang or fail are made again, and what is read is
//! held against the hash in its name.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::metrics::BackupMetrics;
use super::names::Digest;
use crate::blob::{Blob, BlobError, Blobs, LIST_PAGE_MAX};

/// A page of a listing may be made of a thousand folders, each with a time limit of its own.
const LISTING: Duration = Duration::from_secs(600);
/// A blob whose name does not tell its length is no longer than this.
const BLOB_BYTES_MAX: u64 = 64 << 20;
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
    /// Whether the place answered and has not what was asked for, or not as it was.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Blob { error, .. } => matches!(error, BlobError::NotFound | BlobError::Short),
            Self::Damaged(_) => true,
        }
    }
}

/// How often a call is made that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until it succeeds: who ships drops the call when it gives up.
    Endless,
    /// For so long, or until it makes no sense.
    For(Duration),
}

/// How long one call may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Without its bytes.
    pub attempt: Duration,
    /// The rate at which these are on their way at the least.
    pub bytes_per_sec_min: u64,
}

impl Default for Pace {
    /// Four calls at once go through a line of 1 Mbit/s.
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(30),
            bytes_per_sec_min: 32 << 10,
        }
    }
}

impl Pace {
    fn of(self, bytes: u64) -> Duration {
        self.attempt + Duration::from_millis(bytes.saturating_mul(1000) / self.bytes_per_sec_min.max(1))
    }
}

#[derive(Clone)]
pub struct Vault {
    blobs: Arc<dyn Blobs>,
    /// Empty, or ends with a slash.
    root: String,
    patience: Patience,
    pace: Pace,
    metrics: Option<BackupMetrics>,
    /// What the last call that failed said; `None` after one that did not.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Vault {
    pub fn new(blobs: Arc<dyn Blobs>, patience: Patience, pace: Pace, metrics: Option<BackupMetrics>) -> Self {
        Self {
            blobs,
            root: String::new(),
            patience,
            pace,
            metrics,
            trouble: Arc::default(),
        }
    }

    /// The same below another folder.
    pub fn below(&self, root: String) -> Self {
        Self { root, ..self.clone() }
    }

    /// The same with another patience.
    pub fn patient(&self, patience: Patience) -> Self {
        Self {
            patience,
            ..self.clone()
        }
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    /// Makes a call until it succeeds, or patience ends, or it makes no sense to make it again.
    async fn insist<T, F>(&self, name: &str, limit: Duration, mut call: impl FnMut() -> F) -> Result<T, VaultError>
    where
        F: Future<Output = Result<T, BlobError>>,
    {
        let mut pause = PAUSE_MIN;
        let began = Instant::now();
        loop {
            let answer = tokio::time::timeout(limit, call()).await;
            let error =
                match answer.unwrap_or_else(|_| Err(BlobError::Unavailable("no answer came in time".to_owned()))) {
                    Ok(found) => {
                        *self.trouble.lock() = None;
                        return Ok(found);
                    }
                    Err(error) => error,
                };
            let told = VaultError::Blob {
                name: name.to_owned(),
                error: error.clone(),
            };
            let is_over = matches!(self.patience, Patience::For(max) if began.elapsed() >= max || matches!(error, BlobError::Refused(_)));
            if matches!(error, BlobError::NotFound | BlobError::Short) || is_over {
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
        let written = self.insist(&told, self.pace.of(length), || {
            let (name, bytes) = (name(salt()), bytes.clone());
            async move {
                match self.blobs.put(&self.full(&name), bytes).await {
                    // A blob that is written cannot be sought: the place is missing, and may come back.
                    Err(BlobError::NotFound) => Err(BlobError::Unavailable("there is no such place".to_owned())),
                    done => done.map(|()| name),
                }
            }
        });
        let written = written.await?;
        if let Some(metrics) = &self.metrics {
            metrics.shipped_bytes.inc_by(length);
        }
        Ok(written)
    }

    /// The bytes of a blob, which are those of its digest. `bytes`: how many, if they are known.
    pub async fn get(&self, name: &str, digest: Digest, bytes: Option<u64>) -> Result<Bytes, VaultError> {
        let bytes = match bytes {
            Some(bytes) => self.range(name, 0..bytes).await?,
            None => self.raw(name).await?,
        };
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
        let limit = self.pace.of(range.end.saturating_sub(range.start));
        let call = || async { self.blobs.get(&self.full(name), Some(range.clone())).await };
        self.insist(name, limit, call).await
    }

    /// All bytes of a blob, as they are there.
    pub async fn raw(&self, name: &str) -> Result<Bytes, VaultError> {
        let size = || async { self.blobs.size(&self.full(name)).await };
        match self.insist(name, self.pace.of(0), size).await? {
            0 => Ok(Bytes::new()),
            bytes if bytes > BLOB_BYTES_MAX => Err(VaultError::Damaged(name.to_owned())),
            bytes => self.range(name, 0..bytes).await,
        }
    }

    pub async fn delete(&self, name: &str) -> Result<(), VaultError> {
        let delete = || async { self.blobs.delete(&self.full(name)).await };
        self.insist(name, self.pace.of(0), delete).await
    }

    /// One page of a folder's blobs, their names relative to the root, and whether there may be more.
    pub async fn page(&self, folder: &str, after: Option<&str>) -> Result<(Vec<Blob>, bool), VaultError> {
        let after = after.map(|after| self.full(after));
        let listed = self.insist(folder, LISTING, || async {
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

    /// The first folder in `folder` that has a blob behind `after`.
    pub async fn folder_after(&self, folder: &str, after: Option<&str>) -> Result<Option<String>, VaultError> {
        let (blobs, _) = self.page(folder, after).await?;
        let inner = blobs
            .first()
            .and_then(|blob| blob.name.strip_prefix(folder)?.split_once('/'));
        Ok(inner.map(|(inner, _)| inner.to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::fault::{BlobFault, Call, FaultBlobs};
    use crate::blob::memory::MemoryBlobs;

    fn vault(blobs: &Arc<FaultBlobs<MemoryBlobs>>, patience: Patience) -> Vault {
        let pace = Pace {
            attempt: Duration::from_millis(50),
            bytes_per_sec_min: 10_000,
        };
        Vault::new(Arc::clone(blobs) as Arc<dyn Blobs>, patience, pace, None)
    }

    /// A line that takes its time is not begun anew over and over.
    #[tokio::test]
    async fn large_calls_have_more_time() {
        let blobs = Arc::new(FaultBlobs::new(MemoryBlobs::new()));
        let slow = BlobFault::Delay(Duration::from_millis(300));
        blobs.script(Call::Put, [slow, slow]);
        blobs.script(Call::Get, [slow, slow]);
        // One call that takes too long is one too many.
        let vault = vault(&blobs, Patience::For(Duration::ZERO));
        let name = |kind: &'static str| move |salt: u32| format!("{kind}/{salt}");
        let large = vault.put(name("large"), vec![7; 100_000].into()).await.unwrap();
        assert!(vault.put(name("small"), vec![7; 10].into()).await.is_err());
        assert_eq!(vault.range(&large, 0..100_000).await.unwrap().len(), 100_000);
        assert!(vault.range(&large, 0..10).await.is_err());
    }

    #[tokio::test]
    async fn a_reader_gives_up_in_time_and_a_damaged_length_is_told() {
        let blobs = Arc::new(FaultBlobs::new(MemoryBlobs::new()));
        let vault = vault(&blobs, Patience::For(Duration::from_millis(300)));
        let digest = Digest::of(b"bytes");
        blobs.put("short", Bytes::from_static(b"byt")).await.unwrap();
        let short = vault.get("short", digest, Some(5)).await.unwrap_err();
        let other = vault.get("short", digest, None).await.unwrap_err();
        assert!(short.is_lost() && other.is_lost(), "{short} {other}");
        blobs.set_down(true);
        let down = vault.get("short", digest, None).await.unwrap_err();
        assert!(!down.is_lost(), "{down}");
    }
}
