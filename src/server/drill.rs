//! `cairn check --restore`: whether the backup would bring everything back, proven on a part of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus::Registry;
use serde::{Deserialize, Serialize};

use super::ServeError;
use super::options::rocks_options;
use super::restore::{CommandError, RestoreRequest};
use super::stores::Stores;
use crate::backup::{Pieces, Source, brought_home, told};
use crate::chunk::ClearStore;
use crate::config::{Config, RootKeys};
use crate::kv::rocks::RocksKv;
use crate::object::StoreError;

/// Objects that are read.
const OBJECTS: usize = 64;
/// Bytes of packs that are fetched for them, about.
const PACK_BYTES_MAX: u64 = 512 << 20;
/// Findings that are told one by one.
const TOLD_MAX: usize = 100;
/// In the data directory, removed at the end, or by the next drill.
const SCRATCH: &str = "restore-drill";

#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("the restored store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("another drill is at work in {0}")]
    Busy(String),
}

impl DrillError {
    /// Whether it says that nothing would be restored; else nothing is known.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Command(CommandError::Restore(error)) if error.is_answer())
    }
}

/// What a drill found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillReport {
    /// Nothing is wrong.
    pub sound: bool,
    pub store: String,
    pub generation: String,
    /// The point that would be restored.
    pub sequence: u64,
    pub time: Option<String>,
    /// Packs that are needed, of these those with a footer, and their bytes.
    pub packs: u64,
    pub finished_packs: u64,
    pub pack_bytes: u64,
    /// Objects of the sample, and their bytes.
    pub objects: u64,
    pub object_bytes: u64,
    /// What is wrong, one sentence each; a hundred at the most.
    pub wrong: Vec<String>,
}

impl fmt::Display for DrillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.clone().unwrap_or_default();
        writeln!(f, "point     commit {}, {time}", self.sequence)?;
        writeln!(
            f,
            "packs     {} of {} bytes are there, {} finished",
            self.packs, self.pack_bytes, self.finished_packs
        )?;
        writeln!(f, "read      {} objects of {} bytes", self.objects, self.object_bytes)?;
        for wrong in &self.wrong {
            writeln!(f, "wrong     {wrong}")?;
        }
        let verdict = if self.sound {
            "would be restored"
        } else {
            "WOULD NOT BE RESTORED"
        };
        writeln!(f, "{verdict}")
    }
}

/// Restores the metadata beside the data directory, which may be in use, and reads a sample of the objects.
pub fn drill(config: &Config, request: RestoreRequest) -> Result<DrillReport, DrillError> {
    let location = &config.backup.as_ref().ok_or(CommandError::NoBackup)?.location;
    let blobs = crate::blob::open(location).map_err(CommandError::from)?;
    let scratch = Scratch::make(&config.data)?;
    let runtime = tokio::runtime::Runtime::new().map_err(CommandError::from)?;
    let config = Config {
        data: scratch.path.clone(),
        backup: None,
        // What a restore makes lies in the directory alone.
        cloud: None,
        ..config.clone()
    };
    runtime.block_on(async {
        let source = Source::choose(blobs, request.choice);
        let source = source.await.map_err(CommandError::from)?;
        let mut report = DrillReport {
            store: source.store.to_string(),
            generation: source.generation.to_string(),
            sequence: source.point.sequence.0,
            time: told(source.point.time),
            ..DrillReport::default()
        };
        run(&config, &source, &mut report).await?;
        report.sound = report.wrong.is_empty();
        report.wrong.truncate(TOLD_MAX);
        Ok(report)
    })
}

async fn run(config: &Config, source: &Source, report: &mut DrillReport) -> Result<(), DrillError> {
    report.wrong.extend(source.passed_over.iter().cloned());
    match source.metadata(rocks_options(config)).await {
        // The log and the checkpoint are all verified on this way.
        Err(error) if error.is_answer() => {
            report.wrong.push(error.to_string());
            return Ok(());
        }
        made => made.map_err(CommandError::from)?,
    }
    let kv = RocksKv::open(rocks_options(config), &Registry::new()).await;
    let kv = kv.map_err(|error| ServeError::from(super::StoresError::from(error)))?;
    let needed = brought_home(&kv).await;
    kv.shutdown().await;
    drop(kv);
    let needed = needed.map_err(CommandError::from)?;
    let pieces = source.pieces().await.map_err(CommandError::from)?;
    for (pack, bytes) in &needed {
        if let Err(error) = pieces.demand(*pack, *bytes) {
            report.wrong.push(error.to_string());
            continue;
        }
        report.packs += 1;
        report.pack_bytes += pieces.covered(*pack);
        match pieces.is_finished(*pack).await {
            Ok(is_finished) => report.finished_packs += u64::from(is_finished),
            Err(error) if error.is_lost() => report.wrong.push(error.to_string()),
            Err(error) => return Err(CommandError::Restore(error.into()).into()),
        }
    }
    read_sample(config, &pieces, &needed, report).await
}

/// Fetches the packs of some objects, and reads these.
async fn read_sample(
    config: &Config,
    pieces: &Pieces,
    needed: &BTreeMap<crate::ids::PackId, u64>,
    report: &mut DrillReport,
) -> Result<(), DrillError> {
    let stores = open(config).await?;
    let sample = stores.objects().sample(OBJECTS, PACK_BYTES_MAX).await;
    close(stores).await;
    let (objects, packs) = sample?;
    let wanted: BTreeMap<_, _> = needed
        .iter()
        .filter(|(pack, _)| packs.contains(pack))
        .map(|(pack, bytes)| (*pack, *bytes))
        .collect();
    match pieces.fetch_all(&wanted, &config.data.join("packs"), false).await {
        Err(error) if error.is_answer() => {
            report.wrong.push(error.to_string());
            return Ok(());
        }
        fetched => drop(fetched.map_err(CommandError::from)?),
    }
    let stores = open(config).await?;
    for object in objects {
        match stores.objects().read_back(&object).await {
            Ok(bytes) => {
                report.objects += 1;
                report.object_bytes += bytes;
            }
            Err(why) => report.wrong.push(format!("{}: {why}", object.object)),
        }
    }
    close(stores).await;
    Ok(())
}

async fn open(config: &Config) -> Result<Arc<Stores>, DrillError> {
    // Nobody signs in to what is opened here.
    let root = config.root.clone().unwrap_or(RootKeys {
        access_key: "DRILL".to_owned(),
        secret_key: "not used by anybody".to_owned(),
    });
    let opened = Stores::open(config, &root, ClearStore::Leave, &Registry::new()).await;
    Ok(opened.map_err(ServeError::from)?)
}

async fn close(stores: Arc<Stores>) {
    stores.close().await;
    // The packs end their threads, which blocks.
    drop(tokio::task::spawn_blocking(move || drop(stores)).await);
}

/// The directory of a drill, which is removed with all that is in it. One drill at a time has it.
struct Scratch {
    path: PathBuf,
    /// A lock on the data directory itself, which nobody else locks (a gateway locks a file in it), and which stays: to lock
    /// what is removed is to lock nothing.
    _lock: File,
}

impl Scratch {
    /// What an interrupted drill left is removed.
    fn make(data: &Path) -> Result<Self, DrillError> {
        let path = data.join(SCRATCH);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data)
            .map_err(CommandError::from)?;
        let lock = File::open(data).map_err(CommandError::from)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DrillError::Busy(path.display().to_string())),
            Err(TryLockError::Error(error)) => return Err(CommandError::from(error).into()),
        }
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CommandError::from(error).into()),
            _ => {}
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(CommandError::from)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, "the drill's directory could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_drill_at_a_time_has_the_directory_and_finds_it_empty() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let files = |path: &Path| std::fs::read_dir(path).unwrap().count();
        // Of a drill that was killed.
        std::fs::create_dir_all(data.join(SCRATCH).join("db")).unwrap();
        std::fs::write(data.join(SCRATCH).join("db/CURRENT"), "left").unwrap();
        let first = Scratch::make(&data).unwrap();
        assert_eq!((files(&first.path), files(&data)), (0, 1));
        std::fs::write(first.path.join("mine"), "").unwrap();
        assert!(matches!(Scratch::make(&data), Err(DrillError::Busy(_))));
        assert_eq!(files(&first.path), 1, "who is refused touches nothing");
        drop(first);
        assert_eq!(files(&data), 0);
        drop(Scratch::make(&data).unwrap());
        // A gateway serves the store meanwhile.
        let _gateway = super::super::lock::DirectoryLock::take(&data).unwrap();
        drop(Scratch::make(&data).unwrap());
    }
}
