//! The admin listener: health, metrics and usage over HTTP. It asks for no credentials, so it stays on the loopback
//! interface unless the operator says otherwise.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::header::{ALLOW, CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

mod check;
mod gc;
mod keys;
mod migrate;
mod scrub;
mod usage;

pub use crate::backup::BackupStatus;
pub use check::{CheckLine, CheckReport, Repaired};
pub use gc::{GcDebt, GcLast, GcPack, GcReport, GcResumed, GcRun, GcState, GcStop, GcStuck};
pub use keys::{KeysReport, RotationReport};
pub use migrate::MigrateReport;
pub use scrub::ScrubReport;
pub use usage::{BucketUsage, Recount, UsageReport};

use crate::limits::ADMIN_CONNECTIONS_MAX;
use crate::object::CheckProgress;
use crate::telemetry::ProcessMetrics;

/// The paths that change something.
const RESUME: &str = "/v1/gc/resume";
const ROTATE: &str = "/v1/keys/rotate";
/// How the move of the packs stands, and with POST, the order to move them.
const MIGRATE: &str = "/v1/migrate";
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two lines on how far a check has come.
const TELL_EVERY: Duration = Duration::from_millis(500);

type Body = UnsyncBoxBody<Bytes, Infallible>;

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

    /// Compares everything, and with `read_data` reads every byte: takes as long as the store is large. Dropping it ends it.
    async fn check(&self, read_data: bool, progress: &CheckProgress) -> Result<CheckReport, String>;

    /// How the backup stands.
    fn backup(&self) -> BackupStatus;

    /// How the scrub stands and what it found.
    async fn scrub(&self) -> Result<ScrubReport, String>;

    /// Whether the store is encrypted, and with which master key.
    async fn keys(&self) -> Result<KeysReport, String>;

    /// Wraps the store's key with the first of the keys that are given, as the file has them now.
    async fn rotate_key(&self) -> Result<RotationReport, String>;

    /// How collection stands.
    async fn gc(&self) -> Result<GcReport, String>;

    /// Lets collection go on that was stopped.
    async fn resume_gc(&self) -> Result<GcResumed, String>;
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
    /// Held by the one check at a time.
    checking: Arc<Mutex<()>>,
}

impl Admin {
    pub fn new(backend: Arc<dyn Backend>, registry: Registry) -> Result<Arc<Self>, prometheus::Error> {
        let process = Arc::new(ProcessMetrics::new(&registry)?);
        Ok(Arc::new(Self {
            backend,
            registry,
            process,
            draining: AtomicBool::new(false),
            checking: Arc::default(),
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

    /// A POST to a path that changes something.
    async fn change(&self, request: &Request<Incoming>) -> Response<Body> {
        // A page in a browser on this machine can post here as well, and then says where it is from.
        if request.headers().contains_key(ORIGIN) {
            return text(StatusCode::FORBIDDEN, "not from a browser\n".to_owned());
        }
        match (request.uri().path(), request.uri().query()) {
            (RESUME, _) => json(self.backend.resume_gc().await),
            (ROTATE, _) => json(self.backend.rotate_key().await),
            (_, Some("to=cloud")) => json(self.backend.migrate(true).await),
            (_, Some("to=local")) => json(self.backend.migrate(false).await),
            _ => text(StatusCode::BAD_REQUEST, "say to=cloud or to=local\n".to_owned()),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if *request.method() == Method::POST && [RESUME, ROTATE, MIGRATE].contains(&path) {
            return self.change(request).await;
        }
        let changes = path == RESUME || path == ROTATE;
        if changes || (*request.method() != Method::GET && *request.method() != Method::HEAD) {
            let allowed = match path {
                RESUME | ROTATE => "POST",
                MIGRATE => "GET, HEAD, POST",
                _ => "GET, HEAD",
            };
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("only {allowed} is served here\n"),
            );
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return response;
        }
        match path {
            "/health/live" => text(StatusCode::OK, "live\n".to_owned()),
            "/health/ready" => self.ready(),
            "/metrics" => self.metrics().await,
            "/v1/usage" => json(self.backend.usage().await),
            "/v1/recount" => json(self.backend.recount().await),
            "/v1/check" => match request.uri().query() {
                None => self.check(false),
                Some("read_data") => self.check(true),
                Some(_) => text(StatusCode::BAD_REQUEST, "the one option is read_data\n".to_owned()),
            },
            "/v1/keys" => json(self.backend.keys().await),
            "/v1/scrub" => json(self.backend.scrub().await),
            "/v1/backup" => json(Ok(self.backend.backup())),
            "/v1/gc" => json(self.backend.gc().await),
            MIGRATE => json(self.backend.migration().await),
            _ => text(
                StatusCode::NOT_FOUND,
                "known here: /health/live /health/ready /metrics /v1/usage /v1/recount /v1/scrub /v1/check /v1/gc /v1/keys /v1/backup /v1/migrate, and POST to /v1/gc/resume /v1/keys/rotate /v1/migrate\n"
                    .to_owned(),
            ),
        }
    }

    /// Checks while the answer is read: a line every half a second, then the one with the report. A client that goes away
    /// ends the check.
    fn check(&self, read_data: bool) -> Response<Body> {
        let Ok(one) = Arc::clone(&self.checking).try_lock_owned() else {
            let told = "a check is under way already: it ends when it is done, or with the one who asked for it\n";
            return text(StatusCode::CONFLICT, told.to_owned());
        };
        let progress = Arc::new(CheckProgress::default());
        let (backend, seen) = (Arc::clone(&self.backend), Arc::clone(&progress));
        let work = async move {
            let _one = one;
            backend.check(read_data, &seen).await
        };
        let lines = futures::stream::unfold(Some(work.boxed()), move |work| {
            let progress = Arc::clone(&progress);
            async move {
                let mut work = work?;
                match tokio::time::timeout(TELL_EVERY, &mut work).await {
                    Ok(Ok(report)) => Some((CheckLine::Report(Box::new(report)).encode(), None)),
                    Ok(Err(error)) => Some((CheckLine::Error(error).encode(), None)),
                    Err(_) => Some((CheckLine::Progress(progress.now()).encode(), Some(work))),
                }
            }
        });
        let frames = lines.map(|line| Ok(Frame::data(line)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let kind = HeaderValue::from_static("application/x-ndjson");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    fn ready(&self) -> Response<Body> {
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

    async fn metrics(&self) -> Response<Body> {
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

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(answer: Result<impl Serialize, String>) -> Response<Body> {
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
            let mut response = Response::new(full(body));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests;
