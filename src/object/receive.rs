//! Taking a body in: to memory while it is small, to the chunk store beyond, checked against all that the client said.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use smallvec::SmallVec;

use crate::chunk::codec::Hint;
use crate::chunk::md5::md5_small;
use crate::chunk::{AppendError, DataWriter, WriteError, WriteOptions};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::object::checksum::BodyChecksum;
use crate::object::place::Arrived;
use crate::object::settings::WriteSettings;
use crate::object::types::{BodyStream, Checksum, ChecksumAlgorithm, Integrity, ObjectHeaders};
use crate::object::{Objects, ReceiveError, StoreError};

/// After so many bytes of a body the other requests of the thread have their turn: a client that is fast enough would keep
/// it hashing for as long as its socket has data.
const TURN_BYTES: u64 = 256 * limits::KIB as u64;

pub(super) struct Incoming {
    pub body: BodyStream,
    pub content_length: Option<u64>,
    pub integrity: Integrity,
    /// The algorithm of a body for which the client named none.
    pub default_checksum: ChecksumAlgorithm,
    /// Bytes up to which the body stays in memory.
    pub inline_bytes_max: usize,
    pub hint: Hint,
}

pub(super) struct Received {
    pub size: u64,
    pub md5: [u8; 16],
    pub checksum: Checksum,
    pub payload: Arrived,
}

/// What comes in before it is known whether it stays small.
type Pieces = SmallVec<[Bytes; 4]>;

impl Objects {
    pub(super) async fn receive(&self, bucket: &Bucket, incoming: Incoming) -> Result<Received, ReceiveError> {
        let Incoming {
            mut body,
            content_length,
            integrity,
            default_checksum,
            inline_bytes_max,
            hint,
        } = incoming;
        if content_length.is_some_and(|length| length > limits::PUT_BYTES_MAX) {
            return Err(ReceiveError::TooLarge);
        }
        self.check_room()?;
        let mut checksum = BodyChecksum::new(integrity.checksum, default_checksum);
        let (mut size, mut pieces, mut writer) = (0u64, Pieces::new(), None);
        while let Some(piece) = body.next().await {
            let piece = piece?;
            if piece.is_empty() {
                continue;
            }
            checksum.update(&piece);
            size += piece.len() as u64;
            if size > limits::PUT_BYTES_MAX {
                return Err(ReceiveError::TooLarge);
            }
            match &mut writer {
                Some(writer) => {
                    let before = size - piece.len() as u64;
                    write(writer, piece).await?;
                    if size / TURN_BYTES > before / TURN_BYTES {
                        tokio::task::yield_now().await;
                    }
                }
                None => {
                    pieces.push(piece);
                    if size > inline_bytes_max as u64 {
                        writer = Some(self.write_pieces(bucket, content_length, hint, &mut pieces).await?);
                    }
                }
            }
        }
        if let Some(expected) = content_length.filter(|expected| *expected != size) {
            return Err(ReceiveError::Incomplete {
                expected,
                received: size,
            });
        }
        let checksum = checksum.finish()?;
        let (md5, payload) = match writer {
            Some(writer) => {
                let data = writer.finish().await.map_err(StoreError::from)?;
                (data.md5, Arrived::Data(data))
            }
            None => {
                let bytes = join(pieces, size);
                (md5_small(&bytes), Arrived::Inline(bytes))
            }
        };
        if integrity.content_md5.is_some_and(|expected| expected != md5) {
            return Err(ReceiveError::BadMd5);
        }
        Ok(Received {
            size,
            md5,
            checksum,
            payload,
        })
    }

    /// Refuses a body while the disk is full, however small it is; the chunk store refuses what it is to store.
    fn check_room(&self) -> Result<(), StoreError> {
        if self.chunks.has_room() {
            Ok(())
        } else {
            Err(WriteError::Append(AppendError::Full).into())
        }
    }

    async fn write_pieces(
        &self,
        bucket: &Bucket,
        expected_bytes: Option<u64>,
        hint: Hint,
        pieces: &mut Pieces,
    ) -> Result<DataWriter, StoreError> {
        let mut writer = self.writer(bucket, expected_bytes, hint);
        for piece in pieces.drain(..) {
            write(&mut writer, piece).await?;
        }
        Ok(writer)
    }

    pub(super) fn writer(&self, bucket: &Bucket, expected_bytes: Option<u64>, hint: Hint) -> DataWriter {
        let settings = WriteSettings::of(bucket);
        self.chunks.writer(WriteOptions {
            domain: bucket.domain,
            profile: settings.profile,
            expected_bytes,
            compression: settings.compression,
            hint,
        })
    }
}

pub(super) async fn write(writer: &mut DataWriter, piece: Bytes) -> Result<(), StoreError> {
    Ok(writer.write(piece).await?)
}

fn join(pieces: Pieces, size: u64) -> Bytes {
    let mut pieces = pieces.into_iter();
    match (pieces.next(), pieces.len()) {
        (None, _) => Bytes::new(),
        (Some(only), 0) => only,
        (Some(first), _) => {
            let mut joined = BytesMut::with_capacity(usize::try_from(size).unwrap_or(limits::BODY_BYTES_MAX));
            joined.extend_from_slice(&first);
            pieces.for_each(|piece| joined.extend_from_slice(&piece));
            joined.freeze()
        }
    }
}

/// Whether trying to compress is a waste of time.
pub(super) fn hint_of(headers: &ObjectHeaders) -> Hint {
    let encoded = headers.content_encoding.as_deref().is_some_and(|encoding| {
        let compressed = ["gzip", "br", "zstd", "deflate", "compress"];
        encoding.split(',').any(|token| compressed.contains(&token.trim()))
    });
    let compressed_type = headers.content_type.as_deref().is_some_and(|content_type| {
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let exact = [
            "application/zip",
            "application/gzip",
            "application/zstd",
            "application/x-7z-compressed",
            "application/x-xz",
            "application/x-bzip2",
            "image/jpeg",
            "image/png",
            "image/webp",
            "image/gif",
            "image/avif",
        ];
        let family = content_type.starts_with("video/") || content_type.starts_with("audio/");
        (family && content_type != "audio/wav") || exact.contains(&content_type)
    });
    if encoded || compressed_type {
        Hint::AlreadyCompressed
    } else {
        Hint::Unknown
    }
}
