//! The end of a body in signed chunks. S3 demands the empty chunk that ends it; s3s does not miss it.
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html>

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use s3s::{Body, StdError};

/// The value of `x-amz-content-sha256` of a body in signed chunks. With a trailer the trailer is missed instead.
pub(super) const SIGNED_CHUNKS: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const FINAL_CHUNK: &[u8] = b"0;chunk-signature=";
const SIGNATURE_BYTES: usize = 64;
/// The final chunk, the line's end before it, and those behind it.
const TAIL_BYTES_MAX: usize = 1 + FINAL_CHUNK.len() + SIGNATURE_BYTES + 4;

#[derive(Debug, thiserror::Error)]
#[error("the body ends without its final chunk")]
struct NoFinalChunk;

/// A body in signed chunks, as it is sent.
pub(super) struct SignedChunks {
    body: Body,
    tail: Tail,
}

impl SignedChunks {
    pub(super) fn new(body: Body) -> Self {
        let tail = Tail::default();
        Self { body, tail }
    }
}

impl HttpBody for SignedChunks {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    self.tail.push(bytes);
                }
            }
            Poll::Ready(None) if !self.tail.is_final_chunk() => {
                return Poll::Ready(Some(Err(NoFinalChunk.into())));
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The last bytes of what came.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let new = bytes
            .get(bytes.len().saturating_sub(TAIL_BYTES_MAX)..)
            .unwrap_or_default();
        let over = (self.0.len() + new.len()).saturating_sub(TAIL_BYTES_MAX);
        self.0.drain(..over);
        self.0.extend_from_slice(new);
    }

    fn is_final_chunk(&self) -> bool {
        let Some(line) = self.0.strip_suffix(b"\r\n") else {
            return false;
        };
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let Some((front, _signature)) = line.split_last_chunk::<SIGNATURE_BYTES>() else {
            return false;
        };
        front
            .strip_suffix(FINAL_CHUNK)
            .is_some_and(|before| before.last().is_none_or(|byte| *byte == b'\n'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn the_final_chunk_is_seen_however_it_arrives(
            data in proptest::collection::vec(any::<u8>(), 0..200), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..4),
            ends in 0usize..2,
        ) {
            let signature = "a".repeat(SIGNATURE_BYTES);
            let first = if data.is_empty() { Vec::new() } else {
                [format!("{:x};chunk-signature={signature}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat()
            };
            let last = format!("0;chunk-signature={signature}\r\n{}", "\r\n".repeat(ends));
            let seen = |body: &[u8]| {
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
                cuts.sort_unstable();
                let (mut tail, mut from) = (Tail::default(), 0);
                for cut in cuts.into_iter().chain([body.len()]) {
                    tail.push(&body[from..cut]);
                    from = cut;
                }
                prop_assert!(tail.0.len() <= TAIL_BYTES_MAX && body.ends_with(&tail.0));
                Ok(tail.is_final_chunk())
            };
            prop_assert_eq!(seen(&[&first[..], last.as_bytes()].concat())?, true);
            prop_assert_eq!(seen(&first)?, false);
            prop_assert_eq!(seen(&[&first[..], b"1", last.as_bytes()].concat())?, false);
        }
    }
}
