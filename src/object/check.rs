//! The check: whether everything that is stored fits together, and on request whether every byte is what it was.

use std::collections::HashMap;
use std::pin::pin;

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::chunk::{CheckProgress, CollectError, Finding, Pace, Stage};
use crate::ids::BucketId;
use crate::kv::skim::Skim;
use crate::meta::bucket::Bucket;
use crate::meta::key::{self, Table};
use crate::object::inspect::{Look, STEP_ROWS, told_as};
use crate::object::walk::{bucket, skims};
use crate::object::{Damage, DamagedObject, Objects, StoreError};

/// Findings of one kind that are told one by one; all are counted.
const TOLD_MAX: usize = 1000;

/// An object whose rows do not fit, or whose bytes in the metadata store are not what they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadObject {
    pub object: DamagedObject,
    pub reason: String,
}

/// Objects whose own rows cannot be read, so that nobody knows which they are: those from one key on up to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadObjects {
    /// `s3://bucket/key`, as far as a key is known.
    pub from: String,
    /// The first that is not among them; `None`: there is none behind.
    pub until: Option<String>,
    pub reason: String,
}

/// What a check found. Nothing in the four lists: the store is sound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    pub objects: u64,
    /// Packs, and those of them in the cloud.
    pub packs: u64,
    pub cloud_packs: u64,
    /// Records in the tables of the packs, dead ones too, and how many of them a rebuild of the index would take in place of
    /// an equal record in an older pack.
    pub index_records: u64,
    pub newer_copies: u64,
    /// Records and bodies whose bytes were read, and how many bytes these are.
    pub records: u64,
    pub bodies: u64,
    pub bytes: u64,
    /// Counters and references that disagree with the rows, one sentence each.
    pub differences: Vec<String>,
    pub unread_objects: Vec<UnreadObjects>,
    pub bad_objects: Vec<BadObject>,
    pub bad_objects_total: u64,
    pub damage: Vec<Damage>,
    pub damage_total: u64,
}

impl CheckReport {
    pub fn is_sound(&self) -> bool {
        self.differences.is_empty()
            && self.unread_objects.is_empty()
            && self.bad_objects_total == 0
            && self.damage_total == 0
    }

    fn note(&mut self, object: DamagedObject, reason: String) {
        self.bad_objects_total += 1;
        if self.bad_objects.len() < TOLD_MAX {
            self.bad_objects.push(BadObject { object, reason });
        }
    }
}

impl Objects {
    /// Compares all counters, references and the index with the rows and the packs, as of the moment at which it begins; then
    /// each object with what it refers to; with `read_data` it also reads every record of the packs, `at_once` packs side by
    /// side, and every body of a small object. Others read, write and collect meanwhile. What cannot be read is told, and
    /// the rest is checked.
    pub async fn check(
        &self,
        read_data: bool,
        at_once: usize,
        progress: &CheckProgress,
    ) -> Result<CheckReport, StoreError> {
        let mut report = CheckReport::default();
        progress.begin(Stage::Rows, 0);
        let names = self.readable_buckets(&mut report).await?;
        let is_whole = self.compare(&mut report, progress).await?;
        let look = Look {
            bodies: read_data,
            // References that do not fit have no name: the objects that need them are found from above.
            down: !is_whole,
        };
        self.check_objects(&names, look, progress, &mut report).await?;
        if read_data {
            self.check_packs(at_once, progress, &mut report).await?;
        }
        Ok(report)
    }

    /// Counters, references and the index. Returns whether they fit.
    pub(super) async fn compare(&self, report: &mut CheckReport, progress: &CheckProgress) -> Result<bool, StoreError> {
        let view = self.kv.snapshot().await?;
        self.compare_usage(&*view, report, progress).await?;
        let recount = self.chunks.recount_of(&*view, progress).await?;
        let is_whole = recount.differences_total == 0 && recount.findings_total == 0;
        let told = recount.differences.iter().map(ToString::to_string);
        report.differences.extend(told);
        let untold = recount
            .differences_total
            .saturating_sub(recount.differences.len() as u64);
        if untold > 0 {
            report.differences.push(format!("{untold} more differences"));
        }
        (report.packs, report.cloud_packs) = (recount.packs, recount.cloud_packs);
        (report.index_records, report.newer_copies) = (recount.records, recount.newer_copies);
        self.tell_damage(recount.findings, recount.findings_total, report)
            .await?;
        Ok(is_whole && report.is_sound())
    }

    /// The names of the buckets whose rows can be read.
    async fn readable_buckets(&self, report: &mut CheckReport) -> Result<HashMap<BucketId, String>, StoreError> {
        let mut names = HashMap::new();
        let mut steps = pin!(skims(&*self.kv, key::table(Table::Bucket), STEP_ROWS));
        while let Some(step) = steps.try_next().await? {
            match step {
                Skim::Gap(gap) => {
                    let name = |key: &[u8]| String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
                    let (from, until) = (name(&gap.keys.start), name(&gap.keys.end));
                    report.differences.push(format!(
                        "buckets from '{from}' on up to '{until}' cannot be read: {}",
                        gap.reason
                    ));
                }
                Skim::Rows(rows) => {
                    for row in rows {
                        let name = String::from_utf8_lossy(row.key.get(1..).unwrap_or_default()).into_owned();
                        match bucket(row) {
                            Ok(Bucket { id, name, .. }) => drop(names.insert(id, name)),
                            Err(error) => report.differences.push(format!("bucket {name}: {error}")),
                        }
                    }
                }
            }
        }
        Ok(names)
    }

    async fn check_objects(
        &self,
        names: &HashMap<BucketId, String>,
        look: Look,
        progress: &CheckProgress,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let total = self.counters_total().await.map_or(0, |usage| usage.objects);
        progress.begin(Stage::Objects, total.max(0).unsigned_abs());
        let mut steps = pin!(skims(&*self.kv, key::table(Table::Object), STEP_ROWS));
        while let Some(step) = steps.try_next().await? {
            let rows = match step {
                Skim::Rows(rows) => rows,
                Skim::Gap(gap) => {
                    let told = |row: &[u8]| told_as(row, names).to_string();
                    let is_end = gap.keys.end == key::table(Table::Object).end;
                    report.unread_objects.push(UnreadObjects {
                        from: told(&gap.keys.start),
                        until: (!is_end).then(|| told(&gap.keys.end)),
                        reason: gap.reason,
                    });
                    continue;
                }
            };
            let inspected = self.inspect(&rows, look).await?;
            progress.add(rows.len() as u64);
            report.objects += rows.len() as u64;
            report.bodies += inspected.bodies;
            report.bytes += inspected.bytes;
            for (row, reason) in inspected.bad {
                report.note(told_as(&row, names), reason);
            }
        }
        let tell = |row: bytes::Bytes, reason| report.note(told_as(&row, names), reason);
        self.inspect_uploads(look.down, tell).await
    }

    async fn check_packs(
        &self,
        at_once: usize,
        progress: &CheckProgress,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let packs = self.chunks.pack_sizes();
        progress.begin(Stage::Data, packs.iter().map(|(_, bytes)| bytes).sum());
        let fast = Pace { bytes_per_second: None };
        let read = |(pack, bytes)| async move { (pack, bytes, self.scrub_pack(pack, fast).await) };
        let mut reads = futures::stream::iter(packs).map(read).buffer_unordered(at_once.max(1));
        while let Some((pack, bytes, outcome)) = reads.next().await {
            progress.add(bytes);
            match outcome {
                Ok(scrubbed) => {
                    report.records += scrubbed.records;
                    report.bytes += scrubbed.bytes;
                    if scrubbed.unread > 0 {
                        let (unread, why) = (scrubbed.unread, &scrubbed.unread_reason);
                        let told =
                            format!("{unread} records of pack {pack} could not be read, and may be whole: {why}");
                        report.differences.push(told);
                    }
                    self.tell_damage(scrubbed.findings, scrubbed.damaged, report).await?;
                }
                Err(CollectError::Meta(error)) if !error.is_damage() => return Err(error.into()),
                Err(error) => report
                    .differences
                    .push(format!("pack {pack} could not be read: {error}")),
            }
        }
        Ok(())
    }

    async fn tell_damage(
        &self,
        findings: Vec<Finding>,
        total: u64,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        report.damage_total += total;
        let room = TOLD_MAX.saturating_sub(report.damage.len());
        let named = self.named(findings).await?;
        report.damage.extend(named.into_iter().take(room));
        Ok(())
    }
}
