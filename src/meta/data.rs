//! `data` rows: one stored payload and the state of its life; and `garbage` rows, which say that nobody owns one.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::ids::DomainId;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "data";
const FORMAT: u8 = 1;
const TAG_OWNER: u8 = 1;

/// Where a payload stands. It moves downward only; the numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DataState {
    /// An upload or composition adds to it; nothing refers to it. Belongs to the process that `boot` names.
    Building = 1,
    /// An object, a part or other data refers to it.
    Live = 2,
    /// Its owner is gone; other data still refers to it (`data_ref` rows).
    Released = 3,
    /// Nothing refers to it; its references are being taken back.
    Unwinding = 4,
}

impl DataState {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Building, Self::Live, Self::Released, Self::Unwinding]
            .into_iter()
            .find(|state| *state as u8 == byte)
    }
}

/// A `data` row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRow {
    pub state: DataState,
    pub domain: DomainId,
    /// The chunker's profile; 0 for composed data.
    pub profile: u8,
    /// 1: the tree names segments; n + 1: it names data of at most depth n.
    pub depth: u8,
    /// Bytes; set when it is published.
    pub size: u64,
    /// The process that built it.
    pub boot: [u8; 16],
    pub created: Timestamp,
    /// The key of the object row it was published under, or of the upload whose part it is; empty before. What it says
    /// holds while the data is live.
    pub owner: Bytes,
    pub unknown: UnknownFields,
}

impl DataRow {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer
            .u8(self.state as u8)
            .u8(self.profile)
            .u8(self.depth)
            .u64(self.domain.0)
            .u64(self.size)
            .bytes(&self.boot)
            .u64(self.created.unix_ms());
        if !self.owner.is_empty() {
            writer.field(TAG_OWNER, &self.owner);
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let state = DataState::from_byte(reader.u8()?).ok_or_else(|| reader.malformed("unknown state"))?;
        let (profile, depth) = (reader.u8()?, reader.u8()?);
        let (domain, size) = (DomainId(reader.u64()?), reader.u64()?);
        let (boot, created) = (reader.array()?, Timestamp::from_unix_ms(reader.u64()?));
        let (mut owner, mut unknown) = (Bytes::new(), UnknownFields::default());
        while let Some((tag, bytes)) = reader.field()? {
            match tag {
                TAG_OWNER => owner = bytes,
                _ => unknown.keep(tag, bytes),
            }
        }
        Ok(Self {
            state,
            domain,
            profile,
            depth,
            size,
            boot,
            created,
            owner,
            unknown,
        })
    }

    /// Whether a tree that refers to it keeps it: its references are all in place.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, DataState::Live | DataState::Released)
    }
}

/// A `garbage` row: the payload has no owner. Written with a building row too, and deleted when it is published, so
/// that what a killed process left is found without reading every `data` row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GarbageRow {
    pub since: Timestamp,
    pub unknown: UnknownFields,
}

impl GarbageRow {
    pub fn new(since: Timestamp) -> Self {
        Self {
            since,
            unknown: UnknownFields::default(),
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer.u64(self.since.unix_ms());
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open("garbage", FORMAT, bytes)?;
        let since = Timestamp::from_unix_ms(reader.u64()?);
        let unknown = reader.unknown_fields()?;
        Ok(Self { since, unknown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::record::tests::unknown_fields;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn data_rows_round_trip(
            state in prop::sample::select(vec![DataState::Building, DataState::Live, DataState::Released, DataState::Unwinding]),
            fixed in any::<(u64, u8, u8, u64, [u8; 16], u64)>(),
            unknown in unknown_fields(), owner in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let (domain, profile, depth, size, boot, created) = fixed;
            let created = Timestamp::from_unix_ms(created);
            let row = DataRow { state, domain: DomainId(domain), profile, depth, size, boot, created, owner: owner.into(), unknown: unknown.clone() };
            prop_assert_eq!(DataRow::decode(row.encode()).unwrap(), row);
            let garbage = GarbageRow { since: created, unknown };
            prop_assert_eq!(GarbageRow::decode(garbage.encode()).unwrap(), garbage);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let bytes = Bytes::from(bytes);
            let _ = (DataRow::decode(bytes.clone()), GarbageRow::decode(bytes));
        }
    }
}
