//! Newtypes for every identifier that Cairn stores, and the one source of fresh ones.

use std::fmt;

use parking_lot::Mutex;

use crate::clock::Clock;

/// A commit's place in the total order of commits; also the version of every row that the commit wrote. Starts at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// A bucket's identity. Never reused, so that a recreated bucket inherits no rows of its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketId(pub u64);

/// A dedup domain: chunks are shared inside one and never between two (invariant I10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u64);

macro_rules! time_ordered_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = hex::FromHexError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes)?;
                Ok(Self(bytes))
            }
        }

        /// In reports it is what it is shown as.
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

time_ordered_id!(
    /// One stored payload: the anchor of its tree, or the name of a small body.
    DataId
);
time_ordered_id!(
    /// One multipart upload.
    UploadId
);
time_ordered_id!(
    /// One pack file. Unique and never reused.
    PackId
);

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

hash_id!(
    /// Keyed BLAKE3 of a chunk's plaintext; the key is the dedup domain's.
    ChunkId
);
hash_id!(
    /// Keyed BLAKE3 of a segment's chunk ids and lengths; the key is the dedup domain's.
    SegmentId
);

/// Makes 128-bit ids that sort by creation: 48 bits of Unix milliseconds, then 80 random bits that count upward within
/// a millisecond, so that ids of one source never go backwards even if the clock does.
pub struct IdSource {
    clock: Clock,
    last: Mutex<u128>,
}

impl IdSource {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            last: Mutex::new(0),
        }
    }

    /// A fresh id, greater than every id that this source has given out.
    pub fn next(&self) -> [u8; 16] {
        let mut random = [0u8; 16];
        // Without entropy there are no unique names, and without unique names no durable writes.
        #[allow(clippy::expect_used)]
        getrandom::fill(&mut random).expect("the operating system's random source");
        let time = u128::from(self.clock.now().unix_ms()) << 80;
        let fresh = time | (u128::from_be_bytes(random) >> 48);
        let mut last = self.last.lock();
        let id = fresh.max(last.wrapping_add(1));
        *last = id;
        id.to_be_bytes()
    }

    pub fn data_id(&self) -> DataId {
        DataId(self.next())
    }

    pub fn upload_id(&self) -> UploadId {
        UploadId(self.next())
    }

    pub fn pack_id(&self) -> PackId {
        PackId(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_when_the_clock_goes_back() {
        let (clock, hand) = Clock::manual(1_000_000);
        let source = IdSource::new(clock);
        let first = source.data_id();
        hand.set_ms(5);
        let second = source.data_id();
        assert!(second > first);
        assert_eq!(second.to_string().parse::<DataId>().unwrap(), second);
    }
}
