//! What the metadata store measures of itself.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, exponential_buckets,
};

pub struct KvMetrics {
    pub group_mutations: Histogram,
    pub sync_seconds: Histogram,
    pub queue_seconds: Histogram,
    pub conflicts: IntCounter,
    pub log_bytes: IntCounter,
    /// Bytes of closed log files whose groups are not yet flushed.
    pub log_unflushed_bytes: IntGauge,
    /// Reads by where they ran: `place` (in memory) or `pool`.
    pub reads: IntCounterVec,
    pub compactions: IntCounter,
    pub is_poisoned: IntGauge,
    /// Bytes of the table and blob files by family.
    pub file_bytes: IntGaugeVec,
    /// Memory in use for blocks, filters and indexes that were read, and for rows not yet written to tables.
    pub block_cache_bytes: IntGauge,
    pub memtable_bytes: IntGauge,
}

impl KvMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| -> Result<Histogram, prometheus::Error> {
            let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let made = IntCounter::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let made = IntGauge::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let reads = IntCounterVec::new(
            Opts::new("cairn_kv_reads_total", "Reads by where they ran."),
            &["where"],
        )?;
        registry.register(Box::new(reads.clone()))?;
        let seconds = || exponential_buckets(0.000_05, 2.0, 16);
        Ok(Self {
            group_mutations: histogram(
                "cairn_kv_group_mutations",
                "Mutations committed together.",
                exponential_buckets(1.0, 2.0, 10)?,
            )?,
            sync_seconds: histogram(
                "cairn_kv_log_sync_seconds",
                "Time of one sync of the commit log.",
                seconds()?,
            )?,
            queue_seconds: histogram(
                "cairn_kv_commit_queue_seconds",
                "Time that the oldest mutation of a group waited for the committer.",
                seconds()?,
            )?,
            conflicts: counter(
                "cairn_kv_conflicts_total",
                "Mutations refused because a guard did not hold.",
            )?,
            log_bytes: counter(
                "cairn_kv_log_bytes_total",
                "Bytes appended to the commit log, padding included.",
            )?,
            log_unflushed_bytes: gauge(
                "cairn_kv_log_unflushed_bytes",
                "Bytes of closed log files still needed.",
            )?,
            reads,
            compactions: counter(
                "cairn_kv_range_compactions_total",
                "Ranges compacted because of their tombstones.",
            )?,
            is_poisoned: gauge(
                "cairn_kv_log_poisoned",
                "1 once a write or sync of the commit log has failed.",
            )?,
            file_bytes: file_bytes(registry)?,
            block_cache_bytes: gauge(
                "cairn_kv_block_cache_bytes",
                "Memory in use for what was read of tables, filters and indexes included.",
            )?,
            memtable_bytes: gauge(
                "cairn_kv_memtable_bytes",
                "Memory in use for rows not yet written to tables.",
            )?,
        })
    }
}

fn file_bytes(registry: &Registry) -> Result<IntGaugeVec, prometheus::Error> {
    let told = Opts::new("cairn_kv_file_bytes", "Bytes of table and blob files by column family.");
    let made = IntGaugeVec::new(told, &["family"])?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}
