//! Power cuts: a recorded run, then many images of the disk as it may have been left, each started and read.

use crate::Result;
use crate::client::Access;
use crate::disk::Disk;
use crate::history::{Clock, History, Mark};
use crate::image;
use crate::kill::{Round, create_bucket};
use crate::omit;
use crate::server::{Launch, Recording, Server};
use crate::trace::{Trace, format};
use crate::verify::verify;
use crate::workload::{Scale, WRITERS};
use fastrand::Rng;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

#[derive(clap::Args, Clone)]
pub struct CrashOptions {
    #[command(flatten)]
    pub launch: Launch,
    /// How many crash images are built and read.
    #[arg(long, default_value_t = 20)]
    pub images: usize,
    /// Where sizes, bodies, moments and losses come from; drawn and printed when not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Directory for the recorded run; must not exist. Kept on failure, with the failing image.
    #[arg(long)]
    pub work: PathBuf,
    /// Directory for the images; memory serves best.
    #[arg(long, default_value = "/dev/shm")]
    pub images_dir: PathBuf,
    /// Length of each of the two recorded phases in milliseconds.
    #[arg(long, default_value_t = 2500)]
    pub phase_ms: u64,
    /// Images that are started and read at a time.
    #[arg(long, default_value_t = 2)]
    pub parallel: usize,
    /// Syncs to leave out of the recorded run (see tools/synctrace/src/rules.rs): then the test must fail.
    #[arg(long, default_value = "")]
    pub drop: String,
    /// A sync to leave out of the trace by its place in the program (see src/omit.rs): then the test must fail.
    #[arg(long, default_value = "")]
    pub omit: String,
}

/// From the rename of a file to the first sync of what is written to it next: that many events, or a few more.
const EVENTS_BEHIND_RENAME: usize = 6;

/// A recorded run.
struct Recorded {
    trace: Trace,
    histories: Vec<History>,
    /// With the root key pair that the gateway made.
    access: Access,
    /// When the bucket's creation was acknowledged.
    bucket: Mark,
}

/// One image to look at.
struct Job {
    number: usize,
    at: Mark,
    seed: u64,
    fate: String,
    directory: PathBuf,
}

/// What a crash run found.
pub struct Report {
    pub images: usize,
    pub dropped_syncs: usize,
    pub failure: Option<String>,
}

pub async fn run(options: &CrashOptions) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    println!(
        "crash mode: {} images, --seed {seed}, syncs left out: {:?} {:?}",
        options.images, options.drop, options.omit
    );
    std::fs::create_dir(&options.work)?;
    let work = std::fs::canonicalize(&options.work)?;
    let recorded = Arc::new(record(options, &work, seed).await?);
    let marks: Vec<Mark> = recorded.histories.iter().flat_map(History::acknowledgements).collect();
    println!(
        "recorded {} events, {} MiB, {} acknowledged changes, {} syncs left out",
        recorded.trace.events.len(),
        recorded.trace.bytes.len() >> 20,
        marks.len(),
        recorded.trace.dropped_syncs()
    );
    let mut rng = Rng::with_seed(seed ^ 0xC4A5);
    let images_dir = options.images_dir.join(format!("cairn-torture-{}", std::process::id()));
    std::fs::create_dir_all(&images_dir)?;
    let points = crash_points(&recorded.trace, &marks, options.images, &mut rng);
    let failure = look_at_images(options, &recorded, points, &images_dir, seed, &mut rng).await;
    std::fs::remove_dir_all(&images_dir)?;
    let dropped_syncs = recorded.trace.dropped_syncs();
    let failure = match failure? {
        None => {
            std::fs::remove_dir_all(&work)?;
            None
        }
        Some((job, text)) => {
            let kept = work.join("image");
            build_again(&recorded, &job, &kept)?;
            Some(format!(
                "image {} of {}, seed {seed}, crash at byte {} of {}, {}; the image as it was before the gateway \
                 started is in {}:\n{text}",
                job.number,
                options.images,
                job.at,
                work.join("trace").display(),
                job.fate,
                kept.display()
            ))
        }
    };
    Ok(Report {
        images: options.images,
        dropped_syncs,
        failure,
    })
}

/// Two phases of load on one directory, the first ended by SIGTERM and the second by SIGKILL.
async fn record(options: &CrashOptions, work: &Path, seed: u64) -> Result<Recorded> {
    let data = work.join("data");
    std::fs::create_dir(&data)?;
    let log = work.join("trace");
    let recording = Recording::Log {
        log: log.clone(),
        drop: options.drop.clone(),
    };
    let clock = Arc::new(Clock::Log(log.clone()));
    let duration = Duration::from_millis(options.phase_ms);
    let round = |number: u64| Round {
        scale: Scale::Small,
        clock: &clock,
        seed: seed.wrapping_add(number),
        duration,
    };
    let server = Server::start(&options.launch, &data, Some(&recording)).await?;
    let access = server.access.clone();
    create_bucket(&access).await?;
    let bucket = clock.now();
    let (histories, _, server) = round(1).run(server, vec![History::default(); WRITERS], false).await?;
    if let Some(server) = server {
        server.stop().await?;
    }
    let trace = Trace::read(&log)?;
    if let Some(found) = image::difference(&replay(&trace, Mark::MAX)?, &trace, &data)? {
        return Err(format!("the trace misses a change, so some call escaped the recorder: {found}").into());
    }
    let server = Server::start(&options.launch, &data, Some(&recording)).await?;
    let (histories, _, _) = round(2).run(server, histories, true).await?;
    let mut trace = Trace::read(&log)?;
    omit::by_place(&mut trace, &options.omit)?;
    Ok(Recorded {
        trace,
        histories,
        access,
        bucket,
    })
}

fn replay(trace: &Trace, at: Mark) -> Result<Disk> {
    let mut disk = Disk::new();
    for (index, event) in trace.events.iter().enumerate().take_while(|(_, event)| event.end <= at) {
        disk.apply(index, event, trace)?;
    }
    Ok(disk)
}

/// Half of the points lie right behind an acknowledgement, where a missing sync shows most; a quarter shortly behind a
/// rename, since what moves into place must be whole before; a quarter anywhere.
fn crash_points(trace: &Trace, marks: &[Mark], count: usize, rng: &mut Rng) -> Vec<Mark> {
    let events = trace.events.iter().enumerate();
    let renames: Vec<usize> = events
        .filter(|(_, event)| event.kind == format::RENAME)
        .map(|(index, _)| index)
        .collect();
    let mut points: Vec<Mark> = (0..count)
        .filter_map(|number| {
            let chosen = match number % 4 {
                0 | 2 => rng.choice(marks).copied(),
                1 => rng.choice(&renames).and_then(|index| {
                    let event = trace.events.get(index + rng.usize(0..EVENTS_BEHIND_RENAME));
                    event.map(|event| event.end)
                }),
                _ => None,
            };
            chosen.or_else(|| rng.choice(&trace.events).map(|event| event.end))
        })
        .collect();
    points.sort_unstable();
    points
}

async fn look_at_images(
    options: &CrashOptions,
    recorded: &Arc<Recorded>,
    points: Vec<Mark>,
    images_dir: &Path,
    seed: u64,
    rng: &mut Rng,
) -> Result<Option<(Job, String)>> {
    let (sender, receiver) = mpsc::channel::<Job>(options.parallel);
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let first_seed = rng.u64(..) ^ seed;
    let builder = {
        let (recorded, images_dir) = (Arc::clone(recorded), images_dir.to_owned());
        tokio::task::spawn_blocking(move || build_all(&recorded, &points, &images_dir, first_seed, &sender))
    };
    let mut lookers = Vec::new();
    for _ in 0..options.parallel {
        let (launch, recorded, receiver) = (options.launch.clone(), Arc::clone(recorded), Arc::clone(&receiver));
        lookers.push(tokio::spawn(async move { look(&launch, &recorded, &receiver).await }));
    }
    let mut failure = None;
    for looker in lookers {
        if let Some(found) = looker.await? {
            failure = Some(found);
        }
    }
    drop(receiver);
    builder.await??;
    Ok(failure)
}

/// Replays forward once and builds an image at each point; ends early when nobody looks any more.
fn build_all(
    recorded: &Recorded,
    points: &[Mark],
    images_dir: &Path,
    seed: u64,
    jobs: &mpsc::Sender<Job>,
) -> Result<()> {
    let mut disk = Disk::new();
    let mut events = recorded.trace.events.iter().enumerate().peekable();
    for (number, at) in (1..).zip(points) {
        while let Some((index, event)) = events.next_if(|(_, event)| event.end <= *at) {
            disk.apply(index, event, &recorded.trace)?;
        }
        let seed = seed.wrapping_add(number as u64);
        let directory = images_dir.join(format!("image-{number}"));
        let fate = image::build(&disk, &recorded.trace, &mut Rng::with_seed(seed), &directory)?;
        if jobs
            .blocking_send(Job {
                number,
                at: *at,
                seed,
                fate,
                directory,
            })
            .is_err()
        {
            break;
        }
    }
    Ok(())
}

fn build_again(recorded: &Recorded, job: &Job, target: &Path) -> Result<()> {
    let disk = replay(&recorded.trace, job.at)?;
    image::build(&disk, &recorded.trace, &mut Rng::with_seed(job.seed), target).map(drop)
}

/// Takes images until they end or one fails; then closes the queue, so that the others end too.
async fn look(
    launch: &Launch,
    recorded: &Recorded,
    jobs: &tokio::sync::Mutex<mpsc::Receiver<Job>>,
) -> Option<(Job, String)> {
    loop {
        let job = jobs.lock().await.recv().await?;
        let outcome = look_at(launch, recorded, &job).await;
        // The directory goes in any case; what a failure needs is built again.
        let _ = std::fs::remove_dir_all(&job.directory);
        let _ = std::fs::remove_file(job.directory.with_extension("output"));
        match outcome {
            Ok(()) if job.number.is_multiple_of(50) => println!("image {}: sound so far", job.number),
            Ok(()) => {}
            Err(error) => {
                jobs.lock().await.close();
                return Some((job, error.to_string()));
            }
        }
    }
}

async fn look_at(launch: &Launch, recorded: &Recorded, job: &Job) -> Result<()> {
    let server = Server::start(launch, &job.directory, None).await?;
    if job.at >= recorded.bucket {
        let access = Access {
            address: server.access.address,
            ..recorded.access.clone()
        };
        verify(&access, &recorded.histories, job.at).await?;
        if !launch.no_recount {
            server.recount().await?;
            if server.tells_damage().await? {
                return Err(format!("a power cut is taken for damage:\n{}", server.last_output()).into());
            }
        }
    }
    server.kill().await
}

/// The syncs that an acknowledged object rests upon, as rules for the recorder.
pub const SYNCS: &[(&str, &str)] = &[
    ("commit log: data", "data:*/log/*.log"),
    ("commit log: a new file before it is named", "data:*/log/*.spare"),
    ("commit log: names", "dir:*/log"),
    ("packs: data", "data:*/packs/*.pack"),
    ("packs: names in each folder", "dir:*/packs/*"),
    ("packs: names of the folders", "dir:*/packs"),
    ("data directory: names", "dir:made/store"),
    ("data directory: its own name", "dir:made"),
    ("data directory: the name above it", "dir:."),
    ("root key: data", "data:*/root-key.new"),
    ("RocksDB: tables", "data:*/db/*.sst"),
    ("RocksDB: blob files", "data:*/db/*.blob"),
    ("RocksDB: manifest", "data:*/db/MANIFEST*"),
    ("RocksDB: CURRENT", "data:*/db/*.dbtmp"),
    ("RocksDB: names", "dir:*/db"),
];

/// The first complaint; of a gateway that ended, the end of what it said last.
fn told(failure: &str) -> String {
    let first = failure.lines().nth(1).unwrap_or_default();
    if !first.ends_with("its output ends:") {
        return first.chars().take(240).collect();
    }
    let last = failure.lines().last().unwrap_or_default();
    let from = last.char_indices().rev().nth(239).map_or(0, |(at, _)| at);
    last.get(from..).unwrap_or_default().to_owned()
}

/// Leaves out one kind of sync after the other; each must make the crash test fail.
pub async fn sabotage(options: &CrashOptions) -> Result<()> {
    let mut unnoticed = Vec::new();
    let (drop, omit) = (options.drop.as_str(), options.omit.as_str());
    let rules: Vec<(&str, &str, &str)> = match (drop, omit) {
        ("", "") => {
            let dropped = SYNCS.iter().map(|(name, rule)| (*name, *rule, ""));
            dropped
                .chain(omit::SYNCS.iter().map(|(name, place)| (*name, "", *place)))
                .collect()
        }
        _ => vec![("as asked", drop, omit)],
    };
    for (name, rule, place) in rules {
        let mut options = CrashOptions {
            drop: rule.to_owned(),
            omit: place.to_owned(),
            ..options.clone()
        };
        if !place.is_empty() {
            options.phase_ms = options.phase_ms.max(omit::PHASE_MS_MIN);
        }
        let mut report = run(&options).await?;
        let _ = std::fs::remove_dir_all(&options.work);
        for _ in 1..omit::RUNS_MAX {
            if place.is_empty() || report.failure.is_some() {
                break;
            }
            options.seed = options.seed.map(|seed| seed.wrapping_add(1));
            report = run(&options).await?;
            let _ = std::fs::remove_dir_all(&options.work);
        }
        let verdict = match (&report.failure, report.dropped_syncs) {
            (_, 0) => "NEVER HAPPENED: no such sync in the run".to_owned(),
            (Some(text), _) => format!("noticed: {}", told(text)),
            (None, _) => format!("NOT NOTICED in {} images", report.images),
        };
        if !verdict.starts_with("noticed") {
            unnoticed.push(name);
        }
        println!(
            "sabotage | {name} | {rule}{place} | {} left out | {verdict}",
            report.dropped_syncs
        );
    }
    if unnoticed.is_empty() {
        Ok(())
    } else {
        Err(format!("nothing fails without: {}", unnoticed.join(", ")).into())
    }
}
