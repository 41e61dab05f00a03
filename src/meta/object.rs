//! The object record: at most 1 KiB, the fields of a listing first at fixed offsets, so that a listing reads them in
//! place. Fields that make it larger move to the `aux` row of its data id.
//!
//! | bytes | field |
//! |---|---|
//! | 0 | format, 1 |
//! | 1 | flags: 1 = the headers are in the aux row, 2 = it has a part manifest |
//! | 2..10 | size |
//! | 10..18 | last modified, Unix ms |
//! | 18..34 | MD5 of the ETag |
//! | 34..36 | parts of the ETag, 0: no multipart object |
//! | 36 | storage class: 0 STANDARD, 255 the tagged field names it |
//! | 37, 38 | checksum algorithm and kind, 0: none |
//! | 39 | payload: 0 none, 1 body row, 2 data, 3 encrypted body row |
//! | 40..56 | data id; names the aux row of an object without payload too |

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::ids::{DataId, UploadId};
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer, text};

const RECORD: &str = "object";
const FORMAT: u8 = 1;
/// Bytes of the fixed part.
pub const FIXED_BYTES: usize = 56;
/// Bytes of a record; more goes to the aux row.
pub const OBJECT_RECORD_BYTES_MAX: usize = 1024;

const FLAG_AUX: u8 = 1;
const FLAG_MANIFEST: u8 = 2;

const TAG_OWNER: u8 = 1;
const TAG_CHECKSUM: u8 = 2;
const TAG_STORAGE_CLASS: u8 = 3;
const TAG_MANIFEST: u8 = 4;
const STORAGE_CLASS_STANDARD: u8 = 0;
const STORAGE_CLASS_NAMED: u8 = 255;

/// Where the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Payload {
    /// Zero bytes.
    None = 0,
    Body = 1,
    Data = 2,
    /// A body that its row holds encrypted.
    EncryptedBody = 3,
}

impl Payload {
    fn from_code(code: u8) -> Option<Self> {
        [Self::None, Self::Body, Self::Data, Self::EncryptedBody]
            .into_iter()
            .find(|payload| *payload as u8 == code)
    }
}

/// The fixed part: all that a listing reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    pub size: u64,
    pub modified: Timestamp,
    pub md5: [u8; 16],
    pub parts: u16,
    /// Codes of the algorithm and the kind; 0: none.
    pub checksum: (u8, u8),
    pub payload: Payload,
    pub data: DataId,
    flags: u8,
    class: u8,
}

impl ObjectHead {
    /// Whether the headers are in the aux row.
    pub fn has_aux(&self) -> bool {
        self.flags & FLAG_AUX != 0
    }

    pub fn has_manifest(&self) -> bool {
        self.flags & FLAG_MANIFEST != 0
    }

    pub fn is_standard_class(&self) -> bool {
        self.class == STORAGE_CLASS_STANDARD
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let malformed = |reason| Malformed { record: RECORD, reason };
        let fixed: &[u8; FIXED_BYTES] = bytes.first_chunk().ok_or(malformed("truncated"))?;
        let [format, flags, rest @ ..] = fixed;
        if *format != FORMAT {
            return Err(malformed("unknown format"));
        }
        let (size, rest) = split::<8>(rest).ok_or(malformed("truncated"))?;
        let (modified, rest) = split::<8>(rest).ok_or(malformed("truncated"))?;
        let (md5, rest) = split::<16>(rest).ok_or(malformed("truncated"))?;
        let (parts, rest) = split::<2>(rest).ok_or(malformed("truncated"))?;
        let ([class, algorithm, kind, payload], rest) = split::<4>(rest).ok_or(malformed("truncated"))?;
        let (data, _) = split::<16>(rest).ok_or(malformed("truncated"))?;
        Ok(Self {
            size: u64::from_le_bytes(size),
            modified: Timestamp::from_unix_ms(u64::from_le_bytes(modified)),
            md5,
            parts: u16::from_le_bytes(parts),
            checksum: (algorithm, kind),
            payload: Payload::from_code(payload).ok_or(malformed("unknown payload"))?,
            data: DataId(data),
            flags: *flags,
            class,
        })
    }
}

fn split<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    let (head, tail) = bytes.split_first_chunk::<N>()?;
    Some((*head, tail))
}

/// A field that belongs to the headers: its tag is in [`HEADER_TAGS`], its meaning is `object`'s.
pub type HeaderField = (u8, Bytes);
pub const HEADER_TAGS: std::ops::RangeInclusive<u8> = 16..=47;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    pub size: u64,
    pub modified: Timestamp,
    pub md5: [u8; 16],
    pub parts: u16,
    /// Codes of the algorithm and the kind, and the value.
    pub checksum: Option<(u8, u8, Bytes)>,
    pub payload: Payload,
    pub data: DataId,
    /// Canonical id; `None`: the bucket's owner.
    pub owner: Option<String>,
    /// `None`: STANDARD.
    pub storage_class: Option<String>,
    /// The upload whose aux pages list the parts.
    pub manifest: Option<UploadId>,
    /// In the order of their tags.
    pub headers: Vec<HeaderField>,
    pub unknown: UnknownFields,
}

impl ObjectRecord {
    /// The record, and the aux row's bytes if the headers do not fit into it.
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        let header_bytes: usize = self.headers.iter().map(|(_, bytes)| bytes.len() + 4).sum();
        if header_bytes < OBJECT_RECORD_BYTES_MAX - FIXED_BYTES {
            let record = self.encode_with(false);
            if record.len() <= OBJECT_RECORD_BYTES_MAX || self.headers.is_empty() {
                return (record, None);
            }
        }
        (self.encode_with(true), Some(encode_headers(&self.headers)))
    }

    fn encode_with(&self, aux: bool) -> Bytes {
        let (algorithm, kind) = self
            .checksum
            .as_ref()
            .map_or((0, 0), |(algorithm, kind, _)| (*algorithm, *kind));
        let flags = if aux { FLAG_AUX } else { 0 } | if self.manifest.is_some() { FLAG_MANIFEST } else { 0 };
        let class = if self.storage_class.is_some() {
            STORAGE_CLASS_NAMED
        } else {
            STORAGE_CLASS_STANDARD
        };
        let mut writer = Writer::new(FORMAT);
        writer
            .u8(flags)
            .u64(self.size)
            .u64(self.modified.unix_ms())
            .bytes(&self.md5)
            .u16(self.parts)
            .u8(class)
            .u8(algorithm)
            .u8(kind)
            .u8(self.payload as u8)
            .bytes(&self.data.0);
        if let Some(owner) = &self.owner {
            writer.field(TAG_OWNER, owner.as_bytes());
        }
        if let Some((_, _, value)) = &self.checksum {
            writer.field(TAG_CHECKSUM, value);
        }
        if let Some(class) = &self.storage_class {
            writer.field(TAG_STORAGE_CLASS, class.as_bytes());
        }
        if let Some(manifest) = &self.manifest {
            writer.field(TAG_MANIFEST, &manifest.0);
        }
        if !aux {
            for (tag, bytes) in &self.headers {
                writer.field(*tag, bytes);
            }
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    /// Headers that are in the aux row are missing: the caller reads them with [`decode_headers`].
    pub fn decode(bytes: Bytes) -> Result<(Self, ObjectHead), Malformed> {
        let head = ObjectHead::decode(&bytes)?;
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        reader.bytes(FIXED_BYTES - 1)?;
        let mut record = Self {
            size: head.size,
            modified: head.modified,
            md5: head.md5,
            parts: head.parts,
            checksum: None,
            payload: head.payload,
            data: head.data,
            owner: None,
            storage_class: None,
            manifest: None,
            headers: Vec::new(),
            unknown: UnknownFields::default(),
        };
        while let Some((tag, bytes)) = reader.field()? {
            match tag {
                TAG_OWNER => record.owner = Some(text(RECORD, &bytes)?),
                TAG_CHECKSUM => record.checksum = Some((head.checksum.0, head.checksum.1, bytes)),
                TAG_STORAGE_CLASS => record.storage_class = Some(text(RECORD, &bytes)?),
                TAG_MANIFEST => {
                    let id = bytes
                        .as_ref()
                        .try_into()
                        .map_err(|_| reader.malformed("a manifest id has 16 bytes"))?;
                    record.manifest = Some(UploadId(id));
                }
                tag if HEADER_TAGS.contains(&tag) => record.headers.push((tag, bytes)),
                _ => record.unknown.keep(tag, bytes),
            }
        }
        Ok((record, head))
    }
}

/// The storage class's name and the owner of a listed record, without decoding the rest.
pub fn listed_texts(bytes: Bytes) -> Result<(Option<String>, Option<String>), Malformed> {
    let (record, _) = ObjectRecord::decode(bytes)?;
    Ok((record.storage_class, record.owner))
}

/// An aux row: a format byte, then the header fields.
pub fn encode_headers(headers: &[HeaderField]) -> Bytes {
    let mut writer = Writer::new(FORMAT);
    for (tag, bytes) in headers {
        writer.field(*tag, bytes);
    }
    writer.finish()
}

pub fn decode_headers(bytes: Bytes) -> Result<Vec<HeaderField>, Malformed> {
    let mut reader = Reader::open("object aux", FORMAT, bytes)?;
    let mut headers = Vec::new();
    while let Some(field) = reader.field()? {
        headers.push(field);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_up_to(length: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..length).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn round_trips_within_its_bound(
            numbers in any::<(u64, u64, [u8; 16], u16, [u8; 16])>(),
            checksum in proptest::option::of((1u8..6, 1u8..3, bytes_up_to(33))),
            texts in (proptest::option::of("[a-f0-9]{64}"), proptest::option::of("[A-Z_]{1,20}")),
            manifest in proptest::option::of(any::<[u8; 16]>()),
            payload in 0u8..3, headers in proptest::collection::vec((16u8..48, bytes_up_to(900)), 0..4), extra in bytes_up_to(50),
        ) {
            let mut unknown = UnknownFields::default();
            unknown.keep(99, extra);
            let record = ObjectRecord {
                size: numbers.0, modified: Timestamp::from_unix_ms(numbers.1), md5: numbers.2, parts: numbers.3,
                checksum, payload: Payload::from_code(payload).unwrap(), data: DataId(numbers.4), owner: texts.0,
                storage_class: texts.1, manifest: manifest.map(UploadId), headers, unknown,
            };
            let (bytes, aux) = record.encode();
            prop_assert!(bytes.len() <= OBJECT_RECORD_BYTES_MAX);
            let (mut back, head) = ObjectRecord::decode(bytes).unwrap();
            prop_assert_eq!(head.has_aux(), aux.is_some());
            prop_assert_eq!(head.is_standard_class(), record.storage_class.is_none());
            prop_assert_eq!(head.has_manifest(), record.manifest.is_some());
            if let Some(aux) = aux {
                back.headers = decode_headers(aux).unwrap();
            }
            prop_assert_eq!(back, record);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = ObjectRecord::decode(Bytes::from(bytes.clone()));
            let _ = decode_headers(Bytes::from(bytes.clone()));
            let mut framed = vec![FORMAT];
            framed.resize(39, 0);
            framed.push(1);
            framed.resize(FIXED_BYTES, 7);
            framed.extend(bytes);
            let _ = ObjectRecord::decode(Bytes::from(framed));
        }
    }
}
