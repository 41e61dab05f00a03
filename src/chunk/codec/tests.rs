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
        assert_eq!(round_trip(&codecs, &text, Compression::Zstd(level)).0, Codec::Zstd);
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

/// What an encoder needs for one chunk, and whether it is kept afterwards.
fn context(raw: &[u8], level: i32) -> (usize, bool) {
    let mut encoder = Encoder::new().unwrap();
    let setting = Compression::Zstd(level);
    assert_eq!(encoder.encode(raw, setting, &mut Vec::new()), Some(Codec::Zstd));
    let codecs = Codecs::new(1);
    round_trip(&codecs, raw, setting);
    let is_kept = !codecs.encoders.lock().is_empty();
    (encoder.zstd.context_mut().sizeof(), is_kept)
}

#[test]
fn contexts_of_high_levels_are_bounded_and_not_kept() {
    // The tables are sized by the chunk's length; a text that repeats itself is done in no time at every level.
    let text = b"all work and no play makes a dull gateway\n".repeat(110_000);
    for level in Compression::ZSTD_LEVELS {
        for length in [64 * KIB, 256 * KIB, 4 * MIB] {
            let (bytes, is_kept) = context(&text[..length], level);
            assert!(bytes <= 20 * MIB, "{level} {length}: {bytes}");
            assert_eq!(is_kept, bytes <= CONTEXT_BYTES_KEPT, "{level} {length}: {bytes}");
            assert!(is_kept || level > 9 || length == 4 * MIB, "{level} {length}: {bytes}");
        }
    }
}

#[test]
fn a_context_serves_all_levels_in_turn() {
    let codecs = Codecs::new(1);
    let text: Vec<u8> = (0..30_000u32).flat_map(|n| format!("{n:x} ").into_bytes()).collect();
    let of = |setting| round_trip(&codecs, &text, setting).1;
    let alone = |setting| round_trip(&Codecs::new(0), &text, setting).1;
    for setting in [
        Compression::MAX,
        Compression::Zstd(1),
        Compression::Fast,
        Compression::BALANCED,
    ] {
        // What does not fit breaks a session off, which must not stay for the next level.
        let mut mixed = noise(200_000);
        mixed[..4096].fill(b'a');
        mixed[100_000..104_096].fill(b'b');
        assert_eq!(round_trip(&codecs, &mixed, Compression::MAX).0, Codec::Raw);
        assert_eq!(of(setting), alone(setting));
    }
    assert!(of(Compression::MAX) < of(Compression::BALANCED) && of(Compression::BALANCED) < of(Compression::Fast));
}

#[test]
fn no_level_is_tried_on_what_the_probe_refuses() {
    // Letters of a base64 text: zstd would take a quarter off, and LZ4 finds nothing.
    let letters: Vec<u8> = noise(256 * KIB).into_iter().map(|byte| b'0' + byte % 64).collect();
    for setting in [
        Compression::Fast,
        Compression::BALANCED,
        Compression::MAX,
        Compression::Zstd(22),
    ] {
        let codecs = Codecs::new(1);
        assert_eq!(round_trip(&codecs, &letters, setting).0, Codec::Raw);
        let mut encoders = codecs.encoders.lock();
        let idle = encoders.pop().unwrap().zstd.context_mut().sizeof();
        assert!(idle < 64 * KIB, "{setting:?}: zstd was at work, {idle} bytes");
    }
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
