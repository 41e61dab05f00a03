//! Looking for the records that the index points to and that no whole frame leads to.
//!
//! Only the index makes a record of what is found: a client may store bytes that look like one.

use std::io;
use std::ops::Range;

use crate::blob::local::ReadFile;
use crate::chunk::pack::scan::{Scan, Window, entry, is_whole, stored_bytes};
use crate::chunk::pack::{Claims, ClaimsError, Entry};
use crate::chunk::record::{self, HEADER_BYTES, RecordHeader, named_chunk};
use crate::ids::{ChunkId, PackId};

/// Places asked about at once.
const STEP_RECORDS: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the index cannot be asked: {0}")]
    Claims(ClaimsError),
}

/// Bytes of those of `entries` that the index points to.
pub fn claimed_bytes(claims: &dyn Claims, pack: PackId, entries: &[Entry]) -> Result<u64, ClaimsError> {
    let mut sum = 0;
    for step in entries.chunks(STEP_RECORDS) {
        let places: Vec<_> = step.iter().map(|entry| (entry.id, entry.location.offset)).collect();
        let lengths = claims.claimed(pack, &places)?;
        let claimed = step.iter().zip(lengths);
        sum += claimed
            .filter(|(entry, length)| *length == Some(entry.location.stored_len))
            .map(|(entry, _)| u64::from(entry.location.stored_len))
            .sum::<u64>();
    }
    Ok(sum)
}

/// What became of the records that the index points to and that `scan` did not find.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// Whole ones, in the order of their places.
    pub entries: Vec<Entry>,
    /// Damaged ones that can be named. One whose header does not even name its chunk is in neither list.
    pub damaged: Vec<ChunkId>,
}

/// Searches the gaps of `scan` in a file of `length` bytes.
pub fn salvage(
    file: &ReadFile,
    pack: PackId,
    length: u64,
    scan: &Scan,
    claims: &dyn Claims,
) -> Result<Salvaged, SalvageError> {
    let mut found = Salvaged::default();
    for step in scan.broken.chunks(STEP_RECORDS) {
        let lengths = claims.claimed(pack, step).map_err(SalvageError::Claims)?;
        let claimed = step.iter().zip(lengths).filter(|(_, length)| length.is_some());
        found.damaged.extend(claimed.map(|((id, _), _)| *id));
    }
    let mut search = Search {
        window: Window::new(file, length),
        pack,
        claims,
        payload: Vec::new(),
        found,
    };
    for gap in &scan.gaps {
        search.gap(gap.clone())?;
    }
    Ok(search.found)
}

struct Search<'a> {
    window: Window<'a>,
    pack: PackId,
    claims: &'a dyn Claims,
    payload: Vec<u8>,
    found: Salvaged,
}

impl Search<'_> {
    /// Records lie back to back, so one is expected where the gap begins and behind each that is found, even without
    /// its magic; else the next magic is looked for.
    fn gap(&mut self, gap: Range<u64>) -> Result<(), SalvageError> {
        let mut at = gap.start;
        while at < gap.end {
            at = match self.record(at)? {
                Some(end) => end,
                None => match self.next_magic(at + 1, gap.end)? {
                    Some(next) => next,
                    None => return Ok(()),
                },
            };
        }
        Ok(())
    }

    /// The end of the record that the index says is at this place.
    fn record(&mut self, at: u64) -> Result<Option<u64>, SalvageError> {
        let Ok(offset) = u32::try_from(at) else { return Ok(None) };
        let Some(bytes) = self.window.at(at, HEADER_BYTES)? else {
            return Ok(None);
        };
        let Some(id) = named_chunk(bytes) else { return Ok(None) };
        let header = RecordHeader::decode(bytes).ok();
        let lengths = self.claims.claimed(self.pack, &[(id, offset)]);
        let lengths = lengths.map_err(SalvageError::Claims)?;
        let Some(length) = lengths.first().copied().flatten() else {
            return Ok(None);
        };
        let header = header.filter(|header| stored_bytes(header) == u64::from(length));
        match header {
            Some(header) if is_whole(self.window.file, at, &header, &mut self.payload)? => {
                let order = self.found.entries.len() as u32;
                self.found.entries.push(entry(self.pack, at, &header, order));
            }
            _ => self.found.damaged.push(id),
        }
        Ok(Some(at + u64::from(length.max(1))))
    }

    fn next_magic(&mut self, from: u64, end: u64) -> io::Result<Option<u64>> {
        let width = record::MAGIC.len();
        let mut at = from;
        while at + width as u64 <= end {
            let wanted = usize::try_from(end - at).unwrap_or(SEARCH_BYTES).min(SEARCH_BYTES);
            let Some(bytes) = self.window.at(at, wanted)? else {
                return Ok(None);
            };
            if let Some(place) = bytes.windows(width).position(|bytes| bytes == record::MAGIC) {
                return Ok(Some(at + place as u64));
            }
            at += (wanted - width + 1) as u64;
        }
        Ok(None)
    }
}

/// Bytes searched at once; the window holds more.
const SEARCH_BYTES: usize = 64 << 10;
