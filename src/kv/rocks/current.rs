//! Heals what a power cut in the middle of RocksDB's change of manifests can leave.
//!
//! RocksDB makes a new `MANIFEST`, renames the file `CURRENT` that tells of it, and only then syncs the directory. A disk
//! may keep the one name and lose the other: then `CURRENT` names a file that is not there, and RocksDB does not open.
//! Nothing was written by the new manifest before that sync, and the old one is deleted after it. So the old one is still
//! the truth; without an old one the database was just being made, and the commit log has everything.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::blob::local::sync_dir;

const CURRENT: &str = "CURRENT";
const PREFIX: &str = "MANIFEST-";

/// Lets `CURRENT` in the database's directory name a manifest that is there. Leaves alone what is anything else than the
/// case above: RocksDB will say what is wrong.
pub(super) fn heal(dir: &Path) -> io::Result<()> {
    let path = dir.join(CURRENT);
    let named = match fs::read_to_string(&path) {
        Ok(named) => named,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(lost) = manifest_number(named.trim_end()) else {
        return Ok(());
    };
    let mut older = None;
    let mut has_tables = false;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        match manifest_number(&name) {
            Some(number) if number == lost => return Ok(()),
            Some(number) if number < lost => older = older.max(Some((number, name.into_owned()))),
            _ => has_tables |= name.ends_with(".sst") || name.ends_with(".blob"),
        }
    }
    match older {
        Some((_, name)) => {
            tracing::warn!(lost = named.trim_end(), used = %name, "a power cut lost RocksDB's new manifest; the one before holds");
            let fresh = dir.join("CURRENT.healed");
            let mut file = File::create(&fresh)?;
            writeln!(file, "{name}")?;
            file.sync_all()?;
            fs::rename(fresh, path)?;
        }
        None if !has_tables => {
            tracing::warn!("a power cut interrupted the making of RocksDB's files; they are made again");
            fs::remove_file(path)?;
        }
        None => return Ok(()),
    }
    sync_dir(dir)
}

fn manifest_number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healed(files: &[&str], current: &str) -> (tempfile::TempDir, Option<String>) {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        fs::write(dir.path().join(CURRENT), current).unwrap();
        heal(dir.path()).unwrap();
        let now = fs::read_to_string(dir.path().join(CURRENT)).ok();
        (dir, now)
    }

    #[test]
    fn the_manifest_before_a_lost_one_is_taken() {
        let now = |files: &[&str], current| healed(files, current).1;
        let old_and_older = ["MANIFEST-000005", "MANIFEST-000012", "000011.sst"];
        assert_eq!(
            now(&old_and_older, "MANIFEST-000020\n").as_deref(),
            Some("MANIFEST-000012\n")
        );
        assert_eq!(now(&[], "MANIFEST-000005\n"), None, "made again");
    }

    #[test]
    fn anything_else_is_left_alone() {
        for (files, current) in [
            (&["MANIFEST-000005"][..], "MANIFEST-000005\n"),
            (&["MANIFEST-000005", "MANIFEST-000007"], "MANIFEST-000005\n"),
            (&["MANIFEST-000007"], "garbage"),
            (&["000011.sst"], "MANIFEST-000005\n"),
            (&["MANIFEST-000007", "000011.blob"], "MANIFEST-000005\n"),
        ] {
            assert_eq!(healed(files, current).1.as_deref(), Some(current), "{files:?}");
        }
    }
}
