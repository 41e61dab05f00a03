//! Checkpoints: all rows as of one commit, on which a run's log stands.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::DELTA_BYTES;
use super::names::{CheckpointName, Digest, Id, RowsName};
use super::points::Point;
use super::task::{Backup, Interrupted};
use super::vault::{Vault, VaultError};
use crate::ids::Sequence;
use crate::kv::log::Position;
use crate::kv::{Kv, Mutation};

pub const FORMAT: u32 = 1;

/// What a checkpoint consists of. It is written last: a checkpoint without one is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub run: String,
    /// The commit that the rows are as of.
    pub sequence: u64,
    pub time_ms: u64,
    /// Where the run's log goes on, at or before that commit.
    pub log: LogPlace,
    /// The blobs of the rows, in their order.
    pub parts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    pub offset: u64,
    pub sequence: u64,
    pub checksum: u64,
}

impl From<Position> for LogPlace {
    fn from(position: Position) -> Self {
        Self {
            offset: position.offset,
            sequence: position.sequence.0,
            checksum: position.checksum,
        }
    }
}

impl From<LogPlace> for Position {
    fn from(place: LogPlace) -> Self {
        Self {
            offset: place.offset,
            sequence: Sequence(place.sequence),
            checksum: place.checksum,
        }
    }
}

impl Manifest {
    pub async fn load(vault: &Vault, name: &CheckpointName) -> Result<Self, VaultError> {
        let damaged = || VaultError::Damaged(name.to_string());
        let bytes = vault.get(&name.to_string(), name.digest).await?;
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
        if manifest.format != FORMAT || manifest.run.parse::<Id>().is_err() {
            return Err(damaged());
        }
        Ok(manifest)
    }

    pub fn run(&self) -> Option<Id> {
        self.run.parse().ok()
    }
}

impl Backup {
    /// Takes a checkpoint for the run, whose log has arrived up to `from`, and returns the point that it is of once it is
    /// complete: after its rows, and after the log and the packs that bring them to a point.
    pub(super) async fn checkpoint(&self, run: Id, from: Position) -> Result<Point, Interrupted> {
        let checkpoint = Id(self.sources.ids.next());
        let mut dump = self.sources.kv.dump(DELTA_BYTES).await?;
        let point = Point {
            sequence: dump.sequence,
            time: self.sources.clock.now(),
        };
        if dump.sequence < from.sequence {
            return Err(Interrupted::Early);
        }
        // The rows may be as of a commit that is not durable: after this one they are.
        let barrier = self.sources.kv.commit(Mutation::new()).await?;
        let mut parts = Vec::new();
        while let Some(part) = dump.parts.recv().await {
            let part = Bytes::from(part?);
            let number = parts.len() as u32;
            let digest = Digest::of(&part);
            let name = |salt| {
                RowsName {
                    checkpoint,
                    number,
                    salt,
                    digest,
                }
                .to_string()
            };
            parts.push(self.vault.put(name, part).await?);
        }
        self.progress.reaches(barrier).await;
        let manifest = Manifest {
            format: FORMAT,
            run: run.to_string(),
            sequence: point.sequence.0,
            time_ms: point.time.unix_ms(),
            log: from.into(),
            parts,
        };
        let bytes = Bytes::from(serde_json::to_vec(&manifest).map_err(|_| Interrupted::Stopped)?);
        let digest = Digest::of(&bytes);
        let name = |salt| {
            let Point { sequence, time } = point;
            CheckpointName {
                checkpoint,
                sequence,
                time,
                salt,
                digest,
            }
            .to_string()
        };
        self.vault.put(name, bytes).await?;
        Ok(point)
    }
}
