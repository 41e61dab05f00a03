//! Reads the event log of `tools/synctrace`.

#[path = "../../synctrace/src/format.rs"]
pub mod format;

use crate::Result;
use std::ops::Range;
use std::path::Path;

/// A whole log in memory.
pub struct Trace {
    pub bytes: Vec<u8>,
    pub events: Vec<Event>,
}

/// One event; paths and data are ranges of the log's bytes.
pub struct Event {
    pub kind: u8,
    pub flags: u8,
    pub id: u32,
    pub sequence: u32,
    pub numbers: [u64; 2],
    pub path: Range<usize>,
    pub rest: Range<usize>,
    /// Offset in the log just behind the event: the mark that drivers compare with the log's length.
    pub end: u64,
}

impl Trace {
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(std::fs::read(path)?)
    }

    /// Parses up to the first record that is cut short.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let mut events = Vec::new();
        let mut at = 0;
        while let Some((event, length)) = parse_event(&bytes, at) {
            at += length;
            events.push(event);
        }
        let trace = Self { bytes, events };
        for event in &trace.events {
            if event.kind == format::UNSUPPORTED {
                return Err(format!("the recorder met what it cannot record: {}", trace.text(&event.path)).into());
            }
        }
        Ok(trace)
    }

    pub fn text(&self, range: &Range<usize>) -> String {
        String::from_utf8_lossy(self.slice(range)).into_owned()
    }

    pub fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// How many syncs `SYNCTRACE_DROP` left out.
    pub fn dropped_syncs(&self) -> usize {
        self.events.iter().filter(|event| event.kind == format::DROPPED).count()
    }
}

fn parse_event(bytes: &[u8], at: usize) -> Option<(Event, usize)> {
    let header = bytes.get(at..at + format::HEADER_BYTES)?;
    let half = |from: usize| {
        header
            .get(from..from + 4)
            .and_then(|four| four.try_into().ok())
            .map(u32::from_le_bytes)
    };
    let whole = |from: usize| {
        header
            .get(from..from + 8)
            .and_then(|eight| eight.try_into().ok())
            .map(u64::from_le_bytes)
    };
    let length = half(0)? as usize;
    let path_length = usize::from(*header.get(6)?) | usize::from(*header.get(7)?) << 8;
    let path = at + format::HEADER_BYTES..at + format::HEADER_BYTES + path_length;
    if length < format::HEADER_BYTES + path_length || at + length > bytes.len() {
        return None;
    }
    let event = Event {
        kind: *header.get(4)?,
        flags: *header.get(5)?,
        id: half(8)?,
        sequence: half(12)?,
        numbers: [whole(16)?, whole(24)?],
        rest: path.end..at + length,
        path,
        end: (at + length) as u64,
    };
    Some((event, length))
}
