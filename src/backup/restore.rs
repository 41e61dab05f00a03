//! The way back: from a point in a backup to a data directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::names::Id;
use super::points::{Point, Wanted};
use super::progress::told;
use super::source::{Choice, Source};
use super::vault::VaultError;
use crate::blob::Blobs;
use crate::blob::local::sync_dir;
use crate::clock::Timestamp;
use crate::ids::PackId;
use crate::kv::log::Position;
use crate::kv::rocks::{LoadError, RocksKv, RocksOptions};

/// In a directory in which a restore is under way, or did not come to its end.
const UNFINISHED: &str = "restore-unfinished";

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("there is no backup there")]
    Empty,
    #[error("there are backups of {} stores: {}; choose one with --store", .0.len(), list(.0))]
    Ambiguous(Vec<Id>),
    #[error("there is no backup of the store {0}")]
    NoStore(Id),
    #[error("there is no generation {0} in the backup")]
    NoGeneration(Id),
    /// Two gateways went on with the same store.
    #[error(
        "generation {} began at {}, and others went on behind that: {}; choose one with --generation",
        .newest.0, at_time(.newest.1), rivals(.others)
    )]
    Rivals {
        /// And when it began.
        newest: (Id, Timestamp),
        /// All of them, with their last points.
        others: Vec<(Id, Point)>,
    },
    #[error("the backup has no point {}: its checkpoints begin later, or are not complete", wanted(.0))]
    NoPoint(Wanted),
    /// Never passed over: what is behind would be wrong.
    #[error("the backup's log is broken behind commit {}: {what}; it is whole up to {}", .after.sequence.0, at(.whole))]
    BrokenLog {
        after: Position,
        whole: Option<Point>,
        what: String,
    },
    #[error("{pack} of the backup has {has} bytes, and {needed} are needed: {what}")]
    Pack {
        pack: String,
        has: u64,
        needed: u64,
        what: String,
    },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("the metadata cannot be made: {0}")]
    Load(#[from] LoadError),
    #[error("the restored metadata cannot be read: {0}")]
    Read(String),
    #[error("the restore was interrupted")]
    Interrupted,
}

impl RestoreError {
    /// Whether it says what of the backup is missing or wrong: to ask once more brings the same answer.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Vault(error) => error.is_lost(),
            Self::Empty | Self::NoStore(_) | Self::NoGeneration(_) | Self::NoPoint(_) => true,
            Self::BrokenLog { .. } | Self::Pack { .. } => true,
            _ => false,
        }
    }
}

fn at_time(time: Timestamp) -> String {
    told(time).unwrap_or_default()
}

fn rivals(others: &[(Id, Point)]) -> String {
    let last = |(id, point): &(Id, Point)| format!("{id} up to {}", at_time(point.time));
    others.iter().map(last).collect::<Vec<_>>().join(", ")
}

fn list(ids: &[Id]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn wanted(wanted: &Wanted) -> String {
    match wanted {
        Wanted::Last => "to go back to".to_owned(),
        Wanted::At(time) => format!("at or before {}", told(*time).unwrap_or_default()),
    }
}

fn at(point: &Option<Point>) -> String {
    match point.and_then(|point| told(point.time)) {
        Some(time) => format!("{time}, which --at can be"),
        None => "the checkpoint, and no point comes before the damage".to_owned(),
    }
}

pub(super) fn io_error(path: &Path) -> impl Fn(std::io::Error) -> RestoreError {
    let path = path.to_path_buf();
    move |error| RestoreError::Io {
        path: path.clone(),
        error,
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(RestoreError::Interrupted))
}

/// What is restored, and where to.
#[derive(Clone)]
pub struct RestoreOptions {
    /// The data directory: empty, but for what is passed over below.
    pub dir: PathBuf,
    pub rocks: RocksOptions,
    pub choice: Choice,
    /// Bring back what there is, also where packs are missing.
    pub lossy: bool,
}

/// What a restore brought back.
#[derive(Clone, Debug)]
pub struct Restored {
    pub store: Id,
    pub generation: Id,
    pub point: Point,
    pub packs: u64,
    pub bytes: u64,
    /// Packs that are not whole, one sentence each.
    pub lacks: Vec<String>,
    /// What of the backup is damaged and was not needed, one sentence each.
    pub passed_over: Vec<String>,
}

/// Whether a restore in `dir` did not come to its end.
pub fn is_unfinished(dir: &Path) -> bool {
    dir.join(UNFINISHED).exists()
}

/// Makes a data directory, which looks whole only once it is.
pub async fn restore(blobs: Arc<dyn Blobs>, options: RestoreOptions) -> Result<Restored, RestoreError> {
    let mut source = Source::choose(blobs, options.choice).await?;
    loop {
        let dir = options.dir.clone();
        blocking(move || begin(&dir)).await?;
        match source.metadata(options.rocks.clone()).await {
            Err(RestoreError::Vault(error)) if error.is_lost() => source = source.before(error).await?,
            made => break made?,
        }
    }
    let kv = RocksKv::open(options.rocks, &prometheus::Registry::new())
        .await
        .map_err(LoadError::from)?;
    let needed = brought_home(&kv).await;
    kv.shutdown().await;
    drop(kv);
    let needed = needed?;
    let pieces = source.pieces().await?;
    let packs = options.dir.join("packs");
    let fetched = pieces.fetch_all(&needed, &packs, options.lossy).await?;
    let (dir, lineage) = (options.dir, (source.store, source.generation, source.point.time));
    blocking(move || finish(&dir, lineage)).await?;
    Ok(Restored {
        store: source.store,
        generation: source.generation,
        point: source.point,
        packs: needed.len() as u64,
        bytes: fetched.bytes,
        lacks: fetched.lacks,
        passed_over: source.passed_over,
    })
}

/// The packs that rows point to, which from now on say that all of them are in the data directory.
pub async fn brought_home(kv: &RocksKv) -> Result<BTreeMap<PackId, u64>, RestoreError> {
    let left = crate::chunk::leave_cloud(kv).await;
    left.map_err(|error| RestoreError::Read(error.to_string()))?;
    super::pieces::needed(kv).await
}

/// Marks the directory as unfinished, and removes what an unfinished restore left in it of the metadata. Packs stay: each of
/// their pieces is held against its hash.
fn begin(dir: &Path) -> Result<(), RestoreError> {
    let mark = dir.join(UNFINISHED);
    let was_there = mark.exists();
    std::fs::write(&mark, "").map_err(io_error(&mark))?;
    sync_dir(dir).map_err(io_error(dir))?;
    for name in ["db", "log"].into_iter().filter(|_| was_there) {
        let path = dir.join(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn finish(dir: &Path, (store, parent, time): (Id, Id, Timestamp)) -> Result<(), RestoreError> {
    super::lineage::Lineage::restored(dir, store, parent, time).map_err(io_error(dir))?;
    sync_dir(dir).map_err(io_error(dir))?;
    let mark = dir.join(UNFINISHED);
    std::fs::remove_file(&mark).map_err(io_error(&mark))?;
    sync_dir(dir).map_err(io_error(dir))
}
