//! Checksums of bodies: computed as the bytes pass, compared with what the client sent, combined over parts.
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use sha1::Digest;

use crate::object::ReceiveError;
use crate::object::crc_combine::{self, Reflected};
use crate::object::types::{Checksum, ChecksumAlgorithm, ChecksumKind, ExpectedChecksum};

impl ChecksumKind {
    /// The kind of a multipart object's checksum; `None`: the algorithm has none of the asked kind.
    pub(super) fn for_multipart(algorithm: ChecksumAlgorithm, asked: Option<Self>) -> Option<Self> {
        use ChecksumAlgorithm::{Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
        match (algorithm, asked) {
            (Crc64Nvme, None | Some(Self::FullObject)) => Some(Self::FullObject),
            (Crc64Nvme, Some(Self::Composite)) => None,
            (Sha1 | Sha256, None | Some(Self::Composite)) => Some(Self::Composite),
            (Sha1 | Sha256, Some(Self::FullObject)) => None,
            (Crc32 | Crc32c, kind) => Some(kind.unwrap_or(Self::Composite)),
        }
    }
}

fn crc(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

fn reflected(algorithm: ChecksumAlgorithm) -> Option<Reflected> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(crc_combine::CRC32),
        ChecksumAlgorithm::Crc32c => Some(crc_combine::CRC32C),
        ChecksumAlgorithm::Crc64Nvme => Some(crc_combine::CRC64NVME),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

/// The low `width` bytes of a CRC, big-endian.
fn crc_value(crc: u64, width: usize) -> Vec<u8> {
    crc.to_be_bytes().into_iter().skip(8 - width).collect()
}

fn crc_number(value: &[u8]) -> u64 {
    value.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// One checksum in the making.
pub struct Hasher {
    algorithm: ChecksumAlgorithm,
    state: State,
}

enum State {
    Crc(crc_fast::Digest),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Hasher {
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let state = match (crc(algorithm), algorithm) {
            (Some(crc), _) => State::Crc(crc_fast::Digest::new(crc)),
            (None, ChecksumAlgorithm::Sha1) => State::Sha1(sha1::Sha1::default()),
            (None, _) => State::Sha256(sha2::Sha256::default()),
        };
        Self { algorithm, state }
    }

    pub fn update(&mut self, data: &[u8]) {
        match &mut self.state {
            State::Crc(crc) => crc.update(data),
            State::Sha1(sha) => sha.update(data),
            State::Sha256(sha) => sha.update(data),
        }
    }

    pub fn finish(self) -> Vec<u8> {
        match self.state {
            State::Crc(crc) => crc_value(crc.finalize(), self.algorithm.width()),
            State::Sha1(sha) => sha.finalize().to_vec(),
            State::Sha256(sha) => sha.finalize().to_vec(),
        }
    }
}

/// The checksum of one body and what it must be.
pub struct BodyChecksum {
    hasher: Hasher,
    expected: ExpectedChecksum,
}

impl BodyChecksum {
    /// `default`: the algorithm of a body for which the client named none.
    pub fn new(expected: ExpectedChecksum, default: ChecksumAlgorithm) -> Self {
        let algorithm = named(&expected).unwrap_or(default);
        Self {
            hasher: Hasher::new(algorithm),
            expected,
        }
    }

    pub fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
    }

    /// The full-object checksum, once the body and its trailers are over.
    pub fn finish(self) -> Result<Checksum, ReceiveError> {
        let algorithm = self.hasher.algorithm;
        let value = self.hasher.finish();
        let expected = match self.expected {
            ExpectedChecksum::None | ExpectedChecksum::Compute(_) => None,
            ExpectedChecksum::Header(_, value) => Some(value),
            ExpectedChecksum::Trailer(_, trailer) => Some(trailer().ok_or(ReceiveError::MissingTrailer(algorithm))?),
        };
        match expected {
            Some(expected) if expected != value => Err(ReceiveError::BadChecksum(algorithm)),
            _ => Ok(Checksum {
                algorithm,
                kind: ChecksumKind::FullObject,
                value,
            }),
        }
    }
}

/// The algorithm that the client named.
pub fn named(expected: &ExpectedChecksum) -> Option<ChecksumAlgorithm> {
    match expected {
        ExpectedChecksum::None => None,
        ExpectedChecksum::Compute(algorithm)
        | ExpectedChecksum::Header(algorithm, _)
        | ExpectedChecksum::Trailer(algorithm, _) => Some(*algorithm),
    }
}

/// The checksum of a whole multipart object from its parts' values and sizes, in order.
pub fn of_parts<'a>(
    algorithm: ChecksumAlgorithm,
    kind: ChecksumKind,
    parts: impl Iterator<Item = (&'a [u8], u64)>,
) -> Vec<u8> {
    match (kind, reflected(algorithm)) {
        (ChecksumKind::FullObject, Some(crc)) => {
            let pieces = parts.map(|(value, size)| (crc_number(value), size));
            crc_value(crc.combine(pieces), algorithm.width())
        }
        _ => {
            let mut hasher = Hasher::new(algorithm);
            parts.for_each(|(value, _)| hasher.update(value));
            hasher.finish()
        }
    }
}

/// A checksum as the object record keeps it.
pub fn to_record(checksum: &Checksum) -> (u8, u8, Bytes) {
    (
        checksum.algorithm as u8,
        checksum.kind as u8,
        Bytes::copy_from_slice(&checksum.value),
    )
}

pub fn from_record(stored: Option<&(u8, u8, Bytes)>) -> Option<Checksum> {
    let (algorithm, kind, value) = stored?;
    let algorithm = ChecksumAlgorithm::from_code(*algorithm)?;
    Some(Checksum {
        algorithm,
        kind: ChecksumKind::from_code(*kind)?,
        value: value.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [ChecksumAlgorithm; 5] = [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ];

    fn whole(algorithm: ChecksumAlgorithm, data: &[u8]) -> Vec<u8> {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(data);
        hasher.finish()
    }

    /// The check values of the CRC catalogue and of FIPS 180.
    #[test]
    fn known_answers() {
        let expected = [
            "cbf43926",
            "e3069283",
            "ae8b14860a799888",
            "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
        ];
        for (algorithm, expected) in ALL.into_iter().zip(expected) {
            assert_eq!(hex::encode(whole(algorithm, b"123456789")), expected, "{algorithm:?}");
            assert_eq!(whole(algorithm, b"").len(), algorithm.width());
        }
    }

    proptest! {
        #[test]
        fn part_crcs_combine_to_the_whole(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..6)) {
            let joined = parts.concat();
            for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64Nvme] {
                let values: Vec<(Vec<u8>, u64)> = parts.iter().map(|part| (whole(algorithm, part), part.len() as u64)).collect();
                let combined = of_parts(algorithm, ChecksumKind::FullObject, values.iter().map(|(value, size)| (value.as_slice(), *size)));
                prop_assert_eq!(combined, whole(algorithm, &joined));
            }
        }
    }

    #[test]
    fn a_missing_or_wrong_trailer_is_refused() {
        let trailer =
            |value: Option<Vec<u8>>| ExpectedChecksum::Trailer(ChecksumAlgorithm::Crc32, Box::new(move || value));
        let check = |value| {
            let mut checksum = BodyChecksum::new(trailer(value), ChecksumAlgorithm::Crc64Nvme);
            checksum.update(b"123456789");
            checksum.finish()
        };
        assert!(matches!(
            check(None),
            Err(ReceiveError::MissingTrailer(ChecksumAlgorithm::Crc32))
        ));
        assert!(matches!(
            check(Some(vec![1, 2, 3, 4])),
            Err(ReceiveError::BadChecksum(_))
        ));
        assert!(check(Some(vec![0xcb, 0xf4, 0x39, 0x26])).is_ok());
    }
}
