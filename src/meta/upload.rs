//! Multipart uploads: the upload, its parts, the pages that list the parts of a completed object, the answer that is
//! kept for a day, and what is to be swept.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::ids::{BucketId, DataId};
use crate::meta::object::{HEADER_TAGS, HeaderField};
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer, text};

const FORMAT: u8 = 1;
const TAG_OWNER: u8 = 1;
const TAG_CHECKSUM: u8 = 2;
const TAG_STORAGE_CLASS: u8 = 3;
const TAG_KEY: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadState {
    Open,
    /// Parts are refused while the process of this boot completes it. Any other process takes it for open.
    Completing {
        boot: [u8; 16],
    },
}

/// state u8, boot 16, initiated u64, checksum algorithm u8, kind u8; then tagged fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRecord {
    pub state: UploadState,
    pub initiated: Timestamp,
    /// Codes of the algorithm and the kind.
    pub checksum: Option<(u8, u8)>,
    /// Canonical id of who started it.
    pub owner: String,
    pub storage_class: Option<String>,
    pub headers: Vec<HeaderField>,
    pub unknown: UnknownFields,
}

impl UploadRecord {
    pub fn encode(&self) -> Bytes {
        let (state, boot) = match self.state {
            UploadState::Open => (0, [0; 16]),
            UploadState::Completing { boot } => (1, boot),
        };
        let (algorithm, kind) = self.checksum.unwrap_or((0, 0));
        let mut writer = Writer::new(FORMAT);
        writer
            .u8(state)
            .bytes(&boot)
            .u64(self.initiated.unix_ms())
            .u8(algorithm)
            .u8(kind);
        writer.field(TAG_OWNER, self.owner.as_bytes());
        if let Some(class) = &self.storage_class {
            writer.field(TAG_STORAGE_CLASS, class.as_bytes());
        }
        for (tag, bytes) in &self.headers {
            writer.field(*tag, bytes);
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        const RECORD: &str = "upload";
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let (state, boot) = (reader.u8()?, reader.array()?);
        let state = match state {
            0 => UploadState::Open,
            1 => UploadState::Completing { boot },
            _ => return Err(reader.malformed("unknown state")),
        };
        let initiated = Timestamp::from_unix_ms(reader.u64()?);
        let (algorithm, kind) = (reader.u8()?, reader.u8()?);
        let mut record = Self {
            state,
            initiated,
            checksum: (algorithm != 0).then_some((algorithm, kind)),
            owner: String::new(),
            storage_class: None,
            headers: Vec::new(),
            unknown: UnknownFields::default(),
        };
        while let Some((tag, bytes)) = reader.field()? {
            match tag {
                TAG_OWNER => record.owner = text(RECORD, &bytes)?,
                TAG_STORAGE_CLASS => record.storage_class = Some(text(RECORD, &bytes)?),
                tag if HEADER_TAGS.contains(&tag) => record.headers.push((tag, bytes)),
                _ => record.unknown.keep(tag, bytes),
            }
        }
        Ok(record)
    }
}

/// bucket u64, size u64, modified u64, md5 16, has data u8, data id 16, checksum algorithm u8; then tagged fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRecord {
    /// Whose upload bytes it counts in.
    pub bucket: BucketId,
    pub size: u64,
    pub modified: Timestamp,
    pub md5: [u8; 16],
    /// `None`: zero bytes.
    pub data: Option<DataId>,
    /// Code of the algorithm, and the value.
    pub checksum: Option<(u8, Bytes)>,
    pub unknown: UnknownFields,
}

impl PartRecord {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer
            .u64(self.bucket.0)
            .u64(self.size)
            .u64(self.modified.unix_ms())
            .bytes(&self.md5)
            .u8(u8::from(self.data.is_some()))
            .bytes(&self.data.unwrap_or(DataId([0; 16])).0)
            .u8(self.checksum.as_ref().map_or(0, |(algorithm, _)| *algorithm));
        if let Some((_, value)) = &self.checksum {
            writer.field(TAG_CHECKSUM, value);
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open("part", FORMAT, bytes)?;
        let bucket = BucketId(reader.u64()?);
        let size = reader.u64()?;
        let modified = Timestamp::from_unix_ms(reader.u64()?);
        let md5 = reader.array()?;
        let (has_data, data) = (reader.u8()?, DataId(reader.array()?));
        let algorithm = reader.u8()?;
        let data = (has_data != 0).then_some(data);
        let mut record = Self {
            bucket,
            size,
            modified,
            md5,
            data,
            checksum: None,
            unknown: UnknownFields::default(),
        };
        while let Some((tag, bytes)) = reader.field()? {
            match tag {
                TAG_CHECKSUM => record.checksum = Some((algorithm, bytes)),
                _ => record.unknown.keep(tag, bytes),
            }
        }
        Ok(record)
    }
}

/// One part in a manifest page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestEntry {
    pub number: u16,
    pub size: u64,
    pub md5: [u8; 16],
    /// As wide as the page's algorithm says; empty without one.
    pub checksum: Bytes,
}

/// A page of a completed object's parts: first byte u64, modified u64, checksum algorithm u8, checksum width u8,
/// count u16, then entries of number u16, size u64, md5 16, checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestPage {
    /// Where the first part begins in the object.
    pub first_byte: u64,
    pub modified: Timestamp,
    pub algorithm: u8,
    pub entries: Vec<ManifestEntry>,
}

impl ManifestPage {
    pub fn encode(&self) -> Bytes {
        let width = self.entries.first().map_or(0, |entry| entry.checksum.len());
        let mut writer = Writer::new(FORMAT);
        writer
            .u64(self.first_byte)
            .u64(self.modified.unix_ms())
            .u8(self.algorithm)
            .u8(u8::try_from(width).unwrap_or(0))
            .u16(u16::try_from(self.entries.len()).unwrap_or(u16::MAX));
        for entry in &self.entries {
            writer
                .u16(entry.number)
                .u64(entry.size)
                .bytes(&entry.md5)
                .bytes(&entry.checksum);
        }
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open("part manifest", FORMAT, bytes)?;
        let first_byte = reader.u64()?;
        let modified = Timestamp::from_unix_ms(reader.u64()?);
        let algorithm = reader.u8()?;
        let width = usize::from(reader.u8()?);
        let count = reader.u16()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let number = reader.u16()?;
            let size = reader.u64()?;
            entries.push(ManifestEntry {
                number,
                size,
                md5: reader.array()?,
                checksum: reader.bytes(width)?,
            });
        }
        reader.end()?;
        Ok(Self {
            first_byte,
            modified,
            algorithm,
            entries,
        })
    }
}

/// The answer of a completed upload: bucket u64, completed u64, modified u64, size u64, md5 16, parts u16, checksum
/// algorithm u8, kind u8; then tagged fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedRecord {
    pub bucket: BucketId,
    pub key: String,
    pub completed: Timestamp,
    pub modified: Timestamp,
    pub size: u64,
    pub md5: [u8; 16],
    pub parts: u16,
    pub checksum: Option<(u8, u8, Bytes)>,
}

impl CompletedRecord {
    pub fn encode(&self) -> Bytes {
        let (algorithm, kind) = self
            .checksum
            .as_ref()
            .map_or((0, 0), |(algorithm, kind, _)| (*algorithm, *kind));
        let mut writer = Writer::new(FORMAT);
        writer
            .u64(self.bucket.0)
            .u64(self.completed.unix_ms())
            .u64(self.modified.unix_ms())
            .u64(self.size)
            .bytes(&self.md5)
            .u16(self.parts)
            .u8(algorithm)
            .u8(kind);
        if let Some((_, _, value)) = &self.checksum {
            writer.field(TAG_CHECKSUM, value);
        }
        writer.field(TAG_KEY, self.key.as_bytes());
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        const RECORD: &str = "completed upload";
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let mut record = Self {
            bucket: BucketId(reader.u64()?),
            key: String::new(),
            completed: Timestamp::from_unix_ms(reader.u64()?),
            modified: Timestamp::from_unix_ms(reader.u64()?),
            size: reader.u64()?,
            md5: reader.array()?,
            parts: reader.u16()?,
            checksum: None,
        };
        let (algorithm, kind) = (reader.u8()?, reader.u8()?);
        while let Some((tag, bytes)) = reader.field()? {
            match tag {
                TAG_CHECKSUM => record.checksum = Some((algorithm, kind, bytes)),
                TAG_KEY => record.key = text(RECORD, &bytes)?,
                _ => {}
            }
        }
        Ok(record)
    }
}

/// What an `upload_garbage` row asks to be swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// The parts of a completed upload. Its manifest belongs to the object.
    Parts,
    /// The parts of an upload and the manifest under its id.
    PartsAndManifest,
    /// The uploads of a bucket that was deleted, then its counters.
    Bucket(BucketId),
}

impl Sweep {
    pub fn encode(self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        match self {
            Self::Parts => writer.u8(1),
            Self::PartsAndManifest => writer.u8(2),
            Self::Bucket(bucket) => writer.u8(3).u64(bucket.0),
        };
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open("sweep", FORMAT, bytes)?;
        match reader.u8()? {
            1 => Ok(Self::Parts),
            2 => Ok(Self::PartsAndManifest),
            3 => Ok(Self::Bucket(BucketId(reader.u64()?))),
            _ => Err(reader.malformed("unknown kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_round_trip(
            numbers in any::<(u64, u64, u64, u64, [u8; 16], u16)>(), id in any::<[u8; 16]>(), completing in any::<bool>(),
            checksum in proptest::option::of((1u8..6, 1u8..3, proptest::collection::vec(any::<u8>(), 4..33))), texts in (".{0,40}", ".{1,40}"),
            widths in proptest::collection::vec(any::<(u16, u64, [u8; 16])>(), 0..20),
        ) {
            let (a, b, c, d, md5, parts) = numbers;
            let checksum = checksum.map(|(algorithm, kind, value)| (algorithm, kind, Bytes::from(value)));
            let upload = UploadRecord {
                state: if completing { UploadState::Completing { boot: id } } else { UploadState::Open },
                initiated: Timestamp::from_unix_ms(a), checksum: checksum.as_ref().map(|(algorithm, kind, _)| (*algorithm, *kind)),
                owner: texts.0.clone(), storage_class: completing.then_some(texts.1.clone()),
                headers: vec![(20, Bytes::copy_from_slice(&md5))], unknown: UnknownFields::default(),
            };
            prop_assert_eq!(UploadRecord::decode(upload.encode()).unwrap(), upload);
            let part = PartRecord {
                bucket: BucketId(a), size: b, modified: Timestamp::from_unix_ms(c), md5, data: completing.then_some(DataId(id)),
                checksum: checksum.as_ref().map(|(algorithm, _, value)| (*algorithm, value.clone())), unknown: UnknownFields::default(),
            };
            prop_assert_eq!(PartRecord::decode(part.encode()).unwrap(), part);
            let completed = CompletedRecord {
                bucket: BucketId(a), key: texts.1, completed: Timestamp::from_unix_ms(b), modified: Timestamp::from_unix_ms(c), size: d,
                md5, parts, checksum: checksum.clone(),
            };
            prop_assert_eq!(CompletedRecord::decode(completed.encode()).unwrap(), completed);
            let value = checksum.map(|(_, _, value)| value).unwrap_or_default();
            let entries = widths.into_iter().map(|(number, size, md5)| ManifestEntry { number, size, md5, checksum: value.clone() }).collect();
            let page = ManifestPage { first_byte: d, modified: Timestamp::from_unix_ms(c), algorithm: 1, entries };
            prop_assert_eq!(ManifestPage::decode(page.encode()).unwrap(), page);
            for sweep in [Sweep::Parts, Sweep::PartsAndManifest, Sweep::Bucket(BucketId(a))] {
                prop_assert_eq!(Sweep::decode(sweep.encode()).unwrap(), sweep);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..120)) {
            for format in [FORMAT, 9] {
                if let Some(first) = bytes.first_mut() {
                    *first = format;
                }
                let bytes = Bytes::from(bytes.clone());
                let _ = UploadRecord::decode(bytes.clone());
                let _ = PartRecord::decode(bytes.clone());
                let _ = ManifestPage::decode(bytes.clone());
                let _ = CompletedRecord::decode(bytes.clone());
                let _ = Sweep::decode(bytes);
            }
        }
    }
}
