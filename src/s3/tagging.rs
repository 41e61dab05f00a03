//! The tags of a bucket.

use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, dto};

use crate::iam::Action;
use crate::limits;
use crate::s3::error::refuse;
use crate::s3::wire::KeptBody;
use crate::s3::{Gateway, caller, convert, granted_bucket};

/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketTagging.html>
pub(super) async fn put_bucket_tagging(
    gateway: &Gateway,
    request: S3Request<dto::PutBucketTaggingInput>,
) -> S3Result<dto::PutBucketTaggingOutput> {
    let grant = gateway
        .grant(caller!(request), &request.input.bucket, Action::PutBucketTagging)
        .await?;
    let Some(body) = request.extensions.get::<KeptBody>() else {
        return Err(S3Error::new(S3ErrorCode::InternalError));
    };
    body.verify(&request.headers)?;
    let tags = tag_set(request.input.tagging)?;
    gateway.objects.put_bucket_tags(&grant, tags).await?;
    Ok(dto::PutBucketTaggingOutput::default())
}

fn tag_set(tagging: dto::Tagging) -> S3Result<Vec<(String, String)>> {
    let pairs = tagging.tag_set.into_iter().map(|tag| tag.key.zip(tag.value));
    let tags: Option<Vec<_>> = pairs.collect();
    let tags = tags.ok_or_else(|| refuse(S3ErrorCode::MalformedXML, "Each Tag has one Key and one Value."))?;
    convert::check_tags(&tags, "A bucket", limits::BUCKET_TAGS_MAX)?;
    Ok(tags)
}

pub(super) async fn get_bucket_tagging(
    gateway: &Gateway,
    request: S3Request<dto::GetBucketTaggingInput>,
) -> S3Result<dto::GetBucketTaggingOutput> {
    let grant = gateway
        .grant(caller!(request), &request.input.bucket, Action::GetBucketTagging)
        .await?;
    let tags = &granted_bucket(&grant)?.tags;
    if tags.is_empty() {
        return Err(refuse(S3ErrorCode::NoSuchTagSet, "The TagSet does not exist."));
    }
    let tag = |(key, value): &(String, String)| dto::Tag {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    let tag_set = tags.iter().map(tag).collect();
    Ok(dto::GetBucketTaggingOutput { tag_set })
}

/// Asks for the right to set tags, as S3 does.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteBucketTagging.html>
pub(super) async fn delete_bucket_tagging(
    gateway: &Gateway,
    request: S3Request<dto::DeleteBucketTaggingInput>,
) -> S3Result<dto::DeleteBucketTaggingOutput> {
    let grant = gateway
        .grant(caller!(request), &request.input.bucket, Action::PutBucketTagging)
        .await?;
    gateway.objects.put_bucket_tags(&grant, Vec::new()).await?;
    Ok(dto::DeleteBucketTaggingOutput::default())
}
