//! A fault at each file operation of a request: the process dies there, or the operation fails.

mod case;
mod request;
mod site;

use crate::Result;
use crate::control::{ALL, Fault, GROWING, SYNCS, page};
use crate::server::Launch;
use case::Case;
use request::{KINDS, Kind};
use site::Site;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

#[derive(clap::Args, Clone)]
pub struct StepsOptions {
    #[command(flatten)]
    pub launch: Launch,
    /// Only what `make test` runs.
    #[arg(long)]
    pub sample: bool,
    /// Only these kinds of request; may be repeated.
    #[arg(long)]
    pub only: Vec<Kind>,
    /// Only these kinds of fault, by the names in the table that is printed; may be repeated.
    #[arg(long)]
    pub fault: Vec<String>,
    /// Writes and syncs of packs and the log say that they are done, and are not: each must be noticed.
    #[arg(long)]
    pub sabotage: bool,
    /// Gateways that run at a time.
    #[arg(long, default_value_t = 2)]
    pub parallel: usize,
    /// Where bodies come from; drawn and printed when not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Directory for the data; must not exist. Kept on failure.
    #[arg(long)]
    pub work: PathBuf,
}

/// What is under a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Request(Kind),
    /// A start after SIGKILL.
    Start,
    /// The start that makes the data directory.
    FirstStart,
}

/// One job under one kind of fault, at every event.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    pub job: Job,
    pub name: &'static str,
    pub fault: Fault,
}

/// A busy machine may stop the test for longer than the gateway waits for its clients, and until the collector comes by
/// itself: its events are not the request's.
const PATIENCE: [&str; 4] = [
    "CAIRN_STORAGE_COLLECT_INTERVAL=1h",
    "CAIRN_LIMITS_HEADER_TIMEOUT=1h",
    "CAIRN_LIMITS_IDLE_TIMEOUT=1h",
    "CAIRN_LIMITS_BODY_TIMEOUT=1h",
];
const EIO: u64 = 5;
const ENOSPC: u64 = 28;
/// A pass goes on after a failure, in a new directory, so many times.
const FAILURES_MAX: usize = 3;
/// No request has so many events: the countdown would never outlive it.
const EVENTS_MAX: u64 = 2000;

const fn fault(action: u64, kinds: u64, errno: u64) -> Fault {
    Fault { action, kinds, errno }
}

const KILL: (&str, Fault) = ("kill", fault(page::KILL_BEFORE, ALL, 0));
const FAULTS: [(&str, Fault); 7] = [
    KILL,
    ("kill-after", fault(page::KILL_AFTER, ALL, 0)),
    ("kill-halfway", fault(page::KILL_HALFWAY, page::WRITE, 0)),
    ("eio", fault(page::FAIL, ALL, EIO)),
    ("eio-for-good", fault(page::FAIL_ON, SYNCS | page::WRITE, EIO)),
    ("enospc", fault(page::FAIL, GROWING, ENOSPC)),
    ("short-write", fault(page::SHORTEN, page::WRITE, 0)),
];
/// To die after an event is to die before the next one, but for what other threads do.
const ONLY_WHEN_ASKED: &str = "kill-after";
/// Starts are long, so that not every fault is tried at each of their events.
const START_FAULTS: [&str; 2] = ["kill", "eio"];
const SAMPLE: [Kind; 4] = [Kind::PutInline, Kind::PutPack, Kind::Complete, Kind::Delete];
const SAMPLE_EIO: (&str, Fault) = ("eio", fault(page::FAIL, SYNCS, EIO));
const LIE: (&str, Fault) = ("lie", fault(page::FAIL, page::WRITE | page::SYNC, 0));

/// The passes, dear ones first.
fn plan(options: &StepsOptions) -> VecDeque<Pass> {
    let faults: &[(&'static str, Fault)] = match (options.sample, options.sabotage) {
        (_, true) => &[LIE],
        (true, _) => &[KILL, SAMPLE_EIO],
        _ => &FAULTS,
    };
    let kinds = if options.sample || options.sabotage {
        &SAMPLE[..]
    } else {
        &KINDS[..]
    };
    let kinds = if options.only.is_empty() { kinds } else { &options.only };
    let mut jobs: Vec<Job> = kinds.iter().map(|kind| Job::Request(*kind)).collect();
    if !options.sample && !options.sabotage && options.only.is_empty() {
        jobs.extend([Job::Start, Job::FirstStart]);
    }
    let dear = |job: &Job| match job {
        Job::FirstStart | Job::Start => 0,
        Job::Request(Kind::PutLarge) => 1,
        Job::Request(Kind::UploadPart | Kind::Complete | Kind::Abort) => 2,
        Job::Request(_) => 3,
    };
    jobs.sort_by_key(dear);
    let mut passes = VecDeque::new();
    for job in jobs {
        for (name, fault) in faults.iter().copied() {
            let wanted = match options.fault.as_slice() {
                [] => name != ONLY_WHEN_ASKED,
                asked => asked.iter().any(|asked| asked == name),
            };
            if wanted && (matches!(job, Job::Request(_)) || START_FAULTS.contains(&name)) {
                passes.push_back(Pass { job, name, fault });
            }
        }
    }
    passes
}

/// What all passes found.
#[derive(Default)]
struct Report {
    cases: u64,
    /// How often an event under a fault led to what.
    outcomes: BTreeMap<(&'static str, String, String), u64>,
    failures: Vec<String>,
}

pub async fn run(options: &StepsOptions) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let passes = plan(options);
    println!("steps mode: {} passes, --seed {seed}", passes.len());
    std::fs::create_dir(&options.work)?;
    let work = std::fs::canonicalize(&options.work)?;
    let passes = Arc::new(Mutex::new(passes));
    let report = Arc::new(Mutex::new(Report::default()));
    let workers = (0..options.parallel.max(1)).map(|_| {
        let (mut options, work) = (options.clone(), work.clone());
        options.launch.env.extend(PATIENCE.map(str::to_owned));
        let (passes, report) = (Arc::clone(&passes), Arc::clone(&report));
        tokio::spawn(async move {
            loop {
                let next = passes.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(pass) = next else {
                    return Ok::<_, crate::Failure>(());
                };
                pass.run(&options.launch, &work, seed, &report).await?;
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    for worker in workers {
        worker.await??;
    }
    let report = report.lock().unwrap_or_else(PoisonError::into_inner);
    for ((name, event, outcome), count) in &report.outcomes {
        println!("steps | {name} | {event} | {outcome} | {count}");
    }
    if report.failures.is_empty() {
        println!("{} faults: all sound", report.cases);
        std::fs::remove_dir_all(&options.work)?;
        return Ok(());
    }
    let (failed, all) = (report.failures.len(), report.cases);
    let text = report.failures.join("\n");
    Err(format!(
        "{failed} of {all} faults, seed {seed}, data in {}:\n{text}",
        work.display()
    )
    .into())
}

impl Pass {
    async fn run(self, launch: &Launch, work: &Path, seed: u64, report: &Mutex<Report>) -> Result<()> {
        let begun = Instant::now();
        let (mut at, mut cases, mut tries, mut longest) = (1, 0, 0, (0, 0));
        let mut failures = Vec::new();
        let mut outcomes = Vec::new();
        let mut site: Option<Site> = None;
        loop {
            let directory = work.join(format!("{}-{}-{tries}", self.job.name(), self.name));
            let found = match site.as_mut().filter(|_| !self.is_fresh()) {
                Some(site) => Case { pass: self, at }.run(site).await,
                None => {
                    tries += 1;
                    let made = Site::new(launch, &directory, seed.wrapping_add(tries))?;
                    Case { pass: self, at }.run(site.insert(made)).await
                }
            };
            cases += 1;
            let (seen, error) = match found {
                Ok(seen) => (seen, None),
                Err((seen, error)) => (seen, Some(error)),
            };
            let is_over = seen.fired.is_none() && error.is_none() || at >= EVENTS_MAX;
            longest = longest.max((seen.to_answer, seen.in_all));
            outcomes.extend(seen.outcome(self.fault, error.as_ref().map(ToString::to_string)));
            let event = seen
                .fired
                .as_ref()
                .map_or_else(|| "no event".to_owned(), ToString::to_string);
            let is_noticed = error.is_some();
            if let Some(error) = error.filter(|_| !self.is_lie()) {
                let place = site.as_ref().map_or(Path::new(""), |site| &site.data).display();
                let failure = format!("{self} at event {at} ({event}), {place}: {error}");
                println!("steps | {failure}");
                failures.push(failure);
                site = None;
            } else if self.is_fresh()
                && let Some(mut site) = site.take()
            {
                if self.is_lie() && !is_noticed && seen.is_about_content() {
                    failures.push(format!("{self} at event {at} ({event}) was not noticed"));
                }
                site.kill().await?;
                std::fs::remove_dir_all(site.data.parent().unwrap_or(&site.data))?;
            }
            if is_over || failures.len() >= FAILURES_MAX {
                break;
            }
            at += 1;
        }
        if let Some(mut site) = site {
            site.kill().await?;
            std::fs::remove_dir_all(site.data.parent().unwrap_or(&site.data))?;
        }
        let (to_answer, in_all) = longest;
        println!(
            "steps | {self} | {to_answer} events to the answer, {} behind it | {cases} cases in {:.0} s",
            in_all - to_answer,
            begun.elapsed().as_secs_f64()
        );
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.cases += cases;
        report.failures.append(&mut failures);
        for (event, outcome) in outcomes {
            *report.outcomes.entry((self.name, event, outcome)).or_default() += 1;
        }
        Ok(())
    }

    fn is_lie(&self) -> bool {
        self.fault == LIE.1
    }

    /// Whether each case has a directory of its own.
    fn is_fresh(&self) -> bool {
        self.job == Job::FirstStart || self.is_lie()
    }
}

impl Job {
    fn name(self) -> String {
        use clap::ValueEnum;
        match self {
            Self::Request(kind) => kind
                .to_possible_value()
                .map_or_else(|| "request".to_owned(), |value| value.get_name().to_owned()),
            Self::Start => "start".to_owned(),
            Self::FirstStart => "first-start".to_owned(),
        }
    }
}

impl std::fmt::Display for Pass {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} | {}", self.job.name(), self.name)
    }
}
