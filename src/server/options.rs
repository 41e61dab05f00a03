//! From the settings to what the stores are opened with.

use std::sync::Arc;

use prometheus::Registry;

use super::stores::StoresError;
use crate::backup::{Backup, BackupOptions, Lineage, Sources};
use crate::blob::space::Space;
use crate::chunk::codec::Compression;
use crate::chunk::{ChunkStoreOptions, CloudOptions};
use crate::config::{CompressionChoice, Config};
use crate::kv::rocks::RocksOptions;

/// The backup that is set up, which writes nothing before it is started. Blocks for a directory.
pub(super) fn open_backup(
    config: &Config,
    sources: Sources,
    registry: &Registry,
) -> Result<Option<Arc<Backup>>, StoresError> {
    let Some(backup) = &config.backup else { return Ok(None) };
    let lineage = Lineage::load_or_make(&config.data, &sources.ids)?;
    let options = BackupOptions {
        log_max_bytes: backup.log_max_bytes,
        checkpoint_log_bytes: backup.checkpoint_log_bytes,
        window: backup.window,
        ..BackupOptions::default()
    };
    let blobs = crate::blob::open(&backup.location).map_err(StoresError::Backup)?;
    let url = backup.location.to_string();
    Ok(Some(Backup::new(sources, blobs, url, lineage, options, registry)?))
}

pub(super) fn rocks_options(config: &Config) -> RocksOptions {
    RocksOptions {
        hold_log: config.backup.is_some(),
        dir: config.data.clone(),
        memtable_bytes: config.storage.memtable_bytes,
        block_cache_bytes: config.storage.block_cache_bytes,
        ..RocksOptions::default()
    }
}

/// Opens the place for packs, which makes a directory if it is one.
pub(super) async fn cloud_options(config: &Config) -> Result<Option<CloudOptions>, crate::blob::OpenError> {
    let Some(cloud) = config.cloud.clone() else {
        return Ok(None);
    };
    let shown = cloud.location.to_string();
    let opened = tokio::task::spawn_blocking(move || crate::blob::open(&cloud.location)).await;
    let blobs = opened.map_err(|error| crate::blob::OpenError::Directory {
        path: shown.clone().into(),
        error: std::io::Error::other(error),
    })??;
    let mut options = CloudOptions::new(blobs, shown, config.data.join("cache"), cloud.cache_bytes);
    options.takes_packs = cloud.takes_packs;
    options.late = cloud.late;
    Ok(Some(options))
}

pub(super) fn chunk_options(config: &Config) -> ChunkStoreOptions {
    let mut options = ChunkStoreOptions::new(config.data.join("packs"));
    options.pool_bytes = config.storage.buffer_bytes;
    options.collect.interval = config.storage.collect_interval;
    options.space = Arc::new(Space::new(&config.data, config.storage.reserve_bytes));
    options.compression = match config.storage.compression {
        CompressionChoice::Off => Compression::Off,
        CompressionChoice::Fast => Compression::Fast,
        CompressionChoice::Balanced => Compression::BALANCED,
        CompressionChoice::Max => Compression::MAX,
    };
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is measured of the stores by themselves is what a user gets.
    #[test]
    fn the_defaults_of_the_settings_are_those_of_the_stores() {
        let (config, _) = Config::load_from(None, std::iter::empty(), Default::default()).unwrap();
        let (rocks, stores) = (rocks_options(&config), RocksOptions::default());
        assert_eq!(rocks.memtable_bytes, stores.memtable_bytes);
        assert_eq!(rocks.block_cache_bytes, stores.block_cache_bytes);
        assert_eq!(chunk_options(&config).pool_bytes, crate::limits::BUFFER_POOL_BYTES);
    }
}
