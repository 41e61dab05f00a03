//! The network side as one thing: both listeners, the sweep over connections, certificates, and the way it ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::Registry;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use super::listener::Listener;
use super::service::{Gate, Wire};
use super::state::{Connections, Timeouts};
use super::tls::{Tls, TlsError};
use crate::admin::{Admin, Backend};
use crate::config::Config;
use crate::shutdown::{Event, Signals};
use crate::telemetry::HttpMetrics;

/// Connections that the kernel keeps waiting for `accept`.
const BACKLOG: u32 = 1024;

#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("the operating system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Both listeners, bound and not yet served, so that a port in use is known before any store is opened.
pub struct Sockets {
    s3: TcpListener,
    admin: TcpListener,
}

impl Sockets {
    pub fn bind(config: &Config) -> Result<Self, FrontError> {
        Ok(Self {
            s3: listen(config.listen)?,
            admin: listen(config.admin_listen)?,
        })
    }

    /// Where the S3 listener and the admin listener are, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.s3.local_addr()?, self.admin.local_addr()?))
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, FrontError> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| FrontError::Listen { address, source })
}

/// Serves until a signal asks to stop, then drains. The stores are still open when it returns.
pub async fn serve<W: Wire>(
    config: &Config,
    sockets: Sockets,
    wire: W,
    backend: Arc<dyn Backend>,
    registry: Registry,
) -> Result<(), FrontError> {
    let mut signals = Signals::listen().map_err(FrontError::Signals)?;
    let metrics = Arc::new(HttpMetrics::new(&registry)?);
    let connections = Connections::new(Arc::clone(&metrics));
    let tls = config.tls.clone().map(Tls::open).transpose()?.map(Arc::new);
    let admin = Admin::new(backend, registry)?;
    let limits = &config.limits;
    let gate = Gate::new(
        wire,
        limits,
        config.log.access,
        &config.domains,
        Arc::clone(&metrics),
        Arc::clone(&connections),
    );
    let gate = gate.map_err(FrontError::Random)?;
    let listener = Listener::new(gate, Arc::clone(&connections), metrics, tls.clone(), limits.connections);
    let timeouts = Timeouts {
        head: limits.header_timeout,
        idle: limits.idle_timeout,
        body: limits.body_timeout,
    };

    let mut accepting = JoinSet::new();
    accepting.spawn(listener.accept(sockets.s3));
    let mut background = JoinSet::new();
    background.spawn(Arc::clone(&admin).accept(sockets.admin));
    let swept = Arc::clone(&connections);
    background.spawn(async move { swept.keep_timeouts(timeouts).await });
    if let Some(tls) = tls.clone() {
        background.spawn(async move { tls.keep_current().await });
    }
    while signals.next().await == Event::Reload {
        tracing::info!("asked to reload");
        if let Some(tls) = &tls {
            tls.reload();
        }
    }
    tracing::info!(
        connections = connections.len(),
        "stopping: no new connections, finishing what is in flight"
    );
    admin.set_draining();
    accepting.shutdown().await;
    let cut_off = tokio::select! {
        cut_off = connections.drain(limits.drain_timeout) => cut_off,
        _ = async { while signals.next().await == Event::Reload {} } => connections.drain(std::time::Duration::ZERO).await,
    };
    if cut_off > 0 {
        tracing::warn!(connections = cut_off, "connections were cut off");
    }
    background.shutdown().await;
    Ok(())
}
