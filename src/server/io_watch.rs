//! The socket, watched: counts its bytes and notes since when a head is being sent or nothing can be written.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::state::{ConnectionState, Connections};
use crate::telemetry::HttpMetrics;

pub struct WatchedStream {
    stream: TcpStream,
    state: Arc<ConnectionState>,
    connections: Arc<Connections>,
    metrics: Arc<HttpMetrics>,
}

impl WatchedStream {
    pub fn new(
        stream: TcpStream,
        state: Arc<ConnectionState>,
        connections: Arc<Connections>,
        metrics: Arc<HttpMetrics>,
    ) -> Self {
        Self {
            stream,
            state,
            connections,
            metrics,
        }
    }

    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        match outcome {
            Poll::Ready(Ok(bytes)) => {
                self.state.write_moved();
                self.metrics.network_sent.inc_by(*bytes as u64);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.state.write_blocked(self.connections.now()),
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let bytes = buf.filled().len() - before;
        if bytes > 0 {
            self.metrics.network_received.inc_by(bytes as u64);
            if self.state.awaits_head() && !self.connections.receive_head(&self.state, bytes) {
                return Poll::Ready(Err(io::Error::other("too many large heads are being received")));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
