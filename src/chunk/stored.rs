//! A payload that is stored and belongs to nothing yet.

use bytes::Bytes;

use crate::chunk::session::Session;
use crate::chunk::store::ChunkStore;
use crate::ids::{DataId, Sequence};
use crate::kv::Mutation;
use crate::meta::data::{DataRow, DataState, GarbageRow};
use crate::meta::key;

/// A payload whose bytes are durable and whose rows are committed, "building". Dropped without
/// [`StoredData::published`] it becomes garbage.
pub struct StoredData {
    pub id: DataId,
    /// Bytes.
    pub size: u64,
    /// Of the whole payload; zero for composed data.
    pub md5: [u8; 16],
    pub(super) row: DataRow,
    /// Of the building row.
    pub(super) version: Sequence,
    pub(super) session: Session,
}

impl StoredData {
    /// The commit that published it succeeded.
    pub fn published(self) {
        self.session.settle();
    }

    /// The commit that publishes it may or may not be applied: this process never touches the data again. The next
    /// start finds it live, or building and sweeps it.
    pub fn outcome_unknown(mut self) {
        self.session.leave();
    }
}

impl ChunkStore {
    /// Adds to `m` what makes `data` live: the caller's own rows in the same mutation are its owner, and `owner` is the key
    /// of the object or upload row by which damage of the data is told.
    pub fn publish(&self, m: &mut Mutation, data: &StoredData, owner: Bytes) {
        m.unchanged(key::data(data.id), Some(data.version));
        let live = DataRow {
            state: DataState::Live,
            size: data.size,
            owner,
            ..data.row.clone()
        };
        m.put(key::data(data.id), live.encode());
        m.delete(key::garbage(data.id));
    }

    /// Adds to `m`, in which the owner of `data` goes, what hands the data to the collector. Other data may still
    /// refer to it.
    pub fn release(&self, m: &mut Mutation, data: DataId) {
        m.put(key::garbage(data), GarbageRow::new(self.clock.now()).encode());
    }

    /// Wakes the collector after a commit with a `release` in it. A hint: it looks by itself in time.
    pub fn released(&self) {
        self.sessions.garbage.notify_one();
    }
}
