//! A simulation from its first process to the last look at what is left.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use cairn::chunk::{
    ChunkStore, ChunkStoreOptions, CloudOptions, CollectOptions, CollectorHandle, KeeperHandle, OpenError,
};
use cairn::iam::Identity;
use cairn::ids::IdSource;
use cairn::object::{Objects, ScrubHandle, SweeperHandle};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::blobs::{Place, SimBlobs};
use crate::client::{BUCKETS, Client, Shared};
use crate::content::Contents;
use crate::entropy::on_seeded_thread;
use crate::kv::{Log, SimKv};
use crate::last::{last_look, nothing_is_left};
use crate::model::Model;
use crate::world::World;

/// No process works longer, in virtual time.
const PATIENCE: Duration = Duration::from_secs(4 * 60 * 60);
/// The footers and the room between the records of small packs are more than the collector may leave dead: without this it
/// would never rest.
const DEAD_BYTES: u64 = 200_000;
/// Processes that cannot open their store in one simulation.
const OPENS_MAX: u32 = 200;

/// How a simulation came out.
#[derive(Debug)]
pub struct Report {
    /// Of all events in their order.
    pub history: u64,
    pub events: u64,
    pub violations: Vec<String>,
    /// The events in words, the first ones.
    pub lines: Vec<String>,
}

/// The history that the seed has, wherever it runs; of its events so many in words.
pub fn simulate(seed: u64, lines_max: usize) -> Report {
    let world = Arc::new(World::new(seed, lines_max));
    let ran = on_seeded_thread(seed, || {
        let simulation = Simulation::new(&world, seed)?;
        simulation.run()
    });
    let (history, events, lines) = world.history();
    let mut violations = world.violations();
    violations.extend(ran.and_then(|ran| ran).err());
    Report {
        history,
        events,
        violations,
        lines,
    }
}

struct Simulation {
    shared: Arc<Shared>,
    log: Arc<Mutex<Log>>,
    place: Arc<Place>,
    dir: tempfile::TempDir,
}

/// A process.
pub struct Gateway {
    pub kv: Arc<SimKv>,
    pub chunks: Arc<ChunkStore>,
    pub client: Client,
    /// They work as long as the runtime lives: nobody stops what is going to crash.
    _background: (CollectorHandle, KeeperHandle, SweeperHandle, ScrubHandle),
}

fn runtime() -> Result<Runtime, String> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.map_err(|error| error.to_string())
}

impl Simulation {
    fn new(world: &Arc<World>, seed: u64) -> Result<Self, String> {
        let identity = Identity {
            name: "alice".to_owned(),
            canonical_id: "a".repeat(64),
            email: String::new(),
            is_root: false,
            keys: Vec::new(),
        };
        let shared = Shared {
            world: Arc::clone(world),
            model: Mutex::new(Model::default()),
            contents: Contents::new(seed),
            uploads: Mutex::default(),
            has_buckets: AtomicBool::new(false),
            identity: Arc::new(identity),
        };
        Ok(Self {
            shared: Arc::new(shared),
            log: Arc::default(),
            place: Arc::default(),
            dir: tempfile::tempdir().map_err(|error| error.to_string())?,
        })
    }

    fn world(&self) -> &Arc<World> {
        &self.shared.world
    }

    fn run(&self) -> Result<(), String> {
        let world = self.world();
        for number in 0..world.plan.boots {
            let is_last = number + 1 == world.plan.boots;
            // As often soon as late.
            let bits = 4 + world.below(11);
            let dies_after = (!is_last).then(|| 1 + world.below(1 << bits));
            let runtime = runtime()?;
            runtime.block_on(async {
                world.boot(dies_after);
                tokio::select! {
                    biased;
                    () = world.died() => {}
                    ended = timeout(PATIENCE, self.work()) => {
                        if ended.is_err() {
                            world.violated("the clients do not come to an end".to_owned());
                        }
                    }
                }
                world.halt();
            });
            drop(runtime);
            self.crash();
        }
        world.calm();
        self.look(DEAD_BYTES, async |gateway| last_look(gateway, &self.place).await)?;
        if self.place.flips() == 0 {
            self.look(0, async |gateway| nothing_is_left(gateway, &self.place).await)?;
        }
        let violations = self.shared.model.lock().violations();
        violations.into_iter().for_each(|what| world.violated(what));
        Ok(())
    }

    /// A process without faults.
    fn look(&self, dead_bytes: u64, look: impl AsyncFnOnce(&Gateway)) -> Result<(), String> {
        let (world, runtime) = (self.world(), runtime()?);
        runtime.block_on(async {
            world.boot(None);
            match self.open(dead_bytes).await {
                Ok(gateway) => look(&gateway).await,
                Err(error) => world.violated(format!("the store does not open: {error}")),
            }
            world.halt();
        });
        Ok(())
    }

    /// What is left when a process is gone, which no other follows at once.
    fn crash(&self) {
        let world = self.world();
        let pauses_ms = [0, 1_000, 60_000, 20 * 60_000, 25 * 60 * 60_000];
        world.pass(world.pick(&pauses_ms).copied().unwrap_or_default());
        self.place.catch_up(world);
        self.log.lock().crash(world);
        self.shared.model.lock().crash();
    }

    /// One process, from its start until its clients are done or its log is poisoned.
    async fn work(&self) {
        let world = self.world();
        for _ in 0..OPENS_MAX {
            match self.open(DEAD_BYTES).await {
                Ok(gateway) => return self.serve(&gateway).await,
                Err(error) => world.note(|| format!("the store does not open: {error}")),
            }
            sleep(Duration::from_secs(1)).await;
        }
        world.violated("the store never opens".to_owned());
    }

    async fn serve(&self, gateway: &Gateway) {
        let world = self.world();
        for name in &BUCKETS[..2] {
            while gateway.client.objects.bucket(name).await.ok().flatten().is_none() {
                gateway.client.make_bucket(name).await;
                sleep(Duration::from_millis(100)).await;
                if gateway.kv.is_poisoned() {
                    return;
                }
            }
        }
        self.shared.has_buckets.store(true, Relaxed);
        let mut clients = JoinSet::new();
        for _ in 0..world.plan.clients {
            clients.spawn(gateway.client.clone().run());
        }
        let done = async {
            while let Some(ended) = clients.join_next().await {
                if let Err(error) = ended {
                    world.violated(format!("a client's operation ends in {error}"));
                }
            }
            // The background has its turn alone.
            sleep(Duration::from_millis(world.below(20_000))).await;
        };
        tokio::select! {
            biased;
            () = done => {}
            () = gateway.kv.failed.notified() => {
                // Until somebody looks after it.
                sleep(Duration::from_millis(world.below(3_000))).await;
            }
        }
    }

    /// The collector leaves so many dead bytes alone.
    async fn open(&self, dead_bytes: u64) -> Result<Gateway, OpenError> {
        let (world, kv) = (self.world(), SimKv::open(self.world(), &self.log));
        let ids = Arc::new(IdSource::new(world.clock.clone()));
        let blobs = Arc::new(SimBlobs::new(world, &self.place));
        let options = options(self.dir.path(), blobs, dead_bytes);
        let registry = prometheus::Registry::new();
        let chunks = ChunkStore::open(
            Arc::clone(&kv) as _,
            options,
            world.clock.clone(),
            Arc::clone(&ids),
            &registry,
        );
        let chunks = chunks.await?;
        let objects = Objects::new(Arc::clone(&kv) as _, Arc::clone(&chunks), world.clock.clone(), ids);
        let background = (
            chunks.start_collector(),
            chunks.start_keeper(),
            objects.start_sweeper(Duration::from_secs(1)),
            objects.start_scrub(Duration::from_secs(30)),
        );
        let shared = Arc::clone(&self.shared);
        Ok(Gateway {
            kv,
            chunks,
            client: Client { shared, objects },
            _background: background,
        })
    }
}

fn options(dir: &Path, blobs: Arc<SimBlobs>, dead_bytes_min: u64) -> ChunkStoreOptions {
    let mut options = ChunkStoreOptions::new(dir.join("packs")).on_one_thread();
    options.cloud = Some(CloudOptions::new(
        blobs,
        "the simulation".to_owned(),
        dir.join("cache"),
        0,
    ));
    options.pool_bytes = 16 << 20;
    options.collect = CollectOptions {
        dead_bytes_min,
        interval: Duration::from_secs(5),
        ..CollectOptions::default()
    };
    options
}
