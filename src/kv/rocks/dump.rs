//! All rows as of one moment, for a backup.

use std::sync::Arc;

use rocksdb::{IteratorMode, ReadOptions};
use tokio::sync::mpsc;

use super::RocksKv;
use super::engine::{APPLIED, Database};
use super::options::family_name;
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
        let (begun, begins) = tokio::sync::oneshot::channel();
        let database = Arc::clone(&self.database);
        // Ends by itself once nobody receives any more.
        drop(tokio::task::spawn_blocking(move || {
            let mut begun = Some(begun);
            let begin = |sequence| begun.take().is_some_and(|begun| begun.send(Ok(sequence)).is_ok());
            let read = read_all(&database, part_bytes, begin, &mut |part| {
                parts.blocking_send(Ok(part)).is_ok()
            });
            if let Err(error) = read {
                let error = ReadError::Unavailable(error.into_string());
                match begun {
                    Some(begun) => drop(begun.send(Err(error))),
                    None => drop(parts.blocking_send(Err(error))),
                }
            }
        }));
        let stopped = |_| ReadError::Unavailable("the store is shutting down".to_owned());
        Ok(Dump {
            sequence: begins.await.map_err(stopped)??,
            parts: received,
        })
    }
}

/// Gives the snapshot's sequence to `begin`, then all rows to `part`, as long as they want more.
fn read_all(
    database: &Database,
    part_bytes: usize,
    begin: impl FnOnce(Sequence) -> bool,
    part: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<(), rocksdb::Error> {
    let snapshot = database.db.snapshot();
    let applied = snapshot.get(APPLIED)?;
    let applied = applied
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes);
    if !begin(Sequence(applied)) {
        return Ok(());
    }
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
