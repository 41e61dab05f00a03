//! How RocksDB is set up.

use std::path::PathBuf;
use std::sync::Arc;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType,
    DEFAULT_COLUMN_FAMILY_NAME, Options,
};

use crate::kv::Family;
use crate::kv::log::LogFault;
use crate::limits::{KIB, MIB};

/// Values from this size on leave the tree for blob files, so that compactions do not copy small bodies again and again.
const BLOB_BYTES_MIN: u64 = 512;
/// A table file with this many deletions among as many rows in a row is compacted soon.
const DELETIONS_WINDOW: usize = 4096;
const DELETIONS_IN_WINDOW: usize = 2048;
const DELETIONS_RATIO: f64 = 0.3;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// The part of the memory for what was read that holds rows, not blocks.
const ROW_CACHE_SHARE: usize = 8;

/// What an operator can set of the embedded engine.
#[derive(Clone)]
pub struct RocksOptions {
    /// The data directory; the engine uses `log/` and `db/` in it.
    pub dir: PathBuf,
    /// Rows in memory before they are flushed, over all families. Half as much again may be in use during a flush.
    pub memtable_bytes: usize,
    /// What was read of rows and blocks.
    pub block_cache_bytes: usize,
    pub log_file_bytes: u64,
    /// Reads that may wait for the disk at the same time.
    pub read_threads: usize,
    pub open_files_max: i32,
    /// Keep the commit log until [`LogTail`](crate::kv::log::LogTail) is told what of it is not needed.
    pub hold_log: bool,
    /// Makes steps of the commit log fail, for tests.
    pub log_fault: Option<Arc<dyn LogFault>>,
}

/// The filter of a memtable, as a share of the memory of all memtables: 10 bits for each of 330,000 rows by default.
const MEMTABLE_FILTER_SHARE: f64 = 0.01;

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data"),
            memtable_bytes: 40 * MIB,
            block_cache_bytes: 32 * MIB,
            log_file_bytes: 16 * MIB as u64,
            read_threads: 8,
            open_files_max: 256,
            hold_log: false,
            log_fault: None,
        }
    }
}

impl RocksOptions {
    pub(super) fn row_cache_bytes(&self) -> usize {
        self.block_cache_bytes / ROW_CACHE_SHARE
    }
}

/// The family's name on disk.
pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::Heads => "heads",
        Family::Bodies => "bodies",
        Family::Chunks => "chunks",
        Family::References => "references",
        Family::Trees => "trees",
        Family::Queues => "queues",
        Family::Rest => "rest",
    }
}

pub(super) fn database_options(options: &RocksOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // A flush takes all families at one point, so that `applied_seq` is true of them all.
    db.set_atomic_flush(true);
    db.set_db_write_buffer_size(options.memtable_bytes);
    db.set_max_open_files(options.open_files_max);
    db.set_max_background_jobs(2);
    // Spreads the writes of a flush, so that a sync of the commit log does not wait for all of them.
    db.set_bytes_per_sync(512 * KIB as u64);
    db.set_max_manifest_file_size(4 * MIB);
    db.set_keep_log_file_num(2);
    db.set_max_log_file_size(MIB);
    db.set_stats_dump_period_sec(0);
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    db
}

pub(super) fn families(options: &RocksOptions) -> Vec<ColumnFamilyDescriptor> {
    // The charge of an entry is left to RocksDB to find out.
    let cache = Cache::new_hyper_clock_cache(options.block_cache_bytes - options.row_cache_bytes(), 0);
    let mut made: Vec<_> = Family::ALL
        .into_iter()
        .map(|family| ColumnFamilyDescriptor::new(family_name(family), family_options(family, options, &cache)))
        .collect();
    made.push(ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, plain(options)));
    made
}

fn plain(options: &RocksOptions) -> Options {
    let mut family = Options::default();
    // The shared budget decides when to flush, never one family.
    family.set_write_buffer_size(options.memtable_bytes);
    family.set_max_write_buffer_number(3);
    family.set_arena_block_size(64 * KIB);
    family
}

fn family_options(family: Family, options: &RocksOptions, cache: &Cache) -> Options {
    let mut made = plain(options);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Indexes and filters count against the cache, so that memory does not grow with the store.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In pieces of some KiB under a pinned top: whole ones of a megabyte each would drive each other out once they are more
    // than the cache, and each lookup read one (`docs/scaling.md`).
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_format_version(6);
    match family {
        Family::Chunks => {
            table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
            table.set_block_size(4 * KIB);
            made.set_compression_type(DBCompressionType::None);
        }
        Family::Bodies => {
            table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
            table.set_block_size(4 * KIB);
            made.set_compression_type(DBCompressionType::Lz4);
            made.set_enable_blob_files(true);
            made.set_min_blob_size(BLOB_BYTES_MIN);
            made.set_blob_file_size(32 * MIB as u64);
            made.set_blob_compression_type(DBCompressionType::None);
            made.set_enable_blob_gc(true);
            made.set_blob_gc_age_cutoff(0.3);
            made.set_blob_gc_force_threshold(0.5);
            // No blob cache: the page cache keeps bodies, and a body must not drive out hundreds of other rows.
        }
        Family::References => {
            table.set_block_size(8 * KIB);
            made.set_compression_type(DBCompressionType::None);
        }
        Family::Heads | Family::Trees | Family::Queues | Family::Rest => {
            table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
            table.set_block_size(8 * KIB);
            made.set_compression_type(DBCompressionType::Lz4);
        }
    }
    // Most keys that are asked for in vain are new: a skip list is a long way to learn that.
    made.set_memtable_whole_key_filtering(true);
    made.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_SHARE);
    made.add_compact_on_deletion_collector_factory(DELETIONS_WINDOW, DELETIONS_IN_WINDOW, DELETIONS_RATIO);
    made.set_block_based_table_factory(&table);
    made
}
