//! Replays a trace into what is certainly on the disk and what only may be.
//!
//! - A file's writes, cuts and allocations are pending until a sync of that file that began after them has ended.
//! - A name's making, moving and removal is pending until a sync of its directory. Nothing else makes a name durable: not the
//!   sync of the file, nor of another directory. That is stricter than ext4, and what POSIX leaves to be relied upon.

use crate::Result;
use crate::pages::Pages;
use crate::trace::{Event, Trace, format};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

pub type NodeId = usize;
/// The recorded directory itself.
pub const ROOT: NodeId = 0;

const KEEP_SIZE: u8 = 1;
const PUNCH_HOLE: u8 = 2;
const ZERO_RANGE: u8 = 0x10;

#[derive(Clone)]
pub enum Change {
    Write { offset: u64, data: Range<usize> },
    Resize(u64),
    Grow(u64),
    Zero { offset: u64, length: u64 },
}

#[derive(Clone)]
pub struct Pending {
    pub event: usize,
    pub change: Change,
}

#[derive(Default)]
pub struct Node {
    pub is_directory: bool,
    /// A file's durable bytes.
    pub durable: Pages,
    /// What was done to the file since, in order.
    pub pending: Vec<Pending>,
    /// A directory's names as the process sees them.
    pub live: BTreeMap<String, NodeId>,
    /// A directory's durable names.
    pub names: BTreeMap<String, NodeId>,
}

pub type Name = (NodeId, String);

/// One change of names: `gone` no longer names the node, `new` does.
#[derive(Clone)]
pub struct NameChange {
    pub event: usize,
    pub node: NodeId,
    pub gone: Option<Name>,
    pub new: Option<Name>,
}

#[derive(Default)]
pub struct Disk {
    pub nodes: Vec<Node>,
    pub name_changes: Vec<NameChange>,
    open: HashMap<u32, NodeId>,
    syncs: HashMap<u32, usize>,
}

impl Disk {
    /// An empty, durable directory.
    pub fn new() -> Self {
        Self {
            nodes: vec![Node {
                is_directory: true,
                ..Node::default()
            }],
            ..Self::default()
        }
    }

    /// The directory as it is, all of it durable.
    pub fn load(directory: &Path) -> Result<Self> {
        let mut disk = Self::new();
        disk.load_into(ROOT, directory)?;
        Ok(disk)
    }

    fn load_into(&mut self, parent: NodeId, directory: &Path) -> Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let is_directory = entry.file_type()?.is_dir();
            let id = self.nodes.len();
            let durable = if is_directory {
                Pages::default()
            } else {
                Pages::load(&std::fs::File::open(entry.path())?)?
            };
            self.nodes.push(Node {
                is_directory,
                durable,
                ..Node::default()
            });
            let name = entry.file_name().to_string_lossy().into_owned();
            let holder = self.node_mut(parent)?;
            holder.names.insert(name.clone(), id);
            holder.live.insert(name, id);
            if is_directory {
                self.load_into(id, &entry.path())?;
            }
        }
        Ok(())
    }

    pub fn node(&self, id: NodeId) -> Result<&Node> {
        self.nodes.get(id).ok_or_else(|| "no such node".into())
    }

    fn node_mut(&mut self, id: NodeId) -> Result<&mut Node> {
        self.nodes.get_mut(id).ok_or_else(|| "no such node".into())
    }

    fn parent_of(&self, path: &str) -> Result<Name> {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let id = self
            .find(parents)
            .ok_or_else(|| format!("the trace uses the unknown directory {parents:?}"))?;
        Ok((id, name.to_owned()))
    }

    pub fn find(&self, path: &str) -> Option<NodeId> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(ROOT, |id, part| {
                self.nodes.get(id).and_then(|node| node.live.get(part)).copied()
            })
    }

    /// Applies the event with this index.
    pub fn apply(&mut self, index: usize, event: &Event, trace: &Trace) -> Result<()> {
        match event.kind {
            format::START => self.open.clear(),
            format::OPEN => self.opened(index, event, &trace.text(&event.path))?,
            format::MKDIR => self.make(index, &trace.text(&event.path), true).map(drop)?,
            format::UNLINK | format::RMDIR => self.moved(index, Some(&trace.text(&event.path)), None, None)?,
            format::RENAME => {
                self.moved(
                    index,
                    Some(&trace.text(&event.path)),
                    Some(&trace.text(&event.rest)),
                    None,
                )?;
            }
            format::LINK => {
                let node = self.find(&trace.text(&event.path));
                self.moved(index, None, Some(&trace.text(&event.rest)), node)?;
            }
            format::WRITE => self.wrote(index, event, trace)?,
            format::TRUNCATE => self.change(index, event.id, Change::Resize(event.numbers[0]))?,
            format::ALLOCATE => self.allocated(index, event)?,
            format::SYNC_BEGIN => drop(self.syncs.insert(event.sequence, index)),
            format::SYNC_END => self.synced(event, trace)?,
            _ => {}
        }
        Ok(())
    }

    fn opened(&mut self, index: usize, event: &Event, path: &str) -> Result<()> {
        let id = match self.find(path) {
            Some(id) => id,
            None if event.flags & format::OPEN_CREATED != 0 => {
                self.make(index, path, event.flags & format::OPEN_DIRECTORY != 0)?
            }
            None => return Err(format!("the trace opens {path}, which no event made: a call escaped").into()),
        };
        self.open.insert(event.id, id);
        if event.flags & format::OPEN_TRUNCATED != 0 && event.flags & format::OPEN_CREATED == 0 {
            self.change(index, event.id, Change::Resize(0))?;
        }
        Ok(())
    }

    fn make(&mut self, event: usize, path: &str, is_directory: bool) -> Result<NodeId> {
        let id = self.nodes.len();
        self.nodes.push(Node {
            is_directory,
            ..Node::default()
        });
        self.moved(event, None, Some(path), Some(id))?;
        Ok(id)
    }

    fn moved(&mut self, event: usize, from: Option<&str>, to: Option<&str>, node: Option<NodeId>) -> Result<()> {
        let gone = from.map(|path| self.parent_of(path)).transpose()?;
        let new = to.map(|path| self.parent_of(path)).transpose()?;
        let mut found = node;
        if let Some((parent, name)) = &gone {
            found = self.node_mut(*parent)?.live.remove(name);
        }
        let node = found.ok_or_else(|| format!("the trace moves {from:?}, which no event made: a call escaped"))?;
        if let Some((parent, name)) = &new {
            self.node_mut(*parent)?.live.insert(name.clone(), node);
        }
        self.name_changes.push(NameChange { event, node, gone, new });
        Ok(())
    }

    fn change(&mut self, event: usize, open: u32, change: Change) -> Result<()> {
        let id = *self
            .open
            .get(&open)
            .ok_or("the trace changes a file that no event opened")?;
        self.node_mut(id)?.pending.push(Pending { event, change });
        Ok(())
    }

    fn wrote(&mut self, index: usize, event: &Event, trace: &Trace) -> Result<()> {
        let offset = event.numbers[0];
        self.change(
            index,
            event.id,
            Change::Write {
                offset,
                data: event.rest.clone(),
            },
        )?;
        if event.flags & format::WRITE_SYNCED != 0 {
            let id = *self.open.get(&event.id).ok_or("no such open")?;
            let end = offset + event.rest.len() as u64;
            // Only this write is durable, with what it overlaps; earlier writes elsewhere stay pending.
            self.node_mut(id)?
                .settle(trace, |pending| pending.event == index || pending.overlaps(offset, end));
        }
        Ok(())
    }

    fn allocated(&mut self, index: usize, event: &Event) -> Result<()> {
        let [offset, length] = event.numbers;
        if event.flags & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
            return Err(format!("fallocate with mode {:#x} is not modelled", event.flags).into());
        }
        if event.flags & (PUNCH_HOLE | ZERO_RANGE) != 0 {
            self.change(index, event.id, Change::Zero { offset, length })?;
        }
        if event.flags & KEEP_SIZE == 0 {
            self.change(index, event.id, Change::Grow(offset + length))?;
        }
        Ok(())
    }

    fn synced(&mut self, event: &Event, trace: &Trace) -> Result<()> {
        let Some(begin) = self.syncs.remove(&(event.numbers[0] as u32)) else {
            return Ok(());
        };
        let Some(&id) = self.open.get(&event.id) else {
            return Ok(());
        };
        if self.node(id)?.is_directory {
            return self.directory_synced(id, begin);
        }
        self.node_mut(id)?.settle(trace, |pending| pending.event < begin);
        Ok(())
    }

    /// Persists every earlier change in this directory; a move's other half goes with it, as one transaction.
    fn directory_synced(&mut self, directory: NodeId, begin: usize) -> Result<()> {
        let mut names: BTreeSet<Name> = BTreeSet::new();
        let mut persisted = Vec::new();
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.name_changes).into_iter().rev() {
            let touched: Vec<Name> = change.gone.iter().chain(&change.new).cloned().collect();
            let covered =
                change.event < begin && touched.iter().any(|name| name.0 == directory || names.contains(name));
            if covered {
                names.extend(touched);
                persisted.push(change);
            } else {
                left.push(change);
            }
        }
        left.reverse();
        self.name_changes = left;
        for change in persisted.iter().rev() {
            if let Some((parent, name)) = &change.gone {
                self.node_mut(*parent)?.names.remove(name);
            }
            if let Some((parent, name)) = &change.new {
                self.node_mut(*parent)?.names.insert(name.clone(), change.node);
            }
        }
        Ok(())
    }
}

impl Node {
    /// Makes the pending changes that `covered` picks durable.
    fn settle(&mut self, trace: &Trace, covered: impl Fn(&Pending) -> bool) {
        let (settled, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(covered);
        self.pending = left;
        for pending in settled {
            pending.change.apply(&mut self.durable, trace);
        }
    }
}

impl Pending {
    fn overlaps(&self, from: u64, to: u64) -> bool {
        match &self.change {
            Change::Write { offset, data } => *offset < to && from < *offset + data.len() as u64,
            Change::Zero { offset, length } => *offset < to && from < *offset + length,
            Change::Resize(_) | Change::Grow(_) => false,
        }
    }
}

impl Change {
    /// Does to the pages what the call did to the file.
    pub fn apply(&self, pages: &mut Pages, trace: &Trace) {
        match self {
            Self::Write { offset, data } => {
                pages.write(*offset, trace.slice(data));
                pages.size = pages.size.max(*offset + data.len() as u64);
            }
            Self::Resize(size) => pages.resize(*size),
            Self::Grow(size) => pages.size = pages.size.max(*size),
            Self::Zero { offset, length } => pages.zero(*offset, (*length).min(pages.size.saturating_sub(*offset))),
        }
    }
}
