//! The trait that every place for blobs has.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

/// Blobs of one page of a listing.
pub const LIST_PAGE_MAX: usize = 1000;
/// What is got whole is no longer than this.
pub(super) const WHOLE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 512;

/// A blob of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub name: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    #[error("there is no such blob")]
    NotFound,
    #[error("the blob ends before the range that was asked for")]
    Short,
    /// Worth a retry.
    #[error("the blob store cannot be reached: {0}")]
    Unavailable(String),
    /// The configuration, the credentials or the request itself: a retry ends the same.
    #[error("the blob store refuses: {0}")]
    Refused(String),
}

/// Named immutable byte objects: a name is written once, never changed. What a name may be tells [`is_name`].
///
/// A future that is dropped leaves its call undone or done.
#[async_trait]
pub trait Blobs: Send + Sync + fmt::Debug {
    /// Durable, whole and to be found when it returns; not tried again. After an error the name may or may not exist, now
    /// or later, even in part: the caller uses another name.
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BlobError>;

    /// All of a blob, if it has at most 64 MiB, or a range that is not empty: all of it or `Short`.
    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BlobError>;

    async fn size(&self, name: &str) -> Result<u64, BlobError>;

    /// An absent one is deleted already.
    async fn delete(&self, name: &str) -> Result<(), BlobError>;

    /// The first [`LIST_PAGE_MAX`] blobs of the folder `prefix` (which is empty or ends with `/`) and of the folders in it,
    /// in the order of their names, from the one behind `after` on. Fewer: there are no more.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Blob>, BlobError>;
}

/// Whether a blob may have this name: at most 512 bytes of lower-case letters, digits, `-`, `_` and `.` in parts between
/// slashes, none of which is empty or begins with a dot. What begins with a dot is the store's own.
pub fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_plain);
    name.len() <= NAME_BYTES_MAX && name.split('/').all(is_part)
}

/// As every store begins a call: an odd name is a fault of the caller's.
pub(super) fn checked(name: &str) -> Result<&str, BlobError> {
    if is_name(name) {
        Ok(name)
    } else {
        Err(BlobError::Refused(format!("{name:?} is no name for a blob")))
    }
}

/// As [`checked`], of a folder.
pub(super) fn checked_folder(prefix: &str) -> Result<&str, BlobError> {
    match prefix.strip_suffix('/') {
        None if prefix.is_empty() => Ok(prefix),
        Some(name) if is_name(name) => Ok(prefix),
        _ => Err(BlobError::Refused(format!("{prefix:?} is no folder of blobs"))),
    }
}
