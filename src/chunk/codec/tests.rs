use proptest::prelude::*;

use super::*;

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn round_trip(codecs: &Codecs, raw: &[u8], setting: Compression) -> (Codec, usize) {
    let mut stored = vec![1, 2, 3];
    let codec = codecs.encode(raw, setting, Hint::Unknown, &mut stored);
    if codec == Codec::Raw {
        assert!(stored.is_empty());
        return (codec, raw.len());
    }
    let mut back = vec![0; raw.len()];
    codecs.decode(codec, &stored, &mut back).unwrap();
    assert_eq!(back, raw);
    assert!(stored.len() * 10 <= raw.len() * 9);
    (codec, stored.len())
}

#[test]
fn ids_are_frozen() {
    assert_eq!(
        [0, 1, 2, 3].map(Codec::from_u8),
        [Some(Codec::Raw), Some(Codec::Zstd), Some(Codec::Lz4), None]
    );
}

#[test]
fn only_what_pays_is_compressed() {
    let codecs = Codecs::new(2);
    let text = b"all work and no play makes a dull gateway\n".repeat(2000);
    assert_eq!(round_trip(&codecs, &text, Compression::default()).0, Codec::Zstd);
    assert_eq!(round_trip(&codecs, &text, Compression::Fast).0, Codec::Lz4);
    assert_eq!(round_trip(&codecs, &text, Compression::Off).0, Codec::Raw);
    assert_eq!(
        round_trip(&codecs, &noise(80_000), Compression::default()).0,
        Codec::Raw
    );
    assert_eq!(round_trip(&codecs, &text[..20], Compression::default()).0, Codec::Raw);
    let mut out = Vec::new();
    assert_eq!(
        codecs.encode(&text, Compression::default(), Hint::AlreadyCompressed, &mut out),
        Codec::Raw
    );
    // Samples that compress in front of bytes that do not: the result is over nine tenths and thrown away.
    let mut mixed = noise(400_000);
    mixed[..4096].fill(b'a');
    mixed[200_000..204_096].fill(b'b');
    assert_eq!(round_trip(&codecs, &mixed, Compression::default()).0, Codec::Raw);
    assert_eq!(round_trip(&codecs, &mixed, Compression::Fast).0, Codec::Raw);
    for level in [1, 3, 9, 3] {
        assert_eq!(round_trip(&codecs, &text, Compression::Balanced(level)).0, Codec::Zstd);
    }
}

#[test]
fn contexts_are_bounded() {
    let codecs = Codecs::new(1);
    let text = b"ab".repeat(50_000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| round_trip(&codecs, &text, Compression::default()));
        }
    });
    assert!(codecs.encoders.lock().len() <= 1 && codecs.decoders.lock().len() <= 1);
}

proptest! {
    #[test]
    fn any_payload_decodes_or_fails(codec in 0u8..3, stored in proptest::collection::vec(any::<u8>(), 0..500), raw_len in 0usize..2000) {
        let codecs = Codecs::new(1);
        let mut out = vec![0; raw_len];
        let _ = codecs.decode(Codec::from_u8(codec).unwrap(), &stored, &mut out);
    }

    #[test]
    fn any_bytes_round_trip(seed in proptest::collection::vec(any::<u8>(), 1..40), times in 1usize..3000, fast in any::<bool>()) {
        let setting = if fast { Compression::Fast } else { Compression::default() };
        round_trip(&Codecs::new(1), &seed.repeat(times), setting);
    }

    #[test]
    fn a_flipped_byte_never_decodes_to_another_length(position in any::<proptest::sample::Index>(), with in 1u8..) {
        let codecs = Codecs::new(1);
        let text = b"some text that compresses quite well, some text".repeat(100);
        let mut stored = Vec::new();
        let codec = codecs.encode(&text, Compression::Fast, Hint::Unknown, &mut stored);
        let position = position.index(stored.len());
        stored[position] ^= with;
        let mut out = vec![0; text.len()];
        let _ = codecs.decode(codec, &stored, &mut out);
    }
}
