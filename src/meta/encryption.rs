//! The row that makes a store an encrypted one: the store's key, wrapped by a master key that is nowhere in the store.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "encryption";
const FORMAT: u8 = 1;
/// A key and what its encryption adds.
pub const WRAPPED_BYTES: usize = 36 + 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EncryptionState {
    /// Encryption was just turned on: some domain rows may still hold their key as it is.
    Begun = 1,
    /// Every domain row is wrapped.
    On = 2,
}

/// The row `store("encryption")`; none: the store is not encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptionRow {
    pub state: EncryptionState,
    /// Names the master key.
    pub master: [u8; 8],
    /// The store's key, encrypted with that one.
    pub wrapped: [u8; WRAPPED_BYTES],
    /// When encryption was turned on.
    pub since: Timestamp,
    /// When this master key came into use.
    pub rotated: Timestamp,
    pub unknown: UnknownFields,
}

impl EncryptionRow {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer
            .u8(self.state as u8)
            .bytes(&self.master)
            .bytes(&self.wrapped)
            .u64(self.since.unix_ms())
            .u64(self.rotated.unix_ms());
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let mut row = Self {
            state: match reader.u8()? {
                1 => EncryptionState::Begun,
                2 => EncryptionState::On,
                _ => return Err(reader.malformed("unknown state")),
            },
            master: reader.array()?,
            wrapped: reader.array()?,
            since: Timestamp::from_unix_ms(reader.u64()?),
            rotated: Timestamp::from_unix_ms(reader.u64()?),
            unknown: UnknownFields::default(),
        };
        while let Some((tag, bytes)) = reader.field()? {
            row.unknown.keep(tag, bytes);
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::record::tests::unknown_fields;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encryption_rows_round_trip(
            fixed in any::<(bool, [u8; 8], u64, u64)>(),
            wrapped in prop::collection::vec(any::<u8>(), WRAPPED_BYTES),
            unknown in unknown_fields(),
        ) {
            let (is_on, master, since, rotated) = fixed;
            let row = EncryptionRow {
                state: if is_on { EncryptionState::On } else { EncryptionState::Begun },
                master,
                wrapped: wrapped.try_into().unwrap(),
                since: Timestamp::from_unix_ms(since),
                rotated: Timestamp::from_unix_ms(rotated),
                unknown,
            };
            prop_assert_eq!(EncryptionRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = EncryptionRow::decode(Bytes::from(bytes));
        }
    }
}
