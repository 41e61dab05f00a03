//! Boundaries are an on-disk format: what changes a constant here changes what every store finds again.

use fastcdc::v2020::{Normalization, select_masks};
use proptest::prelude::*;

use super::*;

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Numbered lines: deterministic and compressible.
fn text(length: usize) -> Vec<u8> {
    let mut text = String::new();
    let mut line = 0u64;
    while text.len() < length {
        line += 1;
        text.push_str(&format!(
            "{line}: the quick brown fox {} jumps\n",
            line.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40
        ));
    }
    text.into_bytes()[..length].to_vec()
}

/// Chunk lengths of `data` when it arrives `step` bytes at a time.
fn lengths(profile: Profile, data: &[u8], step: usize) -> Vec<usize> {
    let chunker = profile.chunker();
    let (mut lengths, mut start, mut seen) = (Vec::new(), 0, 0);
    while start < data.len() {
        match chunker.cut(&data[start..seen], seen == data.len()) {
            Some(length) => {
                lengths.push(length);
                start += length;
            }
            None => seen = data.len().min(seen + step),
        }
    }
    lengths
}

fn digest(lengths: &[usize]) -> String {
    let mut hasher = blake3::Hasher::new();
    for length in lengths {
        hasher.update(&(*length as u64).to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[test]
fn golden_vectors() {
    let (noise, zeros, text) = (noise(24 * MIB, 1), vec![0; 9 * MIB + 5], text(8 * MIB));
    let found: Vec<_> = Profile::ALL
        .into_iter()
        .flat_map(|profile| [&noise, &zeros, &text].map(|data| lengths(profile, data, data.len())))
        .map(|lengths| (lengths.len(), lengths[0], digest(&lengths)))
        .collect();
    // Count, first length and digest of all lengths: noise, zeros and text for each profile.
    let pinned = [
        (311, 76_660, "f7ecd258a96d2015"),
        (37, 262_144, "8f79b89cd73e5038"),
        (99, 88_452, "bd22d07c872e00e0"),
        (1251, 27_178, "572d920d1b771b7c"),
        (145, 65_536, "2c814fc76ed81f29"),
        (383, 28_224, "5851b63cc24c92c2"),
        (10, 2_193_165, "95ccfd5f71c85512"),
        (3, 4_194_304, "526cffd505be7f6b"),
        (4, 4_194_304, "e342e9aa7583dee4"),
    ];
    let found: Vec<_> = found
        .iter()
        .map(|(count, first, digest)| (*count, *first, digest.as_str()))
        .collect();
    assert_eq!(found, pinned);
}

#[test]
fn the_masks_are_those_of_the_paper() {
    for profile in Profile::ALL {
        let parameters = profile.parameters();
        let masks = select_masks(parameters.average, Normalization::Level1);
        assert_eq!((parameters.mask_before, parameters.mask_behind), masks);
        assert_eq!(Profile::from_u8(profile as u8), Some(profile));
        assert!(parameters.max <= CHUNK_BYTES_MAX);
    }
}

#[test]
fn an_insertion_moves_few_boundaries() {
    let before = noise(16 * MIB, 4);
    let mut after = before.clone();
    after.splice(5_000_000..5_000_000, noise(777, 5));
    let ends = |data: &[u8]| -> std::collections::HashSet<usize> {
        // Distances from the end, which the insertion does not change.
        let total = data.len();
        lengths(Profile::General, data, total)
            .iter()
            .scan(0, |sum, length| {
                *sum += length;
                Some(total - *sum)
            })
            .collect()
    };
    let (old, new) = (ends(&before), ends(&after));
    let kept = old.intersection(&new).count();
    // Everything behind the insertion but the few chunks until the boundaries meet again.
    let behind = old.iter().filter(|end| **end < 16 * MIB - 5_000_000).count();
    assert!(kept + 8 >= behind, "{kept} boundaries kept of {behind}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn chunks_cover_the_input_whatever_the_feeding(seed in any::<u64>(), length in 0usize..1_500_000, step in 1000usize..400_000, profile in 0usize..3) {
        let profile = Profile::ALL[profile];
        let data = noise(length, seed);
        let whole = lengths(profile, &data, length.max(1));
        prop_assert_eq!(whole.iter().sum::<usize>(), length);
        prop_assert_eq!(&lengths(profile, &data, step), &whole);
        if let Some((_, inner)) = whole.split_last() {
            prop_assert!(inner.iter().all(|length| *length >= profile.chunk_bytes_min()));
        }
        prop_assert!(whole.iter().all(|length| *length <= profile.chunk_bytes_max()));
    }
}
