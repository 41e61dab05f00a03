//! Where the packs are, and how their move stands.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateReport {
    /// Where all packs are to go: `cloud` or `local`; none if no move is under way.
    pub to: Option<String>,
    /// Since the gateway started.
    pub moved_packs: u64,
    pub moved_bytes: u64,
    pub local_packs: u64,
    pub local_bytes: u64,
    pub cloud_packs: u64,
    pub cloud_bytes: u64,
    /// Why the last try to move a pack failed; it is tried again every minute.
    pub error: Option<String>,
}

impl fmt::Display for MigrateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Some(to) => writeln!(f, "moving    to {to}")?,
            None => writeln!(f, "moving    nothing")?,
        }
        writeln!(f, "moved     {} packs, {} bytes", self.moved_packs, self.moved_bytes)?;
        writeln!(f, "local     {} packs, {} bytes", self.local_packs, self.local_bytes)?;
        writeln!(f, "cloud     {} packs, {} bytes", self.cloud_packs, self.cloud_bytes)?;
        if let Some(error) = &self.error {
            writeln!(f, "failed    {error}")?;
        }
        Ok(())
    }
}
