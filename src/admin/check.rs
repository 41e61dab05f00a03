//! What a check of the whole store found.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::usage::human;
use crate::object::{CheckReport as Found, Progress};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The directory of the store.
    pub data: PathBuf,
    /// Nothing is wrong.
    pub sound: bool,
    /// Whether the bytes were read.
    pub read_data: bool,
    /// What was made anew before the check.
    pub repaired: Option<Repaired>,
    #[serde(flatten)]
    pub found: Found,
}

/// A line of the answer to who asks the gateway for a check. The last one is the report or the error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckLine {
    Progress(Progress),
    Report(Box<CheckReport>),
    /// Why the check could not be made.
    Error(String),
}

impl CheckLine {
    pub fn encode(&self) -> Bytes {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    pub chunks: u64,
    pub counters: u64,
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Repaired { chunks, counters }) = self.repaired {
            writeln!(f, "repaired  {chunks} chunk rows, {counters} counters")?;
        }
        writeln!(f, "objects   {}", self.found.objects)?;
        let newer = match self.found.newer_copies {
            0 => String::new(),
            copies => format!(", {copies} of them newer copies of what the index names"),
        };
        let (packs, cloud) = (self.found.packs, self.found.cloud_packs);
        writeln!(f, "packs     {packs}, {cloud} of them in the cloud")?;
        writeln!(f, "index     {} records in packs{newer}", self.found.index_records)?;
        if self.read_data {
            let (records, bodies, bytes) = (self.found.records, self.found.bodies, human(self.found.bytes));
            writeln!(f, "read      {records} records and {bodies} small objects, {bytes}")?;
        }
        for difference in &self.found.differences {
            writeln!(f, "wrong     {difference}")?;
        }
        for unread in &self.found.unread_objects {
            let until = unread
                .until
                .as_ref()
                .map_or(String::new(), |until| format!(" up to {until}"));
            writeln!(
                f,
                "wrong     objects from {} on{until} cannot be read: {}",
                unread.from, unread.reason
            )?;
        }
        for bad in &self.found.bad_objects {
            writeln!(f, "wrong     {}: {}", bad.object, bad.reason)?;
        }
        for damage in &self.found.damage {
            write!(f, "\n{damage}")?;
        }
        let told = (self.found.bad_objects.len() + self.found.damage.len()) as u64;
        let more = (self.found.bad_objects_total + self.found.damage_total).saturating_sub(told);
        if more > 0 {
            writeln!(f, "\nand {more} more")?;
        }
        if self.sound && !self.read_data {
            writeln!(
                f,
                "sound, as far as the metadata tells; --read-data reads the bytes too"
            )
        } else {
            writeln!(f, "{}", if self.sound { "sound" } else { "NOT SOUND" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{BadObject, DamagedObject};

    #[test]
    fn what_is_wrong_is_told_by_object() {
        let object = DamagedObject {
            bucket: "b".into(),
            key: "k".into(),
            upload: None,
        };
        let found = Found {
            objects: 3,
            differences: vec!["counter x is 1".into()],
            bad_objects: vec![BadObject {
                object,
                reason: "its data is not there".into(),
            }],
            bad_objects_total: 5,
            ..Found::default()
        };
        let report = CheckReport {
            found,
            ..CheckReport::default()
        };
        let text = report.to_string();
        let lines = [
            "objects   3",
            "wrong     counter x is 1",
            "wrong     s3://b/k: its data is not there",
            "and 4 more",
            "NOT SOUND",
        ];
        for line in lines {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let sound = CheckReport {
            sound: true,
            ..CheckReport::default()
        };
        assert!(sound.to_string().contains("sound, as far as"));
    }
}
