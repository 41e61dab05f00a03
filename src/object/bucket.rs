//! Buckets: create, find, delete, list.

use std::sync::Arc;

use bytes::Bytes;

use crate::iam::Grant;
use crate::ids::{BucketId, DomainId, Sequence};
use crate::kv::{CommitError, Counter, Guard, Mutation, Scan};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key;
use crate::meta::upload::Sweep;
use crate::object::requests::{BucketPage, CreateBucket, CreateOutcome, ListBuckets};
use crate::object::settings::WriteSettings;
use crate::object::{BucketTagsError, DeleteBucketError, Objects, StoreError};

/// The row that holds the last bucket id given out.
const BUCKET_ID_ROW: &str = "bucket-id";
/// The row that holds the key of what clients carry for us, such as continuation tokens.
const TOKEN_KEY_ROW: &str = "token-key";
const TOKEN_KEY_BYTES: usize = 32;

impl Objects {
    /// The bucket of that name. Needs no grant: a grant is made from it.
    pub async fn bucket(&self, name: &str) -> Result<Option<Arc<Bucket>>, StoreError> {
        match self.kv.get(&key::bucket(name)).await? {
            Some(row) => Ok(Some(Arc::new(Bucket::decode(name, row.bytes, row.version)?))),
            None => Ok(None),
        }
    }

    pub async fn create_bucket(
        &self,
        grant: &Grant,
        name: &str,
        request: CreateBucket,
    ) -> Result<CreateOutcome, StoreError> {
        let owner = grant.identity().canonical_id.as_str();
        // Every creation changes the allocator's row: in turn, or all but one of them would lose each round.
        let _turn = self.keys.lock(&key::store(BUCKET_ID_ROW)).await;
        for _ in 0..limits::TRANSACTION_TRIES_MAX {
            if let Some(bucket) = self.bucket(name).await? {
                return Ok(if bucket.owner == owner {
                    CreateOutcome::AlreadyOwnedByYou(Arc::unwrap_or_clone(bucket))
                } else {
                    CreateOutcome::AlreadyExists
                });
            }
            let mut mutation = Mutation::new();
            mutation.absent(key::bucket(name));
            let id = self.next_bucket_id(&mut mutation).await?;
            let mut bucket = Bucket {
                name: name.to_owned(),
                id,
                owner: owner.to_owned(),
                domain: self.owner_domain(owner).await?,
                created: self.clock.now(),
                location: request.location.clone(),
                ownership: request.ownership,
                tags: Vec::new(),
                flags: 0,
                unknown: Default::default(),
                version: Sequence::default(),
            };
            mutation.put(key::bucket(name), bucket.encode());
            mutation.put(key::bucket_anchor(id), Bytes::new());
            mutation.put(key::owner_bucket(owner, name), Bytes::new());
            match self.kv.commit(mutation).await {
                Ok(version) => {
                    bucket.version = version;
                    return Ok(CreateOutcome::Created(bucket));
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended)
    }

    /// Takes the next id: the allocator's row changes in the bucket's own commit.
    async fn next_bucket_id(&self, mutation: &mut Mutation) -> Result<BucketId, StoreError> {
        let row = key::store(BUCKET_ID_ROW);
        let last = self.kv.get(&row).await?;
        let version = last.as_ref().map(|value| value.version);
        let last = last.and_then(|value| Counter::decode(&value.bytes)).unwrap_or(0);
        mutation.unchanged(row.clone(), version);
        mutation.put(row, Counter::encode(last + 1));
        Ok(BucketId((last + 1).unsigned_abs()))
    }

    /// The dedup domain of an owner, made with the first bucket.
    async fn owner_domain(&self, owner: &str) -> Result<DomainId, StoreError> {
        let row = key::store(&format!("owner-domain/{owner}"));
        loop {
            let found = self.kv.get(&row).await?;
            if let Some(id) = found.and_then(|value| Counter::decode(&value.bytes)) {
                return Ok(DomainId(id.cast_unsigned()));
            }
            let domain = self.chunks.create_domain().await?;
            let mut mutation = Mutation::new();
            mutation.absent(row.clone());
            mutation.put(row.clone(), Counter::encode(domain.0.cast_signed()));
            match self.kv.commit(mutation).await {
                // On a conflict another request made the owner's domain; ours stays empty.
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Deletes an empty bucket. Its uploads in progress do not keep it: they are swept.
    pub async fn delete_bucket(&self, grant: &Grant) -> Result<(), DeleteBucketError> {
        let bucket = grant.bucket().ok_or(DeleteBucketError::NoSuchBucket)?;
        let (row, anchor) = (key::bucket(&bucket.name), key::bucket_anchor(bucket.id));
        let mut version = bucket.version;
        for _ in 0..limits::TRANSACTION_TRIES_MAX {
            let mut mutation = Mutation::new();
            mutation.unchanged(row.clone(), Some(version));
            mutation.guard(Guard::Empty {
                range: key::objects(bucket.id, ""),
                anchor: anchor.clone(),
            });
            mutation.delete(row.clone());
            mutation.delete(anchor.clone());
            mutation.delete(key::owner_bucket(&bucket.owner, &bucket.name));
            mutation.put(
                key::upload_garbage(self.ids.upload_id()),
                Sweep::Bucket(bucket.id).encode(),
            );
            match self.kv.commit(mutation).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { guard: 0 }) => {
                    // Settings that changed are no obstacle, a bucket that was replaced is.
                    let now = self.bucket(&bucket.name).await?.filter(|now| now.id == bucket.id);
                    version = now.ok_or(DeleteBucketError::NoSuchBucket)?.version;
                }
                Err(CommitError::Conflict { .. }) => return Err(DeleteBucketError::NotEmpty),
                Err(error) => return Err(DeleteBucketError::Store(error.into())),
            }
        }
        Err(DeleteBucketError::Store(StoreError::Contended))
    }

    /// Gives the bucket these tags in place of those it has; none: takes them away. What is written from now on follows
    /// those that are settings; what is stored stays as it is.
    pub async fn put_bucket_tags(&self, grant: &Grant, tags: Vec<(String, String)>) -> Result<(), BucketTagsError> {
        WriteSettings::check(&tags)?;
        let granted = grant.bucket().ok_or(BucketTagsError::NoSuchBucket)?;
        let row = key::bucket(&granted.name);
        // In turn: each change of tags is a conflict for all others.
        let _turn = self.keys.lock(&row).await;
        for _ in 0..limits::TRANSACTION_TRIES_MAX {
            let now = self.bucket(&granted.name).await?.filter(|now| now.id == granted.id);
            let mut changed = Arc::unwrap_or_clone(now.ok_or(BucketTagsError::NoSuchBucket)?);
            changed.tags.clone_from(&tags);
            let mut mutation = Mutation::new();
            mutation.unchanged(row.clone(), Some(changed.version));
            mutation.put(row.clone(), changed.encode());
            match self.kv.commit(mutation).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    /// The buckets of the caller, in the order of their names.
    pub async fn list_buckets(&self, grant: &Grant, mut request: ListBuckets) -> Result<BucketPage, StoreError> {
        let mut wanted = request.limit.min(limits::LIST_BUCKETS_MAX);
        let mut buckets = Vec::new();
        loop {
            request.limit = wanted.min(limits::LIST_PAGE_MAX);
            let page = self.scan_buckets(grant, &request).await?;
            wanted = wanted.saturating_sub(page.buckets.len());
            buckets.extend(page.buckets);
            match page.next {
                Some(next) if wanted > 0 => request.start_after = next,
                next => return Ok(BucketPage { buckets, next }),
            }
        }
    }

    /// What one scan gives of them.
    async fn scan_buckets(&self, grant: &Grant, request: &ListBuckets) -> Result<BucketPage, StoreError> {
        let owner = grant.identity().canonical_id.as_str();
        let limit = request.limit;
        let skip = key::owner_bucket(owner, "").len();
        let range = key::prefix_range(key::owner_bucket(owner, &request.prefix));
        let after = key::owner_bucket(owner, &request.start_after);
        let start = if after >= range.start && !request.start_after.is_empty() {
            std::ops::Bound::Excluded(after)
        } else {
            std::ops::Bound::Included(range.start)
        };
        if limit == 0 || !begins_before(&start, &range.end) {
            return Ok(BucketPage {
                buckets: Vec::new(),
                next: None,
            });
        }
        let scan = Scan {
            start,
            end: std::ops::Bound::Excluded(range.end),
            limit: limit + 1,
            direction: Default::default(),
            fold: None,
        };
        let rows = self.kv.scan(scan).await?;
        let names: Vec<&str> = rows
            .iter()
            .filter_map(|row| std::str::from_utf8(row.key.get(skip..)?).ok())
            .take(limit)
            .collect();
        let keys: Vec<Bytes> = names.iter().map(|name| key::bucket(name)).collect();
        let values = self.kv.get_many(&keys).await?;
        let mut buckets = Vec::with_capacity(names.len());
        for (name, value) in names.iter().zip(values) {
            // Absent: deleted between the two reads.
            if let Some(value) = value {
                buckets.push(Bucket::decode(name, value.bytes, value.version)?);
            }
        }
        let next = if rows.len() > limit {
            names.last().map(|name| (*name).to_owned())
        } else {
            None
        };
        Ok(BucketPage { buckets, next })
    }

    /// The secret behind what clients carry for us. Made once for the store.
    pub async fn store_secret(&self) -> Result<[u8; TOKEN_KEY_BYTES], StoreError> {
        let row = key::store(TOKEN_KEY_ROW);
        if let Some(secret) = self.chunks.token_key() {
            // Of the time before the store was encrypted.
            if self.kv.get(&row).await?.is_some() {
                let mut mutation = Mutation::new();
                mutation.delete(row);
                self.kv.commit(mutation).await?;
            }
            return Ok(secret);
        }
        loop {
            if let Some(value) = self.kv.get(&row).await? {
                let malformed = crate::meta::record::Malformed {
                    record: "token key",
                    reason: "it has not 32 bytes",
                };
                return value
                    .bytes
                    .as_ref()
                    .try_into()
                    .map_err(|_| StoreError::Malformed(malformed));
            }
            let mut secret = [0u8; TOKEN_KEY_BYTES];
            getrandom::fill(&mut secret).map_err(|error| StoreError::Entropy(error.to_string()))?;
            let mut mutation = Mutation::new();
            mutation.absent(row.clone());
            mutation.put(row.clone(), Bytes::copy_from_slice(&secret));
            match self.kv.commit(mutation).await {
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether a scan from `start` to `end` can hold anything.
pub(super) fn begins_before(start: &std::ops::Bound<Bytes>, end: &Bytes) -> bool {
    match start {
        std::ops::Bound::Included(start) | std::ops::Bound::Excluded(start) => start < end,
        std::ops::Bound::Unbounded => true,
    }
}
