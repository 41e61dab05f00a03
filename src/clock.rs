//! Time, injected: the only place that reads the machine's clocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment in Unix milliseconds. In reports it is RFC 3339 with whole seconds, or null: it never was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self(ms)
    }

    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    pub const fn unix_secs(self) -> u64 {
        self.0 / 1000
    }

    /// As people write it, with whole seconds; `None`: it never was.
    pub fn rfc3339(self) -> Option<String> {
        let seconds = i64::try_from(self.unix_secs()).ok().filter(|seconds| *seconds > 0)?;
        OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.rfc3339().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(Self::default());
        };
        let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(de::Error::custom)?;
        let seconds = u64::try_from(time.unix_timestamp()).map_err(de::Error::custom)?;
        Ok(Self(seconds.saturating_mul(1000)))
    }
}

/// Where the time comes from: the machine, or a test's hand.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start_ms` until its hand moves it.
    pub fn manual(start_ms: u64) -> (Self, ClockHand) {
        let time = Arc::new(AtomicU64::new(start_ms));
        (Self(Source::Manual(Arc::clone(&time))), ClockHand(time))
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Source::Manual(time) => Timestamp(time.load(Ordering::Relaxed)),
        }
    }
}

/// Moves a manual clock.
#[derive(Clone, Debug)]
pub struct ClockHand(Arc<AtomicU64>);

impl ClockHand {
    pub fn set_ms(&self, ms: u64) {
        self.0.store(ms, Ordering::Relaxed);
    }

    pub fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_a_report_is_read_again() {
        for (ms, text) in [
            (0, "null"),
            (999, "null"),
            (1_700_000_000_999, "\"2023-11-14T22:13:20Z\""),
            (u64::MAX, "null"),
        ] {
            let told = serde_json::to_string(&Timestamp(ms)).unwrap();
            assert_eq!(told, text);
            let read: Timestamp = serde_json::from_str(&told).unwrap();
            assert_eq!(read.0, if text == "null" { 0 } else { ms / 1000 * 1000 });
        }
        for text in ["\"1960-01-01T00:00:00Z\"", "\"yesterday\"", "7"] {
            assert!(serde_json::from_str::<Timestamp>(text).is_err(), "{text}");
        }
    }
}
