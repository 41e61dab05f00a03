//! RocksDB as the committer and the readers see it. Everything here may block.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use rocksdb::{
    ColumnFamily, DB, DBRawIterator, ErrorKind, FlushOptions, PerfContext, PerfMetric, PerfStatsLevel, ReadOptions,
    ReadTier, Snapshot, WriteBatch, WriteOptions, perf::set_perf_stats,
};

use super::deletions::Deletions;
use super::options::{RocksOptions, database_options, families, family_name};
use super::row_cache::RowCache;
use crate::ids::Sequence;
use crate::kv::group::Base;
use crate::kv::log::{Effect, Effects, Flushed};
use crate::kv::range::successor;
use crate::kv::{Direction, Family, ReadError, Row, Scan, Value, committer};
use crate::limits::SCAN_ROWS_MAX;

/// In the default column family: the sequence up to which everything is applied, as a little-endian `u64`. Written by
/// every batch, so that what a flush leaves says how far it goes.
pub(super) const APPLIED: &[u8] = b"applied_seq";
/// Bytes of the version before a row's bytes.
const VERSION_BYTES: usize = 8;
/// How long a commit waits for room on a full disk.
const ROOM_TRIES_MAX: u32 = 240;
const ROOM_PAUSE: Duration = Duration::from_millis(250);

pub(super) struct Database {
    pub(super) db: DB,
    /// Kept, since making them costs an allocation each.
    from_memory: ReadOptions,
    from_disk: ReadOptions,
    rows: RowCache,
    pub deletions: Deletions,
}

/// How a read may get at its rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Only what is in memory: never blocks.
    Memory,
    Disk,
}

/// Why a read did not answer.
pub(super) enum Miss {
    /// Only the disk can answer.
    NotInMemory,
    Failed(ReadError),
}

impl From<rocksdb::Error> for Miss {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            ErrorKind::Incomplete => Self::NotInMemory,
            ErrorKind::Corruption => Self::Failed(ReadError::Corrupt(error.into_string())),
            _ => Self::Failed(ReadError::Unavailable(error.into_string())),
        }
    }
}

impl From<Miss> for ReadError {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::NotInMemory => Self::Unavailable("the row is not in memory".to_owned()),
            Miss::Failed(error) => error,
        }
    }
}

fn version_of(stored: &[u8]) -> Result<(Sequence, &[u8]), Miss> {
    match stored.split_first_chunk::<VERSION_BYTES>() {
        Some((version, bytes)) => Ok((Sequence(u64::from_le_bytes(*version)), bytes)),
        None => Err(Miss::Failed(ReadError::Corrupt(
            "a row is too short for its version".to_owned(),
        ))),
    }
}

fn options(reach: Reach) -> ReadOptions {
    let mut made = ReadOptions::default();
    if reach == Reach::Memory {
        made.set_read_tier(ReadTier::BlockCache);
    }
    made
}

/// Bytes on the disk by family, and in memory.
#[derive(Default)]
pub(super) struct Sizes {
    pub files: Vec<(Family, u64)>,
    pub block_cache: u64,
    pub memtables: u64,
}

/// The rows of one page, copied into one allocation.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
    /// Length of the key, length of the bytes, version.
    rows: Vec<(usize, usize, Sequence)>,
}

impl Page {
    fn push(&mut self, key: &[u8], stored: &[u8]) -> Result<(), Miss> {
        let (version, bytes) = version_of(stored)?;
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(bytes);
        self.rows.push((key.len(), bytes.len(), version));
        Ok(())
    }

    fn finish(self) -> Vec<Row> {
        let mut rest = Bytes::from(self.bytes);
        let row = |(key, value, version)| Row {
            key: rest.split_to(key),
            value: Value {
                bytes: rest.split_to(value),
                version,
            },
        };
        self.rows.into_iter().map(row).collect()
    }
}

impl Database {
    pub fn open(settings: &RocksOptions) -> Result<Self, rocksdb::Error> {
        let path = settings.dir.join("db");
        let db = DB::open_cf_descriptors(&database_options(settings), path, families(settings))?;
        Ok(Self {
            db,
            from_memory: options(Reach::Memory),
            from_disk: options(Reach::Disk),
            rows: RowCache::new(settings.row_cache_bytes()),
            deletions: Deletions::default(),
        })
    }

    fn family(&self, family: Family) -> Result<&ColumnFamily, Miss> {
        let missing = || Miss::Failed(ReadError::Corrupt("a column family is missing".to_owned()));
        self.db.cf_handle(family_name(family)).ok_or_else(missing)
    }

    pub fn get(&self, key: &[u8], reach: Reach) -> Result<Option<Value>, Miss> {
        let ticket = match self.rows.find(key) {
            Ok(row) => return Ok(Some(row)),
            Err(ticket) => ticket,
        };
        let Some(family) = Family::of(key) else { return Ok(None) };
        let family = self.family(family)?;
        let options = match reach {
            Reach::Memory => &self.from_memory,
            Reach::Disk => &self.from_disk,
        };
        let row = self.fetch(family, key, options)?;
        if let (Some(ticket), Some(row)) = (ticket, &row) {
            self.rows.keep(ticket, key, row);
        }
        Ok(row)
    }

    fn fetch(&self, family: &ColumnFamily, key: &[u8], options: &ReadOptions) -> Result<Option<Value>, Miss> {
        let found = self.db.get_pinned_cf_opt(family, key, options)?;
        let Some(stored) = found else { return Ok(None) };
        let (version, bytes) = version_of(&stored)?;
        Ok(Some(Value {
            bytes: Bytes::copy_from_slice(bytes),
            version,
        }))
    }

    /// Gives `work` the store as of now. Tombstones cannot be compacted away meanwhile, so the tidier waits.
    pub fn at_one_moment(&self, work: impl FnOnce(&Snapshot<'_>)) {
        let _waits = self.deletions.hold();
        work(&self.db.snapshot());
    }

    pub fn get_at(&self, key: &[u8], snapshot: &Snapshot<'_>) -> Result<Option<Value>, Miss> {
        let Some(family) = Family::of(key) else { return Ok(None) };
        let mut options = ReadOptions::default();
        options.set_snapshot(snapshot);
        self.fetch(self.family(family)?, key, &options)
    }

    /// Leaves the block cache to those who ask for the same rows again.
    pub fn scan_at(
        &self,
        family: Family,
        range: &Range<Bytes>,
        scan: &Scan,
        snapshot: &Snapshot<'_>,
    ) -> Result<Vec<Row>, Miss> {
        let limit = scan.limit.min(SCAN_ROWS_MAX);
        if range.start >= range.end || limit == 0 {
            return Ok(Vec::new());
        }
        let mut bounds = ReadOptions::default();
        bounds.set_snapshot(snapshot);
        bounds.fill_cache(false);
        let mut rows = self.rows_in(family, range, bounds)?;
        fill(&mut rows, scan, limit).map(Page::finish)
    }

    fn rows_in(
        &self,
        family: Family,
        range: &Range<Bytes>,
        mut bounds: ReadOptions,
    ) -> Result<DBRawIterator<'_>, Miss> {
        bounds.set_iterate_lower_bound(range.start.to_vec());
        bounds.set_iterate_upper_bound(range.end.to_vec());
        Ok(self.db.raw_iterator_cf_opt(self.family(family)?, bounds))
    }

    /// The sequence up to which everything is applied.
    pub fn applied(&self) -> Result<Sequence, rocksdb::Error> {
        self.applied_as(&ReadOptions::default())
    }

    fn applied_as(&self, options: &ReadOptions) -> Result<Sequence, rocksdb::Error> {
        let row = self.db.get_pinned_opt(APPLIED, options)?;
        let number = row
            .as_deref()
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        Ok(Sequence(number))
    }

    pub fn flush(&self) -> Result<(), rocksdb::Error> {
        let mut all = Vec::new();
        all.extend(
            Family::ALL
                .into_iter()
                .filter_map(|family| self.db.cf_handle(family_name(family))),
        );
        all.extend(self.db.cf_handle(rocksdb::DEFAULT_COLUMN_FAMILY_NAME));
        self.db.flush_cfs_opt(&all, &FlushOptions::default())
    }

    /// Drops the tombstones of `range` from memory and disk.
    pub fn compact(&self, family: Family, range: &Range<Vec<u8>>) -> Result<(), rocksdb::Error> {
        self.flush()?;
        if let Some(handle) = self.db.cf_handle(family_name(family)) {
            self.db.compact_range_cf(handle, Some(&range.start), Some(&range.end));
        }
        Ok(())
    }

    /// What RocksDB says of its own size.
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        for family in Family::ALL {
            let Some(handle) = self.db.cf_handle(family_name(family)) else {
                continue;
            };
            let of = |name| self.db.property_int_value_cf(handle, name).ok().flatten().unwrap_or(0);
            let files = of(c"rocksdb.total-sst-files-size") + of(c"rocksdb.total-blob-file-size");
            sizes.files.push((family, files));
            sizes.memtables += of(c"rocksdb.size-all-mem-tables");
            // One cache for all families.
            sizes.block_cache = of(c"rocksdb.block-cache-usage");
        }
        sizes
    }

    pub fn stop_background_work(&self) {
        self.db.cancel_all_background_work(true);
    }

    pub fn scan(&self, family: Family, range: &Range<Bytes>, scan: &Scan, reach: Reach) -> Result<Vec<Row>, Miss> {
        let limit = scan.limit.min(SCAN_ROWS_MAX);
        if range.start >= range.end || limit == 0 {
            return Ok(Vec::new());
        }
        let mut rows = self.rows_in(family, range, options(reach))?;
        if reach == Reach::Memory {
            return fill(&mut rows, scan, limit).map(Page::finish);
        }
        let (page, tombstones) = counting_tombstones(|| fill(&mut rows, scan, limit));
        self.deletions.skipped(family, range, tombstones);
        page.map(Page::finish)
    }

    /// Tombstones that a scan of all of `range` passes.
    #[cfg(test)]
    pub fn tombstones(&self, family: Family, range: &Range<Bytes>) -> u64 {
        let mut bounds = options(Reach::Disk);
        bounds.set_iterate_upper_bound(range.end.to_vec());
        let mut rows = self.db.raw_iterator_cf_opt(self.family(family).ok().unwrap(), bounds);
        let walk = || {
            rows.seek(&range.start);
            while rows.valid() {
                rows.next();
            }
        };
        counting_tombstones(walk).1
    }
}

/// What `walk` returns, and how many tombstones it passed.
fn counting_tombstones<T>(walk: impl FnOnce() -> T) -> (T, u64) {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut counts = PerfContext::default();
    counts.reset();
    let walked = walk();
    (walked, counts.metric(PerfMetric::InternalDeleteSkippedCount))
}

/// Reads up to `limit` rows.
fn fill(rows: &mut DBRawIterator<'_>, scan: &Scan, limit: usize) -> Result<Page, Miss> {
    let mut page = Page::default();
    let is_backward = scan.direction == Direction::Backward;
    if is_backward {
        rows.seek_to_last();
    } else {
        rows.seek_to_first();
    }
    while let Some((key, stored)) = rows.item() {
        page.push(key, stored)?;
        if page.rows.len() >= limit {
            return Ok(page);
        }
        let folded = scan
            .fold
            .as_ref()
            .filter(|_| !is_backward)
            .and_then(|fold| fold.prefix_of(key));
        match folded.map(successor) {
            Some(Some(next)) => rows.seek(next),
            Some(None) => return Ok(page),
            None if is_backward => rows.prev(),
            None => rows.next(),
        }
    }
    rows.status()?;
    Ok(page)
}

impl Base for Database {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        Ok(Self::get(self, key, Reach::Disk)?)
    }

    fn any_row(&self, range: &Range<Bytes>, gone: &dyn Fn(&[u8]) -> bool) -> Result<bool, ReadError> {
        let Some(family) = Family::of(&range.start) else {
            return Ok(false);
        };
        let mut bounds = options(Reach::Disk);
        bounds.set_iterate_upper_bound(range.end.to_vec());
        let mut rows = self.db.raw_iterator_cf_opt(self.family(family)?, bounds);
        rows.seek(&range.start);
        while let Some(key) = rows.key() {
            if !gone(key) {
                return Ok(true);
            }
            rows.next();
        }
        rows.status().map_err(Miss::from)?;
        Ok(false)
    }
}

impl committer::Engine for Database {
    fn apply(&self, effects: Effects<'_>, last: Sequence) -> Result<(), String> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        let changing = self
            .rows
            .change(effects.clone().filter_map(Result::ok).map(Effect::key));
        // After a flush for which the disk had no room RocksDB refuses everything, and goes on by itself once there is
        // some: the frame is durable, so what can be lost is time.
        let mut tries = 0;
        while let Err(error) = self.db.write_opt(self.batch(effects.clone(), last)?, &options) {
            tries += 1;
            if tries > ROOM_TRIES_MAX || !error.as_ref().contains("No space left") {
                std::mem::forget(changing);
                return Err(format!("applying to RocksDB failed: {error}"));
            }
            if tries == 1 {
                tracing::error!(%error, "a commit waits for room on the disk");
            }
            std::thread::sleep(ROOM_PAUSE);
        }
        Ok(())
    }
}

impl Database {
    fn batch(&self, effects: Effects<'_>, last: Sequence) -> Result<WriteBatch, String> {
        let mut batch = WriteBatch::default();
        for effect in effects {
            let effect = effect?;
            let key = effect.key();
            let family = Family::of(key).ok_or("a logged key is in no column family")?;
            let handle = self
                .db
                .cf_handle(family_name(family))
                .ok_or("a column family is missing")?;
            match effect {
                Effect::Put { key, stored } => batch.put_cf(handle, key, stored),
                Effect::Delete { key } => {
                    batch.delete_cf(handle, key);
                    self.deletions.deleted(family, key);
                }
            }
        }
        batch.put(APPLIED, last.0.to_le_bytes());
        Ok(batch)
    }
}

/// Tells the log's keeper how far RocksDB is flushed.
pub(super) struct FlushState {
    pub database: std::sync::Arc<Database>,
}

impl Flushed for FlushState {
    fn flushed(&self) -> Option<Sequence> {
        let mut options = ReadOptions::default();
        // With the write-ahead log off, this tier sees table files only.
        options.set_read_tier(ReadTier::Persisted);
        self.database.applied_as(&options).ok()
    }

    fn ask_flush(&self) {
        self.database.deletions.ask_flush();
    }
}
