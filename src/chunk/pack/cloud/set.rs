//! What the pack set does for packs that are, or may be, in a cloud.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use crate::blob::BlobError;
use crate::chunk::pack::shared::Places;
use crate::chunk::pack::{Extent, PackInfo, PackSet, ReadError};
use crate::ids::PackId;
use crate::meta::pack::Backend;

impl PackSet {
    pub fn has_cloud(&self) -> bool {
        self.shared.cloud.is_some()
    }

    /// Whether new packs go into the cloud.
    pub fn puts_new_packs(&self) -> bool {
        self.shared.cloud.as_ref().is_some_and(super::Cloud::takes_packs)
    }

    pub fn info(&self, id: PackId) -> Option<PackInfo> {
        self.shared.pack(id).map(|pack| pack.info())
    }

    /// Whether what is read of the pack now comes from the cloud.
    pub fn is_in_cloud(&self, id: PackId) -> bool {
        self.shared.pack(id).is_some_and(|pack| pack.is_in_cloud())
    }

    /// Tells where packs are, without keeping the set alive.
    pub fn places(&self) -> Places {
        Places(Arc::downgrade(&self.shared))
    }

    /// Forgets what a cache has of an extent.
    pub fn uncache(&self, extent: &Extent) {
        if let Some(cloud) = &self.shared.cloud {
            cloud.uncache(extent);
        }
    }

    /// How far each pack's bytes reach now: those that are durable, or, where nothing is appended any more, the length of the
    /// file or blob. A pack that is not to be found is left out. With it, why the packs in the cloud could not be listed;
    /// then each is as long as it should be.
    pub async fn lengths(&self) -> (BTreeMap<PackId, u64>, Option<BlobError>) {
        let (packs, shared) = (self.packs(), Arc::clone(&self.shared));
        let length = move |info: PackInfo| {
            if info.backend != Backend::Local {
                return None;
            }
            let length = fs::metadata(shared.path(info.id)).ok()?.len();
            Some((info.id, length.min(info.bytes)))
        };
        let ask = move || packs.into_iter().filter_map(length).collect();
        let mut found: BTreeMap<_, _> = self.shared.options.offload.run(ask).await.unwrap_or_default();
        let mut untold = None;
        if let Some(cloud) = &self.shared.cloud {
            let (lengths, error) = super::lengths(&self.shared, cloud).await;
            found.extend(lengths);
            untold = error;
        }
        (found, untold)
    }

    /// From now on a deletion of the pack removes both copies.
    pub fn set_twice(&self, id: PackId) {
        if let Some(pack) = self.shared.pack(id) {
            pack.status.lock().is_twice = true;
        }
    }

    /// Copies a sealed pack to the other backend, byte for byte, and reads it back. Answers how many bytes it has.
    pub async fn copy_whole(&self, id: PackId, to: Backend) -> Result<u64, ReadError> {
        let pack = self.shared.pack(id).ok_or(ReadError::NotFound(id))?;
        let cloud = self.shared.cloud.as_ref().ok_or(ReadError::NotFound(id))?;
        let lease = Arc::clone(&pack.gone).read_owned().await;
        if *lease {
            return Err(ReadError::NotFound(id));
        }
        super::copy(&self.shared, cloud, id, pack.info().bytes, to).await
    }

    /// Turns readers to the copy at `to`, and waits out those of the other one. `false`: the pack is deleted.
    pub async fn turn(&self, id: PackId, to: Backend) -> bool {
        let Some(pack) = self.shared.pack(id) else { return false };
        let gone = Arc::clone(&pack.gone).write_owned().await;
        pack.status.lock().backend = to;
        !*gone
    }

    /// Removes the copy that is not at `keep`, where readers have been turned to. Nobody waits for this: a cloud that is down
    /// answers late.
    pub async fn remove_other(&self, id: PackId, keep: Backend) -> Result<(), ReadError> {
        let (Some(pack), Some(cloud)) = (self.shared.pack(id), self.shared.cloud.as_ref()) else {
            return Ok(());
        };
        // Whoever deletes the pack removes both copies, and waits for this.
        let lease = Arc::clone(&pack.gone).read_owned().await;
        if *lease || pack.info().backend != keep {
            return Ok(());
        }
        super::remove_other(&self.shared, cloud, id, keep).await?;
        pack.status.lock().is_twice = false;
        Ok(())
    }

    pub(in crate::chunk::pack) async fn remove_blob(&self, id: PackId) -> Result<(), ReadError> {
        let Some(cloud) = &self.shared.cloud else { return Ok(()) };
        cloud.remove(id).await.map_err(|error| super::told(id, 0, error))
    }
}
