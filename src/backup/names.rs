//! The names of the blobs. They tell what a listing needs to know, and carry the hash of the bytes, so that no blob has
//! a header and every one can be verified. `docs/format.md` is their account.
//!
//! Numbers are in hex and of fixed width, so that names stand in the order of what they tell. A name ends in a salt: after
//! an error the same bytes are written under another one.

use std::fmt;
use std::str::FromStr;

use crate::clock::Timestamp;
use crate::ids::{PackId, Sequence};

/// A store, a generation, a run or a checkpoint: 16 bytes that sort by creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 16]);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

impl FromStr for Id {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// What a blob's bytes must be: the first half of their BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(blake3::hash(bytes).as_bytes().first_chunk::<16>().unwrap_or(&[0; 16]));
        Self(half)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The fields of the last part of a name.
fn fields<const N: usize>(name: &str) -> Option<[&str; N]> {
    let last = name.rsplit('/').next()?;
    let fields: Vec<&str> = last.split('-').collect();
    fields.try_into().ok()
}

fn number(field: &str, width: usize) -> Option<u64> {
    let is_hex = field.len() == width && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u64::from_str_radix(field, 16).ok()).flatten()
}

fn digest(field: &str) -> Option<Digest> {
    field.parse::<Id>().ok().map(|Id(half)| Digest(half))
}

/// A piece of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceName {
    pub pack: PackId,
    pub start: u64,
    pub end: u64,
    pub salt: u32,
    pub digest: Digest,
}

pub const PACKS: &str = "packs/";

impl fmt::Display for PieceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pack, start, end) = (self.pack, self.start, self.end);
        write!(
            f,
            "{PACKS}{pack}/{start:010x}-{end:010x}-{:08x}-{}",
            self.salt, self.digest
        )
    }
}

impl PieceName {
    pub fn parse(name: &str) -> Option<Self> {
        let [start, end, salt, hash] = fields(name)?;
        let pack = name.rsplit('/').nth(1)?;
        let found = Self {
            pack: pack.parse().ok()?,
            start: number(start, 10)?,
            end: number(end, 10)?,
            salt: number(salt, 8)? as u32,
            digest: digest(hash)?,
        };
        (found.start < found.end).then_some(found)
    }
}

/// A stretch of the commit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentName {
    pub run: Id,
    /// Log offsets.
    pub start: u64,
    pub end: u64,
    /// Of its last mutation.
    pub sequence: Sequence,
    /// All of it was committed before this.
    pub time: Timestamp,
    /// Whether a restore may end behind it.
    pub is_point: bool,
    pub salt: u32,
    pub digest: Digest,
}

pub const LOG: &str = "log/";

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end, sequence, time) = (self.start, self.end, self.sequence.0, self.time.unix_ms());
        let kind = if self.is_point { 'p' } else { 'x' };
        write!(
            f,
            "{LOG}{}/{start:016x}-{end:016x}-{sequence:016x}-{time:012x}-{kind}-{:08x}-{}",
            self.run, self.salt, self.digest
        )
    }
}

impl SegmentName {
    pub fn parse(name: &str) -> Option<Self> {
        let [start, end, sequence, time, kind, salt, hash] = fields(name)?;
        let found = Self {
            run: name.rsplit('/').nth(1)?.parse().ok()?,
            start: number(start, 16)?,
            end: number(end, 16)?,
            sequence: Sequence(number(sequence, 16)?),
            time: Timestamp::from_unix_ms(number(time, 12)?),
            is_point: match kind {
                "p" => true,
                "x" => false,
                _ => return None,
            },
            salt: number(salt, 8)? as u32,
            digest: digest(hash)?,
        };
        (found.start < found.end).then_some(found)
    }
}

/// A part of a checkpoint's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsName {
    pub checkpoint: Id,
    pub number: u32,
    pub salt: u32,
    pub digest: Digest,
}

pub const ROWS: &str = "rows/";

impl fmt::Display for RowsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, salt) = (self.number, self.salt);
        write!(f, "{ROWS}{}/{number:08x}-{salt:08x}-{}", self.checkpoint, self.digest)
    }
}

impl RowsName {
    pub fn parse(name: &str) -> Option<Self> {
        let [count, salt, hash] = fields(name)?;
        Some(Self {
            checkpoint: name.rsplit('/').nth(1)?.parse().ok()?,
            number: number(count, 8)? as u32,
            salt: number(salt, 8)? as u32,
            digest: digest(hash)?,
        })
    }
}

/// A checkpoint that is complete: its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointName {
    pub checkpoint: Id,
    pub sequence: Sequence,
    pub time: Timestamp,
    pub salt: u32,
    pub digest: Digest,
}

pub const CHECKPOINTS: &str = "checkpoints/";

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, sequence, time, salt) = (self.checkpoint, self.sequence.0, self.time.unix_ms(), self.salt);
        write!(
            f,
            "{CHECKPOINTS}{id}-{sequence:016x}-{time:012x}-{salt:08x}-{}",
            self.digest
        )
    }
}

impl CheckpointName {
    pub fn parse(name: &str) -> Option<Self> {
        let [id, sequence, time, salt, hash] = fields(name)?;
        Some(Self {
            checkpoint: id.parse().ok()?,
            sequence: Sequence(number(sequence, 16)?),
            time: Timestamp::from_unix_ms(number(time, 12)?),
            salt: number(salt, 8)? as u32,
            digest: digest(hash)?,
        })
    }
}

/// A pack that is deleted in the store since this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoneName {
    pub time: Timestamp,
    pub pack: PackId,
}

pub const GONE: &str = "gone/";

impl fmt::Display for GoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{GONE}{:012x}-{}", self.time.unix_ms(), self.pack)
    }
}

impl GoneName {
    pub fn parse(name: &str) -> Option<Self> {
        let [time, pack] = fields(name)?;
        Some(Self {
            time: Timestamp::from_unix_ms(number(time, 12)?),
            pack: pack.parse().ok()?,
        })
    }
}

pub const INDEX: &str = "index/";

/// The blob that says that a store has this generation.
pub fn index(store: Id, generation: Id) -> String {
    format!("{INDEX}{store}/{generation}")
}

pub fn parse_index(name: &str) -> Option<(Id, Id)> {
    let (store, generation) = name.strip_prefix(INDEX)?.split_once('/')?;
    Some((store.parse().ok()?, generation.parse().ok()?))
}

/// The folder of a generation.
pub fn root(store: Id, generation: Id) -> String {
    format!("{store}/{generation}/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blob::is_name;

    proptest! {
        #[test]
        fn names_are_read_back(id: [u8; 16], half: [u8; 16], a in 0u64..1 << 39, b in 1u64..1 << 20, salt: u32, is_point: bool) {
            let (run, pack, digest) = (Id(id), PackId(id), Digest(half));
            let time = Timestamp::from_unix_ms(a);
            let (start, end, sequence) = (a, a + b, Sequence(b));
            let root = root(run, Id(half));
            let piece = PieceName { pack, start, end, salt, digest };
            prop_assert_eq!(PieceName::parse(&format!("{root}{piece}")), Some(piece));
            let segment = SegmentName { run, start, end, sequence, time, is_point, salt, digest };
            prop_assert_eq!(SegmentName::parse(&format!("{root}{segment}")), Some(segment));
            let rows = RowsName { checkpoint: run, number: salt, salt, digest };
            prop_assert_eq!(RowsName::parse(&format!("{root}{rows}")), Some(rows));
            let checkpoint = CheckpointName { checkpoint: run, sequence, time, salt, digest };
            prop_assert_eq!(CheckpointName::parse(&format!("{root}{checkpoint}")), Some(checkpoint));
            let gone = GoneName { time, pack };
            prop_assert_eq!(GoneName::parse(&format!("{root}{gone}")), Some(gone));
            prop_assert_eq!(parse_index(&index(run, Id(half))), Some((run, Id(half))));
            for name in [format!("{root}{piece}"), format!("{root}{segment}"), format!("{root}{checkpoint}")] {
                prop_assert!(is_name(&name), "{}", name);
            }
        }

        #[test]
        fn any_text_is_parsed_or_not(text in "[a-f0-9/x-]{0,140}") {
            for name in [&text, &format!("log/{text}"), &format!("packs/{text}")] {
                let _ = (PieceName::parse(name), SegmentName::parse(name), RowsName::parse(name));
                let _ = (CheckpointName::parse(name), GoneName::parse(name), parse_index(name));
            }
        }
    }
}
