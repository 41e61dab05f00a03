//! What stands around the S3 service: request ids, admission, timeouts of bodies, complete errors, metrics, the log.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, SERVER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::{BoxError, Content, RequestBody, ResponseBody};
use super::record::{LogLine, Record, RequestId, RequestIds};
use super::reply::{self, Refusal};
use super::state::{ConnectionState, Connections};
use crate::config::{AccessLog, LimitsConfig};
use crate::limits::{AWS_CHUNK_BYTES_MAX, ERROR_BODY_BYTES_MAX, XML_BODY_BYTES_MAX};
use crate::s3::Domains;
use crate::telemetry::{HttpMetrics, Operation, Rejection, Target, in_request};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
const PAYLOAD_DIGEST: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const HOST_ID: HeaderName = HeaderName::from_static("x-amz-id-2");
/// Bytes of one permit of the budget for buffered bodies.
const BUDGET_UNIT_BYTES: usize = 1024;

/// The S3 side: answers requests, with a watched body or with none.
pub trait Wire: Clone + Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static;

    fn without_body(
        self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Self::Body>, BoxError>> + Send;

    fn with_body(
        self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Self::Body>, BoxError>> + Send;
}

/// Shared by all connections.
pub struct Gate<W> {
    wire: W,
    ids: RequestIds,
    host_id: HeaderValue,
    /// `None`: no host names a bucket.
    domains: Option<Domains>,
    requests: Arc<Semaphore>,
    buffered: Arc<Semaphore>,
    queue_wait: Duration,
    body_timeout: Duration,
    access: AccessLog,
    metrics: Arc<HttpMetrics>,
    connections: Arc<Connections>,
}

/// The connection that a request came on.
#[derive(Clone)]
pub struct Via {
    pub peer: SocketAddr,
    pub state: Arc<ConnectionState>,
}

/// An answer without a body of the wire, or one with it.
type Answer<B> = (Response<()>, Content<B>);

impl<W: Wire> Gate<W> {
    pub fn new(
        wire: W,
        limits: &LimitsConfig,
        access: AccessLog,
        domains: &[String],
        metrics: Arc<HttpMetrics>,
        connections: Arc<Connections>,
    ) -> Result<Self, getrandom::Error> {
        let ids = RequestIds::new()?;
        let host_id = ids.next().header();
        Ok(Self {
            wire,
            ids,
            host_id,
            domains: Domains::new(domains),
            requests: Arc::new(Semaphore::new(limits.requests)),
            buffered: Arc::new(Semaphore::new(limits.buffered_body_bytes / BUDGET_UNIT_BYTES)),
            queue_wait: limits.queue_wait,
            body_timeout: limits.body_timeout,
            access,
            metrics,
            connections,
        })
    }

    pub async fn answer(self: Arc<Self>, via: Via, request: Request<Incoming>) -> Response<ResponseBody<W::Body>> {
        let id = self.ids.next();
        let operation = self.operation(&request);
        let (metrics, connections) = (Arc::clone(&self.metrics), Arc::clone(&self.connections));
        let line = self.log_line(id, &via, &request);
        let mut record = Record::start(operation, metrics, connections, via.state, line);
        let is_head = *request.method() == Method::HEAD;
        let resource = request.uri().path_and_query().cloned();
        let (head, content) = in_request(id.bytes(), self.served(request, operation, &mut record)).await;
        let (mut parts, ()) = head.into_parts();
        record.answered(parts.status);
        let failed = parts.status.is_client_error() || parts.status.is_server_error();
        let content = if failed && !is_head && reply::is_xml(&parts.headers) {
            let resource = resource.as_ref().map_or("/", |resource| resource.path());
            self.complete(content, &mut parts.headers, resource, id).await
        } else {
            content
        };
        parts.headers.insert(REQUEST_ID, id.header());
        parts.headers.insert(HOST_ID, self.host_id.clone());
        parts.headers.entry(SERVER).or_insert(HeaderValue::from_static("Cairn"));
        Response::from_parts(parts, ResponseBody::new(content, record))
    }

    async fn served(&self, request: Request<Incoming>, operation: Operation, record: &mut Record) -> Answer<W::Body> {
        if request.uri().path().starts_with("/-/") {
            return refuse(Refusal::NoSuchPage);
        }
        match self.admit(&request, operation).await {
            Ok(permits) => record.admit(permits),
            Err(why) => {
                self.metrics.rejected(why);
                return refuse(Refusal::SlowDown);
            }
        }
        // Boxed, so that those who wait in line have no room yet for what only comes behind it.
        let answer = if request.body().is_end_stream() {
            Box::pin(self.wire.clone().without_body(request)).await
        } else {
            let timeout = self.body_timeout;
            let (parts, body) = request.into_parts();
            let (body, progress) = RequestBody::new(body, timeout);
            record.set_progress(progress);
            Box::pin(self.wire.clone().with_body(Request::from_parts(parts, body))).await
        };
        if record.body_timed_out() {
            self.metrics.rejected(Rejection::SlowBody);
            return refuse(Refusal::RequestTimeout);
        }
        match answer {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                (Response::from_parts(parts, ()), Content::Stream(body))
            }
            Err(error) => {
                tracing::error!(%error, "the request was not answered");
                refuse(Refusal::Internal)
            }
        }
    }

    /// A place among the requests being served, waited for in line, and one for a body that will be held in memory.
    async fn admit(
        &self,
        request: &Request<Incoming>,
        operation: Operation,
    ) -> Result<[Option<OwnedSemaphorePermit>; 2], Rejection> {
        let place = match Arc::clone(&self.requests).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let waiting = Arc::clone(&self.requests).acquire_owned();
                let waited = tokio::time::timeout(self.queue_wait, waiting).await;
                waited.ok().and_then(Result::ok).ok_or(Rejection::Requests)?
            }
        };
        let held_bytes = held_bytes(request, operation);
        if held_bytes == 0 {
            return Ok([Some(place), None]);
        }
        let units = u32::try_from(held_bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
        let waiting = Arc::clone(&self.buffered).acquire_many_owned(units);
        let waited = tokio::time::timeout(self.queue_wait, waiting).await;
        let buffer = waited.ok().and_then(Result::ok).ok_or(Rejection::BufferedBodies)?;
        Ok([Some(place), Some(buffer)])
    }

    fn operation<B>(&self, request: &Request<B>) -> Operation {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let host = host
            .or_else(|| request.uri().authority().map(|authority| authority.as_str()))
            .unwrap_or_default();
        let bucket_in_host = self.domains.as_ref().is_some_and(|domains| domains.has_bucket(host));
        let target = Target::of(request.uri().path(), bucket_in_host);
        Operation::of(request.method(), target, request.uri().query(), request.headers())
    }

    fn log_line<B>(&self, id: RequestId, via: &Via, request: &Request<B>) -> Option<Box<LogLine>> {
        if self.access == AccessLog::Off {
            return None;
        }
        let always = self.access == AccessLog::All;
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        Some(Box::new(LogLine {
            id,
            method,
            path,
            peer: via.peer,
            always,
        }))
    }

    /// Reads the error document, which is in memory already, and adds to it what the client needs to report it.
    async fn complete(
        &self,
        content: Content<W::Body>,
        headers: &mut HeaderMap,
        resource: &str,
        id: RequestId,
    ) -> Content<W::Body> {
        let document = match content {
            Content::Whole(bytes) => bytes.unwrap_or_default(),
            Content::Stream(body) => {
                let known = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
                if known.is_none_or(|bytes| bytes > ERROR_BODY_BYTES_MAX) {
                    return Content::Stream(body);
                }
                body.collect()
                    .await
                    .map(|collected| collected.to_bytes())
                    .unwrap_or_default()
            }
        };
        let host_id = self.host_id.to_str().unwrap_or_default();
        let document = reply::complete_error(&document, resource, id.as_str(), host_id);
        reply::set_length(headers, document.len());
        Content::Whole(Some(document))
    }
}

/// Bytes of the body that s3s may hold before it hands them on: all of an XML document, one signed chunk of an upload.
fn held_bytes(request: &Request<Incoming>, operation: Operation) -> usize {
    let signed_chunks = |digest: &HeaderValue| digest.as_bytes().starts_with(b"STREAMING-AWS4-");
    let most = if request.body().is_end_stream() {
        0
    } else if operation.buffers_body(request.method()) {
        XML_BODY_BYTES_MAX
    } else if request.headers().get(PAYLOAD_DIGEST).is_some_and(signed_chunks) {
        AWS_CHUNK_BYTES_MAX
    } else {
        0
    };
    let bytes = request.body().size_hint().upper();
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    bytes.map_or(most, |bytes| bytes.min(most))
}

fn refuse<B>(refusal: Refusal) -> Answer<B> {
    (refusal.head(), Content::Whole(Some(Bytes::from(refusal.document()))))
}
