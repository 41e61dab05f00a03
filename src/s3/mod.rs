//! The S3 wire: s3s parses, routes and checks signatures; the files here turn each operation into ours, one file a
//! family, and ours back into S3's terms.

mod access;
mod attributes;
mod body;
mod bucket;
mod checksum;
mod convert;
mod copy;
mod error;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod hoisted;
mod host;
mod list;
mod multipart;
mod query;
mod range;
mod read;
mod signed;
mod tagging;
mod token;
mod watch;
mod wire;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use s3s::auth::Credentials;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto};

pub use host::Domains;
pub use s3s::{Body, HttpError, HttpRequest, HttpResponse};
pub use wire::S3Wire;

use crate::iam::{Action, Grant, Identities, Identity, authorize};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::object::Objects;
use crate::s3::token::Tokens;

/// What the operator decides about the wire.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// The region that buckets without a LocationConstraint are in. A signature may name any region.
    pub region: String,
    /// Domains for virtual-host-style addressing; none: path-style only.
    pub domains: Vec<String>,
}

/// The S3 service over `objects` for `identities`. `store_secret` seals the continuation tokens.
pub fn service(
    objects: Arc<Objects>,
    identities: Arc<Identities>,
    store_secret: &[u8; 32],
    options: S3Options,
) -> S3Wire {
    let mut config = S3Config::default();
    config.xml_max_body_size = limits::XML_BODY_BYTES_MAX;
    config.put_object_max_size = Some(limits::PUT_BYTES_MAX);
    config.aws_chunked_stream_max_chunk_size = limits::AWS_CHUNK_BYTES_MAX;
    config.presigned_url_max_skew_time_secs = limits::CLOCK_SKEW_SECS_MAX;
    config.presigned_url_max_expires_secs = limits::PRESIGNED_SECS_MAX;
    config.sig_v4_allowed_services = vec!["s3".to_owned()];
    config.enable_sig_v2 = false;
    config.allow_post_signature = false;
    config.post_object_max_file_size = 0;
    let gateway = Gateway {
        objects,
        identities: Arc::clone(&identities),
        tokens: Tokens::new(store_secret),
        region: options.region,
    };
    let region = Arc::from(gateway.region.as_str());
    let mut builder = S3ServiceBuilder::new(gateway);
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_auth(access::Auth(identities));
    builder.set_access(access::Access);
    if let Some(domains) = host::Domains::new(&options.domains) {
        builder.set_host(domains);
    }
    S3Wire::new(builder.build(), region)
}

/// The operations of S3 over ours.
struct Gateway {
    objects: Arc<Objects>,
    identities: Arc<Identities>,
    tokens: Tokens,
    region: String,
}

/// Who signed a request, and on which condition.
struct Caller<'a> {
    credentials: Option<&'a Credentials>,
    /// `x-amz-expected-bucket-owner`.
    expected_owner: Option<&'a str>,
}

/// The caller of a request whose input carries `x-amz-expected-bucket-owner`.
macro_rules! caller {
    ($request:expr) => {
        $crate::s3::Caller {
            credentials: $request.credentials.as_ref(),
            expected_owner: $request.input.expected_bucket_owner.as_deref(),
        }
    };
}
use caller;

impl Gateway {
    fn identity(&self, credentials: Option<&Credentials>) -> S3Result<&Arc<Identity>> {
        credentials
            .and_then(|credentials| self.identities.by_access_key(&credentials.access_key))
            .map(|(identity, _)| identity)
            .ok_or_else(|| S3Error::new(S3ErrorCode::AccessDenied))
    }

    /// The grant to do `action` in the bucket of that name.
    async fn grant(&self, caller: Caller<'_>, bucket: &str, action: Action) -> S3Result<Grant> {
        let identity = self.identity(caller.credentials)?;
        let bucket = self.objects.bucket(bucket).await?.ok_or_else(error::no_such_bucket)?;
        if caller.expected_owner.is_some_and(|expected| expected != bucket.owner) {
            let message = "Access denied: the bucket's owner is not the one in x-amz-expected-bucket-owner.";
            return Err(error::refuse(S3ErrorCode::AccessDenied, message));
        }
        Ok(authorize(identity, action, Some(bucket))?)
    }

    fn owner(&self, canonical_id: String) -> dto::Owner {
        let display_name = Some(self.identities.display_name(&canonical_id).to_owned());
        dto::Owner {
            display_name,
            id: Some(canonical_id),
        }
    }

    fn initiator(&self, canonical_id: String) -> dto::Initiator {
        let display_name = Some(self.identities.display_name(&canonical_id).to_owned());
        dto::Initiator {
            display_name,
            id: Some(canonical_id),
        }
    }
}

/// The bucket that a grant is for.
fn granted_bucket(grant: &Grant) -> S3Result<&Arc<Bucket>> {
    grant.bucket().ok_or_else(error::no_such_bucket)
}

/// One line an operation: the file, the function, its input and its output, and the status where s3s's is not S3's.
macro_rules! delegate {
    ($($operation:ident => $file:ident($input:ident) -> $output:ident $(, $status:ident)?;)*) => {
        #[async_trait::async_trait]
        impl S3 for Gateway {
            $(
                async fn $operation(
                    &self,
                    request: S3Request<dto::$input>,
                ) -> S3Result<S3Response<dto::$output>> {
                    watch::taken(&request.extensions);
                    let output = $file::$operation(self, request).await?;
                    Ok(wire::answer(output, None$(.or(Some(http::StatusCode::$status)))?))
                }
            )*
        }
    };
}

delegate! {
    list_buckets => bucket(ListBucketsInput) -> ListBucketsOutput;
    create_bucket => bucket(CreateBucketInput) -> CreateBucketOutput;
    head_bucket => bucket(HeadBucketInput) -> HeadBucketOutput;
    delete_bucket => bucket(DeleteBucketInput) -> DeleteBucketOutput;
    get_bucket_location => bucket(GetBucketLocationInput) -> GetBucketLocationOutput;
    get_bucket_versioning => bucket(GetBucketVersioningInput) -> GetBucketVersioningOutput;
    get_bucket_ownership_controls => bucket(GetBucketOwnershipControlsInput) -> GetBucketOwnershipControlsOutput;
    put_bucket_tagging => tagging(PutBucketTaggingInput) -> PutBucketTaggingOutput, NO_CONTENT;
    get_bucket_tagging => tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput;
    delete_bucket_tagging => tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput;
    get_bucket_acl => attributes(GetBucketAclInput) -> GetBucketAclOutput;
    put_bucket_acl => attributes(PutBucketAclInput) -> PutBucketAclOutput;
    get_object_acl => attributes(GetObjectAclInput) -> GetObjectAclOutput;
    put_object_acl => attributes(PutObjectAclInput) -> PutObjectAclOutput;
    get_object_attributes => attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput;
    get_object => read(GetObjectInput) -> GetObjectOutput;
    head_object => read(HeadObjectInput) -> HeadObjectOutput;
    put_object => write(PutObjectInput) -> PutObjectOutput;
    delete_object => write(DeleteObjectInput) -> DeleteObjectOutput;
    delete_objects => write(DeleteObjectsInput) -> DeleteObjectsOutput;
    copy_object => copy(CopyObjectInput) -> CopyObjectOutput;
    upload_part_copy => copy(UploadPartCopyInput) -> UploadPartCopyOutput;
    list_objects => list(ListObjectsInput) -> ListObjectsOutput;
    list_objects_v2 => list(ListObjectsV2Input) -> ListObjectsV2Output;
    list_object_versions => list(ListObjectVersionsInput) -> ListObjectVersionsOutput;
    create_multipart_upload => multipart(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    upload_part => multipart(UploadPartInput) -> UploadPartOutput;
    list_parts => multipart(ListPartsInput) -> ListPartsOutput;
    list_multipart_uploads => multipart(ListMultipartUploadsInput) -> ListMultipartUploadsOutput;
    complete_multipart_upload => multipart(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    abort_multipart_upload => multipart(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
}
