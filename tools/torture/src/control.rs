//! The page through which `tools/synctrace` is told where the gateway dies or fails.

#[path = "../../synctrace/src/page.rs"]
pub mod page;

use crate::Result;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Silence that says that nothing follows any more. The gateway's last word on a commit comes 5 ms after it.
const QUIET: Duration = Duration::from_millis(30);
const QUIET_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(4);

/// All kinds of event.
pub const ALL: u64 = (page::CREATE << 1) - 1;
/// What a full disk refuses.
pub const GROWING: u64 = page::WRITE | page::ALLOCATE | page::CREATE | page::MKDIR;
pub const SYNCS: u64 = page::SYNC | page::SYNC_DIRECTORY;

/// What is to happen at which of the events that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub action: u64,
    pub kinds: u64,
    pub errno: u64,
}

/// The event that a fault befell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    pub kind: u64,
    pub path: String,
    /// Of the sync of a directory: the kind of the last change of a name in it, or 0.
    change: u64,
}

pub struct Control {
    pub path: PathBuf,
    file: File,
}

impl Control {
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_len(page::PAGE_BYTES as u64)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    fn get(&self, word: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, word as u64 * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn set(&self, word: usize, value: u64) -> Result<()> {
        Ok(self.file.write_all_at(&value.to_ne_bytes(), word as u64 * 8)?)
    }

    /// From now on events count, and the fault befalls number `at`.
    pub fn arm(&self, fault: Fault, at: u64) -> Result<()> {
        self.disarm()?;
        for (word, value) in [
            (page::ACTION, fault.action),
            (page::KINDS, fault.kinds),
            (page::ERRNO, fault.errno),
            (page::AT, at),
            (page::COUNT, 0),
            (page::FIRED, 0),
            (page::AFTERWARDS, 0),
            (page::ARMED, 1),
        ] {
            self.set(word, value)?;
        }
        Ok(())
    }

    pub fn disarm(&self) -> Result<()> {
        self.set(page::ARMED, 0)
    }

    pub fn count(&self) -> Result<u64> {
        self.get(page::COUNT)
    }

    pub fn fired(&self) -> Result<Option<Fired>> {
        if self.get(page::FIRED)? == 0 {
            return Ok(None);
        }
        let mut path = vec![0; usize::try_from(self.get(page::FIRED_PATH)?)?];
        self.file.read_exact_at(&mut path, page::PATH_AT as u64)?;
        Ok(Some(Fired {
            kind: self.get(page::FIRED_KIND)?,
            path: String::from_utf8(path)?,
            change: self.get(page::FIRED_CHANGE)?,
        }))
    }

    /// How often the file that failed was written or synced again.
    pub fn afterwards(&self) -> Result<u64> {
        self.get(page::AFTERWARDS)
    }

    /// Waits until the gateway is at rest, or gone.
    pub async fn quiet(&self) -> Result<()> {
        let begun = Instant::now();
        let (mut last, mut since) = (self.get(page::TOTAL)?, Instant::now());
        while since.elapsed() < QUIET && begun.elapsed() < QUIET_TIMEOUT {
            tokio::time::sleep(POLL).await;
            let total = self.get(page::TOTAL)?;
            if total != last {
                (last, since) = (total, Instant::now());
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Fired {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let call = match self.kind {
            page::WRITE => "write",
            page::SYNC => "sync",
            page::SYNC_DIRECTORY => "sync of directory",
            page::SYNC_RANGE => "sync_file_range",
            page::RENAME => "rename to",
            page::LINK => "link",
            page::UNLINK => "unlink",
            page::MKDIR => "mkdir",
            page::RMDIR => "rmdir",
            page::TRUNCATE => "truncate",
            page::ALLOCATE => "fallocate",
            _ => "open that makes",
        };
        write!(formatter, "{call} {}", self.class())
    }
}

impl Fired {
    /// The path with what differs from file to file left out.
    pub fn class(&self) -> String {
        let path = self.path.strip_prefix(crate::server::STORE).unwrap_or(&self.path);
        let path = path.trim_start_matches('/');
        let Some((folder, name)) = path.rsplit_once('/') else {
            return if path.is_empty() {
                "the data directory".into()
            } else {
                path.to_owned()
            };
        };
        match name.rsplit_once('.') {
            Some((_, suffix)) => format!("{}/*.{suffix}", folder.split('/').next().unwrap_or(folder)),
            None if folder == "packs" => "packs/*".into(),
            None => format!(
                "{folder}/{}",
                name.trim_end_matches(|found: char| found.is_ascii_digit())
            ),
        }
    }

    /// A file whose content an answer rests upon, which therefore nobody may use again.
    pub fn is_poisonous(&self) -> bool {
        let content = page::WRITE | page::SYNC;
        self.kind & content != 0 && (self.is_log() || self.path.ends_with(".pack"))
    }

    /// The sync of a directory that is to keep a name, rather than to forget one.
    pub fn keeps_name(&self) -> bool {
        self.kind == page::SYNC_DIRECTORY && !matches!(self.change, page::UNLINK | page::RMDIR)
    }

    pub fn is_log(&self) -> bool {
        self.path.contains("/log/") && self.path.ends_with(".log")
    }
}
