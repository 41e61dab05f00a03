//! How collection stands.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::usage::human;
use crate::chunk::{DeadPack, Debt, GcState, GcStatus, Stop, StuckPack};
use crate::clock::Timestamp;

/// Whether collection had been stopped, and goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcResumed {
    pub resumed: bool,
}

/// Packs above the mark that are named to people.
const NAMED_MAX: usize = 10;

impl fmt::Display for GcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            GcState::Idle => "idle",
            GcState::Running => "running",
            GcState::Stopped => "STOPPED",
            GcState::Elsewhere => "another gateway collects",
        };
        writeln!(f, "state      {state}, epoch {}", self.epoch)?;
        if let Some(Stop { since, why }) = &self.stopped {
            writeln!(f, "since      {}", or_never(*since))?;
            writeln!(f, "why        {why}")?;
            writeln!(f, "           run cairn check, then cairn admin gc resume")?;
        }
        if let Some(run) = &self.run {
            let moved = human(run.bytes_moved);
            writeln!(f, "run        pack {} of {}, {moved} moved", run.pack, run.packs)?;
        }
        writeln!(f, "{}", self.debt)?;
        if let Some(last) = &self.last {
            writeln!(f, "last run   {} to {}", or_never(last.began), or_never(last.ended))?;
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
        for StuckPack { pack, live_bytes, why } in &self.stuck {
            writeln!(f, "stuck      {pack}, {live_bytes} live bytes: {why}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Debt {
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
        for DeadPack {
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

pub(super) fn or_never(time: Timestamp) -> String {
    time.rfc3339().unwrap_or_else(|| "never".to_owned())
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
    use crate::chunk::{LastRun, RunProgress};
    use crate::ids::PackId;

    fn report() -> GcStatus {
        let (time, pack) = (Timestamp::from_unix_ms(1_700_000_000_999), PackId([1; 16]));
        GcStatus {
            state: GcState::Stopped,
            epoch: 7,
            stopped: Some(Stop {
                since: time,
                why: "pack x is odd".into(),
            }),
            debt: Debt {
                pack_bytes: 3 << 20,
                dead_bytes: 1 << 20,
                packs_above_mark: vec![DeadPack {
                    pack,
                    bytes: 2 << 20,
                    dead_bytes: 1 << 20,
                }],
                garbage: 1,
                building: 2,
                abandoned: 3,
                more: true,
                condemned: 2,
                condemned_bytes: 4,
            },
            run: Some(RunProgress {
                began: time,
                pack: 1,
                packs: 5,
                bytes_moved: 6,
            }),
            last: Some(LastRun {
                ended: time,
                unwound: 1,
                packs_deleted: 2,
                bytes_deleted: 3,
                bytes_moved: 4,
                error: Some("a disk".into()),
                ..LastRun::default()
            }),
            stuck: vec![StuckPack {
                pack,
                live_bytes: -9,
                why: "it is stuck".into(),
            }],
        }
    }

    #[test]
    fn what_holds_collection_up_is_told() {
        let text = report().to_string();
        for part in [
            "STOPPED, epoch 7",
            "since      2023-11-14T22:13:20Z\nwhy        pack x is odd",
            "gc resume",
            "run        pack 1 of 5, 6 B moved",
            "1.0 MiB of 3.0 MiB",
            "and more",
            "2 packs of 4 B",
            "01010101, 1.0 MiB of 2.0 MiB dead",
            "last run   never to 2023-11-14T22:13:20Z",
            "failed: a disk",
            "-9 live bytes: it is stuck",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    /// What programs read of `/v1/gc`.
    #[test]
    fn the_wire_format_is_frozen() {
        let json = serde_json::to_string(&report()).unwrap();
        let (time, pack) = ("\"2023-11-14T22:13:20Z\"", format!("\"{}\"", "01".repeat(16)));
        let expected = [
            format!("{{\"state\":\"stopped\",\"epoch\":7,\"stopped\":{{\"since\":{time},\"why\":\"pack x is odd\"}},"),
            "\"debt\":{\"pack_bytes\":3145728,\"dead_bytes\":1048576,".to_owned(),
            format!("\"packs_above_mark\":[{{\"pack\":{pack},\"bytes\":2097152,\"dead_bytes\":1048576}}],"),
            "\"garbage\":1,\"building\":2,\"abandoned\":3,\"more\":true,\"condemned\":2,\"condemned_bytes\":4},"
                .to_owned(),
            format!("\"run\":{{\"began\":{time},\"pack\":1,\"packs\":5,\"bytes_moved\":6}},"),
            format!(
                "\"last\":{{\"began\":null,\"ended\":{time},\"unwound\":1,\"packs_deleted\":2,\"bytes_deleted\":3,"
            ),
            "\"bytes_moved\":4,\"error\":\"a disk\"},".to_owned(),
            format!("\"stuck\":[{{\"pack\":{pack},\"live_bytes\":-9,\"why\":\"it is stuck\"}}]}}"),
        ];
        assert_eq!(json, expected.concat());
        let read: GcStatus = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        let empty = serde_json::to_string(&GcStatus::default()).unwrap();
        assert!(
            empty.starts_with("{\"state\":\"idle\",\"epoch\":0,\"stopped\":null,")
                && empty.ends_with("\"run\":null,\"last\":null,\"stuck\":[]}"),
            "{empty}"
        );
    }
}
