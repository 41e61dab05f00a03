//! `tree` rows: which segments or other data the bytes of a payload are. A row's key holds the offset at which its last
//! entry ends, so that one seek finds the row of any byte.

use std::ops::Range;

use bytes::Bytes;

use crate::ids::{DataId, SegmentId};
use crate::limits::TREE_ROW_ENTRIES_MAX;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "tree";
const FORMAT: u8 = 1;
const TARGET_SEGMENT: u8 = 1;
const TARGET_DATA: u8 = 2;

/// What an entry's bytes are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Segment(SegmentId),
    Data(DataId),
}

/// `length` bytes of `target` from `offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    pub target: Target,
    pub offset: u64,
    pub length: u64,
    /// The part of the upload that they were; 0: none.
    pub part_number: u16,
    /// Fields of later versions, such as the part's checksum.
    pub unknown: UnknownFields,
}

/// A `tree` row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeRow {
    /// Offset in the payload at which the first entry begins.
    pub start: u64,
    pub entries: Vec<TreeEntry>,
    pub unknown: UnknownFields,
}

impl TreeRow {
    /// Offset at which the last entry ends: the row's key. `None`: the lengths overflow.
    pub fn end(&self) -> Option<u64> {
        self.entries
            .iter()
            .try_fold(self.start, |at, entry| at.checked_add(entry.length))
    }

    /// The entries and where in the payload each stands, as far as they overlap `range`.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &TreeEntry)> {
        let mut at = self.start;
        self.entries.iter().filter_map(move |entry| {
            let begin = at;
            at = at.saturating_add(entry.length);
            (begin < range.end && at > range.start).then_some((begin, entry))
        })
    }

    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer.u64(self.start).varint(self.entries.len() as u64);
        for entry in &self.entries {
            match entry.target {
                Target::Segment(id) => writer.u8(TARGET_SEGMENT).bytes(&id.0),
                Target::Data(id) => writer.u8(TARGET_DATA).bytes(&id.0),
            };
            writer.varint(entry.offset).varint(entry.length).u16(entry.part_number);
            let mut fields = Writer::bare();
            entry.unknown.write(&mut fields);
            let fields = fields.finish();
            writer.varint(fields.len() as u64).bytes(&fields);
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let start = reader.u64()?;
        let count = reader.varint()?;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= TREE_ROW_ENTRIES_MAX)
            .ok_or(reader.malformed("too many entries"))?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(entry(&mut reader)?);
        }
        let unknown = reader.unknown_fields()?;
        let row = Self {
            start,
            entries,
            unknown,
        };
        if row.end().is_none() {
            return Err(reader.malformed("its lengths overflow"));
        }
        Ok(row)
    }
}

fn entry(reader: &mut Reader) -> Result<TreeEntry, Malformed> {
    let target = match reader.u8()? {
        TARGET_SEGMENT => Target::Segment(SegmentId(reader.array()?)),
        TARGET_DATA => Target::Data(DataId(reader.array()?)),
        _ => return Err(reader.malformed("unknown kind of entry")),
    };
    let (offset, length, part_number) = (reader.varint()?, reader.varint()?, reader.u16()?);
    if offset.checked_add(length).is_none() {
        return Err(reader.malformed("an entry's range overflows"));
    }
    let width = reader.varint()?;
    let width = usize::try_from(width).map_err(|_| reader.malformed("a field is too long"))?;
    let unknown = match width {
        0 => UnknownFields::default(),
        width => Reader::bare(RECORD, reader.bytes(width)?).unknown_fields()?,
    };
    Ok(TreeEntry {
        target,
        offset,
        length,
        part_number,
        unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::record::tests::unknown_fields;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Vec<TreeEntry>> {
        let target = prop_oneof![
            any::<[u8; 32]>().prop_map(|id| Target::Segment(SegmentId(id))),
            any::<[u8; 16]>().prop_map(|id| Target::Data(DataId(id))),
        ];
        let entry = (target, any::<u32>(), any::<u32>(), any::<u16>(), unknown_fields()).prop_map(
            |(target, offset, length, part_number, unknown)| TreeEntry {
                target,
                offset: u64::from(offset),
                length: u64::from(length),
                part_number,
                unknown,
            },
        );
        prop::collection::vec(entry, 0..30)
    }

    proptest! {
        #[test]
        fn tree_rows_round_trip(start in any::<u32>(), entries in entries(), unknown in unknown_fields()) {
            let row = TreeRow { start: u64::from(start), entries, unknown };
            prop_assert_eq!(TreeRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = TreeRow::decode(Bytes::from([&[FORMAT], bytes.as_slice()].concat()));
        }

        #[test]
        fn overlapping_entries_cover_the_range(entries in entries(), from in any::<u16>(), len in 1u64..100_000) {
            let row = TreeRow { start: 0, entries, unknown: UnknownFields::default() };
            let range = u64::from(from)..u64::from(from) + len;
            let covered: u64 = row
                .overlapping(range.clone())
                .map(|(at, entry)| (at + entry.length).min(range.end) - at.max(range.start))
                .sum();
            let end = row.end().unwrap();
            prop_assert_eq!(covered, range.end.min(end).saturating_sub(range.start));
        }
    }
}
