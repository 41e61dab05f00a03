//! What a caller asks the store to check and to change in one step.

use std::ops::Range;

use bytes::Bytes;

use crate::ids::Sequence;

/// What must hold at the moment of the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The row is still the one that `version` wrote; `None`: still absent.
    Unchanged {
        key: Bytes,
        version: Option<Sequence>,
    },
    /// The row's bytes are `value`.
    Equals {
        key: Bytes,
        value: Bytes,
    },
    Absent {
        key: Bytes,
    },
    Exists {
        key: Bytes,
    },
    /// No row has a key in `range`. Who inserts into the range must guard `Exists(anchor)`: an engine that cannot lock
    /// a range locks the anchor.
    Empty {
        range: Range<Bytes>,
        anchor: Bytes,
    },
    /// The counter plus `delta` is at most `limit`. For quotas, which must hold in the very commit that adds: part of what an
    /// engine has to offer, though nothing sets a limit yet.
    AtMost {
        key: Bytes,
        delta: i64,
        limit: i64,
    },
}

/// What to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Put {
        key: Bytes,
        value: Bytes,
    },
    Delete {
        key: Bytes,
    },
    /// Adds to a counter row ([`Counter`]); an absent one is zero.
    Add {
        key: Bytes,
        delta: i64,
    },
}

/// When a commit is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once it is on stable storage.
    #[default]
    Synced,
    /// Once it is in the log's order. A later synced commit makes it durable; a crash before that loses it, and
    /// everything after it, together.
    Deferred,
}

/// A counter row's bytes: a little-endian `i64`.
pub struct Counter;

impl Counter {
    pub fn encode(value: i64) -> Bytes {
        Bytes::copy_from_slice(&value.to_le_bytes())
    }

    /// `None` when the row is not a counter.
    pub fn decode(bytes: &[u8]) -> Option<i64> {
        bytes.try_into().ok().map(i64::from_le_bytes)
    }
}

/// Guards and effects that are committed together. No key may be touched by two effects, but for `Add`s, which sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mutation {
    pub guards: Vec<Guard>,
    pub effects: Vec<Effect>,
    pub durability: Durability,
}

impl Mutation {
    pub fn new() -> Self {
        Self::default()
    }

    /// A mutation that is made durable by a later synced one.
    pub fn deferred() -> Self {
        Self {
            durability: Durability::Deferred,
            ..Self::default()
        }
    }

    /// Adds a guard and returns its number, by which a conflict names it.
    pub fn guard(&mut self, guard: Guard) -> usize {
        self.guards.push(guard);
        self.guards.len() - 1
    }

    pub fn unchanged(&mut self, key: Bytes, version: Option<Sequence>) -> usize {
        self.guard(Guard::Unchanged { key, version })
    }

    pub fn exists(&mut self, key: Bytes) -> usize {
        self.guard(Guard::Exists { key })
    }

    pub fn absent(&mut self, key: Bytes) -> usize {
        self.guard(Guard::Absent { key })
    }

    pub fn put(&mut self, key: Bytes, value: impl Into<Bytes>) {
        self.effects.push(Effect::Put {
            key,
            value: value.into(),
        });
    }

    pub fn delete(&mut self, key: Bytes) {
        self.effects.push(Effect::Delete { key });
    }

    pub fn add(&mut self, key: Bytes, delta: i64) {
        self.effects.push(Effect::Add { key, delta });
    }

    /// Encoded bytes of all effects, which is what the limits count.
    pub fn effect_bytes(&self) -> usize {
        self.effects
            .iter()
            .map(|effect| match effect {
                Effect::Put { key, value } => key.len() + value.len(),
                Effect::Delete { key } => key.len(),
                Effect::Add { key, .. } => key.len() + 8,
            })
            .sum()
    }
}
