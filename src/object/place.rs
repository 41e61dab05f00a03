//! Putting an object at its key: the one commit that every write ends in.

use bytes::Bytes;

use crate::chunk::StoredData;
use crate::iam::Grant;
use crate::kv::{CommitError, Mutation, Value};
use crate::limits;
use crate::meta::bucket::{Bucket, Ownership};
use crate::meta::key::{self, UsageKind, UsageScope};
use crate::meta::object::{ObjectHead, ObjectRecord, Payload};
use crate::meta::upload::Sweep;
use crate::object::conditions::{Current, check_write};
use crate::object::types::{ETag, ObjectKey, WriteConditions};
use crate::object::{Objects, PlaceError, StoreError};

/// Usage counters of one gateway; readers sum the stripes.
pub(super) const STRIPE: u16 = 0;
/// The guards of [`Objects::place`] by their numbers. Those of `extra` follow.
const GUARD_BUCKET: usize = 0;
const GUARD_OBJECT: usize = 1;

/// Bytes that the object row will refer to.
pub(super) enum Content<'a> {
    None,
    Body(Bytes),
    EncryptedBody(Bytes),
    Data(&'a StoredData),
}

impl Content<'_> {
    pub(super) fn payload(&self) -> Payload {
        match self {
            Self::None => Payload::None,
            Self::Body(_) => Payload::Body,
            Self::EncryptedBody(_) => Payload::EncryptedBody,
            Self::Data(_) => Payload::Data,
        }
    }
}

/// Bytes that were taken in or copied, before they belong to an object.
pub(super) enum Arrived {
    /// At most [`limits::BODY_BYTES_MAX`].
    Inline(Bytes),
    Data(StoredData),
}

pub(super) struct Placement<'a> {
    pub bucket: &'a Bucket,
    pub key: &'a ObjectKey,
    pub record: ObjectRecord,
    pub content: Content<'a>,
    pub conditions: &'a WriteConditions,
    /// What else belongs into the commit. If a guard that it adds fails, the placing ends in a conflict.
    pub extra: Option<&'a (dyn Fn(&mut Mutation) + Sync)>,
}

/// What a commit over an existing row has to know of it.
pub(super) fn current(head: &ObjectHead) -> Current {
    Current {
        size: head.size,
        etag: ETag {
            md5: head.md5,
            parts: head.parts,
        },
        modified: head.modified,
    }
}

/// Who owns an object that the grant's identity writes; `None`: the bucket's owner.
pub(super) fn object_owner(grant: &Grant, bucket: &Bucket) -> Option<String> {
    let writer = &grant.identity().canonical_id;
    let enforced = bucket.ownership == Ownership::BucketOwnerEnforced;
    (!enforced && *writer != bucket.owner).then(|| writer.clone())
}

/// S3's name of the class as the record keeps it: the usual class has none.
pub(super) fn recorded_class(class: Option<String>) -> Option<String> {
    class.filter(|class| class != "STANDARD")
}

/// Tells the chunk store what became of data that a commit was to publish. `error`: of the commit, if it failed.
pub(super) fn settle(data: StoredData, error: Option<&StoreError>, committed: bool) {
    match error {
        Some(StoreError::Unknown(_)) => data.outcome_unknown(),
        _ if committed => data.published(),
        // Not published for certain: dropping it makes it garbage.
        _ => drop(data),
    }
}

impl PlaceError {
    pub(super) fn store(&self) -> Option<&StoreError> {
        if let Self::Store(error) = self {
            Some(error)
        } else {
            None
        }
    }
}

impl Objects {
    /// Makes an object of what arrived. Sets where the payload is in `record`.
    pub(super) async fn place_arrived(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        mut record: ObjectRecord,
        arrived: Arrived,
        conditions: &WriteConditions,
    ) -> Result<(), PlaceError> {
        let extra = None;
        match arrived {
            Arrived::Inline(bytes) => {
                let sealed = match bytes.len() {
                    0 => Ok(None),
                    _ => self.chunks.seal_body(bucket.domain, record.data, &bytes).await,
                };
                let content = match sealed.map_err(StoreError::from)? {
                    _ if bytes.is_empty() => Content::None,
                    Some(sealed) => Content::EncryptedBody(sealed),
                    None => Content::Body(bytes),
                };
                record.payload = content.payload();
                self.place(Placement {
                    bucket,
                    key,
                    record,
                    content,
                    conditions,
                    extra,
                })
                .await
            }
            Arrived::Data(data) => {
                (record.payload, record.data) = (Payload::Data, data.id);
                let content = Content::Data(&data);
                let outcome = self
                    .place(Placement {
                        bucket,
                        key,
                        record,
                        content,
                        conditions,
                        extra,
                    })
                    .await;
                settle(
                    data,
                    outcome.as_ref().err().and_then(PlaceError::store),
                    outcome.is_ok(),
                );
                outcome
            }
        }
    }

    /// Makes `record` the current version of the key and frees what it replaces, in one commit. Of concurrent writers
    /// the last one to commit wins; conditions are decided on the row that the commit guards.
    pub(super) async fn place(&self, placement: Placement<'_>) -> Result<(), PlaceError> {
        let row = key::object(placement.bucket.id, placement.key.as_str());
        let (record, aux) = placement.record.encode();
        let mut lock = self.keys.lock_if_held(&row).await;
        for _ in 0..limits::TRANSACTION_TRIES_MAX {
            let current = self.kv.get(&row).await.map_err(StoreError::from)?;
            let replaced = current
                .as_ref()
                .map(|value| ObjectHead::decode(&value.bytes))
                .transpose();
            let replaced = replaced.map_err(StoreError::from)?;
            check_write(placement.conditions, replaced.as_ref().map(self::current))?;
            let mut mutation = Mutation::new();
            mutation.exists(key::bucket_anchor(placement.bucket.id));
            mutation.unchanged(row.clone(), current.as_ref().map(|value| value.version));
            if let Some(extra) = placement.extra {
                extra(&mut mutation);
            }
            mutation.put(row.clone(), record.clone());
            if let Some(aux) = &aux {
                mutation.put(key::aux(placement.record.data), aux.clone());
            }
            match &placement.content {
                Content::None => {}
                Content::Body(bytes) | Content::EncryptedBody(bytes) => {
                    mutation.put(key::body(placement.record.data), bytes.clone())
                }
                Content::Data(data) => self.chunks.publish(&mut mutation, data, row.clone()),
            }
            let mut change = UsageChange {
                objects: 1,
                bytes: placement.record.size.cast_signed(),
            };
            if let (Some(value), Some(head)) = (&current, &replaced) {
                change.subtract(head);
                self.free(&mut mutation, value, head)?;
            }
            change.apply(&mut mutation, placement.bucket);
            match self.kv.commit(mutation).await {
                Ok(_) => {
                    self.wake_collector(replaced.as_ref());
                    return Ok(());
                }
                Err(CommitError::Conflict { guard: GUARD_BUCKET }) => return Err(PlaceError::NoSuchBucket),
                Err(CommitError::Conflict { guard: GUARD_OBJECT }) => {
                    if lock.is_none() {
                        lock = self.keys.lock(&row).await;
                    }
                }
                Err(CommitError::Conflict { .. }) => return Err(PlaceError::Conflict),
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
        Err(PlaceError::Conflict)
    }

    /// Tells the collector that there is work, after a commit that released data.
    pub(super) fn wake_collector(&self, freed: Option<&ObjectHead>) {
        if freed.is_some_and(|head| head.payload == Payload::Data) {
            self.chunks.released();
        }
    }

    /// Frees what the object row `value` refers to, in the commit that replaces or deletes the row.
    pub(super) fn free(&self, mutation: &mut Mutation, value: &Value, head: &ObjectHead) -> Result<(), StoreError> {
        match head.payload {
            Payload::None => {}
            Payload::Body | Payload::EncryptedBody => mutation.delete(key::body(head.data)),
            Payload::Data => self.chunks.release(mutation, head.data),
        }
        if head.has_aux() {
            mutation.delete(key::aux(head.data));
        }
        if head.has_manifest()
            && let Some(manifest) = ObjectRecord::decode(value.bytes.clone())?.0.manifest
        {
            mutation.put(key::upload_garbage(manifest), Sweep::PartsAndManifest.encode());
        }
        Ok(())
    }
}

/// What a commit changes in a bucket's counters.
#[derive(Default)]
pub(super) struct UsageChange {
    pub objects: i64,
    pub bytes: i64,
}

impl UsageChange {
    pub(super) fn subtract(&mut self, head: &ObjectHead) {
        self.objects -= 1;
        self.bytes -= head.size.cast_signed();
    }

    pub(super) fn apply(&self, mutation: &mut Mutation, bucket: &Bucket) {
        let scope = UsageScope::Bucket(bucket.id);
        for (kind, delta) in [(UsageKind::Objects, self.objects), (UsageKind::Bytes, self.bytes)] {
            if delta != 0 {
                mutation.add(key::usage(scope, kind, STRIPE), delta);
            }
        }
    }
}
