//! Blobs as files below a directory: on another disk, or on a share that is mounted.
//!
//! A blob is written to a temporary file, synced, renamed and its directory synced: a name is there with all its bytes or
//! not at all. The temporary files are in `.part`, each locked by its writer; one without a lock is what a killed process
//! left, and the next one that opens the directory removes it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::local::{create_dir_synced, remove_file, sync_dir};
use super::store::{Blob, BlobError, Blobs, checked, checked_folder, page};

const PARTIAL: &str = ".part";

#[derive(Debug)]
pub struct DirectoryBlobs {
    root: Arc<Path>,
}

impl DirectoryBlobs {
    /// Opens the directory, which is made if it is not there; its parent must be. Blocks.
    pub fn open(root: &Path) -> io::Result<Self> {
        create_dir_synced(root)?;
        let partial = root.join(PARTIAL);
        create_dir_synced(&partial)?;
        for entry in fs::read_dir(partial)? {
            remove_leftover(&entry?.path())?;
        }
        Ok(Self { root: Arc::from(root) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BlobError> {
        let root = Arc::clone(&self.root);
        let call = move || call(&root).map_err(|error| told(&root, &error));
        let done = tokio::task::spawn_blocking(call).await;
        done.unwrap_or_else(|error| Err(BlobError::Unavailable(error.to_string())))
    }
}

fn told(root: &Path, error: &io::Error) -> BlobError {
    match error.kind() {
        // A share that is not mounted any more says nothing about the blobs on it.
        io::ErrorKind::NotFound if !root.join(PARTIAL).is_dir() => {
            BlobError::Unavailable(format!("{} is gone; is it mounted?", root.display()))
        }
        io::ErrorKind::NotFound => BlobError::NotFound,
        io::ErrorKind::UnexpectedEof => BlobError::Short,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => BlobError::Refused(error.to_string()),
        _ => BlobError::Unavailable(error.to_string()),
    }
}

fn remove_leftover(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    match file.try_lock() {
        Ok(()) => remove_file(path),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn write(root: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let partial = root.join(PARTIAL).join(hex::encode(random));
    let written = File::create_new(&partial).and_then(|mut file| {
        // Where locks are unknown, a killed writer's file stays: it takes room and does no harm.
        drop(file.try_lock());
        file.write_all(bytes)?;
        file.sync_data()?;
        let (path, folder) = placed(root, name)?;
        fs::rename(&partial, path)?;
        sync_dir(&folder)
    });
    written.inspect_err(|_| drop(remove_file(&partial)))
}

/// Where a blob's file is, and its folder, which is made with those above it.
fn placed(root: &Path, name: &str) -> io::Result<(PathBuf, PathBuf)> {
    let mut folder = root.to_path_buf();
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
    for part in folders.split('/').filter(|part| !part.is_empty()) {
        folder.push(part);
        create_dir_synced(&folder)?;
    }
    Ok((folder.join(file), folder))
}

fn read(path: &Path, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let range = range.unwrap_or(0..length);
    if range.end > length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let bytes = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut into = vec![0; bytes];
    file.read_exact_at(&mut into, range.start)?;
    Ok(into)
}

/// All blobs of a folder and of the folders in it.
fn walk(root: &Path, prefix: &str) -> io::Result<Vec<Blob>> {
    fs::metadata(root.join(PARTIAL))?;
    let mut found = Vec::new();
    let mut waiting = vec![prefix.to_owned()];
    while let Some(folder) = waiting.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            if entry.file_type()?.is_dir() {
                waiting.push(format!("{folder}{name}/"));
                continue;
            }
            match entry.metadata() {
                // Deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                metadata => found.push(Blob {
                    name: format!("{folder}{name}"),
                    bytes: metadata?.len(),
                }),
            }
        }
    }
    Ok(found)
}

#[async_trait]
impl Blobs for DirectoryBlobs {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BlobError> {
        let name = checked(name)?.to_owned();
        self.blocking(move |root| write(root, &name, &bytes)).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        let name = checked(name)?.to_owned();
        let read = move |root: &Path| read(&root.join(name), range);
        self.blocking(read).await.map(Bytes::from)
    }

    async fn size(&self, name: &str) -> Result<u64, BlobError> {
        let name = checked(name)?.to_owned();
        self.blocking(move |root| Ok(fs::metadata(root.join(name))?.len()))
            .await
    }

    async fn delete(&self, name: &str) -> Result<(), BlobError> {
        let name = checked(name)?.to_owned();
        self.blocking(move |root| {
            let path = root.join(name);
            remove_file(&path)?;
            path.parent()
                .map_or(Ok(()), sync_dir)
                .or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Blob>, BlobError> {
        let prefix = checked_folder(prefix)?.to_owned();
        let found = self.blocking(move |root| walk(root, &prefix)).await?;
        Ok(page(found, after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_behaves() {
        let dir = tempfile::tempdir().unwrap();
        crate::blob::suite::run(&DirectoryBlobs::open(dir.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(dir.path()).unwrap();
        blobs.put("a/b", Bytes::from_static(b"kept")).await.unwrap();
        let partial = |name: &str| dir.path().join(PARTIAL).join(name);
        fs::write(partial("left"), b"half").unwrap();
        let living = File::create_new(partial("living")).unwrap();
        living.try_lock().unwrap();
        let again = DirectoryBlobs::open(dir.path()).unwrap();
        assert!(!partial("left").exists() && partial("living").exists());
        assert_eq!(again.list("", None).await.unwrap().len(), 1);
        assert_eq!(again.get("a/b", None).await.unwrap(), "kept");
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_no_absent_blob() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(&dir.path().join("share")).unwrap();
        fs::remove_dir_all(dir.path().join("share")).unwrap();
        for answer in [
            blobs.put("a", Bytes::from_static(b"x")).await,
            blobs.get("a", None).await.map(drop),
            blobs.size("a").await.map(drop),
            blobs.list("", None).await.map(drop),
        ] {
            assert!(matches!(answer, Err(BlobError::Unavailable(_))), "{answer:?}");
        }
    }
}
