//! A place for blobs that is slow, fails, hangs, does late or in part what it was asked for, and lets bits flip.

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn::blob::memory::MemoryBlobs;
use cairn::blob::{Blob, BlobError, Blobs};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::world::World;

/// A put that failed may still happen so long. The gateway takes it for done after 15 minutes.
const LATE_MS: u64 = 10 * 60 * 1000;

/// What outlives the processes.
#[derive(Default)]
pub struct Place {
    blobs: MemoryBlobs,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Puts that are to happen yet, and when.
    late: Vec<(u64, String, Bytes)>,
    /// Puts under way, by number.
    under_way: BTreeMap<u64, (String, Bytes)>,
    next: u64,
    full_until_ms: u64,
    flips: u64,
}

impl Place {
    fn put(&self, name: &str, bytes: Bytes) {
        // In memory nothing waits or fails.
        let _ = self.blobs.put(name, bytes).now_or_never();
    }

    pub fn names(&self) -> Vec<String> {
        let found = self.blobs.list("", None).now_or_never();
        found
            .and_then(Result::ok)
            .unwrap_or_default()
            .into_iter()
            .map(|blob| blob.name)
            .collect()
    }

    /// Bits that changed so far.
    pub fn flips(&self) -> u64 {
        self.state.lock().flips
    }

    /// What is late happens when its time has come.
    pub fn catch_up(&self, world: &World) {
        let now = world.now_ms();
        let due: Vec<_> = {
            let mut state = self.state.lock();
            let (due, late) = std::mem::take(&mut state.late)
                .into_iter()
                .partition(|(at, ..)| *at <= now);
            state.late = late;
            due
        };
        for (_, name, bytes) in due {
            world.note(|| format!("blobs: {name} comes late"));
            self.put(&name, bytes);
        }
    }

    /// A call that nobody waits for any more is undone, done in part, done, or done later.
    fn abandon(&self, world: &World, number: u64) {
        let Some((name, bytes)) = self.state.lock().under_way.remove(&number) else {
            return;
        };
        let fate = world.below(4);
        world.note(|| format!("blobs: nobody waits for {name}: fate {fate}"));
        match fate {
            0 => {}
            1 => self.put(&name, bytes.slice(..bytes.len() / 2)),
            2 => self.put(&name, bytes),
            _ => self.later(world, name, bytes),
        }
    }

    fn later(&self, world: &World, name: String, bytes: Bytes) {
        let at = world.now_ms() + 1 + world.below(LATE_MS);
        self.state.lock().late.push((at, name, bytes));
    }

    /// Flips a bit of a pack, whichever.
    fn flip(&self, world: &World) {
        let packs: Vec<String> = self
            .names()
            .into_iter()
            .filter(|name| name.starts_with("packs/"))
            .collect();
        let Some(name) = world.pick(&packs) else { return };
        let Some(Ok(bytes)) = self.blobs.get(name, None).now_or_never() else {
            return;
        };
        let bytes = self.flipped(world, name, &bytes);
        self.put(name, bytes);
    }

    fn flipped(&self, world: &World, name: &str, bytes: &Bytes) -> Bytes {
        let mut changed = bytes.to_vec();
        let at = world.below(bytes.len() as u64) as usize;
        if let Some(byte) = changed.get_mut(at) {
            *byte ^= 1 << world.below(8);
            self.state.lock().flips += 1;
            world.note(|| format!("blobs: a bit of {name} flips at {at}"));
        }
        changed.into()
    }
}

/// The place, as one process reaches it.
pub struct SimBlobs {
    world: Arc<World>,
    place: Arc<Place>,
}

impl fmt::Debug for SimBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimBlobs")
    }
}

/// A put under way; dropped with its call.
struct UnderWay<'a> {
    blobs: &'a SimBlobs,
    number: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.blobs.place.abandon(&self.blobs.world, self.number);
    }
}

impl SimBlobs {
    pub fn new(world: &Arc<World>, place: &Arc<Place>) -> Self {
        Self {
            world: Arc::clone(world),
            place: Arc::clone(place),
        }
    }

    /// How a call begins: after a while, or never.
    async fn begin(&self, what: impl FnOnce() -> String) -> Result<(), BlobError> {
        let plan = &self.world.plan.blobs;
        self.world.event(what).await;
        self.world.pause(plan.latency_ms).await;
        if self.world.strikes(plan.slow) {
            sleep(Duration::from_millis(self.world.below(20_000))).await;
        }
        if self.world.strikes(plan.hangs) {
            self.world.event(|| "blobs: hangs".to_owned()).await;
            pending::<()>().await;
        }
        self.place.catch_up(&self.world);
        if self.world.strikes(plan.unavailable) {
            return Err(unavailable());
        }
        Ok(())
    }

    async fn answer<T>(&self, outcome: Result<T, BlobError>) -> Result<T, BlobError> {
        self.world.pause(self.world.plan.blobs.latency_ms).await;
        let failed = outcome.as_ref().err().map(ToString::to_string);
        self.world.event(|| format!("blobs: answers {failed:?}")).await;
        if outcome.is_ok() && self.world.strikes(self.world.plan.blobs.answer_lost) {
            return Err(unavailable());
        }
        outcome
    }

    fn check_room(&self) -> Result<(), BlobError> {
        let now = self.world.now_ms();
        if self.world.strikes(self.world.plan.blobs.full) {
            self.place.state.lock().full_until_ms = now + self.world.below(5_000);
        }
        if self.world.strikes(1000) && now < self.place.state.lock().full_until_ms {
            return Err(BlobError::Refused("there is no room".to_owned()));
        }
        Ok(())
    }
}

fn unavailable() -> BlobError {
    BlobError::Unavailable("injected".to_owned())
}

#[async_trait]
impl Blobs for SimBlobs {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BlobError> {
        let plan = &self.world.plan.blobs;
        let under_way = {
            let mut state = self.place.state.lock();
            state.next += 1;
            let number = state.next;
            state.under_way.insert(number, (name.to_owned(), bytes.clone()));
            UnderWay { blobs: self, number }
        };
        self.begin(|| format!("blobs: put {name}, {} bytes", bytes.len()))
            .await?;
        self.check_room()?;
        // From here on the fate of the call is decided.
        self.place.state.lock().under_way.remove(&under_way.number);
        if self.world.strikes(plan.late) {
            self.place.later(&self.world, name.to_owned(), bytes);
            return self.answer(Err(unavailable())).await;
        }
        if self.world.strikes(plan.torn) {
            self.place.put(name, bytes.slice(..bytes.len() / 2));
            return self.answer(Err(unavailable())).await;
        }
        self.place.put(name, bytes);
        if self.world.strikes(plan.flips) {
            self.place.flip(&self.world);
        }
        self.answer(Ok(())).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        let plan = &self.world.plan.blobs;
        self.begin(|| format!("blobs: get {name} {range:?}")).await?;
        let found = self.place.blobs.get(name, range).await;
        let mut bytes = self.answer(found).await?;
        if self.world.strikes(plan.cut) {
            bytes.truncate(self.world.below(bytes.len() as u64) as usize);
        }
        if name.starts_with("packs/") && self.world.strikes(plan.flips_read) {
            bytes = self.place.flipped(&self.world, name, &bytes);
        }
        Ok(bytes)
    }

    async fn size(&self, name: &str) -> Result<u64, BlobError> {
        self.begin(|| format!("blobs: size {name}")).await?;
        let found = self.place.blobs.size(name).await;
        self.answer(found).await
    }

    async fn delete(&self, name: &str) -> Result<(), BlobError> {
        self.begin(|| format!("blobs: delete {name}")).await?;
        let deleted = self.place.blobs.delete(name).await;
        self.answer(deleted).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Blob>, BlobError> {
        self.begin(|| format!("blobs: list {prefix} {after:?}")).await?;
        let found = self.place.blobs.list(prefix, after).await;
        self.answer(found).await
    }
}
