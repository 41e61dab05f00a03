//! The bucket record: its identity, which every other row of the bucket uses, and its settings.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::ids::{BucketId, DomainId, Sequence};
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer, decode_pairs, encode_pairs, text};

const RECORD: &str = "bucket";
const FORMAT: u8 = 1;
const TAG_OWNER: u8 = 1;
const TAG_LOCATION: u8 = 2;
const TAG_TAGS: u8 = 3;

/// Who owns the objects that others write into a bucket.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ownership {
    #[default]
    BucketOwnerEnforced = 0,
    BucketOwnerPreferred = 1,
    ObjectWriter = 2,
}

impl Ownership {
    fn from_code(code: u8) -> Option<Self> {
        [
            Self::BucketOwnerEnforced,
            Self::BucketOwnerPreferred,
            Self::ObjectWriter,
        ]
        .into_iter()
        .find(|ownership| *ownership as u8 == code)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub name: String,
    pub id: BucketId,
    /// Canonical id.
    pub owner: String,
    /// Where its data is deduplicated. Fixed at creation.
    pub domain: DomainId,
    pub created: Timestamp,
    /// The LocationConstraint of its creation; empty for us-east-1.
    pub location: String,
    pub ownership: Ownership,
    /// Keys and values in the order in which the client gave them.
    pub tags: Vec<(String, String)>,
    /// Reserved for settings that are a bit; zero today, and kept by a rewrite.
    pub flags: u8,
    pub unknown: UnknownFields,
    /// The commit that wrote the row; not part of the record.
    pub version: Sequence,
}

impl Bucket {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer
            .u8(self.flags)
            .u8(self.ownership as u8)
            .u64(self.id.0)
            .u64(self.domain.0)
            .u64(self.created.unix_ms())
            .field(TAG_OWNER, self.owner.as_bytes());
        if !self.location.is_empty() {
            writer.field(TAG_LOCATION, self.location.as_bytes());
        }
        if !self.tags.is_empty() {
            writer.field(TAG_TAGS, &encode_pairs(&self.tags));
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(name: &str, bytes: Bytes, version: Sequence) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let flags = reader.u8()?;
        let ownership = Ownership::from_code(reader.u8()?).ok_or_else(|| reader.malformed("unknown ownership"))?;
        let mut bucket = Self {
            name: name.to_owned(),
            id: BucketId(reader.u64()?),
            owner: String::new(),
            domain: DomainId(reader.u64()?),
            created: Timestamp::from_unix_ms(reader.u64()?),
            location: String::new(),
            ownership,
            tags: Vec::new(),
            flags,
            unknown: UnknownFields::default(),
            version,
        };
        while let Some((tag, bytes)) = reader.field()? {
            match tag {
                TAG_OWNER => bucket.owner = text(RECORD, &bytes)?,
                TAG_LOCATION => bucket.location = text(RECORD, &bytes)?,
                TAG_TAGS => bucket.tags = decode_pairs(RECORD, bytes)?,
                _ => bucket.unknown.keep(tag, bytes),
            }
        }
        Ok(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(
            name in "[a-z]{3,9}", owner in ".{1,70}", location in ".{0,12}", numbers in any::<(u64, u64, u64, u64)>(), flags in any::<u8>(),
            ownership in 0u8..3, extra in proptest::collection::vec(any::<u8>(), 0..40),
            tags in proptest::collection::vec((".{1,9}", ".{0,9}"), 0..4),
        ) {
            let mut unknown = UnknownFields::default();
            unknown.keep(200, Bytes::from(extra));
            let bucket = Bucket {
                name: name.clone(), id: BucketId(numbers.0), owner, domain: DomainId(numbers.1),
                created: Timestamp::from_unix_ms(numbers.2), location, ownership: Ownership::from_code(ownership).unwrap(),
                tags, flags, unknown, version: Sequence(numbers.3),
            };
            prop_assert_eq!(Bucket::decode(&name, bucket.encode(), Sequence(numbers.3)).unwrap(), bucket);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Bucket::decode("b", Bytes::from(bytes.clone()), Sequence(1));
            let mut framed = vec![FORMAT, 0, 1];
            framed.extend(bytes);
            let _ = Bucket::decode("b", Bytes::from(framed), Sequence(1));
        }
    }
}
