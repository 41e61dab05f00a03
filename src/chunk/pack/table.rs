//! What a pack has: its footer's table, or a scan in place of it.

use std::io;
use std::sync::Arc;

use crate::blob::local::ReadFile;
use crate::chunk::pack::cloud;
use crate::chunk::pack::format::Trailer;
use crate::chunk::pack::scan::{Scan, read_end, scan};
use crate::chunk::pack::shared::Shared;
use crate::chunk::pack::{Entry, PackSet, PackState, ReadError};
use crate::ids::PackId;

/// What a pack has, by id then offset.
#[derive(Clone, Debug)]
pub struct Table {
    pub entries: Arc<[Entry]>,
    /// The footer is not the one that was sealed: the entries are those of a scan.
    pub footer_damaged: bool,
}

impl PackSet {
    /// All records of a pack, by id then offset.
    pub async fn records(&self, id: PackId) -> Result<Arc<[Entry]>, ReadError> {
        Ok(self.table(id).await?.entries)
    }

    /// All records of a pack; of an open one those that are durable. A footer that fails its hash is answered from a scan.
    pub async fn table(&self, id: PackId) -> Result<Table, ReadError> {
        let pack = self.shared.pack(id).ok_or(ReadError::NotFound(id))?;
        let lease = Arc::clone(&pack.gone).read_owned().await;
        if *lease {
            return Err(ReadError::NotFound(id));
        }
        if let Some(cloud) = self.shared.cloud.as_ref().filter(|_| pack.is_in_cloud()) {
            return cloud::table(&self.shared, cloud, id, pack.info().bytes).await;
        }
        {
            let status = pack.status.lock();
            if status.state != PackState::Sealed {
                let mut entries = status.entries.clone();
                entries.sort_unstable_by_key(|entry| (entry.id, entry.location.offset));
                return Ok(Table {
                    entries: entries.into(),
                    footer_damaged: false,
                });
            }
        }
        let shared = Arc::clone(&self.shared);
        let failed = move |error| ReadError::Io { pack: id, error };
        let read = move || {
            let _held = lease;
            read_entries(&shared, id)
        };
        let done = self.shared.options.offload.run(read).await;
        done.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
    }

    /// Whether a sealed pack's footer is the one that was written. `false` too if it cannot be read, or the pack is none.
    pub async fn has_footer(&self, id: PackId) -> bool {
        let Some(pack) = self.shared.pack(id) else { return false };
        let lease = Arc::clone(&pack.gone).read_owned().await;
        if let Some(cloud) = self.shared.cloud.as_ref().filter(|_| pack.is_in_cloud()) {
            return matches!(cloud.footer(id, pack.info().bytes).await, Ok(Some(_)));
        }
        if pack.status.lock().state != PackState::Sealed {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let look = move || {
            let _held = lease;
            has_footer(&shared, id)
        };
        self.shared.options.offload.run(look).await.unwrap_or_default()
    }
}

/// The footer's entries, or those of a scan when the footer is not what was sealed.
fn read_entries(shared: &Shared, id: PackId) -> io::Result<Table> {
    let file = shared.handle(id)?;
    let trailer = read_end(&file, id)?.trailer();
    if let Some(entries) = read_table(&file, trailer.as_ref())? {
        return Ok(Table {
            entries: entries.into(),
            footer_damaged: false,
        });
    }
    shared.metrics.damaged.inc();
    let limit = trailer.map_or(file.length()?, |trailer| trailer.table_offset);
    let Scan {
        mut entries, dropped, ..
    } = scan(&file, id, limit)?;
    tracing::error!(pack = %id, records = entries.len(), dropped, "a footer is damaged; its records come from a scan");
    entries.sort_unstable_by_key(|entry| (entry.id, entry.location.offset));
    Ok(Table {
        entries: entries.into(),
        footer_damaged: true,
    })
}

fn has_footer(shared: &Shared, id: PackId) -> bool {
    let read = || {
        let file = ReadFile::open(&shared.path(id), false)?;
        read_table(&file, read_end(&file, id)?.trailer().as_ref())
    };
    matches!(read(), Ok(Some(_)))
}

/// The entries of the table that `trailer` vouches for; `None` when it is not the one.
pub fn read_table(file: &ReadFile, trailer: Option<&Trailer>) -> io::Result<Option<Vec<Entry>>> {
    let Some(trailer) = trailer else { return Ok(None) };
    let mut table = vec![0; trailer.table_bytes()];
    let count = file.read_at(&mut table, trailer.table_offset)?;
    Ok(table.get(..count).and_then(|table| trailer.entries(table)))
}
