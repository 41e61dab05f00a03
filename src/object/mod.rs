//! The meaning of each S3 operation, in S3's terms and without its wire.

use std::sync::Arc;

use crate::chunk::ChunkStore;
use crate::clock::Clock;
use crate::ids::IdSource;
use crate::kv::{KeyLocks, Kv};

mod attributes;
mod bucket;
mod check;
mod checksum;
mod conditions;
mod copy;
mod crc_combine;
mod damage;
mod delete;
mod error;
mod get;
pub(crate) mod headers;
mod inspect;
mod list;
mod multipart;
mod place;
mod put;
mod receive;
mod requests;
mod sample;
mod scrub;
mod settings;
pub mod types;
mod usage;
mod walk;

#[cfg(test)]
mod tests;

pub use crate::chunk::{CheckProgress, Progress, Stage};
pub use check::{BadObject, CheckReport, UnreadObjects};
pub use damage::{Damage, DamagedObject};
pub use error::{
    BucketTagsError, CompleteError, CopyError, CopyPartError, CreateUploadError, DeleteBucketError, DeleteError,
    GetError, PlaceError, PutError, ReceiveError, StoreError, UploadError, UploadPartError,
};
pub use list::ListedObject;
pub use multipart::SweeperHandle;
pub use requests::{
    Attributes, AttributesParts, AttributesRequest, BucketPage, CompleteUpload, CopyRequest, CreateBucket,
    CreateOutcome, CreateUpload, DeleteTarget, GetOutcome, GetRequest, HeadOutcome, ListBuckets, ListEntry, ListPage,
    ListParts, ListRequest, ListUploads, ObjectBody, PartPage, PutRequest, UploadEntry, UploadPage, UploadPart,
    UploadPartCopy, Usage, Written,
};
pub use sample::Sampled;
pub use scrub::{ScrubHandle, ScrubStatus};
pub use settings::UnknownSetting;

/// The object operations over one metadata store and one chunk store.
pub struct Objects {
    kv: Arc<dyn Kv>,
    chunks: Arc<ChunkStore>,
    clock: Clock,
    ids: Arc<IdSource>,
    /// This process, in the uploads that it completes.
    boot: [u8; 16],
    keys: KeyLocks,
    completing: multipart::Completing,
    /// Held by a tick of the sweeper.
    sweeping: tokio::sync::Mutex<()>,
    found: scrub::Found,
}

impl Objects {
    pub fn new(kv: Arc<dyn Kv>, chunks: Arc<ChunkStore>, clock: Clock, ids: Arc<IdSource>) -> Arc<Self> {
        let boot = ids.next();
        let (keys, completing) = (KeyLocks::new(), multipart::Completing::default());
        Arc::new(Self {
            kv,
            chunks,
            clock,
            ids,
            boot,
            keys,
            completing,
            sweeping: tokio::sync::Mutex::default(),
            found: scrub::Found::default(),
        })
    }
}
