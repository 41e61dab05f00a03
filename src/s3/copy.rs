//! CopyObject and UploadPartCopy.

use s3s::{S3Request, S3Result, dto};

use crate::iam::{Action, Grant};
use crate::object::types::ObjectKey;
use crate::object::{CopyRequest, UploadPartCopy};
use crate::s3::checksum::{self, give_checksum};
use crate::s3::convert::take_object_headers;
use crate::s3::error::{invalid_argument, not_implemented};
use crate::s3::multipart::upload_id;
use crate::s3::write::refuse_acl;
use crate::s3::{Caller, Gateway, caller, convert};

/// The grant for the source of a copy and its key. s3s parsed and decoded the header.
async fn source(gateway: &Gateway, source: dto::CopySource, caller: Caller<'_>) -> S3Result<(Grant, ObjectKey)> {
    let dto::CopySource::Bucket {
        bucket,
        key,
        version_id,
    } = source
    else {
        return Err(not_implemented("A copy source that is an access point"));
    };
    convert::only_null_version(version_id.as_deref())?;
    let grant = gateway.grant(caller, &bucket, Action::GetObject).await?;
    Ok((grant, convert::key(key.into())?))
}

pub(super) async fn copy_object(
    gateway: &Gateway,
    request: S3Request<dto::CopyObjectInput>,
) -> S3Result<dto::CopyObjectOutput> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::PutObject).await?;
    let mut input = request.input;
    refuse_acl(&grant, input.acl.as_ref())?;
    let source_caller = Caller {
        credentials: request.credentials.as_ref(),
        expected_owner: input.expected_source_bucket_owner.as_deref(),
    };
    let (source_grant, source_key) = source(gateway, input.copy_source, source_caller).await?;
    let directive = input.metadata_directive.as_ref().map(dto::MetadataDirective::as_str);
    let replaces_headers = convert::is_replace(directive, "x-amz-metadata-directive")?;
    let directive = input.tagging_directive.as_ref().map(dto::TaggingDirective::as_str);
    let replaces_tags = convert::is_replace(directive, "x-amz-tagging-directive")?;
    let mut given = take_object_headers!(input, Vec::new());
    let asked = CopyRequest {
        key: convert::key(input.key)?,
        source_conditions: convert::read_conditions(
            input.copy_source_if_match,
            input.copy_source_if_none_match,
            input.copy_source_if_modified_since,
            input.copy_source_if_unmodified_since,
        ),
        conditions: convert::write_conditions(input.if_match, input.if_none_match),
        storage_class: given.storage_class.clone(),
        website_redirect: given.website_redirect_location.take(),
        headers: replaces_headers.then_some(given),
        tags: if replaces_tags {
            Some(convert::tags(input.tagging.as_deref())?)
        } else {
            None
        },
        checksum: match &input.checksum_algorithm {
            Some(name) => Some(checksum::algorithm(name.as_str())?),
            None => None,
        },
    };
    let written = gateway.objects.copy(&source_grant, &source_key, &grant, asked).await?;
    let mut result = dto::CopyObjectResult {
        e_tag: Some(convert::etag(written.etag)),
        last_modified: Some(convert::timestamp(written.last_modified)),
        ..Default::default()
    };
    give_checksum!(typed result, written.checksum.as_ref(), written.etag.parts);
    Ok(dto::CopyObjectOutput {
        copy_object_result: Some(result),
        ..Default::default()
    })
}

pub(super) async fn upload_part_copy(
    gateway: &Gateway,
    request: S3Request<dto::UploadPartCopyInput>,
) -> S3Result<dto::UploadPartCopyOutput> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::PutObject).await?;
    let input = request.input;
    let source_caller = Caller {
        credentials: request.credentials.as_ref(),
        expected_owner: input.expected_source_bucket_owner.as_deref(),
    };
    let (source_grant, source_key) = source(gateway, input.copy_source, source_caller).await?;
    let source_range = match input.copy_source_range.as_deref() {
        Some(text) => Some(convert::copy_source_range(text)?),
        None => None,
    };
    if source_range.is_some_and(|(first, last)| first > last) {
        return Err(invalid_argument(
            "The first byte of x-amz-copy-source-range is behind its last.",
        ));
    }
    let asked = UploadPartCopy {
        source_key,
        source_conditions: convert::read_conditions(
            input.copy_source_if_match,
            input.copy_source_if_none_match,
            input.copy_source_if_modified_since,
            input.copy_source_if_unmodified_since,
        ),
        source_range,
        key: convert::key(input.key)?,
        upload: upload_id(&input.upload_id)?,
        number: convert::part_number(input.part_number)?,
    };
    let written = gateway.objects.upload_part_copy(&source_grant, &grant, asked).await?;
    let mut result = dto::CopyPartResult {
        e_tag: Some(convert::etag(written.etag)),
        last_modified: Some(convert::timestamp(written.last_modified)),
        ..Default::default()
    };
    give_checksum!(result, written.checksum.as_ref(), 0);
    Ok(dto::UploadPartCopyOutput {
        copy_part_result: Some(result),
        ..Default::default()
    })
}
