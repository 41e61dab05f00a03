//! The master keys: a file or a variable with one key or several, the first of which is the one to use.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
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
    #[error("no key can be added to {path}: with it, {source}; remove keys that no backup is from the time of")]
    Full { path: PathBuf, source: ParseError },
    #[error(
        "{draft} is there: another `cairn key rotate` adds a key just now. If none runs, a crash left it: \
         no store uses a key that is in it alone, so delete it"
    )]
    Draft { draft: PathBuf },
    #[error("this process cannot be kept from dumping its memory: {0}")]
    Dumps(io::Error),
}

impl KeyringError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "line {0} holds something that is no key: a key is 32 random bytes in base64, as `cairn key generate` makes it"
    )]
    NoKey(usize),
    #[error("there is no key")]
    Empty,
    #[error("there are more than {MASTER_KEYS_MAX} keys")]
    TooMany,
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
    let failed = KeyringError::io(path);
    let real = path.canonicalize().map_err(&failed)?;
    if data.canonicalize().is_ok_and(|data| real.starts_with(data)) {
        return Err(KeyringError::Inside {
            path: path.to_path_buf(),
        });
    }
    let file = File::open(&real).map_err(&failed)?;
    let mode = file.metadata().map_err(&failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "the key file can be read by others than its owner");
    }
    text_of(file).map_err(failed)
}

/// What the file holds; of one that is too large, enough to see that it is.
fn text_of(file: File) -> io::Result<Zeroizing<String>> {
    // Its whole room at once: a string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(KEYRING_BYTES_MAX + 1));
    file.take(KEYRING_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
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
    if keys.len() > MASTER_KEYS_MAX {
        return Err(ParseError::TooMany);
    }
    MasterKeys::new(keys).ok_or(ParseError::Empty)
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
    write().map_err(KeyringError::io(path))
}

/// The keys to rotate a store with that is encrypted with master key `in_use`. If that is the first one, a key file gets a new
/// one before it.
pub fn for_rotation(source: &MasterKeySource, data: &Path, in_use: &str) -> Result<MasterKeys, KeyringError> {
    let masters = load(source, data)?;
    match source {
        MasterKeySource::File(path) if masters.first().to_string() == in_use => {
            add(path)?;
            load(source, data)
        }
        _ => Ok(masters),
    }
}

/// Puts a new key before those of the file, which keeps its owner and its mode. A crash leaves the one or the other file,
/// and whatever opened the store before is in both. What could not be loaded afterwards is not written.
fn add(path: &Path) -> Result<(), KeyringError> {
    let key = generate()?;
    let failed = KeyringError::io(path);
    let path = path.canonicalize().map_err(&failed)?;
    let draft = Draft::make(&path)?;
    let file = File::open(&path).map_err(&failed)?;
    let before = file.metadata().map_err(&failed)?;
    let old = text_of(file).map_err(&failed)?;
    parse(&old).map_err(|error| KeyringError::Parse(path.display().to_string(), error))?;
    let mut text = Zeroizing::new(String::with_capacity(key.len() + 1 + old.len()));
    text.extend([key.as_str(), "\n", &old]);
    parse(&text).map_err(|source| KeyringError::Full {
        path: path.clone(),
        source,
    })?;
    draft.put_in_place(&path, &text, &before).map_err(&failed)
}

/// What takes the place of a key file. It is made before that one is read and is the lock: of several who add a key, one
/// after the other reads what the one before has written, or is refused. It goes if it does not come to its place.
struct Draft {
    path: PathBuf,
    file: File,
    is_in_place: bool,
}

impl Draft {
    /// Hidden, beside the key file.
    fn make(of: &Path) -> Result<Self, KeyringError> {
        let mut name = OsString::from(".");
        name.push(of.file_name().unwrap_or_default());
        name.push(".new");
        let path = of.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(Self {
                path,
                file,
                is_in_place: false,
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(KeyringError::Draft { draft: path }),
            Err(error) => Err(KeyringError::io(&path)(error)),
        }
    }

    fn put_in_place(mut self, of: &Path, text: &str, before: &Metadata) -> io::Result<()> {
        fchown(&self.file, Some(before.uid()), Some(before.gid()))?;
        self.file.set_permissions(before.permissions())?;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, of)?;
        self.is_in_place = true;
        sync_folder(of)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_in_place
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the draft of a key file could not be removed");
        }
    }
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
            ("", ParseError::Empty),
            ("# nothing\n", ParseError::Empty),
            ("\nnonsense", ParseError::NoKey(2)),
            ("c2hvcnQ=", ParseError::NoKey(1)),
            (&FIRST[..43], ParseError::NoKey(1)),
            (&FIRST.repeat(2), ParseError::NoKey(1)),
            (&format!("{FIRST},").repeat(MASTER_KEYS_MAX + 1), ParseError::TooMany),
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

    fn keys(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    /// Whoever is told that a key is there finds it in the file, whatever others add at the same time.
    #[test]
    fn keys_that_are_added_at_once_are_all_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        create(&path).unwrap();
        let first = keys(&path);
        let adders = || {
            let mut added = 0;
            while added < 7 {
                added += usize::from(add(&path).is_ok());
            }
        };
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(adders))));
        let all = keys(&path);
        assert_eq!((all.len(), &all[56..]), (57, &first[..]));
        assert_eq!(parse(&all.join(",")).unwrap().ids().count(), 57);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_key_is_added_where_the_first_one_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (path, data) = (dir.path().join("keys"), dir.path().join("data"));
        std::fs::write(&path, FIRST).unwrap();
        let source = MasterKeySource::File(path.clone());
        let rotated = |in_use: &str| -> Vec<String> {
            let masters = for_rotation(&source, &data, in_use).unwrap();
            masters.ids().map(|id| id.to_string()).collect()
        };
        let (first, second) = (ids(FIRST)[0].clone(), ids(SECOND)[0].clone());
        assert_eq!(rotated(&second), [&*first]);
        let added = rotated(&first);
        assert!(added.len() == 2 && added[1] == first);
        // One that was broken off goes on with the key that it added.
        assert_eq!(rotated(&first), added);
        assert_eq!(keys(&path).len(), 2);
        let text = MasterKeySource::Text(Zeroizing::new(SECOND.to_owned()));
        let given = for_rotation(&text, &data, &second).unwrap();
        assert_eq!(
            given.ids().count(),
            1,
            "who gives keys by a variable puts the new one there"
        );
    }

    #[test]
    fn a_key_that_does_not_fit_in_is_not_added() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let comment = "#".repeat(KEYRING_BYTES_MAX - 46);
        for text in [
            format!("{FIRST}\n").repeat(MASTER_KEYS_MAX),
            format!("{FIRST}\n{comment}\n"),
            format!("{FIRST}\nnonsense\n"),
        ] {
            assert!(text.len() <= KEYRING_BYTES_MAX);
            std::fs::write(&path, &text).unwrap();
            let told = add(&path).unwrap_err().to_string();
            assert!(told.contains("keys") && !told.contains(FIRST), "{told}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_a_crash_left_is_told_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let [path, other, draft] = ["keys.txt", "keys.new", ".keys.txt.new"].map(|name| dir.path().join(name));
        create(&path).unwrap();
        std::fs::write(&other, "of somebody else").unwrap();
        add(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "of somebody else");
        std::fs::write(&draft, "half").unwrap();
        let before = keys(&path);
        let told = add(&path).unwrap_err().to_string();
        assert!(
            told.contains(&draft.display().to_string()) && told.contains("delete it"),
            "{told}"
        );
        assert_eq!(
            (keys(&path), std::fs::read_to_string(&draft).unwrap()),
            (before, "half".to_owned())
        );
        std::fs::remove_file(&draft).unwrap();
        add(&path).unwrap();
        assert_eq!(keys(&path).len(), 3);
    }
}
