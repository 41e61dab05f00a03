//! `cairn restore`: a data directory from a backup.

use std::fmt;

use clap::{Arg, ArgAction, ArgMatches, Command};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::backup::{Id, Restored, Wanted, told};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::server::{self, RestoreCommandError, RestoreRequest};

pub fn command() -> Command {
    Command::new("restore")
        .about("Make the data directory, which is empty, from the backup at backup.url")
        .arg(
            Arg::new("at")
                .long("at")
                .value_name("TIME")
                .value_parser(parse_time)
                .help("the state at this time, as in 2026-11-22T04:20:00Z; the last one if not given"),
        )
        .arg(
            Arg::new("store")
                .long("store")
                .value_name("ID")
                .value_parser(parse_id)
                .help("which store, where there are backups of several"),
        )
        .arg(
            Arg::new("lossy").long("lossy").action(ArgAction::SetTrue).help(
                "bring back what there is, even if the backup has not all of it; `cairn check` names what is lost",
            ),
        )
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "write it as in 2026-11-22T04:20:00Z or 2026-11-22T06:20:00+02:00".to_owned())?;
    let ms = u64::try_from(time.unix_timestamp_nanos() / 1_000_000);
    ms.map(Timestamp::from_unix_ms)
        .map_err(|_| "that was before 1970".to_owned())
}

fn parse_id(text: &str) -> Result<Id, String> {
    text.parse().map_err(|_| "an id has 32 hex digits".to_owned())
}

pub fn request(matches: &ArgMatches) -> RestoreRequest {
    RestoreRequest {
        wanted: matches.get_one("at").map_or(Wanted::Last, |time| Wanted::At(*time)),
        store: matches.get_one("store").copied(),
        lossy: matches.get_flag("lossy"),
    }
}

/// What to tell of a restore.
pub struct Done {
    restored: Restored,
    data: String,
    /// Whether the directory has the root key pair, or the operator gave it.
    has_root: bool,
}

pub fn run(config: &Config, request: RestoreRequest) -> Result<Done, RestoreCommandError> {
    let restored = server::restore(config, request)?;
    Ok(Done {
        restored,
        data: config.data.display().to_string(),
        has_root: config.root.is_some() || config.data.join("root-key").exists(),
    })
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Restored {
            point,
            packs,
            bytes,
            lacks,
            ..
        } = &self.restored;
        let (sequence, time) = (point.sequence.0, told(point.time).unwrap_or_default());
        writeln!(f, "restored  commit {sequence}, {time}")?;
        writeln!(f, "packs     {packs} of {bytes} bytes")?;
        write!(f, "data      {}", self.data)?;
        for lack in lacks {
            write!(f, "\nlost      {lack}")?;
        }
        if !self.has_root {
            write!(
                f,
                "\nThe root key pair is not in the backup: `cairn serve` makes a new one, unless the old file root-key is put there before."
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_zone() {
        assert_eq!(parse_time("1970-01-01T00:00:02.5Z"), Ok(Timestamp::from_unix_ms(2500)));
        assert_eq!(parse_time("1970-01-01T01:00:00+01:00"), Ok(Timestamp::from_unix_ms(0)));
        for bad in ["2026-11-22", "2026-11-22T04:20:00", "yesterday", "1969-12-31T23:59:59Z"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
