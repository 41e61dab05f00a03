//! Opening: makes the pack rows agree with the pack files that are there.
//!
//! A file without a row is from a process that died before its first window commit was durable; it gets a row, and its
//! records count as dead. A row without a file is cleaned up only if nothing can point to it: absence of a file is
//! never taken for an order to forget what it held. Before that, the packs ask here what of an unsealed one was durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::chunk::error::MetaError;
use crate::chunk::index::{self, Known};
use crate::chunk::pack::{Claims, ClaimsError, PackSet, RecoveredKind};
use crate::chunk::store::counter;
use crate::clock::Clock;
use crate::ids::{ChunkId, PackId};
use crate::kv::{CommitError, Kv, Mutation};
use crate::limits::SCAN_ROWS_MAX;
use crate::meta::chunk::ChunkRow;
use crate::meta::key::{self, PackStatKind, Table};
use crate::meta::pack::{PackRow, PackState};
use crate::meta::record::Malformed;

const ROWS_PER_COMMIT: usize = 256;

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoverReport {
    /// Files that had no row and have one now.
    pub adopted: Vec<PackId>,
    /// Rows whose file is gone and that nothing points to: removed.
    pub forgotten: Vec<PackId>,
    /// Rows with live chunks whose file is gone: data is lost. Kept, so that the loss shows.
    pub missing: Vec<PackId>,
    /// Packs that lack records which rows point to, or that cannot be read. Kept as they are.
    pub damaged: Vec<PackId>,
}

/// Asks the chunk rows and counters from the blocking thread that opens the packs.
pub(super) struct RowClaims {
    pub kv: Arc<dyn Kv>,
    pub runtime: Handle,
}

impl Claims for RowClaims {
    fn live_bytes(&self, pack: PackId) -> Result<u64, ClaimsError> {
        let live = self.runtime.block_on(live_bytes(&*self.kv, pack))?;
        Ok(live.max(0).unsigned_abs())
    }

    fn claimed(&self, pack: PackId, places: &[(ChunkId, u32)]) -> Result<Vec<Option<u32>>, ClaimsError> {
        let ids: Vec<ChunkId> = places.iter().map(|(id, _)| *id).collect();
        let rows = self.runtime.block_on(index::chunks(&*self.kv, &ids))?;
        let claimed = places.iter().zip(rows).map(|((_, offset), known)| {
            let place = known?.row.place;
            (place.pack == pack && place.offset == *offset).then_some(place.stored_len)
        });
        Ok(claimed.collect())
    }
}

pub(super) async fn recover(kv: &dyn Kv, packs: &PackSet, clock: &Clock) -> Result<RecoverReport, MetaError> {
    let mut report = RecoverReport::default();
    let files: BTreeSet<PackId> = packs.packs().iter().map(|pack| pack.id).collect();
    let rows = pack_rows(kv).await?;
    let adopted: Vec<PackId> = files.iter().filter(|id| !rows.contains_key(*id)).copied().collect();
    for ids in adopted.chunks(ROWS_PER_COMMIT) {
        let mut mutation = Mutation::deferred();
        for id in ids {
            mutation.absent(key::pack(*id));
            mutation.put(key::pack(*id), PackRow::local(clock.now()).encode());
        }
        kv.commit(mutation).await?;
    }
    report.adopted = adopted;
    for (id, known) in rows.iter().filter(|(id, _)| !files.contains(id)) {
        if known.row.state == PackState::Condemned || live_bytes(kv, *id).await? == 0 {
            let mut mutation = Mutation::deferred();
            forget(&mut mutation, *id, known);
            kv.commit(mutation).await?;
            report.forgotten.push(*id);
        } else {
            tracing::error!(pack = %id, "a pack with live chunks is missing");
            report.missing.push(*id);
        }
    }
    for repair in packs
        .recovered()
        .iter()
        .filter(|repair| repair.kind == RecoveredKind::Damaged)
    {
        report.damaged.push(repair.pack);
        for ids in repair.damaged.chunks(ROWS_PER_COMMIT) {
            note_damage(kv, repair.pack, ids).await?;
        }
    }
    Ok(report)
}

/// Notes in the rows of these chunks that their records in `pack` do not read back.
async fn note_damage(kv: &dyn Kv, pack: PackId, ids: &[ChunkId]) -> Result<(), MetaError> {
    let mut mutation = Mutation::deferred();
    for (id, known) in ids.iter().zip(index::chunks(kv, ids).await?) {
        let Some(Known { row, version }) = known.filter(|known| known.row.place.pack == pack) else {
            continue;
        };
        if !row.damaged {
            mutation.unchanged(key::chunk(id), Some(version));
            mutation.put(key::chunk(id), ChunkRow { damaged: true, ..row }.encode());
        }
    }
    if mutation.effects.is_empty() {
        return Ok(());
    }
    match kv.commit(mutation).await {
        // A help, not a promise: a read makes the note again, and nothing new comes to rest on a damaged pack.
        Ok(_) | Err(CommitError::Conflict { .. } | CommitError::Unavailable(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the rows of a pack that nothing points to and whose file is gone.
pub(super) fn forget(mutation: &mut Mutation, id: PackId, known: &Known<PackRow>) {
    mutation.unchanged(key::pack(id), Some(known.version));
    mutation.delete(key::pack(id));
    mutation.delete(key::pack_stat(id, PackStatKind::Live));
    mutation.delete(key::pack_stat(id, PackStatKind::Dead));
}

/// All rows of packs that something points to, or may have. Packs that wait for their first chunk row are none of them:
/// whatever else is true of them, nothing is lost with them.
pub(super) async fn pack_rows(kv: &dyn Kv) -> Result<BTreeMap<PackId, Known<PackRow>>, MetaError> {
    let mut rows = all_pack_rows(kv).await?;
    rows.retain(|_, known| known.row.state != PackState::Pending);
    Ok(rows)
}

/// All pack rows.
pub(super) async fn all_pack_rows(kv: &dyn Kv) -> Result<BTreeMap<PackId, Known<PackRow>>, MetaError> {
    let mut found = BTreeMap::new();
    let range = key::table(Table::Pack);
    let mut from = range.start;
    loop {
        let rows = index::page(kv, from..range.end.clone(), SCAN_ROWS_MAX).await?;
        for row in &rows {
            let id = row.key.get(1..).and_then(|id| id.try_into().ok()).map(PackId);
            let id = id.ok_or(Malformed {
                record: "pack",
                reason: "its key has no pack id",
            })?;
            let known = Known {
                row: PackRow::decode(row.value.bytes.clone())?,
                version: row.value.version,
            };
            found.insert(id, known);
        }
        match rows.last() {
            Some(last) if rows.len() == SCAN_ROWS_MAX => from = index::after(&last.key),
            _ => return Ok(found),
        }
    }
}

pub(super) async fn pack_row(kv: &dyn Kv, id: PackId) -> Result<Option<Known<PackRow>>, MetaError> {
    let Some(value) = kv.get(&key::pack(id)).await? else {
        return Ok(None);
    };
    Ok(Some(Known {
        row: PackRow::decode(value.bytes)?,
        version: value.version,
    }))
}

/// The live counters of all packs.
pub(super) async fn live_by_pack(kv: &dyn Kv) -> Result<BTreeMap<PackId, i64>, MetaError> {
    let mut found = BTreeMap::new();
    let range = key::table(Table::PackStat);
    let mut from = range.start;
    loop {
        let rows = index::page(kv, from..range.end.clone(), SCAN_ROWS_MAX).await?;
        for row in &rows {
            let id = row.key.get(1..17).and_then(|id| id.try_into().ok()).map(PackId);
            if let Some(id) = id.filter(|_| row.key.get(17) == Some(&(PackStatKind::Live as u8))) {
                found.insert(id, counter(&row.value.bytes)?);
            }
        }
        match rows.last() {
            Some(last) if rows.len() == SCAN_ROWS_MAX => from = index::after(&last.key),
            _ => return Ok(found),
        }
    }
}

/// The live counter of a pack; 0 when there is none.
pub(super) async fn live_bytes(kv: &dyn Kv, id: PackId) -> Result<i64, MetaError> {
    match kv.get(&key::pack_stat(id, PackStatKind::Live)).await? {
        Some(value) => Ok(counter(&value.bytes)?),
        None => Ok(0),
    }
}
