//! DeleteObject and DeleteObjects.

use std::collections::HashSet;

use bytes::Bytes;
use futures::StreamExt;

use crate::iam::Grant;
use crate::kv::{CommitError, Mutation, Value};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key;
use crate::meta::object::ObjectHead;
use crate::object::conditions::check_delete;
use crate::object::place::{UsageChange, current};
use crate::object::requests::DeleteTarget;
use crate::object::types::{ObjectKey, WriteConditions};
use crate::object::{DeleteError, Objects, StoreError};

/// Keys that one commit deletes.
const GROUP_KEYS: usize = 200;
/// Keys of a group in conflict that are deleted at the same time, one by one.
const SINGLES_IN_FLIGHT: usize = 16;

impl Objects {
    /// Deletes a key; that it is absent is success too.
    pub async fn delete(&self, grant: &Grant, key: &ObjectKey, conditions: WriteConditions) -> Result<(), DeleteError> {
        let Some(bucket) = grant.bucket() else { return Ok(()) };
        self.delete_one(bucket, key, &conditions).await
    }

    async fn delete_one(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        conditions: &WriteConditions,
    ) -> Result<(), DeleteError> {
        let row = key::object(bucket.id, key.as_str());
        let mut lock = self.keys.lock_if_held(&row).await;
        for _ in 0..limits::TRANSACTION_TRIES_MAX {
            let Some(value) = self.kv.get(&row).await.map_err(StoreError::from)? else {
                return Ok(());
            };
            let mut mutation = Mutation::new();
            let mut change = UsageChange::default();
            self.delete_row(&mut mutation, &mut change, &row, &value, conditions)?;
            change.apply(&mut mutation, bucket);
            match self.kv.commit(mutation).await {
                Ok(_) => {
                    self.chunks.released();
                    return Ok(());
                }
                Err(CommitError::Conflict { .. }) => {
                    if lock.is_none() {
                        lock = self.keys.lock(&row).await;
                    }
                }
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    fn delete_row(
        &self,
        mutation: &mut Mutation,
        change: &mut UsageChange,
        row: &Bytes,
        value: &Value,
        conditions: &WriteConditions,
    ) -> Result<(), DeleteError> {
        let head = ObjectHead::decode(&value.bytes).map_err(StoreError::from)?;
        check_delete(conditions, current(&head))?;
        mutation.unchanged(row.clone(), Some(value.version));
        mutation.delete(row.clone());
        self.free(mutation, value, &head)?;
        change.subtract(&head);
        Ok(())
    }

    /// Deletes many keys in groups of a commit each; answers in their order. A group that meets a conflict is deleted
    /// key by key.
    pub async fn delete_many(&self, grant: &Grant, targets: Vec<DeleteTarget>) -> Vec<Result<(), DeleteError>> {
        let Some(bucket) = grant.bucket() else {
            return targets.iter().map(|_| Ok(())).collect();
        };
        let mut results = Vec::with_capacity(targets.len());
        for group in targets.chunks(GROUP_KEYS) {
            match self.delete_group(bucket, group).await {
                Some(group) => results.extend(group),
                None => {
                    let mut singles = Vec::with_capacity(group.len());
                    for target in group {
                        singles.push(self.delete_one(bucket, &target.key, &target.conditions));
                    }
                    let singles = futures::stream::iter(singles).buffered(SINGLES_IN_FLIGHT);
                    results.extend(singles.collect::<Vec<_>>().await);
                }
            }
        }
        results
    }

    /// `None`: nothing was deleted, and the keys are to be tried one by one.
    async fn delete_group(&self, bucket: &Bucket, group: &[DeleteTarget]) -> Option<Vec<Result<(), DeleteError>>> {
        let rows: Vec<Bytes> = group
            .iter()
            .map(|target| key::object(bucket.id, target.key.as_str()))
            .collect();
        let values = self.kv.get_many(&rows).await.ok()?;
        let (mut mutation, mut change) = (Mutation::new(), UsageChange::default());
        let mut deleted = HashSet::with_capacity(group.len());
        let mut results = Vec::with_capacity(group.len());
        for ((target, row), value) in group.iter().zip(&rows).zip(&values) {
            results.push(match value {
                // A key that stands twice in the request is gone the second time.
                Some(value) if !deleted.contains(row) => {
                    let result = self.delete_row(&mut mutation, &mut change, row, value, &target.conditions);
                    match &result {
                        Ok(()) => drop(deleted.insert(row)),
                        Err(DeleteError::PreconditionFailed(_)) => {}
                        // The mutation may hold a half of the key's effects.
                        Err(DeleteError::Store(_)) => return None,
                    }
                    result
                }
                _ => Ok(()),
            });
        }
        if mutation.effects.is_empty() {
            return Some(results);
        }
        change.apply(&mut mutation, bucket);
        match self.kv.commit(mutation).await {
            Ok(_) => {
                self.chunks.released();
                Some(results)
            }
            Err(CommitError::Unknown(why)) => {
                let outcome = |(result, row): (Result<(), DeleteError>, &Bytes)| match result {
                    Ok(()) if deleted.contains(row) => Err(StoreError::Unknown(why.clone()).into()),
                    other => other,
                };
                Some(results.into_iter().zip(&rows).map(outcome).collect())
            }
            Err(_) => None,
        }
    }
}
