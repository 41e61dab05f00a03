//! The one table of settings. The file's keys, the environment's variables, the flags, `cairn config` and the table in
//! README.md are all made from it.

/// What a setting's text must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A file or directory.
    Path,
    /// `ADDRESS:PORT`.
    Address,
    /// Bytes with a unit.
    Size {
        min: u64,
        max: u64,
    },
    /// A time with a unit, in milliseconds.
    Duration {
        min_ms: u64,
        max_ms: u64,
    },
    Count {
        min: u64,
        max: u64,
    },
    Choice(&'static [&'static str]),
    Switch,
    /// Several values: an array in the file, separated by commas in the environment, the flag repeated.
    List,
    /// Like text, and never printed.
    Secret,
}

/// One setting. An empty default means: not set.
#[derive(Debug)]
pub struct Setting {
    /// Its place in the file; a dot stands for a TOML table.
    pub key: &'static str,
    pub flag: Option<&'static str>,
    pub default: &'static str,
    pub kind: Kind,
    pub meaning: &'static str,
}

impl Setting {
    /// The variable that sets it: `CAIRN_` and the key in capitals.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.to_ascii_uppercase().replace('.', "_"))
    }
}

pub const VARIABLE_PREFIX: &str = "CAIRN_";
/// Names the configuration file; not a setting itself, since a file cannot name itself.
pub const FILE_VARIABLE: &str = "CAIRN_CONFIG";

const fn setting(key: &'static str, default: &'static str, kind: Kind, meaning: &'static str) -> Setting {
    Setting {
        key,
        flag: None,
        default,
        kind,
        meaning,
    }
}

const fn flagged(
    key: &'static str,
    flag: &'static str,
    default: &'static str,
    kind: Kind,
    meaning: &'static str,
) -> Setting {
    Setting {
        key,
        flag: Some(flag),
        default,
        kind,
        meaning,
    }
}

/// The keys of a group of settings that tell a place for blobs.
pub struct LocationKeys {
    pub url: &'static str,
    pub endpoint: &'static str,
    pub region: &'static str,
    pub access_key: &'static str,
    pub secret_key: &'static str,
}

pub const CLOUD: LocationKeys = LocationKeys {
    url: "cloud.url",
    endpoint: "cloud.endpoint",
    region: "cloud.region",
    access_key: "cloud.access_key",
    secret_key: "cloud.secret_key",
};

pub const BACKUP: LocationKeys = LocationKeys {
    url: "backup.url",
    endpoint: "backup.endpoint",
    region: "backup.region",
    access_key: "backup.access_key",
    secret_key: "backup.secret_key",
};

/// The settings of such a group, `meaning` of its URL.
const fn location(keys: &LocationKeys, meaning: &'static str) -> [Setting; 5] {
    [
        setting(keys.url, "", Kind::Text, meaning),
        setting(
            keys.endpoint,
            "",
            Kind::Text,
            "URL of the S3 server, for `s3://`; AWS if not set",
        ),
        setting(
            keys.region,
            "us-east-1",
            Kind::Text,
            "region of the bucket, for `s3://`",
        ),
        setting(
            keys.access_key,
            "",
            Kind::Text,
            "access key for `s3://`, user for `webdav+http(s)://`",
        ),
        setting(
            keys.secret_key,
            "",
            Kind::Secret,
            "secret key for `s3://`, password for `webdav+http(s)://`",
        ),
    ]
}

const SHORT: Kind = Kind::Duration {
    min_ms: 100,
    max_ms: 3_600_000,
};
const LONG: Kind = Kind::Duration {
    min_ms: 1_000,
    max_ms: 366 * 24 * 3_600_000,
};
const CONNECTIONS: Kind = Kind::Count { min: 1, max: 1_000_000 };
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const CLOUD_PLACE: [Setting; 5] = location(
    &CLOUD,
    "where packs go besides the data directory: `s3://BUCKET/PREFIX`, `webdav+https://HOST/PATH`, `webdav+http://HOST/PATH` or `file:///DIRECTORY`",
);

const CLOUD_SETTINGS: &[Setting] = &[
    setting(
        "cloud.cache",
        "1GiB",
        Kind::Size {
            min: 0,
            max: 1024 * 1024 * GIB,
        },
        "disk space below the data directory for what was read from the cloud; 0B: none",
    ),
    setting(
        "cloud.new_packs",
        "cloud",
        Kind::Choice(&["cloud", "local"]),
        "where new packs go if `cloud.url` is set",
    ),
    setting(
        "cloud.late",
        "15min",
        LONG,
        "how long a put that failed may still happen at the server: only then what it may have left is removed, or its name used again",
    ),
];

const BACKUP_PLACE: [Setting; 5] = location(
    &BACKUP,
    "where a backup of everything is kept up to date: `s3://BUCKET/PREFIX`, `webdav+https://HOST/PATH`, `webdav+http://HOST/PATH` or `file:///DIRECTORY`; no backup if not set",
);

const BACKUP_SETTINGS: &[Setting] = &[
    setting(
        "backup.window",
        "7d",
        LONG,
        "how long back a restore reaches; what was deleted stays in the backup for as long",
    ),
    setting(
        "backup.log_max",
        "1GiB",
        Kind::Size {
            min: MIB,
            max: 1024 * GIB,
        },
        "commit log that is kept for a backup that cannot be reached; with more, the backup begins anew once it can",
    ),
    setting(
        "backup.checkpoint_log",
        "1GiB",
        Kind::Size {
            min: MIB,
            max: 1024 * GIB,
        },
        "commit log after which the backup gets all metadata once more, so that a restore has no more to replay",
    ),
];

/// Every setting, in the order in which they are shown.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    let (cloud, backup) = (CLOUD_PLACE.iter(), BACKUP_PLACE.iter());
    SETTINGS
        .iter()
        .chain(cloud)
        .chain(CLOUD_SETTINGS)
        .chain(backup)
        .chain(BACKUP_SETTINGS)
}

const SETTINGS: &[Setting] = &[
    flagged(
        "data",
        "data",
        "cairn-data",
        Kind::Path,
        "directory that holds everything; one process at a time",
    ),
    flagged(
        "listen",
        "listen",
        "127.0.0.1:9000",
        Kind::Address,
        "address and port of the S3 API",
    ),
    flagged(
        "admin_listen",
        "admin-listen",
        "127.0.0.1:9001",
        Kind::Address,
        "address and port of health, metrics and usage",
    ),
    setting(
        "admin_exposed",
        "false",
        Kind::Switch,
        "let the admin listener leave the loopback interface; it asks for no credentials",
    ),
    flagged(
        "identities",
        "identities",
        "",
        Kind::Path,
        "TOML file of the identities besides root",
    ),
    flagged(
        "domain",
        "domain",
        "",
        Kind::List,
        "base domains for virtual-host-style requests (`BUCKET.DOMAIN`)",
    ),
    setting(
        "region",
        "us-east-1",
        Kind::Text,
        "region that buckets are in by default",
    ),
    flagged(
        "tls.cert",
        "tls-cert",
        "",
        Kind::Path,
        "PEM certificate chain; with `tls.key` turns HTTPS on; re-read when it changes and on SIGHUP",
    ),
    flagged("tls.key", "tls-key", "", Kind::Path, "PEM private key"),
    setting(
        "root.access_key",
        "",
        Kind::Text,
        "replaces the generated root access key",
    ),
    setting(
        "root.secret_key",
        "",
        Kind::Secret,
        "replaces the generated root secret key",
    ),
    setting(
        "log.format",
        "text",
        Kind::Choice(&["text", "json"]),
        "form of log lines",
    ),
    setting(
        "log.level",
        "info",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        "least severe line that is logged",
    ),
    setting(
        "log.access",
        "errors",
        Kind::Choice(&["off", "errors", "all"]),
        "requests that are logged: none, those answered with 5xx, or all",
    ),
    setting(
        "limits.connections",
        "4096",
        CONNECTIONS,
        "open connections; more are answered 503 SlowDown",
    ),
    setting(
        "limits.requests",
        "512",
        CONNECTIONS,
        "requests being served at once; more wait in line",
    ),
    setting(
        "limits.queue_wait",
        "10s",
        SHORT,
        "time in line after which a request is answered 503 SlowDown",
    ),
    setting(
        "limits.buffered_bodies",
        "64MiB",
        Kind::Size {
            min: 16 * MIB,
            max: 64 * GIB,
        },
        "bytes of XML bodies and of signed chunks in memory at once",
    ),
    setting(
        "limits.header_timeout",
        "15s",
        SHORT,
        "time for a request's head, and for a TLS handshake",
    ),
    setting(
        "limits.idle_timeout",
        "90s",
        SHORT,
        "time that an idle connection is kept",
    ),
    setting(
        "limits.body_timeout",
        "30s",
        SHORT,
        "time without a byte of the request's body, or of the response taken",
    ),
    setting(
        "limits.drain_timeout",
        "30s",
        SHORT,
        "time that requests in flight get at SIGTERM",
    ),
    flagged(
        "encryption.key_file",
        "key-file",
        "",
        Kind::Path,
        "file of the master keys, the one to use first, outside of the data directory; with it everything that is written from now on is encrypted",
    ),
    setting(
        "encryption.key",
        "",
        Kind::Secret,
        "the same keys without a file, behind commas",
    ),
    setting(
        "storage.compression",
        "balanced",
        Kind::Choice(&["off", "fast", "balanced", "max"]),
        "how chunks are compressed where the bucket's tags do not say: not at all, LZ4, zstd, or zstd at a high level",
    ),
    setting(
        "storage.memtables",
        "40MiB",
        Kind::Size {
            min: 8 * MIB,
            max: 16 * GIB,
        },
        "memory for metadata not yet written to tables",
    ),
    setting(
        "storage.block_cache",
        "32MiB",
        Kind::Size {
            min: MIB,
            max: 64 * GIB,
        },
        "memory for metadata that was read",
    ),
    setting(
        "storage.buffers",
        "64MiB",
        Kind::Size {
            min: 16 * MIB,
            max: 64 * GIB,
        },
        "memory for object bytes on their way, over all requests",
    ),
    setting(
        "storage.reserve",
        "256MiB",
        Kind::Size {
            min: 0,
            max: 1024 * GIB,
        },
        "disk space that is held back, so that a full disk can be emptied; uploads are refused while it cannot be held; 0B: none",
    ),
    setting(
        "storage.collect_interval",
        "10s",
        SHORT,
        "pause between two looks for space to give back",
    ),
    setting(
        "storage.scrub_interval",
        "30d",
        LONG,
        "every stored byte is read and verified once in this time",
    ),
];

/// The table as README.md shows it.
pub fn markdown() -> String {
    let mut out = String::from("| key in the file | variable | flag | default | meaning |\n|---|---|---|---|---|\n");
    for setting in settings() {
        let flag = setting.flag.map(|flag| format!("`--{flag}`")).unwrap_or_default();
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", setting.default)
        };
        let meaning = match setting.kind {
            Kind::Choice(choices) => format!("{} ({})", setting.meaning, choices.join(", ")),
            _ => setting.meaning.to_owned(),
        };
        let row = format!(
            "| `{}` | `{}` | {flag} | {default} | {meaning} |\n",
            setting.key,
            setting.variable()
        );
        out.push_str(&row);
    }
    out
}
