//! The keys of an encrypted store: a master key, which is nowhere in the store, wraps the store's key; that one wraps the
//! keys of every dedup domain. So rotation writes one row, in one commit, however large the store is.
//!
//! `docs/encryption.md` tells what is encrypted, and what a crash between two steps leaves.

use std::fmt;

use zeroize::Zeroizing;

use crate::chunk::cipher::{Key, Purpose, random};
use crate::chunk::error::MetaError;
use crate::chunk::index::{self, Known};
use crate::clock::Clock;
use crate::ids::DomainId;
use crate::kv::{self, CommitError, Kv, Mutation};
use crate::limits::MASTER_KEYS_MAX;
use crate::meta::domain::{self, DomainRow, DomainSecret};
use crate::meta::encryption::{EncryptionRow, EncryptionState};
use crate::meta::key::{self, Table};
use crate::meta::record::{Malformed, UnknownFields};

/// The row that makes a store an encrypted one.
const ROW: &str = "encryption";
/// Domain rows wrapped in one commit.
const STEP_ROWS: usize = 256;

/// Names a master key: the front of a hash of it, from which nothing of the key can be learned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MasterKeyId(pub [u8; 8]);

impl MasterKeyId {
    fn of(key: &Key) -> Self {
        let hash = blake3::derive_key("cairn 2026-11 master key id", key.expose());
        Self(hash.first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The master keys that were given, at least one; the first is the one to use.
#[derive(Clone, Debug)]
pub struct MasterKeys {
    first: (MasterKeyId, Key),
    others: Vec<(MasterKeyId, Key)>,
}

impl MasterKeys {
    /// `None`: there is no key, or there are more than [`MASTER_KEYS_MAX`].
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Option<Self> {
        let mut keys = keys.into_iter().map(|key| (MasterKeyId::of(&key), key));
        let first = keys.next()?;
        let others: Vec<_> = keys.collect();
        (others.len() < MASTER_KEYS_MAX).then_some(Self { first, others })
    }

    /// The key that a store is wrapped with from now on.
    pub fn first(&self) -> MasterKeyId {
        self.first.0
    }

    pub fn ids(&self) -> impl Iterator<Item = MasterKeyId> {
        std::iter::once(&self.first).chain(&self.others).map(|(id, _)| *id)
    }

    fn find(&self, id: MasterKeyId) -> Option<&Key> {
        let mut keys = std::iter::once(&self.first).chain(&self.others);
        keys.find(|(found, _)| *found == id).map(|(_, key)| key)
    }

    fn told(&self) -> String {
        let ids: Vec<String> = self.ids().map(|id| id.to_string()).collect();
        ids.join(", ")
    }
}

/// Why an encrypted store cannot be opened, or its key not be changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "the store is encrypted with master key {0}, and no key was given: \
         set encryption.key_file (--key-file) or CAIRN_ENCRYPTION_KEY; nothing is damaged"
    )]
    Missing(MasterKeyId),
    #[error(
        "the store is encrypted with master key {wanted}, and the key that was given is another one ({given}); \
         nothing is damaged: give the right key"
    )]
    Wrong { wanted: MasterKeyId, given: String },
    /// The key has the right id, and yet does not open the row.
    #[error(
        "master key {0} is the right one, but the metadata row that it opens is damaged: restore the metadata from a backup"
    )]
    Damaged(MasterKeyId),
    #[error("master key {0} is in use already: put a new key before it (`cairn key generate`), then rotate")]
    InUse(MasterKeyId),
    #[error("the store is not encrypted: start the gateway with a key to turn encryption on")]
    NotEncrypted,
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl From<kv::ReadError> for KeyError {
    fn from(error: kv::ReadError) -> Self {
        Self::Meta(error.into())
    }
}

impl From<CommitError> for KeyError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } => Self::Meta(MetaError::Contended),
            error => Self::Meta(error.into()),
        }
    }
}

impl From<Malformed> for KeyError {
    fn from(error: Malformed) -> Self {
        Self::Meta(error.into())
    }
}

/// Which master key gave way to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    pub from: MasterKeyId,
    pub to: MasterKeyId,
}

/// The key of an open store; none: it is not encrypted.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    store: Option<Key>,
}

impl Keys {
    /// Opens the store's key with one of `masters`. A store that is not encrypted becomes so if there is a master key:
    /// what it holds stays as it is, what is written from now on is encrypted. Refuses an encrypted store without its key.
    pub async fn open(kv: &dyn Kv, masters: Option<&MasterKeys>, clock: &Clock) -> Result<Self, KeyError> {
        let (known, masters) = match (row(kv).await?, masters) {
            (None, None) => return Ok(Self::default()),
            (Some(known), None) => return Err(KeyError::Missing(MasterKeyId(known.row.master))),
            (None, Some(masters)) => (turn_on(kv, masters, clock).await?, masters),
            (Some(known), Some(masters)) => (known, masters),
        };
        let keys = Self {
            store: Some(store_key(&known.row, masters)?),
        };
        if known.row.state == EncryptionState::Begun {
            keys.wrap_domains(kv).await?;
            let on = EncryptionRow {
                state: EncryptionState::On,
                ..known.row.clone()
            };
            put(kv, Some(&known), &on).await?;
        }
        if known.row.master != masters.first().0 {
            let (used, first) = (MasterKeyId(known.row.master), masters.first());
            tracing::warn!(%used, %first, "the store's master key is not the first of those given: `cairn key rotate` changes that");
        }
        Ok(keys)
    }

    pub fn is_on(&self) -> bool {
        self.store.is_some()
    }

    /// The secret behind what clients carry for us, of an encrypted store.
    pub(super) fn token_key(&self) -> Option<[u8; 32]> {
        let store = self.store.as_ref()?;
        Some(blake3::derive_key("cairn 2026-11 token key", store.expose()))
    }

    /// What a domain's row holds of its naming key. An encrypted store gives the domain a data key, which is new: the naming
    /// key may have been on the disk as it is.
    pub(super) fn domain_secret(&self, id: DomainId, naming: &Key) -> DomainSecret {
        let Some(store) = &self.store else {
            return DomainSecret::Clear(*naming.expose());
        };
        let data = Key::random();
        let plain = Zeroizing::new([*naming.expose(), *data.expose()].concat());
        let boxed = store.seal_box(Purpose::Domain, &id.0.to_le_bytes(), &plain);
        let mut wrapped = [0; domain::WRAPPED_BYTES];
        wrapped.iter_mut().zip(boxed).for_each(|(to, from)| *to = from);
        DomainSecret::Wrapped(wrapped)
    }

    /// A domain's naming key and, in an encrypted store, its data key.
    pub(super) fn domain_keys(&self, id: DomainId, secret: &DomainSecret) -> Result<(Key, Option<Key>), Malformed> {
        let malformed = |reason| Malformed {
            record: "domain",
            reason,
        };
        match (&self.store, secret) {
            (None, DomainSecret::Clear(naming)) => Ok((Key::new(*naming), None)),
            (None, DomainSecret::Wrapped(_)) => Err(malformed("it is wrapped, and the store is not encrypted")),
            (Some(_), DomainSecret::Clear(_)) => Err(malformed("it is not wrapped, and the store is encrypted")),
            (Some(store), DomainSecret::Wrapped(boxed)) => {
                let plain = store.open_box(Purpose::Domain, &id.0.to_le_bytes(), boxed);
                let plain = plain.map_err(|_| malformed("it fails its cipher's tag"))?;
                let (naming, rest) = plain.split_first_chunk().ok_or(malformed("truncated"))?;
                let data = rest.first_chunk().ok_or(malformed("truncated"))?;
                Ok((Key::new(*naming), Some(Key::new(*data))))
            }
        }
    }

    /// Wraps the domain rows of a store that was not encrypted. Begun anew, it goes on where it ended.
    async fn wrap_domains(&self, kv: &dyn Kv) -> Result<(), KeyError> {
        let range = key::table(Table::Domain);
        let mut from = range.start;
        loop {
            let rows = index::page(kv, from..range.end.clone(), STEP_ROWS).await?;
            let mut mutation = Mutation::deferred();
            for row in &rows {
                let id = row
                    .key
                    .get(1..)
                    .and_then(|id| id.try_into().ok())
                    .map(u64::from_be_bytes);
                let id = id.map(DomainId).ok_or(Malformed {
                    record: "domain",
                    reason: "its key has no domain id",
                })?;
                let clear = DomainRow::decode(row.value.bytes.clone())?;
                if let DomainSecret::Clear(naming) = &clear.secret {
                    let secret = self.domain_secret(id, &Key::new(*naming));
                    mutation.unchanged(row.key.clone(), Some(row.value.version));
                    mutation.put(row.key.clone(), DomainRow { secret, ..clear }.encode());
                }
            }
            if !mutation.effects.is_empty() {
                kv.commit(mutation).await?;
            }
            match rows.last() {
                Some(last) if rows.len() == STEP_ROWS => from = index::after(&last.key),
                _ => return Ok(()),
            }
        }
    }
}

/// Wraps the store's key with the first of `masters`, in one synced commit: before it the old key opens the store, after it
/// the new one. No data is read or written.
pub async fn rotate(kv: &dyn Kv, masters: &MasterKeys, clock: &Clock) -> Result<Rotation, KeyError> {
    let known = row(kv).await?.ok_or(KeyError::NotEncrypted)?;
    let (from, to) = (MasterKeyId(known.row.master), masters.first());
    let store = store_key(&known.row, masters)?;
    if from == to {
        return Err(KeyError::InUse(to));
    }
    let rotated = EncryptionRow {
        master: to.0,
        wrapped: wrapped(masters, &store),
        rotated: clock.now(),
        ..known.row.clone()
    };
    put(kv, Some(&known), &rotated).await?;
    tracing::info!(%from, %to, "the master key was rotated");
    Ok(Rotation { from, to })
}

/// The master key that opens the store; `None`: the store is not encrypted.
pub async fn master_in_use(kv: &dyn Kv) -> Result<Option<MasterKeyId>, KeyError> {
    Ok(row(kv).await?.map(|known| MasterKeyId(known.row.master)))
}

async fn row(kv: &dyn Kv) -> Result<Option<Known<EncryptionRow>>, KeyError> {
    let Some(value) = kv.get(&key::store(ROW)).await? else {
        return Ok(None);
    };
    Ok(Some(Known {
        row: EncryptionRow::decode(value.bytes)?,
        version: value.version,
    }))
}

/// Makes `to` of the row that is known, durably; `None`: there is none.
async fn put(
    kv: &dyn Kv,
    known: Option<&Known<EncryptionRow>>,
    to: &EncryptionRow,
) -> Result<Known<EncryptionRow>, KeyError> {
    let mut mutation = Mutation::new();
    mutation.unchanged(key::store(ROW), known.map(|known| known.version));
    mutation.put(key::store(ROW), to.encode());
    Ok(Known {
        row: to.clone(),
        version: kv.commit(mutation).await?,
    })
}

async fn turn_on(kv: &dyn Kv, masters: &MasterKeys, clock: &Clock) -> Result<Known<EncryptionRow>, KeyError> {
    let begun = EncryptionRow {
        state: EncryptionState::Begun,
        master: masters.first().0,
        wrapped: wrapped(masters, &Key::new(random())),
        since: clock.now(),
        rotated: clock.now(),
        unknown: UnknownFields::default(),
    };
    tracing::info!(master = %masters.first(), "encryption is turned on: what is written from now on is encrypted");
    put(kv, None, &begun).await
}

fn wrapped(masters: &MasterKeys, store: &Key) -> [u8; crate::meta::encryption::WRAPPED_BYTES] {
    let (id, master) = &masters.first;
    let boxed = master.seal_box(Purpose::Store, &id.0, store.expose());
    let mut wrapped = [0; crate::meta::encryption::WRAPPED_BYTES];
    wrapped.iter_mut().zip(boxed).for_each(|(to, from)| *to = from);
    wrapped
}

fn store_key(row: &EncryptionRow, masters: &MasterKeys) -> Result<Key, KeyError> {
    let wanted = MasterKeyId(row.master);
    let given = || masters.told();
    let master = masters
        .find(wanted)
        .ok_or_else(|| KeyError::Wrong { wanted, given: given() })?;
    let plain = master.open_box(Purpose::Store, &row.master, &row.wrapped);
    let plain = plain.map_err(|_| KeyError::Damaged(wanted))?;
    let store = plain.first_chunk().ok_or(KeyError::Damaged(wanted))?;
    Ok(Key::new(*store))
}
