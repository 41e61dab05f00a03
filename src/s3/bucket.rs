//! The operations on buckets.

use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, dto};

use crate::iam::{Action, authorize};
use crate::limits;
use crate::meta::bucket::{Bucket, Ownership};
use crate::object::{CreateBucket, CreateOutcome, ListBuckets};
use crate::s3::error::{invalid_argument, not_implemented, refuse};
use crate::s3::token::Scope;
use crate::s3::{Gateway, caller, convert, granted_bucket};

/// The region without a LocationConstraint, where creating a bucket again succeeds.
const US_EAST_1: &str = "us-east-1";

pub(super) async fn list_buckets(
    gateway: &Gateway,
    request: S3Request<dto::ListBucketsInput>,
) -> S3Result<dto::ListBucketsOutput> {
    let input = request.input;
    let identity = gateway.identity(request.credentials.as_ref())?;
    let grant = authorize(identity, Action::ListAllMyBuckets, None)?;
    let limit = match input.max_buckets {
        Some(asked) if asked < 1 => {
            return Err(invalid_argument(
                "Argument max-buckets must be an integer between 1 and 10000.",
            ));
        }
        asked => convert::page_size(asked, "max-buckets", limits::LIST_BUCKETS_MAX)?,
    };
    let scope = Scope {
        operation: "ListBuckets",
        of: &identity.canonical_id,
    };
    let start_after = match input.continuation_token.as_deref() {
        Some(token) if !token.is_empty() => gateway.tokens.open(scope, token)?,
        _ => String::new(),
    };
    let page = gateway
        .objects
        .list_buckets(
            &grant,
            ListBuckets {
                prefix: input.prefix.clone().unwrap_or_default(),
                start_after,
                limit,
            },
        )
        .await?;
    let in_region = |bucket: &Bucket| {
        input
            .bucket_region
            .as_deref()
            .is_none_or(|wanted| wanted == region_of(gateway, bucket))
    };
    let buckets = page.buckets.into_iter().filter(in_region).map(|bucket| dto::Bucket {
        bucket_region: Some(region_of(gateway, &bucket).to_owned()),
        creation_date: Some(convert::timestamp(bucket.created)),
        name: Some(bucket.name),
        ..dto::Bucket::default()
    });
    Ok(dto::ListBucketsOutput {
        buckets: Some(buckets.collect()),
        continuation_token: page.next.map(|next| gateway.tokens.seal(scope, &next)),
        owner: Some(gateway.owner(identity.canonical_id.clone())),
        prefix: input.prefix,
    })
}

pub(super) async fn create_bucket(
    gateway: &Gateway,
    request: S3Request<dto::CreateBucketInput>,
) -> S3Result<dto::CreateBucketOutput> {
    let input = request.input;
    let identity = gateway.identity(request.credentials.as_ref())?;
    let grant = authorize(identity, Action::CreateBucket, None)?;
    if !is_allowed_name(&input.bucket) {
        return Err(S3Error::new(S3ErrorCode::InvalidBucketName));
    }
    let ownership = ownership(input.object_ownership.as_ref())?;
    let location = location(gateway, input.create_bucket_configuration)?;
    match input.acl.as_ref().map(dto::BucketCannedACL::as_str) {
        None | Some("private") => {}
        Some(acl) => return Err(refuse_bucket_acl(gateway, &input.bucket, acl, ownership).await?),
    }
    let output = dto::CreateBucketOutput {
        location: Some(format!("/{}", input.bucket)),
        ..dto::CreateBucketOutput::default()
    };
    let outcome = gateway
        .objects
        .create_bucket(&grant, &input.bucket, CreateBucket { location, ownership })
        .await?;
    match outcome {
        CreateOutcome::Created(_) => Ok(output),
        CreateOutcome::AlreadyOwnedByYou(bucket) if region_of(gateway, &bucket) == US_EAST_1 => Ok(output),
        CreateOutcome::AlreadyOwnedByYou(_) => Err(refuse(
            S3ErrorCode::BucketAlreadyOwnedByYou,
            "Your previous request to create the named bucket succeeded and you already own it.",
        )),
        CreateOutcome::AlreadyExists => Err(already_exists()),
    }
}

fn already_exists() -> S3Error {
    refuse(
        S3ErrorCode::BucketAlreadyExists,
        "The requested bucket name is not available: all users share one namespace. Choose another name.",
    )
}

/// Why a bucket cannot have the canned ACL.
async fn refuse_bucket_acl(gateway: &Gateway, name: &str, acl: &str, ownership: Ownership) -> S3Result<S3Error> {
    if gateway.objects.bucket(name).await?.is_some() {
        return Ok(already_exists());
    }
    Ok(match (acl, ownership) {
        (
            "public-read" | "public-read-write" | "authenticated-read" | "log-delivery-write",
            Ownership::BucketOwnerEnforced,
        ) => refuse(
            S3ErrorCode::InvalidBucketAclWithObjectOwnership,
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting.",
        ),
        ("public-read" | "public-read-write" | "authenticated-read" | "log-delivery-write", _) => {
            not_implemented("An ACL other than private")
        }
        _ => invalid_argument("The canned ACL is unknown."),
    })
}

/// What s3s lets through but S3 does not allow.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
fn is_allowed_name(name: &str) -> bool {
    let reserved_front = ["xn--", "sthree-", "amzn-s3-demo-"];
    let reserved_end = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
    !name.contains(".-")
        && !name.contains("-.")
        && !reserved_front.iter().any(|front| name.starts_with(front))
        && !reserved_end.iter().any(|end| name.ends_with(end))
}

fn ownership(asked: Option<&dto::ObjectOwnership>) -> S3Result<Ownership> {
    match asked.map(dto::ObjectOwnership::as_str) {
        None | Some(dto::ObjectOwnership::BUCKET_OWNER_ENFORCED) => Ok(Ownership::BucketOwnerEnforced),
        Some(dto::ObjectOwnership::BUCKET_OWNER_PREFERRED) => Ok(Ownership::BucketOwnerPreferred),
        Some(dto::ObjectOwnership::OBJECT_WRITER) => Ok(Ownership::ObjectWriter),
        Some(_) => Err(invalid_argument(
            "x-amz-object-ownership is BucketOwnerEnforced, BucketOwnerPreferred or ObjectWriter.",
        )),
    }
}

/// The LocationConstraint. Any name of a region is taken, and recorded: where the bytes are is the operator's matter.
fn location(gateway: &Gateway, configuration: Option<dto::CreateBucketConfiguration>) -> S3Result<String> {
    let Some(configuration) = configuration else {
        return Ok(String::new());
    };
    if configuration.bucket.is_some() || configuration.location.is_some() {
        return Err(not_implemented("A directory bucket"));
    }
    if configuration.tags.is_some_and(|tags| !tags.is_empty()) {
        return Err(not_implemented("Tagging a bucket in CreateBucket"));
    }
    let Some(constraint) = configuration.location_constraint else {
        return Ok(String::new());
    };
    let constraint = constraint.as_str();
    let is_name = constraint.len() <= 63
        && constraint
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_name || (constraint == US_EAST_1 && gateway.region != US_EAST_1) {
        return Err(refuse(
            S3ErrorCode::InvalidLocationConstraint,
            "The specified location constraint is not valid.",
        ));
    }
    Ok(if constraint == US_EAST_1 {
        String::new()
    } else {
        constraint.to_owned()
    })
}

fn region_of<'a>(gateway: &'a Gateway, bucket: &'a Bucket) -> &'a str {
    if bucket.location.is_empty() {
        &gateway.region
    } else {
        &bucket.location
    }
}

pub(super) async fn head_bucket(
    gateway: &Gateway,
    request: S3Request<dto::HeadBucketInput>,
) -> S3Result<dto::HeadBucketOutput> {
    let grant = gateway
        .grant(caller!(request), &request.input.bucket, Action::ListBucket)
        .await?;
    let region = region_of(gateway, granted_bucket(&grant)?).to_owned();
    Ok(dto::HeadBucketOutput {
        bucket_region: Some(region),
        ..dto::HeadBucketOutput::default()
    })
}

pub(super) async fn delete_bucket(
    gateway: &Gateway,
    request: S3Request<dto::DeleteBucketInput>,
) -> S3Result<dto::DeleteBucketOutput> {
    let grant = gateway
        .grant(caller!(request), &request.input.bucket, Action::DeleteBucket)
        .await?;
    gateway.objects.delete_bucket(&grant).await?;
    Ok(dto::DeleteBucketOutput::default())
}

pub(super) async fn get_bucket_location(
    gateway: &Gateway,
    request: S3Request<dto::GetBucketLocationInput>,
) -> S3Result<dto::GetBucketLocationOutput> {
    let grant = gateway
        .grant(caller!(request), &request.input.bucket, Action::GetBucketLocation)
        .await?;
    let region = region_of(gateway, granted_bucket(&grant)?);
    // S3 names every region but its first.
    let location_constraint = (region != US_EAST_1).then(|| region.to_owned().into());
    Ok(dto::GetBucketLocationOutput { location_constraint })
}

/// No bucket has versions, which S3 tells by an empty answer.
pub(super) async fn get_bucket_versioning(
    gateway: &Gateway,
    request: S3Request<dto::GetBucketVersioningInput>,
) -> S3Result<dto::GetBucketVersioningOutput> {
    gateway
        .grant(caller!(request), &request.input.bucket, Action::GetBucketVersioning)
        .await?;
    Ok(dto::GetBucketVersioningOutput::default())
}

pub(super) async fn get_bucket_ownership_controls(
    gateway: &Gateway,
    request: S3Request<dto::GetBucketOwnershipControlsInput>,
) -> S3Result<dto::GetBucketOwnershipControlsOutput> {
    let grant = gateway
        .grant(
            caller!(request),
            &request.input.bucket,
            Action::GetBucketOwnershipControls,
        )
        .await?;
    let ownership = match granted_bucket(&grant)?.ownership {
        Ownership::BucketOwnerEnforced => dto::ObjectOwnership::BUCKET_OWNER_ENFORCED,
        Ownership::BucketOwnerPreferred => dto::ObjectOwnership::BUCKET_OWNER_PREFERRED,
        Ownership::ObjectWriter => dto::ObjectOwnership::OBJECT_WRITER,
    };
    let rule = dto::OwnershipControlsRule {
        object_ownership: dto::ObjectOwnership::from_static(ownership),
    };
    let ownership_controls = Some(dto::OwnershipControls { rules: vec![rule] });
    Ok(dto::GetBucketOwnershipControlsOutput { ownership_controls })
}

#[cfg(test)]
mod tests {
    use super::is_allowed_name;

    #[test]
    fn reserved_names_are_refused() {
        for name in ["foo.-bar", "foo-.bar", "xn--abc", "abc-s3alias", "sthree-x", "a--ol-s3"] {
            assert!(!is_allowed_name(name), "{name}");
        }
        assert!(is_allowed_name("media.example-1.com"));
    }
}
