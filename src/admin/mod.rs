//! The admin listener: health, metrics and usage over HTTP. It asks for no credentials, so it stays on the loopback
//! interface unless the operator says otherwise.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

mod check;
mod migrate;
mod scrub;
mod usage;

pub use check::{CheckReport, Repaired};
pub use migrate::MigrateReport;
pub use scrub::ScrubReport;
pub use usage::{BucketUsage, Recount, UsageReport};

use crate::limits::ADMIN_CONNECTIONS_MAX;
use crate::telemetry::ProcessMetrics;

/// On every request that changes something. A page in a browser on this machine cannot send it without being asked first
/// (<https://fetch.spec.whatwg.org/#cors-preflight-fetch>).
pub const ORDER_HEADER: &str = "cairn-order";
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin listener asks of the stores.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Whether reads and writes can be served; the error says why not.
    fn health(&self) -> Result<(), String>;

    /// What is wrong although requests are served: some data cannot be read.
    fn degraded(&self) -> Option<String>;

    async fn usage(&self) -> Result<UsageReport, String>;

    /// Reads every row and compares: takes as long as the store is large.
    async fn recount(&self) -> Result<Recount, String>;

    /// Compares everything, and with `read_data` reads every byte: takes as long as the store is large.
    async fn check(&self, read_data: bool) -> Result<CheckReport, String>;

    /// How the scrub stands and what it found.
    async fn scrub(&self) -> Result<ScrubReport, String>;

    /// Where the packs are, and how their move stands.
    async fn migration(&self) -> Result<MigrateReport, String>;

    /// Wants all packs in the cloud, or in the data directory.
    async fn migrate(&self, to_cloud: bool) -> Result<MigrateReport, String>;

    /// Brings metrics up to date that are computed when they are asked for.
    async fn refresh_metrics(&self);
}

pub struct Admin {
    backend: Arc<dyn Backend>,
    registry: Registry,
    process: Arc<ProcessMetrics>,
    draining: AtomicBool,
}

impl Admin {
    pub fn new(backend: Arc<dyn Backend>, registry: Registry) -> Result<Arc<Self>, prometheus::Error> {
        let process = Arc::new(ProcessMetrics::new(&registry)?);
        Ok(Arc::new(Self {
            backend,
            registry,
            process,
            draining: AtomicBool::new(false),
        }))
    }

    /// From now on `/health/ready` says that no more requests should be sent here.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Accepts until it is dropped, which ends its connections as well.
    pub async fn accept(self: Arc<Self>, socket: TcpListener) {
        let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = match socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let this = Arc::clone(&self);
            tasks.spawn(async move {
                let service = service_fn(move |request| {
                    let this = Arc::clone(&this);
                    async move { Ok::<_, Infallible>(this.answer(&request).await) }
                });
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_buf_size(16 * 1024);
                if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "an admin connection broke off");
                }
                drop(place);
            });
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if *request.method() == Method::POST && request.uri().path() == "/v1/migrate" {
            return match request.uri().query() {
                _ if !request.headers().contains_key(ORDER_HEADER) => text(
                    StatusCode::FORBIDDEN,
                    format!("an order needs the header {ORDER_HEADER}\n"),
                ),
                Some("to=cloud") => json(self.backend.migrate(true).await),
                Some("to=local") => json(self.backend.migrate(false).await),
                _ => text(StatusCode::BAD_REQUEST, "say to=cloud or to=local\n".to_owned()),
            };
        }
        if *request.method() != Method::GET && *request.method() != Method::HEAD {
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET is served here, and POST at /v1/migrate\n".to_owned(),
            );
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/health/live" => text(StatusCode::OK, "live\n".to_owned()),
            "/health/ready" => self.ready(),
            "/metrics" => self.metrics().await,
            "/v1/usage" => json(self.backend.usage().await),
            "/v1/recount" => json(self.backend.recount().await),
            "/v1/check" => match request.uri().query() {
                None => json(self.backend.check(false).await),
                Some("read_data") => json(self.backend.check(true).await),
                Some(_) => text(StatusCode::BAD_REQUEST, "the one option is read_data\n".to_owned()),
            },
            "/v1/scrub" => json(self.backend.scrub().await),
            "/v1/migrate" => json(self.backend.migration().await),
            _ => text(
                StatusCode::NOT_FOUND,
                "known here: /health/live /health/ready /metrics /v1/usage /v1/recount /v1/scrub /v1/check /v1/migrate\n"
                    .to_owned(),
            ),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        if self.draining.load(Relaxed) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
        }
        match self.backend.health() {
            Ok(()) => match self.backend.degraded() {
                None => text(StatusCode::OK, "ready\n".to_owned()),
                Some(what) => text(StatusCode::OK, format!("ready, but degraded: {what}\n")),
            },
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        self.backend.refresh_metrics().await;
        let (process, registry) = (Arc::clone(&self.process), self.registry.clone());
        let encoded = tokio::task::spawn_blocking(move || {
            process.refresh();
            TextEncoder::new()
                .encode_to_string(&registry.gather())
                .map_err(|error| error.to_string())
        });
        match encoded.await {
            Ok(Ok(page)) => {
                let mut response = text(StatusCode::OK, page);
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(answer: Result<impl Serialize, String>) -> Response<Full<Bytes>> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("this cannot be told: {error}\n"),
            );
        }
    };
    match serde_json::to_vec(&answer) {
        Ok(body) => {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
