//! `segment` rows: the chunk list of a stretch of bytes, named by its content within its domain.

use std::collections::HashMap;

use bytes::Bytes;

use crate::ids::{ChunkId, DomainId, PackId, SegmentId};
use crate::limits::WINDOW_CHUNKS_MAX;
use crate::meta::chunk::Place;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "segment";
const FORMAT: u8 = 1;
const ENTRY_CHUNK: u8 = 0;
const ENTRY_HOLE: u8 = 1;

/// A stretch of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentEntry {
    /// `place` is a hint: where the chunk was when the segment was written.
    Chunk { id: ChunkId, place: Place },
    /// That many zero bytes.
    Hole(u32),
}

impl SegmentEntry {
    /// Bytes of plaintext.
    pub fn raw_len(&self) -> u32 {
        match self {
            Self::Chunk { place, .. } => place.raw_len,
            Self::Hole(len) => *len,
        }
    }
}

/// A `segment` row. Immutable but for its hints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    pub domain: DomainId,
    pub entries: Vec<SegmentEntry>,
    pub unknown: UnknownFields,
}

/// Entries that one row has at the most: each chunk may have a hole behind it.
pub const SEGMENT_ENTRIES_MAX: usize = 2 * WINDOW_CHUNKS_MAX + 1;

impl SegmentRow {
    /// The name of a segment: keyed BLAKE3 of its ids and lengths, without the hints. `key` is the domain's segment
    /// key, which differs from the key of its chunks.
    pub fn name(key: &[u8; 32], entries: impl Iterator<Item = (Option<ChunkId>, u32)>) -> SegmentId {
        let mut hasher = blake3::Hasher::new_keyed(key);
        for (id, len) in entries {
            match id {
                Some(id) => hasher.update(&[ENTRY_CHUNK]).update(&len.to_le_bytes()).update(&id.0),
                None => hasher.update(&[ENTRY_HOLE]).update(&len.to_le_bytes()),
            };
        }
        SegmentId(*hasher.finalize().as_bytes())
    }

    /// The chunks, each once, in the order of the ids.
    pub fn distinct_chunks(&self) -> Vec<ChunkId> {
        let mut ids: Vec<ChunkId> = self
            .entries
            .iter()
            .filter_map(|entry| match entry {
                SegmentEntry::Chunk { id, .. } => Some(*id),
                SegmentEntry::Hole(_) => None,
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Bytes of plaintext.
    pub fn raw_len(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.raw_len())).sum()
    }

    /// The packs that the hints name come first, once each, and entries name them by their place in that list.
    pub fn encode(&self) -> Bytes {
        let mut packs: Vec<PackId> = Vec::new();
        let mut numbers: HashMap<PackId, u64> = HashMap::new();
        for entry in &self.entries {
            if let SegmentEntry::Chunk { place, .. } = entry {
                numbers.entry(place.pack).or_insert_with(|| {
                    packs.push(place.pack);
                    packs.len() as u64 - 1
                });
            }
        }
        let mut writer = Writer::new(FORMAT);
        writer.u64(self.domain.0).varint(packs.len() as u64);
        for pack in &packs {
            writer.bytes(&pack.0);
        }
        writer.varint(self.entries.len() as u64);
        for entry in &self.entries {
            match entry {
                SegmentEntry::Chunk { id, place } => {
                    let number = numbers.get(&place.pack).copied().unwrap_or_default();
                    writer
                        .u8(ENTRY_CHUNK)
                        .bytes(&id.0)
                        .varint(u64::from(place.raw_len))
                        .varint(number);
                    writer
                        .u32(place.offset)
                        .varint(u64::from(place.stored_len))
                        .u8(place.codec);
                }
                SegmentEntry::Hole(len) => {
                    writer.u8(ENTRY_HOLE).varint(u64::from(*len));
                }
            }
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let domain = DomainId(reader.u64()?);
        let count = bounded(&mut reader)?;
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            packs.push(PackId(reader.array()?));
        }
        let count = bounded(&mut reader)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(match reader.u8()? {
                ENTRY_CHUNK => {
                    let id = ChunkId(reader.array()?);
                    let raw_len = narrow(&mut reader)?;
                    let number = narrow(&mut reader)? as usize;
                    let pack = *packs
                        .get(number)
                        .ok_or_else(|| reader.malformed("unknown pack number"))?;
                    let (offset, stored_len, codec) = (reader.u32()?, narrow(&mut reader)?, reader.u8()?);
                    SegmentEntry::Chunk {
                        id,
                        place: Place {
                            pack,
                            offset,
                            stored_len,
                            raw_len,
                            codec,
                        },
                    }
                }
                ENTRY_HOLE => SegmentEntry::Hole(narrow(&mut reader)?),
                _ => return Err(reader.malformed("unknown kind of entry")),
            });
        }
        let unknown = reader.unknown_fields()?;
        Ok(Self {
            domain,
            entries,
            unknown,
        })
    }
}

fn bounded(reader: &mut Reader) -> Result<usize, Malformed> {
    let count = reader.varint()?;
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= SEGMENT_ENTRIES_MAX)
        .ok_or(reader.malformed("too many entries"))
}

fn narrow(reader: &mut Reader) -> Result<u32, Malformed> {
    let number = reader.varint()?;
    u32::try_from(number).map_err(|_| reader.malformed("a length is over its range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::record::tests::unknown_fields;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = SegmentEntry> {
        let chunk =
            any::<([u8; 32], u8, u32, u32, u32, u8)>().prop_map(|(id, pack, offset, stored_len, raw_len, codec)| {
                let place = Place {
                    pack: PackId([pack % 3; 16]),
                    offset,
                    stored_len,
                    raw_len,
                    codec,
                };
                SegmentEntry::Chunk { id: ChunkId(id), place }
            });
        prop_oneof![chunk, any::<u32>().prop_map(SegmentEntry::Hole)]
    }

    proptest! {
        #[test]
        fn segment_rows_round_trip(domain in any::<u64>(), entries in prop::collection::vec(entry(), 0..40), unknown in unknown_fields()) {
            let row = SegmentRow { domain: DomainId(domain), entries, unknown };
            prop_assert_eq!(SegmentRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SegmentRow::decode(Bytes::from([&[FORMAT], bytes.as_slice()].concat()));
        }
    }

    #[test]
    fn the_name_depends_on_lengths_order_and_key() {
        let (a, b) = (ChunkId([1; 32]), ChunkId([2; 32]));
        let name = |key: u8, entries: &[(Option<ChunkId>, u32)]| SegmentRow::name(&[key; 32], entries.iter().copied());
        let base = name(1, &[(Some(a), 5), (Some(b), 6)]);
        assert_ne!(base, name(1, &[(Some(b), 6), (Some(a), 5)]));
        assert_ne!(base, name(2, &[(Some(a), 5), (Some(b), 6)]));
        assert_ne!(base, name(1, &[(Some(a), 6), (Some(b), 6)]));
        assert_ne!(name(1, &[(None, 5)]), name(1, &[(None, 6)]));
    }
}
