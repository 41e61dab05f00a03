//! The client's checksums: how a request announces them and how an answer gives them back.
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use s3s::{S3ErrorCode, S3Result, TrailingHeaders, dto};

use crate::object::types::{Checksum, ChecksumAlgorithm, ChecksumKind, ExpectedChecksum, Integrity};
use crate::s3::error::{invalid_request, not_implemented, refuse};

const PREFIX: &str = "x-amz-checksum-";

/// The algorithm of a name in `x-amz-sdk-checksum-algorithm`, `x-amz-checksum-algorithm` or after `x-amz-checksum-`.
pub(super) fn algorithm(name: &str) -> S3Result<ChecksumAlgorithm> {
    const KNOWN: [ChecksumAlgorithm; 5] = [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ];
    if let Some(known) = KNOWN.into_iter().find(|known| name.eq_ignore_ascii_case(known.name())) {
        return Ok(known);
    }
    if ["sha512", "md5", "xxhash64", "xxhash3", "xxhash128"]
        .iter()
        .any(|other| name.eq_ignore_ascii_case(other))
    {
        return Err(not_implemented(&format!(
            "The checksum algorithm {}",
            name.to_ascii_uppercase()
        )));
    }
    Err(invalid_request(
        "Checksum algorithm provided is unsupported. Use CRC32, CRC32C, CRC64NVME, SHA1 or SHA256.",
    ))
}

pub(super) fn kind(kind: Option<&dto::ChecksumType>) -> S3Result<Option<ChecksumKind>> {
    match kind.map(dto::ChecksumType::as_str) {
        None => Ok(None),
        Some(dto::ChecksumType::FULL_OBJECT) => Ok(Some(ChecksumKind::FullObject)),
        Some(dto::ChecksumType::COMPOSITE) => Ok(Some(ChecksumKind::Composite)),
        Some(_) => Err(invalid_request(
            "Value for x-amz-checksum-type header is invalid: FULL_OBJECT or COMPOSITE.",
        )),
    }
}

/// A value in base64 of the algorithm's width. Anything else matches no body, and is refused as such (ceph/s3-tests
/// demands BadDigest; AWS says InvalidRequest).
pub(super) fn value(algorithm: ChecksumAlgorithm, text: &str) -> S3Result<Vec<u8>> {
    match STANDARD.decode(text) {
        Ok(value) if value.len() == algorithm.width() => Ok(value),
        _ => Err(refuse(
            S3ErrorCode::BadDigest,
            format!(
                "Value for {PREFIX}{} header is invalid.",
                algorithm.name().to_ascii_lowercase()
            ),
        )),
    }
}

/// The one `x-amz-checksum-<algorithm>` header with its value.
pub(super) fn header_value(headers: &HeaderMap) -> S3Result<Option<(ChecksumAlgorithm, String)>> {
    let mut found = None;
    for (name, text) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        if matches!(name, "mode" | "type" | "algorithm") {
            continue;
        }
        let algorithm = algorithm(name)?;
        let Ok(text) = text.to_str() else {
            return Err(invalid_request(format!("Value for {PREFIX}{name} header is invalid.")));
        };
        if found.replace((algorithm, text.to_owned())).is_some() {
            return Err(invalid_request(
                "Expecting a single x-amz-checksum- header. Multiple checksum types are not allowed.",
            ));
        }
    }
    Ok(found)
}

/// What the body of a PutObject or an UploadPart must be equal to.
pub(super) fn integrity(headers: &HeaderMap, trailers: Option<TrailingHeaders>) -> S3Result<Integrity> {
    let named = match headers.get("x-amz-sdk-checksum-algorithm") {
        Some(name) => Some(algorithm(name.to_str().unwrap_or_default())?),
        None => None,
    };
    let given = match header_value(headers)? {
        Some((algorithm, text)) => Some((algorithm, value(algorithm, &text)?)),
        None => None,
    };
    let trailer = announced_trailer(headers)?;
    let checksum = match (given, trailer, trailers) {
        (Some(_), Some(_), _) => {
            return Err(invalid_request(
                "The checksum comes either in a header or in the trailer, not in both.",
            ));
        }
        (Some((algorithm, value)), None, _) => ExpectedChecksum::Header(algorithm, value),
        (None, Some(algorithm), Some(handle)) => {
            ExpectedChecksum::Trailer(algorithm, Box::new(move || trailer_value(algorithm, &handle)))
        }
        (None, Some(_), None) => {
            return Err(invalid_request(
                "x-amz-trailer needs a streaming x-amz-content-sha256 that ends in -TRAILER.",
            ));
        }
        (None, None, _) => match named {
            Some(algorithm) => ExpectedChecksum::Compute(algorithm),
            None => ExpectedChecksum::None,
        },
    };
    let of_value = match &checksum {
        ExpectedChecksum::Header(algorithm, _) | ExpectedChecksum::Trailer(algorithm, _) => Some(*algorithm),
        _ => None,
    };
    if named.is_some() && of_value.is_some() && named != of_value {
        return Err(invalid_request(
            "Value for x-amz-sdk-checksum-algorithm header does not match the checksum provided.",
        ));
    }
    Ok(Integrity {
        content_md5: content_md5(headers)?,
        checksum,
    })
}

fn announced_trailer(headers: &HeaderMap) -> S3Result<Option<ChecksumAlgorithm>> {
    let mut found = None;
    for names in headers.get_all("x-amz-trailer") {
        for name in names
            .to_str()
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            let name = name.to_ascii_lowercase();
            let Some(name) = name.strip_prefix(PREFIX) else {
                return Err(invalid_request(
                    "The value specified in the x-amz-trailer header is not supported.",
                ));
            };
            if found.replace(algorithm(name)?).is_some() {
                return Err(invalid_request("Expecting a single x-amz-checksum- trailer."));
            }
        }
    }
    Ok(found)
}

/// `None` when the trailer did not come or holds no value of this algorithm.
fn trailer_value(algorithm: ChecksumAlgorithm, trailers: &TrailingHeaders) -> Option<Vec<u8>> {
    trailers.read(|headers| trailer_in(algorithm, headers))?
}

pub(super) fn trailer_in(algorithm: ChecksumAlgorithm, headers: &HeaderMap) -> Option<Vec<u8>> {
    let name = format!("{PREFIX}{}", algorithm.name().to_ascii_lowercase());
    let mut values = headers.get_all(name).iter();
    let text = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value(algorithm, text.to_str().ok()?).ok()
}

pub(super) fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(text) = headers.get("content-md5") else {
        return Ok(None);
    };
    let mut md5 = [0; 16];
    match STANDARD.decode_slice(text.as_bytes(), &mut md5) {
        Ok(16) => Ok(Some(md5)),
        _ => Err(refuse(
            S3ErrorCode::InvalidDigest,
            "The Content-MD5 that you specified is not valid: it is the base64 of 16 bytes.",
        )),
    }
}

/// The checksum of a whole object as CompleteMultipartUpload names it: a composite one may carry `-N`.
pub(super) fn of_complete(headers: &HeaderMap) -> S3Result<Option<(ChecksumAlgorithm, Vec<u8>)>> {
    match header_value(headers)? {
        Some((algorithm, text)) => {
            let text = text.split_once('-').map_or(text.as_str(), |(value, _)| value);
            Ok(Some((algorithm, value(algorithm, text)?)))
        }
        None => Ok(None),
    }
}

/// The checksum of a part as CompleteMultipartUpload names it.
pub(super) fn of_part(part: &dto::CompletedPart) -> S3Result<Option<(ChecksumAlgorithm, Vec<u8>)>> {
    let given = [
        (ChecksumAlgorithm::Crc32, &part.checksum_crc32),
        (ChecksumAlgorithm::Crc32c, &part.checksum_crc32c),
        (ChecksumAlgorithm::Crc64Nvme, &part.checksum_crc64nvme),
        (ChecksumAlgorithm::Sha1, &part.checksum_sha1),
        (ChecksumAlgorithm::Sha256, &part.checksum_sha256),
    ];
    match given
        .into_iter()
        .find_map(|(algorithm, text)| text.as_ref().map(|text| (algorithm, text)))
    {
        Some((algorithm, text)) => Ok(Some((algorithm, value(algorithm, text)?))),
        None => Ok(None),
    }
}

/// The value as S3 writes it: of a composite checksum with the number of parts.
pub(super) fn text(checksum: &Checksum, parts: u16) -> String {
    let mut text = STANDARD.encode(&checksum.value);
    if checksum.kind == ChecksumKind::Composite && parts > 0 {
        text.push('-');
        text.push_str(&parts.to_string());
    }
    text
}

pub(super) fn kind_name(kind: ChecksumKind) -> dto::ChecksumType {
    dto::ChecksumType::from_static(match kind {
        ChecksumKind::FullObject => dto::ChecksumType::FULL_OBJECT,
        ChecksumKind::Composite => dto::ChecksumType::COMPOSITE,
    })
}

pub(super) fn algorithm_name(algorithm: ChecksumAlgorithm) -> dto::ChecksumAlgorithm {
    dto::ChecksumAlgorithm::from_static(algorithm.name())
}

/// Puts the value into the field of its algorithm; outputs name these fields alike.
macro_rules! give_checksum {
    ($output:expr, $checksum:expr, $parts:expr) => {
        if let Some(checksum) = $checksum {
            let text = Some($crate::s3::checksum::text(checksum, $parts));
            match checksum.algorithm {
                $crate::object::types::ChecksumAlgorithm::Crc32 => $output.checksum_crc32 = text,
                $crate::object::types::ChecksumAlgorithm::Crc32c => $output.checksum_crc32c = text,
                $crate::object::types::ChecksumAlgorithm::Crc64Nvme => $output.checksum_crc64nvme = text,
                $crate::object::types::ChecksumAlgorithm::Sha1 => $output.checksum_sha1 = text,
                $crate::object::types::ChecksumAlgorithm::Sha256 => $output.checksum_sha256 = text,
            }
        }
    };
    (typed $output:expr, $checksum:expr, $parts:expr) => {
        $crate::s3::checksum::give_checksum!($output, $checksum, $parts);
        $output.checksum_type = $checksum.map(|checksum| $crate::s3::checksum::kind_name(checksum.kind));
    };
}
pub(super) use give_checksum;

/// Whether a GET or HEAD wants the checksum.
pub(super) fn is_wanted(mode: Option<&dto::ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case(dto::ChecksumMode::ENABLED))
}

/// The body of a request in XML must carry Content-MD5 or a checksum.
pub(super) fn is_announced(headers: &HeaderMap) -> bool {
    headers.contains_key("content-md5")
        || headers.contains_key("x-amz-trailer")
        || headers.keys().any(|name| {
            name.as_str()
                .strip_prefix(PREFIX)
                .is_some_and(|name| !matches!(name, "mode" | "type" | "algorithm"))
        })
}
