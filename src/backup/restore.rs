//! The way back: from a point in a backup to a data directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::ATTEMPT;
use super::checkpoint::Manifest;
use super::names::{self, CHECKPOINTS, CheckpointName, INDEX, Id, LOG, RowsName, SegmentName};
use super::pieces::Pieces;
use super::points::{Point, Wanted};
use super::progress::told;
use super::vault::{Patience, Vault, VaultError};
use crate::blob::Blobs;
use crate::blob::local::sync_dir;
use crate::ids::PackId;
use crate::kv::log::Position;
use crate::kv::rocks::{LoadError, Loader, RocksKv, RocksOptions};

/// In a directory in which a restore is under way, or did not come to its end.
const UNFINISHED: &str = "restore-unfinished";
/// Times that a call is made.
const TRIES: u32 = 5;
/// Stretches of the log that are fetched ahead.
const AHEAD: usize = 4;
/// Bytes of a log file's header, which stands between two stretches of the log.
const FILE_HEADER_BYTES: u64 = 4096;

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
    Open(#[from] crate::kv::rocks::OpenError),
    #[error("the restored metadata cannot be read: {0}")]
    Read(String),
    #[error("the restore was interrupted")]
    Interrupted,
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

/// A point in a backup, found by the names of what leads to it.
pub struct Source {
    pub store: Id,
    pub generation: Id,
    pub point: Point,
    pub(super) vault: Vault,
    manifest: Manifest,
    /// By their start, those that reach further first.
    segments: Vec<SegmentName>,
}

/// The stores of which there are backups.
async fn stores(whole: &Vault) -> Result<BTreeMap<Id, Vec<Id>>, VaultError> {
    let mut found: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
    for (store, generation) in whole.all(INDEX, |blob| names::parse_index(&blob.name)).await? {
        found.entry(store).or_default().push(generation);
    }
    Ok(found)
}

impl Source {
    /// Finds the last point that is wanted: in the newest generation that has one, on the newest checkpoint before it.
    pub async fn choose(blobs: Arc<dyn Blobs>, store: Option<Id>, wanted: Wanted) -> Result<Self, RestoreError> {
        let whole = Vault::new(blobs, Patience::Tries(TRIES), ATTEMPT, None);
        let mut stores = stores(&whole).await?;
        let store = match (store, stores.len()) {
            (Some(store), _) => store,
            (None, 0) => return Err(RestoreError::Empty),
            (None, 1) => stores.keys().next().copied().ok_or(RestoreError::Empty)?,
            (None, _) => return Err(RestoreError::Ambiguous(stores.into_keys().collect())),
        };
        let mut generations = stores.remove(&store).ok_or(RestoreError::NoStore(store))?;
        generations.sort_unstable();
        for generation in generations.into_iter().rev() {
            let vault = whole.below(names::root(store, generation));
            let mut checkpoints = vault.all(CHECKPOINTS, |blob| CheckpointName::parse(&blob.name)).await?;
            checkpoints.sort_unstable_by_key(|name| name.checkpoint);
            for name in checkpoints.into_iter().rev() {
                let of = Point {
                    sequence: name.sequence,
                    time: name.time,
                };
                if !wanted.allows(of) {
                    continue;
                }
                let manifest = Manifest::load(&vault, &name).await?;
                let Some((point, segments)) = points(&vault, &manifest, wanted).await? else {
                    continue;
                };
                return Ok(Self {
                    store,
                    generation,
                    point,
                    vault,
                    manifest,
                    segments,
                });
            }
        }
        Err(RestoreError::NoPoint(wanted))
    }

    /// Makes the metadata in the directory of `options`, which has none.
    pub async fn metadata(&self, options: RocksOptions) -> Result<(), RestoreError> {
        let sequence = crate::ids::Sequence(self.manifest.sequence);
        let mut loader = blocking(move || Ok(Loader::begin(options, sequence)?)).await?;
        let fetch = |name: &String| {
            let digest = RowsName::parse(name).map(|rows| rows.digest);
            let name = name.clone();
            async move {
                let digest = digest.ok_or_else(|| VaultError::Damaged(name.clone()))?;
                self.vault.get(&name, digest).await
            }
        };
        let fetches: Vec<_> = self.manifest.parts.iter().map(fetch).collect();
        let mut parts = futures::stream::iter(fetches).buffered(AHEAD);
        while let Some(part) = parts.try_next().await? {
            loader = blocking(move || loader.rows(&part).map(|()| loader).map_err(Into::into)).await?;
        }
        loader = self.replay(loader).await?;
        blocking(move || Ok(loader.finish()?)).await
    }

    /// Replays the log from the checkpoint to the point.
    async fn replay(&self, mut loader: Loader) -> Result<Loader, RestoreError> {
        let mut position: Position = self.manifest.log.into();
        let (mut whole, mut trouble) = (None, None);
        let fetch = |segment: &SegmentName| {
            let segment = *segment;
            async move { (segment, self.vault.get(&segment.to_string(), segment.digest).await) }
        };
        let fetches: Vec<_> = self.segments.iter().map(fetch).collect();
        let mut fetched = futures::stream::iter(fetches).buffered(AHEAD);
        while let Some((segment, bytes)) = fetched.next().await {
            if segment.end <= position.offset {
                continue;
            }
            let broken = |what: String| RestoreError::BrokenLog {
                after: position,
                whole,
                what,
            };
            if segment.start > position.offset + FILE_HEADER_BYTES {
                let absent = || format!("nothing is there of it from {} to {}", position.offset, segment.start);
                return Err(broken(trouble.take().unwrap_or_else(absent)));
            }
            let bytes: Bytes = match bytes {
                Ok(bytes) => bytes,
                // The same stretch may be there once more: what was put in vain is put under another name.
                Err(error) => {
                    trouble = Some(error.to_string());
                    continue;
                }
            };
            let replayed = blocking(move || {
                let end = loader.frames(&mut bytes.to_vec(), segment.start, position);
                Ok((loader, end))
            });
            let (back, end) = replayed.await?;
            loader = back;
            position = end.map_err(|error| broken(error.to_string()))?;
            if segment.is_point {
                let (sequence, time) = (segment.sequence, segment.time);
                whole = Some(Point { sequence, time });
            }
        }
        drop(fetched);
        if position.sequence != self.point.sequence || loader.sequence() != self.point.sequence {
            return Err(RestoreError::BrokenLog {
                after: position,
                whole,
                what: trouble.unwrap_or_else(|| "it ends too early".to_owned()),
            });
        }
        Ok(loader)
    }

    /// What of the packs there is.
    pub async fn pieces(&self) -> Result<Pieces, RestoreError> {
        Ok(Pieces::load(self.vault.clone()).await?)
    }
}

/// The last point on a checkpoint that is wanted, and the stretches of the log up to it.
async fn points(
    vault: &Vault,
    manifest: &Manifest,
    wanted: Wanted,
) -> Result<Option<(Point, Vec<SegmentName>)>, RestoreError> {
    let Some(run) = manifest.run() else { return Ok(None) };
    let mut segments = vault
        .all(&format!("{LOG}{run}/"), |blob| SegmentName::parse(&blob.name))
        .await?;
    let point = |segment: &SegmentName| Point {
        sequence: segment.sequence,
        time: segment.time,
    };
    let is_point = |segment: &&SegmentName| segment.is_point && segment.sequence.0 >= manifest.sequence;
    let points = segments
        .iter()
        .filter(is_point)
        .map(point)
        .filter(|point| wanted.allows(*point));
    let Some(last) = points.max_by_key(|point| point.sequence) else {
        return Ok(None);
    };
    segments.retain(|segment| segment.end > manifest.log.offset && segment.sequence <= last.sequence);
    segments.sort_unstable_by_key(|segment| (segment.start, std::cmp::Reverse(segment.end)));
    Ok(Some((last, segments)))
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
    /// Needed where there are backups of several stores.
    pub store: Option<Id>,
    pub wanted: Wanted,
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
}

/// Whether a restore in `dir` did not come to its end.
pub fn is_unfinished(dir: &Path) -> bool {
    dir.join(UNFINISHED).exists()
}

/// Makes a data directory, which looks whole only once it is.
pub async fn restore(blobs: Arc<dyn Blobs>, options: RestoreOptions) -> Result<Restored, RestoreError> {
    let source = Source::choose(blobs, options.store, options.wanted).await?;
    let dir = options.dir.clone();
    blocking(move || begin(&dir)).await?;
    source.metadata(options.rocks.clone()).await?;
    let kv = RocksKv::open(options.rocks, &prometheus::Registry::new()).await?;
    let needed = brought_home(&kv).await;
    kv.shutdown().await;
    drop(kv);
    let needed = needed?;
    let pieces = source.pieces().await?;
    let packs = options.dir.join("packs");
    let fetched = pieces.fetch_all(&needed, &packs, options.lossy).await?;
    let (dir, store) = (options.dir, source.store);
    blocking(move || finish(&dir, store)).await?;
    Ok(Restored {
        store,
        generation: source.generation,
        point: source.point,
        packs: needed.len() as u64,
        bytes: fetched.bytes,
        lacks: fetched.lacks,
    })
}

/// The packs that rows point to, which from now on say that all of them are in the data directory.
pub async fn brought_home(kv: &RocksKv) -> Result<BTreeMap<PackId, u64>, RestoreError> {
    let left = crate::chunk::leave_cloud(kv).await;
    left.map_err(|error| RestoreError::Read(error.to_string()))?;
    super::pieces::needed(kv).await
}

/// Marks the directory as unfinished, and removes what an unfinished restore left in it.
fn begin(dir: &Path) -> Result<(), RestoreError> {
    let mark = dir.join(UNFINISHED);
    let was_there = mark.exists();
    std::fs::write(&mark, "").map_err(io_error(&mark))?;
    sync_dir(dir).map_err(io_error(dir))?;
    for name in ["db", "log", "packs"].into_iter().filter(|_| was_there) {
        let path = dir.join(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn finish(dir: &Path, store: Id) -> Result<(), RestoreError> {
    super::lineage::Lineage::restored(dir, store).map_err(io_error(dir))?;
    sync_dir(dir).map_err(io_error(dir))?;
    let mark = dir.join(UNFINISHED);
    std::fs::remove_file(&mark).map_err(io_error(&mark))?;
    sync_dir(dir).map_err(io_error(dir))
}
