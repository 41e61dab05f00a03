//! The root key pair: the operator's, or one made at the first start and kept in a file only the owner can read.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::config::{RootKeys, toml_reason};

const FILE: &str = "root-key";

#[derive(Debug, thiserror::Error)]
pub enum RootKeyError {
    #[error("cannot use the root key file {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the root key file {path} is damaged: {message}; restore it, or delete it to get a new key pair")]
    Damaged { path: PathBuf, message: String },
}

/// The key pair and how it came to be.
pub struct Root {
    pub keys: RootKeys,
    /// Where it is kept; `None` when the operator gave it.
    pub file: Option<PathBuf>,
    pub is_new: bool,
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    access_key: String,
    secret_key: String,
}

/// The root keys of the data directory, made if there are none.
pub fn load_or_make(dir: &Path, given: Option<RootKeys>) -> Result<Root, RootKeyError> {
    if let Some(keys) = given {
        return Ok(Root {
            keys,
            file: None,
            is_new: false,
        });
    }
    let path = dir.join(FILE);
    let failed = |source: io::Error| RootKeyError::Io {
        path: path.clone(),
        source,
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let damaged = |message: String| RootKeyError::Damaged {
                path: path.clone(),
                message,
            };
            Ok(Root {
                keys: parse(&text).map_err(damaged)?,
                file: Some(path),
                is_new: false,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keys = generate().map_err(failed)?;
            write(dir, &path, &keys).map_err(failed)?;
            Ok(Root {
                keys,
                file: Some(path),
                is_new: true,
            })
        }
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn parse(text: &str) -> Result<RootKeys, String> {
    let file: KeyFile = toml::from_str(text).map_err(|error| toml_reason(&error))?;
    Ok(RootKeys {
        access_key: file.access_key,
        secret_key: file.secret_key,
    })
}

/// 20 characters and 40, the lengths that AWS uses and some clients check.
fn generate() -> io::Result<RootKeys> {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut random = [0; 46];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let (name, secret) = random.split_at(16);
    let name = name
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(byte % 32)).copied().map(char::from));
    Ok(RootKeys {
        access_key: "CARN".chars().chain(name).collect(),
        secret_key: STANDARD.encode(secret),
    })
}

/// Written beside its place, synced, and moved there, so that a crash leaves a whole file or none.
fn write(dir: &Path, path: &Path, keys: &RootKeys) -> io::Result<()> {
    let file = KeyFile {
        access_key: keys.access_key.clone(),
        secret_key: keys.secret_key.clone(),
    };
    let text = toml::to_string(&file).map_err(io::Error::other)?;
    let draft = dir.join("root-key.new");
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(dir.path(), None).unwrap();
        assert!(first.is_new);
        assert_eq!((first.keys.access_key.len(), first.keys.secret_key.len()), (20, 40));
        let path = first.file.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = load_or_make(dir.path(), None).unwrap();
        assert!(!second.is_new);
        assert_eq!(second.keys.secret_key, first.keys.secret_key);
        let message = parse("access_key = 'A'\nsecret_key = 7351927351").err().unwrap();
        assert!(message.contains("wrong type") && !message.contains("7351"), "{message}");
        std::fs::write(path, "access_key = 1").unwrap();
        assert!(matches!(
            load_or_make(dir.path(), None),
            Err(RootKeyError::Damaged { .. })
        ));
    }
}
