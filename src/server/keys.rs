//! `cairn key` on a data directory that no gateway uses. Only the metadata store is opened.

use std::path::Path;

use prometheus::Registry;

use super::keyring::{self, KeyringError};
use super::lock::{DirectoryLock, LockError};
use super::options::rocks_options;
use crate::admin::{KeysReport, RotationReport};
use crate::chunk::{self, KeyError, MasterKeys};
use crate::clock::Clock;
use crate::config::{Config, MasterKeySource};
use crate::kv::rocks::{OpenError, RocksKv};

#[derive(Debug, thiserror::Error)]
pub enum KeyCommandError {
    #[error("{0} holds no store")]
    NoStore(String),
    #[error("no key is given: set encryption.key_file (--key-file) or CAIRN_ENCRYPTION_KEY")]
    NoKey,
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the metadata store cannot be opened: {0}")]
    Kv(#[from] OpenError),
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
}

/// Which master key the store is encrypted with, and which are given.
pub fn list(config: &Config) -> Result<KeysReport, KeyCommandError> {
    let given = config
        .encryption
        .as_ref()
        .map(|source| keyring::load(source, &config.data));
    let given = given.transpose()?;
    with_store(config, async |kv| report(&config.data, kv, given.as_ref()).await)
}

/// Wraps the store's key with the first of the keys that are given. If that one is in use, a key file gets a new one first.
pub fn rotate(config: &Config) -> Result<RotationReport, KeyCommandError> {
    let source = config.encryption.as_ref().ok_or(KeyCommandError::NoKey)?;
    let mut masters = keyring::load(source, &config.data)?;
    with_store(config, async |kv| {
        let in_use = chunk::master_in_use(kv).await?.ok_or(KeyError::NotEncrypted)?;
        if let MasterKeySource::File(path) = source
            && masters.first() == in_use
        {
            keyring::add(path)?;
            masters = keyring::load(source, &config.data)?;
        }
        Ok(told(chunk::rotate(kv, &masters, &Clock::system()).await?))
    })
}

pub(super) async fn report(
    data: &Path,
    kv: &RocksKv,
    given: Option<&MasterKeys>,
) -> Result<KeysReport, KeyCommandError> {
    Ok(KeysReport {
        data: data.canonicalize().unwrap_or_else(|_| data.to_path_buf()),
        in_use: chunk::master_in_use(kv).await?.map(|id| id.to_string()),
        given: given.map_or_else(Vec::new, |given| given.ids().map(|id| id.to_string()).collect()),
    })
}

pub(super) fn told(rotation: chunk::Rotation) -> RotationReport {
    RotationReport {
        from: rotation.from.to_string(),
        to: rotation.to.to_string(),
    }
}

fn with_store<T>(
    config: &Config,
    work: impl AsyncFnOnce(&RocksKv) -> Result<T, KeyCommandError>,
) -> Result<T, KeyCommandError> {
    if !config.data.join("db").is_dir() {
        return Err(KeyCommandError::NoStore(config.data.display().to_string()));
    }
    let _lock = DirectoryLock::take(&config.data)?;
    let runtime = tokio::runtime::Runtime::new().map_err(KeyCommandError::Threads)?;
    runtime.block_on(async {
        let kv = RocksKv::open(rocks_options(config), &Registry::new()).await?;
        let outcome = work(&kv).await;
        kv.shutdown().await;
        outcome
    })
}
