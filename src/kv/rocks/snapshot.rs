//! A view of one moment.
//!
//! A RocksDB snapshot borrows its database. So it lives on a blocking thread of its own, which answers what the view is
//! asked, one read after the other, and ends with the view.

use std::sync::{Arc, mpsc};

use async_trait::async_trait;
use bytes::Bytes;
use rocksdb::Snapshot;
use tokio::sync::oneshot;

use super::engine::{Database, Miss};
use crate::ids::Sequence;
use crate::kv::range::{family_of, half_open};
use crate::kv::{CommitError, Kv, Mutation, ReadError, Row, Scan, Value};

type Job = Box<dyn FnOnce(&Database, &Snapshot<'_>) + Send>;

pub(super) struct View {
    jobs: mpsc::Sender<Job>,
}

impl View {
    pub async fn open(database: Arc<Database>) -> Result<Self, ReadError> {
        let (jobs, asked) = mpsc::channel::<Job>();
        let (taken, is_taken) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            database.at_one_moment(|snapshot| {
                // Who opened it may be gone.
                let _ = taken.send(());
                while let Ok(job) = asked.recv() {
                    job(&database, snapshot);
                }
            });
        });
        is_taken.await.map_err(|_| stopped())?;
        Ok(Self { jobs })
    }

    async fn ask<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database, &Snapshot<'_>) -> Result<T, Miss> + Send + 'static,
    ) -> Result<T, ReadError> {
        let (answer, answered) = oneshot::channel();
        let job = move |database: &Database, snapshot: &Snapshot<'_>| {
            // Who asked may have stopped waiting.
            let _ = answer.send(read(database, snapshot));
        };
        self.jobs.send(Box::new(job)).map_err(|_| stopped())?;
        Ok(answered.await.map_err(|_| stopped())??)
    }
}

fn stopped() -> ReadError {
    ReadError::Unavailable("the store is shutting down".to_owned())
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Kv for View {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        let key = Bytes::copy_from_slice(key);
        self.ask(move |database, snapshot| database.get_at(&key, snapshot))
            .await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        let keys = keys.to_vec();
        let read = move |database: &Database, snapshot: &Snapshot<'_>| {
            keys.iter().map(|key| database.get_at(key, snapshot)).collect()
        };
        self.ask(read).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        let family = family_of(&scan)?;
        let range = half_open(&scan, family);
        self.ask(move |database, snapshot| database.scan_at(family, &range, &scan, snapshot))
            .await
    }

    async fn commit(&self, _mutation: Mutation) -> Result<Sequence, CommitError> {
        Err(CommitError::Refused("a snapshot takes no writes".to_owned()))
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        Ok(Arc::new(Self {
            jobs: self.jobs.clone(),
        }))
    }
}
