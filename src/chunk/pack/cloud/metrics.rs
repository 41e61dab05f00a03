//! What packs in a cloud measure.

use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};

pub struct CloudMetrics {
    pub put_seconds: Histogram,
    pub put_bytes: IntCounter,
    pub put_errors: IntCounter,
    pub get_seconds: Histogram,
    pub get_bytes: IntCounter,
    pub get_errors: IntCounter,
    pub hedges: IntCounter,
    pub cache_hits: IntCounter,
    pub cache_misses: IntCounter,
}

impl CloudMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let seconds = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let buckets = prometheus::exponential_buckets(0.001, 2.0, 16)?;
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        Ok(Self {
            put_seconds: seconds("cairn_cloud_put_seconds", "Time of one put of a pack")?,
            put_bytes: counter("cairn_cloud_put_bytes_total", "Bytes of packs put into the cloud")?,
            put_errors: counter("cairn_cloud_put_errors_total", "Puts of packs that failed")?,
            get_seconds: seconds("cairn_cloud_get_seconds", "Time of one read from the cloud")?,
            get_bytes: counter("cairn_cloud_get_bytes_total", "Bytes read from the cloud")?,
            get_errors: counter("cairn_cloud_get_errors_total", "Reads from the cloud that failed")?,
            hedges: counter(
                "cairn_cloud_hedges_total",
                "Reads from the cloud that were asked for a second time because they were slow",
            )?,
            cache_hits: counter("cairn_cloud_cache_hits_total", "Reads that the disk cache answered")?,
            cache_misses: counter(
                "cairn_cloud_cache_misses_total",
                "Reads that the disk cache could not answer",
            )?,
        })
    }
}
