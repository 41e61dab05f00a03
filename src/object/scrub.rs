//! The scrub: goes over all packs, then over the bodies of small objects, at a low rate, again and again, and tells what is
//! damaged by bucket and key.
//!
//! A row says how far a pass has come, so that a restart goes on there. What a pass finds wrong is noted in the chunk's
//! row, which outlives it; the list that health and the operator read is of this process.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chunk::{CollectError, Pace, ScrubReport, pack};
use crate::ids::PackId;
use crate::kv::skim::{Skim, after};
use crate::kv::{Mutation, ReadError};
use crate::meta::key::{self, Table};
use crate::meta::scrub::ScrubRow;
use crate::object::inspect::{Inspected, Look, STEP_ROWS, told_as};
use crate::object::walk::skims;
use crate::object::{BadObject, Damage, DamagedObject, Objects, StoreError};

const ROW: &str = "scrub";
/// A slower scrub would be none: a store of any size is read at this rate at least.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// A pass is done in half its time, so that what was not read while the gateway was off can be made up for.
const HASTE: u64 = 2;
/// Findings that are kept to be shown; all are logged and counted.
const FINDINGS_MAX: usize = 1000;
/// While there is no memory to read with.
const BUSY_PAUSE: Duration = Duration::from_secs(5);
/// After a step that failed.
const RETRY: Duration = Duration::from_secs(60);

/// How the scrub stands.
#[derive(Clone, Debug, Default)]
pub struct ScrubStatus {
    pub row: ScrubRow,
    /// Bytes of all packs now.
    pub total_bytes: u64,
    /// What this process has found in the pass under way and in the one before.
    pub damage: Vec<Damage>,
    pub bad_objects: Vec<BadObject>,
}

/// What was found, of the pass under way and of the one before.
#[derive(Default)]
pub(super) struct Found {
    damage: Mutex<(Vec<Damage>, Vec<Damage>)>,
    objects: Mutex<(Vec<BadObject>, Vec<BadObject>)>,
}

impl Found {
    fn begin_pass(&self) {
        let mut damage = self.damage.lock();
        damage.1 = std::mem::take(&mut damage.0);
        let mut objects = self.objects.lock();
        objects.1 = std::mem::take(&mut objects.0);
    }

    fn add(&self, damage: Damage) {
        let mut found = self.damage.lock();
        if found.0.len() < FINDINGS_MAX {
            found.0.push(damage);
        }
    }

    fn add_object(&self, bad: BadObject) {
        let mut found = self.objects.lock();
        if found.0.len() < FINDINGS_MAX {
            found.0.push(bad);
        }
    }

    /// Each chunk once, by what was found last.
    fn all(&self) -> Vec<Damage> {
        let found = self.damage.lock();
        let known = |chunk: &str| found.0.iter().any(|damage| damage.chunk == chunk);
        let before = found.1.iter().filter(|damage| !known(&damage.chunk));
        found.0.iter().chain(before).cloned().collect()
    }

    /// Each object once, likewise.
    fn all_objects(&self) -> Vec<BadObject> {
        let found = self.objects.lock();
        let known = |object: &DamagedObject| found.0.iter().any(|bad| bad.object == *object);
        let before = found.1.iter().filter(|bad| !known(&bad.object));
        found.0.iter().chain(before).cloned().collect()
    }
}

/// A scrub at work. Dropping it lets it go on; [`ScrubHandle::stop`] ends it.
pub struct ScrubHandle {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl ScrubHandle {
    /// Ends the scrub at once; the next one repeats the pack that it was in.
    pub async fn stop(self) {
        self.cancel.cancel();
        // It ends by returning; a panic in it has been reported by the runtime.
        let _ = self.task.await;
    }
}

impl Objects {
    /// Scrubs until the handle is stopped: every pack once in `interval`.
    pub fn start_scrub(self: &Arc<Self>, interval: Duration) -> ScrubHandle {
        let cancel = CancellationToken::new();
        let (objects, cancelled) = (Arc::clone(self), cancel.clone());
        let work = async move {
            loop {
                let pause = match objects.scrub_turn(interval).await {
                    Ok(pause) => pause,
                    Err(error) => {
                        tracing::warn!(%error, "the scrub stopped early and will resume");
                        RETRY
                    }
                };
                tokio::time::sleep(pause).await;
            }
        };
        let task = tokio::spawn(async move {
            cancelled.run_until_cancelled(work).await;
        });
        ScrubHandle { cancel, task }
    }

    /// Ends the pass under way, or makes one if it is time; returns how long there is nothing to do.
    pub(super) async fn scrub_turn(&self, interval: Duration) -> Result<Duration, StoreError> {
        let mut row = self.scrub_row().await?;
        if row == ScrubRow::default() {
            // What a new store holds was verified when it was written.
            row.began = self.clock.now();
            self.keep_scrub_row(&row).await?;
        }
        let age = self.clock.now().unix_ms().saturating_sub(row.began.unix_ms());
        let rest = interval.saturating_sub(Duration::from_millis(age));
        if !row.running && !rest.is_zero() {
            return Ok(rest);
        }
        let total: u64 = self.chunks.pack_sizes().iter().map(|(_, bytes)| bytes).sum();
        let rate = HASTE * total / interval.as_secs().max(1);
        let pace = Pace {
            bytes_per_second: Some(rate.max(BYTES_PER_SECOND_MIN)),
        };
        self.scrub(pace).await?;
        Ok(Duration::ZERO)
    }

    /// Goes over all packs, or over those that a pass before has left; returns what that pass came to in all.
    pub async fn scrub(&self, pace: Pace) -> Result<ScrubRow, StoreError> {
        let mut row = self.scrub_row().await?;
        if !row.running {
            self.found.begin_pass();
            row = ScrubRow {
                began: self.clock.now(),
                finished: row.finished,
                running: true,
                unknown: row.unknown,
                ..ScrubRow::default()
            };
        }
        for (pack, _) in self.chunks.pack_sizes() {
            if pack <= row.last {
                continue;
            }
            match self.scrub_footer(pack).await {
                Ok(damaged) => row.damaged += damaged,
                Err(StoreError::Read(error)) if !matches!(error, ReadError::Corrupt(_)) => return Err(error.into()),
                Err(error) => tracing::error!(%pack, %error, "a pack's footer could not be looked at"),
            }
            match self.scrub_pack(pack, pace).await {
                Ok(report) => {
                    row.records += report.records;
                    row.bytes += report.bytes;
                    row.damaged += report.damaged;
                    row.healed += report.healed;
                    if report.unread > 0 {
                        let (unread, why) = (report.unread, report.unread_reason);
                        tracing::error!(%pack, unread, why, "records could not be read: the next pass tries again");
                    }
                    for damage in self.named(report.findings).await? {
                        self.tell(damage);
                    }
                }
                Err(CollectError::Meta(error)) if !error.is_damage() => return Err(error.into()),
                // Its table cannot be read now: the others go on.
                Err(error) => tracing::error!(%pack, %error, "a pack could not be scrubbed"),
            }
            row.last = pack;
            self.keep_scrub_row(&row).await?;
        }
        self.scrub_objects(&mut row, pace).await?;
        (row.running, row.finished) = (false, self.clock.now());
        self.keep_scrub_row(&row).await?;
        self.chunks
            .scrub_finished((row.finished.unix_ms() / 1000).cast_signed());
        tracing::info!(
            records = row.records,
            bytes = row.bytes,
            damaged = row.damaged,
            healed = row.healed,
            bodies = row.bodies,
            "all packs and small objects are scrubbed"
        );
        Ok(row)
    }

    /// Looks at the footer of one pack; returns how many chunks are lost with it.
    async fn scrub_footer(&self, pack: PackId) -> Result<u64, StoreError> {
        let lost = match self.chunks.scrub_footer(pack).await {
            Err(CollectError::Meta(error)) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%pack, %error, "a pack's footer cannot be read");
                return Ok(0);
            }
            Ok(lost) => lost,
        };
        let count = lost.len() as u64;
        for damage in self.named(lost).await? {
            self.tell(damage);
        }
        Ok(count)
    }

    /// Reads the bodies that are in the metadata store, and looks whether what each object refers to is there.
    async fn scrub_objects(&self, row: &mut ScrubRow, pace: Pace) -> Result<(), StoreError> {
        let objects = key::table(Table::Object);
        let from = if row.last_object.is_empty() {
            objects.start
        } else {
            after(&row.last_object)
        };
        let look = Look {
            bodies: true,
            down: false,
        };
        let mut steps = pin!(skims(&*self.kv, from..objects.end, STEP_ROWS));
        while let Some(step) = steps.try_next().await? {
            let (bad, inspected) = match step {
                Skim::Gap(gap) => {
                    row.last_object = gap.keys.end;
                    let reason = format!("it, or objects behind it, cannot be read: {}", gap.reason);
                    (vec![(gap.keys.start, reason)], Inspected::default())
                }
                Skim::Rows(rows) => {
                    let mut inspected = self.inspect(&rows, look).await?;
                    row.last_object = rows.last().map_or(Bytes::new(), |last| last.key.clone());
                    inspected.bytes += rows.iter().map(|row| row.value.bytes.len() as u64).sum::<u64>();
                    (std::mem::take(&mut inspected.bad), inspected)
                }
            };
            self.chunks.scrubbed_objects(inspected.bodies, bad.len() as u64);
            row.bodies += inspected.bodies;
            row.damaged += bad.len() as u64;
            self.tell_objects(bad).await?;
            self.keep_scrub_row(row).await?;
            pace.wait(inspected.bytes).await;
        }
        Ok(())
    }

    async fn tell_objects(&self, bad: Vec<(Bytes, String)>) -> Result<(), StoreError> {
        if bad.is_empty() {
            return Ok(());
        }
        let wanted = bad
            .iter()
            .filter_map(|(row, _)| Some(key::parse_owner(row)?.0))
            .collect();
        let names = self.bucket_names(&wanted).await?;
        for (row, reason) in bad {
            let object = told_as(&row, &names);
            let DamagedObject { bucket, key, .. } = &object;
            tracing::error!(reason, bucket, key, "an object is damaged");
            self.found.add_object(BadObject { object, reason });
        }
        Ok(())
    }

    /// Scrubs one pack, waiting as long as others hold the memory for it.
    pub(super) async fn scrub_pack(&self, pack: PackId, pace: Pace) -> Result<ScrubReport, CollectError> {
        loop {
            match self.chunks.scrub_pack(pack, pace).await {
                Err(CollectError::Read(pack::ReadError::Busy(_))) => tokio::time::sleep(BUSY_PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    pub async fn scrub_status(&self) -> Result<ScrubStatus, StoreError> {
        Ok(ScrubStatus {
            row: self.scrub_row().await?,
            total_bytes: self.chunks.pack_sizes().iter().map(|(_, bytes)| bytes).sum(),
            damage: self.found.all(),
            bad_objects: self.found.all_objects(),
        })
    }

    /// Logs what was found and keeps it to be shown.
    fn tell(&self, damage: Damage) {
        let Damage {
            chunk,
            pack,
            reason,
            more,
            ..
        } = &damage;
        if damage.objects.is_empty() {
            tracing::error!(
                chunk,
                pack,
                reason,
                more,
                "a stored chunk is damaged; no object is known that needs it"
            );
        }
        for object in &damage.objects {
            let DamagedObject { bucket, key, upload } = object;
            tracing::error!(chunk, pack, reason, bucket, key, upload, "an object is damaged");
        }
        self.found.add(damage);
    }

    async fn scrub_row(&self) -> Result<ScrubRow, StoreError> {
        match self.kv.get(&key::store(ROW)).await? {
            Some(value) => Ok(ScrubRow::decode(value.bytes)?),
            None => Ok(ScrubRow::default()),
        }
    }

    pub(super) async fn keep_scrub_row(&self, row: &ScrubRow) -> Result<(), StoreError> {
        let mut mutation = Mutation::deferred();
        mutation.put(key::store(ROW), row.encode());
        self.kv.commit(mutation).await?;
        Ok(())
    }
}
