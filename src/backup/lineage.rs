//! Who this store is in its backup: the file `backup-id` of the data directory.
//!
//! A store keeps its id for ever; a generation is one life of its data directory. What a restore makes has the store's id
//! and no generation yet, so that its first start begins one: two gateways never write into the same folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::names::Id;
use crate::blob::local::sync_dir;
use crate::ids::IdSource;

const FILE: &str = "backup-id";

#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged; delete it to begin a backup that has nothing to do with the one before")]
    Damaged { path: PathBuf },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    pub store: Id,
    pub generation: Id,
}

#[derive(Serialize, Deserialize)]
struct LineageFile {
    store: String,
    generation: Option<String>,
}

impl Lineage {
    /// That of the data directory, made as far as there is none. Blocks.
    pub fn load_or_make(dir: &Path, ids: &IdSource) -> Result<Self, LineageError> {
        let path = dir.join(FILE);
        let failed = |source| LineageError::Io {
            path: path.clone(),
            source,
        };
        let known = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let damaged = || LineageError::Damaged { path: path.clone() };
                let file: LineageFile = toml::from_str(&text).map_err(|_| damaged())?;
                let store = file.store.parse().map_err(|_| damaged())?;
                let generation = file
                    .generation
                    .map(|id| id.parse())
                    .transpose()
                    .map_err(|_| damaged())?;
                Some((store, generation))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let fresh = || Id(ids.next());
        let (store, generation) = known.unwrap_or_else(|| (fresh(), None));
        if let Some(generation) = generation {
            return Ok(Self { store, generation });
        }
        let made = Self {
            store,
            generation: fresh(),
        };
        write(dir, made.store, Some(made.generation)).map_err(failed)?;
        Ok(made)
    }

    /// Notes in a restored directory which store it is. Blocks.
    pub fn restored(dir: &Path, store: Id) -> io::Result<()> {
        write(dir, store, None)
    }
}

/// Written beside its place, synced, and moved there, so that a crash leaves a whole file or none.
fn write(dir: &Path, store: Id, generation: Option<Id>) -> io::Result<()> {
    let file = LineageFile {
        store: store.to_string(),
        generation: generation.map(|id| id.to_string()),
    };
    let text = toml::to_string(&file).map_err(io::Error::other)?;
    let draft = dir.join("backup-id.new");
    let mut out: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&draft)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&draft, dir.join(FILE))?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_store_keeps_its_id_and_a_restored_one_gets_another_generation() {
        let (dir, ids) = (tempfile::tempdir().unwrap(), IdSource::new(Clock::system()));
        let first = Lineage::load_or_make(dir.path(), &ids).unwrap();
        assert_eq!(Lineage::load_or_make(dir.path(), &ids).unwrap(), first);
        Lineage::restored(dir.path(), first.store).unwrap();
        let second = Lineage::load_or_make(dir.path(), &ids).unwrap();
        assert_eq!(second.store, first.store);
        assert!(second.generation > first.generation);
        std::fs::write(dir.path().join(FILE), "store = 1").unwrap();
        assert!(matches!(
            Lineage::load_or_make(dir.path(), &ids),
            Err(LineageError::Damaged { .. })
        ));
    }
}
