//! The scrub of one pack: every record that a chunk row points to is read and held against its full hash.
//!
//! A record that fails is noted in its row, so that the next upload of the same bytes stores them anew; one that was
//! noted and reads well again loses the note.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::chunk::compare;
use crate::chunk::error::{CollectError, MetaError, ReadError};
use crate::chunk::evacuate::extents;
use crate::chunk::index::{self, Known};
use crate::chunk::owners::Owners;
use crate::chunk::pack::{self, Entry, Extent, Footer, Wanted};
use crate::chunk::records::NOT_ITS_NAME;
use crate::chunk::recover::{RowClaims, live_bytes};
use crate::chunk::store::ChunkStore;
use crate::ids::{ChunkId, PackId};
use crate::kv::{CommitError, Mutation};
use crate::meta::chunk::ChunkRow;
use crate::meta::key;

/// Rows looked at in one step.
const STEP_RECORDS: usize = 256;
/// Damaged records of one pack that are told one by one.
const FINDINGS_MAX: usize = 100;

/// How fast a scrub may read.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// `None`: as fast as it goes.
    pub bytes_per_second: Option<u64>,
}

impl Pace {
    /// Waits as long as reading `bytes` may take.
    pub async fn wait(self, bytes: u64) {
        if let Some(rate) = self.bytes_per_second {
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)).await;
        }
    }
}

/// A record that is not what its chunk's row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub chunk: ChunkId,
    pub pack: PackId,
    pub reason: String,
    pub owners: Owners,
}

/// What the scrub of one pack, or of several, came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Records that were read and verified, good and bad.
    pub records: u64,
    /// Their bytes in the pack.
    pub bytes: u64,
    /// Bad ones.
    pub damaged: u64,
    /// Those that were noted as damaged and read well again.
    pub healed: u64,
    /// Those that the system did not give now, and why the last of them: they may be whole, and nothing is noted of them.
    pub unread: u64,
    pub unread_reason: String,
    /// The bad ones, each as it was found; the first hundred.
    pub findings: Vec<Finding>,
}

impl ChunkStore {
    /// A pass over all packs ended at `unix_seconds`.
    pub fn scrub_finished(&self, unix_seconds: i64) {
        self.metrics.scrub_finished.set(unix_seconds);
    }

    /// Counts what a pass has seen of objects: bodies that were read, and objects that are not as they were.
    pub fn scrubbed_objects(&self, bodies: u64, bad: u64) {
        self.metrics.scrubbed_bodies.inc_by(bodies);
        self.metrics.scrub_bad_objects.inc_by(bad);
    }

    /// Writes the pack's footer anew if it alone is damaged, or, in the cloud, has the pack emptied. If records that the index points to are missing as well, these
    /// are the findings.
    pub async fn scrub_footer(&self, pack: PackId) -> Result<Vec<Finding>, CollectError> {
        let claims = RowClaims {
            kv: Arc::clone(&self.kv),
            runtime: Handle::current(),
        };
        let footer = match self.packs.is_in_cloud(pack) {
            true => self.far_footer(pack).await,
            false => self
                .packs
                .mend_footer(pack, Arc::new(claims))
                .await
                .map_err(CollectError::from),
        };
        match footer {
            Ok(Footer::Whole) | Err(CollectError::Read(pack::ReadError::NotFound(_))) => Ok(Vec::new()),
            Ok(Footer::Rewritten { records }) => {
                self.metrics.mended_footers.inc();
                tracing::warn!(%pack, records, "a pack's footer was damaged; no record is lost, and it is written anew");
                Ok(Vec::new())
            }
            Ok(Footer::Kept) => {
                tracing::warn!(%pack, "a pack's footer in the cloud is damaged; no record is lost, and the collector moves them");
                self.gc.empty(pack);
                self.sessions.garbage.notify_one();
                Ok(Vec::new())
            }
            Ok(Footer::Lost) => Ok(self.lost_in(pack).await?),
            Err(error) => Err(error),
        }
    }

    /// How the footer of a pack in the cloud is.
    async fn far_footer(&self, pack: PackId) -> Result<Footer, CollectError> {
        let table = match self.packs.table(pack).await {
            // There is no such blob, or not all of it.
            Err(pack::ReadError::Damaged { .. }) => return Ok(Footer::Lost),
            table => table?,
        };
        if !table.footer_damaged {
            return Ok(Footer::Whole);
        }
        // In this order: what the collector moves away in between is missing from the second number, not from the first.
        let mut found = 0;
        for entries in table.entries.chunks(STEP_RECORDS) {
            let wanted = self.wanted(pack, entries).await?;
            found += wanted
                .iter()
                .map(|wanted| i64::from(wanted.location.stored_len))
                .sum::<i64>();
        }
        let live = live_bytes(&*self.kv, pack).await?;
        Ok(if found >= live { Footer::Kept } else { Footer::Lost })
    }

    /// All packs there are, in the order in which they are scrubbed, each with its bytes.
    pub fn pack_sizes(&self) -> Vec<(PackId, u64)> {
        self.packs
            .packs()
            .into_iter()
            .map(|info| (info.id, info.bytes))
            .collect()
    }

    /// Verifies every live record of `pack`. One that is gone has none.
    pub async fn scrub_pack(&self, pack: PackId, pace: Pace) -> Result<ScrubReport, CollectError> {
        let mut report = ScrubReport::default();
        let mut entries = match self.packs.records(pack).await {
            Ok(entries) => entries.to_vec(),
            Err(pack::ReadError::NotFound(_)) => return Ok(report),
            Err(error) => return Err(error.into()),
        };
        entries.sort_unstable_by_key(|entry| entry.location.offset);
        for entries in entries.chunks(STEP_RECORDS) {
            for extent in extents(self.wanted(pack, entries).await?.into_iter()) {
                let bytes = extent
                    .records()
                    .iter()
                    .map(|record| u64::from(record.location.stored_len))
                    .sum();
                self.scrub_extent(extent, &mut report).await?;
                report.bytes += bytes;
                self.metrics.scrubbed_bytes.inc_by(bytes);
                pace.wait(bytes).await;
            }
        }
        Ok(report)
    }

    /// The records that chunk rows point to, as far as these can be read.
    async fn wanted(&self, pack: PackId, entries: &[Entry]) -> Result<Vec<Wanted>, MetaError> {
        let rows = compare::readable(&*self.kv, entries).await?;
        let live = entries.iter().zip(rows).filter(|(entry, known)| {
            let place = known.as_ref().map(|known| known.row.place);
            place.is_some_and(|place| place.pack == pack && place.offset == entry.location.offset)
        });
        let wanted = live.map(|(entry, _)| Wanted {
            location: entry.location,
            domain: entry.domain,
            id: entry.id,
        });
        Ok(wanted.collect())
    }

    /// The records of `pack` that chunk rows point to and that do not read back. Nothing is noted.
    pub(super) async fn bad_in(&self, pack: PackId) -> Result<BTreeSet<ChunkId>, CollectError> {
        let (mut bad, entries) = (BTreeSet::new(), self.packs.records(pack).await?);
        let mut entries = entries.to_vec();
        entries.sort_unstable_by_key(|entry| entry.location.offset);
        for entries in entries.chunks(STEP_RECORDS) {
            for extent in extents(self.wanted(pack, entries).await?.into_iter()) {
                let records = extent.records().to_vec();
                if let Some(found) = self.bad_records(extent).await? {
                    bad.extend(found);
                    continue;
                }
                for wanted in &records {
                    if self.reason(wanted).await?.is_some() {
                        bad.insert(wanted.id);
                    }
                }
            }
        }
        Ok(bad)
    }

    pub(super) async fn scrub_extent(&self, extent: Extent, report: &mut ScrubReport) -> Result<(), CollectError> {
        let records = extent.records().to_vec();
        report.records += records.len() as u64;
        // If one of them does not read, none of them does: then each is read by itself.
        match self.bad_records(extent).await {
            Ok(None) => {}
            Ok(Some(bad)) => {
                for wanted in &records {
                    let reason = bad.contains(&wanted.id).then(|| NOT_ITS_NAME.to_owned());
                    self.judge(wanted, reason, report).await?;
                }
                return Ok(());
            }
            Err(CollectError::Read(error)) if error.is_unreachable() => {
                report.unread += records.len() as u64;
                report.unread_reason = error.to_string();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        for wanted in &records {
            match self.reason(wanted).await {
                Ok(reason) => self.judge(wanted, reason, report).await?,
                Err(CollectError::Read(error @ pack::ReadError::Io { .. })) => {
                    report.unread += 1;
                    report.unread_reason = error.to_string();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The records of the extent whose plaintext is not what their id names; `None`: the extent cannot be read.
    async fn bad_records(&self, extent: Extent) -> Result<Option<Vec<ChunkId>>, CollectError> {
        let records = extent.records().to_vec();
        match self.read_packs(extent).await {
            Ok(read) => Ok(Some(self.misnamed(&records, read).await?)),
            Err(error @ pack::ReadError::Busy(_)) => Err(error.into()),
            // To ask for each record would take as long as the cloud is away.
            Err(error) if error.is_unreachable() => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Why the record is bad, if it is.
    pub(super) async fn reason(&self, wanted: &Wanted) -> Result<Option<String>, CollectError> {
        match self.read_packs(Extent::new(*wanted)).await {
            Ok(read) => {
                let bad = self.misnamed(&[*wanted], read).await?;
                Ok((!bad.is_empty()).then(|| NOT_ITS_NAME.to_owned()))
            }
            Err(error @ (pack::ReadError::Busy(_) | pack::ReadError::Io { .. })) => Err(error.into()),
            Err(error) => Ok(Some(error.to_string())),
        }
    }

    /// Notes what was found about a record, unless the chunk has moved meanwhile.
    async fn judge(
        &self,
        wanted: &Wanted,
        reason: Option<String>,
        report: &mut ScrubReport,
    ) -> Result<(), CollectError> {
        self.metrics.scrubbed_records.inc();
        let known = match index::chunk(&*self.kv, &wanted.id).await {
            Ok(Some(known)) => known,
            Ok(None) => return Ok(()),
            // A recount tells rows that cannot be read.
            Err(error) if error.is_damage() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if known.row.place != index::place(&wanted.location) {
            return Ok(());
        }
        match reason {
            None if known.row.damaged => report.healed += u64::from(self.clear_damage(&wanted.id, known).await?),
            None => {}
            Some(reason) => {
                report.damaged += 1;
                self.metrics.scrub_damaged.inc();
                match self.note_damage(&wanted.id, known).await {
                    Err(ReadError::Meta(error)) => return Err(error.into()),
                    _ if report.findings.len() >= FINDINGS_MAX => {}
                    _ => report.findings.push(Finding {
                        chunk: wanted.id,
                        pack: wanted.location.pack,
                        reason,
                        owners: self.readable_owners(&wanted.id).await?,
                    }),
                }
            }
        }
        Ok(())
    }

    /// Takes back the note that the chunk is damaged.
    async fn clear_damage(&self, id: &ChunkId, known: Known<ChunkRow>) -> Result<bool, MetaError> {
        let mut mutation = Mutation::deferred();
        mutation.unchanged(key::chunk(id), Some(known.version));
        let row = ChunkRow {
            damaged: false,
            ..known.row
        };
        mutation.put(key::chunk(id), row.encode());
        match self.kv.commit(mutation).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
