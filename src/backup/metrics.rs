//! What a backup measures of itself.

use prometheus::{Gauge, IntCounter, IntGauge, Registry};

#[derive(Clone)]
pub struct BackupMetrics {
    pub restorable_sequence: IntGauge,
    pub restorable_age_seconds: Gauge,
    pub held_log_bytes: IntGauge,
    pub pending_pack_bytes: IntGauge,
    pub unreadable_packs: IntGauge,
    pub shipped_bytes: IntCounter,
    pub errors: IntCounter,
    pub breaks: IntCounter,
    pub checkpoints: IntCounter,
}

impl BackupMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
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
        let age = Gauge::new(
            "cairn_backup_restorable_age_seconds",
            "Age of the oldest acknowledged change that a restore would not bring back.",
        )?;
        registry.register(Box::new(age.clone()))?;
        Ok(Self {
            restorable_sequence: gauge(
                "cairn_backup_restorable_seq",
                "The last commit that a restore would bring back.",
            )?,
            restorable_age_seconds: age,
            held_log_bytes: gauge(
                "cairn_backup_held_log_bytes",
                "Bytes of the commit log that are kept for the backup.",
            )?,
            pending_pack_bytes: gauge(
                "cairn_backup_pending_pack_bytes",
                "Bytes of packs that the backup did not have at the last look.",
            )?,
            unreadable_packs: gauge(
                "cairn_backup_unreadable_packs",
                "Packs of which the disk does not give the backup all bytes.",
            )?,
            shipped_bytes: counter("cairn_backup_shipped_bytes_total", "Bytes that the backup has taken.")?,
            errors: counter(
                "cairn_backup_errors_total",
                "Calls to the backup that failed and were made again.",
            )?,
            breaks: counter(
                "cairn_backup_breaks_total",
                "Times that the log of the backup broke off and was begun anew.",
            )?,
            checkpoints: counter("cairn_backup_checkpoints_total", "Checkpoints that were completed.")?,
        })
    }
}
