//! Pieces of an answer that are sent together.
//!
//! A stream gives a chunk at a time, and hyper writes to the socket when a few hundred KiB of them have come. A write
//! costs the kernel much beside the copy (loopback, a 1 MiB write against four of 256 KiB: a quarter less a byte), so that
//! what is there goes in one.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, SizeHint};

use super::body::BoxError;
use crate::limits::MIB;

/// Bytes that are enough for the first write: fewer, so that the client takes them while the rest is written.
const FIRST_BYTES: usize = MIB / 2;
/// Bytes that are enough for a later one.
const NEXT_BYTES: usize = MIB;

/// Bytes in pieces, none of them empty.
#[derive(Debug, Default)]
pub struct Ready {
    pieces: VecDeque<Bytes>,
    remaining: usize,
}

impl Ready {
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.remaining += bytes.len();
            self.pieces.push_back(bytes);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.remaining == 0
    }
}

impl Buf for Ready {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], Bytes::as_ref)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pairs = slices.iter_mut().zip(&self.pieces);
        pairs.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "no byte is given twice");
        self.remaining -= count;
        while let Some(front) = self.pieces.front_mut().filter(|_| count > 0) {
            let taken = count.min(front.len());
            front.advance(taken);
            count -= taken;
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

impl From<Bytes> for Ready {
    fn from(bytes: Bytes) -> Self {
        let mut ready = Self::default();
        ready.push(bytes);
        ready
    }
}

/// A stream of pieces, given as they are ready: at once all that is there, in whole pieces until it is enough. Trailers,
/// which no answer of ours has, are left out.
pub struct Gathered<B> {
    body: B,
    /// Why the body broke off, while what came before is sent.
    broken: Option<BoxError>,
    wanted_bytes: usize,
}

impl<B> Gathered<B> {
    pub fn new(body: B) -> Self {
        Self {
            body,
            broken: None,
            wanted_bytes: FIRST_BYTES,
        }
    }
}

impl<B> Gathered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Ready, BoxError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut ready = Ready::default();
        loop {
            let is_enough = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending if ready.is_empty() => return Poll::Pending,
                Poll::Ready(None) if ready.is_empty() => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) if ready.is_empty() => return Poll::Ready(Some(Err(error.into()))),
                Poll::Pending | Poll::Ready(None) => true,
                Poll::Ready(Some(Err(error))) => {
                    self.broken = Some(error.into());
                    true
                }
                Poll::Ready(Some(Ok(frame))) => {
                    ready.push(frame.into_data().unwrap_or_default());
                    ready.remaining() >= self.wanted_bytes || self.body.is_end_stream()
                }
            };
            if is_enough {
                self.wanted_bytes = NEXT_BYTES;
                return Poll::Ready(Some(Ok(ready)));
            }
        }
    }

    pub fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.body.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    #[tokio::test]
    async fn what_is_there_is_given_together_and_an_error_behind_it() {
        let piece = |bytes| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![7; bytes])));
        let small = stream::iter([piece(1), piece(2), Err("broken".into())]);
        let large = stream::iter([
            piece(FIRST_BYTES - 1),
            piece(1),
            piece(NEXT_BYTES - 1),
            piece(5),
            piece(3),
        ]);
        let late = stream::once(async {
            tokio::task::yield_now().await;
            piece(9)
        });
        let mut body = Gathered::new(StreamBody::new(large.chain(late).chain(small).boxed()));
        let mut next = async || std::future::poll_fn(|cx| body.poll_ready(cx)).await.unwrap();
        for expected in [FIRST_BYTES, NEXT_BYTES + 4, 3, 12] {
            assert_eq!(next().await.unwrap().remaining(), expected);
        }
        assert_eq!(next().await.unwrap_err().to_string(), "broken");
    }

    proptest! {
        #[test]
        fn every_byte_is_given_once(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..6), step in 1usize..12) {
            let mut ready = Ready::default();
            pieces.iter().for_each(|piece| ready.push(Bytes::copy_from_slice(piece)));
            let expected = pieces.concat();
            let mut given = Vec::new();
            while ready.has_remaining() {
                prop_assert_eq!(given.len() + ready.remaining(), expected.len());
                let mut slices = [IoSlice::new(&[]); 3];
                let count = ready.chunks_vectored(&mut slices);
                let seen = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>();
                prop_assert_eq!(slices[0].to_vec(), ready.chunk());
                let taken = step.min(seen.len());
                given.extend_from_slice(&seen[..taken]);
                ready.advance(taken);
            }
            prop_assert_eq!((given, ready.is_empty()), (expected, true));
        }
    }
}
