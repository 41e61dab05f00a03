//! GetObject and HeadObject.

use http::HeaderMap;
use s3s::{S3Request, S3Result, dto};

use crate::iam::Action;
use crate::object::GetRequest;
use crate::object::types::{ObjectInfo, ReadConditions};
use crate::s3::checksum::{self, give_checksum};
use crate::s3::convert::give_object_headers;
use crate::s3::error::invalid_request;
use crate::s3::{Gateway, body, caller, convert, hoisted, range};

/// What both operations are asked.
fn read_request(
    headers: &HeaderMap,
    range: Option<dto::Range>,
    part_number: Option<i32>,
    conditions: ReadConditions,
) -> S3Result<GetRequest> {
    if range.is_some() && part_number.is_some() {
        return Err(invalid_request(
            "Cannot specify both Range header and partNumber query parameter.",
        ));
    }
    Ok(GetRequest {
        range: range.map(convert::range),
        if_range: range::condition(headers),
        part_number: part_number.map(convert::part_number).transpose()?,
        conditions,
    })
}

/// What both operations answer about the object and the part of it that was asked for.
macro_rules! give_object {
    ($output:expr, $outcome:expr, $info:expr, $wants_checksum:expr) => {{
        let info: ObjectInfo = $info;
        $output.accept_ranges = Some("bytes".to_owned());
        $output.e_tag = Some(convert::etag(info.etag));
        $output.last_modified = Some(convert::timestamp(info.last_modified));
        $output.content_length = Some(convert::signed($outcome.length));
        if $outcome.is_range {
            let last = ($outcome.first + $outcome.length).saturating_sub(1);
            $output.content_range = Some(format!("bytes {}-{last}/{}", $outcome.first, info.size));
        }
        $output.parts_count = $outcome.parts.map(i32::from);
        // A part has its own checksum; that of the whole object proves no range of it.
        if $wants_checksum {
            if let Some(part) = $outcome.part_checksum.as_ref() {
                give_checksum!($output, Some(part), 0);
                $output.checksum_type = info.checksum.as_ref().map(|checksum| checksum::kind_name(checksum.kind));
            } else if !$outcome.is_range {
                give_checksum!(typed $output, info.checksum.as_ref(), info.etag.parts);
            }
        }
        give_object_headers!($output, info.headers);
    }};
}

pub(super) async fn get_object(
    gateway: &Gateway,
    request: S3Request<dto::GetObjectInput>,
) -> S3Result<dto::GetObjectOutput> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::GetObject).await?;
    let input = request.input;
    convert::only_null_version(input.version_id.as_deref())?;
    let conditions = convert::read_conditions(
        input.if_match,
        input.if_none_match,
        input.if_modified_since,
        input.if_unmodified_since,
    );
    let asked = read_request(&request.headers, input.range, input.part_number, conditions)?;
    let wants_checksum = checksum::is_wanted(input.checksum_mode.as_ref()) || hoisted::wants_checksum(&request.uri);
    let outcome = gateway.objects.get(&grant, &convert::key(input.key)?, asked).await?;
    let mut output = dto::GetObjectOutput::default();
    give_object!(output, outcome, outcome.info, wants_checksum);
    output.body = Some(body::outgoing(outcome.body, outcome.length));
    Ok(output)
}

pub(super) async fn head_object(
    gateway: &Gateway,
    request: S3Request<dto::HeadObjectInput>,
) -> S3Result<dto::HeadObjectOutput> {
    let caller = caller!(request);
    let grant = gateway.grant(caller, &request.input.bucket, Action::GetObject).await?;
    let input = request.input;
    convert::only_null_version(input.version_id.as_deref())?;
    let conditions = convert::read_conditions(
        input.if_match,
        input.if_none_match,
        input.if_modified_since,
        input.if_unmodified_since,
    );
    let asked = read_request(&request.headers, input.range, input.part_number, conditions)?;
    let wants_checksum = checksum::is_wanted(input.checksum_mode.as_ref()) || hoisted::wants_checksum(&request.uri);
    let outcome = gateway.objects.head(&grant, &convert::key(input.key)?, asked).await?;
    let mut output = dto::HeadObjectOutput::default();
    give_object!(output, outcome, outcome.info, wants_checksum);
    // The response-* parameters of a HEAD; those of a GET are s3s's work.
    let overrides = [
        (input.response_cache_control, &mut output.cache_control),
        (input.response_content_disposition, &mut output.content_disposition),
        (input.response_content_encoding, &mut output.content_encoding),
        (input.response_content_language, &mut output.content_language),
        (input.response_content_type, &mut output.content_type),
    ];
    for (asked, header) in overrides {
        if asked.is_some() {
            *header = asked;
        }
    }
    if let Some(expires) = input.response_expires {
        let mut text = Vec::with_capacity(29);
        if expires.format(dto::TimestampFormat::HttpDate, &mut text).is_ok() {
            output.expires = String::from_utf8(text).ok();
        }
    }
    Ok(output)
}
