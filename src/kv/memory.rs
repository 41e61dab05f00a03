//! An engine in memory, for the tests of the layers above: the same semantics, nothing durable.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use super::group::{Base, Group, validate};
use super::range::{family_of, half_open, successor};
use super::{CommitError, Direction, Kv, Mutation, ReadError, Row, Scan, Value};
use crate::ids::Sequence;
use crate::limits::SCAN_ROWS_MAX;

#[derive(Default)]
struct State {
    rows: BTreeMap<Bytes, Value>,
    last: u64,
    is_snapshot: bool,
}

#[derive(Default)]
pub struct MemoryKv {
    state: RwLock<State>,
}

impl MemoryKv {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Base for BTreeMap<Bytes, Value> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        Ok(BTreeMap::get(self, key).cloned())
    }

    fn any_row(&self, range: &Range<Bytes>, gone: &dyn Fn(&[u8]) -> bool) -> Result<bool, ReadError> {
        Ok(self.range(range.clone()).any(|(key, _)| !gone(key)))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Kv for MemoryKv {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        Ok(self.state.read().rows.get(key).cloned())
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        let state = self.state.read();
        Ok(keys.iter().map(|key| state.rows.get(key).cloned()).collect())
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        let Range { mut start, end } = half_open(&scan, family_of(&scan)?);
        let limit = scan.limit.min(SCAN_ROWS_MAX);
        let state = self.state.read();
        if start >= end {
            return Ok(Vec::new());
        }
        let row = |(key, value): (&Bytes, &Value)| Row {
            key: key.clone(),
            value: value.clone(),
        };
        if scan.direction == Direction::Backward {
            return Ok(state.rows.range(start..end).rev().take(limit).map(row).collect());
        }
        let mut found = Vec::new();
        while found.len() < limit && start < end {
            let range = (Bound::Included(&start), Bound::Excluded(&end));
            let Some((key, value)) = state.rows.range::<Bytes, _>(range).next() else {
                break;
            };
            found.push(row((key, value)));
            let folded = scan.fold.as_ref().and_then(|fold| fold.prefix_of(key));
            let next = match folded {
                Some(prefix) => successor(prefix),
                None => Some([key, &[0][..]].concat()),
            };
            let Some(next) = next else { break };
            start = next.into();
        }
        Ok(found)
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        validate(&mutation)?;
        let mut state = self.state.write();
        if state.is_snapshot {
            return Err(CommitError::Refused("a snapshot takes no writes".to_owned()));
        }
        let sequence = Sequence(state.last + 1);
        let mut group = Group::default();
        group.admit(&state.rows, mutation, sequence)?;
        state.last = sequence.0;
        for (key, value) in group.effects() {
            match value {
                Some(value) => state.rows.insert(key.clone(), value.clone()),
                None => state.rows.remove(key),
            };
        }
        Ok(sequence)
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        let state = self.state.read();
        Ok(Arc::new(Self {
            state: RwLock::new(State {
                rows: state.rows.clone(),
                last: state.last,
                is_snapshot: true,
            }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn behaves() {
        super::super::suite::run(&MemoryKv::new()).await;
    }
}
