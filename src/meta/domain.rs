//! `domain` rows: a dedup domain's keys. Chunks are named by one of them, so that domains share nothing (invariant I10).

use std::fmt;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "domain";
const FORMAT: u8 = 1;
/// The naming key stands in the row as it is.
const WRAPPING_NONE: u8 = 0;
/// Naming key and data key stand in it encrypted with the store's key.
const WRAPPING_STORE: u8 = 1;
/// Two keys and what their encryption adds.
pub const WRAPPED_BYTES: usize = 36 + 2 * 32;

/// How a domain's keys stand in its row.
#[derive(Clone, PartialEq, Eq)]
pub enum DomainSecret {
    /// The naming key of a store that is not encrypted.
    Clear([u8; 32]),
    Wrapped([u8; WRAPPED_BYTES]),
}

/// A `domain` row.
#[derive(Clone, PartialEq, Eq)]
pub struct DomainRow {
    pub secret: DomainSecret,
    pub created: Timestamp,
    pub unknown: UnknownFields,
}

impl fmt::Debug for DomainRow {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainRow")
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

impl DomainRow {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        match &self.secret {
            DomainSecret::Clear(key) => writer.u8(WRAPPING_NONE).bytes(key),
            DomainSecret::Wrapped(keys) => writer.u8(WRAPPING_STORE).bytes(keys),
        };
        writer.u64(self.created.unix_ms());
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let secret = match reader.u8()? {
            WRAPPING_NONE => DomainSecret::Clear(reader.array()?),
            WRAPPING_STORE => DomainSecret::Wrapped(reader.array()?),
            _ => return Err(reader.malformed("unknown wrapping of the key")),
        };
        let created = Timestamp::from_unix_ms(reader.u64()?);
        let mut unknown = UnknownFields::default();
        while let Some((tag, bytes)) = reader.field()? {
            unknown.keep(tag, bytes);
        }
        Ok(Self {
            secret,
            created,
            unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::record::tests::unknown_fields;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn domain_rows_round_trip(
            keys in prop::collection::vec(any::<u8>(), WRAPPED_BYTES),
            is_wrapped in any::<bool>(),
            created in any::<u64>(),
            unknown in unknown_fields(),
        ) {
            let secret = if is_wrapped {
                DomainSecret::Wrapped(keys.try_into().unwrap())
            } else {
                DomainSecret::Clear(keys[..32].try_into().unwrap())
            };
            let row = DomainRow { secret, created: Timestamp::from_unix_ms(created), unknown };
            prop_assert_eq!(DomainRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..140)) {
            let _ = DomainRow::decode(Bytes::from(bytes));
        }
    }
}
