//! Bodies on their way through: the request's with its timeout, the answer's with the request's end.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::ready::{Gathered, Ready};
use super::record::Record;

pub type BoxError = Box<dyn Error + Send + Sync>;

/// What a request's body has come to, seen from outside of who reads it.
#[derive(Default)]
pub struct Progress {
    bytes: AtomicU64,
    timed_out: AtomicBool,
}

impl Progress {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub fn timed_out(&self) -> bool {
        self.timed_out.load(Relaxed)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    #[error("the client sent no byte of the request's body for {0:?}")]
    TimedOut(Duration),
    #[error("the request's body broke off: {0}")]
    Broken(#[from] hyper::Error),
}

/// A request's body that fails when no byte arrives for `timeout`.
pub struct RequestBody {
    inner: Incoming,
    progress: Arc<Progress>,
    timeout: Duration,
    /// Made when the body first has to be waited for. A frame does not touch it: when it fires, `moved` tells whether
    /// to wait once more, so that a silent client is cut off after one to two timeouts.
    alarm: Option<Pin<Box<Sleep>>>,
    moved: bool,
}

impl RequestBody {
    pub fn new(inner: Incoming, timeout: Duration) -> (Self, Arc<Progress>) {
        let progress = Arc::new(Progress::default());
        (
            Self {
                inner,
                progress: Arc::clone(&progress),
                timeout,
                alarm: None,
                moved: false,
            },
            progress,
        )
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout = self.timeout;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        while alarm.as_mut().poll(cx).is_ready() {
            if !self.moved {
                return Poll::Ready(());
            }
            self.moved = false;
            alarm.as_mut().reset(Instant::now() + timeout);
        }
        Poll::Pending
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.progress.bytes.fetch_add(bytes as u64, Relaxed);
                self.moved = true;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if self.poll_alarm(cx).is_pending() {
                    return Poll::Pending;
                }
                self.progress.timed_out.store(true, Relaxed);
                Poll::Ready(Some(Err(RequestBodyError::TimedOut(self.timeout))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body. The request ends when it is dropped, sent to its end or not.
pub struct ResponseBody<B> {
    content: Content<Gathered<B>>,
    record: Record,
}

pub enum Content<B> {
    Whole(Option<Bytes>),
    Stream(B),
}

impl<B> ResponseBody<B> {
    pub fn new(content: Content<B>, record: Record) -> Self {
        let content = match content {
            Content::Whole(bytes) => Content::Whole(bytes),
            Content::Stream(body) => Content::Stream(Gathered::new(body)),
        };
        Self { content, record }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Ready;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Ready>, BoxError>>> {
        let this = &mut *self;
        this.record.asked();
        let polled = match &mut this.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Ready::from(bytes)))),
            Content::Stream(body) => body.poll_ready(cx),
        };
        match &polled {
            Poll::Ready(Some(Ok(ready))) => this.record.sent(ready.remaining()),
            Poll::Ready(Some(Err(error))) => this.record.failed(&**error),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled.map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Content::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Content::Stream(body) => body.size_hint(),
        }
    }
}
