//! Bodies on their way in and out, without a copy.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};

use crate::chunk::DataStream;
use crate::object::ObjectBody;
use crate::object::types::{BodyError, BodyStream};

/// A request's body, as the object operations take it.
pub(super) fn incoming(body: Option<StreamingBlob>) -> BodyStream {
    match body {
        Some(blob) => Box::pin(Incoming(blob)),
        None => Box::pin(futures::stream::empty()),
    }
}

struct Incoming(StreamingBlob);

impl Stream for Incoming {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(cx).map_err(BodyError)
    }
}

/// An object's bytes as a response body that knows its exact length. s3s wants it `Sync`, which a stream need not be:
/// nobody polls it through a shared reference, so the wrapper that says so costs nothing.
pub(super) fn outgoing(body: ObjectBody, length: u64) -> StreamingBlob {
    match body {
        ObjectBody::Inline(bytes) => StreamingBlob::from_bytes(bytes),
        ObjectBody::Stream(stream) => {
            let remaining = usize::try_from(length).unwrap_or(usize::MAX);
            StreamingBlob::new(Outgoing {
                stream: sync_wrapper::SyncWrapper::new(stream),
                remaining,
            })
        }
    }
}

struct Outgoing {
    stream: sync_wrapper::SyncWrapper<DataStream>,
    /// Bytes still to come.
    remaining: usize,
}

impl Stream for Outgoing {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let polled = Pin::new(this.stream.get_mut()).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &polled {
            this.remaining = this.remaining.saturating_sub(bytes.len());
        }
        polled.map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an object's body could not be read to its end"
            );
            StdError::from(error)
        })
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.remaining)
    }
}
