//! What the store's counters must say, computed from the rows that they count.

use std::collections::BTreeMap;

use crate::ids::PackId;
use crate::meta::chunk::ChunkRow;

/// Sums over chunk rows: the right values of `pack_stat(_, Live)` and of the store's `UniqueBytes` and `StoredBytes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Stored bytes (header and payload) of the chunks of each pack.
    pub live_bytes: BTreeMap<PackId, i64>,
    /// Plaintext bytes of the chunks, each once.
    pub unique_bytes: i64,
    /// Stored bytes of the chunks.
    pub stored_bytes: i64,
    pub chunks: u64,
}

impl Tally {
    pub fn add(&mut self, row: &ChunkRow) {
        let stored = i64::from(row.place.stored_len);
        *self.live_bytes.entry(row.place.pack).or_default() += stored;
        self.stored_bytes += stored;
        self.unique_bytes += i64::from(row.place.raw_len);
        self.chunks += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::chunk::Place;

    #[test]
    fn rows_are_summed_by_pack() {
        let row = |pack: u8, stored_len, raw_len| {
            let place = Place {
                pack: PackId([pack; 16]),
                offset: 0,
                stored_len,
                raw_len,
                codec: 0,
            };
            ChunkRow::new(place, false)
        };
        let mut tally = Tally::default();
        for row in [row(1, 10, 20), row(1, 5, 6), row(2, 7, 7)] {
            tally.add(&row);
        }
        assert_eq!(
            tally.live_bytes,
            BTreeMap::from([(PackId([1; 16]), 15), (PackId([2; 16]), 7)])
        );
        assert_eq!((tally.unique_bytes, tally.stored_bytes, tally.chunks), (33, 22, 3));
    }
}
