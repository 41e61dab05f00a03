//! One request from its head to the last byte of its answer: its id, its place among those in flight, and what is
//! counted and logged when it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{HeaderValue, Method, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::body::Progress;
use super::state::{ConnectionState, Connections};
use crate::telemetry::{HttpMetrics, Operation};

/// A request's name, in the client's headers and in our log: 16 hexadecimal digits.
#[derive(Clone, Copy)]
pub struct RequestId([u8; 16]);

impl RequestId {
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or(HeaderValue::from_static("-"))
    }
}

/// Gives every request of the process another id.
pub struct RequestIds(AtomicU64);

impl RequestIds {
    /// Ids that begin at a random place.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed)?;
        Ok(Self(AtomicU64::new(u64::from_le_bytes(seed))))
    }

    pub fn next(&self) -> RequestId {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        // Finalizer of SplitMix64 (Steele et al., OOPSLA 2014): one to one, so that no id comes twice.
        let mut mixed = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        RequestId(std::array::from_fn(|place| {
            let digit = (mixed >> (60 - 4 * place)) & 0xF;
            DIGITS.get(digit as usize).copied().unwrap_or(b'0')
        }))
    }
}

/// What the log says about a request, kept only when the log may want it.
pub struct LogLine {
    pub id: RequestId,
    pub method: Method,
    pub path: String,
    pub peer: SocketAddr,
    /// Whether requests without a server error are logged as well.
    pub always: bool,
}

pub struct Record {
    started: Instant,
    operation: Operation,
    status: StatusCode,
    sent: u64,
    /// Whether it is the client's turn, on a multiplexed connection.
    is_given: bool,
    failed: bool,
    progress: Option<Arc<Progress>>,
    metrics: Arc<HttpMetrics>,
    connections: Arc<Connections>,
    state: Arc<ConnectionState>,
    line: Option<Box<LogLine>>,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Record {
    pub fn start(
        operation: Operation,
        metrics: Arc<HttpMetrics>,
        connections: Arc<Connections>,
        state: Arc<ConnectionState>,
        line: Option<Box<LogLine>>,
    ) -> Self {
        state.request_started();
        metrics.in_flight.inc();
        Self {
            started: Instant::now(),
            operation,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            sent: 0,
            is_given: false,
            failed: false,
            progress: None,
            metrics,
            connections,
            state,
            line,
            _permits: [None, None],
        }
    }

    pub fn admit(&mut self, permits: [Option<OwnedSemaphorePermit>; 2]) {
        self._permits = permits;
    }

    pub fn set_progress(&mut self, progress: Arc<Progress>) {
        self.progress = Some(progress);
    }

    pub fn body_timed_out(&self) -> bool {
        self.progress.as_ref().is_some_and(|progress| progress.timed_out())
    }

    pub fn answered(&mut self, status: StatusCode) {
        self.status = status;
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.state.is_multiplexed() {
            self.is_given = true;
            self.state.answer_given(self.connections.now());
        }
    }

    /// More of the answer is asked for.
    pub fn asked(&mut self) {
        if std::mem::take(&mut self.is_given) {
            self.state.answer_taken(self.connections.now());
        }
    }

    /// The answer's body broke off after its head was sent.
    pub fn failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.failed = true;
        self.metrics.aborted.inc();
        let id = self.line.as_ref().map(|line| line.id);
        let id = id.as_ref().map_or("-", RequestId::as_str);
        tracing::error!(request = id, operation = self.operation.name(), %error, "an answer broke off");
    }

    fn log(&self, line: &LogLine, took_us: u128, received: u64) {
        let LogLine {
            id, method, path, peer, ..
        } = line;
        let status = self.status.as_u16();
        let (id, operation, sent) = (id.as_str(), self.operation.name(), self.sent);
        if self.status.is_server_error() || self.failed {
            tracing::warn!(target: "cairn::access", request = id, %peer, %method, path, operation, status, took_us, received, sent);
        } else if line.always {
            tracing::info!(target: "cairn::access", request = id, %peer, %method, path, operation, status, took_us, received, sent);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.asked();
        let took = self.started.elapsed();
        let received = self.progress.as_ref().map_or(0, |progress| progress.bytes());
        self.metrics.in_flight.dec();
        self.metrics
            .answered(self.operation, self.status, took, received, self.sent);
        self.state.request_ended(self.connections.now());
        if let Some(line) = &self.line {
            self.log(line, took.as_micros(), received);
        }
    }
}
