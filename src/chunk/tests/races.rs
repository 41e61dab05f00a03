use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex, Notify};

use super::harness::{Fixture, LoggedKv, Random, build, check, content, publish, read, release};
use crate::chunk::{ChunkStore, Piece, WriteOptions};
use crate::ids::{DataId, Sequence};
use crate::kv::fault::{FaultKv, FaultRates};
use crate::kv::memory::MemoryKv;
use crate::kv::{CommitError, Effect, Kv, Mutation, ReadError, Row, Scan, Value};
use crate::limits::KIB;
use crate::meta::key::{self, Table};

const BLOCK: usize = 200 * KIB;

/// Content of a few blocks out of a few, so that uploads share chunks and segments.
fn shared(random: &mut Random) -> Vec<u8> {
    let blocks = 1 + random.below(4);
    (0..blocks).flat_map(|_| content(random.below(3), BLOCK)).collect()
}

/// What a task may own at the end. `None`: nobody knows whether it does.
type Owned = Vec<(DataId, Vec<u8>, Option<bool>)>;

async fn client(store: Arc<ChunkStore>, options: WriteOptions, seed: u64, rounds: u64) -> Owned {
    let mut random = Random(seed);
    let mut owned: Owned = Vec::new();
    for _ in 0..rounds {
        if random.below(3) == 0 {
            tokio::task::yield_now().await;
        }
        let sure = |owned: &Owned| owned.iter().position(|(_, _, sure)| *sure == Some(true));
        match (random.below(10), sure(&owned)) {
            (0..=4, _) | (_, None) => {
                let bytes = shared(&mut random);
                let Ok(data) = build(&store, options, &bytes).await else {
                    continue;
                };
                let id = data.id;
                match publish(&store, data).await {
                    Ok(_) => owned.push((id, bytes, Some(true))),
                    Err(CommitError::Unknown(_)) => owned.push((id, bytes, None)),
                    Err(_) => {}
                }
            }
            (5 | 6, Some(at)) => {
                let (source, bytes) = (owned[at].0, owned[at].1.clone());
                let piece = Piece {
                    data: source,
                    offset: 0,
                    length: bytes.len() as u64,
                    part_number: 0,
                };
                let Ok(data) = store.compose(options.domain, &[piece]).await else {
                    continue;
                };
                let id = data.id;
                match publish(&store, data).await {
                    Ok(_) => owned.push((id, bytes, Some(true))),
                    Err(CommitError::Unknown(_)) => owned.push((id, bytes, None)),
                    Err(_) => {}
                }
            }
            (7, Some(at)) => {
                if let Ok(read) = read(&store, owned[at].0, 0..owned[at].1.len() as u64).await {
                    assert!(read == owned[at].1);
                }
            }
            (_, Some(at)) => match release(&store, owned[at].0).await {
                Ok(_) => drop(owned.swap_remove(at)),
                Err(CommitError::Unknown(_)) => owned[at].2 = None,
                Err(_) => {}
            },
        }
    }
    owned
}

/// Uploads of equal content race compositions, deletions, readers and the collector. Afterwards, and after a restart
/// that settles what was unknown, references and counters are exact and everything live reads back.
async fn race(seed: u64, rates: FaultRates) {
    let kv = Arc::new(FaultKv::seeded(LoggedKv::default(), seed, FaultRates::default()));
    let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
    kv.set_rates(rates);
    let done = Arc::new(AtomicBool::new(false));
    let collector = tokio::spawn({
        let (store, done) = (Arc::clone(&fixture.store), Arc::clone(&done));
        async move {
            while !done.load(Ordering::Relaxed) {
                let _ = store.collect_once().await;
                tokio::task::yield_now().await;
            }
        }
    });
    let tasks: Vec<_> = (0..6)
        .map(|task| {
            tokio::spawn(client(
                Arc::clone(&fixture.store),
                fixture.write_options(),
                seed * 100 + task,
                40,
            ))
        })
        .collect();
    let mut owned = Owned::new();
    for task in tasks {
        owned.extend(task.await.unwrap());
    }
    done.store(true, Ordering::Relaxed);
    collector.await.unwrap();
    kv.set_rates(FaultRates::default());
    let fixture = fixture.restart().await;
    for _ in 0..4 {
        fixture.collect().await;
    }
    fixture.check().await;
    let mut alive = 0;
    for (id, bytes, sure) in &owned {
        match read(&fixture.store, *id, 0..bytes.len() as u64).await {
            Ok(read) => {
                assert!(read == *bytes);
                alive += 1;
            }
            Err(error) => assert_eq!(*sure, None, "seed {seed}: {id} is lost: {error}"),
        }
    }
    for (id, _, _) in owned {
        release(&fixture.store, id).await.unwrap();
    }
    for _ in 0..4 {
        fixture.collect().await;
    }
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!(
        (recount.chunks, recount.data, recount.differences),
        (0, 0, vec![]),
        "seed {seed}, {alive} alive"
    );
    assert_eq!(fixture.store.usage().await.unwrap().stored_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_uploads_race_deletions_and_the_collector() {
    for seed in 0..6 {
        race(seed, FaultRates::default()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_uploads_race_the_collector_while_commits_fail() {
    let rates = FaultRates {
        unavailable: 20,
        unknown_applied: 10,
        unknown_lost: 10,
        read_unavailable: 2,
    };
    for seed in 100..106 {
        race(seed, rates).await;
    }
}

/// Cancelling an upload anywhere leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_are_cancelled_leave_nothing() {
    let fixture = Fixture::new().await;
    for seed in 0..40 {
        let (store, options) = (Arc::clone(&fixture.store), fixture.write_options());
        let task = tokio::spawn(async move { build(&store, options, &content(seed, 12 * BLOCK)).await.map(drop) });
        tokio::time::sleep(std::time::Duration::from_micros(seed * 400)).await;
        task.abort();
        let _ = task.await;
        if seed % 8 == 7 {
            fixture.collect().await;
            check(&fixture.store).await;
        }
    }
    let kv = Arc::clone(&fixture.kv);
    let fixture = fixture.restart().await;
    fixture.collect().await;
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!((recount.chunks, recount.data), (0, 0));
    assert_eq!(super::harness::garbage(&*kv).await, 0);
}

/// Keeps the first window's commit back, as a long queue would, until the collector has read what is there and
/// commits.
#[derive(Default)]
struct LateKv {
    inner: MemoryKv,
    late: Mutex<Option<Mutation>>,
    kept: Notify,
    /// Changes of data rows that the collector commits before it.
    ahead: Mutex<Option<usize>>,
}

#[async_trait]
impl Kv for LateKv {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        self.inner.get_many(keys).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        self.inner.scan(scan).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        self.inner.snapshot().await
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        let changes = |table| {
            let range = key::table(table);
            mutation.effects.iter().any(|effect| match effect {
                Effect::Put { key, .. } | Effect::Delete { key } => range.contains(key),
                Effect::Add { .. } => false,
            })
        };
        let mut ahead = self.ahead.lock().await;
        match &mut *ahead {
            None if changes(Table::Tree) && self.late.lock().await.is_none() => {
                *self.late.lock().await = Some(mutation);
                self.kept.notify_one();
                drop(ahead);
                return std::future::pending().await;
            }
            Some(0) => {
                if let Some(late) = self.late.lock().await.take() {
                    let _ = self.inner.commit(late).await;
                }
            }
            Some(left) if changes(Table::Data) => *left -= 1,
            _ => {}
        }
        self.inner.commit(mutation).await
    }
}

/// A commit that was on its way when its upload was given up is taken back with the rest, or fails.
#[tokio::test]
async fn commits_that_outlive_their_upload_leave_nothing() {
    for ahead in 0..2 {
        let kv = Arc::new(LateKv::default());
        let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
        let mut writer = fixture.store.writer(WriteOptions {
            expected_bytes: Some(5 * BLOCK as u64),
            ..fixture.write_options()
        });
        let bytes = Bytes::from(content(7, 12 * BLOCK));
        tokio::select! {
            _ = async { writer.write(bytes).await.unwrap(); std::future::pending::<()>().await } => {}
            () = kv.kept.notified() => {}
        }
        drop(writer);
        *kv.ahead.lock().await = Some(ahead);
        for _ in 0..3 {
            fixture.collect().await;
        }
        assert!(kv.late.lock().await.is_none(), "it came, {ahead} ahead of it");
        let recount = fixture.store.recount().await.unwrap();
        assert_eq!(
            (recount.chunks, recount.data, recount.differences),
            (0, 0, vec![]),
            "{ahead} ahead of it"
        );
    }
}
