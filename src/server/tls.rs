//! TLS with certificates that change under a running server.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read a certificate chain from {path}: {reason}")]
    Certificate { path: String, reason: String },
    #[error("cannot read a private key from {path}: {reason}")]
    Key { path: String, reason: String },
    #[error("the certificate and the key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The certificate in use.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

pub struct Tls {
    files: TlsConfig,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    pub acceptor: TlsAcceptor,
    reload: Notify,
}

impl Tls {
    /// Reads the certificate and the key; both must be good at the start.
    pub fn open(files: TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let current = Arc::new(Current(ArcSwap::from_pointee(load(&files, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        // The first that the client has as well. S3 itself speaks HTTP/1.1, on which transfers do not share a window.
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self {
            files,
            provider,
            current,
            acceptor,
            reload: Notify::new(),
        })
    }

    /// Reads the files again now, whether they changed or not.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Reads the files again whenever one of them changes. What is broken is logged, and the old one stays in use.
    pub async fn keep_current(&self) {
        let mut seen = self.stamps().await;
        loop {
            let forced = tokio::time::timeout(POLL_INTERVAL, self.reload.notified())
                .await
                .is_ok();
            let stamps = self.stamps().await;
            if !forced && stamps == seen {
                continue;
            }
            seen = stamps;
            let (files, provider) = (self.files.clone(), Arc::clone(&self.provider));
            match tokio::task::spawn_blocking(move || load(&files, &provider)).await {
                Ok(Ok(fresh)) => {
                    self.current.0.store(Arc::new(fresh));
                    tracing::info!(cert = %self.files.cert.display(), "the TLS certificate was reloaded");
                }
                Ok(Err(error)) => tracing::error!(%error, "the new TLS certificate is not usable; the old one stays"),
                Err(error) => tracing::error!(%error, "reading the TLS certificate failed; the old one stays"),
            }
        }
    }

    async fn stamps(&self) -> [Option<(SystemTime, u64)>; 2] {
        [stamp(&self.files.cert).await, stamp(&self.files.key).await]
    }
}

async fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let data = tokio::fs::metadata(path).await.ok()?;
    Some((data.modified().ok()?, data.len()))
}

fn load(files: &TlsConfig, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let certificate = |reason: String| TlsError::Certificate {
        path: files.cert.display().to_string(),
        reason,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|error| certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(certificate("it holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::Key {
        path: files.key.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}
