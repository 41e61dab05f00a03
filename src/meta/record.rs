//! The shape of every record: a format byte, a fixed prefix, then tagged optional fields.
//!
//! A tagged field is a tag byte, a LEB128 length and that many bytes, in the order of the tags. Tags that a reader does
//! not know survive a rewrite, so that an older gateway loses nothing that a newer one wrote.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A record that cannot be what its key says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {record} record is malformed: {reason}")]
pub struct Malformed {
    pub record: &'static str,
    pub reason: &'static str,
}

/// Reads a record front to back; every step fails instead of panicking.
pub struct Reader {
    record: &'static str,
    rest: Bytes,
}

impl Reader {
    /// Opens a record and checks that its format byte is `format`.
    pub fn open(record: &'static str, format: u8, bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Self { record, rest: bytes };
        match reader.u8()? {
            found if found == format => Ok(reader),
            _ => Err(reader.malformed("unknown format")),
        }
    }

    /// Reads tagged fields that have no format byte of their own, as the entries of a record do.
    pub fn bare(record: &'static str, bytes: Bytes) -> Self {
        Self { record, rest: bytes }
    }

    pub fn malformed(&self, reason: &'static str) -> Malformed {
        Malformed {
            record: self.record,
            reason,
        }
    }

    pub fn bytes(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if self.rest.len() < length {
            return Err(self.malformed("truncated"));
        }
        Ok(self.rest.split_to(length))
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.bytes(N)?;
        let mut array = [0; N];
        array.copy_from_slice(&bytes);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A LEB128 number.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number is too long"))
    }

    /// UTF-8 behind its LEB128 length.
    fn text(&mut self) -> Result<String, Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| self.malformed("a text is too long"))?;
        text(self.record, &self.bytes(length)?)
    }

    /// The next tagged field; `None` at the record's end.
    pub fn field(&mut self) -> Result<Option<(u8, Bytes)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.u8()?;
        let length = self.varint()?;
        let length = usize::try_from(length).map_err(|_| self.malformed("a field is too long"))?;
        Ok(Some((tag, self.bytes(length)?)))
    }

    /// The tagged fields up to the record's end, of a record that knows none.
    pub fn unknown_fields(&mut self) -> Result<UnknownFields, Malformed> {
        let mut unknown = UnknownFields::default();
        while let Some((tag, bytes)) = self.field()? {
            unknown.keep(tag, bytes);
        }
        Ok(unknown)
    }

    pub fn is_empty(&self) -> bool {
        !self.rest.has_remaining()
    }

    /// Fails unless the record ends here.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("bytes behind the end"))
        }
    }
}

/// UTF-8 of a field.
pub fn text(record: &'static str, bytes: &Bytes) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed {
        record,
        reason: "a text is not UTF-8",
    })
}

/// Writes a record front to back.
pub struct Writer(BytesMut);

impl Writer {
    pub fn new(format: u8) -> Self {
        let mut bytes = BytesMut::with_capacity(256);
        bytes.put_u8(format);
        Self(bytes)
    }

    /// Writes tagged fields without a format byte; see [`Reader::bare`].
    pub fn bare() -> Self {
        Self(BytesMut::new())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.put_u8(value);
        self
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.0.put_u16_le(value);
        self
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.put_u32_le(value);
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.put_u64_le(value);
        self
    }

    pub fn varint(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.put_u8((value as u8 & 0x7F) | 0x80);
            value >>= 7;
        }
        self.0.put_u8(value as u8);
        self
    }

    pub fn field(&mut self, tag: u8, bytes: &[u8]) -> &mut Self {
        self.u8(tag).varint(bytes.len() as u64).bytes(bytes)
    }

    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

const PAIRS_FORMAT: u8 = 1;

/// Pairs of texts as the bytes of one field: a format byte, then name and value in turn, each behind its length.
pub fn encode_pairs(pairs: &[(String, String)]) -> Bytes {
    let mut writer = Writer::new(PAIRS_FORMAT);
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        writer.varint(text.len() as u64).bytes(text.as_bytes());
    }
    writer.finish()
}

pub fn decode_pairs(record: &'static str, bytes: Bytes) -> Result<Vec<(String, String)>, Malformed> {
    let mut reader = Reader::open(record, PAIRS_FORMAT, bytes)?;
    let mut pairs = Vec::new();
    while !reader.is_empty() {
        pairs.push((reader.text()?, reader.text()?));
    }
    Ok(pairs)
}

/// Tagged fields that this version does not know, kept in order for the rewrite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnknownFields(Vec<(u8, Bytes)>);

impl UnknownFields {
    pub fn keep(&mut self, tag: u8, bytes: Bytes) {
        self.0.push((tag, bytes));
    }

    pub fn write(&self, writer: &mut Writer) {
        for (tag, bytes) in &self.0 {
            writer.field(*tag, bytes);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Fields that no version knows, for the round-trip tests of the records.
    pub(crate) fn unknown_fields() -> impl Strategy<Value = UnknownFields> {
        proptest::collection::vec((200u8.., proptest::collection::vec(any::<u8>(), 0..20)), 0..3).prop_map(|fields| {
            UnknownFields(
                fields
                    .into_iter()
                    .map(|(tag, bytes)| (tag, Bytes::from(bytes)))
                    .collect(),
            )
        })
    }

    proptest! {
        #[test]
        fn numbers_and_fields_round_trip(number in any::<u64>(), tag in any::<u8>(), field in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut writer = Writer::new(3);
            writer.varint(number).field(tag, &field);
            let mut reader = Reader::open("test", 3, writer.finish()).unwrap();
            prop_assert_eq!(reader.varint().unwrap(), number);
            prop_assert_eq!(reader.field().unwrap(), Some((tag, Bytes::from(field))));
            prop_assert_eq!(reader.field().unwrap(), None);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(mut reader) = Reader::open("test", 1, Bytes::from(bytes)) {
                while let Ok(Some(_)) = reader.field() {}
            }
        }

        #[test]
        fn pairs_round_trip_and_any_bytes_are_read(pairs in proptest::collection::vec((".{0,9}", ".{0,30}"), 0..5), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(decode_pairs("test", encode_pairs(&pairs)).unwrap(), pairs);
            let mut framed = vec![PAIRS_FORMAT];
            framed.extend(bytes);
            let _ = decode_pairs("test", Bytes::from(framed));
        }
    }
}
