//! Writing a pack's footer anew when it is not the one that was sealed, while the pack is read. A pack in the cloud is never
//! written to: what is whole in it is to be moved to another one.
//!
//! Readers of the table meanwhile find the old one, none or the new one, and take a scan for what is not whole. A crash leaves
//! the same: the next start, or the next look, finds the same records by a scan.

use std::io;
use std::sync::Arc;

use crate::blob::local::{AppendFile, ReadFile};
use crate::chunk::pack::batch::{Staging, write_footer};
use crate::chunk::pack::salvage::claimed_bytes;
use crate::chunk::pack::scan::{read_end, scan};
use crate::chunk::pack::shared::{Pack, Shared};
use crate::chunk::pack::table::read_table;
use crate::chunk::pack::{Claims, Entry, PackSet, PackState, ReadError};
use crate::ids::PackId;
use crate::limits::MIB;

/// How a pack's footer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footer {
    /// It is the one that was sealed, or the pack has none yet.
    Whole,
    /// It was damaged and is new: all that the index points to was found whole.
    Rewritten { records: u32 },
    /// It is damaged, in the cloud, and all that the index points to was found whole. Nothing was changed.
    Kept,
    /// It is damaged, and so is something that the index points to; or records came or went meanwhile. Nothing was changed.
    Lost,
}

impl PackSet {
    /// Looks at the footer of a pack of the directory, and writes it anew if it is damaged and a scan finds all that `claims` says is there.
    pub async fn mend_footer(&self, id: PackId, claims: Arc<dyn Claims + Send + Sync>) -> Result<Footer, ReadError> {
        let shared = Arc::clone(&self.shared);
        let pack = shared.pack(id).ok_or(ReadError::NotFound(id))?;
        let lease = Arc::clone(&pack.gone).read_owned().await;
        if *lease {
            return Err(ReadError::NotFound(id));
        }
        let failed = move |error| ReadError::Io { pack: id, error };
        let work = move || {
            let _held = lease;
            mend(&shared, &pack, &*claims)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| failed(io::Error::other(error)))?
            .map_err(failed)
    }
}

/// Whether all that the index points to is among `entries`.
fn finds_all(claims: &dyn Claims, id: PackId, entries: &[Entry]) -> io::Result<bool> {
    // What the collector moves away in between would be missing from the one number and not from the other.
    let live = claims.live_bytes(id).map_err(io::Error::other)?;
    let claimed = claimed_bytes(claims, id, entries).map_err(io::Error::other)?;
    Ok(claimed >= live && claims.live_bytes(id).map_err(io::Error::other)? == live)
}

fn mend(shared: &Shared, pack: &Pack, claims: &dyn Claims) -> io::Result<Footer> {
    let id = pack.id;
    if pack.info().state != PackState::Sealed {
        return Ok(Footer::Whole);
    }
    let path = shared.path(id);
    let file = ReadFile::open(&path, false)?;
    let trailer = read_end(&file, id)?.trailer();
    if read_table(&file, trailer.as_ref())?.is_some() {
        return Ok(Footer::Whole);
    }
    shared.metrics.damaged.inc();
    let limit = trailer.map_or(file.length()?, |trailer| trailer.table_offset);
    let found = scan(&file, id, limit)?;
    if !finds_all(claims, id, &found.entries)? {
        return Ok(Footer::Lost);
    }
    let (mut staging, file) = (Staging::new(MIB), AppendFile::open(&path, shared.options.direct)?);
    let bytes = write_footer(&mut staging, &file, id, found.end, &found.entries)?;
    pack.status.lock().bytes = bytes;
    let records = found.entries.len() as u32;
    Ok(Footer::Rewritten { records })
}
