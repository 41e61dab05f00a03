//! A point in a backup to which a restore goes, and the metadata as of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::checkpoint::Manifest;
use super::generations::begun;
use super::names::{self, CHECKPOINTS, CheckpointName, INDEX, Id, LOG, RowsName, SegmentName};
use super::pieces::Pieces;
use super::points::{Point, Wanted};
use super::restore::{RestoreError, blocking};
use super::vault::{Pace, Patience, Vault, VaultError};
use crate::blob::Blobs;
use crate::clock::Timestamp;
use crate::kv::log::Position;
use crate::kv::rocks::{Loader, RocksOptions};

/// How long a call is made again that fails.
const PATIENCE: Duration = Duration::from_secs(300);
/// As long as the place has not answered once: it may be a wrong one.
const FIRST_PATIENCE: Duration = Duration::from_secs(20);
/// Stretches of the log that are fetched ahead.
const AHEAD: usize = 4;

/// Which of all points in a backup is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Needed where there are backups of several stores.
    pub store: Option<Id>,
    /// Needed where two gateways went on with one store.
    pub generation: Option<Id>,
    pub wanted: Wanted,
}

/// A point in a backup, found by the names of what leads to it.
pub struct Source {
    pub store: Id,
    pub generation: Id,
    pub point: Point,
    /// What is damaged and was passed over, one sentence each.
    pub passed_over: Vec<String>,
    pub(super) vault: Vault,
    wanted: Wanted,
    manifest: Manifest,
    /// By their start, those that reach further first.
    segments: Vec<SegmentName>,
    /// The checkpoints before, oldest first.
    before: Vec<CheckpointName>,
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
    /// Finds the last point that is wanted: in the newest generation that has one, on the newest checkpoint before it. An
    /// error if a generation before it went on when it had begun.
    pub async fn choose(blobs: Arc<dyn Blobs>, choice: Choice) -> Result<Self, RestoreError> {
        let whole = Vault::new(blobs, Patience::For(PATIENCE), Pace::default(), None);
        let mut stores = stores(&whole.patient(Patience::For(FIRST_PATIENCE))).await?;
        let store = match (choice.store, stores.len()) {
            (Some(store), _) => store,
            (None, 0) => return Err(RestoreError::Empty),
            (None, 1) => stores.keys().next().copied().ok_or(RestoreError::Empty)?,
            (None, _) => return Err(RestoreError::Ambiguous(stores.into_keys().collect())),
        };
        let mut generations = stores.remove(&store).ok_or(RestoreError::NoStore(store))?;
        if let Some(chosen) = choice.generation {
            generations.retain(|generation| *generation == chosen);
            if generations.is_empty() {
                return Err(RestoreError::NoGeneration(chosen));
            }
        }
        generations.sort_unstable();
        let mut newest: Option<(Self, Timestamp)> = None;
        let mut others = Vec::new();
        for generation in generations.into_iter().rev() {
            let vault = whole.below(names::root(store, generation));
            let found = Self::of(vault, (store, generation), choice.wanted).await;
            match (&newest, found) {
                (None, Ok(Some(found))) => newest = Some((found, begun(&whole, store, generation).await?)),
                (Some((_, begun)), Ok(Some(found))) if found.point.time > *begun => {
                    others.push((generation, found.point))
                }
                // Of an older one it is only asked whether it went on.
                (Some(_), Err(RestoreError::Vault(error))) if error.is_lost() => {}
                (_, found) => drop(found?),
            }
        }
        let Some((found, begun)) = newest else {
            return Err(RestoreError::NoPoint(choice.wanted));
        };
        if others.is_empty() {
            return Ok(found);
        }
        others.insert(0, (found.generation, found.point));
        Err(RestoreError::Rivals {
            newest: (found.generation, begun),
            others,
        })
    }

    /// The last point of a generation that is wanted.
    async fn of(vault: Vault, ids: (Id, Id), wanted: Wanted) -> Result<Option<Self>, RestoreError> {
        let mut checkpoints = vault.all(CHECKPOINTS, |blob| CheckpointName::parse(&blob.name)).await?;
        checkpoints.sort_unstable_by_key(|name| name.checkpoint);
        Self::on(vault, ids, wanted, checkpoints, Vec::new()).await
    }

    /// The last point on the newest checkpoint that is wanted and whole.
    async fn on(
        vault: Vault,
        (store, generation): (Id, Id),
        wanted: Wanted,
        mut checkpoints: Vec<CheckpointName>,
        mut passed_over: Vec<String>,
    ) -> Result<Option<Self>, RestoreError> {
        let mut lost = None;
        while let Some(name) = checkpoints.pop() {
            let of = Point {
                sequence: name.sequence,
                time: name.time,
            };
            if !wanted.allows(of) {
                continue;
            }
            let manifest = match Manifest::load(&vault, &name).await {
                // The log goes on over checkpoints: one before leads to the same point.
                Err(error) if error.is_lost() => {
                    passed_over.push(error.to_string());
                    lost = Some(error);
                    continue;
                }
                manifest => manifest?,
            };
            if let Some((point, segments)) = points(&vault, &manifest, wanted).await? {
                return Ok(Some(Self {
                    store,
                    generation,
                    point,
                    passed_over,
                    vault,
                    wanted,
                    manifest,
                    segments,
                    before: checkpoints,
                }));
            }
        }
        lost.map_or(Ok(None), |error| Err(error.into()))
    }

    /// The same on a checkpoint before this one, of which something is lost.
    pub async fn before(self, lost: VaultError) -> Result<Self, RestoreError> {
        let mut passed_over = self.passed_over;
        passed_over.push(lost.to_string());
        let found = Self::on(
            self.vault,
            (self.store, self.generation),
            self.wanted,
            self.before,
            passed_over,
        );
        found.await?.ok_or_else(|| lost.into())
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
                self.vault.get(&name, digest, None).await
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
            let bytes = Some(segment.end - segment.start);
            async move {
                (
                    segment,
                    self.vault.get(&segment.to_string(), segment.digest, bytes).await,
                )
            }
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
            // What stands between two stretches, headers of log files or a stretch that is lost, the chain of frames tells.
            position = end.map_err(|error| broken(trouble.take().unwrap_or_else(|| error.to_string())))?;
            trouble = None;
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
