//! GetObjectAttributes, and the ACLs that every bucket and object has: its owner's.

use s3s::{S3Request, S3Result, dto};

use crate::iam::Action;
use crate::limits;
use crate::object::types::ReadConditions;
use crate::object::{AttributesParts, AttributesRequest, GetRequest};
use crate::s3::checksum::give_checksum;
use crate::s3::error::{invalid_argument, invalid_request};
use crate::s3::multipart::part_marker;
use crate::s3::write::acl_refusal;
use crate::s3::{Gateway, caller, convert, granted_bucket};

/// Which attributes are asked for. Each header may hold several.
#[derive(Default)]
struct Wanted {
    etag: bool,
    checksum: bool,
    parts: bool,
    size: bool,
    class: bool,
}

impl Wanted {
    fn new(lists: &[dto::ObjectAttributes]) -> S3Result<Self> {
        let mut wanted = Self::default();
        for name in lists.iter().flat_map(|list| list.as_str().split(',')).map(str::trim) {
            match name {
                dto::ObjectAttributes::ETAG => wanted.etag = true,
                dto::ObjectAttributes::CHECKSUM => wanted.checksum = true,
                dto::ObjectAttributes::OBJECT_PARTS => wanted.parts = true,
                dto::ObjectAttributes::OBJECT_SIZE => wanted.size = true,
                dto::ObjectAttributes::STORAGE_CLASS => wanted.class = true,
                _ => {
                    return Err(invalid_argument(
                        "Invalid attribute name specified: ETag, Checksum, ObjectParts, StorageClass, ObjectSize.",
                    ));
                }
            }
        }
        Ok(wanted)
    }
}

pub(super) async fn get_object_attributes(
    gateway: &Gateway,
    request: S3Request<dto::GetObjectAttributesInput>,
) -> S3Result<dto::GetObjectAttributesOutput> {
    let caller = caller!(request);
    let grant = gateway
        .grant(caller, &request.input.bucket, Action::GetObjectAttributes)
        .await?;
    let input = request.input;
    convert::only_null_version(input.version_id.as_deref())?;
    let wanted = Wanted::new(&input.object_attributes)?;
    if input.object_attributes.is_empty() {
        return Err(invalid_request(
            "Missing required header for this request: x-amz-object-attributes.",
        ));
    }
    let max_parts = convert::page_size(input.max_parts, "max-parts", limits::LIST_PAGE_MAX)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let asked = AttributesRequest {
        part_number_marker: part_marker(marker)?,
        max_parts,
        conditions: ReadConditions::default(),
    };
    let attributes = gateway
        .objects
        .attributes(&grant, &convert::key(input.key)?, asked)
        .await?;
    let info = attributes.info;
    let mut output = dto::GetObjectAttributesOutput {
        last_modified: Some(convert::timestamp(info.last_modified)),
        e_tag: wanted.etag.then(|| convert::etag(info.etag)),
        object_size: wanted.size.then(|| convert::signed(info.size)),
        storage_class: wanted.class.then(|| {
            info.headers
                .storage_class
                .unwrap_or_else(|| convert::STANDARD.to_owned())
                .into()
        }),
        ..Default::default()
    };
    if let (true, Some(checksum)) = (wanted.checksum, &info.checksum) {
        let mut given = dto::Checksum::default();
        give_checksum!(typed given, Some(checksum), info.etag.parts);
        output.checksum = Some(given);
    }
    if let (true, Some(parts)) = (wanted.parts, attributes.parts) {
        output.object_parts = Some(object_parts(parts, marker, max_parts));
    }
    Ok(output)
}

fn object_parts(parts: AttributesParts, marker: i32, max_parts: usize) -> dto::GetObjectAttributesParts {
    // S3 lists the parts only of objects whose parts have checksums.
    let has_checksums = parts.parts.iter().any(|part| part.checksum.is_some());
    let last = parts.parts.last().map(|part| i32::from(part.number));
    let listed = parts.parts.into_iter().map(|part| {
        let mut output = dto::ObjectPart {
            part_number: Some(i32::from(part.number)),
            size: Some(convert::signed(part.size)),
            ..Default::default()
        };
        give_checksum!(output, part.checksum.as_ref(), 0);
        output
    });
    dto::GetObjectAttributesParts {
        is_truncated: Some(parts.next.is_some()),
        max_parts: Some(convert::count(max_parts)),
        next_part_number_marker: parts.next.map(i32::from).or(last),
        part_number_marker: Some(marker),
        parts: has_checksums.then(|| listed.collect()),
        total_parts_count: Some(i32::from(parts.total)),
    }
}

/// The owner may do everything, and nobody else anything.
fn owner_only(gateway: &Gateway, canonical_id: &str) -> (Option<dto::Owner>, Option<dto::Grants>) {
    let owner = gateway.owner(canonical_id.to_owned());
    let grantee = dto::Grantee {
        display_name: owner.display_name.clone(),
        id: owner.id.clone(),
        type_: dto::Type::from_static(dto::Type::CANONICAL_USER),
        email_address: None,
        uri: None,
    };
    let grant = dto::Grant {
        grantee: Some(grantee),
        permission: Some(dto::Permission::from_static(dto::Permission::FULL_CONTROL)),
    };
    (Some(owner), Some(vec![grant]))
}

/// Whether a policy is the ACL that everything has, as `owner_only` gives it: clients read it and put it back.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html>
fn is_owners(policy: Option<dto::AccessControlPolicy>, owner: &str) -> bool {
    let grants = policy.and_then(|policy| policy.grants).unwrap_or_default();
    let is_owners = |grant: &dto::Grant| {
        let permission = grant.permission.as_ref().map(dto::Permission::as_str);
        let grantee = grant.grantee.as_ref().and_then(|grantee| grantee.id.as_deref());
        permission == Some(dto::Permission::FULL_CONTROL) && grantee == Some(owner)
    };
    !grants.is_empty() && grants.iter().all(is_owners)
}

pub(super) async fn get_bucket_acl(
    gateway: &Gateway,
    request: S3Request<dto::GetBucketAclInput>,
) -> S3Result<dto::GetBucketAclOutput> {
    let grant = gateway
        .grant(caller!(request), &request.input.bucket, Action::GetBucketAcl)
        .await?;
    let (owner, grants) = owner_only(gateway, &granted_bucket(&grant)?.owner);
    Ok(dto::GetBucketAclOutput { grants, owner })
}

pub(super) async fn put_bucket_acl(
    gateway: &Gateway,
    request: S3Request<dto::PutBucketAclInput>,
) -> S3Result<dto::PutBucketAclOutput> {
    let grant = gateway
        .grant(caller!(request), &request.input.bucket, Action::PutBucketAcl)
        .await?;
    match request.input.acl.as_ref().map(dto::BucketCannedACL::as_str) {
        Some("private") => Ok(dto::PutBucketAclOutput::default()),
        None if is_owners(request.input.access_control_policy, &granted_bucket(&grant)?.owner) => {
            Ok(dto::PutBucketAclOutput::default())
        }
        _ => Err(acl_refusal(granted_bucket(&grant)?.ownership)),
    }
}

pub(super) async fn get_object_acl(
    gateway: &Gateway,
    request: S3Request<dto::GetObjectAclInput>,
) -> S3Result<dto::GetObjectAclOutput> {
    let caller = caller!(request);
    let grant = gateway
        .grant(caller, &request.input.bucket, Action::GetObjectAcl)
        .await?;
    let input = request.input;
    convert::only_null_version(input.version_id.as_deref())?;
    let outcome = gateway
        .objects
        .head(&grant, &convert::key(input.key)?, GetRequest::default())
        .await?;
    let (owner, grants) = owner_only(gateway, &outcome.info.owner);
    Ok(dto::GetObjectAclOutput {
        grants,
        owner,
        request_charged: None,
    })
}

pub(super) async fn put_object_acl(
    gateway: &Gateway,
    request: S3Request<dto::PutObjectAclInput>,
) -> S3Result<dto::PutObjectAclOutput> {
    let caller = caller!(request);
    let grant = gateway
        .grant(caller, &request.input.bucket, Action::PutObjectAcl)
        .await?;
    let input = request.input;
    convert::only_null_version(input.version_id.as_deref())?;
    let outcome = gateway
        .objects
        .head(&grant, &convert::key(input.key)?, GetRequest::default())
        .await?;
    match input.acl.as_ref().map(dto::ObjectCannedACL::as_str) {
        Some("private" | "bucket-owner-full-control") => Ok(dto::PutObjectAclOutput::default()),
        None if is_owners(input.access_control_policy, &outcome.info.owner) => Ok(dto::PutObjectAclOutput::default()),
        _ => Err(acl_refusal(granted_bucket(&grant)?.ownership)),
    }
}
