//! A run: fill, warm up, then slices in turn between the endpoints, with the servers' CPU time around them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};

use crate::args::{Load, Op};
use crate::body::Content;
use crate::process::{self, Memory};
use crate::site::{Plan, Site, SiteError};
use crate::stats::Stats;
use crate::worker::{OpError, Worker};

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error("setting up {endpoint}: {source}")]
    Setup { endpoint: String, source: OpError },
    #[error("a worker died: {0}")]
    Worker(#[from] JoinError),
}

/// One endpoint's result.
pub struct Outcome {
    pub site: Arc<Site>,
    pub stats: Stats,
    /// Time in its slices.
    pub busy: Duration,
    /// Operations a second of each slice, in order.
    pub slices: Vec<f64>,
    pub server_cpu: Option<Duration>,
    pub client_cpu: Duration,
    pub memory: Option<Memory>,
    /// Requests answered by each connection.
    pub answered: Vec<u64>,
}

struct Lane {
    site: Arc<Site>,
    plan: Arc<Plan>,
    workers: Vec<Worker>,
    busy: Duration,
    slices: Vec<f64>,
    client_cpu: Duration,
    cpu_before: Option<Duration>,
}

fn client_cpu() -> Duration {
    process::cpu_time("self").unwrap_or_default()
}

impl Lane {
    fn server_cpu(&self) -> Option<Duration> {
        process::cpu_time(self.site.pid.as_ref()?)
    }

    async fn prepare(site: Site, plan: &Arc<Plan>) -> Result<Self, RunError> {
        let site = Arc::new(site);
        let failed = |source| RunError::Setup {
            endpoint: site.endpoint.clone(),
            source,
        };
        Worker::new(&site, plan, 0).make_bucket().await.map_err(failed)?;
        let reads = matches!(plan.load.op, Op::Get | Op::Head | Op::List | Op::Delete | Op::Mixed);
        if (reads || plan.load.fill_only) && !plan.load.no_fill {
            let mut fillers = JoinSet::new();
            for number in 0..plan.load.concurrency.min(64) as u64 {
                fillers.spawn(Worker::new(&site, plan, number).fill());
            }
            while let Some(filled) = fillers.join_next().await {
                filled?.map_err(failed)?;
            }
            site.cursor.store(0, Ordering::Relaxed);
        }
        let mut workers = Vec::new();
        for number in 0..plan.load.concurrency as u64 {
            let mut worker = Worker::new(&site, plan, number);
            worker.link.open_all().await.map_err(|error| failed(error.into()))?;
            workers.push(worker);
        }
        let plan = Arc::clone(plan);
        let (busy, client_cpu) = (Duration::ZERO, Duration::ZERO);
        Ok(Self {
            site,
            plan,
            workers,
            busy,
            slices: Vec::new(),
            client_cpu,
            cpu_before: None,
        })
    }

    fn done(&self) -> u64 {
        self.workers.iter().map(|worker| worker.stats.all.total).sum()
    }

    async fn slice(&mut self, length: Duration) -> Result<(), RunError> {
        let (begin, done, cpu) = (Instant::now(), self.done(), client_cpu());
        let mut running = JoinSet::new();
        for worker in self.workers.drain(..) {
            running.spawn(worker.run(begin + length));
        }
        while let Some(worker) = running.join_next().await {
            self.workers.push(worker?);
        }
        let took = begin.elapsed();
        self.busy += took;
        self.client_cpu += client_cpu().saturating_sub(cpu);
        self.slices.push((self.done() - done) as f64 / took.as_secs_f64());
        Ok(())
    }

    /// Forgets the warm-up.
    fn start_measuring(&mut self) {
        for worker in &mut self.workers {
            worker.stats = Stats::default();
            worker.link.reset_counts();
        }
        self.site.begun.store(0, Ordering::Relaxed);
        (self.busy, self.client_cpu) = (Duration::ZERO, Duration::ZERO);
        self.slices.clear();
        self.cpu_before = self.server_cpu();
    }

    /// Nothing more to delete, or all of `--count` done.
    fn exhausted(&self) -> bool {
        let load = &self.plan.load;
        let deleted = load.op == Op::Delete && self.site.cursor.load(Ordering::Relaxed) >= self.plan.keys();
        deleted
            || load
                .count
                .is_some_and(|count| self.site.begun.load(Ordering::Relaxed) >= count)
    }

    fn outcome(mut self) -> Outcome {
        let server_cpu = self
            .server_cpu()
            .zip(self.cpu_before)
            .map(|(after, before)| after.saturating_sub(before));
        let mut stats = Stats::default();
        for worker in &mut self.workers {
            worker.stats.reconnects = worker.link.reconnects;
            stats.merge(&worker.stats);
        }
        Outcome {
            memory: self.site.pid.as_deref().and_then(process::memory),
            answered: self.workers.iter().flat_map(|worker| worker.link.answered()).collect(),
            site: self.site,
            stats,
            busy: self.busy,
            slices: self.slices,
            server_cpu,
            client_cpu: self.client_cpu,
        }
    }
}

pub async fn run(load: &Load) -> Result<Vec<Outcome>, RunError> {
    let plan = Arc::new(Plan::new(load.clone(), Content::fresh_run()));
    let mut lanes = vec![Lane::prepare(Site::first(load)?, &plan).await?];
    if let Some(site) = Site::second(load)? {
        lanes.push(Lane::prepare(site, &plan).await?);
    }
    if load.fill_only {
        return Ok(Vec::new());
    }
    let warmup = if load.count.is_some() || load.op == Op::Delete {
        Duration::ZERO
    } else {
        load.warmup
    };
    for lane in &mut lanes {
        if !warmup.is_zero() {
            lane.slice(warmup).await?;
        }
    }
    lanes.iter_mut().for_each(Lane::start_measuring);
    let slice = if lanes.len() > 1 { load.slice } else { load.duration };
    let rounds = (load.duration.as_secs_f64() / slice.as_secs_f64()).ceil().max(1.0) as usize;
    for round in 0..rounds {
        // ABBA: drift of the machine falls on both alike.
        if round % 2 == 0 {
            for lane in lanes.iter_mut() {
                lane.slice(slice).await?;
            }
        } else {
            for lane in lanes.iter_mut().rev() {
                lane.slice(slice).await?;
            }
        }
        if lanes.iter().any(Lane::exhausted) {
            break;
        }
    }
    Ok(lanes.into_iter().map(Lane::outcome).collect())
}
