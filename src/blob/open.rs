//! From a location to the blobs there.

use std::io;
use std::sync::Arc;

use super::directory::DirectoryBlobs;
use super::remote::{RemoteBlobs, RemoteError};
use super::store::Blobs;
use crate::config::{BlobLocation, Place};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{location}: {error}")]
    Directory { location: BlobLocation, error: io::Error },
    #[error("{location}: {error}")]
    Remote { location: BlobLocation, error: RemoteError },
}

/// The blobs of a location. Blocks for a directory, which is made if it is not there. Asks nothing of a server: what is
/// wrong with one shows at the first call.
pub fn open(location: &BlobLocation) -> Result<Arc<dyn Blobs>, OpenError> {
    match &location.place {
        Place::Directory(path) => {
            let blobs = DirectoryBlobs::open(path).map_err(|error| OpenError::Directory {
                location: location.clone(),
                error,
            })?;
            Ok(Arc::new(blobs))
        }
        Place::S3 { .. } | Place::Webdav { .. } => {
            let blobs = RemoteBlobs::open(location).map_err(|error| OpenError::Remote {
                location: location.clone(),
                error,
            })?;
            Ok(Arc::new(blobs))
        }
    }
}
