//! One flipped byte in a file at rest: the gateway tells it, or it does not matter; it never loses or alters anything in silence.

use crate::Result;
use crate::client::Client;
use crate::history::{Clock, History, Mark, Version};
use crate::kill::{Round, create_bucket};
use crate::pages::Pages;
use crate::server::{Checked, Launch, NotReady, STORE, Server, check};
use crate::verify::{Finding, check_key, verify};
use crate::workload::{BUCKET, Scale, WRITERS};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

#[derive(clap::Args)]
pub struct FlipOptions {
    #[command(flatten)]
    pub launch: Launch,
    /// How many bytes are flipped, one at a time, in each of the two states: after SIGTERM and after SIGKILL.
    #[arg(long, default_value_t = 20)]
    pub flips: usize,
    /// Where bodies and places come from; drawn and printed when not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Directory for the data; must not exist. Kept on failure.
    #[arg(long)]
    pub work: PathBuf,
}

/// What became of a flipped byte.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug, Clone, Copy)]
enum Outcome {
    /// Everything reads back.
    Harmless,
    /// The gateway refused to start and said why.
    Refused,
    /// Reads that needed the byte failed with an error.
    Failed,
}

/// Words by which a refusal names damage.
const WORDS: [&str; 5] = ["corrupt", "damage", "checksum", "mismatch", "crc"];

pub async fn run(options: &FlipOptions) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    println!("flip mode: twice {} flips, --seed {seed}", options.flips);
    std::fs::create_dir(&options.work)?;
    let work = std::fs::canonicalize(&options.work)?;
    let mut rng = Rng::with_seed(seed);
    let mut failures = Vec::new();
    for killed in [false, true] {
        let pristine = work.join(if killed { "killed" } else { "stopped" });
        let histories = prepare(options, &pristine, killed, rng.u64(..)).await?;
        for (class, outcomes) in flip_all(options, &pristine, &histories, &mut rng, &mut failures).await? {
            println!(
                "flip | {} | {class} | {outcomes:?}",
                if killed { "after SIGKILL" } else { "after SIGTERM" }
            );
        }
    }
    if failures.is_empty() {
        std::fs::remove_dir_all(&work)?;
        return Ok(());
    }
    Err(format!(
        "{} flips lost something in silence, seed {seed}, data in {}:\n{}",
        failures.len(),
        work.display(),
        failures.join("\n")
    )
    .into())
}

/// Fills a directory, with one restart so that RocksDB has files, and ends the gateway.
async fn prepare(options: &FlipOptions, data: &Path, killed: bool, seed: u64) -> Result<Vec<History>> {
    std::fs::create_dir(data)?;
    let clock = Arc::new(Clock::Count(AtomicU64::new(1)));
    let round = |number: u64| Round {
        scale: Scale::Small,
        clock: &clock,
        seed: seed.wrapping_add(number),
        duration: Duration::from_millis(1500),
    };
    let server = Server::start(&options.launch, data, None).await?;
    create_bucket(&server.access).await?;
    let (histories, _, server) = round(1).run(server, vec![History::default(); WRITERS], false).await?;
    if let Some(server) = server {
        server.stop().await?;
    }
    let server = Server::start(&options.launch, data, None).await?;
    let (histories, _, server) = round(2).run(server, histories, false).await?;
    let server = server.ok_or("the gateway is gone")?;
    verify(&server.access, &histories, Mark::MAX).await?;
    if killed {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        server.kill().await?;
    } else {
        server.stop().await?;
    }
    Ok(histories)
}

/// Each kind of file in turn, so that none is drowned by the largest.
async fn flip_all(
    options: &FlipOptions,
    pristine: &Path,
    histories: &[History],
    rng: &mut Rng,
    failures: &mut Vec<String>,
) -> Result<BTreeMap<&'static str, BTreeMap<Outcome, usize>>> {
    let mut files: BTreeMap<&'static str, Vec<PathBuf>> = BTreeMap::new();
    find_files(pristine, Path::new(""), &mut files)?;
    let classes: Vec<&'static str> = files.keys().copied().collect();
    println!(
        "kinds of files: {}",
        files
            .iter()
            .map(|(class, list)| format!("{class} {}", list.len()))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let mut table: BTreeMap<&'static str, BTreeMap<Outcome, usize>> = BTreeMap::new();
    let parts: Vec<&'static str> = classes.iter().flat_map(|class| parts_of(class)).copied().collect();
    for part in parts.iter().cycle().take(options.flips) {
        let class = part.split(',').next().unwrap_or_default();
        let Some(file) = files.get(class).and_then(|list| rng.choice(list)) else {
            continue;
        };
        let copy = pristine.with_extension("flipped");
        let _ = std::fs::remove_dir_all(&copy);
        copy_directory(pristine, &copy)?;
        let flipped = flip(&copy.join(file), part, rng)?;
        match outcome(&options.launch, &copy, histories, &flipped).await {
            Ok(found) => *table.entry(part).or_default().entry(found).or_default() += 1,
            Err(error) => failures.push(format!("{} {part}, {}: {error}", file.display(), flipped.place)),
        }
        let _ = std::fs::remove_file(copy.with_extension("output"));
    }
    Ok(table)
}

fn class_of(path: &str) -> Option<&'static str> {
    let path = path.strip_prefix(STORE)?.strip_prefix('/')?;
    let name = path.rsplit('/').next().unwrap_or(path);
    if path.starts_with("log/") {
        Some("commit log")
    } else if name.ends_with(".sst") {
        Some("sst")
    } else if name.ends_with(".blob") {
        Some("blob")
    } else if name.starts_with("MANIFEST") {
        Some("manifest")
    } else if path.starts_with("packs/") {
        Some("pack")
    } else {
        None
    }
}

fn find_files(root: &Path, below: &Path, found: &mut BTreeMap<&'static str, Vec<PathBuf>>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            find_files(root, &path, found)?;
        } else if let Some(class) = class_of(&path.to_string_lossy())
            && entry.metadata()?.len() > 0
        {
            found.entry(class).or_default().push(path);
        }
    }
    Ok(())
}

pub fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            Pages::load(&File::open(entry.path())?)?.store(&File::create(&target)?)?;
        }
    }
    Ok(())
}

/// What a flipped byte was part of.
struct Flipped {
    place: String,
    /// The file is a pack.
    in_pack: bool,
    /// No object may fail for it.
    costs_nothing: bool,
    /// The payload of the record that was hit, as it is stored.
    payload: Option<Vec<u8>>,
}

/// Where flips are aimed: in packs at each kind of structure, sealed or not.
fn parts_of(class: &'static str) -> &'static [&'static str] {
    match class {
        "pack" => &[
            "pack, frames",
            "pack, last frame",
            "pack, record headers",
            "pack, payloads",
            "pack, footers",
            "pack",
        ],
        "commit log" => &["commit log"],
        "sst" => &["sst"],
        "blob" => &["blob"],
        _ => &["manifest"],
    }
}

const FRAME_BYTES: usize = 64;
const RECORD_HEADER_BYTES: usize = 128;

/// The places in a pack where `mark` stands, whose lowest bytes a payload has only by accident.
fn marks(bytes: &[u8], mark: &[u8]) -> Vec<usize> {
    let found = bytes.windows(mark.len()).enumerate();
    found.filter(|(_, window)| *window == mark).map(|(at, _)| at).collect()
}

/// Flips one byte; where most of a file is preallocated zeros, one that was written.
fn flip(path: &Path, part: &str, rng: &mut Rng) -> Result<Flipped> {
    let bytes = std::fs::read(path)?;
    let records: Vec<(usize, usize)> = marks(&bytes, b"CrnR\x01\0\x80\0")
        .into_iter()
        .filter_map(|at| {
            let length = bytes.get(at + 60..at + 64)?.try_into().ok().map(u32::from_le_bytes)?;
            Some((at, RECORD_HEADER_BYTES + length as usize))
        })
        .collect();
    let frames = marks(&bytes, b"CrnF\x01\0\x40\0");
    let footer = records
        .last()
        .map_or(0, |(at, length)| (at + length).next_multiple_of(4096));
    let record = rng.choice(&records).copied();
    let aim = match part {
        "pack, frames" => rng.choice(&frames).map(|at| *at..at + FRAME_BYTES),
        // Behind it, nothing says how far the pack was written.
        "pack, last frame" => frames.last().map(|at| *at..at + FRAME_BYTES),
        "pack, record headers" => record.map(|(at, _)| at..at + RECORD_HEADER_BYTES),
        "pack, payloads" => record.map(|(at, length)| at + RECORD_HEADER_BYTES..at + length),
        "pack, footers" => Some(footer..bytes.len()),
        _ => None,
    };
    let aim = aim.unwrap_or(0..bytes.len());
    let tries: Vec<usize> = (0..1000).map(|_| rng.usize(aim.clone())).collect();
    let used = |at: &usize| bytes.get(*at).is_some_and(|byte| *byte != 0);
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or_default();
    let at = tries.into_iter().find(used).unwrap_or(first);
    let byte = bytes.get(at).copied().unwrap_or_default();
    let mask = rng.u8(1..=255);
    File::options()
        .write(true)
        .open(path)?
        .write_all_at(&[byte ^ mask], at as u64)?;
    let hit = records
        .iter()
        .find(|(start, length)| (*start..start + length).contains(&at));
    let in_pack = part.starts_with("pack");
    // Other codecs than none: nobody here can tell which objects the record belongs to.
    let raw = |(start, length): &&(usize, usize)| bytes.get(start + 12) == Some(&0) && start + length <= bytes.len();
    let payload = hit
        .filter(raw)
        .and_then(|(start, length)| bytes.get(start + RECORD_HEADER_BYTES..start + length));
    Ok(Flipped {
        place: format!("byte {at} of {}: {byte:#04x} to {:#04x}", bytes.len(), byte ^ mask),
        in_pack,
        costs_nothing: in_pack && hit.is_none(),
        payload: payload.map(<[u8]>::to_vec).filter(|_| in_pack),
    })
}

impl Flipped {
    /// Whether an object of this content may fail.
    fn excuses(&self, allowed: &[Option<Version>]) -> bool {
        let Some(payload) = &self.payload else {
            return !self.costs_nothing;
        };
        let has = |version: &Version| {
            let bytes = version.content.bytes();
            bytes.len() >= payload.len() && bytes.windows(payload.len()).any(|window| window == payload)
        };
        allowed.iter().flatten().any(has)
    }
}

async fn outcome(launch: &Launch, data: &Path, histories: &[History], flipped: &Flipped) -> Result<Outcome> {
    let server = match Server::start(launch, data, None).await {
        Ok(server) => server,
        Err(error) => {
            let refusal = error.downcast_ref::<NotReady>().filter(|refusal| refusal.exited);
            let text = refusal.map(|refusal| refusal.output.to_lowercase()).unwrap_or_default();
            return if WORDS.iter().any(|word| text.contains(word)) {
                Ok(Outcome::Refused)
            } else {
                Err(error)
            };
        }
    };
    let mut client = Client::new(&server.access);
    let mut told = false;
    let mut failed = Vec::new();
    let mut present = BTreeSet::new();
    for history in histories {
        for key in history.changes.keys() {
            let allowed = history.allowed(key, Mark::MAX);
            match check_key(&mut client, key, &allowed).await {
                Finding::Sound(Some(_)) => drop(present.insert(key.clone())),
                Finding::Sound(None) => {}
                Finding::Told(text) if flipped.excuses(&allowed) => {
                    told = true;
                    failed.push(key.clone());
                    if flipped.in_pack && !launch.no_recount && !server.tells_damage().await? {
                        return Err(format!("{text}, and nobody is told that a pack is damaged").into());
                    }
                }
                Finding::Told(text) => return Err(format!("{text}, which has nothing of the flipped record").into()),
                Finding::Wrong(text) => return Err(text.into()),
            }
        }
    }
    // A listing may fail as well, but one that is given is whole.
    match client.list(BUCKET, 1000).await {
        Ok(entries) => {
            let listed: BTreeSet<String> = entries.into_iter().map(|entry| entry.key).collect();
            if let Some(key) = present.difference(&listed).next() {
                return Err(format!("{key} reads back but is not listed").into());
            }
        }
        Err(_) => told = true,
    }
    if !launch.no_recount {
        // Through the gateway or without it: how many objects read back is as good as a coin.
        let checked = if present.len().is_multiple_of(2) {
            let checked = server.check(launch, data).await;
            server.kill().await?;
            checked?
        } else {
            server.kill().await?;
            check(launch, data, SocketAddr::from(([127, 0, 0, 1], 1))).await?
        };
        demand(&checked, &failed)?;
    } else {
        server.kill().await?;
    }
    Ok(if told { Outcome::Failed } else { Outcome::Harmless })
}

/// Fails unless the check names every object that could not be read.
fn demand(checked: &Checked, failed: &[String]) -> Result<()> {
    let Checked {
        code,
        report,
        complaint,
    } = checked;
    if *code == 2 {
        let text = complaint.to_lowercase();
        return if WORDS.iter().any(|word| text.contains(word)) {
            Ok(())
        } else {
            Err(format!("the store cannot be checked, and nobody says that it is damaged: {complaint}").into())
        };
    }
    let named = names(report);
    for key in failed {
        if *code != 1 || !named.iter().any(|named| named.has(key)) {
            return Err(format!(
                "{key} cannot be read, and the check, which ends with {code}, does not name it: {report}"
            )
            .into());
        }
    }
    Ok(())
}

/// An object that a check names, or all objects from a key on up to another one.
enum Named {
    Key(String),
    Range(String, Option<String>),
}

impl Named {
    fn has(&self, key: &str) -> bool {
        let full = format!("s3://{BUCKET}/{key}");
        match self {
            Self::Key(named) => named == key,
            Self::Range(from, until) => *from <= full && until.as_ref().is_none_or(|until| full < *until),
        }
    }
}

fn names(report: &serde_json::Value) -> Vec<Named> {
    let list = |value: &serde_json::Value, name: &str| {
        value
            .get(name)
            .and_then(|list| list.as_array())
            .cloned()
            .unwrap_or_default()
    };
    let text =
        |value: &serde_json::Value, name: &str| value.get(name).and_then(|text| text.as_str()).map(str::to_owned);
    let mut named = Vec::new();
    for damage in list(report, "damage") {
        named.extend(
            list(&damage, "objects")
                .iter()
                .filter_map(|object| text(object, "key"))
                .map(Named::Key),
        );
    }
    for bad in list(report, "bad_objects") {
        named.extend(bad.get("object").and_then(|object| text(object, "key")).map(Named::Key));
    }
    for unread in list(report, "unread_objects") {
        named.extend(text(&unread, "from").map(|from| Named::Range(from, text(&unread, "until"))));
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_check_must_name_what_cannot_be_read() {
        let report = json!({
            "damage": [{"objects": [{"key": "a"}]}],
            "bad_objects": [{"object": {"key": "b"}}],
            "unread_objects": [{"from": format!("s3://{BUCKET}/m"), "until": format!("s3://{BUCKET}/n")}],
        });
        let demands = |code, key: &str| {
            let (report, complaint) = (report.clone(), "checksum".to_owned());
            demand(
                &Checked {
                    code,
                    report,
                    complaint,
                },
                &[key.to_owned()],
            )
            .is_ok()
        };
        assert!(demands(1, "a") && demands(1, "b") && demands(1, "m/x") && demands(2, "z"));
        assert!(!demands(1, "c") && !demands(1, "n") && !demands(0, "a"));
    }
}
