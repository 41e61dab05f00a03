//! What the chunk store counts.

use prometheus::{IntCounter, IntGauge, Registry};

pub(super) struct ChunkMetrics {
    /// Plaintext bytes that uploads brought.
    pub written_bytes: IntCounter,
    /// Plaintext bytes of chunks that were not there yet.
    pub unique_bytes: IntCounter,
    /// Record bytes of those.
    pub stored_bytes: IntCounter,
    pub hole_bytes: IntCounter,
    pub windows: IntCounter,
    /// Window commits that a rival made to be tried again.
    pub window_conflicts: IntCounter,
    pub segment_hits: IntCounter,
    pub chunk_hits: IntCounter,
    pub chunk_misses: IntCounter,
    pub read_bytes: IntCounter,
    pub tree_cache_hits: IntCounter,
    pub tree_cache_misses: IntCounter,
    pub segment_cache_hits: IntCounter,
    pub segment_cache_misses: IntCounter,
    /// Extents whose location hints were stale.
    pub stale_hints: IntCounter,
    pub damaged_chunks: IntCounter,
    pub data_unwound: IntCounter,
    pub collected_packs: IntCounter,
    pub collected_bytes: IntCounter,
    pub moved_bytes: IntCounter,
    /// Bytes of packs that went from one backend to the other.
    pub migrated_bytes: IntCounter,
    pub collect_errors: IntCounter,
    pub scrubbed_records: IntCounter,
    pub scrubbed_bytes: IntCounter,
    pub scrub_damaged: IntCounter,
    /// Bodies of objects that are not in packs.
    pub scrubbed_bodies: IntCounter,
    pub scrub_bad_objects: IntCounter,
    pub mended_footers: IntCounter,
    /// Unix seconds; 0 before the first.
    pub scrub_finished: IntGauge,
    /// Packs that cannot be emptied: a live record in them is damaged, or a counter does not fit.
    pub stuck_packs: IntGauge,
    /// Packs that are missing or damaged and that rows point to.
    pub lost_packs: IntGauge,
    pub gc: GcMetrics,
}

/// How collection stands, brought up to date when it is asked for.
pub(super) struct GcMetrics {
    pub epoch: IntGauge,
    pub stopped: IntGauge,
    pub running: IntGauge,
    pub dead_bytes: IntGauge,
    pub packs_above_mark: IntGauge,
    pub garbage: IntGauge,
    pub abandoned: IntGauge,
    pub condemned_bytes: IntGauge,
}

impl GcMetrics {
    fn new(gauge: impl Fn(&str, &str) -> Result<IntGauge, prometheus::Error>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            epoch: gauge("collect_epoch", "The epoch of collection")?,
            stopped: gauge("collect_stopped", "1: unexplained death stopped collection")?,
            running: gauge("collect_running", "1: a run of the collector is under way")?,
            dead_bytes: gauge("dead_bytes", "Bytes of packs that no chunk row points to")?,
            packs_above_mark: gauge("packs_above_mark", "Packs with enough dead bytes to be emptied")?,
            garbage: gauge(
                "garbage",
                "Payloads that nobody owns; those above ten thousand are not counted",
            )?,
            abandoned: gauge("abandoned", "Payloads half built that no session builds")?,
            condemned_bytes: gauge(
                "condemned_bytes",
                "Bytes of condemned packs that the restore window keeps",
            )?,
        })
    }
}

impl ChunkMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(format!("cairn_chunk_{name}_total"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(format!("cairn_chunk_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        Ok(Self {
            gc: GcMetrics::new(gauge)?,
            written_bytes: counter("written_bytes", "Plaintext bytes that uploads brought")?,
            unique_bytes: counter("unique_bytes", "Plaintext bytes of chunks that were new")?,
            stored_bytes: counter("stored_bytes", "Record bytes of chunks that were new")?,
            hole_bytes: counter("hole_bytes", "Zero bytes stored as holes")?,
            windows: counter("windows", "Upload windows")?,
            window_conflicts: counter("window_conflicts", "Window commits tried again after a conflict")?,
            segment_hits: counter("segment_hits", "Segments that were there already")?,
            chunk_hits: counter("hits", "Chunks that were there already")?,
            chunk_misses: counter("misses", "Chunks that were new")?,
            read_bytes: counter("read_bytes", "Plaintext bytes read")?,
            tree_cache_hits: counter("tree_cache_hits", "Tree rows found in memory")?,
            tree_cache_misses: counter("tree_cache_misses", "Tree rows read from the metadata store")?,
            segment_cache_hits: counter("segment_cache_hits", "Segments found in memory")?,
            segment_cache_misses: counter("segment_cache_misses", "Segments read from the metadata store")?,
            stale_hints: counter("stale_hints", "Extents whose location hints were stale")?,
            damaged_chunks: counter("damaged", "Chunks found damaged by a read or by the collector")?,
            data_unwound: counter("data_unwound", "Payloads whose references were taken back")?,
            collected_packs: counter("collected_packs", "Packs deleted by the collector")?,
            collected_bytes: counter("collected_bytes", "Bytes of packs deleted by the collector")?,
            moved_bytes: counter("moved_bytes", "Record bytes moved by the collector")?,
            migrated_bytes: counter("migrated_bytes", "Bytes of packs moved from one backend to the other")?,
            collect_errors: counter("collect_errors", "Runs of the collector that stopped early")?,
            scrubbed_records: counter("scrubbed_records", "Records verified by the scrub")?,
            scrubbed_bytes: counter("scrubbed_bytes", "Record bytes verified by the scrub")?,
            scrub_damaged: counter("scrub_damaged", "Damaged records found by the scrub, anew at each pass")?,
            scrubbed_bodies: counter("scrubbed_bodies", "Bodies of small objects verified by the scrub")?,
            scrub_bad_objects: counter(
                "scrub_bad_objects",
                "Objects found by the scrub whose rows or bodies are not as they were, anew at each pass",
            )?,
            mended_footers: counter("mended_footers", "Damaged footers of packs that the scrub wrote anew")?,
            scrub_finished: gauge(
                "scrub_finished_seconds",
                "When the scrub last finished a pass, in Unix time",
            )?,
            stuck_packs: gauge("stuck_packs", "Packs that the collector cannot empty")?,
            lost_packs: gauge(
                "lost_packs",
                "Packs that are missing or damaged while chunks are stored in them",
            )?,
        })
    }
}
