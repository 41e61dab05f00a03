//! Rows of buckets and current objects that were read lately, so that a hot key costs a hash lookup, not a search through
//! memtables, filters and blocks.
//!
//! What is found here is never older than what RocksDB would say. The committer is the only writer: around applying a
//! group it marks the shards of the group's keys as changing. While a shard changes, nothing of it is found here, and what
//! a reader fetched before or meanwhile is not kept. So as soon as anybody can have seen a new row, nobody is given the old
//! one.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::Mutex;

use crate::kv::{Family, Value};

/// So many that a group of commits makes only a few keys that it does not touch miss.
const SHARDS: usize = 1024;
/// A row above this is not worth the place of many small ones.
const ROW_BYTES_MAX: usize = 1024;
/// What an entry takes beside its key and its row.
const ENTRY_BYTES: usize = 256;

pub(super) struct RowCache {
    rows: Cache<Bytes, Value>,
    /// Odd: changing. A number that changed tells a reader that its row may be an old one.
    shards: Box<[Mutex<u64>]>,
}

/// A reader's ticket: the shard and its number before the row was read.
pub(super) struct Ticket {
    shard: usize,
    number: u64,
}

/// Shards that change as long as this lives. Forgotten when applying failed: then nobody knows what RocksDB has.
pub(super) struct Changing<'a> {
    cache: &'a RowCache,
    shards: Vec<usize>,
}

/// Whether rows of this key are kept here.
fn is_kept(key: &[u8]) -> bool {
    Family::of(key) == Some(Family::Heads)
}

impl RowCache {
    pub fn new(bytes: usize) -> Self {
        let weigh = |key: &Bytes, row: &Value| {
            let bytes = key.len() + row.bytes.len() + ENTRY_BYTES;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self {
            rows: Cache::builder().max_capacity(bytes as u64).weigher(weigh).build(),
            shards: (0..SHARDS).map(|_| Mutex::new(0)).collect(),
        }
    }

    fn shard_of(key: &[u8]) -> usize {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0)
    }

    fn number(&self, shard: usize) -> u64 {
        self.shards.get(shard).map_or(1, |number| *number.lock())
    }

    /// The row, or a ticket to [`keep`](Self::keep) it with once it is read; neither for a row that is not kept now.
    pub fn find(&self, key: &[u8]) -> Result<Value, Option<Ticket>> {
        if !is_kept(key) {
            return Err(None);
        }
        let shard = Self::shard_of(key);
        let number = self.number(shard);
        if number % 2 == 1 {
            return Err(None);
        }
        self.rows.get(key).ok_or(Some(Ticket { shard, number }))
    }

    /// Keeps what was read, unless it may have changed since the ticket was given.
    pub fn keep(&self, ticket: Ticket, key: &[u8], row: &Value) {
        if row.bytes.len() > ROW_BYTES_MAX {
            return;
        }
        let Some(number) = self.shards.get(ticket.shard) else {
            return;
        };
        // Held while the row is put in, so that a change begins before it, which the number tells, or removes it after.
        let number = number.lock();
        if *number == ticket.number {
            self.rows.insert(Bytes::copy_from_slice(key), row.clone());
        }
    }

    /// To be called before `keys` are written, and dropped once they are.
    pub fn change<'a>(&self, keys: impl Iterator<Item = &'a [u8]> + Clone) -> Changing<'_> {
        let kept = keys.filter(|key| is_kept(key));
        let mut shards: Vec<usize> = kept.clone().map(Self::shard_of).collect();
        shards.sort_unstable();
        shards.dedup();
        shards.iter().for_each(|shard| self.step(*shard));
        kept.for_each(|key| self.rows.invalidate(key));
        Changing { cache: self, shards }
    }

    fn step(&self, shard: usize) {
        if let Some(number) = self.shards.get(shard) {
            *number.lock() += 1;
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.shards.iter().for_each(|shard| self.cache.step(*shard));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BucketId, Sequence};
    use crate::meta::key;

    fn row(version: u64) -> Value {
        Value {
            bytes: Bytes::from_static(b"row"),
            version: Sequence(version),
        }
    }

    fn ticket(cache: &RowCache, key: &[u8]) -> Ticket {
        match cache.find(key) {
            Err(Some(ticket)) => ticket,
            _ => panic!("no ticket"),
        }
    }

    #[test]
    fn a_row_is_found_until_it_changes() {
        let (cache, key) = (RowCache::new(1 << 20), key::object(BucketId(1), "a"));
        let ticket = ticket(&cache, &key);
        cache.keep(ticket, &key, &row(1));
        assert_eq!(cache.find(&key).ok().map(|row| row.version), Some(Sequence(1)));
        let changing = cache.change([&key[..]].into_iter());
        assert!(
            matches!(cache.find(&key), Err(None)),
            "nothing is found while it changes"
        );
        drop(changing);
        assert!(matches!(cache.find(&key), Err(Some(_))));
    }

    #[test]
    fn what_was_read_before_or_during_a_change_is_not_kept() {
        let (cache, key) = (RowCache::new(1 << 20), key::object(BucketId(1), "a"));
        for keeps_during_the_change in [true, false] {
            let ticket = ticket(&cache, &key);
            let changing = cache.change([&key[..]].into_iter());
            if keeps_during_the_change {
                cache.keep(ticket, &key, &row(1));
                drop(changing);
            } else {
                drop(changing);
                cache.keep(ticket, &key, &row(1));
            }
            assert!(matches!(cache.find(&key), Err(Some(_))));
        }
    }

    #[test]
    fn a_failed_change_closes_the_shard_for_good() {
        let (cache, key) = (RowCache::new(1 << 20), key::object(BucketId(1), "a"));
        std::mem::forget(cache.change([&key[..]].into_iter()));
        assert!(matches!(cache.find(&key), Err(None)));
    }

    #[test]
    fn other_families_and_long_rows_are_not_kept() {
        let cache = RowCache::new(1 << 20);
        assert!(matches!(cache.find(&key::store("x")), Err(None)));
        let key = key::object(BucketId(1), "a");
        let long = Value {
            bytes: Bytes::from(vec![0; ROW_BYTES_MAX + 1]),
            version: Sequence(1),
        };
        cache.keep(ticket(&cache, &key), &key, &long);
        assert!(matches!(cache.find(&key), Err(Some(_))));
    }
}
