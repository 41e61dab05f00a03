//! An endpoint under load, and what the workers of a run share.

use std::sync::atomic::AtomicU64;

use crate::args::{Load, Payload};
use crate::body::{Content, FILLED};
use crate::http::Peer;
use crate::sign::Signer;

/// Bodies from here on are sent as signed chunks unless asked otherwise.
const CHUNKED_FROM_BYTES: u64 = 64 << 10;
/// Marks the number of a body that is sent again and again, with `--duplicate-ratio`.
pub const REPEATED: u64 = 1 << 62;

pub struct Plan {
    pub load: Load,
    pub content: Content,
    pub payload: Payload,
}

impl Plan {
    pub fn new(load: Load, run: u64) -> Self {
        let content = Content::new(load.compressible, run);
        let body_bytes = if load.op == crate::args::Op::Multipart {
            load.part_size
        } else {
            load.size
        };
        let default = if body_bytes < CHUNKED_FROM_BYTES {
            Payload::Signed
        } else {
            Payload::Chunked
        };
        let payload = load.payload.unwrap_or(default);
        Self { load, content, payload }
    }

    pub fn keys(&self) -> u64 {
        self.load.keys.unwrap_or(1000).max(1)
    }

    /// The number of an object made beforehand; of other sizes are other objects.
    pub fn filled_object(&self, index: u64) -> u64 {
        FILLED | (self.load.size.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40 << 36) | index
    }

    /// The path of an object made beforehand.
    pub fn filled_path(&self, index: u64, out: &mut String) {
        use std::fmt::Write;
        out.clear();
        let load = &self.load;
        let written = if load.deep {
            let (top, folder) = (index / 10_000, index / 100);
            write!(
                out,
                "/{}/{}{top:05}/{folder:07}/{index:09}",
                load.bucket, load.key_prefix
            )
        } else {
            write!(out, "/{}/{}{index:09}", load.bucket, load.key_prefix)
        };
        debug_assert!(written.is_ok());
    }
}

pub struct Site {
    pub label: &'static str,
    pub endpoint: String,
    pub peer: Peer,
    pub pid: Option<String>,
    access_key: String,
    secret_key: String,
    region: String,
    /// The next new object.
    pub sequence: AtomicU64,
    /// The next object to fill or to delete.
    pub cursor: AtomicU64,
    /// Operations begun, for `--count`.
    pub begun: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("'{0}' is not http://HOST:PORT or https://HOST:PORT")]
    Endpoint(String),
    #[error("an https endpoint needs --tls-insecure: this tool checks no certificates")]
    NeedsInsecure,
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Site {
    pub fn first(load: &Load) -> Result<Self, SiteError> {
        Self::new(
            "server",
            load,
            &load.endpoint,
            &load.access_key,
            &load.secret_key,
            load.server_pid,
        )
    }

    pub fn second(load: &Load) -> Result<Option<Self>, SiteError> {
        let Some(endpoint) = &load.against else {
            return Ok(None);
        };
        let access_key = load.against_access_key.as_ref().unwrap_or(&load.access_key);
        let secret_key = load.against_secret_key.as_ref().unwrap_or(&load.secret_key);
        Self::new("against", load, endpoint, access_key, secret_key, load.against_pid).map(Some)
    }

    fn new(
        label: &'static str,
        load: &Load,
        endpoint: &str,
        access_key: &str,
        secret_key: &str,
        pid: Option<u32>,
    ) -> Result<Self, SiteError> {
        let (scheme, host) = endpoint
            .split_once("://")
            .ok_or_else(|| SiteError::Endpoint(endpoint.to_owned()))?;
        let host = host.trim_end_matches('/').to_owned();
        let tls = match scheme {
            "http" => None,
            "https" if load.tls_insecure => Some(crate::tls::insecure()?),
            "https" => return Err(SiteError::NeedsInsecure),
            _ => return Err(SiteError::Endpoint(endpoint.to_owned())),
        };
        if !host.contains(':') {
            return Err(SiteError::Endpoint(endpoint.to_owned()));
        }
        Ok(Self {
            label,
            endpoint: endpoint.to_owned(),
            peer: Peer { host, tls },
            pid: pid.map(|pid| pid.to_string()),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            region: load.region.clone(),
            sequence: AtomicU64::new(0),
            cursor: AtomicU64::new(0),
            begun: AtomicU64::new(0),
        })
    }

    pub fn signer(&self) -> Signer {
        Signer::new(&self.access_key, &self.secret_key, &self.region, &self.peer.host)
    }
}
