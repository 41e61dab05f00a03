//! Listings of a bucket's objects.

use s3s::{S3Request, S3Result, dto};

use crate::iam::Action;
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::object::{ListEntry, ListPage, ListRequest, ListedObject, Objects, StoreError};
use crate::s3::checksum;
use crate::s3::error::invalid_argument;
use crate::s3::token::Scope;
use crate::s3::{Gateway, caller, convert, granted_bucket};

/// What the three listings have in common, and echo.
struct Asked {
    prefix: Option<String>,
    delimiter: Option<String>,
    /// The name that the client wants the listing to begin after; a token goes before it.
    after: Option<String>,
    encoding_type: Option<dto::EncodingType>,
    max_keys: usize,
    url: bool,
}

impl Asked {
    fn new(
        prefix: Option<String>,
        delimiter: Option<String>,
        after: Option<String>,
        encoding_type: Option<dto::EncodingType>,
        max_keys: Option<i32>,
    ) -> S3Result<Self> {
        Ok(Self {
            prefix,
            // S3 takes an empty delimiter for none.
            delimiter: delimiter.filter(|delimiter| !delimiter.is_empty()),
            after,
            url: convert::wants_url_encoding(encoding_type.as_ref())?,
            encoding_type,
            max_keys: convert::page_size(max_keys, "maxKeys", limits::LIST_PAGE_MAX)?,
        })
    }

    fn request(&self, place: Option<String>) -> ListRequest {
        ListRequest {
            prefix: self.prefix.clone().unwrap_or_default(),
            delimiter: self.delimiter.clone(),
            start_after: place.or_else(|| self.after.clone()).filter(|start| !start.is_empty()),
            limit: self.max_keys,
        }
    }

    fn listed(&self, name: &str) -> String {
        convert::listed(name, self.url)
    }

    /// The prefix, which is echoed even if there is none.
    fn echoed_prefix(&self) -> Option<String> {
        Some(self.listed(self.prefix.as_deref().unwrap_or_default()))
    }

    /// The prefix of a ListObjects: botocore does not decode it there, so it is encoded only if XML cannot hold it.
    fn plain_prefix(&self) -> Option<String> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        if convert::fits_xml(prefix) {
            Some(prefix.to_owned())
        } else {
            self.echoed_prefix()
        }
    }

    /// A marker, which is echoed even if there is none.
    fn echoed_marker(&self) -> Option<String> {
        Some(self.listed(self.after.as_deref().unwrap_or_default()))
    }

    fn echoed_delimiter(&self) -> Option<String> {
        self.delimiter.as_deref().map(|delimiter| self.listed(delimiter))
    }

    /// The page at the `place` of a token, or where the listing begins. A page of no keys asks the store for nothing. From
    /// here on names are encoded if XML cannot hold one of them, which the answer tells: S3's own answer to that is no
    /// XML.
    async fn page(
        &mut self,
        objects: &Objects,
        grant: &crate::iam::Grant,
        place: Option<String>,
    ) -> S3Result<ListPage> {
        let mut page = ListPage {
            entries: Vec::new(),
            next: None,
        };
        let echoed = [&self.prefix, &self.delimiter, &self.after];
        let mut fits = echoed.into_iter().flatten().all(|name| convert::fits_xml(name));
        if self.max_keys > 0 {
            page = objects.list(grant, self.request(place)).await?;
            fits &= page.entries.iter().all(|entry| convert::fits_xml(entry.name()));
        }
        if !fits {
            self.url = true;
            self.encoding_type = Some(dto::EncodingType::from_static(dto::EncodingType::URL));
        }
        Ok(page)
    }
}

/// The entries of a page, apart.
struct Entries {
    objects: Vec<ListedObject>,
    prefixes: Vec<dto::CommonPrefix>,
    /// The last entry is a prefix.
    ends_with_prefix: bool,
}

impl Entries {
    fn new(entries: Vec<ListEntry>, asked: &Asked) -> Self {
        let mut objects = Vec::with_capacity(entries.len());
        let mut prefixes = Vec::new();
        let mut ends_with_prefix = false;
        for entry in entries {
            match entry {
                ListEntry::Object(object) => {
                    objects.push(object);
                    ends_with_prefix = false;
                }
                ListEntry::CommonPrefix(prefix) => {
                    prefixes.push(dto::CommonPrefix {
                        prefix: Some(asked.listed(&prefix)),
                    });
                    ends_with_prefix = true;
                }
            }
        }
        Self {
            objects,
            prefixes,
            ends_with_prefix,
        }
    }
}

/// Who owns a listed object; most are the bucket owner's.
struct Owners<'a> {
    gateway: &'a Gateway,
    bucket: &'a Bucket,
    bucket_owner: dto::Owner,
}

impl<'a> Owners<'a> {
    fn new(gateway: &'a Gateway, bucket: &'a Bucket) -> Self {
        Self {
            gateway,
            bucket,
            bucket_owner: gateway.owner(bucket.owner.clone()),
        }
    }

    fn of(&self, object: &ListedObject) -> S3Result<dto::Owner> {
        Ok(match object.owner().map_err(StoreError::from)? {
            Some(owner) if owner != self.bucket.owner => self.gateway.owner(owner),
            _ => self.bucket_owner.clone(),
        })
    }
}

fn object(listed: &ListedObject, asked: &Asked, owners: Option<&Owners<'_>>) -> S3Result<dto::Object> {
    let checksum = listed.checksum();
    Ok(dto::Object {
        owner: owners.map(|owners| owners.of(listed)).transpose()?,
        checksum_algorithm: checksum.map(|(algorithm, _)| vec![checksum::algorithm_name(algorithm)]),
        checksum_type: checksum.map(|(_, kind)| checksum::kind_name(kind)),
        e_tag: Some(convert::etag(listed.etag())),
        last_modified: Some(convert::timestamp(listed.last_modified())),
        size: Some(convert::signed(listed.size())),
        storage_class: Some(match listed.storage_class().map_err(StoreError::from)? {
            Some(class) => dto::ObjectStorageClass::from(class),
            None => dto::ObjectStorageClass::from_static(dto::ObjectStorageClass::STANDARD),
        }),
        key: Some(asked.listed(listed.key())),
        restore_status: None,
    })
}

fn contents(
    objects: &[ListedObject],
    asked: &Asked,
    owners: Option<&Owners<'_>>,
) -> S3Result<Option<Vec<dto::Object>>> {
    objects
        .iter()
        .map(|listed| object(listed, asked, owners))
        .collect::<S3Result<Vec<_>>>()
        .map(Some)
}

pub(super) async fn list_objects(
    gateway: &Gateway,
    request: S3Request<dto::ListObjectsInput>,
) -> S3Result<dto::ListObjectsOutput> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::ListBucket).await?;
    let input = request.input;
    let mut asked = Asked::new(
        input.prefix,
        input.delimiter,
        input.marker,
        input.encoding_type,
        input.max_keys,
    )?;
    let page = asked.page(&gateway.objects, &grant, None).await?;
    let entries = Entries::new(page.entries, &asked);
    let owners = Owners::new(gateway, granted_bucket(&grant)?);
    let contents = contents(&entries.objects, &asked, Some(&owners))?;
    Ok(dto::ListObjectsOutput {
        name: Some(input.bucket),
        prefix: asked.plain_prefix(),
        marker: asked.echoed_marker(),
        max_keys: Some(convert::count(asked.max_keys)),
        is_truncated: Some(page.next.is_some()),
        contents,
        common_prefixes: Some(entries.prefixes),
        delimiter: asked.echoed_delimiter(),
        // S3 gives it with a delimiter only; without one the last key is the marker.
        next_marker: page
            .next
            .filter(|_| asked.delimiter.is_some())
            .map(|next| asked.listed(&next)),
        encoding_type: asked.encoding_type,
        request_charged: None,
    })
}

pub(super) async fn list_objects_v2(
    gateway: &Gateway,
    request: S3Request<dto::ListObjectsV2Input>,
) -> S3Result<dto::ListObjectsV2Output> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::ListBucket).await?;
    let input = request.input;
    let mut asked = Asked::new(
        input.prefix,
        input.delimiter,
        input.start_after,
        input.encoding_type,
        input.max_keys,
    )?;
    let scope = Scope {
        operation: "ListObjectsV2",
        of: &input.bucket,
    };
    // The token goes before start-after: it is further on.
    let place = match input.continuation_token.as_deref() {
        Some(token) if !token.is_empty() => Some(gateway.tokens.open(scope, token)?),
        _ => None,
    };
    let page = asked.page(&gateway.objects, &grant, place).await?;
    let entries = Entries::new(page.entries, &asked);
    let key_count = entries.objects.len() + entries.prefixes.len();
    let owners = input
        .fetch_owner
        .unwrap_or(false)
        .then(|| granted_bucket(&grant).map(|bucket| Owners::new(gateway, bucket)))
        .transpose()?;
    let contents = contents(&entries.objects, &asked, owners.as_ref())?;
    let next_continuation_token = page.next.as_deref().map(|next| gateway.tokens.seal(scope, next));
    Ok(dto::ListObjectsV2Output {
        prefix: asked.echoed_prefix(),
        max_keys: Some(convert::count(asked.max_keys)),
        key_count: Some(convert::count(key_count)),
        continuation_token: input.continuation_token,
        is_truncated: Some(next_continuation_token.is_some()),
        next_continuation_token,
        contents,
        common_prefixes: Some(entries.prefixes),
        delimiter: asked.echoed_delimiter(),
        start_after: asked.after.as_deref().map(|start| asked.listed(start)),
        encoding_type: asked.encoding_type,
        name: Some(input.bucket),
        request_charged: None,
    })
}

/// Every object of a bucket without versions is its latest and has the version "null".
pub(super) async fn list_object_versions(
    gateway: &Gateway,
    request: S3Request<dto::ListObjectVersionsInput>,
) -> S3Result<dto::ListObjectVersionsOutput> {
    let caller = caller!(request);
    let grant = gateway
        .grant(caller, &request.input.bucket, Action::ListBucketVersions)
        .await?;
    let input = request.input;
    let has_key_marker = input.key_marker.as_ref().is_some_and(|marker| !marker.is_empty());
    let has_version_marker = input
        .version_id_marker
        .as_ref()
        .is_some_and(|marker| !marker.is_empty());
    if has_version_marker && !has_key_marker {
        return Err(invalid_argument(
            "A version-id marker cannot be specified without a key marker.",
        ));
    }
    let mut asked = Asked::new(
        input.prefix,
        input.delimiter,
        input.key_marker,
        input.encoding_type,
        input.max_keys,
    )?;
    let page = asked.page(&gateway.objects, &grant, None).await?;
    let entries = Entries::new(page.entries, &asked);
    let owners = Owners::new(gateway, granted_bucket(&grant)?);
    let versions = entries.objects.iter().map(|listed| {
        let object = object(listed, &asked, Some(&owners))?;
        Ok(dto::ObjectVersion {
            checksum_algorithm: object.checksum_algorithm,
            checksum_type: object.checksum_type,
            e_tag: object.e_tag,
            is_latest: Some(true),
            key: object.key,
            last_modified: object.last_modified,
            owner: object.owner,
            restore_status: None,
            size: object.size,
            storage_class: object.storage_class.map(|class| class.as_str().to_owned().into()),
            version_id: Some(convert::NULL_VERSION.to_owned()),
        })
    });
    Ok(dto::ListObjectVersionsOutput {
        versions: Some(versions.collect::<S3Result<Vec<_>>>()?),
        common_prefixes: Some(entries.prefixes),
        delimiter: asked.echoed_delimiter(),
        is_truncated: Some(page.next.is_some()),
        key_marker: asked.echoed_marker(),
        max_keys: Some(convert::count(asked.max_keys)),
        name: Some(input.bucket),
        next_version_id_marker: (page.next.is_some() && !entries.ends_with_prefix)
            .then(|| convert::NULL_VERSION.to_owned()),
        next_key_marker: page.next.map(|next| asked.listed(&next)),
        prefix: asked.echoed_prefix(),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        encoding_type: asked.encoding_type,
        delete_markers: None,
        request_charged: None,
    })
}
