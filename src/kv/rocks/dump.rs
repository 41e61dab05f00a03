//! All rows as of one moment, for a backup.

use std::sync::Arc;

use rocksdb::{IteratorMode, ReadOptions, Snapshot};
use tokio::sync::{mpsc, oneshot};

use super::RocksKv;
use super::engine::{Database, Miss};
use super::options::family_name;
use super::snapshot::{on_one_moment, stopped};
use crate::ids::Sequence;
use crate::kv::log::push_put;
use crate::kv::{Family, ReadError};

/// The rows come in parts of effects that put them, in the order of their keys.
pub struct Dump {
    /// The commit that the rows are as of. It may not be durable yet.
    pub sequence: Sequence,
    /// Ends after the last part; what is wrong comes in its place.
    pub parts: mpsc::Receiver<Result<Vec<u8>, ReadError>>,
}

impl RocksKv {
    /// Begins to read all rows, in parts of about `part_bytes`. One part is read ahead.
    pub async fn dump(&self, part_bytes: usize) -> Result<Dump, ReadError> {
        let (parts, received) = mpsc::channel(1);
        let (begun, begins) = oneshot::channel();
        on_one_moment(Arc::clone(&self.database), move |database, snapshot| {
            let sequence = database.applied_at(snapshot);
            let is_begun = sequence.is_ok();
            // Who wanted it may be gone, now or later.
            if begun.send(sequence).is_err() || !is_begun {
                return;
            }
            let mut part = |rows| parts.blocking_send(Ok(rows)).is_ok();
            if let Err(miss) = read_all(database, snapshot, part_bytes, &mut part) {
                drop(parts.blocking_send(Err(miss.into())));
            }
        });
        Ok(Dump {
            sequence: begins.await.map_err(|_| stopped())??,
            parts: received,
        })
    }
}

/// Gives all rows to `part`, as long as it wants more.
fn read_all(
    database: &Database,
    snapshot: &Snapshot<'_>,
    part_bytes: usize,
    part: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<(), Miss> {
    let mut rows = Vec::new();
    for family in Family::ALL {
        let Some(handle) = database.db.cf_handle(family_name(family)) else {
            continue;
        };
        let mut options = ReadOptions::default();
        // What others read must not be driven out by what is read once.
        options.fill_cache(false);
        for row in snapshot.iterator_cf_opt(handle, options, IteratorMode::Start) {
            let (key, stored) = row?;
            push_put(&mut rows, &key, &stored);
            if rows.len() >= part_bytes && !part(std::mem::take(&mut rows)) {
                return Ok(());
            }
        }
    }
    if !rows.is_empty() {
        part(rows);
    }
    Ok(())
}
