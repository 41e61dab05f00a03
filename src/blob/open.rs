//! From a location to the blobs there.

use std::sync::Arc;

use super::directory::DirectoryBlobs;
use super::remote::{RemoteBlobs, RemoteError};
use super::store::Blobs;
use crate::config::{BlobLocation, Place};

#[derive(Debug, thiserror::Error)]
#[error("{url}: {error}")]
pub struct OpenError {
    url: String,
    error: RemoteError,
}

/// The blobs of a location. Asks nothing of it: what is wrong with it shows at the calls. A directory must be there.
pub fn open(location: &BlobLocation) -> Result<Arc<dyn Blobs>, OpenError> {
    opened(location, false)
}

/// As [`open`], but a directory is made by the first put.
pub fn open_or_make(location: &BlobLocation) -> Result<Arc<dyn Blobs>, OpenError> {
    opened(location, true)
}

fn opened(location: &BlobLocation, may_make: bool) -> Result<Arc<dyn Blobs>, OpenError> {
    match &location.place {
        Place::Directory(path) => Ok(Arc::new(DirectoryBlobs::new(path, may_make))),
        Place::S3 { .. } | Place::Webdav { .. } => {
            let blobs = RemoteBlobs::open(location).map_err(|error| OpenError {
                url: location.to_string(),
                error,
            })?;
            Ok(Arc::new(blobs))
        }
    }
}
