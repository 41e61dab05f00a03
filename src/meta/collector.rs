//! The collector's row: who may collect, and whether anybody may.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer, text};

const RECORD: &str = "collector";
const FORMAT: u8 = 1;
const TAG_STOPPED: u8 = 1;

/// Why nothing is collected until an administrator says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub since: Timestamp,
    pub why: String,
}

/// Epoch u64, holder 16, taken u64. Tag 1: since when (u64) and why (text) collection is stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorRow {
    /// Grows with every change of the row. Each commit of collection guards the row, so that a change fences all that
    /// were begun under the one before.
    pub epoch: u64,
    /// The process that collects.
    pub holder: [u8; 16],
    pub taken: Timestamp,
    pub stopped: Option<Stop>,
    pub unknown: UnknownFields,
}

impl CollectorRow {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer.u64(self.epoch).bytes(&self.holder).u64(self.taken.unix_ms());
        if let Some(stop) = &self.stopped {
            let mut field = Writer::bare();
            field.u64(stop.since.unix_ms()).bytes(stop.why.as_bytes());
            writer.field(TAG_STOPPED, &field.finish());
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let mut row = Self {
            epoch: reader.u64()?,
            holder: reader.array()?,
            taken: Timestamp::from_unix_ms(reader.u64()?),
            ..Self::default()
        };
        while let Some((tag, bytes)) = reader.field()? {
            if tag == TAG_STOPPED {
                let why = bytes.get(8..).map(Bytes::copy_from_slice).unwrap_or_default();
                row.stopped = Some(Stop {
                    since: Timestamp::from_unix_ms(Reader::bare(RECORD, bytes).u64()?),
                    why: text(RECORD, &why)?,
                });
            } else {
                row.unknown.keep(tag, bytes);
            }
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
        fn collector_rows_round_trip(fixed in any::<(u64, [u8; 16], u64)>(), stop in any::<Option<(u64, String)>>(), unknown in unknown_fields()) {
            let (epoch, holder, taken) = fixed;
            let stopped = stop.map(|(since, why)| Stop { since: Timestamp::from_unix_ms(since), why });
            let row = CollectorRow { epoch, holder, taken: Timestamp::from_unix_ms(taken), stopped, unknown };
            prop_assert_eq!(CollectorRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
            let _ = CollectorRow::decode(bytes.into());
        }
    }
}
