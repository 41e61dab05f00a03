//! How collection stands.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::usage::human;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GcState {
    #[default]
    Idle,
    Running,
    /// By the brake, until an administrator resumes.
    Stopped,
    /// Another gateway collects.
    Elsewhere,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    pub state: GcState,
    pub epoch: u64,
    /// Why it is stopped, and since when (RFC 3339).
    pub stopped: Option<GcStop>,
    pub debt: GcDebt,
    /// The run under way.
    pub run: Option<GcRun>,
    /// The last run of this process that did something or failed.
    pub last: Option<GcLast>,
    /// Packs that cannot be emptied.
    pub stuck: Vec<GcStuck>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcStop {
    pub since: Option<String>,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcDebt {
    /// Bytes of the packs in use, and those of them that nothing needs.
    pub pack_bytes: u64,
    pub dead_bytes: u64,
    /// Packs with enough dead bytes to be emptied, worst first.
    pub packs_above_mark: Vec<GcPack>,
    /// Deleted payloads whose references are still to be taken back.
    pub garbage: u64,
    /// Payloads that are being uploaded.
    pub building: u64,
    /// Payloads of uploads that ended without a word, or of a process that is gone.
    pub abandoned: u64,
    /// There are more payloads than were counted.
    pub more: bool,
    /// Packs that nothing needs and that the restore window keeps.
    pub condemned: u64,
    pub condemned_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Eq)]
pub struct GcPack {
    pub pack: String,
    pub bytes: u64,
    pub dead_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRun {
    pub began: Option<String>,
    /// Packs that it is done with, of those chosen so far.
    pub pack: u64,
    pub packs: u64,
    pub bytes_moved: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcLast {
    pub began: Option<String>,
    pub ended: Option<String>,
    /// Payloads whose references were taken back.
    pub unwound: u64,
    pub packs_deleted: u64,
    pub bytes_deleted: u64,
    pub bytes_moved: u64,
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcStuck {
    pub pack: String,
    pub live_bytes: i64,
    pub why: String,
}

/// Whether collection had been stopped, and goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcResumed {
    pub resumed: bool,
}

/// Packs above the mark that are named to people.
const NAMED_MAX: usize = 10;

impl fmt::Display for GcReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            GcState::Idle => "idle",
            GcState::Running => "running",
            GcState::Stopped => "STOPPED",
            GcState::Elsewhere => "another gateway collects",
        };
        writeln!(f, "state      {state}, epoch {}", self.epoch)?;
        if let Some(GcStop { since, why }) = &self.stopped {
            writeln!(f, "since      {}", or_never(since))?;
            writeln!(f, "why        {why}")?;
            writeln!(f, "           run cairn check, then cairn admin gc resume")?;
        }
        if let Some(run) = &self.run {
            let moved = human(run.bytes_moved);
            writeln!(f, "run        pack {} of {}, {moved} moved", run.pack, run.packs)?;
        }
        writeln!(f, "{}", self.debt)?;
        if let Some(last) = &self.last {
            writeln!(f, "last run   {} to {}", or_never(&last.began), or_never(&last.ended))?;
            let (deleted, moved) = (human(last.bytes_deleted), human(last.bytes_moved));
            let (unwound, packs) = (last.unwound, last.packs_deleted);
            writeln!(
                f,
                "           {unwound} payloads unwound, {packs} packs of {deleted} deleted, {moved} moved"
            )?;
            if let Some(error) = &last.error {
                writeln!(f, "           failed: {error}")?;
            }
        }
        for GcStuck { pack, live_bytes, why } in &self.stuck {
            writeln!(f, "stuck      {pack}, {live_bytes} live bytes: {why}")?;
        }
        Ok(())
    }
}

impl fmt::Display for GcDebt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dead, all) = (human(self.dead_bytes), human(self.pack_bytes));
        writeln!(f, "dead       {dead} of {all}")?;
        let (abandoned, building) = (self.abandoned, self.building);
        let more = if self.more { " and more" } else { "" };
        writeln!(
            f,
            "garbage    {} payloads{more}, {abandoned} abandoned, {building} being uploaded",
            self.garbage
        )?;
        if self.condemned > 0 {
            let bytes = human(self.condemned_bytes);
            writeln!(
                f,
                "condemned  {} packs of {bytes}, kept by the restore window",
                self.condemned
            )?;
        }
        write!(f, "to empty   {} packs", self.packs_above_mark.len())?;
        for GcPack {
            pack,
            bytes,
            dead_bytes,
        } in self.packs_above_mark.iter().take(NAMED_MAX)
        {
            write!(
                f,
                "\n           {pack}, {} of {} dead",
                human(*dead_bytes),
                human(*bytes)
            )?;
        }
        Ok(())
    }
}

fn or_never(time: &Option<String>) -> &str {
    time.as_deref().unwrap_or("never")
}

impl fmt::Display for GcResumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.resumed {
            "collection goes on"
        } else {
            "collection was not stopped"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_collection_up_is_told() {
        let report = GcReport {
            state: GcState::Stopped,
            epoch: 7,
            stopped: Some(GcStop {
                since: None,
                why: "pack x is odd".into(),
            }),
            debt: GcDebt {
                dead_bytes: 1 << 20,
                condemned: 2,
                more: true,
                ..GcDebt::default()
            },
            last: Some(GcLast {
                error: Some("a disk".into()),
                ..GcLast::default()
            }),
            stuck: vec![GcStuck {
                pack: "p".into(),
                live_bytes: 9,
                why: "it is stuck".into(),
            }],
            ..GcReport::default()
        };
        let text = report.to_string();
        for part in [
            "STOPPED, epoch 7",
            "why        pack x is odd",
            "gc resume",
            "1.0 MiB of 0 B",
            "and more",
            "2 packs of 0 B",
            "failed: a disk",
            "9 live bytes: it is stuck",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(
            serde_json::to_string(&report)
                .unwrap()
                .contains("\"state\":\"stopped\"")
        );
    }
}
