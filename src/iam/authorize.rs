//! The decision whether a request may go on. Every object operation demands the [`Grant`] that only this file makes,
//! so that forgetting the check does not compile.

use std::sync::Arc;

use crate::iam::identity::Identity;
use crate::meta::bucket::Bucket;

/// What a request wants to do, in the names of the AWS policy language.
/// Source: <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    AbortMultipartUpload,
    CreateBucket,
    DeleteBucket,
    DeleteObject,
    GetBucketAcl,
    GetBucketLocation,
    GetBucketOwnershipControls,
    GetBucketTagging,
    GetBucketVersioning,
    GetObject,
    GetObjectAcl,
    GetObjectAttributes,
    ListAllMyBuckets,
    ListBucket,
    ListBucketMultipartUploads,
    ListBucketVersions,
    ListMultipartUploadParts,
    PutBucketAcl,
    PutBucketTagging,
    PutObject,
    PutObjectAcl,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Self::AbortMultipartUpload => "s3:AbortMultipartUpload",
            Self::CreateBucket => "s3:CreateBucket",
            Self::DeleteBucket => "s3:DeleteBucket",
            Self::DeleteObject => "s3:DeleteObject",
            Self::GetBucketAcl => "s3:GetBucketAcl",
            Self::GetBucketLocation => "s3:GetBucketLocation",
            Self::GetBucketOwnershipControls => "s3:GetBucketOwnershipControls",
            Self::GetBucketTagging => "s3:GetBucketTagging",
            Self::GetBucketVersioning => "s3:GetBucketVersioning",
            Self::GetObject => "s3:GetObject",
            Self::GetObjectAcl => "s3:GetObjectAcl",
            Self::GetObjectAttributes => "s3:GetObjectAttributes",
            Self::ListAllMyBuckets => "s3:ListAllMyBuckets",
            Self::ListBucket => "s3:ListBucket",
            Self::ListBucketMultipartUploads => "s3:ListBucketMultipartUploads",
            Self::ListBucketVersions => "s3:ListBucketVersions",
            Self::ListMultipartUploadParts => "s3:ListMultipartUploadParts",
            Self::PutBucketAcl => "s3:PutBucketAcl",
            Self::PutBucketTagging => "s3:PutBucketTagging",
            Self::PutObject => "s3:PutObject",
            Self::PutObjectAcl => "s3:PutObjectAcl",
        }
    }

    /// Whether the action is about the account and not about one bucket.
    fn is_of_account(self) -> bool {
        matches!(self, Self::CreateBucket | Self::ListAllMyBuckets)
    }
}

/// The proof that `authorize` said yes.
#[derive(Clone, Debug)]
pub struct Grant {
    identity: Arc<Identity>,
    action: Action,
    bucket: Option<Arc<Bucket>>,
}

impl Grant {
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    pub fn action(&self) -> Action {
        self.action
    }

    /// The bucket that the grant is for; `None` for the actions of an account (ListAllMyBuckets, CreateBucket).
    pub fn bucket(&self) -> Option<&Arc<Bucket>> {
        self.bucket.as_ref()
    }
}

/// The request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the identity that signed the request may not do {}", .0.name())]
pub struct AccessDenied(pub Action);

/// Decides whether `identity` may do `action`, on `bucket` if the action is about one. Until there are policies, root
/// may do everything, and everybody else may create buckets, list their own and do everything in these.
pub fn authorize(identity: &Arc<Identity>, action: Action, bucket: Option<Arc<Bucket>>) -> Result<Grant, AccessDenied> {
    let allowed = match &bucket {
        None => action.is_of_account(),
        Some(bucket) => !action.is_of_account() && (identity.is_root || bucket.owner == identity.canonical_id),
    };
    if allowed {
        Ok(Grant {
            identity: Arc::clone(identity),
            action,
            bucket,
        })
    } else {
        Err(AccessDenied(action))
    }
}
