//! The parsers of outside bytes as functions of bytes. `fuzz/` runs them under libFuzzer; the test below replays what was
//! found there. A target checks more than that nothing panics: what is read is within its bounds, what is written again
//! reads the same, and what was altered is refused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};

use crate::chunk::codec::{Codec, Codecs, Compression, Hint};
use crate::chunk::pack::fuzz::pack;
use crate::chunk::record::{HEADER_BYTES, RECORD_RAW_BYTES_MAX, RecordHeader, crc32c};
use crate::config::{Config, MasterKeySource, units};
use crate::iam::{AccessKey, Identities, Secret};
use crate::ids::{BucketId, Sequence};
use crate::kv::Counter;
use crate::kv::log::fuzz::kv_log;
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::chunk::ChunkRow;
use crate::meta::collector::CollectorRow;
use crate::meta::data::{DataRow, GarbageRow};
use crate::meta::domain::DomainRow;
use crate::meta::encryption::EncryptionRow;
use crate::meta::object::{OBJECT_RECORD_BYTES_MAX, ObjectHead, ObjectRecord, decode_headers, encode_headers};
use crate::meta::pack::PackRow;
use crate::meta::record::Malformed;
use crate::meta::scrub::ScrubRow;
use crate::meta::segment::{SEGMENT_ENTRIES_MAX, SegmentRow};
use crate::meta::tree::TreeRow;
use crate::meta::upload::{CompletedRecord, ManifestPage, PartRecord, Sweep, UploadRecord};
use crate::object::headers::{from_fields, to_fields};
use crate::s3::fuzz::{s3_access, s3_checksum, s3_convert, s3_hoisted, s3_host, s3_token};
use crate::script::{Script, text};
use crate::server::{keyring, reply, root_key};
use crate::telemetry::{self, Operation};

/// Panics when the parser breaks a promise.
pub type Target = fn(&[u8]);

/// Every target by its name, which its folder in `fuzz/corpus` bears.
pub const TARGETS: &[(&str, Target)] = &[
    ("s3_token", s3_token),
    ("s3_host", s3_host),
    ("s3_convert", s3_convert),
    ("s3_access", s3_access),
    ("s3_hoisted", s3_hoisted),
    ("s3_checksum", s3_checksum),
    ("operation", operation),
    ("error_document", error_document),
    ("identities", identities),
    ("config", config),
    ("operator", operator),
    ("meta_records", meta_records),
    ("kv_log", kv_log),
    ("chunk_record", chunk_record),
    ("pack", pack),
];

/// Stands in the secret's place of a file; no message may repeat it.
const SECRET: &str = "hunter2hunter2";
const SECRET_NUMBER: &str = "7351927351";
/// A master key.
const KEY: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";

/// A method, a path, a query, then the name of a header.
pub fn operation(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let method = Method::from_bytes(parts.next().unwrap_or_default()).unwrap_or(Method::GET);
    let path = text(parts.next().unwrap_or_default());
    let query = parts.next().map(text);
    let mut headers = HeaderMap::new();
    if parts.next().is_some_and(|name| name == b"x-amz-copy-source") {
        headers.insert("x-amz-copy-source", HeaderValue::from_static("/b/k"));
    }
    for in_host in [false, true] {
        let target = telemetry::Target::of(&path, in_host);
        let found = Operation::of(&method, target, query.as_deref(), &headers);
        assert!(Operation::ALL.contains(&found) && !found.name().is_empty());
        let longer = format!("{}&x-id=1", query.as_deref().unwrap_or_default());
        assert_eq!(Operation::of(&method, target, Some(&longer), &headers), found);
        assert!(!found.buffers_body(&Method::GET) || method != Method::GET || found == Operation::Other);
    }
    if path.starts_with('/') {
        assert_eq!(
            telemetry::Target::of(&path, true),
            telemetry::Target::of(&format!("/bucket{path}"), false)
        );
    }
}

/// A resource, then behind its line an answer's body.
pub fn error_document(data: &[u8]) {
    const END: &[u8] = b"</Error>";
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (resource, document) = data.split_at(at);
    let resource = text(resource);
    let document = Bytes::copy_from_slice(document.strip_prefix(b"\n").unwrap_or(document));
    let done = reply::complete_error(&document, &resource, "ID", "HOST");
    assert!(done.len() <= document.len() + 6 * resource.len() + 128);
    assert_eq!(reply::complete_error(&done, "/other", "OTHER", "OTHER"), done);
    let Some(front) = document
        .strip_suffix(END)
        .filter(|front| std::str::from_utf8(front).is_ok())
    else {
        assert_eq!(done, document);
        return;
    };
    let added = done
        .strip_prefix(front)
        .and_then(|rest| rest.strip_suffix(END))
        .map(text);
    let Some(added) = added else {
        panic!("the document is not kept");
    };
    for (name, value) in [("Resource", &*resource), ("RequestId", "ID"), ("HostId", "HOST")] {
        let tags = (format!("<{name}>"), format!("</{name}>"));
        let shown = added.split_once(&tags.0).and_then(|(_, rest)| rest.split_once(&tags.1));
        match shown {
            Some((shown, _)) => {
                assert!(!shown.contains(['<', '>', '"']));
                let plain = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
                assert_eq!(plain.replace("&amp;", "&"), value);
            }
            None => assert!(text(front).contains(&tags.0)),
        }
    }
}

fn root() -> AccessKey {
    AccessKey {
        access: "ROOT".to_owned(),
        secret: Secret::new("rootrootroot"),
    }
}

/// The identities file. What is taken can be looked up; what is refused is refused without a secret.
pub fn identities(data: &[u8]) {
    let text = text(data);
    let with_secret =
        format!("[[identity]]\nname = 'a'\ncanonical_id = 'b'\naccess_key = 'AAA'\nsecret_key = '{SECRET}'\n{text}");
    for file in [&*text, &with_secret] {
        match Identities::parse(file, root()) {
            Ok(found) => {
                let key = found.by_access_key("ROOT");
                assert!(key.is_some_and(|(identity, _)| identity.is_root));
                assert!(!format!("{found:?}").contains(SECRET) || text.contains(SECRET));
                for word in file.split(['"', '\'']) {
                    let Some((identity, secret)) = found.by_access_key(word) else {
                        continue;
                    };
                    assert!((3..=128).contains(&word.len()) && (8..=128).contains(&secret.expose().len()));
                    let id = &identity.canonical_id;
                    assert!(found.by_canonical_id(id).is_some_and(|other| other == identity));
                    assert_eq!(found.display_name(id), identity.name);
                    assert!((1..=limits::IDENTITY_KEYS_MAX).contains(&identity.keys.len()));
                }
            }
            Err(error) => assert!(!error.to_string().contains(SECRET) || text.contains(SECRET), "{error}"),
        }
    }
}

/// Variables of the environment, one a line, then behind an empty line the configuration file. What `cairn config` shows
/// of it is the same configuration again.
pub fn config(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        let text = text(line);
        if let Ok(bytes) = units::parse_size(&text) {
            assert_eq!(units::parse_size(&format!("{bytes} B")), Ok(bytes));
        }
        if let Ok(time) = units::parse_duration(&text) {
            assert_eq!(units::parse_duration(&format!("{}ms", time.as_millis())), Ok(time));
        }
    }
    let mut lines = data.split(|byte| *byte == b'\n');
    let variables: Vec<(OsString, OsString)> = lines
        .by_ref()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'=')?;
            let (name, value) = line.split_at(at);
            let value = value.strip_prefix(b"=").unwrap_or_default();
            // Another file is not the input's to name.
            (name != b"CAIRN_CONFIG").then(|| (OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())))
        })
        .collect();
    let file: Vec<&[u8]> = lines.collect();
    let file = file.join(&b'\n');
    let scratch = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("{error}"));
    let load = |bytes: &[u8], variables: Vec<(OsString, OsString)>| {
        std::fs::write(scratch.path(), bytes).unwrap_or_else(|error| panic!("{error}"));
        Config::load_from(Some(scratch.path()), variables.into_iter(), BTreeMap::new())
    };
    let keys = format!("\n[root]\naccess_key = 'AAA'\nsecret_key = '{SECRET}'\n[encryption]\nkey = '{SECRET}'\n");
    let with_secret = [file.as_slice(), keys.as_bytes()].concat();
    let may_show = text(data).contains(SECRET);
    match load(&with_secret, variables.clone()) {
        Ok((config, values)) => assert!(may_show || !(values.to_toml() + &format!("{config:?}")).contains(SECRET)),
        Err(error) => assert!(may_show || !error.to_string().contains(SECRET), "{error}"),
    }
    let Ok((config, values)) = load(&file, variables) else {
        return;
    };
    let hides = matches!(config.encryption, Some(MasterKeySource::Text(_)));
    if config.root.is_none() && !hides {
        let shown = values.to_toml();
        match load(shown.as_bytes(), Vec::new()) {
            Ok((again, _)) => assert_eq!(format!("{again:?}"), format!("{config:?}"), "{shown}"),
            Err(error) => panic!("what is shown is refused: {error}\n{shown}"),
        }
    }
}

/// The root key file, and the answer of an admin listener to `cairn admin`.
pub fn operator(data: &[u8]) {
    let text = text(data);
    if let Ok(keys) = root_key::parse(&text) {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let (access, secret) = (quoted(&keys.access_key), quoted(&keys.secret_key));
        let again = root_key::parse(&format!("access_key = {access}\nsecret_key = {secret}\n"));
        assert!(again.is_ok_and(|again| again.access_key == keys.access_key && again.secret_key == keys.secret_key));
    }
    for file in [
        format!("secret_key = {SECRET}\n{text}"),
        format!("secret_key = '{SECRET}'\n{text}"),
        format!("secret_key = ['{SECRET}']\n{text}"),
        format!("{text}\nsecret_key = '{SECRET}'\n"),
        format!("{text}{SECRET}"),
    ] {
        if let Err(message) = root_key::parse(&file) {
            assert!(!message.contains(SECRET) || text.contains(SECRET), "{message}");
        }
    }
    if let Err(message) = root_key::parse(&format!("secret_key = {SECRET_NUMBER}\n{text}")) {
        assert!(
            !message.contains(SECRET_NUMBER) || text.contains(SECRET_NUMBER),
            "{message}"
        );
    }
    for file in [
        format!("{text}\n{SECRET}"),
        format!("{SECRET}{text}"),
        format!("{text}{KEY},"),
    ] {
        match keyring::parse(&file) {
            Ok(keys) => assert!(!format!("{keys:?}").contains(KEY) && keys.ids().count() <= limits::MASTER_KEYS_MAX),
            Err(error) => {
                let told = error.to_string();
                assert!(!told.contains(SECRET) && !told.contains(KEY), "{told}");
            }
        }
    }
    if let Some((_, body)) = crate::cli::admin::split(&text) {
        assert!(body.len() < text.len());
    }
    if let Ok(report) = serde_json::from_str::<crate::admin::UsageReport>(&text) {
        assert!(!report.to_string().is_empty());
        let again = serde_json::to_string(&report)
            .map(|json| serde_json::from_str(&json).is_ok_and(|again: crate::admin::UsageReport| again == report));
        assert!(again.is_ok_and(|is_same| is_same));
    }
}

/// What decodes, encodes to a record that decodes to the same, and does not grow but for an empty field.
fn stable<R: PartialEq + std::fmt::Debug>(
    bytes: &Bytes,
    decode: impl Fn(Bytes) -> Result<R, Malformed>,
    encode: impl Fn(&R) -> Bytes,
) -> Option<R> {
    let record = decode(bytes.clone()).ok()?;
    let again = encode(&record);
    assert!(again.len() <= bytes.len() + 8);
    let back = decode(again);
    assert_eq!(back.as_ref(), Ok(&record));
    Some(record)
}

/// A record's kind, then its bytes.
pub fn meta_records(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    // Kinds that came later take single numbers, so that the corpus keeps its meaning.
    match kind {
        b's' => return drop(stable(&bytes, ScrubRow::decode, ScrubRow::encode)),
        b'e' => return drop(stable(&bytes, EncryptionRow::decode, EncryptionRow::encode)),
        _ => {}
    }
    if *kind == b'c' {
        return drop(stable(&bytes, CollectorRow::decode, CollectorRow::encode));
    }
    match kind % 17 {
        0 => drop(stable(
            &bytes,
            |bytes| Bucket::decode("b", bytes, Sequence(1)),
            Bucket::encode,
        )),
        1 => object_record(&bytes),
        2 => drop(stable(&bytes, decode_headers, |fields| encode_headers(fields))),
        3 => drop(stable(&bytes, ChunkRow::decode, ChunkRow::encode)),
        4 => drop(stable(&bytes, DataRow::decode, DataRow::encode)),
        5 => drop(stable(&bytes, GarbageRow::decode, GarbageRow::encode)),
        6 => drop(stable(&bytes, DomainRow::decode, DomainRow::encode)),
        7 => drop(stable(&bytes, PackRow::decode, PackRow::encode)),
        8 => {
            if let Some(row) = stable(&bytes, SegmentRow::decode, SegmentRow::encode) {
                assert!(row.entries.len() <= SEGMENT_ENTRIES_MAX && row.distinct_chunks().len() <= row.entries.len());
            }
        }
        9 => tree_row(&bytes),
        10 => drop(stable(&bytes, UploadRecord::decode, UploadRecord::encode)),
        11 => drop(stable(&bytes, PartRecord::decode, PartRecord::encode)),
        12 => drop(stable(&bytes, ManifestPage::decode, ManifestPage::encode)),
        13 => drop(stable(&bytes, CompletedRecord::decode, CompletedRecord::encode)),
        14 => drop(stable(&bytes, Sweep::decode, |sweep| sweep.encode())),
        15 => assert!(Counter::decode(rest).is_none_or(|value| Counter::encode(value) == rest)),
        _ => upload_key(rest),
    }
}

fn object_record(bytes: &Bytes) {
    let Ok((record, head)) = ObjectRecord::decode(bytes.clone()) else {
        return;
    };
    assert_eq!(ObjectHead::decode(bytes), Ok(head));
    let (again, aux) = record.encode();
    assert!(again.len() <= bytes.len().max(OBJECT_RECORD_BYTES_MAX));
    let Ok((mut back, head)) = ObjectRecord::decode(again) else {
        panic!("a record does not read back");
    };
    assert_eq!(head.has_aux(), aux.is_some());
    if let Some(aux) = aux {
        assert!(back.headers.is_empty());
        back.headers = decode_headers(aux).unwrap_or_default();
    }
    assert_eq!(back, record);
    if let Ok(headers) = from_fields(&record.headers, record.storage_class.clone()) {
        let fields = to_fields(&headers);
        assert!(from_fields(&fields, record.storage_class).is_ok_and(|again| again == headers));
    }
}

fn tree_row(bytes: &Bytes) {
    if let Some(row) = stable(bytes, TreeRow::decode, TreeRow::encode) {
        let end = row.end().unwrap_or_else(|| panic!("the lengths overflow"));
        assert!(row.entries.len() <= limits::TREE_ROW_ENTRIES_MAX && end >= row.start);
        let filled = row.entries.iter().filter(|entry| entry.length > 0).count();
        assert!(row.overlapping(row.start..end).count() >= filled);
        assert_eq!(row.overlapping(end..u64::MAX).count(), 0);
    }
}

fn upload_key(row: &[u8]) {
    use crate::meta::key;
    if let Some((name, id)) = key::parse_upload(row) {
        let bucket = row
            .get(1..9)
            .and_then(|bucket| bucket.try_into().ok())
            .map_or(0, u64::from_be_bytes);
        assert_eq!(key::upload(BucketId(bucket), &name, id), row);
        assert!(key::uploads(BucketId(bucket), &name).contains(row));
    }
}

/// A record's header as it is and with its checksum set right; payloads that claim any length; what we encode ourselves.
pub fn chunk_record(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => header(rest),
        1 => {
            let mut sealed = [0; HEADER_BYTES];
            sealed.iter_mut().skip(12).zip(rest).for_each(|(to, from)| *to = *from);
            sealed
                .iter_mut()
                .zip(b"CrnR\x01\0\x80\0\0\0\0\0")
                .for_each(|(to, from)| *to = *from);
            // Every other one says that it is encrypted.
            if let ([_, _, _, _, _, _, _, _, features, _, _, _, _, cipher, ..], true) = (&mut sealed, kind % 8 == 5) {
                (*features, *cipher) = (1, 1);
            }
            if let Some((body, crc)) = sealed.split_last_chunk_mut::<4>() {
                *crc = crc32c(body).to_le_bytes();
            }
            header(&sealed);
        }
        2 => {
            let mut script = Script::new(rest);
            let (mut out, codec) = (vec![0; usize::from(script.u16())], Codec::from_u8(script.u8() % 3));
            let stored = script.bytes(usize::MAX);
            let codec = codec.unwrap_or(Codec::Raw);
            let decoded = Codecs::new(0).decode(codec, stored, &mut out);
            assert!(codec != Codec::Raw || decoded.is_ok() == (stored.len() == out.len()));
        }
        _ => {
            let (codecs, mut stored) = (Codecs::new(0), Vec::new());
            // Repeated, so that it pays.
            let raw = rest.repeat(3);
            for setting in [Compression::Fast, Compression::Zstd(1)] {
                let codec = codecs.encode(&raw, setting, Hint::Unknown, &mut stored);
                let mut back = vec![0; raw.len()];
                assert!(codec == Codec::Raw || stored.len() < raw.len());
                assert!(codec == Codec::Raw || codecs.decode(codec, &stored, &mut back).is_ok() && back == raw);
            }
        }
    }
}

fn header(bytes: &[u8]) {
    if let Ok(header) = RecordHeader::decode(bytes) {
        assert!(header.payload_len > 0 && header.payload_len <= header.raw_len);
        assert!(header.raw_len as usize <= RECORD_RAW_BYTES_MAX);
        assert_eq!(RecordHeader::decode(&header.encode()), Ok(header));
    }
}

#[cfg(test)]
mod tests {
    use super::TARGETS;

    /// What fuzzing found, bugs and all: `fuzz/corpus/TARGET/*`. The path is relative, as cargo runs tests in their
    /// package's folder: one that is compiled in would name the checkout that the program was built in.
    #[test]
    fn the_corpus_replays() {
        let corpus = std::path::Path::new("fuzz/corpus");
        let list = |path: &std::path::Path| -> Vec<_> {
            let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        for folder in list(corpus) {
            let name = folder.file_name().unwrap().to_str().unwrap();
            assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name} is no target");
        }
        for (name, target) in TARGETS {
            let inputs = list(&corpus.join(name));
            assert!(!inputs.is_empty(), "{name} has no corpus");
            for input in inputs {
                println!("{}", input.display());
                target(&std::fs::read(&input).unwrap());
            }
        }
    }
}
