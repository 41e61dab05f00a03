//! Builds a directory as a power cut may leave it: all that is durable, and a random choice of the rest.

use crate::Result;
use crate::disk::{Change, Disk, Name, NodeId, Pending, ROOT};
use crate::pages::{PAGE_BYTES, Pages, SECTOR_BYTES};
use crate::trace::Trace;
use fastrand::Rng;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

/// How much of what was not synced survives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// Nothing: what an honest disk with a full cache leaves.
    Nothing,
    /// Everything, as after a SIGKILL.
    Everything,
    /// All changes before a moment and none after it, as a journal leaves them.
    Prefix,
    /// Each change or page by itself, with this probability; some pages torn at sectors.
    Each(f64),
}

impl Fate {
    pub fn pick(rng: &mut Rng) -> Self {
        match rng.u32(0..10) {
            0..=2 => Self::Nothing,
            3 => Self::Everything,
            4 => Self::Prefix,
            5 => Self::Each(0.1),
            6 => Self::Each(0.9),
            _ => Self::Each(0.5),
        }
    }
}

/// Builds an image of `disk` in the empty directory `target`: names by one fate, each file's bytes by its own.
pub fn build(disk: &Disk, trace: &Trace, rng: &mut Rng, target: &Path) -> Result<String> {
    let names_fate = Fate::pick(rng);
    let data_fate = rng.bool().then(|| Fate::pick(rng));
    let names = surviving_names(disk, names_fate, rng);
    write_directory(
        disk,
        trace,
        &names,
        ROOT,
        target,
        &mut |rng| data_fate.unwrap_or_else(|| Fate::pick(rng)),
        rng,
    )?;
    Ok(format!(
        "names {names_fate:?}, data {}",
        data_fate.map_or("by file".to_owned(), |fate| format!("{fate:?}"))
    ))
}

/// Builds the directory with nothing lost.
#[cfg(test)]
pub fn build_whole(disk: &Disk, trace: &Trace, target: &Path) -> Result<()> {
    let mut rng = Rng::with_seed(0);
    let names = surviving_names(disk, Fate::Everything, &mut rng);
    write_directory(disk, trace, &names, ROOT, target, &mut |_| Fate::Everything, &mut rng)
}

type Names = HashMap<NodeId, BTreeMap<String, NodeId>>;

fn surviving_names(disk: &Disk, fate: Fate, rng: &mut Rng) -> Names {
    let directories = disk.nodes.iter().enumerate().filter(|(_, node)| node.is_directory);
    let mut names: Names = directories.map(|(id, node)| (id, node.names.clone())).collect();
    let cut = rng.usize(0..=disk.name_changes.len());
    for (index, change) in disk.name_changes.iter().enumerate() {
        let survives = match fate {
            Fate::Nothing => false,
            Fate::Everything => true,
            Fate::Prefix => index < cut,
            Fate::Each(probability) => rng.f64() < probability,
        };
        if survives {
            apply_name_change(&mut names, change.node, change.gone.as_ref(), change.new.as_ref());
        }
    }
    names
}

fn apply_name_change(names: &mut Names, node: NodeId, gone: Option<&Name>, new: Option<&Name>) {
    if let Some((parent, name)) = gone
        && let Some(holder) = names.get_mut(parent)
        && holder.get(name) == Some(&node)
    {
        holder.remove(name);
    }
    if let Some((parent, name)) = new
        && let Some(holder) = names.get_mut(parent)
    {
        holder.insert(name.clone(), node);
    }
}

fn write_directory(
    disk: &Disk,
    trace: &Trace,
    names: &Names,
    directory: NodeId,
    target: &Path,
    fate: &mut impl FnMut(&mut Rng) -> Fate,
    rng: &mut Rng,
) -> Result<()> {
    std::fs::create_dir_all(target)?;
    for (name, id) in names.get(&directory).into_iter().flatten() {
        let path = target.join(name);
        let node = disk.node(*id)?;
        if node.is_directory {
            write_directory(disk, trace, names, *id, &path, fate, rng)?;
        } else {
            let pages = surviving_bytes(&node.durable, &node.pending, trace, fate(rng), rng);
            pages.store(&File::create(path)?)?;
        }
    }
    Ok(())
}

/// What is left of one file.
///
/// A page holds what it held after some number of the pending writes to it, since the kernel may write it back at any
/// moment; a torn page chooses that number by sector. The size and other metadata stop at one moment of their own.
pub fn surviving_bytes(durable: &Pages, pending: &[Pending], trace: &Trace, fate: Fate, rng: &mut Rng) -> Pages {
    let mut pages = durable.clone();
    let all = pending.len();
    let (cut, chance) = match fate {
        Fate::Nothing => (0, 0.0),
        Fate::Everything => (all, 1.0),
        Fate::Prefix => (rng.usize(0..=all), 1.0),
        Fate::Each(probability) => (rng.usize(0..=all), probability),
    };
    let ordered = !matches!(fate, Fate::Each(_));
    let mut limits = Limits {
        all,
        chance,
        by_page: HashMap::new(),
    };
    for (index, pending) in pending.iter().enumerate() {
        match &pending.change {
            _ if ordered && index >= cut => break,
            Change::Write { offset, data } if !ordered => {
                write_some(&mut pages, *offset, trace.slice(data), index, &mut limits, rng);
                if index < cut {
                    pages.size = pages.size.max(*offset + data.len() as u64);
                }
            }
            change if index < cut => change.apply(&mut pages, trace),
            _ => {}
        }
    }
    let size = pages.size;
    pages.resize(size);
    pages
}

/// For each page, the index of the first pending change that did not reach each of its sectors.
struct Limits {
    all: usize,
    chance: f64,
    by_page: HashMap<u64, Vec<usize>>,
}

impl Limits {
    fn pick(all: usize, chance: f64, rng: &mut Rng) -> usize {
        let roll = rng.f64();
        // Half of what is lost is lost entirely, half keeps an older version of the page.
        if roll < chance {
            all
        } else if rng.bool() {
            0
        } else {
            rng.usize(0..=all)
        }
    }

    fn of(&mut self, page: u64, rng: &mut Rng) -> &[usize] {
        let (all, chance) = (self.all, self.chance);
        self.by_page.entry(page).or_insert_with(|| {
            let sectors = (PAGE_BYTES / SECTOR_BYTES) as usize;
            if rng.u32(0..4) == 0 {
                (0..sectors).map(|_| Self::pick(all, chance, rng)).collect()
            } else {
                vec![Self::pick(all, chance, rng); sectors]
            }
        })
    }
}

fn write_some(pages: &mut Pages, offset: u64, data: &[u8], index: usize, limits: &mut Limits, rng: &mut Rng) {
    let mut at = offset;
    let mut rest = data;
    while !rest.is_empty() {
        let within = (SECTOR_BYTES - at % SECTOR_BYTES) as usize;
        let (now, later) = rest.split_at(rest.len().min(within));
        let sector = (at % PAGE_BYTES / SECTOR_BYTES) as usize;
        if limits
            .of(at / PAGE_BYTES, rng)
            .get(sector)
            .is_some_and(|limit| index < *limit)
        {
            pages.write(at, now);
        }
        at += now.len() as u64;
        rest = later;
    }
}

/// The first difference between a replay with nothing lost and the directory as it is.
pub fn difference(disk: &Disk, trace: &Trace, actual: &Path) -> Result<Option<String>> {
    let real = Disk::load(actual)?;
    compare(disk, trace, ROOT, &real, ROOT, "")
}

fn compare(disk: &Disk, trace: &Trace, ours: NodeId, real: &Disk, theirs: NodeId, at: &str) -> Result<Option<String>> {
    let (mine, other) = (disk.node(ours)?, real.node(theirs)?);
    if !mine.is_directory {
        let mut rng = Rng::with_seed(0);
        let pages = surviving_bytes(&mine.durable, &mine.pending, trace, Fate::Everything, &mut rng);
        return Ok((!pages.same(&other.durable)).then(|| {
            format!(
                "{at} differs: {} bytes by the trace, {} in the directory",
                pages.size, other.durable.size
            )
        }));
    }
    for name in mine.live.keys().chain(other.live.keys()) {
        let path = format!("{at}/{name}");
        match (mine.live.get(name), other.live.get(name)) {
            (Some(one), Some(two)) => {
                if let Some(found) = compare(disk, trace, *one, real, *two, &path)? {
                    return Ok(Some(found));
                }
            }
            (Some(_), None) => return Ok(Some(format!("{path} is in the trace only"))),
            _ => return Ok(Some(format!("{path} is in the directory only"))),
        }
    }
    Ok(None)
}
