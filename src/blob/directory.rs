//! Blobs as files below a directory: on another disk, or on a share that is mounted.
//!
//! A blob is written to a temporary file, synced, renamed and its directory synced: a name is there with all its bytes or
//! not at all. The temporary files are in `.part`, each locked by its writer; one without a lock is what a killed process
//! left, and the next one that writes removes it. `.part` also tells that the directory is the one that was used before:
//! a mount point without its mount has none. Files and folders are for their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::listing::{self, Entry};
use super::local::{remove_file, sync_dir};
use super::store::{Blob, BlobError, Blobs, WHOLE_BYTES_MAX, checked, checked_folder};

const PARTIAL: &str = ".part";
/// Calls that may wait for the disk at once. A share that hangs keeps their threads, and no more than these, for as long.
const CALLS_MAX: usize = 4;
/// Times that a blob is placed: its folder may be removed as an empty one meanwhile.
const PLACINGS: usize = 4;

#[derive(Debug)]
struct Place {
    root: PathBuf,
    /// Whether the directory is made where there is none: until it is there. Until then there are no blobs.
    may_make: AtomicBool,
    /// What killed processes left has been removed.
    is_clean: AtomicBool,
}

#[derive(Debug)]
pub struct DirectoryBlobs {
    place: Arc<Place>,
    calls: Arc<Semaphore>,
}

impl DirectoryBlobs {
    /// Touches nothing: a directory that is not there shows at the calls. The first put makes it, below a parent that
    /// must be there, if `may_make`.
    pub fn new(root: &Path, may_make: bool) -> Self {
        let place = Place {
            root: root.to_path_buf(),
            may_make: AtomicBool::new(may_make),
            is_clean: AtomicBool::new(false),
        };
        Self {
            place: Arc::new(place),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Place) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BlobError> {
        let gone = |error: &dyn std::fmt::Display| BlobError::Unavailable(error.to_string());
        let permit = Arc::clone(&self.calls).acquire_owned().await;
        let permit = permit.map_err(|error| gone(&error))?;
        let place = Arc::clone(&self.place);
        let call = move || {
            // Given back when the thread is, not when the caller stops waiting.
            let _permit = permit;
            call(&place).map_err(|error| place.told(&error))
        };
        let done = tokio::task::spawn_blocking(call).await;
        done.unwrap_or_else(|error| Err(gone(&error)))
    }
}

impl Place {
    fn told(&self, error: &io::Error) -> BlobError {
        match error.kind() {
            // A share that is not mounted any more says nothing about the blobs on it.
            io::ErrorKind::NotFound if self.check().is_err() => {
                let root = self.root.display();
                BlobError::Refused(format!(
                    "{root} is not there, or has no folder {PARTIAL}; is it mounted?"
                ))
            }
            io::ErrorKind::NotFound => BlobError::NotFound,
            io::ErrorKind::UnexpectedEof => BlobError::Short,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::FileTooLarge => {
                BlobError::Refused(error.to_string())
            }
            _ => BlobError::Unavailable(error.to_string()),
        }
    }

    fn is_there(&self) -> bool {
        let is_there = self.root.join(PARTIAL).is_dir();
        if is_there {
            self.may_make.store(false, Ordering::Relaxed);
        }
        is_there
    }

    /// As every call begins that would otherwise take a place that is gone for one without the blob.
    fn check(&self) -> io::Result<()> {
        if self.is_there() || self.may_make.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// Before a put.
    fn prepare(&self) -> io::Result<()> {
        if !self.is_there() {
            self.check()?;
            let root = self.root.display();
            let made = create_folder(&self.root).and_then(|()| create_folder(&self.root.join(PARTIAL)));
            made.map_err(|error| io::Error::other(format!("{root} cannot be made: {error}; is it mounted?")))?;
            self.may_make.store(false, Ordering::Relaxed);
        }
        if !self.is_clean.swap(true, Ordering::Relaxed) {
            self.remove_leftovers();
        }
        Ok(())
    }

    /// Removes what killed writers left. What cannot be removed takes room and does no harm.
    fn remove_leftovers(&self) {
        let entries = fs::read_dir(self.root.join(PARTIAL)).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            // Where locks are unknown, who writes it may be alive.
            let is_left = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
            if is_left && let Err(error) = remove_file(&path) {
                tracing::debug!(%error, "what a killed writer left stays");
            }
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.prepare()?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let partial = self.root.join(PARTIAL).join(hex::encode(random));
        let mut create = OpenOptions::new();
        let written = create
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut file| {
                // Where locks are unknown, a killed writer's file stays.
                drop(file.try_lock());
                file.write_all(bytes)?;
                file.sync_data()?;
                self.place(&partial, name)
            });
        written.inspect_err(|_| drop(remove_file(&partial)))
    }

    /// Gives a temporary file its name, durably.
    fn place(&self, partial: &Path, name: &str) -> io::Result<()> {
        let mut placings = 1;
        loop {
            let placed = self.folder_of(name).and_then(|folder| {
                fs::rename(partial, self.root.join(name))?;
                sync_dir(&folder)
            });
            match placed {
                Err(error) if error.kind() == io::ErrorKind::NotFound && placings < PLACINGS => placings += 1,
                placed => return placed,
            }
        }
    }

    /// The folder of a blob, which is made with those above it.
    fn folder_of(&self, name: &str) -> io::Result<PathBuf> {
        let mut folder = self.root.clone();
        let folders = name.rsplit_once('/').map_or("", |(folders, _)| folders);
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            folder.push(part);
            create_folder(&folder)?;
        }
        Ok(folder)
    }

    /// Removes a blob, and the folders that it leaves empty.
    fn remove(&self, name: &str) -> io::Result<()> {
        self.check()?;
        let path = self.root.join(name);
        remove_file(&path)?;
        let mut folder = path.as_path();
        while let Some(above) = folder.parent() {
            folder = above;
            if folder == self.root || fs::remove_dir(folder).is_err() {
                break;
            }
        }
        match sync_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What is in a folder; the lengths of blobs behind `after` only.
    fn entries(&self, folder: &str, after: Option<&str>) -> io::Result<Vec<Entry>> {
        self.check()?;
        let mut found = Vec::new();
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let name = format!("{folder}{name}");
            if entry.file_type()?.is_dir() {
                found.push(Entry {
                    name: name + "/",
                    bytes: 0,
                });
                continue;
            }
            if after.is_some_and(|after| name.as_str() <= after) {
                continue;
            }
            match entry.metadata() {
                // Deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                metadata => found.push(Entry {
                    name,
                    bytes: metadata?.len(),
                }),
            }
        }
        Ok(found)
    }
}

/// Makes a folder for its owner alone, durably, if it is not there.
fn create_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        // One that is there may be unsynced yet.
        _ => path.parent().map_or(Ok(()), sync_dir),
    }
}

fn read(path: &Path, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if range.is_none() && length > WHOLE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let range = range.unwrap_or(0..length);
    if range.end > length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let bytes = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut into = vec![0; bytes];
    file.read_exact_at(&mut into, range.start)?;
    Ok(into)
}

#[async_trait]
impl Blobs for DirectoryBlobs {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BlobError> {
        let name = checked(name)?.to_owned();
        self.blocking(move |place| place.write(&name, &bytes)).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        let name = checked(name)?.to_owned();
        let read = move |place: &Place| read(&place.root.join(name), range);
        self.blocking(read).await.map(Bytes::from)
    }

    async fn size(&self, name: &str) -> Result<u64, BlobError> {
        let name = checked(name)?.to_owned();
        self.blocking(move |place| Ok(fs::metadata(place.root.join(name))?.len()))
            .await
    }

    async fn delete(&self, name: &str) -> Result<(), BlobError> {
        let name = checked(name)?.to_owned();
        self.blocking(move |place| place.remove(&name)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Blob>, BlobError> {
        let prefix = checked_folder(prefix)?;
        let entries = |folder: String| {
            let after = after.map(str::to_owned);
            self.blocking(move |place| place.entries(&folder, after.as_deref()))
        };
        listing::page(prefix, after, entries).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn open(dir: &tempfile::TempDir) -> DirectoryBlobs {
        DirectoryBlobs::new(dir.path(), true)
    }

    #[tokio::test]
    async fn a_directory_behaves() {
        let dir = tempfile::tempdir().unwrap();
        crate::blob::suite::run(&open(&dir)).await;
        // Of all that was there not even the folders are left.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).put("a/b", Bytes::from_static(b"kept")).await.unwrap();
        let partial = |name: &str| dir.path().join(PARTIAL).join(name);
        fs::write(partial("left"), b"half").unwrap();
        let living = File::create_new(partial("living")).unwrap();
        living.try_lock().unwrap();
        let again = open(&dir);
        assert_eq!(again.list("", None).await.unwrap().len(), 1);
        assert!(partial("left").exists(), "who reads changes nothing");
        again.put("a/c", Bytes::from_static(b"new")).await.unwrap();
        assert!(!partial("left").exists() && partial("living").exists());
        assert_eq!(again.list("", None).await.unwrap().len(), 2);
        assert_eq!(again.get("a/b", None).await.unwrap(), "kept");
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_no_absent_blob_and_an_empty_mount_point_is_not_filled() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path().join("share");
        let blobs = DirectoryBlobs::new(&share, false);
        for is_mount_point in [false, true] {
            if is_mount_point {
                fs::create_dir(&share).unwrap();
            }
            for answer in [
                blobs.put("a", Bytes::from_static(b"x")).await,
                blobs.get("a", None).await.map(drop),
                blobs.size("a").await.map(drop),
                blobs.delete("a").await,
                blobs.list("", None).await.map(drop),
            ] {
                assert!(matches!(answer, Err(BlobError::Refused(_))), "{answer:?}");
            }
        }
        assert_eq!(fs::read_dir(&share).unwrap().count(), 0);
        // It is mounted.
        fs::create_dir(share.join(PARTIAL)).unwrap();
        blobs.put("a", Bytes::from_static(b"x")).await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_is_made_once_below_a_parent() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("mount/backup");
        let blobs = DirectoryBlobs::new(&root, true);
        assert_eq!(blobs.list("", None).await, Ok(Vec::new()));
        assert_eq!(blobs.get("a", None).await, Err(BlobError::NotFound));
        let answer = blobs.put("a", Bytes::from_static(b"x")).await;
        assert!(matches!(answer, Err(BlobError::Unavailable(_))), "{answer:?}");
        fs::create_dir(dir.path().join("mount")).unwrap();
        blobs.put("a", Bytes::from_static(b"x")).await.unwrap();
        // It is unmounted.
        fs::remove_dir_all(&root).unwrap();
        fs::create_dir(&root).unwrap();
        let answer = blobs.put("b", Bytes::from_static(b"x")).await;
        assert!(matches!(answer, Err(BlobError::Refused(_))), "{answer:?}");
        let answer = blobs.list("", None).await;
        assert!(matches!(answer, Err(BlobError::Refused(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn only_the_owner_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let blobs = DirectoryBlobs::new(&root, true);
        blobs.put("a/b", Bytes::from_static(b"secret")).await.unwrap();
        for (path, mode) in [("", 0o700), (PARTIAL, 0o700), ("a", 0o700), ("a/b", 0o600)] {
            let found = fs::metadata(root.join(path)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{path}");
        }
    }

    /// Opening a pipe that nobody writes waits for ever, as a share does whose server is gone.
    #[test]
    fn calls_that_never_return_leave_threads_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2 * CALLS_MAX)
            .build()
            .unwrap();
        let others = runtime.block_on(async {
            let blobs = open(&dir);
            for _ in 0..4 * CALLS_MAX {
                let call = tokio::time::timeout(Duration::from_millis(10), blobs.get("pipe", None));
                assert!(call.await.is_err(), "nobody wrote");
            }
            tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(|| 1)).await
        });
        // The threads are let go, each by a writer.
        let is_over = Arc::new(AtomicBool::new(false));
        let writer = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    drop(OpenOptions::new().read(true).write(true).open(&pipe));
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        drop(runtime);
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        assert_eq!(others.expect("a thread was free").unwrap(), 1);
    }
}
