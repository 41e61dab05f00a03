//! How much is stored: what users see, what is left of it after deduplication, and what lies on the disk.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    /// Bytes as users count them: all objects, and the parts of uploads in progress.
    pub logical_bytes: u64,
    /// Bytes of distinct chunks, before compression. Objects up to 8 KiB are not deduplicated and not in here.
    pub unique_bytes: u64,
    /// Bytes of distinct chunks as they are stored.
    pub stored_bytes: u64,
    /// Bytes of the pack files, with what waits to be collected.
    pub pack_bytes: u64,
    pub buckets: Vec<BucketUsage>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketUsage {
    pub name: String,
    pub owner: String,
    pub objects: u64,
    pub bytes: u64,
    /// Bytes of parts of uploads in progress.
    pub upload_bytes: u64,
}

impl fmt::Display for UsageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "logical  {:>14}  {:>10}",
            self.logical_bytes,
            human(self.logical_bytes)
        )?;
        writeln!(
            f,
            "unique   {:>14}  {:>10}",
            self.unique_bytes,
            human(self.unique_bytes)
        )?;
        writeln!(
            f,
            "stored   {:>14}  {:>10}",
            self.stored_bytes,
            human(self.stored_bytes)
        )?;
        writeln!(f, "packs    {:>14}  {:>10}", self.pack_bytes, human(self.pack_bytes))?;
        if self.buckets.is_empty() {
            return Ok(());
        }
        let width = self
            .buckets
            .iter()
            .map(|bucket| bucket.name.len())
            .max()
            .unwrap_or(0)
            .max(6);
        writeln!(
            f,
            "\n{:<width$}  {:>10}  {:>14}  {:>14}  owner",
            "bucket", "objects", "bytes", "in uploads"
        )?;
        for bucket in &self.buckets {
            let BucketUsage {
                name,
                owner,
                objects,
                bytes,
                upload_bytes,
            } = bucket;
            writeln!(
                f,
                "{name:<width$}  {objects:>10}  {bytes:>14}  {upload_bytes:>14}  {owner}"
            )?;
        }
        Ok(())
    }
}

/// Bytes in the largest binary unit that leaves a whole part, with one decimal.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let step = (bytes.max(1).ilog2() / 10).min(5);
    let unit = UNITS.get(step as usize).copied().unwrap_or_default();
    if step == 0 {
        return format!("{bytes} {unit}");
    }
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (64 << 20, "64.0 MiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
