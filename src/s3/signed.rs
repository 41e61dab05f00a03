//! What a signature says of itself, read before s3s verifies it.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;
use s3s::{S3ErrorCode, S3Result};

use crate::s3::error::{invalid_argument, refuse};
use crate::s3::query::pairs;

/// The region of a credential's scope that is none: "US", which s3cmd signs for until it is told better.
pub(super) fn bad_region(headers: &HeaderMap, query: Option<&str>) -> bool {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credential = match authorization {
        Some(value) => value
            .split([' ', ','])
            .find_map(|field| field.strip_prefix("Credential="))
            .map(Cow::Borrowed),
        None => pairs(query)
            .find(|(name, _)| *name == "X-Amz-Credential")
            .and_then(|(_, value)| percent_decode_str(value).decode_utf8().ok()),
    };
    let is_region = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    // ACCESS-KEY/DATE/REGION/s3/aws4_request, and a key may hold slashes.
    let region = credential.as_ref().and_then(|credential| credential.rsplit('/').nth(2));
    region.is_some_and(|region| !is_region(region))
}

/// Refuses a request that is signed twice, and a signature that would hold for any host.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>
pub(super) fn check(headers: &HeaderMap, query: Option<&str>) -> S3Result<()> {
    let is_presigned = pairs(query).any(|(name, _)| matches!(name, "X-Amz-Algorithm" | "X-Amz-Signature"));
    if is_presigned && headers.contains_key(AUTHORIZATION) {
        return Err(invalid_argument(
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter \
             or the Authorization header should be specified.",
        ));
    }
    match covers(headers, query, "host") {
        Some(false) => Err(refuse(
            S3ErrorCode::AccessDenied,
            "There were headers present in the request which were not signed: host.",
        )),
        _ => Ok(()),
    }
}

/// Whether the signature covers the header of that name; `None` where it does not say what it covers.
pub(super) fn covers(headers: &HeaderMap, query: Option<&str>, header: &str) -> Option<bool> {
    let names = names(headers, query)?;
    Some(names.split(';').any(|name| name.eq_ignore_ascii_case(header)))
}

fn names<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, str>> {
    if let Some(authorization) = headers.get(AUTHORIZATION) {
        let mut fields = authorization.to_str().ok()?.split(',');
        let names = fields.find_map(|field| field.trim().strip_prefix("SignedHeaders="))?;
        return Some(Cow::Borrowed(names));
    }
    let (_, names) = pairs(query).find(|(name, _)| *name == "X-Amz-SignedHeaders")?;
    percent_decode_str(names).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn what_is_signed_is_found_in_either_place(names in proptest::collection::vec("[a-z-]{1,8}", 1..5), other in "[a-z-]{1,8}") {
            let list = names.join(";");
            let mut headers = HeaderMap::new();
            let query = format!("a&X-Amz-SignedHeaders={}&X-Amz-Signature=0", list.replace(';', "%3B"));
            for name in &names {
                prop_assert_eq!(covers(&headers, Some(&query), &name.to_ascii_uppercase()), Some(true));
            }
            prop_assert_eq!(covers(&headers, Some(&query), &other), Some(names.contains(&other)));
            prop_assert_eq!(check(&headers, Some(&query)).is_ok(), names.iter().any(|name| name == "host"));
            let authorization = format!("AWS4-HMAC-SHA256 Credential=A/b/c/s3/aws4_request,SignedHeaders={list}, Signature=0");
            headers.insert(AUTHORIZATION, authorization.parse().unwrap());
            prop_assert_eq!(covers(&headers, None, &other), Some(names.contains(&other)));
            prop_assert!(check(&headers, Some(&query)).is_err());
        }

        #[test]
        fn any_header_and_query_are_read(authorization in "\\PC{0,60}", query in "\\PC{0,60}") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = authorization.parse() {
                headers.insert(AUTHORIZATION, value);
            }
            let _ = check(&headers, Some(&query));
            let _ = bad_region(&headers, Some(&query));
        }
    }
}
