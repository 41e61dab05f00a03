//! What the scrub found: damaged chunks and the objects that need them.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// Bytes of all packs, with what waits to be collected.
    pub total_bytes: u64,
    /// Records that do not read back.
    pub damaged: u64,
    /// Records that had been noted as damaged and read well again.
    pub healed: u64,
    /// What was found since the gateway started, at most a thousand chunks of each pass.
    pub damage: Vec<DamagedChunk>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedChunk {
    pub chunk: String,
    pub pack: String,
    pub reason: String,
    pub objects: Vec<DamagedObject>,
    /// Whether other objects may need it too.
    pub more: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedObject {
    pub bucket: String,
    pub key: String,
    /// The upload that it is a part of, if that is not completed.
    pub upload: Option<String>,
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
            "verified  {} records, {} of {} bytes",
            self.records, self.bytes, self.total_bytes
        )?;
        writeln!(f, "damaged   {}", self.damaged)?;
        for damage in &self.damage {
            write!(f, "\n{damage}")?;
        }
        Ok(())
    }
}

impl fmt::Display for DamagedChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chunk {} in pack {}: {}", self.chunk, self.pack, self.reason)?;
        for object in &self.objects {
            writeln!(f, "  {object}")?;
        }
        if self.more {
            writeln!(f, "  and perhaps others")?;
        } else if self.objects.is_empty() {
            writeln!(f, "  no object needs it")?;
        }
        Ok(())
    }
}

impl fmt::Display for DamagedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)?;
        match &self.upload {
            Some(upload) => write!(f, " (a part of upload {upload})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_by_object() {
        let object = |key: &str, upload: Option<&str>| DamagedObject {
            bucket: "b".into(),
            key: key.into(),
            upload: upload.map(Into::into),
        };
        let damage = DamagedChunk {
            chunk: "c1".into(),
            pack: "p1".into(),
            reason: "why".into(),
            objects: vec![object("k", None), object("big", Some("u1"))],
            more: true,
        };
        let report = ScrubReport {
            damaged: 1,
            damage: vec![damage],
            ..ScrubReport::default()
        };
        let text = report.to_string();
        for line in [
            "scrub     at rest",
            "finished  never",
            "chunk c1 in pack p1: why",
            "  s3://b/k",
            "  s3://b/big (a part of upload u1)",
            "  and perhaps others",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
