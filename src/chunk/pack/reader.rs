//! Reading extents: one read, then every record is held against its header and checksum.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::blob::local::{ALIGNMENT, ReadFile};
use crate::chunk::cipher::{Envelope, Purpose};
use crate::chunk::codec::{Codec, Codecs};
use crate::chunk::domain::DomainKey;
use crate::chunk::offload::Offload;
use crate::chunk::pack::cloud::{self, Through};
use crate::chunk::pack::format::aligned;
use crate::chunk::pack::shared::{Shared, Visit};
use crate::chunk::pack::{Extent, ReadError, Wanted};
use crate::chunk::pool::PooledBuf;
use crate::chunk::record::{HEADER_BYTES, RecordError, RecordHeader, associated, crc32c};
use crate::ids::{ChunkId, PackId};

/// Plaintext that is decoded on the caller's thread; more goes to a blocking one.
const DECODED_IN_PLACE_BYTES: usize = 16 << 10;
/// The same of bytes that are decrypted, which takes a tenth of the time.
const DECRYPTED_IN_PLACE_BYTES: usize = 128 << 10;

/// The plaintexts of an extent's records, in their order.
#[derive(Debug)]
pub struct Plain {
    pub records: Vec<(ChunkId, Bytes)>,
    /// They came over a network, or through a cache of what did: they are to be held against the full hash that names them.
    pub is_far: bool,
}

/// A verified record inside an extent's bytes.
pub struct Found {
    pub header: RecordHeader,
    pub header_bytes: [u8; HEADER_BYTES],
    /// Where in those bytes.
    pub payload: Range<usize>,
}

/// The records of `extent`, verified, still as they are stored, and the bytes that they are found in.
pub async fn read_stored(shared: &Arc<Shared>, extent: &Extent) -> Result<(Bytes, Vec<Found>), ReadError> {
    let range = aligned_range(extent);
    let buffer = shared.pool.take(length_of(&range)).await?;
    let (buffer, _) = fill(shared, extent, buffer, range.clone(), Through::Source).await?;
    let found = verify_all(shared, extent, &buffer, range.start)?;
    Ok((buffer.freeze(), found))
}

/// The plaintexts of `extent`. All of the way: one read of what is stored, from the disk, a cache or the cloud; each record
/// held against its checksums; decrypted; decoded.
pub async fn read(
    shared: &Arc<Shared>,
    extent: Extent,
    keys: Vec<Arc<DomainKey>>,
    through: Through,
) -> Result<Plain, ReadError> {
    let range = aligned_range(&extent);
    let decoded_bytes: usize = extent.records().iter().map(decoded_bytes).sum();
    let (buffer, plain) = if decoded_bytes == 0 {
        (shared.pool.take(length_of(&range)).await?, None)
    } else {
        let (buffer, plain) = shared.pool.take_two(length_of(&range), decoded_bytes).await?;
        (buffer, Some(plain))
    };
    let (buffer, is_far) = fill(shared, &extent, buffer, range.clone(), through).await?;
    let decrypted_bytes = if keys.is_empty() { 0 } else { length_of(&range) };
    let told = |records| Plain { records, is_far };
    if decoded_bytes <= DECODED_IN_PLACE_BYTES && decrypted_bytes <= DECRYPTED_IN_PLACE_BYTES {
        return unfold(shared, &extent, buffer, range.start, plain, &keys).map(told);
    }
    let (shared, offload) = (Arc::clone(shared), shared.options.offload);
    blocking(offload, extent.pack(), move || {
        unfold(&shared, &extent, buffer, range.start, plain, &keys)
    })
    .await
    .map(told)
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

/// Reads `range`: at once when the page cache has it, else on a blocking thread, around the cache the first time; or from the
/// cloud. Answers too whether the bytes came over a network, or from a cache of such.
async fn fill(
    shared: &Arc<Shared>,
    extent: &Extent,
    mut buffer: PooledBuf,
    range: Range<u64>,
    through: Through,
) -> Result<(PooledBuf, bool), ReadError> {
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
        let filled = filled.inspect_err(|error| {
            if let ReadError::Damaged { .. } = error {
                shared.metrics.damaged.inc();
            }
        });
        return filled.map(|buffer| (buffer, true));
    }
    let file = shared.handle(id).map_err(failed)?;
    let visit = shared.reads_before.visit(id, range.start);
    if visit == Visit::Later && file.read_cached(&mut buffer, range.start) {
        shared
            .metrics
            .read_bytes
            .with_label_values(&["cache"])
            .inc_by(length as u64);
        return Ok((buffer, false));
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
    Ok((buffer, false))
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

fn verify_all(shared: &Shared, extent: &Extent, bytes: &[u8], start: u64) -> Result<Vec<Found>, ReadError> {
    extent
        .records()
        .iter()
        .map(|wanted| verify(shared, extent, wanted, bytes, start))
        .collect()
}

fn verify(shared: &Shared, extent: &Extent, wanted: &Wanted, bytes: &[u8], start: u64) -> Result<Found, ReadError> {
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
    let payload = from + HEADER_BYTES..from + stored_len as usize;
    let stored = bytes
        .get(payload.clone())
        .ok_or_else(|| bad("the file ends inside it"))?;
    if crc32c(stored) != header.payload_crc {
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

/// The plaintexts of the records in `buffer`, which is what stands from `start` on: decrypted where they stand, then decoded
/// into `plain`.
fn unfold(
    shared: &Shared,
    extent: &Extent,
    mut buffer: PooledBuf,
    start: u64,
    mut plain: Option<PooledBuf>,
    keys: &[Arc<DomainKey>],
) -> Result<Vec<(ChunkId, Bytes)>, ReadError> {
    let found = verify_all(shared, extent, &buffer, start)?;
    let mut ranges = Vec::with_capacity(found.len());
    for (found, wanted) in found.iter().zip(extent.records()) {
        let offset = u64::from(wanted.location.offset);
        let failed = |reason| damaged(shared, extent, offset, Some(wanted.id), reason);
        if let Some(envelope) = &found.header.envelope {
            let is_sound = decrypt(extent.pack(), found, envelope, keys, &mut buffer)?;
            is_sound
                .then_some(())
                .ok_or_else(|| failed("the payload fails its cipher's tag"))?;
        }
        ranges.push(if found.header.codec == Codec::Raw {
            None
        } else {
            let decoded = plain
                .as_mut()
                .and_then(|plain| decode(&shared.codecs, found, &buffer, plain));
            Some(decoded.ok_or_else(|| failed("it does not decode"))?)
        });
    }
    let (bytes, plain) = (buffer.freeze(), plain.map_or_else(Bytes::new, PooledBuf::freeze));
    let pairs = found.into_iter().zip(ranges);
    let plaintext = |(found, range): (Found, Option<Range<usize>>)| {
        let text = range.map_or_else(|| bytes.slice(found.payload), |range| plain.slice(range));
        (found.header.id, text)
    };
    Ok(pairs.map(plaintext).collect())
}

/// Decrypts a record where it stands and answers whether it is what was encrypted. An error: nobody can tell, for want of
/// the key.
fn decrypt(
    pack: PackId,
    found: &Found,
    envelope: &Envelope,
    keys: &[Arc<DomainKey>],
    buffer: &mut PooledBuf,
) -> Result<bool, ReadError> {
    let domain = found.header.domain;
    let key = keys.iter().find(|key| key.id == domain).and_then(|key| key.data_key());
    let key = key.ok_or_else(|| ReadError::Io {
        pack,
        error: io::Error::other(format!("the data key of dedup domain {} is not there", domain.0)),
    })?;
    let payload = buffer.get_mut(found.payload.clone()).unwrap_or_default();
    Ok(key
        .open(Purpose::Record, envelope, associated(&found.header_bytes), payload)
        .is_ok())
}

/// Decodes behind what `plain` holds and answers where.
fn decode(codecs: &Codecs, found: &Found, stored: &[u8], plain: &mut PooledBuf) -> Option<Range<usize>> {
    let start = plain.len();
    let end = start + found.header.raw_len as usize;
    plain.set_filled(end);
    let out = plain.get_mut(start..end)?;
    let payload = stored.get(found.payload.clone())?;
    codecs.decode(found.header.codec, payload, out).ok()?;
    Some(start..end)
}
