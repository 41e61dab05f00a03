//! What a start does with the packs it finds: sealed ones are taken as they are, others get their footer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::blob::local::{ALIGNMENT, AppendFile, ReadFile, create_dir_synced, remove_file_synced};
use crate::chunk::pack::batch::Staging;
use crate::chunk::pack::format::{aligned, footer};
use crate::chunk::pack::scan::{ends_in_bytes, read_trailer, scan};
use crate::chunk::pack::shared::path_in;
use crate::chunk::pack::{OpenError, PackInfo, PackState, Recovered, RecoveredKind};
use crate::ids::PackId;

/// All packs below `dir`, every one sealed, and what was done to get there.
pub fn open_all(dir: &Path, direct: bool) -> Result<(Vec<PackInfo>, Vec<Recovered>), OpenError> {
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
            let (info, repair) = open_one(&path, id, direct).map_err(|error| at(&path, error))?;
            packs.extend(info);
            recovered.extend(repair);
        }
    }
    Ok((packs, recovered))
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

fn open_one(path: &Path, id: PackId, direct: bool) -> io::Result<(Option<PackInfo>, Option<Recovered>)> {
    let file = ReadFile::open(path, false)?;
    let length = file.length()?;
    if length.is_multiple_of(ALIGNMENT as u64) && read_trailer(&file, id)?.is_some() {
        return Ok((
            Some(PackInfo {
                id,
                state: PackState::Sealed,
                bytes: length,
            }),
            None,
        ));
    }
    let had_end = ends_in_bytes(&file)?;
    let found = scan(&file, id, length)?;
    let records = found.entries.len() as u32;
    let report = |kind| Recovered {
        pack: id,
        kind,
        records,
        dropped: found.dropped,
    };
    if found.entries.is_empty() {
        remove_file_synced(path)?;
        return Ok((None, Some(report(RecoveredKind::Removed))));
    }
    let footer = footer(id, found.end, &found.entries);
    let bytes = aligned(found.end + footer.len() as u64);
    let file = AppendFile::open(path, direct)?;
    let mut staging = Staging::new(footer.len());
    let mut writer = staging.begin(&file, found.end);
    writer.put(&footer)?;
    writer.finish()?;
    file.truncate_and_sync(bytes)?;
    let kind = if had_end {
        RecoveredKind::FooterRebuilt
    } else {
        RecoveredKind::Sealed
    };
    Ok((
        Some(PackInfo {
            id,
            state: PackState::Sealed,
            bytes,
        }),
        Some(report(kind)),
    ))
}
