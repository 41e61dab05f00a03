//! The rows of the packs that this process writes, and which of them may still be pointed to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::chunk::epoch::Epoch;
use crate::chunk::error::MetaError;
use crate::chunk::pack::{ClaimsError, Ledger, Places};
use crate::clock::Clock;
use crate::ids::{PackId, Sequence};
use crate::kv::{CommitError, Kv, Mutation};
use crate::meta::key::{self, PackStatKind, UsageKind, UsageScope};
use crate::meta::pack::{Backend, PackRow, PackState};

#[derive(Default)]
struct Slot {
    /// The version of the active row. Set once: a row that went is never made again, or a late writer could point to
    /// a deleted pack.
    version: OnceCell<Option<Sequence>>,
    closed: AtomicBool,
    /// The version of the row that named a pack in the cloud before it was put.
    pending: Option<Pending>,
}

struct Pending {
    version: Sequence,
    row: PackRow,
}

/// One slot a pack that this process appended to and that is still there.
pub(super) struct PackTable {
    kv: Arc<dyn Kv>,
    clock: Clock,
    places: OnceLock<Places>,
    slots: Mutex<HashMap<PackId, Arc<Slot>>>,
}

impl PackTable {
    pub fn new(kv: Arc<dyn Kv>, clock: Clock) -> Self {
        Self {
            kv,
            clock,
            places: OnceLock::new(),
            slots: Mutex::default(),
        }
    }

    /// The version of the pack's active row, which is made on first use, before any chunk row points to the pack. The
    /// commit of a chunk row that points to it guards that version. `None`: the pack is being collected.
    pub async fn active(&self, pack: PackId) -> Result<Option<Sequence>, MetaError> {
        self.active_by(pack, Mutation::deferred()).await
    }

    /// The same for who collects: a row is made only while the epoch holds.
    pub async fn active_under(&self, pack: PackId, epoch: Epoch) -> Result<Option<Sequence>, MetaError> {
        self.active_by(pack, epoch.step().mutation).await
    }

    async fn active_by(&self, pack: PackId, making: Mutation) -> Result<Option<Sequence>, MetaError> {
        let Some(slot) = self.slot(pack) else { return Ok(None) };
        if slot.closed.load(Ordering::Acquire) {
            return Ok(None);
        }
        let make = || self.ensure(pack, slot.pending.as_ref(), making);
        let version = *slot.version.get_or_try_init(make).await?;
        Ok(version.filter(|_| !slot.closed.load(Ordering::Acquire)))
    }

    /// No writer of this process points to `pack` any more. Called before its row is marked, which stops those that
    /// hold the version already.
    pub fn close(&self, pack: PackId) {
        self.slots
            .lock()
            .entry(pack)
            .or_default()
            .closed
            .store(true, Ordering::Release);
    }

    /// Told once, when the packs are open.
    pub fn attach(&self, places: Places) {
        // Only the one who opens the store calls.
        let _ = self.places.set(places);
    }

    fn backend(&self, pack: PackId) -> Option<Backend> {
        self.places.get()?.backend(pack)
    }

    /// The pack's slot, which is made if it is a local one. `None`: the pack is gone, or was put by another process.
    fn slot(&self, pack: PackId) -> Option<Arc<Slot>> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&pack) {
            return Some(Arc::clone(slot));
        }
        (self.backend(pack)? == Backend::Local).then(|| Arc::clone(slots.entry(pack).or_default()))
    }

    /// Forgets the packs that are gone. One that is named and not put yet is not there yet.
    pub fn prune(&self) {
        let is_to_come = |slot: &Slot| slot.pending.is_some() && !slot.version.initialized();
        self.slots
            .lock()
            .retain(|pack, slot| is_to_come(slot) || self.backend(*pack).is_some());
    }

    /// Forgets a pack that was deleted, or was never put.
    pub fn forget(&self, pack: PackId) {
        self.slots.lock().remove(&pack);
    }

    /// Makes the pack's active row by `mutation`, or of the pending one an active one.
    async fn ensure(
        &self,
        pack: PackId,
        pending: Option<&Pending>,
        mut mutation: Mutation,
    ) -> Result<Option<Sequence>, MetaError> {
        let (guard, row) = match pending {
            Some(Pending { version, row }) => {
                let row = PackRow {
                    state: PackState::Active,
                    ..row.clone()
                };
                (mutation.unchanged(key::pack(pack), Some(*version)), row)
            }
            None => (mutation.absent(key::pack(pack)), PackRow::local(self.clock.now())),
        };
        mutation.put(key::pack(pack), row.encode());
        match self.kv.commit(mutation).await {
            Ok(version) => return Ok(Some(version)),
            // An earlier try whose outcome was unknown; or the pack was taken back.
            Err(CommitError::Conflict { guard: failed }) if failed == guard => {}
            Err(error) => return Err(error.into()),
        }
        let Some(value) = self.kv.get(&key::pack(pack)).await? else {
            return Ok(None);
        };
        let active = PackRow::decode(value.bytes)?.state == PackState::Active;
        Ok(active.then_some(value.version))
    }
}

#[async_trait]
impl Ledger for PackTable {
    async fn pending(&self, pack: PackId, bytes: u64) -> Result<(), ClaimsError> {
        let row = PackRow::pending(self.clock.now(), bytes);
        // Synced: a blob without a row would never be found again.
        let mut mutation = Mutation::new();
        mutation.absent(key::pack(pack));
        mutation.put(key::pack(pack), row.encode());
        let version = self.kv.commit(mutation).await?;
        let slot = Slot {
            pending: Some(Pending { version, row }),
            ..Slot::default()
        };
        self.slots.lock().insert(pack, Arc::new(slot));
        Ok(())
    }
}

/// What a mutation does to the counters, summed before it is written.
#[derive(Default)]
pub(super) struct Counts {
    live: BTreeMap<PackId, i64>,
    dead: BTreeMap<PackId, i64>,
    unique: i64,
    stored: i64,
}

impl Counts {
    /// A chunk row comes to point to a record.
    pub fn born(&mut self, pack: PackId, stored_len: u32, raw_len: u32) {
        *self.live.entry(pack).or_default() += i64::from(stored_len);
        self.stored += i64::from(stored_len);
        self.unique += i64::from(raw_len);
    }

    /// A chunk row points to a record no more.
    pub fn died(&mut self, pack: PackId, stored_len: u32, raw_len: u32) {
        *self.live.entry(pack).or_default() -= i64::from(stored_len);
        self.stored -= i64::from(stored_len);
        self.unique -= i64::from(raw_len);
        self.wasted(pack, stored_len);
    }

    /// A record that no row came to point to.
    pub fn wasted(&mut self, pack: PackId, stored_len: u32) {
        *self.dead.entry(pack).or_default() += i64::from(stored_len);
    }

    pub fn add_to(&self, mutation: &mut Mutation) {
        for (counts, kind) in [(&self.live, PackStatKind::Live), (&self.dead, PackStatKind::Dead)] {
            for (pack, delta) in counts.iter().filter(|(_, delta)| **delta != 0) {
                mutation.add(key::pack_stat(*pack, kind), *delta);
            }
        }
        for (delta, kind) in [
            (self.unique, UsageKind::UniqueBytes),
            (self.stored, UsageKind::StoredBytes),
        ] {
            if delta != 0 {
                mutation.add(key::usage(UsageScope::Store, kind, 0), delta);
            }
        }
    }
}
