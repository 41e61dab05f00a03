//! The Range header. S3 ignores one that does not ask for a single range of bytes; s3s refuses it.

use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};
use s3s::dto::{Timestamp, TimestampFormat};

use crate::object::types::IfRange;
use crate::s3::convert;

/// The last byte that s3s can name. No object reaches it.
const POSITION_MAX: u64 = i64::MAX.unsigned_abs();

/// Puts the header right for s3s. It must not be covered by the signature.
pub(super) fn repair(headers: &mut HeaderMap) {
    let mut sent = headers.get_all(RANGE).iter();
    let repaired = match (sent.next(), sent.next()) {
        (Some(value), None) => value.to_str().ok().and_then(repaired),
        _ => None,
    };
    match repaired.and_then(|value| HeaderValue::try_from(value).ok()) {
        Some(value) => drop(headers.insert(RANGE, value)),
        None => drop(headers.remove(RANGE)),
    }
}

/// The one range of bytes that is asked for, its numbers cut to what s3s can read; `None` for what S3 ignores.
/// Source: <https://www.rfc-editor.org/rfc/rfc9110.html#section-14.1.2>
pub(super) fn repaired(sent: &str) -> Option<String> {
    let (unit, range) = sent.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    match (first, last) {
        ("", length) => Some(format!("bytes=-{}", position(length)?)),
        (first, "") => Some(format!("bytes={}-", position(first)?)),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then(|| format!("bytes={first}-{last}"))
        }
    }
}

/// The version of which the range is wanted. What is neither a strong tag nor a date matches no version.
pub(super) fn condition(headers: &HeaderMap) -> Option<IfRange> {
    let sent = headers.get(IF_RANGE)?.to_str().unwrap_or_default().trim();
    let tag = sent.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    Some(match tag {
        Some(tag) => IfRange::ETag(tag.to_owned()),
        None => match Timestamp::parse(TimestampFormat::HttpDate, sent) {
            Ok(date) => IfRange::Modified(convert::unix(date)),
            Err(_) => IfRange::Never,
        },
    })
}

fn position(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // All that can fail now is that the number is too large.
    Some(digits.parse().unwrap_or(POSITION_MAX).min(POSITION_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use s3s::dto::Range;

    #[test]
    fn ranges_are_put_right_or_ignored() {
        for (sent, expected) in [
            ("bytes=0-4", Some("bytes=0-4")),
            ("Bytes= 007-", Some("bytes=7-")),
            ("bytes=-3", Some("bytes=-3")),
            ("bytes=0-99999999999999999999", Some("bytes=0-9223372036854775807")),
            ("bytes=99999999999999999999-", Some("bytes=9223372036854775807-")),
            ("bytes=-99999999999999999999", Some("bytes=-9223372036854775807")),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("bytes=-", None),
            ("bytes=", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes 0-4", None),
            ("lines=0-4", None),
            ("", None),
        ] {
            assert_eq!(repaired(sent).as_deref(), expected, "{sent}");
        }
    }

    proptest! {
        #[test]
        fn what_is_put_right_is_read_by_s3s(sent in "(bytes=)?[0-9,a -]{0,30}") {
            match (Range::parse(&sent), repaired(&sent)) {
                // s3s takes no length for zero.
                (Ok(_), None) => prop_assert_eq!(sent, "bytes=-"),
                (Ok(Range::Suffix { length }), repaired) => {
                    let length = length.min(POSITION_MAX);
                    prop_assert_eq!(repaired, Some(format!("bytes=-{length}")));
                }
                (Ok(range), repaired) => prop_assert_eq!(repaired, Some(range.to_header_string())),
                (Err(_), Some(repaired)) => prop_assert!(Range::parse(&repaired).is_ok()),
                (Err(_), None) => {}
            }
        }
    }
}
