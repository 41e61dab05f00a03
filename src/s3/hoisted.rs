//! Headers that an SDK has moved into the query of a presigned URL, where whoever uses the URL need not know of them: the
//! AWS SDK for JavaScript does so with all `x-amz-*` headers. S3 takes them from there as if they had been sent.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use s3s::{S3Result, dto};

use crate::s3::error::invalid_request;
use crate::s3::query::pairs;

const METADATA: &str = "x-amz-meta-";
const SDK_ALGORITHM: &str = "x-amz-sdk-checksum-algorithm";
const CHECKSUM: &str = "x-amz-checksum-";
const CHECKSUM_MODE: &str = "x-amz-checksum-mode";
/// CRC32, CRC32C, CRC64NVME, SHA-1 and SHA-256 of no bytes: what the SDK writes into a URL that it signs before there is
/// a body.
const OF_NO_BYTES: [&str; 4] = [
    "AAAAAA==",
    "AAAAAAAAAAA=",
    "2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
    "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
];

/// Whether a query key of that operation is a header that is taken from the query.
pub(super) fn is_taken(operation: &str, key: &str) -> bool {
    let is_checksum = key == SDK_ALGORITHM || key.starts_with(CHECKSUM);
    match operation {
        "PutObject" => is_checksum || key.starts_with(METADATA),
        "UploadPart" => is_checksum,
        "GetObject" | "HeadObject" => key == CHECKSUM_MODE,
        _ => false,
    }
}

/// Whether the query asks for the object's checksum.
pub(super) fn wants_checksum(uri: &Uri) -> bool {
    pairs(uri.query()).any(|(name, value)| name == CHECKSUM_MODE && value.eq_ignore_ascii_case("ENABLED"))
}

/// The headers with those of the query. A header that was sent as well goes before.
pub(super) fn with_query<'a>(headers: &'a HeaderMap, uri: &Uri) -> S3Result<Cow<'a, HeaderMap>> {
    let mut all = Cow::Borrowed(headers);
    let mut sums = pairs(uri.query()).filter(|(name, _)| name.starts_with(CHECKSUM));
    if sums.any(|(name, value)| decoded(name, value).is_ok_and(|value| OF_NO_BYTES.contains(&value.as_str()))) {
        return Ok(all);
    }
    for (name, value) in pairs(uri.query()).filter(|(name, _)| *name == SDK_ALGORITHM || name.starts_with(CHECKSUM)) {
        if headers.contains_key(name) {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable(name))?;
        let value = HeaderValue::from_str(&decoded(name.as_str(), value)?).map_err(|_| unusable(name.as_str()))?;
        all.to_mut().append(name, value);
    }
    Ok(all)
}

/// Adds the query's metadata to that of the headers, which goes before.
pub(super) fn add_metadata(metadata: &mut Option<dto::Metadata>, uri: &Uri) -> S3Result<()> {
    for (name, value) in
        pairs(uri.query()).filter(|(name, _)| name.len() > METADATA.len() && name.starts_with(METADATA))
    {
        // It goes back as a header: a name that is none would make the object unreadable.
        let header = HeaderName::from_bytes(decoded(name, name)?.as_bytes()).map_err(|_| unusable(name))?;
        let value = decoded(name, value)?;
        if let Some(name) = header.as_str().strip_prefix(METADATA) {
            let named = metadata.get_or_insert_default();
            named.entry(name.to_owned()).or_insert(value);
        }
    }
    Ok(())
}

fn decoded(name: &str, value: &str) -> S3Result<String> {
    let value = percent_decode_str(value).decode_utf8().map_err(|_| unusable(name))?;
    Ok(value.into_owned())
}

fn unusable(name: &str) -> s3s::S3Error {
    let shown: String = name.chars().take(64).collect();
    invalid_request(format!("The query parameter \"{shown}\" cannot be a header."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_the_query_can_go_back_as_headers() {
        let taken = |query: &str| {
            let mut metadata = Some(dto::Metadata::from([("a".to_owned(), "sent".to_owned())]));
            add_metadata(&mut metadata, &format!("/b/k?{query}").parse().unwrap()).map(|()| metadata.unwrap())
        };
        let both = taken("x-amz-meta-A=query&x-amz-meta-%62=%C3%A9%20&x-amz-meta-=1&y=2").unwrap();
        let expected = [("a", "sent"), ("b", "é ")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(both, dto::Metadata::from(expected));
        assert!(taken("x-amz-meta-(=1").is_err());
        assert!(taken("x-amz-meta-%28=1").is_err());
        assert!(taken("x-amz-meta-b=%FF").is_err());
    }
}
