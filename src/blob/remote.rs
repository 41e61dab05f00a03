//! Blobs on a server: S3 or WebDAV, through OpenDAL.
//!
//! Every request has a time limit, and none is made twice: the caller knows how long something is worth a try, and takes
//! another name for a put, since what becomes of a failed one nobody knows.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use opendal::services::{S3, Webdav};
use opendal::{ErrorKind, HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use tokio::time::timeout;

use super::listing::{self, Entry};
use super::store::{Blob, BlobError, Blobs, LIST_PAGE_MAX, WHOLE_BYTES_MAX, checked, checked_folder};
use crate::config::{BlobLocation, Place};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a request that moves no bytes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// A request gets the time on top that its bytes take at this rate: four at once go through a line of 1 Mbit/s.
const BYTES_PER_SEC_MIN: u64 = 32 << 10;
/// Below what servers close idle connections after.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("the HTTP client cannot be made: {0}")]
    Client(#[from] reqwest::Error),
    #[error("{0}")]
    Service(Box<opendal::Error>),
    #[error("is no server")]
    NoServer,
}

impl From<opendal::Error> for RemoteError {
    fn from(error: opendal::Error) -> Self {
        Self::Service(Box::new(error))
    }
}

#[derive(Debug)]
pub struct RemoteBlobs {
    operator: Operator,
    /// Whether a listing can begin behind a name.
    lists_after: bool,
}

impl RemoteBlobs {
    pub fn open(location: &BlobLocation) -> Result<Self, RemoteError> {
        let (operator, lists_after) = match &location.place {
            Place::S3 { bucket, prefix } => (Operator::new(s3(location, bucket, prefix))?, true),
            Place::Webdav { server, path } => {
                let mut service = Webdav::default().endpoint(server).root(path);
                if let Some((user, password)) = &location.keys {
                    service = service.username(user).password(password);
                }
                (Operator::new(service)?, false)
            }
            Place::Directory(_) => return Err(RemoteError::NoServer),
        };
        // A client of its own: its connections live on the runtime that uses them.
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let transport = HttpTransporter::new(ReqwestTransport::new(client));
        Ok(Self {
            operator: operator.with_context(OperationContext::new().with_http_transport(transport)),
            lists_after,
        })
    }
}

/// The server is asked to check a CRC of what it gets, since the signature does not cover the body.
fn s3(location: &BlobLocation, bucket: &str, prefix: &str) -> S3 {
    let service = S3::default()
        .bucket(bucket)
        .root(prefix)
        .region(&location.region)
        .checksum_algorithm("crc32c")
        .disable_config_load()
        .disable_ec2_metadata();
    let service = match &location.endpoint {
        Some(endpoint) => service.endpoint(endpoint),
        None => service,
    };
    match &location.keys {
        Some((access_key, secret_key)) => service.access_key_id(access_key).secret_access_key(secret_key),
        None => service,
    }
}

fn told(error: &opendal::Error) -> BlobError {
    match error.kind() {
        ErrorKind::NotFound => BlobError::NotFound,
        _ if error.is_temporary() => BlobError::Unavailable(error.to_string()),
        _ => BlobError::Refused(error.to_string()),
    }
}

/// The time that a request with so many bytes gets.
fn time_for(bytes: u64) -> Duration {
    REQUEST_TIMEOUT + Duration::from_millis(bytes * 1000 / BYTES_PER_SEC_MIN)
}

async fn within<T>(limit: Duration, call: impl Future<Output = opendal::Result<T>>) -> Result<T, BlobError> {
    match timeout(limit, call).await {
        Ok(done) => done.map_err(|error| told(&error)),
        Err(_) => Err(BlobError::Unavailable(format!(
            "no answer within {} s",
            limit.as_secs()
        ))),
    }
}

#[async_trait]
impl Blobs for RemoteBlobs {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BlobError> {
        let name = checked(name)?;
        let limit = time_for(bytes.len() as u64);
        let written = within(limit, self.operator.write(name, bytes)).await;
        match written {
            // The bucket or the folder: a blob that is written cannot be sought.
            Err(BlobError::NotFound) => Err(BlobError::Refused("there is no such place".to_owned())),
            written => written.map(drop),
        }
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        let name = checked(name)?;
        let range = match range {
            Some(range) => range,
            None => match self.size(name).await {
                Err(BlobError::NotFound) => return Err(self.why_absent(name).await),
                size => 0..size?,
            },
        };
        let wanted = range.end.saturating_sub(range.start);
        if wanted > WHOLE_BYTES_MAX {
            return Err(BlobError::Refused(format!(
                "{wanted} bytes are more than are read at once"
            )));
        }
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let read = self.operator.read_with(name).range(range.clone()).into_future();
        let bytes = match within(time_for(wanted), read).await {
            Err(BlobError::Refused(reason)) => return Err(self.why_refused(name, range.end, reason).await),
            read => read?.to_bytes(),
        };
        if bytes.len() as u64 > wanted {
            return Err(BlobError::Refused("the server does not know ranges".to_owned()));
        }
        Ok(bytes)
    }

    async fn size(&self, name: &str) -> Result<u64, BlobError> {
        let name = checked(name)?;
        let found = within(REQUEST_TIMEOUT, self.operator.stat(name)).await?;
        Ok(found.content_length())
    }

    async fn delete(&self, name: &str) -> Result<(), BlobError> {
        let name = checked(name)?;
        match within(REQUEST_TIMEOUT, self.operator.delete(name)).await {
            Err(BlobError::NotFound) => Ok(()),
            done => done,
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Blob>, BlobError> {
        let prefix = checked_folder(prefix)?;
        if self.lists_after {
            return within(REQUEST_TIMEOUT, self.page(prefix, after)).await;
        }
        let entries = |folder: String| async move {
            match within(REQUEST_TIMEOUT, self.entries(&folder)).await {
                Err(BlobError::NotFound) => Ok(Vec::new()),
                found => found,
            }
        };
        listing::page(prefix, after, entries).await
    }
}

impl RemoteBlobs {
    /// Tells an absent blob from an absent bucket, which the answer to a HEAD does not.
    async fn why_absent(&self, name: &str) -> BlobError {
        let read = self.operator.read_with(name).range(0..1).into_future();
        match within(REQUEST_TIMEOUT, read).await {
            Ok(_) => BlobError::Unavailable("it was written meanwhile".to_owned()),
            Err(error) => error,
        }
    }

    /// Tells a blob that is too short for what was asked from other reasons.
    async fn why_refused(&self, name: &str, end: u64, reason: String) -> BlobError {
        match self.size(name).await {
            Ok(bytes) if bytes < end => BlobError::Short,
            Ok(_) => BlobError::Refused(reason),
            Err(error) => error,
        }
    }

    /// A page of a server that can begin behind a name, and lists in the order of names.
    async fn page(&self, prefix: &str, after: Option<&str>) -> opendal::Result<Vec<Blob>> {
        let mut asked = self.operator.lister_with(folder(prefix)).recursive(true);
        asked = asked.limit(LIST_PAGE_MAX);
        if let Some(after) = after {
            asked = asked.start_after(after);
        }
        let mut lister = asked.await?;
        let mut found = Vec::new();
        while let Some(entry) = lister.try_next().await? {
            let metadata = entry.metadata();
            // Not every server heeds where it is to begin.
            if !metadata.is_file() || after.is_some_and(|after| entry.path() <= after) {
                continue;
            }
            found.push(Blob {
                name: entry.path().to_owned(),
                bytes: metadata.content_length(),
            });
            if found.len() == LIST_PAGE_MAX {
                break;
            }
        }
        found.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        Ok(found)
    }

    /// What is in one folder.
    async fn entries(&self, name: &str) -> opendal::Result<Vec<Entry>> {
        let mut lister = self.operator.lister_with(folder(name)).await?;
        let mut found = Vec::new();
        while let Some(entry) = lister.try_next().await? {
            let path = entry.path().trim_start_matches('/');
            // The folder itself is listed too.
            if path == name || path.is_empty() {
                continue;
            }
            let metadata = entry.metadata();
            let bytes = if metadata.is_file() {
                metadata.content_length()
            } else {
                0
            };
            found.push(Entry {
                name: path.to_owned(),
                bytes,
            });
        }
        Ok(found)
    }
}

fn folder(prefix: &str) -> &str {
    if prefix.is_empty() { "/" } else { prefix }
}
