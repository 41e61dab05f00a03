//! Reading extents: one read, then every record is held against its header and checksum.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::blob::local::{ALIGNMENT, ReadFile};
use crate::chunk::codec::{Codec, Codecs};
use crate::chunk::offload::Offload;
use crate::chunk::pack::cloud::{self, Through};
use crate::chunk::pack::format::aligned;
use crate::chunk::pack::shared::{Shared, Visit};
use crate::chunk::pack::{Extent, ReadError, Wanted};
use crate::chunk::pool::PooledBuf;
use crate::chunk::record::{HEADER_BYTES, RecordError, RecordHeader, crc32c};
use crate::ids::{ChunkId, PackId};

/// Plaintext that is decoded on the caller's thread; more goes to a blocking one.
const DECODED_IN_PLACE_BYTES: usize = 16 << 10;

/// A verified record inside an extent's bytes.
pub struct Found {
    pub header: RecordHeader,
    pub header_bytes: [u8; HEADER_BYTES],
    pub payload: Bytes,
}

/// The records of `extent`, verified, still as they are stored.
pub async fn read_stored(shared: &Arc<Shared>, extent: &Extent) -> Result<Vec<Found>, ReadError> {
    let range = aligned_range(extent);
    let buffer = shared.pool.take(length_of(&range)).await?;
    let bytes = fill(shared, extent, buffer, range.clone(), Through::Source).await?;
    verify_all(shared, extent, &bytes, range.start)
}

/// The plaintexts of `extent`.
pub async fn read(shared: &Arc<Shared>, extent: Extent, through: Through) -> Result<Vec<(ChunkId, Bytes)>, ReadError> {
    let range = aligned_range(&extent);
    let decoded_bytes: usize = extent.records().iter().map(decoded_bytes).sum();
    if decoded_bytes == 0 {
        let buffer = shared.pool.take(length_of(&range)).await?;
        let bytes = fill(shared, &extent, buffer, range.clone(), through).await?;
        let found = verify_all(shared, &extent, &bytes, range.start)?;
        return Ok(found
            .into_iter()
            .map(|found| (found.header.id, found.payload))
            .collect());
    }
    let (buffer, plain) = shared.pool.take_two(length_of(&range), decoded_bytes).await?;
    let bytes = fill(shared, &extent, buffer, range.clone(), through).await?;
    if decoded_bytes <= DECODED_IN_PLACE_BYTES {
        return decode_all(shared, &extent, &bytes, range.start, plain);
    }
    let (shared, offload) = (Arc::clone(shared), shared.options.offload);
    blocking(offload, extent.pack(), move || {
        decode_all(&shared, &extent, &bytes, range.start, plain)
    })
    .await
}

fn decoded_bytes(wanted: &Wanted) -> usize {
    if wanted.location.codec == Codec::Raw {
        0
    } else {
        wanted.location.raw_len as usize
    }
}

fn aligned_range(extent: &Extent) -> Range<u64> {
    let range = extent.byte_range();
    range.start - range.start % ALIGNMENT as u64..aligned(range.end)
}

fn length_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

async fn blocking<T, F>(offload: Offload, pack: PackId, work: F) -> Result<T, ReadError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ReadError> + Send + 'static,
{
    let failed = |error| ReadError::Io {
        pack,
        error: io::Error::other(error),
    };
    offload.run(work).await.map_err(failed)?
}

/// Reads `range`: at once when the page cache has it, else on a blocking thread, around the cache the first time.
async fn fill(
    shared: &Arc<Shared>,
    extent: &Extent,
    mut buffer: PooledBuf,
    range: Range<u64>,
    through: Through,
) -> Result<Bytes, ReadError> {
    let id = extent.pack();
    let failed = move |error| ReadError::Io { pack: id, error };
    let pack = shared.pack(id).ok_or(ReadError::NotFound(id))?;
    let lease = Arc::clone(&pack.gone).read_owned().await;
    if *lease {
        return Err(ReadError::NotFound(id));
    }
    let length = length_of(&range);
    buffer.set_filled(length);
    if buffer.len() != length {
        return Err(damaged(
            shared,
            extent,
            range.start,
            None,
            "an extent is longer than any buffer",
        ));
    }
    if let Some(cloud) = shared.cloud.as_ref().filter(|_| pack.is_in_cloud()) {
        let filled = cloud::fill(shared, cloud, extent, buffer, range.start, through).await;
        drop(lease);
        return filled.inspect_err(|error| {
            if let ReadError::Damaged { .. } = error {
                shared.metrics.damaged.inc();
            }
        });
    }
    let file = shared.handle(id).map_err(failed)?;
    let visit = shared.reads_before.visit(id, range.start);
    if visit == Visit::Later && file.read_cached(&mut buffer, range.start) {
        shared
            .metrics
            .read_bytes
            .with_label_values(&["cache"])
            .inc_by(length as u64);
        return Ok(buffer.freeze());
    }
    // The semaphore is never closed; without a permit the read would only be unbounded.
    let permit = Arc::clone(&shared.reads).acquire_owned().await.ok();
    let (mut buffer, count) = blocking(shared.options.offload, id, move || {
        let _held = (permit, lease);
        let count = read_uncached(&file, &mut buffer, range.start, visit).map_err(failed)?;
        Ok((buffer, count))
    })
    .await?;
    shared
        .metrics
        .read_bytes
        .with_label_values(&["disk"])
        .inc_by(count as u64);
    buffer.set_filled(count);
    Ok(buffer.freeze())
}

fn read_uncached(file: &ReadFile, buffer: &mut PooledBuf, offset: u64, visit: Visit) -> io::Result<usize> {
    match visit {
        Visit::First => file.read_direct_at(buffer, offset),
        Visit::Second | Visit::Later => file.read_at(buffer, offset),
    }
}

fn damaged(shared: &Shared, extent: &Extent, offset: u64, id: Option<ChunkId>, reason: &'static str) -> ReadError {
    shared.metrics.damaged.inc();
    ReadError::Damaged {
        pack: extent.pack(),
        offset,
        id,
        reason,
    }
}

fn verify_all(shared: &Shared, extent: &Extent, bytes: &Bytes, start: u64) -> Result<Vec<Found>, ReadError> {
    extent
        .records()
        .iter()
        .map(|wanted| verify(shared, extent, wanted, bytes, start))
        .collect()
}

fn verify(shared: &Shared, extent: &Extent, wanted: &Wanted, bytes: &Bytes, start: u64) -> Result<Found, ReadError> {
    let location = wanted.location;
    let offset = u64::from(location.offset);
    let bad = |reason| damaged(shared, extent, offset, Some(wanted.id), reason);
    let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
    let rest = bytes.get(from..).ok_or_else(|| bad("the file ends before it"))?;
    let header = RecordHeader::decode(rest).map_err(|error| match error {
        RecordError::NotARecord => bad("no record begins here"),
        RecordError::Checksum => bad("the header fails its checksum"),
        RecordError::Unsupported => bad("the record needs a newer version"),
        RecordError::Lengths => bad("the lengths are out of bounds"),
    })?;
    if header.id != wanted.id || header.domain != wanted.domain {
        return Err(ReadError::WrongChunk {
            pack: extent.pack(),
            offset,
            found: header.id,
        });
    }
    let stored_len = HEADER_BYTES as u32 + header.payload_len;
    if stored_len != location.stored_len || header.raw_len != location.raw_len || header.codec != location.codec {
        return Err(bad("its lengths are not those of the index"));
    }
    let (payload_start, payload_end) = (from + HEADER_BYTES, from + stored_len as usize);
    if payload_end > bytes.len() {
        return Err(bad("the file ends inside it"));
    }
    let payload = bytes.slice(payload_start..payload_end);
    if crc32c(&payload) != header.payload_crc {
        return Err(bad("the payload fails its checksum"));
    }
    let header_bytes = *rest
        .first_chunk()
        .ok_or_else(|| bad("the file ends inside its header"))?;
    Ok(Found {
        header,
        header_bytes,
        payload,
    })
}

fn decode_all(
    shared: &Shared,
    extent: &Extent,
    bytes: &Bytes,
    start: u64,
    mut plain: PooledBuf,
) -> Result<Vec<(ChunkId, Bytes)>, ReadError> {
    let found = verify_all(shared, extent, bytes, start)?;
    let mut ranges = Vec::with_capacity(found.len());
    for (found, wanted) in found.iter().zip(extent.records()) {
        if found.header.codec == Codec::Raw {
            ranges.push(None);
            continue;
        }
        let range = decode(&shared.codecs, found, &mut plain);
        let failed = || {
            damaged(
                shared,
                extent,
                u64::from(wanted.location.offset),
                Some(wanted.id),
                "it does not decode",
            )
        };
        ranges.push(Some(range.ok_or_else(failed)?));
    }
    let plain = plain.freeze();
    let pairs = found.into_iter().zip(ranges);
    Ok(pairs
        .map(|(found, range)| (found.header.id, range.map_or(found.payload, |range| plain.slice(range))))
        .collect())
}

/// Decodes behind what `plain` holds and answers where.
fn decode(codecs: &Codecs, found: &Found, plain: &mut PooledBuf) -> Option<Range<usize>> {
    let start = plain.len();
    let end = start + found.header.raw_len as usize;
    plain.set_filled(end);
    let out = plain.get_mut(start..end)?;
    codecs.decode(found.header.codec, &found.payload, out).ok()?;
    Some(start..end)
}
