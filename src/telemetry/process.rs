//! Metrics of the process, read from `/proc` when they are asked for.

use prometheus::{Gauge, IntGauge, Registry};

pub struct ProcessMetrics {
    resident: IntGauge,
    cpu: Gauge,
    files: IntGauge,
    threads: IntGauge,
}

impl ProcessMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            resident: IntGauge::new("cairn_process_resident_memory_bytes", "Resident memory.")?,
            cpu: Gauge::new(
                "cairn_process_cpu_seconds",
                "Processor time used since the start, user and system.",
            )?,
            files: IntGauge::new("cairn_process_open_files", "Open file descriptors.")?,
            threads: IntGauge::new("cairn_process_threads", "Threads.")?,
        };
        registry.register(Box::new(metrics.resident.clone()))?;
        registry.register(Box::new(metrics.cpu.clone()))?;
        registry.register(Box::new(metrics.files.clone()))?;
        registry.register(Box::new(metrics.threads.clone()))?;
        Ok(metrics)
    }

    /// Reads `/proc/self`; what cannot be read keeps its last value. Blocks for some microseconds.
    pub fn refresh(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            if let Some(kib) = number_after(&status, "VmRSS:") {
                self.resident.set(kib.saturating_mul(1024));
            }
            if let Some(threads) = number_after(&status, "Threads:") {
                self.threads.set(threads);
            }
        }
        if let Ok(seconds) = cpu_seconds() {
            self.cpu.set(seconds);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(i64::try_from(files.count()).unwrap_or(i64::MAX));
        }
    }
}

fn number_after(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `/proc/self/stat` (proc(5)) in hundredths of a second, Linux's fixed unit for user space.
fn cpu_seconds() -> std::io::Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The program's name, in parentheses, may hold spaces.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory_and_threads() {
        let metrics = ProcessMetrics::new(&Registry::new()).unwrap();
        metrics.refresh();
        assert!(metrics.resident.get() > 1 << 20);
        assert!(metrics.threads.get() >= 1);
        assert!(metrics.files.get() >= 3);
    }
}
