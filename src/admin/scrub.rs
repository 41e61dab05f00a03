//! How the scrub stands.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::object::{BadObject, Damage};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Whether a pass is under way.
    pub running: bool,
    /// When that pass, or the last one, began; RFC 3339.
    pub began: Option<String>,
    /// When a pass last came to its end.
    pub finished: Option<String>,
    /// What the pass has verified so far: records, and their bytes in the packs.
    pub records: u64,
    pub bytes: u64,
    /// Bodies of small objects among what was verified; they are in no pack.
    pub bodies: u64,
    /// Bytes of all packs, with what waits to be collected.
    pub total_bytes: u64,
    /// Records and objects that do not read back.
    pub damaged: u64,
    /// Records that had been noted as damaged and read well again.
    pub healed: u64,
    /// What was found since the gateway started, at most a thousand chunks of each pass.
    pub damage: Vec<Damage>,
    /// Objects whose rows or bodies are damaged, likewise.
    pub bad_objects: Vec<BadObject>,
}

impl fmt::Display for ScrubReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let never = || "never".to_owned();
        let state = if self.running { "running" } else { "at rest" };
        writeln!(f, "scrub     {state}")?;
        writeln!(f, "began     {}", self.began.clone().unwrap_or_else(never))?;
        writeln!(f, "finished  {}", self.finished.clone().unwrap_or_else(never))?;
        writeln!(
            f,
            "verified  {} records, {} of {} bytes, and {} small objects",
            self.records, self.bytes, self.total_bytes, self.bodies
        )?;
        writeln!(f, "damaged   {}", self.damaged)?;
        for damage in &self.damage {
            write!(f, "\n{damage}")?;
        }
        for bad in &self.bad_objects {
            writeln!(f, "\n{}: {}", bad.object, bad.reason)?;
        }
        Ok(())
    }
}
