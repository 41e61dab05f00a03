//! `cairn check --restore`: whether the backup would bring everything back, proven on a part of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use prometheus::Registry;
use serde::{Deserialize, Serialize};

use super::ServeError;
use super::options::rocks_options;
use super::restore::{CommandError, RestoreRequest};
use super::stores::Stores;
use crate::backup::{Pieces, Source, brought_home, told};
use crate::config::{Config, RootKeys};
use crate::kv::rocks::RocksKv;
use crate::object::StoreError;

/// Objects that are read.
const OBJECTS: usize = 64;
/// Bytes of packs that are fetched for them, about.
const PACK_BYTES_MAX: u64 = 512 << 20;
/// Findings that are told one by one.
const TOLD_MAX: usize = 100;
/// In the data directory, removed at the end.
const SCRATCH: &str = "restore-drill";

#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("the restored store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("a drill makes {0} for itself, and something is there already")]
    Scratch(String),
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
    let scratch = Scratch::make(&config.data.join(SCRATCH))?;
    let runtime = tokio::runtime::Runtime::new().map_err(CommandError::from)?;
    let config = Config {
        data: scratch.0.clone(),
        backup: None,
        // What a restore makes lies in the directory alone.
        cloud: None,
        ..config.clone()
    };
    runtime.block_on(async {
        let source = Source::choose(blobs, request.store, request.wanted);
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
    if let Err(error) = source.metadata(rocks_options(config)).await {
        // The log and the checkpoint are all verified on this way.
        report.wrong.push(error.to_string());
        return Ok(());
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
            Err(error) => report.wrong.push(error.to_string()),
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
    if let Err(error) = pieces.fetch_all(&wanted, &config.data.join("packs"), false).await {
        report.wrong.push(error.to_string());
        return Ok(());
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
    let opened = Stores::open(config, &root, &Registry::new()).await;
    Ok(opened.map_err(ServeError::from)?)
}

async fn close(stores: Arc<Stores>) {
    stores.close().await;
    // The packs end their threads, which blocks.
    drop(tokio::task::spawn_blocking(move || drop(stores)).await);
}

/// A directory that is removed with all that is in it.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn make(path: &Path) -> Result<Self, DrillError> {
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above).map_err(CommandError::from)?;
        }
        match std::fs::create_dir(path) {
            Ok(()) => Ok(Self(path.to_path_buf())),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(DrillError::Scratch(path.display().to_string()))
            }
            Err(error) => Err(CommandError::from(error).into()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "the drill's directory could not be removed");
        }
    }
}
