use super::{content_encoding, copy_source_range, listed, page_size, split_etags, tags};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

#[test]
fn aws_chunked_is_not_a_coding_of_the_object() {
    let encoding = |text: &str| content_encoding(Some(text.to_owned()));
    assert_eq!(encoding("aws-chunked"), None);
    assert_eq!(encoding("aws-chunked, gzip"), Some("gzip".to_owned()));
    assert_eq!(encoding("gzip,aws-chunked,br"), Some("gzip,br".to_owned()));
    assert_eq!(encoding("AWS-Chunked, x-aws-chunked"), Some("x-aws-chunked".to_owned()));
    assert_eq!(encoding("gzip"), Some("gzip".to_owned()));
}

#[test]
fn lists_of_etags_come_apart() {
    assert_eq!(split_etags("abc"), ["abc"]);
    assert_eq!(split_etags("abc\", W/\"def\", \"ghi"), ["abc", "def", "ghi"]);
}

#[test]
fn pages_have_bounds() {
    assert_eq!(page_size(None, "n", 1000).unwrap(), 1000);
    assert_eq!(page_size(Some(0), "n", 1000).unwrap(), 0);
    assert_eq!(page_size(Some(i32::MAX), "n", 1000).unwrap(), 1000);
    assert!(page_size(Some(-1), "n", 1000).is_err());
}

proptest! {
    #[test]
    fn any_tagging_is_read_or_refused(text in any::<String>(), form in "[a-c=&%+0-9]{0,40}") {
        for text in [text, form] {
            if let Ok(tags) = tags(Some(&text)) {
                prop_assert!(tags.len() <= crate::limits::TAGS_MAX);
                prop_assert!(tags.windows(2).all(|pair| pair[0].0 < pair[1].0));
            }
        }
    }

    #[test]
    fn any_source_range_is_read_or_refused(text in any::<String>(), range in "bytes=[0-9]{0,22}-[0-9]{0,22}") {
        for text in [text, range] {
            if let Ok((first, last)) = copy_source_range(&text) {
                prop_assert!(first <= last);
            }
        }
    }

    #[test]
    fn any_etag_list_is_read(text in any::<String>()) {
        let _ = split_etags(&text);
        let _ = content_encoding(Some(text));
    }

    #[test]
    fn listed_names_decode_to_themselves(name in any::<String>()) {
        let encoded = listed(&name, true);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/%".contains(&byte);
        prop_assert!(encoded.bytes().all(is_plain));
        prop_assert_eq!(percent_encoding::percent_decode_str(&encoded).decode_utf8().unwrap(), name);
    }
}
