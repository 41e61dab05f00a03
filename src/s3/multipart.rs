//! The operations on multipart uploads.

use s3s::{S3Request, S3Result, dto};

use crate::iam::Action;
use crate::ids::UploadId;
use crate::limits;
use crate::object::types::{CompletedPart, UploadInfo};
use crate::object::{CompleteUpload, CreateUpload, ListParts, ListUploads, UploadEntry, UploadPart};
use crate::s3::checksum::{self, give_checksum};
use crate::s3::convert::take_object_headers;
use crate::s3::error::{invalid_argument, invalid_request, no_such_upload, not_implemented, refuse};
use crate::s3::write::{content_length, refuse_acl};
use crate::s3::{Gateway, body, caller, convert, hoisted};

/// An id that was never given out names no upload.
pub(super) fn upload_id(text: &str) -> S3Result<UploadId> {
    text.parse().map_err(|_| no_such_upload())
}

pub(super) async fn create_multipart_upload(
    gateway: &Gateway,
    request: S3Request<dto::CreateMultipartUploadInput>,
) -> S3Result<dto::CreateMultipartUploadOutput> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::PutObject).await?;
    let mut input = request.input;
    refuse_acl(&grant, input.acl.as_ref())?;
    let headers = take_object_headers!(input, convert::tags(input.tagging.as_deref())?);
    let algorithm = match &input.checksum_algorithm {
        Some(name) => Some(checksum::algorithm(name.as_str())?),
        None => None,
    };
    let kind = checksum::kind(input.checksum_type.as_ref())?;
    if algorithm.is_none() && kind.is_some() {
        return Err(invalid_request(
            "The x-amz-checksum-type header can only be used with x-amz-checksum-algorithm.",
        ));
    }
    if !convert::fits_xml(&input.key) {
        return Err(not_implemented("A multipart upload to a key that XML cannot hold"));
    }
    let asked = CreateUpload {
        key: convert::key(input.key.clone())?,
        headers,
        checksum: algorithm.map(|algorithm| (algorithm, kind)),
    };
    let upload = gateway.objects.create_upload(&grant, asked).await?;
    Ok(dto::CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload.id.to_string()),
        // Only what the client asked for is told; a checksum of our own choice stays ours until the end.
        checksum_algorithm: algorithm.map(checksum::algorithm_name),
        checksum_type: algorithm
            .and(upload.checksum)
            .map(|(_, kind)| checksum::kind_name(kind)),
        ..Default::default()
    })
}

pub(super) async fn upload_part(
    gateway: &Gateway,
    request: S3Request<dto::UploadPartInput>,
) -> S3Result<dto::UploadPartOutput> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::PutObject).await?;
    let input = request.input;
    let sent = hoisted::with_query(&request.headers, &request.uri)?;
    let asked = UploadPart {
        key: convert::key(input.key)?,
        upload: upload_id(&input.upload_id)?,
        number: convert::part_number(input.part_number)?,
        body: body::incoming(input.body),
        content_length: content_length(input.content_length)?,
        integrity: checksum::integrity(&sent, request.trailing_headers)?,
    };
    let written = gateway.objects.upload_part(&grant, asked).await?;
    let mut output = dto::UploadPartOutput {
        e_tag: Some(convert::etag(written.etag)),
        ..Default::default()
    };
    give_checksum!(output, written.checksum.as_ref(), 0);
    Ok(output)
}

pub(super) async fn list_parts(
    gateway: &Gateway,
    request: S3Request<dto::ListPartsInput>,
) -> S3Result<dto::ListPartsOutput> {
    let caller = caller!(request);
    let grant = gateway
        .grant(caller, &request.input.bucket, Action::ListMultipartUploadParts)
        .await?;
    let input = request.input;
    let limit = convert::page_size(input.max_parts, "max-parts", limits::LIST_PAGE_MAX)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let asked = ListParts {
        key: convert::key(input.key.clone())?,
        upload: upload_id(&input.upload_id)?,
        part_number_marker: part_marker(marker)?,
        limit,
    };
    let page = gateway.objects.list_parts(&grant, asked).await?;
    let parts = page.parts.into_iter().map(|part| {
        let mut output = dto::Part {
            e_tag: Some(convert::etag(part.etag)),
            last_modified: Some(convert::timestamp(part.last_modified)),
            part_number: Some(i32::from(part.number)),
            size: Some(convert::signed(part.size)),
            ..Default::default()
        };
        give_checksum!(output, part.checksum.as_ref(), 0);
        output
    });
    let upload = page.upload;
    Ok(dto::ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        parts: Some(parts.collect()),
        max_parts: Some(convert::count(limit)),
        part_number_marker: Some(marker),
        is_truncated: Some(page.next.is_some()),
        next_part_number_marker: page.next.map(i32::from),
        checksum_algorithm: upload
            .checksum
            .map(|(algorithm, _)| checksum::algorithm_name(algorithm)),
        checksum_type: upload.checksum.map(|(_, kind)| checksum::kind_name(kind)),
        initiator: Some(gateway.initiator(upload.owner.clone())),
        owner: Some(gateway.owner(upload.owner)),
        storage_class: Some(class(upload.storage_class)),
        ..Default::default()
    })
}

fn class(class: Option<String>) -> dto::StorageClass {
    match class {
        Some(class) => class.into(),
        None => dto::StorageClass::from_static(convert::STANDARD),
    }
}

/// A marker beyond the last part number is a marker behind all parts.
pub(super) fn part_marker(marker: i32) -> S3Result<u16> {
    u32::try_from(marker)
        .map(|marker| u16::try_from(marker).unwrap_or(u16::MAX))
        .map_err(|_| invalid_argument("Argument part-number-marker must be an integer between 0 and 2147483647."))
}

pub(super) async fn list_multipart_uploads(
    gateway: &Gateway,
    request: S3Request<dto::ListMultipartUploadsInput>,
) -> S3Result<dto::ListMultipartUploadsOutput> {
    let caller = caller!(request);
    let grant = gateway
        .grant(caller, &request.input.bucket, Action::ListBucketMultipartUploads)
        .await?;
    let input = request.input;
    let url = convert::wants_url_encoding(input.encoding_type.as_ref())?;
    let limit = convert::page_size(input.max_uploads, "max-uploads", limits::LIST_PAGE_MAX)?;
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let key_marker = input.key_marker.unwrap_or_default();
    // What the answer echoes; a key of an upload always fits.
    let echoed = [input.prefix.as_deref(), delimiter.as_deref(), Some(key_marker.as_str())];
    let url = url || !echoed.into_iter().flatten().all(convert::fits_xml);
    // Without a key marker S3 ignores the id marker.
    let upload_id_marker = match input.upload_id_marker.as_deref() {
        Some(marker) if !marker.is_empty() && !key_marker.is_empty() => Some(
            marker
                .parse()
                .map_err(|_| invalid_argument("Invalid uploadId marker."))?,
        ),
        _ => None,
    };
    let asked = ListUploads {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: delimiter.clone(),
        key_marker: key_marker.clone(),
        upload_id_marker,
        limit,
    };
    let mut uploads = Vec::new();
    let mut prefixes = Vec::new();
    let mut next = None;
    if limit > 0 {
        let page = gateway.objects.list_uploads(&grant, asked).await?;
        next = page.next;
        for entry in page.entries {
            match entry {
                UploadEntry::Upload(upload) => uploads.push(listed_upload(gateway, upload, url)),
                UploadEntry::CommonPrefix(prefix) => {
                    prefixes.push(dto::CommonPrefix {
                        prefix: Some(convert::listed(&prefix, url)),
                    });
                }
            }
        }
    }
    let is_truncated = next.is_some();
    let (next_key_marker, next_upload_id_marker) = next.unzip();
    Ok(dto::ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        uploads: Some(uploads),
        common_prefixes: Some(prefixes),
        delimiter: delimiter.map(|delimiter| convert::listed(&delimiter, url)),
        encoding_type: url.then(|| dto::EncodingType::from_static(dto::EncodingType::URL)),
        is_truncated: Some(is_truncated),
        key_marker: Some(convert::listed(&key_marker, url)),
        max_uploads: Some(convert::count(limit)),
        next_key_marker: next_key_marker.map(|marker| convert::listed(&marker, url)),
        next_upload_id_marker: next_upload_id_marker.flatten().map(|id| id.to_string()),
        prefix: Some(convert::listed(input.prefix.as_deref().unwrap_or_default(), url)),
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        request_charged: None,
    })
}

fn listed_upload(gateway: &Gateway, upload: UploadInfo, url: bool) -> dto::MultipartUpload {
    dto::MultipartUpload {
        checksum_algorithm: upload
            .checksum
            .map(|(algorithm, _)| checksum::algorithm_name(algorithm)),
        checksum_type: upload.checksum.map(|(_, kind)| checksum::kind_name(kind)),
        initiated: Some(convert::timestamp(upload.initiated)),
        initiator: Some(gateway.initiator(upload.owner.clone())),
        owner: Some(gateway.owner(upload.owner)),
        key: Some(convert::listed(upload.key.as_str(), url)),
        storage_class: Some(class(upload.storage_class)),
        upload_id: Some(upload.id.to_string()),
    }
}

pub(super) async fn complete_multipart_upload(
    gateway: &Gateway,
    request: S3Request<dto::CompleteMultipartUploadInput>,
) -> S3Result<dto::CompleteMultipartUploadOutput> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::PutObject).await?;
    let input = request.input;
    let parts = input
        .multipart_upload
        .and_then(|upload| upload.parts)
        .unwrap_or_default();
    let object_size = match input.mpu_object_size {
        Some(size) => Some(u64::try_from(size).map_err(|_| invalid_argument("x-amz-mp-object-size is negative."))?),
        None => None,
    };
    let asked = CompleteUpload {
        key: convert::key(input.key.clone())?,
        upload: upload_id(&input.upload_id)?,
        parts: parts.iter().map(completed_part).collect::<S3Result<Vec<_>>>()?,
        object_size,
        checksum: checksum::of_complete(&request.headers)?,
        checksum_kind: checksum::kind(input.checksum_type.as_ref())?,
        conditions: convert::write_conditions(input.if_match, input.if_none_match),
    };
    let written = gateway.objects.complete_upload(&grant, asked).await?;
    let mut output = dto::CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, convert::listed(&input.key, true))),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(convert::etag(written.etag)),
        ..Default::default()
    };
    give_checksum!(typed output, written.checksum.as_ref(), written.etag.parts);
    Ok(output)
}

fn completed_part(part: &dto::CompletedPart) -> S3Result<CompletedPart> {
    let (Some(number), Some(etag)) = (part.part_number, &part.e_tag) else {
        return Err(refuse(
            s3s::S3ErrorCode::MalformedXML,
            "Each part must be named by its PartNumber and its ETag.",
        ));
    };
    Ok(CompletedPart {
        number: convert::part_number(number)?,
        etag: etag.value().to_owned(),
        checksum: checksum::of_part(part)?,
    })
}

pub(super) async fn abort_multipart_upload(
    gateway: &Gateway,
    request: S3Request<dto::AbortMultipartUploadInput>,
) -> S3Result<dto::AbortMultipartUploadOutput> {
    let caller = caller!(request);
    let grant = gateway
        .grant(caller, &request.input.bucket, Action::AbortMultipartUpload)
        .await?;
    let input = request.input;
    if input.if_match_initiated_time.is_some() {
        return Err(crate::s3::error::not_implemented("x-amz-if-match-initiated-time"));
    }
    gateway
        .objects
        .abort_upload(&grant, &convert::key(input.key)?, upload_id(&input.upload_id)?)
        .await?;
    Ok(dto::AbortMultipartUploadOutput::default())
}
