//! Blobs that fail when told to, for the tests of everything above.

use std::collections::VecDeque;
use std::future::pending;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::store::{Blob, BlobError, Blobs};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobFault {
    Pass,
    /// Nothing is done, and the caller is told so.
    Unavailable,
    /// As `Unavailable`, for good.
    Refused,
    /// Done, and the caller is told that it failed.
    AnswerLost,
    /// Passed on after this long.
    Delay(Duration),
    /// Done, and never answered.
    Hang,
    /// Half of the bytes are written or read, and the caller is told of success: what no server should do.
    Cut,
}

/// The calls that can be told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Put,
    Get,
    Size,
    Delete,
    List,
}

/// How often each fault strikes a put or a get, in parts of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlobFaultRates {
    pub unavailable: u32,
    pub answer_lost: u32,
}

#[derive(Debug)]
struct State {
    script: VecDeque<(Call, BlobFault)>,
    rates: BlobFaultRates,
    random: u64,
    is_down: bool,
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

    fn next(&mut self, call: Call) -> BlobFault {
        if self.is_down {
            return BlobFault::Unavailable;
        }
        if let Some(at) = self.script.iter().position(|(of, _)| *of == call) {
            return self.script.remove(at).map_or(BlobFault::Pass, |(_, fault)| fault);
        }
        let (roll, rates) = (self.roll(), self.rates);
        match roll {
            roll if roll < rates.unavailable => BlobFault::Unavailable,
            roll if roll < rates.unavailable + rates.answer_lost => BlobFault::AnswerLost,
            _ => BlobFault::Pass,
        }
    }
}

/// Forwards to `B`, except where the script or the dice say otherwise.
#[derive(Debug)]
pub struct FaultBlobs<B> {
    inner: B,
    state: Mutex<State>,
}

impl<B: Blobs> FaultBlobs<B> {
    /// Without faults until told otherwise.
    pub fn new(inner: B) -> Self {
        Self::seeded(inner, 0, BlobFaultRates::default())
    }

    /// Faults by chance: the same seed and calls give the same faults.
    pub fn seeded(inner: B, seed: u64, rates: BlobFaultRates) -> Self {
        let state = State {
            script: VecDeque::new(),
            rates,
            random: seed,
            is_down: false,
        };
        Self {
            inner,
            state: Mutex::new(state),
        }
    }

    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// What happens to the next calls of this kind, in order; chance decides after them.
    pub fn script(&self, call: Call, faults: impl IntoIterator<Item = BlobFault>) {
        let faults = faults.into_iter().map(|fault| (call, fault));
        self.state.lock().script.extend(faults);
    }

    /// From now on faults strike by chance as `rates` says.
    pub fn set_rates(&self, rates: BlobFaultRates) {
        self.state.lock().rates = rates;
    }

    /// Every call fails as long as it is down.
    pub fn set_down(&self, is_down: bool) {
        self.state.lock().is_down = is_down;
    }

    async fn struck<T>(
        &self,
        fault: BlobFault,
        call: impl Future<Output = Result<T, BlobError>> + Send,
    ) -> Result<T, BlobError> {
        let unavailable = || BlobError::Unavailable("injected".to_owned());
        match fault {
            BlobFault::Pass | BlobFault::Cut => call.await,
            BlobFault::Unavailable => Err(unavailable()),
            BlobFault::Refused => Err(BlobError::Refused("injected".to_owned())),
            BlobFault::AnswerLost => call.await.and_then(|_| Err(unavailable())),
            BlobFault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                call.await
            }
            BlobFault::Hang => {
                drop(call.await);
                pending().await
            }
        }
    }

    fn next(&self, call: Call) -> BlobFault {
        self.state.lock().next(call)
    }
}

#[async_trait]
impl<B: Blobs> Blobs for FaultBlobs<B> {
    async fn put(&self, name: &str, mut bytes: Bytes) -> Result<(), BlobError> {
        let fault = self.next(Call::Put);
        if fault == BlobFault::Cut {
            bytes.truncate(bytes.len() / 2);
        }
        self.struck(fault, self.inner.put(name, bytes)).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        let fault = self.next(Call::Get);
        let mut bytes = self.struck(fault, self.inner.get(name, range)).await?;
        if fault == BlobFault::Cut {
            bytes.truncate(bytes.len() / 2);
        }
        Ok(bytes)
    }

    async fn size(&self, name: &str) -> Result<u64, BlobError> {
        self.struck(self.next(Call::Size), self.inner.size(name)).await
    }

    async fn delete(&self, name: &str) -> Result<(), BlobError> {
        self.struck(self.next(Call::Delete), self.inner.delete(name)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Blob>, BlobError> {
        self.struck(self.next(Call::List), self.inner.list(prefix, after)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::memory::MemoryBlobs;

    #[tokio::test]
    async fn it_behaves_without_faults() {
        crate::blob::suite::run(&FaultBlobs::new(MemoryBlobs::new())).await;
    }

    #[tokio::test]
    async fn faults_strike_as_scripted() {
        let blobs = FaultBlobs::new(MemoryBlobs::new());
        let bytes = Bytes::from_static(b"12345678");
        blobs.script(
            Call::Put,
            [BlobFault::Unavailable, BlobFault::AnswerLost, BlobFault::Cut],
        );
        blobs.script(Call::Get, [BlobFault::Pass, BlobFault::Cut]);
        assert!(blobs.put("never", bytes.clone()).await.is_err());
        assert!(blobs.put("lost", bytes.clone()).await.is_err());
        blobs.put("cut", bytes.clone()).await.unwrap();
        let names = blobs.list("", None).await.unwrap();
        assert_eq!(names.iter().map(|blob| blob.bytes).collect::<Vec<_>>(), [4, 8]);
        assert_eq!(blobs.get("lost", None).await.unwrap(), bytes);
        assert_eq!(blobs.get("lost", None).await.unwrap(), bytes[..4]);
        blobs.set_down(true);
        assert!(blobs.size("lost").await.is_err());
        blobs.set_down(false);
        assert_eq!(blobs.size("lost").await, Ok(8));
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_done_and_never_answered() {
        let blobs = FaultBlobs::new(MemoryBlobs::new());
        blobs.script(Call::Put, [BlobFault::Hang]);
        let put = blobs.put("late", Bytes::new());
        assert!(tokio::time::timeout(Duration::from_millis(20), put).await.is_err());
        assert_eq!(blobs.size("late").await, Ok(0));
    }
}
