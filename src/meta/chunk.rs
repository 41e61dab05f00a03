//! `chunk` rows: where a chunk's record is.

use bytes::Bytes;

use crate::ids::PackId;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "chunk";
const FORMAT: u8 = 1;
/// The record did not read back: a later upload of the same bytes stores them anew.
const FLAG_DAMAGED: u8 = 1;
/// The record is encrypted.
const FLAG_ENCRYPTED: u8 = 2;
const FLAGS: u8 = FLAG_DAMAGED | FLAG_ENCRYPTED;

/// A record in a pack, as rows name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub pack: PackId,
    /// Of the record's header in the pack.
    pub offset: u32,
    /// Header and payload.
    pub stored_len: u32,
    pub raw_len: u32,
    /// The codec's frozen number.
    pub codec: u8,
}

/// A `chunk` row. It exists exactly as long as a `chunk_ref` row of the chunk does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRow {
    pub place: Place,
    pub damaged: bool,
    pub encrypted: bool,
    /// Flag bits of later versions.
    pub other_flags: u8,
    pub unknown: UnknownFields,
}

impl ChunkRow {
    pub fn new(place: Place, encrypted: bool) -> Self {
        Self {
            place,
            damaged: false,
            encrypted,
            other_flags: 0,
            unknown: UnknownFields::default(),
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        let damaged = if self.damaged { FLAG_DAMAGED } else { 0 };
        let encrypted = if self.encrypted { FLAG_ENCRYPTED } else { 0 };
        writer
            .bytes(&self.place.pack.0)
            .u32(self.place.offset)
            .u32(self.place.stored_len)
            .u32(self.place.raw_len)
            .u8(self.place.codec)
            .u8((self.other_flags & !FLAGS) | damaged | encrypted);
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let place = Place {
            pack: PackId(reader.array()?),
            offset: reader.u32()?,
            stored_len: reader.u32()?,
            raw_len: reader.u32()?,
            codec: reader.u8()?,
        };
        let flags = reader.u8()?;
        let mut unknown = UnknownFields::default();
        while let Some((tag, bytes)) = reader.field()? {
            unknown.keep(tag, bytes);
        }
        Ok(Self {
            place,
            damaged: flags & FLAG_DAMAGED != 0,
            encrypted: flags & FLAG_ENCRYPTED != 0,
            other_flags: flags & !FLAGS,
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
        fn chunk_rows_round_trip(fixed in any::<([u8; 16], u32, u32, u32, u8, bool, bool, u8)>(), unknown in unknown_fields()) {
            let (pack, offset, stored_len, raw_len, codec, damaged, encrypted, flags) = fixed;
            let place = Place { pack: PackId(pack), offset, stored_len, raw_len, codec };
            let row = ChunkRow { place, damaged, encrypted, other_flags: flags & !FLAGS, unknown };
            prop_assert_eq!(ChunkRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = ChunkRow::decode(Bytes::from(bytes));
        }
    }
}
