//! A bucket's settings, which are tags of our own prefix: every client can set them, and every tool shows them.

use crate::chunk::chunker::Profile;
use crate::chunk::codec::Compression;
use crate::meta::bucket::Bucket;

/// Tags that begin so are settings, and nothing else.
const PREFIX: &str = "cairn:";
const COMPRESSION: &str = "cairn:compression";
const CHUNKING: &str = "cairn:chunking";

/// A tag with our prefix that is no setting, or has no value of one. The text tells the user what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownSetting {
    #[error("tag keys that begin with cairn: are settings, and there are only cairn:compression and cairn:chunking")]
    Key,
    #[error("cairn:compression is off, fast, balanced, max or a zstd level from 1 to 22")]
    Compression,
    #[error("cairn:chunking is general, backup or media")]
    Chunking,
}

/// How new bytes of a bucket are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WriteSettings {
    /// `None`: as the server is set.
    pub compression: Option<Compression>,
    pub profile: Profile,
}

impl WriteSettings {
    /// Passes over a setting that a newer version wrote: bytes are stored well without it.
    pub fn of(bucket: &Bucket) -> Self {
        let mut settings = Self::default();
        for (key, value) in &bucket.tags {
            let _ = settings.follow(key, value);
        }
        settings
    }

    /// Refuses tags that would be settings without a meaning.
    pub fn check(tags: &[(String, String)]) -> Result<(), UnknownSetting> {
        let mut settings = Self::default();
        tags.iter().try_for_each(|(key, value)| settings.follow(key, value))
    }

    fn follow(&mut self, key: &str, value: &str) -> Result<(), UnknownSetting> {
        match key {
            COMPRESSION => self.compression = Some(compression(value).ok_or(UnknownSetting::Compression)?),
            CHUNKING => self.profile = profile(value).ok_or(UnknownSetting::Chunking)?,
            _ if key.starts_with(PREFIX) => return Err(UnknownSetting::Key),
            _ => {}
        }
        Ok(())
    }
}

fn compression(value: &str) -> Option<Compression> {
    Some(match value {
        "off" => Compression::Off,
        "fast" => Compression::Fast,
        "balanced" => Compression::BALANCED,
        "max" => Compression::MAX,
        level => {
            // One way to write a level: no sign and no zeros in front.
            let number = level
                .parse()
                .ok()
                .filter(|number| Compression::ZSTD_LEVELS.contains(number))?;
            (number.to_string() == level).then_some(Compression::Zstd(number))?
        }
    })
}

fn profile(value: &str) -> Option<Profile> {
    Some(match value {
        "general" => Profile::General,
        "backup" => Profile::Backup,
        "media" => Profile::Media,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, value: &str) -> Result<(), UnknownSetting> {
        WriteSettings::check(&[(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn every_value_of_a_setting_is_read_and_no_other() {
        for (value, meant) in [
            ("off", Compression::Off),
            ("fast", Compression::Fast),
            ("balanced", Compression::Zstd(3)),
            ("max", Compression::MAX),
            ("1", Compression::Zstd(1)),
            ("22", Compression::Zstd(22)),
        ] {
            assert_eq!(compression(value), Some(meant));
            assert_eq!(check(COMPRESSION, value), Ok(()));
        }
        for value in ["", "0", "23", "-1", "+3", "03", "3 ", "Max", "zstd", "4294967297"] {
            assert_eq!(check(COMPRESSION, value), Err(UnknownSetting::Compression), "{value}");
        }
        for (value, meant) in ["general", "backup", "media"].into_iter().zip(Profile::ALL) {
            assert_eq!(profile(value), Some(meant));
            assert_eq!(check(CHUNKING, value), Ok(()));
        }
        for value in ["", "General", "none"] {
            assert_eq!(check(CHUNKING, value), Err(UnknownSetting::Chunking), "{value}");
        }
    }

    #[test]
    fn our_prefix_is_ours_alone() {
        for key in ["cairn:", "cairn:compress", "cairn:Compression", "cairn:chunking "] {
            assert_eq!(check(key, "fast"), Err(UnknownSetting::Key), "{key}");
        }
        for key in ["cairn", "Cairn:compression", "team", "cairns:a"] {
            assert_eq!(check(key, "fast"), Ok(()), "{key}");
        }
    }
}
