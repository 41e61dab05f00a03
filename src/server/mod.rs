//! The composition root: opens the stores, puts the wire in front of them, serves, and closes everything in order.

use std::io;
use std::sync::Arc;

use prometheus::Registry;

use crate::config::Config;
use crate::limits::BLOCKING_THREADS_MAX;
use crate::priority;
use crate::telemetry;

mod body;
mod check;
mod drill;
mod front;
mod gc;
mod io_watch;
pub(crate) mod keyring;
mod keys;
mod listener;
mod lock;
mod options;
mod ready;
mod record;
pub(crate) mod reply;
mod restore;
pub(crate) mod root_key;
mod service;
mod state;
mod stores;
mod tls;
mod welcome;

pub use check::{CheckError, CheckRequest, check};
pub use drill::{DrillError, DrillReport, drill};
pub use front::FrontError;
pub use keyring::KeyringError;
pub use keys::{KeyCommandError, list as list_keys, rotate as rotate_key};
pub use lock::LockError;
pub use restore::{CommandError as RestoreCommandError, RestoreRequest, restore};
pub use root_key::RootKeyError;
pub use stores::StoresError;

/// Why the gateway could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("logging cannot be set up: {0}")]
    Log(String),
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{0}: a restore into it did not come to its end; run cairn restore again")]
    Unfinished(String),
    #[error(transparent)]
    RootKey(#[from] RootKeyError),
    #[error(transparent)]
    Stores(#[from] StoresError),
    #[error(transparent)]
    Front(#[from] FrontError),
}

/// Runs the gateway until a signal ends it.
pub fn run(config: Config) -> Result<(), ServeError> {
    let registry = Registry::new();
    let log = telemetry::init(&config.log, &registry).map_err(|error| ServeError::Log(error.to_string()))?;
    let outcome = start(config, registry);
    if let Err(error) = &outcome {
        tracing::error!(%error, "the gateway ended");
    }
    drop(log);
    outcome
}

/// Takes the data directory, which holds a whole store or nothing yet.
fn take_directory(config: &Config) -> Result<lock::DirectoryLock, ServeError> {
    let lock = lock::DirectoryLock::take(&config.data)?;
    if crate::backup::is_unfinished(&config.data) {
        return Err(ServeError::Unfinished(config.data.display().to_string()));
    }
    Ok(lock)
}

fn start(config: Config, registry: Registry) -> Result<(), ServeError> {
    let lock = take_directory(&config)?;
    let root = root_key::load_or_make(&config.data, config.root.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("cairn-async")
        .on_thread_start(priority::answer_fast)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(ServeError::Threads)?;
    let outcome = runtime.block_on(serve(&config, &root, registry));
    drop(runtime);
    // Last of all: nothing of this process touches the directory any more.
    drop(lock);
    outcome
}

async fn serve(config: &Config, root: &root_key::Root, registry: Registry) -> Result<(), ServeError> {
    let sockets = front::Sockets::bind(config)?;
    let stores = stores::Stores::open(config, &root.keys, &registry).await?;
    stores.start_background(config).await;
    let (s3, admin) = sockets.addresses().map_err(ServeError::Threads)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data = %config.data.display(), %s3, %admin, tls = config.tls.is_some(), "serving");
    welcome::print(config, root, s3, admin);
    let wire = stores.wire();
    let backend = Arc::clone(&stores) as Arc<dyn crate::admin::Backend>;
    let served = front::serve(config, sockets, wire, backend, registry).await;
    stores.close().await;
    tracing::info!("stopped");
    Ok(served?)
}
