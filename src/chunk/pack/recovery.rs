//! What a start does with the packs it finds: sealed ones are taken as they are, others get their footer.
//!
//! What is not whole behind a crash is a torn tail and dropped, but only after the index was asked: a row is committed
//! after the bytes that it points to are durable, so a row whose record is not there tells of damage. Then nothing of
//! the file is changed, whatever the scan says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;

use crate::blob::local::{AppendFile, ReadFile, create_dir_synced, remove_file};
use crate::chunk::pack::batch::{Staging, write_footer};
use crate::chunk::pack::salvage::{SalvageError, Salvaged, claimed_bytes, salvage};
use crate::chunk::pack::scan::{End, Scan, read_end, scan};
use crate::chunk::pack::shared::path_in;
use crate::chunk::pack::{Claims, Entry, OpenError, PackInfo, PackState, Recovered, RecoveredKind};
use crate::ids::PackId;
use crate::limits::MIB;
use crate::meta::pack::Backend;

/// Bytes of one write of a footer.
const STAGING_BYTES: usize = MIB;

/// A pack that is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    pub info: PackInfo,
    /// The whole records of a damaged one, which has no footer to name them.
    pub entries: Vec<Entry>,
}

impl Opened {
    fn new(id: PackId, state: PackState, bytes: u64) -> Self {
        Self {
            info: PackInfo {
                id,
                state,
                bytes,
                backend: Backend::Local,
            },
            entries: Vec::new(),
        }
    }
}

/// A pack, if there is one, and what was done to it.
type Found = (Option<Opened>, Option<Recovered>);

/// All packs below `dir`, sealed or damaged, and what was done to get there.
pub fn open_all(dir: &Path, direct: bool, claims: &dyn Claims) -> Result<(Vec<Opened>, Vec<Recovered>), OpenError> {
    create_dir_synced(dir).map_err(|error| at(dir, error))?;
    let (mut packs, mut recovered) = (Vec::new(), Vec::new());
    for bucket in entries(dir)? {
        if !bucket.is_dir() {
            continue;
        }
        for path in entries(&bucket)? {
            let Some(id) = pack_id(&path).filter(|id| path_in(dir, *id) == path) else {
                return Err(OpenError::Unreadable {
                    path,
                    reason: "this file is no pack; move it away",
                });
            };
            let (info, repair) = match open_one(&path, id, direct, claims) {
                Ok(opened) => opened,
                Err(SalvageError::Io(error)) if Errno::from_io_error(&error) == Some(Errno::IO) => {
                    unreadable(&path, id)
                }
                Err(SalvageError::Io(error)) => return Err(at(&path, error)),
                Err(SalvageError::Claims(error)) => return Err(OpenError::Claims { pack: id, error }),
            };
            packs.extend(info);
            recovered.extend(repair);
        }
    }
    Ok((packs, recovered))
}

/// A pack that the disk does not give back now: one bad sector must not keep the others from being read.
fn unreadable(path: &Path, id: PackId) -> Found {
    let length = fs::metadata(path).map_or(0, |found| found.len());
    (
        Some(Opened::new(id, PackState::Damaged, length)),
        Some(report(id, RecoveredKind::Damaged, &Scan::default())),
    )
}

fn at(path: &Path, error: io::Error) -> OpenError {
    OpenError::Io {
        path: path.to_path_buf(),
        error,
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let list = || {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
    };
    list().map_err(|error| at(dir, error))
}

fn pack_id(path: &Path) -> Option<PackId> {
    PackId::from_str(path.file_name()?.to_str()?.strip_suffix(".pack")?).ok()
}

fn open_one(path: &Path, id: PackId, direct: bool, claims: &dyn Claims) -> Result<Found, SalvageError> {
    let file = ReadFile::open(path, false)?;
    let length = file.length()?;
    let end = read_end(&file, id)?;
    if let End::Sealed(_) = end {
        return Ok((Some(Opened::new(id, PackState::Sealed, length)), None));
    }
    let found = scan(&file, id, length)?;
    let live = claims.live_bytes(id).map_err(SalvageError::Claims)?;
    let claimed = claimed_bytes(claims, id, &found.entries).map_err(SalvageError::Claims)?;
    if claimed < live {
        let salvaged = salvage(&file, id, length, &found, claims)?;
        return damaged(id, length, found, salvaged, live, claims);
    }
    if found.entries.is_empty() {
        remove_file(path)?;
        return Ok((None, Some(report(id, RecoveredKind::Removed, &found))));
    }
    let (mut staging, file) = (Staging::new(STAGING_BYTES), AppendFile::open(path, direct)?);
    let bytes = write_footer(&mut staging, &file, id, found.end, &found.entries)?;
    let kind = if let End::Damaged = end {
        RecoveredKind::FooterRebuilt
    } else {
        RecoveredKind::Sealed
    };
    let opened = Opened::new(id, PackState::Sealed, bytes);
    Ok((Some(opened), Some(report(id, kind, &found))))
}

/// What to tell of a pack that lost nothing.
fn report(pack: PackId, kind: RecoveredKind, found: &Scan) -> Recovered {
    Recovered {
        pack,
        kind,
        records: found.entries.len() as u32,
        dropped: found.dropped,
        damaged: Vec::new(),
        lost_bytes: 0,
    }
}

/// A pack of which the index needs more than is whole. Its file stays as it is.
fn damaged(
    id: PackId,
    length: u64,
    mut found: Scan,
    salvaged: Salvaged,
    live: u64,
    claims: &dyn Claims,
) -> Result<Found, SalvageError> {
    found.entries.extend(salvaged.entries);
    found.entries.sort_unstable_by_key(|entry| entry.location.offset);
    for (order, entry) in (0..).zip(&mut found.entries) {
        entry.order = order;
    }
    let claimed = claimed_bytes(claims, id, &found.entries).map_err(SalvageError::Claims)?;
    let report = Recovered {
        damaged: salvaged.damaged,
        lost_bytes: live.saturating_sub(claimed),
        ..report(id, RecoveredKind::Damaged, &found)
    };
    let opened = Opened {
        entries: found.entries,
        ..Opened::new(id, PackState::Damaged, length)
    };
    Ok((Some(opened), Some(report)))
}
