//! PutObject, DeleteObject and DeleteObjects.

use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, dto};

use crate::iam::{Action, Grant};
use crate::limits;
use crate::meta::bucket::Ownership;
use crate::object::DeleteError;
use crate::object::types::ETagCondition;
use crate::object::{DeleteTarget, PutRequest};
use crate::s3::checksum::{self, give_checksum};
use crate::s3::convert::take_object_headers;
use crate::s3::error::{entity_too_large, invalid_argument, not_implemented, refuse};
use crate::s3::wire::KeptBody;
use crate::s3::{Gateway, body, caller, convert, granted_bucket, hoisted};

pub(super) async fn put_object(
    gateway: &Gateway,
    request: S3Request<dto::PutObjectInput>,
) -> S3Result<dto::PutObjectOutput> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::PutObject).await?;
    let mut input = request.input;
    refuse_acl(&grant, input.acl.as_ref())?;
    hoisted::add_metadata(&mut input.metadata, &request.uri)?;
    let sent = hoisted::with_query(&request.headers, &request.uri)?;
    let headers = take_object_headers!(input, convert::tags(input.tagging.as_deref())?);
    let asked = PutRequest {
        key: convert::key(input.key)?,
        headers,
        body: body::incoming(input.body),
        content_length: content_length(input.content_length)?,
        integrity: checksum::integrity(&sent, request.trailing_headers)?,
        conditions: convert::write_conditions(input.if_match, input.if_none_match),
    };
    let written = gateway.objects.put(&grant, asked).await?;
    let mut output = dto::PutObjectOutput {
        e_tag: Some(convert::etag(written.etag)),
        ..Default::default()
    };
    give_checksum!(typed output, written.checksum.as_ref(), 0);
    Ok(output)
}

/// The decoded length of the body. s3s knows it of every body but one in plain chunked transfer coding.
pub(super) fn content_length(length: Option<i64>) -> S3Result<Option<u64>> {
    let Some(length) = length else {
        return Err(refuse(
            S3ErrorCode::MissingContentLength,
            "You must provide the Content-Length HTTP header, or an aws-chunked body.",
        ));
    };
    match u64::try_from(length) {
        Ok(length) if length <= limits::PUT_BYTES_MAX => Ok(Some(length)),
        Ok(_) => Err(entity_too_large()),
        Err(_) => Err(invalid_argument("The Content-Length is negative.")),
    }
}

/// An object's ACL is always that of its owner. The canned ACLs that say the same are accepted.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html>
pub(super) fn refuse_acl(grant: &Grant, acl: Option<&dto::ObjectCannedACL>) -> S3Result<()> {
    let Some(acl) = acl else { return Ok(()) };
    match acl.as_str() {
        "private" | "bucket-owner-full-control" => Ok(()),
        "public-read" | "public-read-write" | "authenticated-read" | "aws-exec-read" | "bucket-owner-read" => {
            Err(acl_refusal(granted_bucket(grant)?.ownership))
        }
        _ => Err(invalid_argument("The canned ACL is unknown.")),
    }
}

pub(super) fn acl_refusal(ownership: Ownership) -> S3Error {
    match ownership {
        Ownership::BucketOwnerEnforced => refuse(
            S3ErrorCode::AccessControlListNotSupported,
            "The bucket does not allow ACLs.",
        ),
        Ownership::BucketOwnerPreferred | Ownership::ObjectWriter => not_implemented("An ACL other than private"),
    }
}

pub(super) async fn delete_object(
    gateway: &Gateway,
    request: S3Request<dto::DeleteObjectInput>,
) -> S3Result<dto::DeleteObjectOutput> {
    let caller = caller!(request);
    let grant = gateway
        .grant(caller, &request.input.bucket, Action::DeleteObject)
        .await?;
    let input = request.input;
    convert::only_null_version(input.version_id.as_deref())?;
    let conditions =
        convert::delete_conditions(input.if_match, input.if_match_size, input.if_match_last_modified_time)?;
    gateway
        .objects
        .delete(&grant, &convert::key(input.key)?, conditions)
        .await?;
    Ok(dto::DeleteObjectOutput::default())
}

pub(super) async fn delete_objects(
    gateway: &Gateway,
    request: S3Request<dto::DeleteObjectsInput>,
) -> S3Result<dto::DeleteObjectsOutput> {
    let caller = caller!(request);
    let grant = gateway
        .grant(caller, &request.input.bucket, Action::DeleteObject)
        .await?;
    match request.extensions.get::<KeptBody>() {
        Some(body) => body.verify_announced(&request.headers)?,
        None => return Err(S3Error::new(S3ErrorCode::InternalError)),
    }
    let delete = request.input.delete;
    check_targets(&delete.objects)?;
    // Answers keep the order of the request; what is refused here never reaches the store.
    let mut targets = Vec::with_capacity(delete.objects.len());
    let mut outcomes: Vec<(String, Option<String>, Option<S3Error>)> = Vec::with_capacity(delete.objects.len());
    for object in delete.objects {
        let key = object.key.clone();
        let version = object.version_id.clone();
        match delete_target(object) {
            Ok(target) => {
                targets.push(target);
                outcomes.push((key, version, None));
            }
            Err(error) => outcomes.push((key, version, Some(error))),
        }
    }
    let mut results = gateway.objects.delete_many(&grant, targets).await.into_iter();
    let quiet = delete.quiet.unwrap_or(false);
    let mut deleted = Vec::new();
    let mut errors = Vec::new();
    for (key, version_id, refused) in outcomes {
        let error = match refused {
            Some(error) => Some(error),
            None => results
                .next()
                .and_then(Result::err)
                .map(|error: DeleteError| S3Error::from(error)),
        };
        match error {
            Some(error) => errors.push(dto::Error {
                code: Some(error.code().as_str().to_owned()),
                key: Some(key),
                message: error.message().map(str::to_owned),
                version_id,
            }),
            None if quiet => {}
            None => deleted.push(dto::DeletedObject {
                key: Some(key),
                version_id,
                ..Default::default()
            }),
        }
    }
    Ok(dto::DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        request_charged: None,
    })
}

fn check_targets(objects: &[dto::ObjectIdentifier]) -> S3Result<()> {
    if objects.is_empty() || objects.len() > limits::DELETE_OBJECTS_MAX {
        return Err(refuse(
            S3ErrorCode::MalformedXML,
            format!("The request must name 1 to {} objects.", limits::DELETE_OBJECTS_MAX),
        ));
    }
    // XML cannot hold such a name, and a document that smuggles it in by a reference is not well-formed.
    let names = objects
        .iter()
        .flat_map(|object| [Some(&object.key), object.version_id.as_ref()]);
    if !names.flatten().all(|name| convert::fits_xml(name)) {
        return Err(S3Error::new(S3ErrorCode::MalformedXML));
    }
    Ok(())
}

fn delete_target(object: dto::ObjectIdentifier) -> S3Result<DeleteTarget> {
    convert::only_null_version(object.version_id.as_deref())?;
    let mut conditions = convert::delete_conditions(None, object.size, object.last_modified_time)?;
    conditions.if_match = object.e_tag.map(|tag| match tag.into_value() {
        tag if tag == "*" => ETagCondition::Any,
        tag => ETagCondition::OneOf(vec![tag]),
    });
    Ok(DeleteTarget {
        key: convert::key(object.key)?,
        conditions,
    })
}
