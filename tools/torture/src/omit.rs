//! Leaves out of a recorded trace the syncs that a rule on paths cannot tell from others: as if the gateway had not
//! called them there.

use crate::Result;
use crate::trace::{Trace, format};
use std::collections::{BTreeSet, HashMap};

/// Syncs that can be left out by their place.
pub const SYNCS: &[(&str, &str)] = &[
    ("commit log: a full file before the next one", "roll"),
    ("packs: the table of a footer before its trailer", "footer"),
];

/// A run is this long at the least, so that the log's first file is full and another one begins.
pub const PHASE_MS_MIN: u64 = 9000;
/// Runs until one is noticed: where everything happened to be synced already, the omitted sync had nothing to do.
pub const RUNS_MAX: usize = 4;

/// Turns the syncs at `place` into ones that were dropped; none if it is empty.
pub fn by_place(trace: &mut Trace, place: &str) -> Result<()> {
    let begun = match place {
        "" => return Ok(()),
        "roll" => before_rolls(trace),
        "footer" => of_footers(trace),
        other => return Err(format!("no sync has the place {other:?}").into()),
    };
    let mut sequences = BTreeSet::new();
    let mut process = 0;
    for (index, event) in trace.events.iter_mut().enumerate() {
        match event.kind {
            format::START => process += 1,
            format::SYNC_BEGIN if begun.contains(&index) => {
                sequences.insert((process, u64::from(event.sequence)));
                event.kind = format::DROPPED;
            }
            format::SYNC_END if sequences.contains(&(process, event.numbers[0])) => event.kind = u8::MAX,
            _ => {}
        }
    }
    Ok(())
}

/// For each log file that another follows: its last sync before that one gets its name.
fn before_rolls(trace: &Trace) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let (mut ids, mut synced) = (HashMap::new(), HashMap::new());
    let mut current: Option<u32> = None;
    for (index, event) in trace.events.iter().enumerate() {
        match event.kind {
            format::START => (ids, synced, current) = (HashMap::new(), HashMap::new(), None),
            format::OPEN => drop(ids.insert(trace.text(&event.path), event.id)),
            format::SYNC_BEGIN => drop(synced.insert(event.id, index)),
            format::RENAME => {
                let (from, to) = (trace.text(&event.path), trace.text(&event.rest));
                let id = ids.remove(&from);
                if let Some(id) = id {
                    ids.insert(to.clone(), id);
                }
                if to.contains("/log/") && to.ends_with(".log") {
                    found.extend(current.and_then(|old| synced.get(&old)));
                    current = id;
                }
            }
            _ => {}
        }
    }
    found
}

/// For each pack that is cut to its footer: the sync behind that.
fn of_footers(trace: &Trace) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let (mut packs, mut cut) = (BTreeSet::new(), BTreeSet::new());
    for (index, event) in trace.events.iter().enumerate() {
        match event.kind {
            format::START => (packs, cut) = (BTreeSet::new(), BTreeSet::new()),
            format::OPEN if trace.text(&event.path).ends_with(".pack") => drop(packs.insert(event.id)),
            format::TRUNCATE if packs.contains(&event.id) => drop(cut.insert(event.id)),
            format::SYNC_BEGIN if cut.remove(&event.id) => drop(found.insert(index)),
            _ => {}
        }
    }
    found
}
