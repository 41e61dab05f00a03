//! Between the wire's types and ours.

use std::borrow::Cow;
use std::collections::HashSet;

use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::dto;
use s3s::{S3Error, S3ErrorCode, S3Result};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

use crate::clock::Timestamp;
use crate::limits;
use crate::object::types::{ETag, ETagCondition, InvalidKey, ObjectKey, RangeSpec, ReadConditions, WriteConditions};
use crate::s3::error::{invalid_argument, refuse};

/// RFC 9110 section 5.6.7.
const HTTP_DATE: &[FormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// What `encoding-type=url` leaves as it is: unreserved characters and the slash.
const LISTED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// Of a body that came without one.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html>
pub(super) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";
pub(super) const STANDARD: &str = "STANDARD";
/// The version id of an object in a bucket that never had versions.
pub(super) const NULL_VERSION: &str = "null";

const STORAGE_CLASSES: [&str; 11] = [
    STANDARD,
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "GLACIER_IR",
    "OUTPOSTS",
    "SNOW",
    "EXPRESS_ONEZONE",
];

fn moment(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.unix_ms()) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

pub(super) fn timestamp(time: Timestamp) -> dto::Timestamp {
    dto::Timestamp::from(moment(time))
}

pub(super) fn http_date(time: Timestamp) -> Option<HeaderValue> {
    HeaderValue::try_from(moment(time).format(HTTP_DATE).ok()?).ok()
}

/// Moments before 1970 are taken for 1970.
pub(super) fn unix(time: dto::Timestamp) -> Timestamp {
    let ms = OffsetDateTime::from(time).unix_timestamp_nanos() / 1_000_000;
    Timestamp::from_unix_ms(u64::try_from(ms.max(0)).unwrap_or(u64::MAX))
}

pub(super) fn etag(etag: ETag) -> dto::ETag {
    dto::ETag::Strong(etag.to_string())
}

pub(super) fn key(key: String) -> S3Result<ObjectKey> {
    let is_empty = key.is_empty();
    ObjectKey::parse(key).map_err(|InvalidKey| {
        if is_empty {
            invalid_argument("The object key must not be empty.")
        } else {
            let message = format!(
                "Your key is too long: a key has at most {} bytes.",
                limits::KEY_BYTES_MAX
            );
            refuse(S3ErrorCode::KeyTooLongError, message)
        }
    })
}

/// An ETag condition. The header may hold a list, which s3s hands over as one quoted text.
fn etag_condition(condition: dto::ETagCondition) -> ETagCondition {
    match condition {
        dto::ETagCondition::Any => ETagCondition::Any,
        dto::ETagCondition::ETag(tag) => ETagCondition::OneOf(split_etags(tag.value())),
    }
}

/// `a", W/"b` (a list without its outermost quotes) gives `a` and `b`.
pub(super) fn split_etags(value: &str) -> Vec<String> {
    if !value.contains('"') {
        return vec![value.to_owned()];
    }
    value
        .split(',')
        .map(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned()
        })
        .filter(|tag| !tag.is_empty())
        .collect()
}

/// The four conditions of a read, or of the source of a copy.
pub(super) fn read_conditions(
    if_match: Option<dto::ETagCondition>,
    if_none_match: Option<dto::ETagCondition>,
    if_modified_since: Option<dto::Timestamp>,
    if_unmodified_since: Option<dto::Timestamp>,
) -> ReadConditions {
    ReadConditions {
        if_match: if_match.map(etag_condition),
        if_none_match: if_none_match.map(etag_condition),
        if_modified_since: if_modified_since.map(unix),
        if_unmodified_since: if_unmodified_since.map(unix),
    }
}

pub(super) fn write_conditions(
    if_match: Option<dto::ETagCondition>,
    if_none_match: Option<dto::ETagCondition>,
) -> WriteConditions {
    WriteConditions {
        if_match: if_match.map(etag_condition),
        if_none_match: if_none_match.map(etag_condition),
        ..WriteConditions::default()
    }
}

pub(super) fn delete_conditions(
    if_match: Option<dto::ETagCondition>,
    size: Option<i64>,
    last_modified: Option<dto::Timestamp>,
) -> S3Result<WriteConditions> {
    let if_match_size = size.map(|size| u64::try_from(size).map_err(|_| invalid_argument("The size is negative.")));
    Ok(WriteConditions {
        if_match: if_match.map(etag_condition),
        if_match_size: if_match_size.transpose()?,
        if_match_last_modified: last_modified.map(unix),
        ..WriteConditions::default()
    })
}

pub(super) fn range(range: dto::Range) -> RangeSpec {
    match range {
        dto::Range::Int { first, last } => RangeSpec::From(first, last),
        dto::Range::Suffix { length } => RangeSpec::Suffix(length),
    }
}

/// `x-amz-copy-source-range`: only `bytes=first-last`.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPartCopy.html>
pub(super) fn copy_source_range(text: &str) -> S3Result<(u64, u64)> {
    match dto::Range::parse(text) {
        Ok(dto::Range::Int {
            first,
            last: Some(last),
        }) => Ok((first, last)),
        _ => Err(invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy.",
        )),
    }
}

pub(super) fn invalid_part_number() -> S3Error {
    let message = format!(
        "Part number must be an integer between 1 and {}, inclusive.",
        limits::PART_NUMBER_MAX
    );
    invalid_argument(message)
}

pub(super) fn part_number(number: i32) -> S3Result<u16> {
    match u16::try_from(number) {
        Ok(number) if (1..=limits::PART_NUMBER_MAX).contains(&number) => Ok(number),
        _ => Err(invalid_part_number()),
    }
}

/// A page size: what to echo and what to ask for. `None` is the maximum, and so is everything above it.
pub(super) fn page_size(asked: Option<i32>, name: &str, max: usize) -> S3Result<usize> {
    match asked {
        None => Ok(max),
        Some(asked) => usize::try_from(asked)
            .map(|asked| asked.min(max))
            .map_err(|_| invalid_argument(format!("Argument {name} must be an integer between 0 and 2147483647."))),
    }
}

/// Sizes and counts for the wire, which counts with signs.
pub(super) fn signed(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

pub(super) fn count(value: impl TryInto<i32>) -> i32 {
    value.try_into().unwrap_or(i32::MAX)
}

/// Whether a listing encodes its names.
pub(super) fn wants_url_encoding(encoding: Option<&dto::EncodingType>) -> S3Result<bool> {
    match encoding.map(dto::EncodingType::as_str) {
        None => Ok(false),
        Some(encoding) if encoding.eq_ignore_ascii_case("url") => Ok(true),
        Some(_) => Err(invalid_argument(
            "Invalid Encoding Method specified in Request. Only url is known.",
        )),
    }
}

/// A name in a listing.
pub(super) fn listed(name: &str, url_encoded: bool) -> String {
    if url_encoded {
        Cow::from(utf8_percent_encode(name, LISTED)).into_owned()
    } else {
        name.to_owned()
    }
}

/// Whether an XML 1.0 document can hold this name as it is.
pub(super) fn fits_xml(name: &str) -> bool {
    let fits = |c: char| matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{FFFE}' | '\u{FFFF}'));
    name.chars().all(fits)
}

/// The headers of CreateMultipartUpload, PutObject and CopyObject, whose inputs name them alike.
macro_rules! take_object_headers {
    ($input:expr, $tags:expr) => {
        $crate::object::types::ObjectHeaders {
            content_type: $input.content_type.take(),
            content_encoding: $crate::s3::convert::content_encoding($input.content_encoding.take()),
            content_language: $input.content_language.take(),
            content_disposition: $input.content_disposition.take(),
            cache_control: $input.cache_control.take(),
            expires: $input.expires.take(),
            website_redirect_location: $input.website_redirect_location.take(),
            storage_class: $crate::s3::convert::storage_class($input.storage_class.take())?,
            user: $crate::s3::convert::user_metadata($input.metadata.take())?,
            tags: $tags,
        }
    };
}
pub(super) use take_object_headers;

/// The headers that an object gives back.
macro_rules! give_object_headers {
    ($output:expr, $headers:expr) => {{
        let headers = $headers;
        $output.content_type = Some(
            headers
                .content_type
                .unwrap_or_else(|| $crate::s3::convert::DEFAULT_CONTENT_TYPE.to_owned()),
        );
        $output.content_encoding = headers.content_encoding;
        $output.content_language = headers.content_language;
        $output.content_disposition = headers.content_disposition;
        $output.cache_control = headers.cache_control;
        $output.expires = headers.expires;
        $output.website_redirect_location = headers.website_redirect_location;
        $output.storage_class = headers.storage_class.map(s3s::dto::StorageClass::from);
        if !headers.tags.is_empty() {
            $output.tag_count = Some($crate::s3::convert::count(headers.tags.len()));
        }
        if !headers.user.is_empty() {
            $output.metadata = Some(headers.user.into_iter().collect());
        }
    }};
}
pub(super) use give_object_headers;

/// `aws-chunked` tells how the body was sent and is not a property of the object.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html>
pub(super) fn content_encoding(encoding: Option<String>) -> Option<String> {
    let encoding = encoding?;
    let is_framing = |coding: &str| coding.eq_ignore_ascii_case("aws-chunked");
    let codings = || encoding.split(',').map(str::trim);
    if !codings().any(is_framing) {
        return Some(encoding);
    }
    let kept: Vec<&str> = codings()
        .filter(|coding| !coding.is_empty() && !is_framing(coding))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// `None` is STANDARD.
pub(super) fn storage_class(class: Option<dto::StorageClass>) -> S3Result<Option<String>> {
    match class {
        None => Ok(None),
        Some(class) if class.as_str() == STANDARD => Ok(None),
        Some(class) if STORAGE_CLASSES.contains(&class.as_str()) => Ok(Some(class.as_str().to_owned())),
        Some(_) => Err(refuse(
            S3ErrorCode::InvalidStorageClass,
            format!(
                "The storage class is unknown. It is one of {}.",
                STORAGE_CLASSES.join(", ")
            ),
        )),
    }
}

pub(super) fn user_metadata(metadata: Option<dto::Metadata>) -> S3Result<Vec<(String, String)>> {
    let mut user: Vec<(String, String)> = metadata.unwrap_or_default().into_iter().collect();
    let bytes: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::USER_METADATA_BYTES_MAX {
        return Err(refuse(
            S3ErrorCode::MetadataTooLarge,
            format!(
                "Your metadata headers have {bytes} bytes and exceed the maximum of {}.",
                limits::USER_METADATA_BYTES_MAX
            ),
        ));
    }
    user.sort_unstable();
    Ok(user)
}

/// `x-amz-tagging`: a query string of at most 10 distinct tags.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html>
pub(super) fn tags(tagging: Option<&str>) -> S3Result<Vec<(String, String)>> {
    let Some(text) = tagging else { return Ok(Vec::new()) };
    let mut tags: Vec<(String, String)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        tags.push((decode_form(name)?, decode_form(value)?));
    }
    check_tags(&tags, "An object", limits::TAGS_MAX)?;
    tags.sort_unstable();
    Ok(tags)
}

/// What S3 demands of the tags of an object or a bucket.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html>
pub(super) fn check_tags(tags: &[(String, String)], whose: &str, max: usize) -> S3Result<()> {
    let invalid = |message: &'static str| Err(refuse(S3ErrorCode::InvalidTag, message));
    if tags.len() > max {
        return Err(refuse(
            S3ErrorCode::InvalidTag,
            format!("{whose} has at most {max} tags."),
        ));
    }
    let mut names = HashSet::with_capacity(tags.len());
    for (name, value) in tags {
        if name.is_empty() || name.chars().count() > 128 {
            return invalid("A tag's key has 1 to 128 characters.");
        }
        if value.chars().count() > 256 {
            return invalid("A tag's value has at most 256 characters.");
        }
        if name.starts_with("aws:") {
            return invalid("Tag keys that begin with aws: are reserved.");
        }
        if name.chars().chain(value.chars()).any(char::is_control) || !fits_xml(name) || !fits_xml(value) {
            return invalid("A tag holds no control characters.");
        }
        if !names.insert(name) {
            return invalid("Cannot provide multiple tags with the same key.");
        }
    }
    Ok(())
}

fn decode_form(text: &str) -> S3Result<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| invalid_argument("The header x-amz-tagging is not a query string in UTF-8."))
}

/// Only the null version exists in a bucket that never had versions.
pub(super) fn only_null_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some(NULL_VERSION) => Ok(()),
        Some(_) => Err(refuse(
            S3ErrorCode::NoSuchVersion,
            "The specified version does not exist.",
        )),
    }
}

/// Whether REPLACE was asked for; COPY is the default.
pub(super) fn is_replace(directive: Option<&str>, header: &str) -> S3Result<bool> {
    match directive {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(invalid_argument(format!("{header} is COPY or REPLACE."))),
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
