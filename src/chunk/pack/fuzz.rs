//! The fuzz target of pack files; `crate::fuzz` lists it.

use std::fs;
use std::path::Path;

use super::format::{
    ENTRY_BYTES, FILE_HEADER_BYTES, FRAME_BYTES, Frame, PACK_RECORDS_MAX, TRAILER_BYTES, Trailer, aligned, file_header,
    footer,
};
use super::recovery::open_all;
use super::scan::{read_end, scan};
use super::shared::path_in;
use super::{Claims, ClaimsError, Entry, Location, PackInfo, PackState, RecoveredKind};
use crate::blob::local::{ALIGNMENT, ReadFile};
use crate::chunk::codec::Codec;
use crate::chunk::record::{HEADER_BYTES, RecordHeader, crc32c};
use crate::ids::{ChunkId, DomainId, PackId};
use crate::script::Script;

const PACK: PackId = PackId([7; 16]);

/// An index that points to these records.
#[derive(Default)]
pub(super) struct Rows(pub Vec<(ChunkId, Location)>);

impl Claims for Rows {
    fn live_bytes(&self, pack: PackId) -> Result<u64, ClaimsError> {
        let rows = self.0.iter().filter(|(_, row)| row.pack == pack);
        Ok(rows.map(|(_, row)| u64::from(row.stored_len)).sum())
    }

    fn claimed(&self, pack: PackId, places: &[(ChunkId, u32)]) -> Result<Vec<Option<u32>>, ClaimsError> {
        let row = |(id, offset): &(ChunkId, u32)| {
            let mut rows = self.0.iter();
            let row = rows.find(|(of, row)| of == id && row.pack == pack && row.offset == *offset);
            row.map(|(_, row)| row.stored_len)
        };
        Ok(places.iter().map(row).collect())
    }
}

/// Bytes as frames and footers, a file of sealed structures with any fields, and a pack that was written and damaged.
pub(crate) fn pack(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => bytes_as_structures(rest),
        1 => sealed_with_any_fields(Script::new(rest)),
        _ => written_and_damaged(Script::new(rest)),
    }
}

fn ok<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("on a sound disk: {error}"))
}

/// The first bytes of `bytes`, sealed as the pack's structures are: the last four hold the CRC of what is before.
fn sealed<const N: usize>(bytes: &[u8], front: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    out.iter_mut().zip(front).for_each(|(to, from)| *to = *from);
    if let Some((body, crc)) = out.split_last_chunk_mut::<4>() {
        *crc = crc32c(body).to_le_bytes();
    }
    out
}

fn bytes_as_structures(bytes: &[u8]) {
    let array = |at: usize| bytes.get(at..at + 16).and_then(|id| id.try_into().ok());
    let pack = PackId(array(12).unwrap_or_default());
    for frame in [
        bytes.to_vec(),
        sealed::<FRAME_BYTES>(bytes, b"CrnF\x01\0\x40\0\0\0\0\0").to_vec(),
    ] {
        let offset = frame
            .get(28..32)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes);
        if let Some(found) = Frame::decode(&frame, pack, u64::from(offset)) {
            assert!(found.bytes > 0 && (found.bytes as usize).is_multiple_of(ALIGNMENT));
            assert_eq!(Frame::decode(&found.encode(), pack, u64::from(offset)), Some(found));
            assert_eq!(Frame::decode(&found.encode(), pack, u64::from(offset) + 1), None);
        }
    }
    let pack = PackId(array(16).unwrap_or_default());
    for trailer in [
        bytes.to_vec(),
        sealed::<TRAILER_BYTES>(bytes, b"CairnEnd\x01\0\x80\0\0\0\0\0").to_vec(),
    ] {
        for length in [0, trailer.len() as u64, u64::MAX] {
            if let Some(found) = Trailer::decode(&trailer, pack, length) {
                assert!(found.records as usize <= PACK_RECORDS_MAX);
                assert!(found.table_offset + found.table_bytes() as u64 + TRAILER_BYTES as u64 <= length);
                assert!(found.entries(bytes).is_none(), "a table of another pack is taken");
            }
        }
    }
}

/// A payload, which may say another length than it has; a frame of records; any footer or none.
fn sealed_with_any_fields(mut script: Script<'_>) {
    let mut file = file_header(PACK);
    for _ in 0..script.u8() % 4 {
        batch(&mut script, &mut file);
    }
    if script.bit() {
        file.resize(file.len() + usize::from(script.u8() % 3) * ALIGNMENT, 0);
    }
    if script.bit() {
        let usual = u64::from(script.u8() % 4);
        let count = script.number(usual);
        let entries: Vec<Entry> = (0..count.min(8))
            .map(|order| entry(&mut script, order as u32))
            .collect();
        let offset = script.number(file.len() as u64);
        file.extend_from_slice(&footer(PACK, offset, &entries));
        if script.u8() > 0xF0 {
            file.truncate(file.len() - usize::from(script.u8()));
        }
    }
    opens(&file, &Rows::default());
}

fn entry(script: &mut Script<'_>, order: u32) -> Entry {
    Entry {
        id: ChunkId([script.u8(); 32]),
        domain: DomainId(u64::from(script.u8())),
        location: Location {
            pack: PACK,
            offset: script.number(FILE_HEADER_BYTES as u64) as u32,
            stored_len: script.number(HEADER_BYTES as u64 + 9) as u32,
            raw_len: script.number(9) as u32,
            codec: Codec::Raw,
        },
        order: script.number(u64::from(order)) as u32,
        payload_crc: 0,
        encrypted: false,
    }
}

fn batch(script: &mut Script<'_>, file: &mut Vec<u8>) {
    let offset = file.len() as u64;
    let mut records = Vec::new();
    let count = u64::from(script.u8() % 5);
    for _ in 0..count {
        let length = usize::from(script.u8());
        let payload = script.bytes(length);
        let header = RecordHeader {
            domain: DomainId(script.number(5)),
            id: ChunkId([script.u8(); 32]),
            codec: Codec::from_u8(script.u8() % 4).unwrap_or(Codec::Raw),
            raw_len: script.number(payload.len() as u64) as u32,
            payload_len: script.number(payload.len() as u64) as u32,
            written_at: script.u64(),
            payload_crc: crc32c(payload) ^ u32::from(script.u8() > 0xF8),
            envelope: None,
        };
        records.extend_from_slice(&header.encode());
        records.extend_from_slice(payload);
    }
    let frame = Frame {
        pack: PACK,
        offset: script.number(offset) as u32,
        bytes: script.number(aligned((FRAME_BYTES + records.len()) as u64)) as u32,
        records: script.number(count) as u32,
    };
    file.extend_from_slice(&frame.encode());
    file.extend_from_slice(&records);
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
}

/// The file as a start finds it. Afterwards it is sealed or gone, a second start changes nothing, and every record that
/// the new footer names is whole; or the index points to what is not whole, and no byte is changed. Returns the records,
/// if the footer is new or there is none.
fn opens(bytes: &[u8], rows: &Rows) -> Option<Vec<Entry>> {
    let dir = ok(tempfile::tempdir());
    let path = path_in(dir.path(), PACK);
    ok(fs::create_dir_all(path.parent().unwrap_or(dir.path())));
    ok(fs::write(&path, bytes));
    let found = ok(scan(&ok(ReadFile::open(&path, false)), PACK, bytes.len() as u64));
    assert!(found.entries.len() * HEADER_BYTES <= bytes.len());
    whole(bytes, &found.entries, found.end);
    let (packs, repairs) = ok(open_all(dir.path(), false, rows));
    let (again, nothing) = ok(open_all(dir.path(), false, rows));
    assert!(packs == again, "a second start finds something else");
    if let [pack] = packs.as_slice()
        && pack.info.state == PackState::Damaged
    {
        assert!(repairs == nothing && repairs.iter().all(|repair| repair.kind == RecoveredKind::Damaged));
        assert!(ok(fs::read(&path)) == bytes, "a damaged pack is changed");
        whole(bytes, &pack.entries, bytes.len() as u64);
        for (id, row) in rows.0.iter().filter(|(id, row)| is_record(bytes, id, row)) {
            let has = |entry: &&Entry| entry.id == *id && entry.location == *row;
            assert!(
                pack.entries.iter().any(|entry| has(&entry)),
                "a whole record is given up"
            );
        }
        return Some(pack.entries.clone());
    }
    assert!(nothing.is_empty(), "a second start repairs once more");
    let repair = match repairs.as_slice() {
        [] => None,
        [repair] => Some(repair.kind),
        more => panic!("{more:?}"),
    };
    match (packs.as_slice(), repair) {
        ([], Some(RecoveredKind::Removed)) => {
            assert!(!path.exists() && found.entries.is_empty());
            None
        }
        ([pack], None | Some(RecoveredKind::Sealed | RecoveredKind::FooterRebuilt)) => {
            let listed = footer_of(&path, &pack.info);
            repair?;
            let mut listed = listed.unwrap_or_else(|| panic!("a new footer fails its hash"));
            listed.sort_by_key(|entry| entry.order);
            assert_eq!(listed, found.entries);
            Some(listed)
        }
        other => panic!("{other:?}"),
    }
}

fn footer_of(path: &Path, info: &PackInfo) -> Option<Vec<Entry>> {
    let file = ok(ReadFile::open(path, false));
    assert_eq!(ok(file.length()), info.bytes);
    let trailer = ok(read_end(&file, PACK))
        .trailer()
        .unwrap_or_else(|| panic!("a sealed pack has no trailer"));
    let mut table = vec![0; trailer.table_bytes()];
    assert_eq!(ok(file.read_at(&mut table, trailer.table_offset)), table.len());
    let entries = trailer.entries(&table)?;
    assert_eq!(entries.len(), table.len() / ENTRY_BYTES);
    Some(entries)
}

/// Whether the record that a row points to is whole.
fn is_record(bytes: &[u8], id: &ChunkId, row: &Location) -> bool {
    let stored = bytes.get(row.offset as usize..row.end() as usize).unwrap_or_default();
    let Ok(header) = RecordHeader::decode(stored) else {
        return false;
    };
    header.id == *id
        && HEADER_BYTES + header.payload_len as usize == stored.len()
        && crc32c(stored.get(HEADER_BYTES..).unwrap_or_default()) == header.payload_crc
}

/// Every entry is a record of the file, in order, one behind the other and before `end`.
fn whole(bytes: &[u8], entries: &[Entry], end: u64) {
    let mut behind = FILE_HEADER_BYTES as u64;
    for (order, entry) in entries.iter().enumerate() {
        let Location { offset, stored_len, .. } = entry.location;
        assert!(entry.order as usize == order && u64::from(offset) >= behind && entry.location.end() <= end);
        behind = entry.location.end();
        let stored = bytes
            .get(offset as usize..offset as usize + stored_len as usize)
            .unwrap_or_default();
        let header = RecordHeader::decode(stored);
        assert!(header.is_ok_and(|header| header.id == entry.id && header.payload_crc == entry.payload_crc));
        assert_eq!(
            crc32c(stored.get(HEADER_BYTES..).unwrap_or_default()),
            entry.payload_crc
        );
    }
}

/// A whole pack, then at most one flipped burst, cleared pages, and a cut: no record is found that was not written, and
/// without damage every one is. If the index points to the records, those that are left are found whatever the frames
/// say, and nothing is dropped.
fn written_and_damaged(mut script: Script<'_>) {
    let mut file = file_header(PACK);
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..script.u8() % 4 {
        sound_batch(&mut script, &mut file, &mut entries);
    }
    let is_sealed = script.bit() && !entries.is_empty();
    if is_sealed {
        let table = footer(PACK, file.len() as u64, &entries);
        file.extend_from_slice(&table);
    }
    let before = file.clone();
    if script.bit() {
        let (at, mask) = (usize::from(script.u16()) % file.len(), script.u64() as u32);
        let flips = mask.to_le_bytes();
        file.iter_mut()
            .skip(at)
            .zip(flips)
            .for_each(|(byte, flip)| *byte ^= flip);
    }
    for _ in 0..script.u8() % 3 {
        let at = usize::from(script.u8()) * ALIGNMENT;
        file.iter_mut().skip(at).take(ALIGNMENT).for_each(|byte| *byte = 0);
    }
    if script.bit() {
        file.truncate(usize::from(script.u16()) * 2);
    }
    let is_damaged = file != before;
    let claimed = script.bit();
    let rows = entries
        .iter()
        .filter(|_| claimed)
        .map(|entry| (entry.id, entry.location));
    if let Some(found) = opens(&file, &Rows(rows.collect())) {
        let written = |found: &Entry| {
            entries.iter().any(|entry| {
                Entry {
                    order: found.order,
                    ..*entry
                } == *found
            })
        };
        assert!(found.iter().all(written), "a record is found that was not written");
        assert!(is_damaged || found == entries);
        assert!(is_damaged || !is_sealed, "a whole pack is repaired");
    }
}

fn sound_batch(script: &mut Script<'_>, file: &mut Vec<u8>, entries: &mut Vec<Entry>) {
    let start = file.len();
    let mut records = Vec::new();
    let count = 1 + script.u8() % 4;
    for _ in 0..count {
        let payload = vec![script.u8(); 1 + usize::from(script.u16()) % 3000];
        let header = RecordHeader {
            domain: DomainId(u64::from(script.u8())),
            id: ChunkId(*blake3::hash(&payload).as_bytes()),
            codec: Codec::Raw,
            raw_len: payload.len() as u32,
            payload_len: payload.len() as u32,
            written_at: entries.len() as u64,
            payload_crc: crc32c(&payload),
            envelope: None,
        };
        entries.push(Entry {
            id: header.id,
            domain: header.domain,
            location: Location {
                pack: PACK,
                offset: (start + FRAME_BYTES + records.len()) as u32,
                stored_len: (HEADER_BYTES + payload.len()) as u32,
                raw_len: header.raw_len,
                codec: Codec::Raw,
            },
            order: entries.len() as u32,
            payload_crc: header.payload_crc,
            encrypted: false,
        });
        records.extend_from_slice(&header.encode());
        records.extend_from_slice(&payload);
    }
    let frame = Frame {
        pack: PACK,
        offset: start as u32,
        bytes: aligned((FRAME_BYTES + records.len()) as u64) as u32,
        records: u32::from(count),
    };
    file.extend_from_slice(&frame.encode());
    file.extend_from_slice(&records);
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
}
