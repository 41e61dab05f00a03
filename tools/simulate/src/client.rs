//! A client: one operation after the other, each noted in the model with what it was answered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use cairn::iam::{Action, Grant, Identity, authorize};
use cairn::object::types::{
    BodyError, BodyStream, ETagCondition, ExpectedChecksum, Integrity, ObjectHeaders, ObjectKey, WriteConditions,
};
use cairn::object::{
    CopyError, CopyRequest, DeleteTarget, Objects, PlaceError, PutError, PutRequest, StoreError, Written,
};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::content::{Contents, tag_of};
use crate::errors;
use crate::model::{Answer, Call, Called, Model, Seen, Version};
use crate::uploads::Upload;
use crate::world::World;

pub const BUCKETS: [&str; 3] = ["general", "backup", "volatile"];
pub const KEYS: [&str; 5] = ["a", "b", "dir/a", "dir/b", "z"];

/// What outlives the processes.
pub struct Shared {
    pub world: Arc<World>,
    pub model: Mutex<Model>,
    pub contents: Contents,
    pub uploads: Mutex<Vec<Upload>>,
    /// The buckets that stay were made.
    pub has_buckets: AtomicBool,
    pub identity: Arc<Identity>,
}

#[derive(Clone)]
pub struct Client {
    pub shared: Arc<Shared>,
    pub objects: Arc<Objects>,
}

type Operation<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A bucket as it was found, and the right to do anything in it.
pub struct Opened {
    pub id: u64,
    pub name: &'static str,
    pub grant: Grant,
}

pub fn key(name: &str) -> Option<ObjectKey> {
    ObjectKey::parse(name).ok()
}

pub fn named(version: Version) -> ObjectHeaders {
    ObjectHeaders {
        user: vec![("v".to_owned(), version.to_string())],
        ..ObjectHeaders::default()
    }
}

pub fn plain() -> Integrity {
    Integrity {
        content_md5: None,
        checksum: ExpectedChecksum::None,
    }
}

impl Client {
    pub fn world(&self) -> &World {
        &self.shared.world
    }

    /// Does what the plan says.
    pub async fn run(self) {
        for _ in 0..self.world().plan.operations {
            self.world().pause(60).await;
            let operation = self.operation();
            if self.world().strikes(self.world().plan.hang_ups) {
                let patience = Duration::from_millis(self.world().below(400));
                if timeout(patience, operation).await.is_err() {
                    self.world().note(|| "a client hangs up".to_owned());
                }
            } else {
                operation.await;
            }
        }
    }

    fn operation(&self) -> Operation<'_> {
        let world = self.world();
        match world.below(100) {
            0..30 => Box::pin(self.put()),
            30..55 => Box::pin(self.get()),
            55..65 => Box::pin(self.delete()),
            65..73 => Box::pin(self.copy()),
            73..80 => Box::pin(self.list()),
            80..84 => Box::pin(self.delete_many()),
            84..96 if world.plan.multipart => Box::pin(self.upload()),
            96.. if world.plan.volatile_bucket => Box::pin(self.bucket_goes()),
            _ => Box::pin(self.put()),
        }
    }

    pub async fn open(&self) -> Option<Opened> {
        let buckets = if self.world().plan.volatile_bucket {
            &BUCKETS[..]
        } else {
            &BUCKETS[..2]
        };
        let name = self.world().pick(buckets)?;
        self.open_named(name).await
    }

    pub async fn open_named(&self, name: &'static str) -> Option<Opened> {
        match self.objects.bucket(name).await {
            Ok(Some(bucket)) => {
                let (id, identity) = (bucket.id.0, &self.shared.identity);
                let grant = authorize(identity, Action::PutObject, Some(bucket)).ok()?;
                Some(Opened { id, name, grant })
            }
            Ok(None) => {
                if name != BUCKETS[2] && self.shared.has_buckets.load(Relaxed) {
                    self.world().violated(format!("the bucket {name} is gone"));
                }
                None
            }
            Err(error) => {
                self.check_error(&error);
                None
            }
        }
    }

    pub fn any_key(&self) -> &'static str {
        self.world().pick(&KEYS).copied().unwrap_or("a")
    }

    pub fn call(&self, bucket: &Opened, name: &str, call: Call) -> Called {
        self.world()
            .note(|| format!("client: {name} in {}: {call:?}", bucket.id));
        self.shared.model.lock().call(bucket.id, name, call)
    }

    pub fn answer(&self, called: &Called, answer: Answer) {
        self.world().note(|| format!("client: {called:?}: {answer:?}"));
        self.shared.model.lock().answer(called, answer);
    }

    /// Errors are no wonder here, but for those that say that something stored is not there.
    pub fn check_error(&self, error: &StoreError) {
        self.world().note(|| format!("client: {error}"));
        if errors::tells_loss(error) && !self.world().plan.has_flips() {
            self.world()
                .violated(format!("nothing was damaged, and yet: {error:?}"));
        }
    }

    /// A body in pieces that take their time. `is_bad`: it ends early.
    pub fn stream(&self, bytes: &Bytes, is_bad: bool) -> BodyStream {
        let world = Arc::clone(&self.shared.world);
        let pieces: Vec<Bytes> = bytes.chunks(64 << 10).map(|piece| bytes.slice_ref(piece)).collect();
        let broken = || BodyError(Box::new(std::io::Error::other("the client is gone")));
        let end = is_bad.then(|| Err(broken()));
        Box::pin(
            futures::stream::iter(pieces.into_iter().map(Ok).chain(end)).then(move |piece| {
                let world = Arc::clone(&world);
                async move {
                    if world.chance(200) {
                        world.pause(20).await;
                    }
                    piece
                }
            }),
        )
    }

    pub async fn put(&self) {
        let Some(bucket) = self.open().await else { return };
        let (name, bytes) = (self.any_key(), self.shared.contents.body(self.world()));
        let only_if_absent = self.world().chance(150);
        self.put_body(&bucket, name, bytes, only_if_absent).await;
    }

    /// True: it was taken.
    pub async fn put_body(&self, bucket: &Opened, name: &str, bytes: Bytes, only_if_absent: bool) -> bool {
        let Some(key) = key(name) else { return false };
        let (tag, is_bad) = (tag_of(&bytes), self.world().strikes(self.world().plan.bad_bodies));
        let version = self.shared.model.lock().version();
        self.shared.contents.know(tag.clone(), bytes.clone());
        self.shared.model.lock().has_tag(version, &tag);
        let request = PutRequest {
            key,
            headers: named(version),
            body: self.stream(&bytes, is_bad),
            content_length: self.world().chance(800).then_some(bytes.len() as u64),
            integrity: plain(),
            conditions: conditions(only_if_absent),
        };
        let called = self.call(
            bucket,
            name,
            Call::Write {
                version,
                only_if_absent,
            },
        );
        let outcome = self.objects.put(&bucket.grant, request).await;
        if outcome.is_ok() && is_bad {
            self.world().violated("a body that ended early was stored".to_owned());
        }
        let is_taken = outcome.is_ok();
        match outcome {
            Ok(written) => self.written(&called, &written, &tag),
            Err(PutError::Place(error)) => self.not_placed(bucket, &called, &error),
            Err(PutError::Receive(_)) => self.answer(&called, Answer::Failed),
        }
        is_taken
    }

    pub fn written(&self, called: &Called, written: &Written, tag: &str) {
        if written.etag.to_string() != tag {
            self.world()
                .violated(format!("answered the ETag {} for {tag}", written.etag));
        }
        self.answer(called, Answer::Done);
    }

    pub fn not_placed(&self, bucket: &Opened, called: &Called, error: &PlaceError) {
        match error {
            PlaceError::PreconditionFailed(_) => self.answer(called, Answer::Refused),
            PlaceError::Store(StoreError::Unknown(_)) => self.world().note(|| "client: nobody knows".to_owned()),
            PlaceError::NoSuchBucket if bucket.name != BUCKETS[2] => {
                self.world()
                    .violated(format!("the bucket {} is gone for a write", bucket.name));
            }
            PlaceError::Store(error) => {
                self.check_error(error);
                self.answer(called, Answer::Failed);
            }
            _ => self.answer(called, Answer::Failed),
        }
    }

    pub async fn delete(&self) {
        let Some(bucket) = self.open().await else { return };
        let name = self.any_key();
        let Some(key) = key(name) else { return };
        let called = self.call(&bucket, name, Call::Delete);
        let outcome = self
            .objects
            .delete(&bucket.grant, &key, WriteConditions::default())
            .await;
        self.deleted(&called, outcome);
    }

    fn deleted(&self, called: &Called, outcome: Result<(), cairn::object::DeleteError>) {
        match outcome {
            Ok(()) => self.answer(called, Answer::Done),
            Err(cairn::object::DeleteError::Store(StoreError::Unknown(_))) => {}
            Err(cairn::object::DeleteError::Store(error)) => {
                self.check_error(&error);
                self.answer(called, Answer::Failed);
            }
            Err(_) => self.answer(called, Answer::Failed),
        }
    }

    pub async fn delete_many(&self) {
        let Some(bucket) = self.open().await else { return };
        let names: Vec<&str> = KEYS.into_iter().filter(|_| self.world().chance(500)).collect();
        self.delete_all(&bucket, &names).await;
    }

    pub async fn delete_all(&self, bucket: &Opened, names: &[&str]) {
        let called: Vec<Called> = names.iter().map(|name| self.call(bucket, name, Call::Delete)).collect();
        let target = |name: &&str| {
            Some(DeleteTarget {
                key: key(name)?,
                conditions: WriteConditions::default(),
            })
        };
        let targets = names.iter().filter_map(target).collect();
        let outcomes = self.objects.delete_many(&bucket.grant, targets).await;
        for (called, outcome) in called.iter().zip(outcomes) {
            self.deleted(called, outcome);
        }
    }

    /// A copy has the version's name for itself, so that its reader knows it; which bytes it has tells its ETag.
    async fn copy(&self) {
        let (Some(source), Some(dest)) = (self.open().await, self.open().await) else {
            return;
        };
        let (from, to) = (self.any_key(), self.any_key());
        let (Some(source_key), Some(dest_key)) = (key(from), key(to)) else {
            return;
        };
        let version = self.shared.model.lock().version();
        let request = CopyRequest {
            key: dest_key,
            source_conditions: Default::default(),
            conditions: WriteConditions::default(),
            headers: Some(named(version)),
            website_redirect: None,
            tags: None,
            storage_class: None,
            checksum: None,
        };
        let read = self.call(&source, from, Call::Read);
        let only_if_absent = false;
        let write = self.call(
            &dest,
            to,
            Call::Write {
                version,
                only_if_absent,
            },
        );
        match self
            .objects
            .copy(&source.grant, &source_key, &dest.grant, request)
            .await
        {
            Ok(written) => {
                let tag = written.etag.to_string();
                self.shared.model.lock().has_tag(version, &tag);
                self.answer(&read, Answer::Saw(Seen::Tag(tag.clone())));
                self.written(&write, &written, &tag);
            }
            Err(CopyError::NoSuchSource) => {
                self.answer(&read, Answer::Saw(Seen::Absent));
                self.answer(&write, Answer::Failed);
            }
            Err(CopyError::Place(error)) => self.not_placed(&dest, &write, &error),
            Err(_) => self.answer(&write, Answer::Failed),
        }
    }
}

fn conditions(only_if_absent: bool) -> WriteConditions {
    WriteConditions {
        if_none_match: only_if_absent.then_some(ETagCondition::Any),
        ..WriteConditions::default()
    }
}
