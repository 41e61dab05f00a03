//! Sizes and durations as people write them: `64MiB`, `30s`. A bare number is refused, because its unit is a guess.

use std::time::Duration;

const SIZES: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

const DURATIONS_MS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Bytes of `64MiB`, `1GB` or `512B`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZES).ok_or_else(|| format!("'{text}' is not a size; write a number and a unit, as in 64MiB or 1GB"))
}

/// The time of `500ms`, `30s`, `5min`, `1h` or `1d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let ms = scaled(text, &DURATIONS_MS)
        .ok_or_else(|| format!("'{text}' is not a duration; write a number and a unit, as in 500ms, 30s or 5min"))?;
    Ok(Duration::from_millis(ms))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_need_units() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("2 GB"), Ok(2_000_000_000));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2min"), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "64",
            "MiB",
            "-1MiB",
            "64mib",
            "99999999999TiB",
            "1.5GiB",
            "5 parsecs",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
