//! Whether the store is encrypted, and with which master key.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysReport {
    /// The data directory.
    pub data: PathBuf,
    /// The master key that opens the store; `None`: it is not encrypted.
    pub in_use: Option<String>,
    /// The master keys that are given, in their order.
    pub given: Vec<String>,
}

impl fmt::Display for KeysReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(in_use) = &self.in_use else {
            return writeln!(f, "the store is not encrypted");
        };
        writeln!(f, "the store is encrypted with master key {in_use}")?;
        for (place, id) in self.given.iter().enumerate() {
            let note = match (place, id == in_use) {
                (_, true) => "in use",
                (0, false) => "for the next rotation",
                _ => "for backups from its time",
            };
            writeln!(f, "{id}  {note}")?;
        }
        Ok(())
    }
}

/// Which master key gave way to which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationReport {
    pub from: String,
    pub to: String,
}

impl fmt::Display for RotationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        writeln!(f, "the store is encrypted with master key {to} from now on")?;
        writeln!(
            f,
            "{from} is needed for backups from its time only: remove it from the keys once there are none"
        )
    }
}
