//! The record: one chunk as it lies in a pack, a fixed header and the stored payload. `docs/format.md` has the table.
//!
//! A record does not name its place and names its key, so that it moves between packs verbatim, encrypted or not.

use bytes::{Buf, BufMut};

use crate::chunk::cipher::Envelope;
use crate::chunk::codec::Codec;
use crate::ids::{ChunkId, DomainId};
use crate::limits::MIB;

/// Bytes of every record header.
pub const HEADER_BYTES: usize = 128;
/// Bytes of a record's plaintext; the largest chunk has half of it.
pub const RECORD_RAW_BYTES_MAX: usize = 8 * MIB;

pub const MAGIC: [u8; 4] = *b"CrnR";
const VERSION: u16 = 1;
/// Where the header's own CRC32C lies; it covers everything before it.
const CRC_OFFSET: usize = HEADER_BYTES - 4;
const ID_OFFSET: usize = 24;
/// What a cipher vouches for beside the payload: all that stands before what it makes itself.
const ASSOCIATED_BYTES: usize = 104;

/// Required feature: the payload is encrypted. Without it there is no cipher, key, nonce or tag.
const FEATURE_ENCRYPTED: u32 = 1;
const CIPHER_AES_256_GCM: u8 = 1;
/// The data key of its domain that a record is encrypted with: the first and, so far, only one.
const KEY_EPOCH: u32 = 1;

/// The fields of a header that this version uses. There is no dictionary yet; who sets one sets a required feature bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub domain: DomainId,
    pub id: ChunkId,
    pub codec: Codec,
    pub raw_len: u32,
    /// Bytes of the stored payload, without the header.
    pub payload_len: u32,
    /// Grows with every record that one gateway writes: of two records of a chunk the higher is the newer.
    pub written_at: u64,
    /// CRC32C of the stored payload.
    pub payload_crc: u32,
    /// Of a payload that is encrypted with its domain's data key.
    pub envelope: Option<Envelope>,
}

/// Why bytes are no record that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("no record begins here")]
    NotARecord,
    #[error("the record header fails its checksum")]
    Checksum,
    #[error("the record needs a newer version of Cairn")]
    Unsupported,
    #[error("the record's lengths are out of bounds")]
    Lengths,
}

impl RecordHeader {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut out = bytes.as_mut_slice();
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(HEADER_BYTES as u16);
        let (features, cipher, epoch) = match self.envelope {
            Some(_) => (FEATURE_ENCRYPTED, CIPHER_AES_256_GCM, KEY_EPOCH),
            None => (0, 0, 0),
        };
        let envelope = self.envelope.unwrap_or(NO_ENVELOPE);
        out.put_u32_le(features);
        out.put_u8(self.codec as u8);
        out.put_u8(cipher);
        out.put_bytes(0, 2);
        out.put_u64_le(self.domain.0);
        out.put_slice(&self.id.0);
        out.put_u32_le(self.raw_len);
        out.put_u32_le(self.payload_len);
        out.put_u32_le(0); // dictionary
        out.put_u32_le(epoch);
        out.put_slice(&envelope.reference);
        out.put_slice(&envelope.nonce);
        out.put_bytes(0, 4);
        out.put_u64_le(self.written_at);
        out.put_u32_le(self.payload_crc);
        out.put_slice(&envelope.tag);
        seal(&mut bytes);
        bytes
    }

    /// Reads a header from the front of `bytes`. Never panics, never allocates.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(RecordError::NotARecord)?;
        if !header.starts_with(&MAGIC) {
            return Err(RecordError::NotARecord);
        }
        if !is_sealed(header) {
            return Err(RecordError::Checksum);
        }
        let mut rest = header.as_slice();
        rest.advance(MAGIC.len());
        let (version, length, features) = (rest.get_u16_le(), rest.get_u16_le(), rest.get_u32_le());
        let (codec, cipher) = (Codec::from_u8(rest.get_u8()), rest.get_u8());
        rest.advance(2);
        if version != VERSION || usize::from(length) != HEADER_BYTES {
            return Err(RecordError::Unsupported);
        }
        let codec = codec.ok_or(RecordError::Unsupported)?;
        let domain = DomainId(rest.get_u64_le());
        let mut id = [0; 32];
        rest.copy_to_slice(&mut id);
        let (raw_len, payload_len) = (rest.get_u32_le(), rest.get_u32_le());
        rest.advance(4);
        let mut envelope = NO_ENVELOPE;
        let epoch = rest.get_u32_le();
        rest.copy_to_slice(&mut envelope.reference);
        rest.copy_to_slice(&mut envelope.nonce);
        rest.advance(4);
        let (written_at, payload_crc) = (rest.get_u64_le(), rest.get_u32_le());
        rest.copy_to_slice(&mut envelope.tag);
        let envelope = match (features, cipher, epoch) {
            (0, 0, _) => None,
            (FEATURE_ENCRYPTED, CIPHER_AES_256_GCM, KEY_EPOCH) => Some(envelope),
            _ => return Err(RecordError::Unsupported),
        };
        let raw_fits = raw_len > 0 && raw_len as usize <= RECORD_RAW_BYTES_MAX;
        let payload_fits = if codec == Codec::Raw {
            payload_len == raw_len
        } else {
            payload_len < raw_len
        };
        if !raw_fits || !payload_fits || payload_len == 0 {
            return Err(RecordError::Lengths);
        }
        Ok(Self {
            domain,
            id: ChunkId(id),
            codec,
            raw_len,
            payload_len,
            written_at,
            payload_crc,
            envelope,
        })
    }
}

const NO_ENVELOPE: Envelope = Envelope {
    reference: [0; 8],
    nonce: [0; 12],
    tag: [0; 16],
};

/// What the cipher vouches for beside the payload: the header's bytes as they stand, but those that it makes itself, the
/// tag and the CRC of what it made.
pub fn associated(header: &[u8; HEADER_BYTES]) -> &[u8] {
    header.get(..ASSOCIATED_BYTES).unwrap_or_default()
}

/// The chunk that a header names, whether or not the rest of it is whole: a question for the index, not an answer.
pub fn named_chunk(header: &[u8]) -> Option<ChunkId> {
    header.get(ID_OFFSET..)?.first_chunk().map(|id| ChunkId(*id))
}

/// CRC32C, which catches what a disk or a cable does to bytes; the chunk's id is what proves them.
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm's result has 32 bits.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn seal(header: &mut [u8; HEADER_BYTES]) {
    if let Some((body, crc)) = header.split_last_chunk_mut::<4>() {
        *crc = crc32c(body).to_le_bytes();
    }
}

fn is_sealed(header: &[u8; HEADER_BYTES]) -> bool {
    header
        .split_last_chunk::<4>()
        .is_some_and(|(body, crc)| body.len() == CRC_OFFSET && crc32c(body).to_le_bytes() == *crc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> RecordHeader {
        RecordHeader {
            domain: DomainId(0x0102_0304_0506_0708),
            id: ChunkId([0xAB; 32]),
            codec: Codec::Zstd,
            raw_len: 65_536,
            payload_len: 1000,
            written_at: 77,
            payload_crc: crc32c(b"123456789"),
            envelope: None,
        }
    }

    fn encrypted() -> RecordHeader {
        let envelope = Envelope {
            reference: *b"referenc",
            nonce: *b"nonce of GCM",
            tag: *b"tag of the bytes",
        };
        RecordHeader {
            envelope: Some(envelope),
            ..header()
        }
    }

    #[test]
    fn the_layout_of_an_encrypted_record_is_frozen() {
        let (clear, bytes) = (header().encode(), encrypted().encode());
        assert_eq!((&bytes[8..12], &bytes[12..16]), (&[1, 0, 0, 0][..], &[1, 1, 0, 0][..]));
        assert_eq!(
            (&bytes[64..72], &bytes[72..80]),
            (&[0, 0, 0, 0, 1, 0, 0, 0][..], &b"referenc"[..])
        );
        assert_eq!((&bytes[80..92], &bytes[92..96]), (&b"nonce of GCM"[..], &[0; 4][..]));
        assert_eq!(bytes[108..124], *b"tag of the bytes");
        assert_eq!(
            (&bytes[..8], &bytes[16..64], &bytes[96..108]),
            (&clear[..8], &clear[16..64], &clear[96..108])
        );
        assert_eq!(associated(&bytes), &bytes[..104]);
        assert_eq!(RecordHeader::decode(&bytes), Ok(encrypted()));
    }

    #[test]
    fn the_layout_is_frozen() {
        let bytes = header().encode();
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(
            bytes[..24],
            hex::decode("43726e5201008000000000000100000008070605040302 01".replace(' ', "")).unwrap()
        );
        assert_eq!(bytes[24..56], [0xAB; 32]);
        assert_eq!(bytes[56..64], [0, 0, 1, 0, 0xE8, 3, 0, 0]);
        assert_eq!(bytes[64..96], [0; 32]);
        assert_eq!(bytes[96..108], [77, 0, 0, 0, 0, 0, 0, 0, 0x83, 0x92, 0x06, 0xE3]);
        assert_eq!(bytes[108..124], [0; 16]);
        assert_eq!(RecordHeader::decode(&bytes), Ok(header()));
        assert_eq!(named_chunk(&bytes), Some(header().id));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for bytes in [header().encode(), encrypted().encode()] {
            for bit in 0..HEADER_BYTES * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(RecordHeader::decode(&flipped).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_needs_a_newer_version_is_told() {
        let clear = [(4, 2), (6, 0), (8, 1), (8, 2), (12, 3), (13, 1)];
        // A cipher without its feature bit, another cipher, a later data key, a feature that is not known.
        let with_cipher = [(8, 0), (13, 2), (68, 2), (8, 3)];
        let cases = clear.map(|(offset, value)| (header(), offset, value)).into_iter();
        for (header, offset, value) in cases.chain(with_cipher.map(|(offset, value)| (encrypted(), offset, value))) {
            let mut bytes = header.encode();
            bytes[offset] = value;
            seal(&mut bytes);
            assert_eq!(
                RecordHeader::decode(&bytes),
                Err(RecordError::Unsupported),
                "offset {offset}"
            );
        }
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            fixed in any::<(u64, [u8; 32], u64, u32)>(),
            raw_len in 2..=RECORD_RAW_BYTES_MAX as u32,
            codec in 0..3u8,
            envelope in any::<Option<([u8; 8], [u8; 12], [u8; 16])>>(),
        ) {
            let (domain, id, written_at, payload_crc) = fixed;
            let codec = Codec::from_u8(codec).unwrap();
            let payload_len = if codec == Codec::Raw { raw_len } else { raw_len - 1 };
            let envelope = envelope.map(|(reference, nonce, tag)| Envelope { reference, nonce, tag });
            let header = RecordHeader {
                domain: DomainId(domain), id: ChunkId(id), codec, raw_len, payload_len, written_at, payload_crc, envelope,
            };
            prop_assert_eq!(RecordHeader::decode(&header.encode()), Ok(header));
            let other = RecordHeader { payload_crc: !payload_crc, ..header };
            let (bytes, other) = (header.encode(), other.encode());
            prop_assert_eq!(associated(&bytes), associated(&other));
        }

        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), sealed in any::<bool>()) {
            if sealed && let Some(header) = bytes.first_chunk_mut::<HEADER_BYTES>() {
                header[..4].copy_from_slice(&MAGIC);
                let codec = header[12] % 4;
                let cipher = header[13] % 2;
                header[4..14].copy_from_slice(&[1, 0, 128, 0, cipher, 0, 0, 0, codec, cipher]);
                seal(header);
            }
            if let Ok(header) = RecordHeader::decode(&bytes) {
                prop_assert!(header.raw_len as usize <= RECORD_RAW_BYTES_MAX && header.payload_len <= header.raw_len);
            }
        }
    }
}
