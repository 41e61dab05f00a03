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
use crate::clock::Timestamp;
use crate::ids::IdSource;

const FILE: &str = "backup-id";

#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged; delete it to begin a backup that has nothing to do with the one before")]
    Damaged { path: PathBuf },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    dir: PathBuf,
    pub store: Id,
    pub generation: Id,
    /// The generation that the data directory was restored from.
    pub parent: Option<Id>,
    /// When this generation began, and not before the point that was restored.
    pub begun: Timestamp,
    /// The place that has this generation, for people.
    place: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct LineageFile {
    store: String,
    generation: Option<String>,
    parent: Option<String>,
    /// When the generation began; without one, the time of the point that was restored.
    begun_ms: u64,
    place: Option<String>,
}

/// What the file says.
struct Known {
    store: Id,
    generation: Option<Id>,
    parent: Option<Id>,
    begun: Timestamp,
    place: Option<String>,
}

impl Known {
    /// `None`: it is damaged.
    fn parse(text: &str) -> Option<Self> {
        let file: LineageFile = toml::from_str(text).ok()?;
        let id = |id: Option<String>| id.map(|id| id.parse()).transpose().ok();
        Some(Self {
            store: file.store.parse().ok()?,
            generation: id(file.generation)?,
            parent: id(file.parent)?,
            begun: Timestamp::from_unix_ms(file.begun_ms),
            place: file.place,
        })
    }

    /// `None`: there is none.
    fn load(dir: &Path) -> Result<Option<Self>, LineageError> {
        let path = dir.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => match Self::parse(&text) {
                Some(known) => Ok(Some(known)),
                None => Err(LineageError::Damaged { path }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LineageError::Io { path, source }),
        }
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        let told = |id: Option<Id>| id.map(|id| id.to_string());
        let file = LineageFile {
            store: self.store.to_string(),
            generation: told(self.generation),
            parent: told(self.parent),
            begun_ms: self.begun.unix_ms(),
            place: self.place.clone(),
        };
        let text = toml::to_string(&file).map_err(io::Error::other)?;
        write(dir, &text)
    }
}

impl Lineage {
    /// That of the data directory, made as far as there is none. Blocks.
    pub fn load_or_make(dir: &Path, ids: &IdSource, now: Timestamp) -> Result<Self, LineageError> {
        let mut known = Known::load(dir)?.unwrap_or_else(|| Known {
            store: Id(ids.next()),
            generation: None,
            parent: None,
            begun: Timestamp::default(),
            place: None,
        });
        let generation = match known.generation {
            Some(generation) => generation,
            None => {
                let fresh = Id(ids.next());
                // Also where the clock stands before the one of the machine that was lost.
                let generation = known.parent.map_or(fresh, |parent| fresh.max(parent.next()));
                (known.generation, known.begun) = (Some(generation), known.begun.max(now));
                known.write(dir).map_err(|source| LineageError::Io {
                    path: dir.join(FILE),
                    source,
                })?;
                generation
            }
        };
        Ok(Self {
            dir: dir.to_path_buf(),
            store: known.store,
            generation,
            parent: known.parent,
            begun: known.begun,
            place: known.place,
        })
    }

    /// The store and the generation of a data directory, if it has them. Blocks.
    pub fn ids(dir: &Path) -> Result<Option<(Id, Option<Id>)>, LineageError> {
        Ok(Known::load(dir)?.map(|known| (known.store, known.generation)))
    }

    /// Whether the generation is at this place: then it must not be made there once more.
    pub fn is_at(&self, place: &str) -> bool {
        self.place.as_deref() == Some(place)
    }

    /// Notes that the generation is at this place. Blocks.
    pub fn entered(&self, place: &str) -> io::Result<()> {
        if self.is_at(place) {
            return Ok(());
        }
        let known = Known {
            store: self.store,
            generation: Some(self.generation),
            parent: self.parent,
            begun: self.begun,
            place: Some(place.to_owned()),
        };
        known.write(&self.dir)
    }

    /// Notes in a restored directory which store it is, and from which generation's point of that time. Blocks.
    pub fn restored(dir: &Path, store: Id, parent: Id, time: Timestamp) -> io::Result<()> {
        let known = Known {
            store,
            generation: None,
            parent: Some(parent),
            begun: time,
            place: None,
        };
        known.write(dir)
    }
}

/// Written beside its place, synced, and moved there, so that a crash leaves a whole file or none.
fn write(dir: &Path, text: &str) -> io::Result<()> {
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
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_store_keeps_its_id_and_a_restored_one_gets_a_later_generation_by_any_clock() {
        let (dir, (clock, hand)) = (tempfile::tempdir().unwrap(), Clock::manual(1_000_000));
        let load = || Lineage::load_or_make(dir.path(), &IdSource::new(clock.clone()), clock.now());
        let first = load().unwrap();
        assert_eq!(load().unwrap(), first);
        assert_eq!((first.parent, first.begun), (None, clock.now()));
        first.entered("file:///b").unwrap();
        assert!(!first.is_at("file:///b") && load().unwrap().is_at("file:///b"));
        let point = Timestamp::from_unix_ms(1_200_000);
        hand.set_ms(500_000);
        Lineage::restored(dir.path(), first.store, first.generation, point).unwrap();
        let second = load().unwrap();
        assert_eq!(second.store, first.store);
        assert!(second.generation > first.generation);
        assert_eq!((second.parent, second.begun), (Some(first.generation), point));
        assert_eq!(load().unwrap(), second);
        std::fs::write(dir.path().join(FILE), "store = 1").unwrap();
        assert!(matches!(load(), Err(LineageError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_a_lineage_or_not(text in "[a-z0-9_=\"\n ]{0,200}", id in "[0-9a-f]{30,34}", begun_ms: u64) {
            let _ = Known::parse(&text);
            let found = Known::parse(&format!("store = \"{id}\"\nbegun_ms = {begun_ms}"));
            prop_assert!(found.is_none() || id.len() == 32);
        }
    }
}
