//! The scrub's row: how far the pass over all packs has come.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::ids::PackId;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "scrub";
const FORMAT: u8 = 1;
const TAG_OBJECT: u8 = 1;
const TAG_BODIES: u8 = 2;

/// Began u64, finished u64, running u8, last pack 16, records u64, bytes u64, damaged u64, healed u64; tagged: key of the last
/// object row, bodies u64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubRow {
    /// Of the pass that runs, or of the last one.
    pub began: Timestamp,
    /// Of the last pass that went over all packs; 0: none did.
    pub finished: Timestamp,
    pub running: bool,
    /// All packs up to this one are done.
    pub last: PackId,
    /// What the pass has verified.
    pub records: u64,
    pub bytes: u64,
    pub damaged: u64,
    pub healed: u64,
    /// All objects up to the one whose row has this key are done; empty: none. Objects come behind all packs.
    pub last_object: Bytes,
    /// Bodies of small objects that the pass has verified.
    pub bodies: u64,
    pub unknown: UnknownFields,
}

impl Default for ScrubRow {
    fn default() -> Self {
        let never = Timestamp::from_unix_ms(0);
        Self {
            began: never,
            finished: never,
            running: false,
            last: PackId([0; 16]),
            records: 0,
            bytes: 0,
            damaged: 0,
            healed: 0,
            last_object: Bytes::new(),
            bodies: 0,
            unknown: UnknownFields::default(),
        }
    }
}

impl ScrubRow {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer
            .u64(self.began.unix_ms())
            .u64(self.finished.unix_ms())
            .u8(u8::from(self.running))
            .bytes(&self.last.0)
            .u64(self.records)
            .u64(self.bytes)
            .u64(self.damaged)
            .u64(self.healed);
        if !self.last_object.is_empty() {
            writer.field(TAG_OBJECT, &self.last_object);
        }
        if self.bodies > 0 {
            writer.field(TAG_BODIES, &self.bodies.to_le_bytes());
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let mut row = Self {
            began: Timestamp::from_unix_ms(reader.u64()?),
            finished: Timestamp::from_unix_ms(reader.u64()?),
            running: match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(reader.malformed("unknown state")),
            },
            last: PackId(reader.array()?),
            records: reader.u64()?,
            bytes: reader.u64()?,
            damaged: reader.u64()?,
            healed: reader.u64()?,
            last_object: Bytes::new(),
            bodies: 0,
            unknown: UnknownFields::default(),
        };
        while let Some((tag, bytes)) = reader.field()? {
            match tag {
                TAG_OBJECT => row.last_object = bytes,
                TAG_BODIES => row.bodies = Reader::bare(RECORD, bytes).u64()?,
                _ => row.unknown.keep(tag, bytes),
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
        fn scrub_rows_round_trip(fixed in any::<(u64, u64, bool, [u8; 16], [u64; 5])>(), object in any::<Vec<u8>>(), unknown in unknown_fields()) {
            let (began, finished, running, last, [records, bytes, damaged, healed, bodies]) = fixed;
            let last_object = object.into();
            let (began, finished) = (Timestamp::from_unix_ms(began), Timestamp::from_unix_ms(finished));
            let row = ScrubRow { began, finished, running, last: PackId(last), records, bytes, damaged, healed, last_object, bodies, unknown };
            prop_assert_eq!(ScrubRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
            let _ = ScrubRow::decode(bytes.into());
        }
    }
}
