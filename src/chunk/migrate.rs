//! The move of all packs from one backend to the other, while they are read and collected.
//!
//! A row tells each step before it is taken: that a second copy may be at the other backend; then that the copy, which was
//! read back, is the pack, and the first one is left over; then that nothing is. Each step takes the place of the row that the
//! one before left, and so does each step of the collector: of the two only one gets the pack. So a crash leaves nothing that
//! is not in a row, and whoever deletes the pack meanwhile deletes both copies.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::chunk::error::{CollectError, MetaError};
use crate::chunk::index::Known;
use crate::chunk::pack::PackState as FileState;
use crate::chunk::recover::{pack_row, pack_rows};
use crate::chunk::store::ChunkStore;
use crate::clock::Timestamp;
use crate::ids::PackId;
use crate::kv::{CommitError, Durability, Mutation};
use crate::meta::key;
use crate::meta::pack::{Backend, PackRow, PackState};
use crate::meta::record::Malformed;

/// Where all packs are to go; absent: nowhere.
pub(super) const MIGRATE_ROW: &str = "migrate-to";

/// How the move stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrateStatus {
    /// `None`: no move is wanted, or it is done.
    pub to: Option<Backend>,
    /// Since the process started.
    pub moved_packs: u64,
    pub moved_bytes: u64,
    /// Packs and bytes at each backend.
    pub local: (u64, u64),
    pub cloud: (u64, u64),
    /// Why the last try failed.
    pub error: Option<String>,
}

/// What the mover tells, and what it knows of its own tries.
pub(super) struct Migration {
    status: Mutex<MigrateStatus>,
    /// Held by the one that moves.
    moving: tokio::sync::Mutex<()>,
    opened: Timestamp,
    /// When a put of these packs into the cloud failed last. Of a pack whose row an earlier process left: when this one began.
    failed: Mutex<BTreeMap<PackId, Timestamp>>,
}

impl Migration {
    pub fn new(opened: Timestamp) -> Self {
        Self {
            status: Mutex::default(),
            moving: tokio::sync::Mutex::default(),
            opened,
            failed: Mutex::default(),
        }
    }
}

/// How a pack came out.
enum Moved {
    Yes,
    /// It is being collected, or cannot be read: it stays.
    Left,
}

impl ChunkStore {
    /// Whether there is a cloud to move packs to or from.
    pub fn has_cloud(&self) -> bool {
        self.packs.has_cloud()
    }

    /// Wants all packs at `to`: the keeper moves them, and goes on after a restart.
    pub async fn migrate_to(&self, to: Backend) -> Result<(), MetaError> {
        let mut mutation = Mutation::new();
        mutation.put(key::store(MIGRATE_ROW), vec![to as u8]);
        self.kv.commit(mutation).await?;
        self.migration.status.lock().error = None;
        self.keep.notify_one();
        Ok(())
    }

    pub async fn migrate_status(&self) -> Result<MigrateStatus, MetaError> {
        let to = self.migrate_wanted().await?;
        let mut status = self.migration.status.lock().clone();
        status.to = to;
        for info in self.packs.packs() {
            let side = match info.backend {
                Backend::Local => &mut status.local,
                Backend::Cloud => &mut status.cloud,
            };
            *side = (side.0 + 1, side.1 + info.bytes);
        }
        Ok(status)
    }

    async fn migrate_wanted(&self) -> Result<Option<Backend>, MetaError> {
        let Some(value) = self.kv.get(&key::store(MIGRATE_ROW)).await? else {
            return Ok(None);
        };
        let byte = value.bytes.first().copied();
        let backend = Backend::ALL.into_iter().find(|backend| Some(*backend as u8) == byte);
        let malformed = Malformed {
            record: "migrate-to",
            reason: "unknown backend",
        };
        Ok(Some(backend.ok_or(malformed)?))
    }

    /// Moves what is to be moved, pack by pack. Ends when all is there, or at the first failure, which is told.
    pub async fn migrate(&self) -> Result<(), CollectError> {
        let _one = self.migration.moving.lock().await;
        let Some(to) = self.migrate_wanted().await? else {
            return Ok(());
        };
        let moved = self.migrate_all(to).await;
        self.migration.status.lock().error = moved.as_ref().err().map(ToString::to_string);
        if moved? {
            let mut mutation = Mutation::new();
            mutation.delete(key::store(MIGRATE_ROW));
            self.kv.commit(mutation).await?;
            tracing::info!(?to, "all packs have moved");
        }
        Ok(())
    }

    /// Whether everything is at `to` now.
    async fn migrate_all(&self, to: Backend) -> Result<bool, CollectError> {
        self.packs.seal_all().await?;
        let mut left = 0;
        for (id, known) in pack_rows(&*self.kv).await? {
            let is_done = known.row.backend() == to && known.row.other.is_none();
            if is_done || known.row.state != PackState::Active {
                continue;
            }
            match self.move_pack(id, to).await? {
                Moved::Yes => {}
                Moved::Left => left += 1,
            }
            tokio::time::sleep(self.collect.pause).await;
            if self.migrate_wanted().await? != Some(to) {
                return Ok(false);
            }
        }
        Ok(left == 0)
    }

    async fn move_pack(&self, id: PackId, to: Backend) -> Result<Moved, CollectError> {
        let Some(info) = self.packs.info(id).filter(|info| info.state == FileState::Sealed) else {
            return Ok(Moved::Left);
        };
        if to == Backend::Local && !self.space.has_room() {
            return Err(crate::chunk::AppendError::Full.into());
        }
        // The row's version changes: a writer that holds the old one puts its records elsewhere.
        self.table.close(id);
        let Some(known) = self.active_row(id).await? else {
            return Ok(Moved::Left);
        };
        if !self.is_calm(id, &known.row) {
            tracing::info!(pack = %id, "a pack waits until what failed before in the cloud cannot happen any more");
            return Ok(Moved::Left);
        }
        if known.row.backend() == to {
            // Once more and synced: what this row says has to be durable before the other copy goes.
            let row = known.row.clone();
            let Some(known) = self.step(id, known, row, Durability::Synced).await? else {
                return Ok(Moved::Left);
            };
            self.packs.turn(id, to).await;
            return self.leave(id, known).await;
        }
        let row = PackRow {
            other: Some(to),
            bytes: Some(info.bytes),
            ..known.row.clone()
        };
        self.packs.set_twice(id);
        let Some(known) = self.step(id, known, row, Durability::Synced).await? else {
            return Ok(Moved::Left);
        };
        let bytes = match self.packs.copy_whole(id, to).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.migration.failed.lock().insert(id, self.clock.now());
                return left(id, error.into());
            }
        };
        if to == Backend::Local {
            match self.is_as_good(id).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::error!(pack = %id, "the copy of a pack is not as good as what the cloud has: it is made again");
                    return Ok(Moved::Left);
                }
                Err(error) => return left(id, error),
            }
        }
        self.arrive(id, known, (to, bytes)).await
    }

    /// Whether no put or removal of the pack's blob that failed before can happen any more: it would come between what is done
    /// under the same name now. A second copy in the cloud that a row of an earlier process tells of may be on its way.
    fn is_calm(&self, id: PackId, row: &PackRow) -> bool {
        let failed = self.migration.failed.lock().get(&id).copied();
        let left = (row.other == Some(Backend::Cloud)).then_some(self.migration.opened);
        failed.or(left).is_none_or(|since| self.is_settled(since))
    }

    /// Turns readers to the copy in the directory, and holds all that lives in it against the full hashes. What is bad there
    /// and not in the cloud was read wrong: then readers are turned back.
    async fn is_as_good(&self, id: PackId) -> Result<bool, CollectError> {
        if !self.packs.turn(id, Backend::Local).await {
            return Ok(false);
        }
        let judged = self.bad_in(id).await;
        if judged.as_ref().is_ok_and(BTreeSet::is_empty) {
            return Ok(true);
        }
        self.packs.turn(id, Backend::Cloud).await;
        let bad = judged?;
        Ok(bad.is_subset(&self.bad_in(id).await?))
    }

    /// The copy is good: it is the pack from now on.
    async fn arrive(
        &self,
        id: PackId,
        known: Known<PackRow>,
        (to, bytes): (Backend, u64),
    ) -> Result<Moved, CollectError> {
        let row = PackRow {
            placement: vec![to],
            other: Some(known.row.backend()),
            bytes: Some(bytes),
            ..known.row.clone()
        };
        let from = known.row.backend();
        let arrived = self.step(id, known, row, Durability::Synced).await;
        let Ok(Some(known)) = arrived else {
            // A collector has it now; or nobody knows, and both copies are there.
            self.packs.turn(id, from).await;
            return arrived.map(|_| Moved::Left).map_err(Into::into);
        };
        self.packs.turn(id, to).await;
        let moved = self.leave(id, known).await?;
        self.metrics.migrated_bytes.inc_by(bytes);
        let mut status = self.migration.status.lock();
        status.moved_packs += 1;
        status.moved_bytes += bytes;
        Ok(moved)
    }

    /// Removes the copy that is not where the row says that the pack is, and where readers have been turned to.
    async fn leave(&self, id: PackId, known: Known<PackRow>) -> Result<Moved, CollectError> {
        let keep = known.row.backend();
        if let Err(error) = self.packs.remove_other(id, keep).await {
            self.migration.failed.lock().insert(id, self.clock.now());
            return Err(error.into());
        }
        let row = PackRow {
            other: None,
            bytes: known.row.bytes.filter(|_| keep == Backend::Cloud),
            ..known.row.clone()
        };
        // Should this be lost, the next start removes once more.
        self.step(id, known, row, Durability::Deferred).await?;
        Ok(Moved::Yes)
    }

    async fn active_row(&self, id: PackId) -> Result<Option<Known<PackRow>>, MetaError> {
        let known = pack_row(&*self.kv, id).await?;
        Ok(known.filter(|known| known.row.state == PackState::Active))
    }

    /// `None`: somebody else has changed the row, the collector.
    async fn step(
        &self,
        id: PackId,
        known: Known<PackRow>,
        row: PackRow,
        durability: Durability,
    ) -> Result<Option<Known<PackRow>>, MetaError> {
        let mut mutation = match durability {
            Durability::Synced => Mutation::new(),
            Durability::Deferred => Mutation::deferred(),
        };
        mutation.unchanged(key::pack(id), Some(known.version));
        mutation.put(key::pack(id), row.encode());
        match self.kv.commit(mutation).await {
            Ok(version) => Ok(Some(Known { row, version })),
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What its own backend does not give stays where it is; what its place does not answer about is tried again later.
fn left(id: PackId, error: CollectError) -> Result<Moved, CollectError> {
    if error.is_unreachable() {
        return Err(error);
    }
    tracing::error!(pack = %id, %error, "a pack cannot be moved");
    Ok(Moved::Left)
}
