//! Accepts connections and serves HTTP/1, HTTP/2 and TLS on them.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::io_watch::WatchedStream;
use super::reply::Refusal;
use super::service::{Gate, Via, Wire};
use super::state::{ConnectionState, Connections, Seat};
use super::tls::Tls;
use crate::limits::{
    CONNECTION_BUFFER_BYTES, H2_CONNECTION_WINDOW_BYTES, H2_CONNECTIONS_MAX, H2_STREAM_WINDOW_BYTES, H2_STREAMS_MAX,
    HEAD_BYTES_MAX, HEADERS_MAX, TURNED_AWAY_MAX,
};
use crate::telemetry::{HttpMetrics, Rejection};

/// Rest after a failed accept, which is mostly want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection over the limit may take to hear so.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);
/// The first bytes of HTTP/2 without TLS (RFC 9113, section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

pub struct Listener<W> {
    gate: Arc<Gate<W>>,
    connections: Arc<Connections>,
    metrics: Arc<HttpMetrics>,
    tls: Option<Arc<Tls>>,
    connections_max: usize,
    turned_away: Arc<Semaphore>,
    h2_places: Arc<Semaphore>,
    http1: hyper::server::conn::http1::Builder,
    http2: hyper::server::conn::http2::Builder<TokioExecutor>,
}

impl<W: Wire> Listener<W> {
    pub fn new(
        gate: Gate<W>,
        connections: Arc<Connections>,
        metrics: Arc<HttpMetrics>,
        tls: Option<Arc<Tls>>,
        connections_max: usize,
    ) -> Arc<Self> {
        let mut http1 = hyper::server::conn::http1::Builder::new();
        // Heads are timed by the sweep over all connections; a timer for each request would cost more than the parse.
        http1
            .header_read_timeout(None)
            .half_close(true)
            .max_buf_size(CONNECTION_BUFFER_BYTES)
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX));
        Arc::new(Self {
            gate: Arc::new(gate),
            connections,
            metrics,
            tls,
            connections_max,
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
            h2_places: Arc::new(Semaphore::new(H2_CONNECTIONS_MAX)),
            http1,
            http2,
        })
    }

    /// Accepts until it is dropped.
    pub async fn accept(self: Arc<Self>, socket: TcpListener) {
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    self.metrics.accepted.inc();
                    self.take(stream, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the connection is gone already");
            return;
        }
        if self.connections.len() >= self.connections_max {
            self.metrics.rejected(Rejection::Connections);
            if self.tls.is_none() {
                self.turn_away(stream);
            }
            return;
        }
        let (state, seat) = self.connections.enter();
        let id = seat.id();
        let this = Arc::clone(self);
        let via = Via { peer, state };
        let task = tokio::spawn(async move {
            if let Err(error) = this.serve(stream, via, &seat).await {
                tracing::debug!(%peer, %error, "the connection broke off");
            }
            drop(seat);
        });
        self.connections.attach(id, task.abort_handle());
    }

    /// Tells a client that there is no room, after its request's first bytes, so that it reads the answer.
    fn turn_away(&self, mut stream: TcpStream) {
        let Ok(place) = Arc::clone(&self.turned_away).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let told = async {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await?;
                stream.write_all(&Refusal::SlowDown.raw()).await?;
                stream.shutdown().await?;
                // What the client still sends is read, since closing on unread bytes would reset the answer away.
                while stream.read(&mut request).await? > 0 {}
                io::Result::Ok(())
            };
            let _ = tokio::time::timeout(TURN_AWAY_TIMEOUT, told).await;
            drop(place);
        });
    }

    async fn serve(self: &Arc<Self>, stream: TcpStream, via: Via, _seat: &Seat) -> Result<(), super::body::BoxError> {
        let state = Arc::clone(&via.state);
        let is_h2 = if self.tls.is_none() {
            let Some(is_h2) = unless_draining(&state, begins_http2(&stream)).await else {
                return Ok(());
            };
            is_h2?
        } else {
            false
        };
        let watched = WatchedStream::new(
            stream,
            Arc::clone(&state),
            Arc::clone(&self.connections),
            Arc::clone(&self.metrics),
        );
        let Some(tls) = &self.tls else {
            return self.speak(watched, via, is_h2).await;
        };
        match unless_draining(&via.state, tls.acceptor.accept(watched)).await {
            None => Ok(()),
            Some(Ok(stream)) => {
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.speak(stream, via, is_h2).await
            }
            Some(Err(error)) => {
                self.metrics.rejected(Rejection::Handshake);
                Err(error.into())
            }
        }
    }

    async fn speak<I>(self: &Arc<Self>, stream: I, via: Via, is_h2: bool) -> Result<(), super::body::BoxError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let gate = Arc::clone(&self.gate);
        let state = Arc::clone(&via.state);
        let service = service_fn(move |request| {
            let (gate, via) = (Arc::clone(&gate), via.clone());
            // Boxed, since hyper keeps room for the future as long as the connection lasts, idle or not.
            Box::pin(async move { Ok::<_, std::convert::Infallible>(gate.answer(via, request).await) })
        });
        let stream = TokioIo::new(stream);
        let mut draining = false;
        if is_h2 {
            let Ok(_place) = Arc::clone(&self.h2_places).try_acquire_owned() else {
                self.metrics.rejected(Rejection::Connections);
                return Ok(());
            };
            state.set_multiplexed();
            let mut connection = pin!(self.http2.serve_connection(stream, service));
            poll_fn(|cx| {
                if !draining && state.poll_draining(cx.waker()) {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(cx)
            })
            .await?;
        } else {
            let mut connection = pin!(self.http1.serve_connection(stream, service));
            poll_fn(|cx| {
                if !draining && state.poll_draining(cx.waker()) {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(cx)
            })
            .await?;
        }
        Ok(())
    }
}

/// What `first` gives; `None` when the connection is asked to end while it waits: nothing was asked on it yet.
async fn unless_draining<T>(state: &ConnectionState, first: impl Future<Output = T>) -> Option<T> {
    let mut first = pin!(first);
    poll_fn(|cx| {
        if let Poll::Ready(done) = first.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if state.poll_draining(cx.waker()) {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// Whether the client begins with HTTP/2's preface. Looks without taking; the head's timeout covers a client that sends
/// nothing.
async fn begins_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; H2_PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        let seen = first.get(..seen).unwrap_or_default();
        if seen.is_empty() || !H2_PREFACE.starts_with(seen) {
            return Ok(false);
        }
        if seen.len() == H2_PREFACE.len() {
            return Ok(true);
        }
        // The socket stays readable while a part of the preface lies in it, so that only time can tell.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
