//! The object operations over the in-memory engine and a real chunk store.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tempfile::TempDir;

use super::types::{
    BodyStream, ETagCondition, ExpectedChecksum, Integrity, ObjectHeaders, ObjectInfo, ObjectKey, RangeSpec,
    WriteConditions,
};
use super::{
    CreateBucket, CreateOutcome, GetError, GetRequest, ObjectBody, Objects, PutError, PutRequest, Usage, Written,
};
use crate::blob::space::Space;
use crate::chunk::cipher::Key;
use crate::chunk::{ChunkStore, ChunkStoreOptions, Keys, MasterKeys};
use crate::clock::{Clock, ClockHand};
use crate::iam::{Action, Grant, Identity, authorize};
use crate::ids::IdSource;
use crate::kv::broken::BrokenKv;
use crate::kv::fault::FaultKv;
use crate::kv::memory::MemoryKv;

mod buckets;
mod copies;
mod encrypted;
mod faults;
mod listing;
mod objects;
mod races;
mod scrubs;
mod tags;
mod uploads;

/// The engine of the tests: faults are scripted where one is about them.
pub type TestKv = FaultKv<BrokenKv<MemoryKv>>;

pub struct Fixture {
    pub objects: Arc<Objects>,
    pub kv: Arc<TestKv>,
    pub chunks: Arc<ChunkStore>,
    pub hand: ClockHand,
    pub alice: Arc<Identity>,
    pub bob: Arc<Identity>,
    clock: Clock,
    ids: Arc<IdSource>,
    pub dir: TempDir,
    pub space: Arc<Space>,
}

fn identity(name: &str) -> Arc<Identity> {
    let canonical_id = format!("{name:0>64}");
    Arc::new(Identity {
        name: name.to_owned(),
        canonical_id,
        email: String::new(),
        is_root: false,
        keys: Vec::new(),
    })
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with_reserve(0).await
    }

    /// On a disk with a reserve that is not held yet.
    pub async fn with_reserve(bytes: u64) -> Self {
        Self::with(bytes, None).await
    }

    /// Of an encrypted store.
    pub async fn encrypted() -> Self {
        Self::with(0, MasterKeys::new([Key::new([1; 32])])).await
    }

    async fn with(reserve_bytes: u64, masters: Option<MasterKeys>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hand) = Clock::manual(1_700_000_000_000);
        let ids = Arc::new(IdSource::new(clock.clone()));
        let kv = Arc::new(FaultKv::new(BrokenKv::new(MemoryKv::new())));
        let registry = prometheus::Registry::new();
        let mut options = ChunkStoreOptions::new(dir.path().join("packs"));
        let space = Arc::new(Space::new(dir.path(), reserve_bytes));
        options.space = Arc::clone(&space);
        options.keys = Keys::open(&*kv, masters.as_ref(), &clock).await.unwrap();
        std::fs::create_dir_all(dir.path().join("packs")).unwrap();
        let chunks = ChunkStore::open(
            Arc::clone(&kv) as _,
            options,
            clock.clone(),
            Arc::clone(&ids),
            &registry,
        );
        let chunks = chunks.await.unwrap();
        let objects = Objects::new(
            Arc::clone(&kv) as _,
            Arc::clone(&chunks),
            clock.clone(),
            Arc::clone(&ids),
        );
        let (alice, bob) = (identity("alice"), identity("bob"));
        Self {
            objects,
            kv,
            chunks,
            hand,
            alice,
            bob,
            clock,
            ids,
            dir,
            space,
        }
    }

    /// Another process on the same rows.
    pub fn restarted(&self) -> Arc<Objects> {
        let (chunks, ids) = (Arc::clone(&self.chunks), Arc::clone(&self.ids));
        Objects::new(Arc::clone(&self.kv) as _, chunks, self.clock.clone(), ids)
    }

    pub fn account(&self, who: &Arc<Identity>) -> Grant {
        authorize(who, Action::CreateBucket, None).unwrap()
    }

    /// A grant on a fresh bucket of `who`.
    pub async fn bucket_of(&self, who: &Arc<Identity>, name: &str) -> Grant {
        let made = self
            .objects
            .create_bucket(&self.account(who), name, CreateBucket::default())
            .await
            .unwrap();
        let CreateOutcome::Created(bucket) = made else {
            panic!("{name} was there already")
        };
        authorize(who, Action::PutObject, Some(Arc::new(bucket))).unwrap()
    }

    pub async fn bucket(&self, name: &str) -> Grant {
        self.bucket_of(&self.alice, name).await
    }

    pub async fn put(&self, grant: &Grant, name: &str, data: &[u8]) -> Written {
        self.objects.put(grant, put_request(name, data)).await.unwrap()
    }

    pub async fn put_if(
        &self,
        grant: &Grant,
        name: &str,
        data: &[u8],
        conditions: WriteConditions,
    ) -> Result<Written, PutError> {
        let request = PutRequest {
            conditions,
            ..put_request(name, data)
        };
        self.objects.put(grant, request).await
    }

    pub async fn get(&self, grant: &Grant, name: &str) -> Result<Vec<u8>, GetError> {
        self.get_with(grant, name, GetRequest::default()).await
    }

    pub async fn get_range(&self, grant: &Grant, name: &str, range: RangeSpec) -> Result<Vec<u8>, GetError> {
        let request = GetRequest {
            range: Some(range),
            ..GetRequest::default()
        };
        self.get_with(grant, name, request).await
    }

    pub async fn get_with(&self, grant: &Grant, name: &str, request: GetRequest) -> Result<Vec<u8>, GetError> {
        let outcome = self.objects.get(grant, &key(name), request).await?;
        let body = match outcome.body {
            ObjectBody::Inline(bytes) => bytes.to_vec(),
            ObjectBody::Stream(mut stream) => {
                let mut all = Vec::new();
                while let Some(piece) = stream.next().await {
                    all.extend_from_slice(&piece.unwrap());
                }
                all
            }
        };
        assert_eq!(body.len() as u64, outcome.length);
        Ok(body)
    }

    pub async fn info(&self, grant: &Grant, name: &str) -> Result<ObjectInfo, GetError> {
        let head = self.objects.head(grant, &key(name), GetRequest::default()).await?;
        Ok(head.info)
    }

    /// Sweeps until nothing is left to do.
    pub async fn sweep(&self) {
        let mut cursor = Default::default();
        while self.objects.sweep_tick(&mut cursor).await.unwrap() {}
        while self.objects.sweep_tick(&mut cursor).await.unwrap() {}
    }

    /// The bucket's counters, which must equal a recount (invariant I5).
    pub async fn usage(&self, grant: &Grant) -> Usage {
        let bucket = grant.bucket().unwrap();
        let counters = self.objects.counters(bucket).await.unwrap();
        assert_eq!(counters, self.objects.recount(bucket).await.unwrap());
        counters
    }
}

pub fn key(name: &str) -> ObjectKey {
    ObjectKey::parse(name).unwrap()
}

/// A body that arrives in pieces of at most 64 KiB.
pub fn body(data: &[u8]) -> BodyStream {
    let pieces: Vec<_> = data
        .chunks(64 << 10)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    Box::pin(futures::stream::iter(pieces))
}

pub fn integrity() -> Integrity {
    Integrity {
        content_md5: None,
        checksum: ExpectedChecksum::None,
    }
}

pub fn put_request(name: &str, data: &[u8]) -> PutRequest {
    PutRequest {
        key: key(name),
        headers: ObjectHeaders::default(),
        body: body(data),
        content_length: Some(data.len() as u64),
        integrity: integrity(),
        conditions: WriteConditions::default(),
    }
}

pub fn create_only() -> WriteConditions {
    WriteConditions {
        if_none_match: Some(ETagCondition::Any),
        ..WriteConditions::default()
    }
}

pub fn if_match(etag: impl ToString) -> WriteConditions {
    WriteConditions {
        if_match: Some(ETagCondition::OneOf(vec![etag.to_string()])),
        ..WriteConditions::default()
    }
}

/// Bytes that do not compress, the same for one seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut data);
    data
}
