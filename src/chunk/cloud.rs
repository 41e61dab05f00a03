//! What the store does for its packs in the cloud: it finds them in the rows, holds what it reads against the full hash, and
//! takes back what was put for nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chunk::error::{CollectError, MetaError, OpenError};
use crate::chunk::index::Known;
use crate::chunk::pack::{self, CloudOptions, CloudPack, CloudStart, Extent, Ledger};
use crate::chunk::packs::PackTable;
use crate::chunk::recover::{all_pack_rows, forget};
use crate::chunk::store::ChunkStore;
use crate::ids::ChunkId;
use crate::kv::{CommitError, Kv, Mutation};
use crate::meta::key;
use crate::meta::pack::{Backend, PackRow, PackState};
use crate::meta::record::Malformed;

/// Names the store in the place where its packs are.
const STORE_ID_ROW: &str = "cloud-id";
/// A pack that nothing came to point to is taken back after this. A put that failed may still happen until then.
const PENDING_MS: u64 = 15 * 60 * 1000;
/// Between two looks for such packs.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// What the packs need for the cloud; `None`: there is none, and no row says that there was.
pub(super) async fn start(
    kv: &Arc<dyn Kv>,
    options: Option<CloudOptions>,
    table: &Arc<PackTable>,
) -> Result<Option<CloudStart>, OpenError> {
    let rows = all_pack_rows(&**kv).await?;
    let twice = rows.iter().filter(|(_, known)| known.row.other.is_some());
    let twice: Vec<_> = twice.map(|(id, _)| *id).collect();
    let there = rows
        .iter()
        .filter(|(_, known)| known.row.backend() == Backend::Cloud && known.row.state != PackState::Pending);
    let packs: Vec<CloudPack> = there
        .map(|(id, known)| CloudPack {
            id: *id,
            bytes: known.row.bytes.unwrap_or_default(),
        })
        .collect();
    let Some(options) = options else {
        return match packs.len().max(twice.len()) {
            0 => Ok(None),
            packs => Err(pack::OpenError::NoCloud { packs }.into()),
        };
    };
    Ok(Some(CloudStart {
        options,
        ledger: Arc::clone(table) as Arc<dyn Ledger>,
        store: store_id(&**kv).await?,
        packs,
        twice,
        runtime: Handle::current(),
    }))
}

/// The store's own id, made once.
async fn store_id(kv: &dyn Kv) -> Result<[u8; 16], MetaError> {
    let row = key::store(STORE_ID_ROW);
    loop {
        if let Some(value) = kv.get(&row).await? {
            let malformed = Malformed {
                record: "cloud id",
                reason: "it has not 16 bytes",
            };
            return value.bytes.as_ref().try_into().map_err(|_| malformed.into());
        }
        let mut id = [0; 16];
        // Without entropy there are no unique names, and without unique names no durable writes.
        #[allow(clippy::expect_used)]
        getrandom::fill(&mut id).expect("the operating system's random source");
        let mut mutation = Mutation::new();
        mutation.absent(row.clone());
        mutation.put(row.clone(), Bytes::copy_from_slice(&id));
        match kv.commit(mutation).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The task that keeps the cloud in order.
pub struct KeeperHandle {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl KeeperHandle {
    /// Ends the task at its next step and waits for it.
    pub async fn stop(self) {
        self.cancel.cancel();
        // It ends by returning; a panic in it has been reported by the runtime.
        let _ = self.task.await;
    }
}

impl ChunkStore {
    /// Reads an extent; of what is far away, each chunk is held against the hash that names it.
    pub(super) async fn read_extent(&self, extent: Extent) -> Result<Vec<(ChunkId, Bytes)>, pack::ReadError> {
        if !self.packs.is_far(extent.pack()) {
            return self.packs.read(extent).await;
        }
        let read = self.packs.read(extent.clone()).await?;
        let records = extent.records().to_vec();
        let failed = |error| pack::ReadError::Io {
            pack: extent.pack(),
            error: std::io::Error::other(error),
        };
        let bad = self.misnamed(&records, read.clone()).await.map_err(failed)?;
        let Some(first) = records.iter().find(|wanted| bad.contains(&wanted.id)) else {
            return Ok(read);
        };
        self.packs.uncache(&extent);
        Err(pack::ReadError::Damaged {
            pack: extent.pack(),
            offset: u64::from(first.location.offset),
            id: Some(first.id),
            reason: "its bytes are not those that its name was made from",
        })
    }

    /// Starts to keep the cloud in order until the handle is stopped.
    pub fn start_keeper(self: &Arc<Self>) -> KeeperHandle {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(self).keep_until(cancel.clone()));
        KeeperHandle { cancel, task }
    }

    async fn keep_until(self: Arc<Self>, cancel: CancellationToken) {
        let keep = async {
            loop {
                self.keep_migrating().await;
                // Woken, or again after a while.
                let _ = tokio::time::timeout(KEEP_EVERY, self.keep.notified()).await;
                if let Err(error) = self.take_back_pending(PENDING_MS).await {
                    tracing::warn!(%error, "packs that were put for nothing are taken back later");
                }
            }
        };
        cancel.run_until_cancelled(keep).await;
    }

    /// Takes back the packs that were named so long ago and that nothing came to point to: of killed processes, of failed
    /// puts, of uploads that were given up. Returns how many.
    ///
    /// Right at any age: the row that condemns one takes the place of the row that its first chunk would need.
    pub async fn take_back_pending(&self, older_than_ms: u64) -> Result<u64, CollectError> {
        let (now, mut taken) = (self.clock.now().unix_ms(), 0);
        for (id, Known { row, version }) in all_pack_rows(&*self.kv).await? {
            let is_old = row.created.unix_ms().saturating_add(older_than_ms) <= now;
            if row.state != PackState::Pending || !is_old {
                continue;
            }
            self.table.close(id);
            let row = PackRow {
                state: PackState::Condemned,
                ..row
            };
            let mut mutation = Mutation::new();
            mutation.unchanged(key::pack(id), Some(version));
            mutation.put(key::pack(id), row.encode());
            let version = match self.kv.commit(mutation).await {
                Ok(version) => version,
                Err(CommitError::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            self.packs.discard(id).await?;
            forget(&*self.kv, id, &Known { row, version }).await?;
            self.table.forget(id);
            taken += 1;
        }
        self.table.prune();
        Ok(taken)
    }
}
