//! `cairn check` on a data directory that no gateway uses.

use std::sync::Arc;
use std::thread::available_parallelism;

use prometheus::Registry;

use super::stores::Stores;
use super::{ServeError, root_key, take_directory};
use crate::admin::{CheckReport, Repaired};
use crate::config::Config;
use crate::object::{CheckProgress, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{0} holds no store")]
    NoStore(String),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("the index cannot be made anew: {0}")]
    Repair(#[from] crate::chunk::CollectError),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct CheckRequest {
    /// Read every byte too.
    pub read_data: bool,
    /// First make lost chunk rows anew from the packs, and set the counters to what the rows say.
    pub repair: bool,
}

/// Checks the store in the data directory, whose lock it takes.
pub fn check(config: &Config, request: CheckRequest, progress: &CheckProgress) -> Result<CheckReport, CheckError> {
    if !config.data.join("packs").is_dir() {
        return Err(CheckError::NoStore(config.data.display().to_string()));
    }
    let _lock = take_directory(config)?;
    let root = root_key::load_or_make(&config.data, config.root.clone()).map_err(ServeError::from)?;
    let runtime = tokio::runtime::Runtime::new().map_err(ServeError::Threads)?;
    runtime.block_on(async {
        let opened = Stores::open(config, &root.keys, &Registry::new()).await;
        let stores = opened.map_err(ServeError::from)?;
        let report = run(&stores, request, progress).await;
        stores.close().await;
        report
    })
}

async fn run(stores: &Arc<Stores>, request: CheckRequest, progress: &CheckProgress) -> Result<CheckReport, CheckError> {
    let repaired = if request.repair {
        Some(stores.repair().await?)
    } else {
        None
    };
    let report = stores.checked(request.read_data, cores(), progress).await;
    let repaired = repaired.map(|rebuilt| Repaired {
        chunks: rebuilt.restored,
        counters: rebuilt.counters,
    });
    Ok(CheckReport { repaired, ..report? })
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}
