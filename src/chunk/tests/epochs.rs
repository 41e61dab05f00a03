use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex, Notify};

use super::harness::{Fixture, LoggedKv, check, content, open_on, pack_files, publish, read};
use crate::chunk::{CollectError, MetaError};
use crate::ids::Sequence;
use crate::kv::{CommitError, Kv, Mutation, ReadError, Row, Scan, Value};
use crate::limits::MIB;

/// The metadata store as a process sees it that is stopped in the middle of a commit.
#[derive(Default)]
pub struct GateKv {
    pub inner: Arc<LoggedKv>,
    /// Commits until the one that waits.
    left: Mutex<Option<usize>>,
    pub reached: Notify,
    pub go: Notify,
}

impl GateKv {
    /// The commit behind the next `commits` waits until `go`.
    pub async fn stop_after(&self, commits: usize) {
        *self.left.lock().await = Some(commits);
    }
}

#[async_trait]
impl Kv for GateKv {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        self.inner.get_many(keys).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        self.inner.scan(scan).await
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        let is_the_one = {
            let mut left = self.left.lock().await;
            let is_the_one = *left == Some(0);
            *left = left.and_then(|left| left.checked_sub(1));
            is_the_one
        };
        if is_the_one {
            self.reached.notify_one();
            self.go.notified().await;
        }
        self.inner.commit(mutation).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        self.inner.snapshot().await
    }
}

/// A collector is stopped at one of its commits, another takes over and collects, and the first one wakes. `false`:
/// its run has fewer commits.
async fn wakes_after(commits: usize) -> bool {
    let gate = Arc::new(GateKv::default());
    let inner: Arc<dyn Kv> = Arc::clone(&gate.inner) as Arc<dyn Kv>;
    let fixture = Fixture::on(Arc::clone(&gate) as Arc<dyn Kv>).await;
    let kept = fixture.put_and_delete_most().await;
    fixture.store.packs.seal_all().await.unwrap();
    *gate.left.lock().await = Some(commits);
    let store = Arc::clone(&fixture.store);
    let mut first = tokio::spawn(async move { store.collect_once().await });
    tokio::select! {
        () = gate.reached.notified() => {}
        done = &mut first => {
            assert!(done.unwrap().unwrap().packs_deleted > 0);
            return false;
        }
    }
    let second = open_on(Arc::clone(&inner), fixture.dir.path()).await;
    second.collect_once().await.unwrap();
    let before = (gate.inner.commits().await.0, pack_files(fixture.dir.path()));
    gate.go.notify_one();
    let woken = first.await.unwrap();
    assert!(woken.is_err(), "{commits} commits: {woken:?}");
    if commits > 0 {
        assert!(matches!(
            fixture.store.collect_once().await,
            Err(CollectError::Meta(MetaError::Fenced))
        ));
    }
    let after = (gate.inner.commits().await.0, pack_files(fixture.dir.path()));
    assert_eq!(before, after, "{commits} commits");
    assert!(second.gc_status().await.unwrap().is_holder);
    second.collect_once().await.unwrap();
    check(&second).await;
    for (id, bytes) in &kept {
        assert!(read(&second, *id, 0..bytes.len() as u64).await.unwrap() == *bytes);
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_collector_that_lost_its_epoch_commits_nothing_and_deletes_nothing() {
    let mut commits = 0;
    while wakes_after(commits).await {
        commits += 1;
    }
    // Taking the epoch, unwinding, marks, swings, condemning, forgetting.
    assert!(commits > 20, "{commits}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_session_whose_data_another_process_took_back_commits_nothing() {
    let kv = Arc::new(LoggedKv::default());
    let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
    let data = fixture.build(&content(1, MIB)).await;
    let other = open_on(Arc::clone(&fixture.kv), fixture.dir.path()).await;
    assert_eq!(other.collect_once().await.unwrap().unwound, 1);
    let before = kv.commits().await.0;
    assert!(matches!(
        publish(&fixture.store, data).await,
        Err(CommitError::Conflict { .. })
    ));
    assert_eq!(kv.commits().await.0, before);
    assert_eq!(other.recount().await.unwrap().data, 0);
    check(&other).await;
}
