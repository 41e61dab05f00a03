//! `domain` rows: a dedup domain's key. Chunks are named by it, so that domains share nothing (invariant I10).

use std::fmt;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "domain";
const FORMAT: u8 = 1;
/// The key stands in the row as it is. Wrapped keys will have their own number.
const WRAPPING_NONE: u8 = 0;

/// A `domain` row.
#[derive(Clone, PartialEq, Eq)]
pub struct DomainRow {
    pub key: [u8; 32],
    pub created: Timestamp,
    pub unknown: UnknownFields,
}

impl fmt::Debug for DomainRow {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainRow")
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

impl DomainRow {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer.u8(WRAPPING_NONE).bytes(&self.key).u64(self.created.unix_ms());
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        if reader.u8()? != WRAPPING_NONE {
            return Err(reader.malformed("unknown wrapping of the key"));
        }
        let (key, created) = (reader.array()?, Timestamp::from_unix_ms(reader.u64()?));
        let mut unknown = UnknownFields::default();
        while let Some((tag, bytes)) = reader.field()? {
            unknown.keep(tag, bytes);
        }
        Ok(Self { key, created, unknown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::record::tests::unknown_fields;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn domain_rows_round_trip(key in any::<[u8; 32]>(), created in any::<u64>(), unknown in unknown_fields()) {
            let row = DomainRow { key, created: Timestamp::from_unix_ms(created), unknown };
            prop_assert_eq!(DomainRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = DomainRow::decode(Bytes::from(bytes));
        }
    }
}
