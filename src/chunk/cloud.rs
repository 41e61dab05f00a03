//! The store and its packs in the cloud: it finds them in the rows, and keeps moving those that are to move.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chunk::error::{MetaError, OpenError};
use crate::chunk::index::Known;
use crate::chunk::migrate::MIGRATE_ROW;
use crate::chunk::pack::{self, CloudOptions, CloudPack, CloudStart, Ledger};
use crate::chunk::packs::PackTable;
use crate::chunk::recover::all_pack_rows;
use crate::chunk::store::ChunkStore;
use crate::kv::{CommitError, Kv, Mutation};
use crate::meta::key;
use crate::meta::pack::{Backend, PackRow, PackState};
use crate::meta::record::Malformed;

/// Names the store in the place where its packs are.
const STORE_ID_ROW: &str = "cloud-id";
const ROWS_PER_COMMIT: usize = 256;
/// Between two tries to move what is to move, at the most and at the least.
const KEEP_EVERY: Duration = Duration::from_secs(60);
const KEEP_EVERY_MIN: Duration = Duration::from_secs(1);

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

/// The task that moves packs.
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
    /// Starts to move the packs that are to move until the handle is stopped.
    pub fn start_keeper(self: &Arc<Self>) -> KeeperHandle {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(self).keep_until(cancel.clone()));
        KeeperHandle { cancel, task }
    }

    async fn keep_until(self: Arc<Self>, cancel: CancellationToken) {
        // Who waits for what failed before is not kept waiting for longer than that.
        let every = Duration::from_millis(self.late_ms).clamp(KEEP_EVERY_MIN, KEEP_EVERY);
        let keep = async {
            loop {
                if let Err(error) = self.migrate().await {
                    tracing::warn!(%error, "the move of the packs stopped early and will resume");
                }
                // Woken, or again after a while.
                let _ = tokio::time::timeout(every, self.keep.notified()).await;
            }
        };
        cancel.run_until_cancelled(keep).await;
    }
}

/// Makes of the rows of a store whose packs lie all in its data directory, as a restore puts them there, such rows: none of
/// them is in a cloud, or moves. The store gives up its name in its cloud, so that it never touches what another one, from
/// whose backup it is, may still have there. For metadata that nobody uses.
pub async fn leave_cloud(kv: &dyn Kv) -> Result<(), MetaError> {
    let rows: Vec<_> = all_pack_rows(kv).await?.into_iter().collect();
    for rows in rows.chunks(ROWS_PER_COMMIT) {
        let mut mutation = Mutation::deferred();
        for (id, Known { row, .. }) in rows {
            if row.state == PackState::Pending {
                mutation.delete(key::pack(*id));
            } else if row.may_be_in_cloud() || row.other.is_some() {
                let row = PackRow {
                    placement: vec![Backend::Local],
                    bytes: None,
                    other: None,
                    ..row.clone()
                };
                mutation.put(key::pack(*id), row.encode());
            }
        }
        if !mutation.effects.is_empty() {
            kv.commit(mutation).await?;
        }
    }
    let mut mutation = Mutation::new();
    mutation.delete(key::store(STORE_ID_ROW));
    mutation.delete(key::store(MIGRATE_ROW));
    kv.commit(mutation).await?;
    Ok(())
}
