//! A store that fails when told to, for the tests of everything above.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{CommitError, Kv, Mutation, ReadError, Row, Scan, Value};
use crate::ids::Sequence;

/// What happens to one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    Pass,
    /// Nothing is applied, and the caller is told so.
    Unavailable,
    /// Applied, but the caller is told that the outcome is unknown.
    UnknownApplied,
    /// Not applied, and the caller is told that the outcome is unknown.
    UnknownLost,
    /// Passed on after this long.
    Delay(Duration),
}

/// How often each fault strikes, in parts of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    pub unavailable: u32,
    pub unknown_applied: u32,
    pub unknown_lost: u32,
    pub read_unavailable: u32,
}

struct State {
    script: VecDeque<CommitFault>,
    reads_to_fail: u32,
    /// Reads until one that fails.
    reads_to_fault: Option<u32>,
    rates: FaultRates,
    random: u64,
}

impl State {
    /// A number below 1,000 (SplitMix64).
    fn roll(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % 1000) as u32
    }

    fn next_commit(&mut self) -> CommitFault {
        if let Some(fault) = self.script.pop_front() {
            return fault;
        }
        let (roll, rates) = (self.roll(), self.rates);
        let lost = rates.unavailable + rates.unknown_lost;
        match roll {
            roll if roll < rates.unavailable => CommitFault::Unavailable,
            roll if roll < lost => CommitFault::UnknownLost,
            roll if roll < lost + rates.unknown_applied => CommitFault::UnknownApplied,
            _ => CommitFault::Pass,
        }
    }

    fn next_read_fails(&mut self) -> bool {
        if let Some(left) = self.reads_to_fault {
            self.reads_to_fault = left.checked_sub(1);
            return left == 0;
        }
        if self.reads_to_fail > 0 {
            self.reads_to_fail -= 1;
            return true;
        }
        self.roll() < self.rates.read_unavailable
    }
}

/// Forwards to `K`, except where the script or the dice say otherwise.
pub struct FaultKv<K> {
    inner: K,
    state: Mutex<State>,
}

impl<K: Kv> FaultKv<K> {
    /// Without faults until told otherwise.
    pub fn new(inner: K) -> Self {
        Self::seeded(inner, 0, FaultRates::default())
    }

    /// Faults by chance: the same seed and calls give the same faults.
    pub fn seeded(inner: K, seed: u64, rates: FaultRates) -> Self {
        let state = State {
            script: VecDeque::new(),
            reads_to_fail: 0,
            reads_to_fault: None,
            rates,
            random: seed,
        };
        Self {
            inner,
            state: Mutex::new(state),
        }
    }

    pub fn inner(&self) -> &K {
        &self.inner
    }

    /// What happens to the next commits, in order; chance decides after them.
    pub fn script(&self, faults: impl IntoIterator<Item = CommitFault>) {
        self.state.lock().script.extend(faults);
    }

    /// Makes the next `count` reads fail.
    pub fn fail_reads(&self, count: u32) {
        self.state.lock().reads_to_fail = count;
    }

    /// Makes one read fail, `count` others before it.
    pub fn fail_read_after(&self, count: u32) {
        self.state.lock().reads_to_fault = Some(count);
    }

    /// Whether the read that was to fail has not come.
    pub fn read_fault_is_left(&self) -> bool {
        self.state.lock().reads_to_fault.is_some()
    }

    /// From now on faults strike by chance as `rates` says.
    pub fn set_rates(&self, rates: FaultRates) {
        self.state.lock().rates = rates;
    }

    fn before_read(&self) -> Result<(), ReadError> {
        if self.state.lock().next_read_fails() {
            return Err(ReadError::Unavailable("an injected fault".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<K: Kv> Kv for FaultKv<K> {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, ReadError> {
        self.before_read()?;
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, ReadError> {
        self.before_read()?;
        self.inner.get_many(keys).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, ReadError> {
        self.before_read()?;
        self.inner.scan(scan).await
    }

    async fn commit(&self, mutation: Mutation) -> Result<Sequence, CommitError> {
        let fault = self.state.lock().next_commit();
        match fault {
            CommitFault::Pass => {}
            CommitFault::Delay(pause) => tokio::time::sleep(pause).await,
            CommitFault::Unavailable => return Err(CommitError::Unavailable("an injected fault".to_owned())),
            CommitFault::UnknownLost => return Err(CommitError::Unknown("an injected fault".to_owned())),
            CommitFault::UnknownApplied => {
                self.inner.commit(mutation).await?;
                return Err(CommitError::Unknown("an injected fault".to_owned()));
            }
        }
        self.inner.commit(mutation).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Kv>, ReadError> {
        self.before_read()?;
        self.inner.snapshot().await
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryKv;
    use super::*;

    fn put(key: &Bytes) -> Mutation {
        let mut mutation = Mutation::new();
        mutation.put(key.clone(), "x");
        mutation
    }

    #[tokio::test]
    async fn behaves_without_faults() {
        super::super::suite::run(&FaultKv::new(MemoryKv::new())).await;
    }

    #[tokio::test]
    async fn unknown_is_applied_or_lost_as_told() {
        let kv = FaultKv::new(MemoryKv::new());
        let (a, b) = (Bytes::from_static(b"\x70a"), Bytes::from_static(b"\x70b"));
        kv.script([
            CommitFault::UnknownApplied,
            CommitFault::UnknownLost,
            CommitFault::Unavailable,
        ]);
        assert!(!kv.commit(put(&a)).await.unwrap_err().is_certain());
        assert!(!kv.commit(put(&b)).await.unwrap_err().is_certain());
        assert!(kv.commit(put(&b)).await.unwrap_err().is_certain());
        assert!(kv.get(&a).await.unwrap().is_some());
        assert!(kv.get(&b).await.unwrap().is_none());
        kv.fail_reads(1);
        assert!(kv.get(&a).await.is_err());
        assert!(kv.get(&a).await.is_ok());
    }

    #[tokio::test]
    async fn one_seed_gives_one_history() {
        let mut histories = Vec::new();
        for _ in 0..2 {
            let rates = FaultRates {
                unavailable: 200,
                unknown_applied: 200,
                unknown_lost: 200,
                read_unavailable: 0,
            };
            let kv = FaultKv::seeded(MemoryKv::new(), 7, rates);
            let mut history = String::new();
            for _ in 0..50 {
                history += &format!("{:?}", kv.commit(put(&Bytes::from_static(b"\x70a"))).await);
            }
            histories.push(history);
        }
        assert_eq!(histories[0], histories[1]);
        assert!(histories[0].contains("Unknown"));
    }
}
