//! What packs measure.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

pub struct PackMetrics {
    pub written_bytes: IntCounter,
    pub records: IntCounter,
    pub sync_seconds: Histogram,
    pub batch_records: Histogram,
    pub poisoned: IntCounter,
    pub sealed: IntCounter,
    pub damaged: IntCounter,
    /// Label `source`: `cache` or `disk`.
    pub read_bytes: IntCounterVec,
}

impl PackMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let histogram = |name, help, start, factor, count| -> Result<Histogram, prometheus::Error> {
            let buckets = prometheus::exponential_buckets(start, factor, count)?;
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let read_bytes = IntCounterVec::new(
            Opts::new("cairn_pack_read_bytes_total", "Bytes read from packs"),
            &["source"],
        )?;
        registry.register(Box::new(read_bytes.clone()))?;
        Ok(Self {
            written_bytes: counter(
                "cairn_pack_written_bytes_total",
                "Bytes written to packs, padding included",
            )?,
            records: counter("cairn_pack_records_total", "Records made durable in packs")?,
            sync_seconds: histogram(
                "cairn_pack_sync_seconds",
                "Time of one fdatasync of a pack",
                0.000_125,
                2.0,
                14,
            )?,
            batch_records: histogram(
                "cairn_pack_batch_records",
                "Records that one sync covered",
                1.0,
                2.0,
                10,
            )?,
            poisoned: counter(
                "cairn_pack_poisoned_total",
                "Packs given up after a failed write or sync",
            )?,
            sealed: counter("cairn_pack_sealed_total", "Packs sealed")?,
            damaged: counter("cairn_pack_damaged_total", "Records and footers found damaged")?,
            read_bytes,
        })
    }
}
