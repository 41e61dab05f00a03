//! From a location to the blobs there.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::directory::DirectoryBlobs;
use super::remote::{RemoteBlobs, RemoteError};
use super::store::Blobs;
use crate::config::{BlobLocation, Place};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("file://{path}: {error}")]
    Directory { path: PathBuf, error: io::Error },
    #[error("{url}: {error}")]
    Remote { url: String, error: RemoteError },
}

/// The blobs of a location. Blocks for a directory, which is made if it is not there. Asks nothing of a server: what is
/// wrong with one shows at the first call.
pub fn open(location: &BlobLocation) -> Result<Arc<dyn Blobs>, OpenError> {
    match &location.place {
        Place::Directory(path) => {
            let blobs = DirectoryBlobs::open(path).map_err(|error| OpenError::Directory {
                path: path.clone(),
                error,
            })?;
            Ok(Arc::new(blobs))
        }
        Place::S3 { .. } | Place::Webdav { .. } => {
            let blobs = RemoteBlobs::open(location).map_err(|error| OpenError::Remote {
                url: location.to_string(),
                error,
            })?;
            Ok(Arc::new(blobs))
        }
    }
}
