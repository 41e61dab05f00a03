//! The configuration: defaults, then a TOML file, then `CAIRN_*` variables, then flags; the later wins. The only reader
//! of the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

mod error;
mod location;
mod table;
pub(crate) mod units;
mod values;

pub use error::{ConfigError, toml_reason};
pub use location::{BlobLocation, Place};
pub use table::{FILE_VARIABLE, Kind, Setting, VARIABLE_PREFIX, markdown, settings};
pub use values::Values;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Which requests get a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    /// Those answered with 5xx.
    Errors,
    All,
}

#[derive(Clone, Debug)]
pub struct LogConfig {
    pub format: LogFormat,
    /// One of the five names of `tracing`'s levels.
    pub level: String,
    pub access: AccessLog,
}

#[derive(Clone, Debug)]
pub struct LimitsConfig {
    pub connections: usize,
    pub requests: usize,
    pub queue_wait: Duration,
    pub buffered_body_bytes: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub body_timeout: Duration,
    pub drain_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionChoice {
    Off,
    Fast,
    Balanced,
    Max,
}

#[derive(Clone, Debug)]
pub struct StorageConfig {
    pub compression: CompressionChoice,
    pub memtable_bytes: usize,
    pub block_cache_bytes: usize,
    pub buffer_bytes: usize,
    pub reserve_bytes: u64,
    pub collect_interval: Duration,
    pub scrub_interval: Duration,
}

#[derive(Clone, Debug)]
pub struct CloudConfig {
    pub location: BlobLocation,
    pub cache_bytes: u64,
    /// Whether new packs go there.
    pub takes_packs: bool,
    /// How long a put that failed may still happen.
    pub late: Duration,
}

#[derive(Clone, Debug)]
pub struct BackupConfig {
    pub location: BlobLocation,
    pub window: Duration,
    pub log_max_bytes: u64,
    pub checkpoint_log_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A key pair given by the operator.
#[derive(Clone)]
pub struct RootKeys {
    pub access_key: String,
    pub secret_key: String,
}

impl fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKeys")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// Where the master keys of an encrypted store are.
#[derive(Clone, PartialEq, Eq)]
pub enum MasterKeySource {
    File(PathBuf),
    /// The keys themselves.
    Text(Zeroizing<String>),
}

impl fmt::Debug for MasterKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(hidden)"),
        }
    }
}

/// Every setting, validated.
#[derive(Clone, Debug)]
pub struct Config {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub identities: Option<PathBuf>,
    pub domains: Vec<String>,
    pub region: String,
    pub tls: Option<TlsConfig>,
    pub root: Option<RootKeys>,
    pub log: LogConfig,
    pub limits: LimitsConfig,
    /// `None`: a store that is not encrypted.
    pub encryption: Option<MasterKeySource>,
    pub storage: StorageConfig,
    /// Where packs are besides the data directory.
    pub cloud: Option<CloudConfig>,
    /// `None`: there is no backup.
    pub backup: Option<BackupConfig>,
}

impl Config {
    /// The configuration of this process: its environment, the file named by `--config` or `CAIRN_CONFIG`, and `flags`
    /// (keyed by flag name).
    pub fn load(file: Option<&Path>, flags: BTreeMap<&'static str, String>) -> Result<(Self, Values), ConfigError> {
        let values = Values::resolve(file, std::env::vars_os(), flags)?;
        Ok((Self::from_values(&values)?, values))
    }

    /// As [`Config::load`], with an environment of the caller's.
    pub fn load_from(
        file: Option<&Path>,
        environment: impl Iterator<Item = (OsString, OsString)>,
        flags: BTreeMap<&'static str, String>,
    ) -> Result<(Self, Values), ConfigError> {
        let values = Values::resolve(file, environment, flags)?;
        Ok((Self::from_values(&values)?, values))
    }

    fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let tls = match (values.path("tls.cert"), values.path("tls.key")) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(TlsConfig { cert, key }),
            _ => {
                return Err(ConfigError::Combination(
                    "tls.cert and tls.key go together: set both or neither",
                ));
            }
        };
        let root = match (values.text("root.access_key"), values.text("root.secret_key")) {
            (None, None) => None,
            (Some(access_key), Some(secret_key)) => Some(RootKeys { access_key, secret_key }),
            _ => {
                return Err(ConfigError::Combination(
                    "CAIRN_ROOT_ACCESS_KEY and CAIRN_ROOT_SECRET_KEY go together: set both or neither",
                ));
            }
        };
        let encryption = match (values.path("encryption.key_file"), values.text("encryption.key")) {
            (None, None) => None,
            (Some(path), None) => Some(MasterKeySource::File(path)),
            (None, Some(text)) => Some(MasterKeySource::Text(Zeroizing::new(text))),
            (Some(_), Some(_)) => {
                return Err(ConfigError::Combination(
                    "encryption.key_file and CAIRN_ENCRYPTION_KEY exclude each other: set one of them",
                ));
            }
        };
        let admin_listen = values.address("admin_listen")?;
        if !admin_listen.ip().is_loopback() && !values.switch("admin_exposed") {
            return Err(ConfigError::Combination(
                "the admin listener asks for no credentials and stays on the loopback interface; \
                 set admin_exposed (CAIRN_ADMIN_EXPOSED) to true if the network in front of it is trusted",
            ));
        }
        Ok(Self {
            data: values.path("data").unwrap_or_default(),
            listen: values.address("listen")?,
            admin_listen,
            identities: values.path("identities"),
            domains: values.list("domain"),
            region: values.text("region").unwrap_or_default(),
            tls,
            root,
            log: log_of(values),
            limits: limits_of(values)?,
            encryption,
            storage: storage_of(values)?,
            cloud: cloud_of(values)?,
            backup: backup_of(values)?,
        })
    }
}

fn log_of(values: &Values) -> LogConfig {
    LogConfig {
        format: if values.is("log.format", "json") {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
        level: values.text("log.level").unwrap_or_default(),
        access: match values.text("log.access").as_deref() {
            Some("off") => AccessLog::Off,
            Some("all") => AccessLog::All,
            _ => AccessLog::Errors,
        },
    }
}

fn limits_of(values: &Values) -> Result<LimitsConfig, ConfigError> {
    Ok(LimitsConfig {
        connections: values.count("limits.connections")?,
        requests: values.count("limits.requests")?,
        queue_wait: values.duration("limits.queue_wait")?,
        buffered_body_bytes: values.size("limits.buffered_bodies")?,
        header_timeout: values.duration("limits.header_timeout")?,
        idle_timeout: values.duration("limits.idle_timeout")?,
        body_timeout: values.duration("limits.body_timeout")?,
        drain_timeout: values.duration("limits.drain_timeout")?,
    })
}

fn backup_of(values: &Values) -> Result<Option<BackupConfig>, ConfigError> {
    let Some(location) = values.location(&table::BACKUP)? else {
        return Ok(None);
    };
    Ok(Some(BackupConfig {
        location,
        window: values.duration("backup.window")?,
        log_max_bytes: values.size("backup.log_max")? as u64,
        checkpoint_log_bytes: values.size("backup.checkpoint_log")? as u64,
    }))
}

fn storage_of(values: &Values) -> Result<StorageConfig, ConfigError> {
    Ok(StorageConfig {
        compression: match values.text("storage.compression").as_deref() {
            Some("off") => CompressionChoice::Off,
            Some("fast") => CompressionChoice::Fast,
            Some("max") => CompressionChoice::Max,
            _ => CompressionChoice::Balanced,
        },
        memtable_bytes: values.size("storage.memtables")?,
        block_cache_bytes: values.size("storage.block_cache")?,
        buffer_bytes: values.size("storage.buffers")?,
        reserve_bytes: values.size("storage.reserve")? as u64,
        collect_interval: values.duration("storage.collect_interval")?,
        scrub_interval: values.duration("storage.scrub_interval")?,
    })
}

fn cloud_of(values: &Values) -> Result<Option<CloudConfig>, ConfigError> {
    let Some(location) = values.location(&table::CLOUD)? else {
        return Ok(None);
    };
    Ok(Some(CloudConfig {
        location,
        cache_bytes: values.size("cloud.cache")? as u64,
        takes_packs: values.is("cloud.new_packs", "cloud"),
        late: values.duration("cloud.late")?,
    }))
}

/// The program's arguments, its name first.
pub fn arguments() -> std::env::ArgsOs {
    std::env::args_os()
}

#[cfg(test)]
mod tests;
