//! The master keys: a file or a variable with one key or several, the first of which is the one to use.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use zeroize::Zeroizing;

use crate::chunk::MasterKeys;
use crate::chunk::cipher::Key;
use crate::config::MasterKeySource;
use crate::limits::{KEYRING_BYTES_MAX, MASTER_KEYS_MAX};

const GENERATED: &str = "# Master keys of Cairn, the one in use first. Who has one of them and the data reads everything; \
    without it the data is lost.\n";

/// Why there are no master keys to use. No message holds a part of one.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("the key file {path} cannot be used: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the key file {path} lies in the data directory, where every copy of the data would copy it too: keep it elsewhere"
    )]
    Inside { path: PathBuf },
    #[error("{0}: {1}")]
    Parse(String, ParseError),
    #[error("this process cannot be kept from dumping its memory: {0}")]
    Dumps(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "line {0} holds something that is no key: a key is 32 random bytes in base64, as `cairn key generate` makes it"
    )]
    NoKey(usize),
    #[error("there is no key, or there are more than {MASTER_KEYS_MAX}")]
    Count,
    #[error("it is larger than {KEYRING_BYTES_MAX} bytes")]
    TooLarge,
}

/// The keys of `source`, for the store in `data`. From here on this process leaves no core behind.
pub fn load(source: &MasterKeySource, data: &Path) -> Result<MasterKeys, KeyringError> {
    forbid_dumps()?;
    let (text, name) = match source {
        MasterKeySource::Text(text) => (text.clone(), "encryption.key".to_owned()),
        MasterKeySource::File(path) => (read(path, data)?, path.display().to_string()),
    };
    parse(&text).map_err(|error| KeyringError::Parse(name, error))
}

/// A process whose memory holds keys writes no core, to a file or to a handler of cores, and lets none but root trace it.
fn forbid_dumps() -> Result<(), KeyringError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| KeyringError::Dumps(error.into()))
}

fn read(path: &Path, data: &Path) -> Result<Zeroizing<String>, KeyringError> {
    let failed = |source| KeyringError::Io {
        path: path.to_path_buf(),
        source,
    };
    let real = path.canonicalize().map_err(failed)?;
    if data.canonicalize().is_ok_and(|data| real.starts_with(data)) {
        return Err(KeyringError::Inside {
            path: path.to_path_buf(),
        });
    }
    let file = File::open(&real).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "the key file can be read by others than its owner");
    }
    // Its whole room at once: a string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(KEYRING_BYTES_MAX + 1));
    let limit = KEYRING_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Keys stand in lines of their own or behind commas; `#` begins a comment.
pub(crate) fn parse(text: &str) -> Result<MasterKeys, ParseError> {
    if text.len() > KEYRING_BYTES_MAX {
        return Err(ParseError::TooLarge);
    }
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let words = line.split('#').next().unwrap_or_default().split(',').map(str::trim);
        for word in words.filter(|word| !word.is_empty()) {
            let mut bytes = Zeroizing::new([0; 33]);
            let length = STANDARD.decode_slice(word, bytes.as_mut_slice());
            match (length, bytes.first_chunk()) {
                (Ok(32), Some(key)) => keys.push(Key::new(*key)),
                _ => return Err(ParseError::NoKey(number + 1)),
            }
        }
    }
    MasterKeys::new(keys).ok_or(ParseError::Count)
}

/// A new key as it stands in a key file.
pub fn generate() -> Result<Zeroizing<String>, KeyringError> {
    forbid_dumps()?;
    Ok(Zeroizing::new(STANDARD.encode(Key::random().expose())))
}

/// Makes a key file with a new key, for its owner alone. One that is there stays as it is, and is an error.
pub fn create(path: &Path) -> Result<(), KeyringError> {
    let text = Zeroizing::new(format!("{GENERATED}{}\n", *generate()?));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        sync_folder(path)
    };
    write().map_err(|source| KeyringError::Io {
        path: path.to_path_buf(),
        source,
    })
}

/// Puts a new key before those of the file, which keeps its owner and its mode. A crash leaves the one or the other file,
/// and whatever opened the store before is in both.
pub fn add(path: &Path) -> Result<(), KeyringError> {
    let key = generate()?;
    let failed = |source| KeyringError::Io {
        path: path.to_path_buf(),
        source,
    };
    let add = || {
        let path = path.canonicalize()?;
        let mut old = File::open(&path)?;
        let before = old.metadata()?;
        let mut text = Zeroizing::new(String::with_capacity(key.len() + 1 + KEYRING_BYTES_MAX));
        text.push_str(&key);
        text.push('\n');
        Read::by_ref(&mut old)
            .take(KEYRING_BYTES_MAX as u64)
            .read_to_string(&mut text)?;
        let draft = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        fchown(&file, Some(before.uid()), Some(before.gid()))?;
        file.set_permissions(before.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        sync_folder(&path)
    };
    add().map_err(failed)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const SECOND: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

    fn ids(text: &str) -> Vec<String> {
        parse(text).unwrap().ids().map(|id| id.to_string()).collect()
    }

    #[test]
    fn keys_stand_in_lines_or_behind_commas() {
        let (first, second) = (ids(FIRST)[0].clone(), ids(SECOND)[0].clone());
        assert_ne!(first, second);
        assert_eq!(
            ids(&format!("# a comment\n\n {FIRST} # the new one\n{SECOND}\n")),
            [&*first, &*second]
        );
        assert_eq!(ids(&format!("{SECOND},{FIRST}")), [&*second, &*first]);
        assert_eq!(parse(FIRST).unwrap().first().to_string(), first);
        for (text, error) in [
            ("", ParseError::Count),
            ("# nothing\n", ParseError::Count),
            ("\nnonsense", ParseError::NoKey(2)),
            ("c2hvcnQ=", ParseError::NoKey(1)),
            (&FIRST[..43], ParseError::NoKey(1)),
            (&FIRST.repeat(2), ParseError::NoKey(1)),
            (&format!("{FIRST},").repeat(MASTER_KEYS_MAX + 1), ParseError::Count),
            (&"#".repeat(KEYRING_BYTES_MAX + 1), ParseError::TooLarge),
        ] {
            assert_eq!(parse(text).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn a_file_is_made_once_and_new_keys_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let (path, data) = (dir.path().join("keys"), dir.path().join("data"));
        let source = MasterKeySource::File(path.clone());
        assert!(matches!(load(&source, &data), Err(KeyringError::Io { .. })));
        create(&path).unwrap();
        assert!(matches!(create(&path), Err(KeyringError::Io { .. })));
        let old = load(&source, &data).unwrap().first();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        add(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let keys: Vec<_> = load(&source, &data).unwrap().ids().collect();
        assert_eq!((keys.len(), keys[1]), (2, old));
        assert_ne!(keys[0], old);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(matches!(load(&source, dir.path()), Err(KeyringError::Inside { .. })));
    }
}
