//! Checks the mutations of a group one after another: each sees what the ones before it changed.
//!
//! The group's net effects (the last write of each key, counters summed) are what the engine logs and applies, in key
//! order. An engine gives its state before the group as a [`Base`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use bytes::Bytes;

use super::{CommitError, Counter, Effect, Family, Guard, Mutation, ReadError, Value};
use crate::ids::Sequence;
use crate::limits::{ENCODED_KEY_BYTES_MAX, MUTATION_BYTES_MAX, MUTATION_EFFECTS_MAX};

/// Bytes that the log adds to an effect's key and value: kind and lengths, then the version. Without counting them, many
/// tiny effects would make a frame larger than recovery takes.
const EFFECT_OVERHEAD_BYTES: usize = 7 + 8;

/// An engine's state before the group.
pub(super) trait Base {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError>;

    /// Whether `range` holds a row whose key is not `gone`.
    fn any_row(&self, range: &Range<Bytes>, gone: &dyn Fn(&[u8]) -> bool) -> Result<bool, ReadError>;
}

/// What is known of a key: its row, and whether the group changed it.
struct Slot {
    value: Option<Value>,
    changed: bool,
}

/// The overlay of one group over its base. Rows that guards read are kept too, so that a row that every mutation of the
/// group guards is read once.
#[derive(Default)]
pub(super) struct Group {
    slots: BTreeMap<Bytes, Slot>,
}

impl Group {
    /// Checks `mutation`'s guards and stages its effects; on an error nothing of it is staged.
    pub fn admit(&mut self, base: &dyn Base, mutation: Mutation, sequence: Sequence) -> Result<(), CommitError> {
        for (index, guard) in mutation.guards.iter().enumerate() {
            if !self.holds(base, guard)? {
                return Err(CommitError::Conflict { guard: index });
            }
        }
        let counters = self.sum_counters(base, &mutation.effects)?;
        for effect in mutation.effects {
            match effect {
                Effect::Put { key, value } => self.set(key, Some(value), sequence),
                Effect::Delete { key } => self.set(key, None, sequence),
                Effect::Add { .. } => {}
            }
        }
        for (key, value) in counters {
            self.set(key, Some(Counter::encode(value)), sequence);
        }
        Ok(())
    }

    /// The net effects in key order: the row to write, or `None` to delete.
    pub fn effects(&self) -> impl Iterator<Item = (&Bytes, Option<&Value>)> {
        self.slots
            .iter()
            .filter(|(_, slot)| slot.changed)
            .map(|(key, slot)| (key, slot.value.as_ref()))
    }

    fn set(&mut self, key: Bytes, bytes: Option<Bytes>, version: Sequence) {
        let value = bytes.map(|bytes| Value { bytes, version });
        self.slots.insert(key, Slot { value, changed: true });
    }

    fn read(&mut self, base: &dyn Base, key: &Bytes) -> Result<Option<&Value>, CommitError> {
        let slot = match self.slots.entry(key.clone()) {
            Entry::Occupied(slot) => slot.into_mut(),
            Entry::Vacant(empty) => {
                let value = base.get(key).map_err(unreadable)?;
                empty.insert(Slot { value, changed: false })
            }
        };
        Ok(slot.value.as_ref())
    }

    fn counter(&mut self, base: &dyn Base, key: &Bytes) -> Result<i64, CommitError> {
        match self.read(base, key)? {
            None => Ok(0),
            Some(value) => Counter::decode(&value.bytes)
                .ok_or_else(|| CommitError::Refused("a row that is no counter cannot be counted with".to_owned())),
        }
    }

    /// The counters' values after `effects`, each key once.
    fn sum_counters(&mut self, base: &dyn Base, effects: &[Effect]) -> Result<Vec<(Bytes, i64)>, CommitError> {
        let mut sums: Vec<(Bytes, i64)> = Vec::new();
        for effect in effects {
            let Effect::Add { key, delta } = effect else { continue };
            let overflow = || CommitError::Refused("a counter would overflow".to_owned());
            if let Some((_, sum)) = sums.iter_mut().find(|(seen, _)| seen == key) {
                *sum = sum.checked_add(*delta).ok_or_else(overflow)?;
            } else {
                let sum = self.counter(base, key)?.checked_add(*delta).ok_or_else(overflow)?;
                sums.push((key.clone(), sum));
            }
        }
        Ok(sums)
    }

    fn holds(&mut self, base: &dyn Base, guard: &Guard) -> Result<bool, CommitError> {
        Ok(match guard {
            Guard::Unchanged { key, version } => self.read(base, key)?.map(|value| value.version) == *version,
            Guard::Equals { key, value } => self.read(base, key)?.is_some_and(|row| row.bytes == value),
            Guard::Absent { key } => self.read(base, key)?.is_none(),
            Guard::Exists { key } => self.read(base, key)?.is_some(),
            Guard::Empty { range, .. } => self.is_empty(base, range)?,
            Guard::AtMost { key, delta, limit } => self
                .counter(base, key)?
                .checked_add(*delta)
                .is_some_and(|sum| sum <= *limit),
        })
    }

    fn is_empty(&self, base: &dyn Base, range: &Range<Bytes>) -> Result<bool, CommitError> {
        if range.start >= range.end {
            return Ok(true);
        }
        if self.slots.range(range.clone()).any(|(_, slot)| slot.value.is_some()) {
            return Ok(false);
        }
        let gone = |key: &[u8]| self.slots.get(key).is_some_and(|slot| slot.value.is_none());
        base.any_row(range, &gone).map(|found| !found).map_err(unreadable)
    }
}

fn unreadable(error: ReadError) -> CommitError {
    CommitError::Unavailable(format!("a guard could not be checked: {error}"))
}

/// Checks what needs no state: limits, families, and that no key is touched twice. Returns the mutation's bytes,
/// guards and what the log adds to each effect included.
pub(super) fn validate(mutation: &Mutation) -> Result<usize, CommitError> {
    let refused = |why: String| Err(CommitError::Refused(why));
    if mutation.effects.len() > MUTATION_EFFECTS_MAX || mutation.guards.len() > MUTATION_EFFECTS_MAX {
        let (effects, guards) = (mutation.effects.len(), mutation.guards.len());
        return refused(format!(
            "{effects} effects and {guards} guards; {MUTATION_EFFECTS_MAX} of each are allowed"
        ));
    }
    let bytes = mutation.effect_bytes();
    if bytes > MUTATION_BYTES_MAX {
        return refused(format!("{bytes} bytes of effects; {MUTATION_BYTES_MAX} are allowed"));
    }
    let mut guard_bytes = 0;
    for guard in &mutation.guards {
        match guard {
            Guard::Unchanged { key, .. }
            | Guard::Absent { key }
            | Guard::Exists { key }
            | Guard::AtMost { key, .. } => guard_bytes += check_key(key)?,
            Guard::Equals { key, value } => guard_bytes += check_key(key)? + value.len(),
            Guard::Empty { range, anchor } => {
                guard_bytes += check_key(anchor)? + check_key(&range.start)? + range.end.len();
            }
        }
    }
    let mut keys = Vec::with_capacity(mutation.effects.len());
    for effect in &mutation.effects {
        let (key, is_sum) = match effect {
            Effect::Put { key, .. } | Effect::Delete { key } => (key, false),
            Effect::Add { key, .. } => (key, true),
        };
        check_key(key)?;
        keys.push((key, is_sum));
    }
    keys.sort_unstable();
    let twice = keys
        .iter()
        .zip(keys.iter().skip(1))
        .any(|(a, b)| a.0 == b.0 && !(a.1 && b.1));
    if twice {
        return refused("two effects touch one key".to_owned());
    }
    Ok(bytes + guard_bytes + mutation.effects.len() * EFFECT_OVERHEAD_BYTES)
}

fn check_key(key: &Bytes) -> Result<usize, CommitError> {
    if key.len() > ENCODED_KEY_BYTES_MAX {
        let length = key.len();
        return Err(CommitError::Refused(format!(
            "a key of {length} bytes; {ENCODED_KEY_BYTES_MAX} are allowed"
        )));
    }
    if Family::of(key).is_none() {
        return Err(CommitError::Refused("a key outside all column families".to_owned()));
    }
    Ok(key.len())
}
