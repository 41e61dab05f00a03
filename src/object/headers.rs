//! Headers as record fields: what a client stored with its object, in the tags that the record leaves to us.

use bytes::Bytes;

use crate::meta::object::HeaderField;
use crate::meta::record::{Malformed, decode_pairs, encode_pairs, text};
use crate::object::types::ObjectHeaders;

const RECORD: &str = "object headers";

const TAG_CONTENT_TYPE: u8 = 16;
const TAG_CONTENT_ENCODING: u8 = 17;
const TAG_CONTENT_LANGUAGE: u8 = 18;
const TAG_CONTENT_DISPOSITION: u8 = 19;
const TAG_CACHE_CONTROL: u8 = 20;
const TAG_EXPIRES: u8 = 21;
const TAG_WEBSITE_REDIRECT: u8 = 22;
const TAG_USER: u8 = 23;
const TAG_TAGS: u8 = 24;

/// The fields of `headers` in the order of their tags. The storage class has a field of the record's own.
pub fn to_fields(headers: &ObjectHeaders) -> Vec<HeaderField> {
    let texts = [
        (TAG_CONTENT_TYPE, &headers.content_type),
        (TAG_CONTENT_ENCODING, &headers.content_encoding),
        (TAG_CONTENT_LANGUAGE, &headers.content_language),
        (TAG_CONTENT_DISPOSITION, &headers.content_disposition),
        (TAG_CACHE_CONTROL, &headers.cache_control),
        (TAG_EXPIRES, &headers.expires),
        (TAG_WEBSITE_REDIRECT, &headers.website_redirect_location),
    ];
    let mut fields: Vec<HeaderField> = texts
        .into_iter()
        .filter_map(|(tag, text)| Some((tag, Bytes::copy_from_slice(text.as_ref()?.as_bytes()))))
        .collect();
    for (tag, pairs) in [(TAG_USER, &headers.user), (TAG_TAGS, &headers.tags)] {
        if !pairs.is_empty() {
            fields.push((tag, encode_pairs(pairs)));
        }
    }
    fields
}

/// The headers of `fields`. Fields of a newer gateway stay in the record and are not shown.
pub fn from_fields(fields: &[HeaderField], storage_class: Option<String>) -> Result<ObjectHeaders, Malformed> {
    let mut headers = ObjectHeaders {
        storage_class,
        ..ObjectHeaders::default()
    };
    for (tag, bytes) in fields {
        let slot = match *tag {
            TAG_CONTENT_TYPE => &mut headers.content_type,
            TAG_CONTENT_ENCODING => &mut headers.content_encoding,
            TAG_CONTENT_LANGUAGE => &mut headers.content_language,
            TAG_CONTENT_DISPOSITION => &mut headers.content_disposition,
            TAG_CACHE_CONTROL => &mut headers.cache_control,
            TAG_EXPIRES => &mut headers.expires,
            TAG_WEBSITE_REDIRECT => &mut headers.website_redirect_location,
            TAG_USER => {
                headers.user = decode_pairs(RECORD, bytes.clone())?;
                continue;
            }
            TAG_TAGS => {
                headers.tags = decode_pairs(RECORD, bytes.clone())?;
                continue;
            }
            _ => continue,
        };
        *slot = Some(text(RECORD, bytes)?);
    }
    Ok(headers)
}

/// The fields of a copy: `base` with what the request replaces. The redirect is the request's alone.
pub fn replace_fields(
    base: Vec<HeaderField>,
    headers: Option<&ObjectHeaders>,
    website_redirect: Option<&str>,
    tags: Option<&[(String, String)]>,
) -> Vec<HeaderField> {
    let mut kept: Vec<HeaderField> = base
        .into_iter()
        .filter(|(tag, _)| match *tag {
            TAG_TAGS => tags.is_none(),
            TAG_WEBSITE_REDIRECT => false,
            _ => headers.is_none(),
        })
        .collect();
    if let Some(headers) = headers {
        let replaced = to_fields(headers).into_iter();
        kept.extend(replaced.filter(|(tag, _)| !matches!(*tag, TAG_TAGS | TAG_WEBSITE_REDIRECT)));
    }
    if let Some(redirect) = website_redirect {
        kept.push((TAG_WEBSITE_REDIRECT, Bytes::copy_from_slice(redirect.as_bytes())));
    }
    if let Some(tags) = tags.filter(|tags| !tags.is_empty()) {
        kept.push((TAG_TAGS, encode_pairs(tags)));
    }
    kept.sort_by_key(|(tag, _)| *tag);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip(
            texts in proptest::collection::vec(proptest::option::of(".{0,30}"), 8),
            user in proptest::collection::vec((".{1,9}", ".{0,30}"), 0..5), tags in proptest::collection::vec((".{1,9}", ".{0,30}"), 0..5),
        ) {
            let headers = ObjectHeaders {
                content_type: texts[0].clone(), content_encoding: texts[1].clone(), content_language: texts[2].clone(),
                content_disposition: texts[3].clone(), cache_control: texts[4].clone(), expires: texts[5].clone(),
                website_redirect_location: texts[6].clone(), storage_class: texts[7].clone(), user, tags,
            };
            let fields = to_fields(&headers);
            prop_assert_eq!(from_fields(&fields, headers.storage_class.clone()).unwrap(), headers.clone());
            let redirect = headers.website_redirect_location.as_deref();
            prop_assert_eq!(replace_fields(fields.clone(), None, redirect, None), fields.clone());
            prop_assert_eq!(replace_fields(Vec::new(), Some(&headers), redirect, Some(&headers.tags)), fields.clone());
            let without = fields.iter().filter(|(tag, _)| *tag != TAG_WEBSITE_REDIRECT).cloned().collect::<Vec<_>>();
            prop_assert_eq!(replace_fields(fields, None, None, None), without);
        }

        #[test]
        fn any_bytes_are_read_without_panic(tag in 16u8..30, bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = from_fields(&[(tag, Bytes::from(bytes))], None);
        }
    }
}
