//! Identities and their access keys, from a bootstrap file and the root key pair.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::config::toml_reason;
use crate::limits;

/// The name of the identity that may do everything.
pub const ROOT_NAME: &str = "root";

/// The canonical id of root. Fixed, because buckets keep the id of their owner for ever; 64 hex digits, as S3's are.
pub const ROOT_CANONICAL_ID: &str = "0000000000000000000000000000000000000000000000000000000000000001";

/// The secret half of a key pair. It shows itself to nobody but the signature check.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(secret: impl Into<Box<str>>) -> Self {
        Self(secret.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// One key pair of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    pub access: String,
    pub secret: Secret,
}

/// Somebody who signs requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    /// What buckets and objects record as their owner.
    pub canonical_id: String,
    /// May be empty.
    pub email: String,
    pub is_root: bool,
    pub keys: Vec<AccessKey>,
}

/// Every identity of this gateway. It never changes while the gateway runs, so that a lookup takes no lock.
#[derive(Debug, Default)]
pub struct Identities {
    by_access_key: HashMap<String, (Arc<Identity>, Secret)>,
    by_canonical_id: HashMap<String, Arc<Identity>>,
}

/// Why the identities cannot be used. No message holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum IdentitiesError {
    #[error("the identities file {} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the identities file is larger than {} bytes", limits::IDENTITIES_FILE_BYTES_MAX)]
    TooLarge,
    #[error("the identities file is not UTF-8 text")]
    NotText,
    #[error("the identities file, line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("identity \"{identity}\": {problem}")]
    Invalid { identity: String, problem: &'static str },
    #[error("two identities have the same {what} \"{value}\"")]
    Duplicate { what: &'static str, value: String },
    #[error("more than {} identities", limits::IDENTITIES_MAX)]
    TooMany,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    #[serde(default)]
    identity: Vec<IdentityForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityForm {
    name: String,
    canonical_id: String,
    #[serde(default)]
    email: String,
    access_key: Option<String>,
    secret_key: Option<Secret>,
    #[serde(default)]
    keys: Vec<KeyForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyForm {
    access_key: String,
    secret_key: Secret,
}

impl Identities {
    /// Root alone.
    pub fn root_only(root: AccessKey) -> Result<Self, IdentitiesError> {
        Self::parse("", root)
    }

    /// Root and the identities of the TOML file at `path`.
    pub fn load(path: &Path, root: AccessKey) -> Result<Self, IdentitiesError> {
        let read_error = |source| IdentitiesError::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(read_error)?;
        let mut bytes = Vec::new();
        file.take(limits::IDENTITIES_FILE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(read_error)?;
        if bytes.len() > limits::IDENTITIES_FILE_BYTES_MAX {
            return Err(IdentitiesError::TooLarge);
        }
        Self::parse(std::str::from_utf8(&bytes).map_err(|_| IdentitiesError::NotText)?, root)
    }

    /// Root and the identities that `text` describes:
    ///
    /// ```toml
    /// [[identity]]
    /// name = "alice"
    /// canonical_id = "a1..."
    /// email = "alice@example.com"      # may be left out
    /// access_key = "ALICEKEY"          # one pair here,
    /// secret_key = "..."
    /// keys = [{ access_key = "SECOND", secret_key = "..." }]   # more here
    /// ```
    pub fn parse(text: &str, root: AccessKey) -> Result<Self, IdentitiesError> {
        let form: FileForm = toml::from_str(text).map_err(|error| syntax_error(text, &error))?;
        if form.identity.len() > limits::IDENTITIES_MAX {
            return Err(IdentitiesError::TooMany);
        }
        let mut identities = Self::default();
        let mut names = HashSet::new();
        let mut emails = HashSet::new();
        let root = Identity {
            name: ROOT_NAME.to_owned(),
            canonical_id: ROOT_CANONICAL_ID.to_owned(),
            email: String::new(),
            is_root: true,
            keys: vec![root],
        };
        for identity in std::iter::once(Ok(root)).chain(form.identity.into_iter().map(IdentityForm::into_identity)) {
            let identity = identity?;
            check(&identity)?;
            if !names.insert(identity.name.clone()) {
                return Err(IdentitiesError::Duplicate {
                    what: "name",
                    value: identity.name,
                });
            }
            if !identity.email.is_empty() && !emails.insert(identity.email.clone()) {
                return Err(IdentitiesError::Duplicate {
                    what: "email",
                    value: identity.email,
                });
            }
            identities.insert(identity)?;
        }
        Ok(identities)
    }

    fn insert(&mut self, identity: Identity) -> Result<(), IdentitiesError> {
        let identity = Arc::new(identity);
        let id = identity.canonical_id.clone();
        if self.by_canonical_id.insert(id.clone(), Arc::clone(&identity)).is_some() {
            return Err(IdentitiesError::Duplicate {
                what: "canonical_id",
                value: id,
            });
        }
        for key in &identity.keys {
            let entry = (Arc::clone(&identity), key.secret.clone());
            if self.by_access_key.insert(key.access.clone(), entry).is_some() {
                return Err(IdentitiesError::Duplicate {
                    what: "access key",
                    value: key.access.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whose key it is, and the secret that its signatures are made with.
    pub fn by_access_key(&self, access_key: &str) -> Option<(&Arc<Identity>, &Secret)> {
        self.by_access_key
            .get(access_key)
            .map(|(identity, secret)| (identity, secret))
    }

    /// The identity that a bucket or an object names as its owner; `None` once it has left the file.
    pub fn by_canonical_id(&self, canonical_id: &str) -> Option<&Arc<Identity>> {
        self.by_canonical_id.get(canonical_id)
    }

    /// The name shown beside a canonical id.
    pub fn display_name<'a>(&'a self, canonical_id: &'a str) -> &'a str {
        self.by_canonical_id(canonical_id)
            .map_or(canonical_id, |identity| &identity.name)
    }
}

impl IdentityForm {
    fn into_identity(self) -> Result<Identity, IdentitiesError> {
        let mut keys = Vec::with_capacity(self.keys.len() + 1);
        match (self.access_key, self.secret_key) {
            (Some(access), Some(secret)) => keys.push(AccessKey { access, secret }),
            (None, None) => {}
            _ => {
                let problem = "access_key and secret_key belong together: give both or none";
                return Err(IdentitiesError::Invalid {
                    identity: self.name,
                    problem,
                });
            }
        }
        keys.extend(self.keys.into_iter().map(|key| AccessKey {
            access: key.access_key,
            secret: key.secret_key,
        }));
        Ok(Identity {
            name: self.name,
            canonical_id: self.canonical_id,
            email: self.email,
            is_root: false,
            keys,
        })
    }
}

/// The shapes that the wire can carry: an access key stands between slashes and commas of a header, a canonical id and
/// a name in XML.
fn check(identity: &Identity) -> Result<(), IdentitiesError> {
    let invalid = |problem| {
        Err(IdentitiesError::Invalid {
            identity: identity.name.clone(),
            problem,
        })
    };
    let graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if identity.name.is_empty() || identity.name.len() > 128 || identity.name.chars().any(char::is_control) {
        return invalid("a name has 1 to 128 bytes and no control characters");
    }
    if identity.canonical_id.is_empty() || identity.canonical_id.len() > 128 || !graphic(&identity.canonical_id) {
        return invalid("a canonical_id has 1 to 128 printable ASCII characters without spaces");
    }
    if !identity.email.is_empty()
        && (identity.email.len() > 254 || !graphic(&identity.email) || !identity.email.contains('@'))
    {
        return invalid("email is not an e-mail address");
    }
    if identity.keys.is_empty() {
        return invalid("it has no key: give access_key and secret_key, or keys");
    }
    if identity.keys.len() > limits::IDENTITY_KEYS_MAX {
        return invalid("it has too many keys");
    }
    for key in &identity.keys {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+' | b'@');
        if !(3..=128).contains(&key.access.len()) || !key.access.bytes().all(allowed) {
            return invalid("an access key has 3 to 128 of the characters A-Z a-z 0-9 _ - . + @");
        }
        if !(8..=128).contains(&key.secret.expose().len()) || !graphic(key.secret.expose()) {
            return invalid("a secret key has 8 to 128 printable ASCII characters without spaces");
        }
    }
    Ok(())
}

/// Tells the line and the reason.
fn syntax_error(text: &str, error: &toml::de::Error) -> IdentitiesError {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
    let message = toml_reason(error);
    IdentitiesError::Syntax { line, message }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
