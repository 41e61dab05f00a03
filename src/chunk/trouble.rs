//! Packs that something is wrong with: what health and metrics tell, and when the collector tries again.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::ids::PackId;

/// A pack that could not be emptied is left alone this long, unless its live bytes change.
const REST_MS: u64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Rows point to it, and its file is not there.
    Missing,
    /// Found damaged when the store was opened.
    Damaged,
    /// The collector cannot empty it.
    Stuck,
}

struct Known {
    trouble: Trouble,
    tried: Option<Tried>,
}

/// The last try to empty a pack.
struct Tried {
    live: i64,
    /// Until when not to try again.
    rests: Timestamp,
    why: String,
}

/// One entry a pack that rows still point to.
#[derive(Default)]
pub(super) struct Troubles(Mutex<BTreeMap<PackId, Known>>);

impl Troubles {
    pub fn found(&self, pack: PackId, trouble: Trouble) {
        self.0.lock().insert(pack, Known { trouble, tried: None });
    }

    /// Notes a try to empty `pack` that failed; `true` for the first one.
    pub fn stuck(&self, pack: PackId, live: i64, now: Timestamp, why: &str) -> bool {
        let rests = Timestamp::from_unix_ms(now.unix_ms().saturating_add(REST_MS));
        let mut packs = self.0.lock();
        let known = packs.entry(pack).or_insert(Known {
            trouble: Trouble::Stuck,
            tried: None,
        });
        let why = why.to_owned();
        known.tried.replace(Tried { live, rests, why }).is_none()
    }

    /// Whether a try to empty `pack` would fail as the last one did.
    pub fn rests(&self, pack: PackId, live: i64, now: Timestamp) -> bool {
        let packs = self.0.lock();
        let tried = packs.get(&pack).and_then(|known| known.tried.as_ref());
        tried.is_some_and(|tried| tried.live == live && now < tried.rests)
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Forgets the packs that nothing points to any more, unless they are stuck still.
    pub fn retain(&self, live: &BTreeMap<PackId, i64>, stuck: &[PackId]) {
        self.0
            .lock()
            .retain(|pack, _| live.get(pack).is_some_and(|live| *live != 0) || stuck.contains(pack));
    }

    /// The packs that could not be emptied at the last try, each with its live bytes and the reason.
    pub fn kept(&self) -> Vec<(PackId, i64, String)> {
        let packs = self.0.lock();
        let tried = packs
            .iter()
            .filter_map(|(pack, known)| Some((pack, known.tried.as_ref()?)));
        tried
            .map(|(pack, tried)| (*pack, tried.live, tried.why.clone()))
            .collect()
    }

    /// The packs in this trouble.
    pub fn of(&self, trouble: Trouble) -> Vec<PackId> {
        let packs = self.0.lock();
        let found = packs.iter().filter(|(_, known)| known.trouble == trouble);
        found.map(|(pack, _)| *pack).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_pack_rests_until_its_rows_or_the_time_change() {
        let (troubles, pack, now) = (Troubles::default(), PackId([1; 16]), Timestamp::from_unix_ms(5));
        assert!(!troubles.rests(pack, 7, now));
        assert!(troubles.stuck(pack, 7, now, "why") && !troubles.stuck(pack, 7, now, "why"));
        assert!(troubles.rests(pack, 7, now) && !troubles.rests(pack, 8, now));
        assert!(!troubles.rests(pack, 7, Timestamp::from_unix_ms(5 + REST_MS)));
        assert_eq!(troubles.of(Trouble::Stuck), [pack]);
        assert_eq!(troubles.kept(), [(pack, 7, "why".to_owned())]);
        troubles.retain(&BTreeMap::from([(pack, 7)]), &[]);
        troubles.retain(&BTreeMap::new(), &[pack]);
        assert!(!troubles.is_empty());
        troubles.retain(&BTreeMap::from([(pack, 0)]), &[]);
        assert!(troubles.is_empty());
    }
}
