//! The fuzz targets of the wire's own parsers; `crate::fuzz` lists them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use s3s::host::S3Host;
use s3s::{S3Error, dto};

use super::access::{EVERYWHERE, check_headers, check_query, is_printable, query_keys};
use super::checksum::{algorithm, content_md5, header_value, integrity, is_announced, of_complete, trailer_in, value};
use super::convert::{content_encoding, copy_source_range, key, listed, split_etags, tags};
use super::hoisted::{add_metadata, is_taken, with_query};
use super::host::Domains;
use super::multipart::upload_id;
use super::range::repaired;
use super::signed;
use super::token::{Scope, Tokens};
use super::wire::never_valid;
use crate::limits;
use crate::object::types::{Checksum, ChecksumKind, ExpectedChecksum};
use crate::script::{Script, text};

const SCOPE: Scope<'static> = Scope {
    operation: "ListObjectsV2",
    of: "media",
};

/// A refusal repeats little of what it refuses.
fn is_brief(error: &S3Error) -> bool {
    error.message().is_none_or(|message| message.len() < 1024)
}

/// Lines of `name: value`; what is no header is left out.
fn headers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.take(limits::HEADERS_MAX) {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// What opens is what would be sealed; a sealed token opens only unaltered and only where it was made.
pub(crate) fn s3_token(data: &[u8]) {
    let tokens = Tokens::new(&[7; 32]);
    let token = text(data);
    match tokens.open(SCOPE, &token) {
        Ok(place) => assert_eq!(tokens.seal(SCOPE, &place), token),
        Err(error) => assert!(is_brief(&error)),
    }
    let mut script = Script::new(data);
    let (at, mask) = (usize::from(script.u16()), script.u8().max(1));
    let place: String = text(script.bytes(limits::KEY_BYTES_MAX / 3)).into_owned();
    let sealed = tokens.seal(SCOPE, &place);
    assert!(tokens.open(SCOPE, &sealed).is_ok_and(|opened| opened == place));
    assert!(tokens.open(Scope { of: "medi", ..SCOPE }, &sealed).is_err());
    let mut altered = sealed.into_bytes();
    let at = at % altered.len();
    if let Some(byte) = altered.get_mut(at) {
        *byte ^= mask;
    }
    if let Ok(altered) = String::from_utf8(altered) {
        assert!(tokens.open(SCOPE, &altered).is_err(), "an altered token opens");
    }
}

/// The first line is a Host, each other one a domain. A bucket is what stands before a domain, in lower case, whatever
/// the case of the Host and whether it names a port.
pub(crate) fn s3_host(data: &[u8]) {
    let text = text(data);
    let (host, domains) = text.split_once('\n').unwrap_or((&text, "s3.example.com\nlocal"));
    let list: Vec<String> = domains.split('\n').take(8).map(str::to_owned).collect();
    let Some(domains) = Domains::new(&list) else { return };
    let bucket = |host: &str| {
        let parsed = domains
            .parse_host_header(host)
            .map(|host| host.bucket().map(str::to_owned));
        parsed.unwrap_or_else(|error| panic!("a host was refused: {error}"))
    };
    let found = bucket(host);
    assert_eq!(domains.has_bucket(host), found.is_some());
    assert_eq!(bucket(&host.to_ascii_uppercase()), found);
    if !host.contains(':') {
        assert_eq!(bucket(&format!("{host}:9000")), found);
    }
    if let Some(bucket) = found {
        assert!(!bucket.is_empty() && !bucket.bytes().any(|byte| byte.is_ascii_uppercase()));
        assert!(host.to_ascii_lowercase().starts_with(&format!("{bucket}.")));
        let lower = host.to_ascii_lowercase();
        let is_domain = |domain: &String| {
            let domain = domain.to_ascii_lowercase();
            let name = domain.rsplit_once(':').map_or(domain.as_str(), |(name, _)| name);
            [domain.as_str(), name]
                .iter()
                .any(|domain| lower.contains(domain.trim_matches('.')))
        };
        assert!(list.iter().any(is_domain));
    }
}

/// Every value of a header that we take apart ourselves, each from the whole input.
pub(crate) fn s3_convert(data: &[u8]) {
    let text = text(data);
    match tags(Some(&text)) {
        Ok(found) => tags_are_sound(&found),
        Err(error) => assert!(is_brief(&error)),
    }
    match copy_source_range(&text) {
        Ok((first, last)) => {
            assert!(first <= last);
            assert!(copy_source_range(&format!("bytes={first}-{last}")).is_ok_and(|again| again == (first, last)));
        }
        Err(error) => assert!(is_brief(&error)),
    }
    if let Some(range) = repaired(&text) {
        assert!(dto::Range::parse(&range).is_ok_and(|parsed| parsed.to_header_string() == range));
        assert_eq!(repaired(&range), Some(range));
    }
    let etags = split_etags(&text);
    assert!(etags.iter().map(String::len).sum::<usize>() <= text.len());
    let is_plain =
        |tag: &String| !tag.is_empty() && !tag.starts_with("W/") && tag.trim() == tag && !tag.contains([',', '"']);
    if etags.iter().all(is_plain) {
        assert_eq!(
            split_etags(&etags.join("\", \"")),
            if etags.is_empty() { vec![String::new()] } else { etags }
        );
    }
    if let Some(kept) = content_encoding(Some(text.clone().into_owned())) {
        assert!(kept.len() <= text.len());
        assert!(
            !kept
                .split(',')
                .any(|coding| coding.trim().eq_ignore_ascii_case("aws-chunked")),
            "{kept:?}"
        );
        assert_eq!(content_encoding(Some(kept.clone())), Some(kept));
    }
    if let Ok(key) = key(text.clone().into_owned()) {
        assert!(key.as_str() == text && (1..=limits::KEY_BYTES_MAX).contains(&text.len()));
    }
    let encoded = listed(&text, true);
    assert!(encoded.len() <= 3 * text.len());
    assert!(
        percent_decode_str(&encoded)
            .decode_utf8()
            .is_ok_and(|name| name == text)
    );
    if let Ok(id) = upload_id(&text) {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
}

fn tags_are_sound(found: &[(String, String)]) {
    assert!(found.len() <= limits::TAGS_MAX);
    assert!(found.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a < b)));
    let is_sound = |(name, value): &(String, String)| {
        (1..=128).contains(&name.chars().count()) && value.chars().count() <= 256 && !name.starts_with("aws:")
    };
    assert!(found.iter().all(is_sound));
    let pairs: Vec<String> = found
        .iter()
        .map(|(name, value)| format!("{}={}", listed(name, true), listed(value, true)))
        .collect();
    assert!(tags(Some(&pairs.join("&"))).is_ok_and(|again| again == found));
}

/// An operation, its query, then headers. What passes names only what the operation has.
pub(crate) fn s3_access(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let operation = text(lines.next().unwrap_or_default());
    let query = text(lines.next().unwrap_or_default());
    let allowed = query_keys(&operation).unwrap_or_default();
    match check_query(&query, &operation, allowed) {
        Ok(()) => {
            let mut names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
            assert!(names.all(|name| name.is_empty() || allowed.contains(&name) || EVERYWHERE.contains(&name)));
            let token = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("continuation-token="));
            assert!(token.is_none_or(is_printable));
        }
        Err(error) => assert!(operation.len() > 256 || is_brief(&error)),
    }
    let expires = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Expires="));
    if let Some(seconds) = expires.and_then(|seconds| seconds.parse::<i64>().ok()) {
        assert_eq!(never_valid(&query), seconds <= 0, "{query:?}");
    }
    let headers = headers(lines);
    match signed::check(&headers, Some(&query)) {
        Ok(()) => assert_ne!(signed::covers(&headers, Some(&query), "HOST"), Some(false)),
        Err(error) => assert!(is_brief(&error)),
    }
    if check_headers(&headers).is_ok() {
        let fronts = [
            "server-side-encryption",
            "copy-source-server-side-encryption",
            "object-lock-",
            "grant-",
        ];
        let names = ["mfa", "write-offset-bytes", "bucket-namespace"];
        for name in headers.keys().filter_map(|name| name.as_str().strip_prefix("x-amz-")) {
            assert!(
                !fronts.iter().any(|front| name.starts_with(front)) && !names.contains(&name),
                "{name}"
            );
        }
    }
}

/// Headers, then behind an empty line the trailer. A value that is taken is the base64 of just its algorithm's width.
pub(crate) fn s3_checksum(data: &[u8]) {
    let (head, trailer): (Vec<_>, Vec<_>) = {
        let mut lines = data.split(|byte| *byte == b'\n');
        (
            lines.by_ref().take_while(|line| !line.is_empty()).collect(),
            lines.collect(),
        )
    };
    let (head, trailer) = (headers(head.into_iter()), headers(trailer.into_iter()));
    let given = header_value(&head);
    assert!(!matches!(given, Ok(Some(_))) || is_announced(&head));
    if let Ok(Some((found, text))) = &given
        && let Ok(bytes) = value(*found, text)
    {
        assert!(bytes.len() == found.width() && STANDARD.encode(&bytes) == *text);
        assert!(algorithm(&found.name().to_ascii_lowercase()).is_ok_and(|again| again == *found));
        let checksum = Checksum {
            algorithm: *found,
            kind: ChecksumKind::Composite,
            value: bytes.clone(),
        };
        let written = super::checksum::text(&checksum, 7);
        assert!(written.strip_suffix("-7").is_some_and(|front| front == text));
    }
    match content_md5(&head) {
        Ok(Some(md5)) => assert!(
            head.get("content-md5")
                .is_some_and(|text| STANDARD.encode(md5).as_bytes() == text.as_bytes())
        ),
        Ok(None) => assert!(!head.contains_key("content-md5")),
        Err(error) => assert!(is_brief(&error)),
    }
    if let Ok(Some((found, bytes))) = of_complete(&head) {
        assert_eq!(bytes.len(), found.width());
    }
    match integrity(&head, None) {
        Ok(wanted) => match wanted.checksum {
            ExpectedChecksum::Header(found, bytes) => {
                assert!(value(found, &STANDARD.encode(&bytes)).is_ok_and(|again| again == bytes));
                assert!(matches!(&given, Ok(Some((named, _))) if *named == found));
            }
            ExpectedChecksum::Trailer(..) => panic!("a trailer without a body that has one"),
            ExpectedChecksum::Compute(_) | ExpectedChecksum::None => assert!(matches!(given, Ok(None))),
        },
        Err(error) => assert!(is_brief(&error)),
    }
    for name in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"] {
        if let Ok(found) = algorithm(name)
            && let Some(bytes) = trailer_in(found, &trailer)
        {
            assert_eq!(bytes.len(), found.width());
        }
    }
}

/// The first line is a query, each other one a header. What the query adds is a header that can be sent, and what was
/// sent stays as it is.
pub(crate) fn s3_hoisted(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Ok(uri) = format!("/b/k?{}", text(lines.next().unwrap_or_default())).parse::<Uri>() else {
        return;
    };
    let sent = headers(lines);
    match with_query(&sent, &uri) {
        Ok(all) => {
            for name in sent.keys() {
                assert!(
                    all.get_all(name).iter().eq(sent.get_all(name)),
                    "a sent header is altered"
                );
            }
            for name in all.keys().filter(|name| !sent.contains_key(*name)) {
                assert!(is_taken("UploadPart", name.as_str()), "{name} is taken from the query");
            }
        }
        Err(error) => assert!(is_brief(&error)),
    }
    let kept = ("kept".to_owned(), "as sent".to_owned());
    let mut metadata = Some(dto::Metadata::from([kept.clone()]));
    match add_metadata(&mut metadata, &uri) {
        Ok(()) => {
            let metadata = metadata.unwrap_or_default();
            assert_eq!(metadata.get(&kept.0), Some(&kept.1));
            let is_header = |name: &String| HeaderName::from_lowercase(format!("x-amz-meta-{name}").as_bytes()).is_ok();
            assert!(metadata.keys().all(is_header));
        }
        Err(error) => assert!(is_brief(&error)),
    }
}
