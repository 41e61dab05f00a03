//! What a check of the whole store found.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::scrub::{DamagedChunk, DamagedObject};
use super::usage::human;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The directory of the store.
    pub data: PathBuf,
    /// Nothing is wrong.
    pub sound: bool,
    pub objects: u64,
    /// Whether the bytes were read: so many records of packs, bodies of small objects, and bytes of both.
    pub read_data: bool,
    pub records: u64,
    pub bodies: u64,
    pub bytes: u64,
    /// Chunk rows and counters that were made anew before the check.
    pub repaired: Option<Repaired>,
    /// Counters and references that disagree with the rows, one sentence each.
    pub differences: Vec<String>,
    /// Objects whose rows do not fit; the first thousand of `bad_objects_total`.
    pub bad_objects: Vec<BadObject>,
    pub bad_objects_total: u64,
    /// Records that do not read back; the first thousand or fewer of `damage_total`.
    pub damage: Vec<DamagedChunk>,
    pub damage_total: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    pub chunks: u64,
    pub counters: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadObject {
    pub object: DamagedObject,
    pub reason: String,
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Repaired { chunks, counters }) = self.repaired {
            writeln!(f, "repaired  {chunks} chunk rows, {counters} counters")?;
        }
        writeln!(f, "objects   {}", self.objects)?;
        if self.read_data {
            let (records, bodies, bytes) = (self.records, self.bodies, human(self.bytes));
            writeln!(f, "read      {records} records and {bodies} small objects, {bytes}")?;
        }
        for difference in &self.differences {
            writeln!(f, "wrong     {difference}")?;
        }
        for bad in &self.bad_objects {
            writeln!(f, "wrong     {}: {}", bad.object, bad.reason)?;
        }
        for damage in &self.damage {
            write!(f, "\n{damage}")?;
        }
        let told = (self.bad_objects.len() + self.damage.len()) as u64;
        let more = (self.bad_objects_total + self.damage_total).saturating_sub(told);
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

    #[test]
    fn what_is_wrong_is_told_by_object() {
        let object = DamagedObject {
            bucket: "b".into(),
            key: "k".into(),
            upload: None,
        };
        let report = CheckReport {
            objects: 3,
            differences: vec!["counter x is 1".into()],
            bad_objects: vec![BadObject {
                object,
                reason: "its data is not there".into(),
            }],
            bad_objects_total: 5,
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
