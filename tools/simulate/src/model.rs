//! What S3 allows to be read: each key of a bucket is a register, and its history must be that of one whose operations take
//! effect at one moment between their call and their answer.
//!
//! A write whose outcome nobody knows takes effect at any moment up to the next crash, or never. A crash ends what was under
//! way: what has not taken effect by then never does.

use std::collections::{BTreeMap, BTreeSet};

/// States of one register that are followed at the same time; more are given up on.
const STATES_MAX: usize = 20_000;

/// A bucket by its number, which is never used again, and a key in it.
pub type Key = (u64, String);
/// The write that made a version. Its metadata names it.
pub type Version = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Register {
    Absent,
    Holds(Version),
    /// Its bucket was deleted.
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Absent,
    Version(Version),
    /// A version with this tag: listings tell no more.
    Tag(String),
}

#[derive(Clone, Debug)]
pub enum Call {
    Write {
        version: Version,
        only_if_absent: bool,
    },
    Delete,
    /// Of the bucket, which must be empty.
    Close,
    Read,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Done,
    /// The condition did not hold.
    Refused,
    Saw(Seen),
    /// Certainly without effect.
    Failed,
}

#[derive(Clone, Debug)]
enum Event {
    Call(u64, Call),
    Answer(u64, Answer),
    Crash,
}

#[derive(Default)]
pub struct Model {
    next: u64,
    histories: BTreeMap<Key, Vec<Event>>,
    /// What is known of the versions.
    tags: BTreeMap<Version, String>,
}

/// One call on one key. Without an answer its outcome is unknown.
#[derive(Clone, Debug)]
pub struct Called {
    key: Key,
    number: u64,
}

impl Model {
    /// A version that no other write makes.
    pub fn version(&mut self) -> Version {
        self.next += 1;
        self.next
    }

    pub fn has_tag(&mut self, version: Version, tag: &str) {
        self.tags.insert(version, tag.to_owned());
    }

    pub fn tag_of(&self, version: Version) -> Option<&str> {
        self.tags.get(&version).map(String::as_str)
    }

    /// All keys of a bucket that anybody ever named.
    pub fn keys(&self, bucket: u64) -> Vec<String> {
        let of_bucket = self.histories.keys().filter(|(id, _)| *id == bucket);
        of_bucket.map(|(_, name)| name.clone()).collect()
    }

    pub fn call(&mut self, bucket: u64, key: &str, call: Call) -> Called {
        self.next += 1;
        let called = Called {
            key: (bucket, key.to_owned()),
            number: self.next,
        };
        let history = self.histories.entry(called.key.clone()).or_default();
        history.push(Event::Call(called.number, call));
        called
    }

    pub fn answer(&mut self, called: &Called, answer: Answer) {
        if let Some(history) = self.histories.get_mut(&called.key) {
            history.push(Event::Answer(called.number, answer));
        }
    }

    pub fn crash(&mut self) {
        self.histories
            .values_mut()
            .for_each(|history| history.push(Event::Crash));
    }

    /// The histories that no register can have, in words.
    pub fn violations(&self) -> Vec<String> {
        let judge = |(key, history): (&Key, &Vec<Event>)| {
            let at = self.judge(history)?;
            let told: Vec<String> = history
                .iter()
                .take(at + 1)
                .map(|event| format!("  {event:?}"))
                .collect();
            Some(format!(
                "the last answer is impossible, of bucket {} key {}:\n{}",
                key.0,
                key.1,
                told.join("\n")
            ))
        };
        self.histories.iter().filter_map(judge).collect()
    }

    /// The event that cannot be.
    fn judge(&self, history: &[Event]) -> Option<usize> {
        let answer_of = |number: u64| {
            history.iter().find_map(|event| match event {
                Event::Answer(of, answer) if *of == number => Some(answer),
                _ => None,
            })
        };
        let mut open: BTreeMap<u64, (&Call, Option<&Answer>)> = BTreeMap::new();
        let mut states = BTreeSet::from([(Register::Absent, BTreeSet::new())]);
        for (at, event) in history.iter().enumerate() {
            match event {
                Event::Call(number, call) => {
                    let answer = answer_of(*number);
                    let matters = !matches!((call, answer), (Call::Read, None) | (_, Some(Answer::Failed)));
                    if matters {
                        open.insert(*number, (call, answer));
                    }
                }
                Event::Answer(_, Answer::Failed) => {}
                Event::Answer(number, _) => {
                    states = self.reach(states, &open);
                    states.retain(|(_, done)| done.contains(number));
                    states = forget(states, *number);
                    open.remove(number);
                }
                Event::Crash => {
                    states = self.reach(states, &open);
                    states = states
                        .into_iter()
                        .map(|(register, _)| (register, BTreeSet::new()))
                        .collect();
                    open.clear();
                }
            }
            if states.is_empty() {
                return Some(at);
            }
            if states.len() > STATES_MAX {
                return None;
            }
        }
        None
    }

    /// All states that open calls, in any order, lead to.
    fn reach(&self, from: States, open: &BTreeMap<u64, (&Call, Option<&Answer>)>) -> States {
        let (mut found, mut waiting) = (from.clone(), Vec::from_iter(from));
        while let Some((register, done)) = waiting.pop() {
            for (number, (call, answer)) in open.iter().filter(|(number, _)| !done.contains(*number)) {
                let Some(next) = self.after(register, call, *answer) else {
                    continue;
                };
                let mut done = done.clone();
                done.insert(*number);
                let next = (next, done);
                if found.len() <= STATES_MAX && found.insert(next.clone()) {
                    waiting.push(next);
                }
            }
        }
        found
    }

    /// What a register holds after a call takes effect on it; `None`: it cannot now, with this answer.
    fn after(&self, register: Register, call: &Call, answer: Option<&Answer>) -> Option<Register> {
        let is_refused = matches!(answer, Some(Answer::Refused));
        let possible = match call {
            Call::Write { only_if_absent, .. } if is_refused => {
                *only_if_absent && matches!(register, Register::Holds(_))
            }
            Call::Write { only_if_absent, .. } => match register {
                Register::Absent => true,
                Register::Holds(_) => !only_if_absent,
                Register::Closed => false,
            },
            Call::Delete => true,
            Call::Close => register == Register::Absent,
            Call::Read => self.is_seen(register, answer),
        };
        if !possible {
            return None;
        }
        Some(match call {
            Call::Write { version, .. } if !is_refused => Register::Holds(*version),
            Call::Delete if register != Register::Closed => Register::Absent,
            Call::Close => Register::Closed,
            _ => register,
        })
    }

    fn is_seen(&self, register: Register, answer: Option<&Answer>) -> bool {
        let Some(Answer::Saw(seen)) = answer else { return false };
        match (seen, register) {
            (Seen::Absent, Register::Absent | Register::Closed) => true,
            (Seen::Version(seen), Register::Holds(version)) => *seen == version,
            // Of a copy that was not answered nobody knows the tag.
            (Seen::Tag(tag), Register::Holds(version)) => self.tags.get(&version).is_none_or(|known| known == tag),
            _ => false,
        }
    }
}

/// What a register holds, and which of the open calls have taken effect.
type States = BTreeSet<(Register, BTreeSet<u64>)>;

fn forget(states: States, number: u64) -> States {
    let forget = |(register, mut done): (Register, BTreeSet<u64>)| {
        done.remove(&number);
        (register, done)
    };
    states.into_iter().map(forget).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(version: Version) -> Call {
        Call::Write {
            version,
            only_if_absent: false,
        }
    }

    fn read(model: &mut Model, seen: Seen) {
        let called = model.call(1, "k", Call::Read);
        model.answer(&called, Answer::Saw(seen));
    }

    #[test]
    fn what_was_acknowledged_must_be_read() {
        let mut model = Model::default();
        let called = model.call(1, "k", write(7));
        model.answer(&called, Answer::Done);
        model.crash();
        read(&mut model, Seen::Version(7));
        assert!(model.violations().is_empty());
        read(&mut model, Seen::Absent);
        assert_eq!(model.violations().len(), 1);
    }

    #[test]
    fn what_was_not_answered_may_be_read_or_not_but_does_not_come_and_go() {
        for (first, second, is_fine) in [
            (Seen::Absent, Seen::Absent, true),
            (Seen::Version(7), Seen::Version(7), true),
            (Seen::Absent, Seen::Version(7), true),
            (Seen::Version(7), Seen::Absent, false),
        ] {
            let mut model = Model::default();
            model.call(1, "k", write(7));
            read(&mut model, first.clone());
            read(&mut model, second.clone());
            assert_eq!(model.violations().is_empty(), is_fine, "{first:?} {second:?}");
            // The crash decides: nothing comes later.
            let mut model = Model::default();
            model.call(1, "k", write(7));
            model.crash();
            read(&mut model, first.clone());
            read(&mut model, second.clone());
            assert_eq!(model.violations().is_empty(), first == second, "{first:?} {second:?}");
        }
    }

    #[test]
    fn of_two_writers_at_once_either_is_last_and_stays_so() {
        let mut model = Model::default();
        let (one, two) = (model.call(1, "k", write(1)), model.call(1, "k", write(2)));
        model.answer(&one, Answer::Done);
        model.answer(&two, Answer::Done);
        read(&mut model, Seen::Version(1));
        assert!(model.violations().is_empty());
        read(&mut model, Seen::Version(2));
        assert_eq!(model.violations().len(), 1);
    }

    #[test]
    fn a_bucket_that_was_deleted_was_empty_and_takes_nothing() {
        let mut model = Model::default();
        let closed = model.call(1, "k", Call::Close);
        model.answer(&closed, Answer::Done);
        read(&mut model, Seen::Absent);
        assert!(model.violations().is_empty());
        let called = model.call(1, "k", write(1));
        model.answer(&called, Answer::Done);
        assert_eq!(model.violations().len(), 1);
    }

    #[test]
    fn a_failed_write_is_never_seen_and_a_listing_tells_versions_by_their_tags() {
        let mut model = Model::default();
        let called = model.call(1, "k", write(1));
        model.answer(&called, Answer::Failed);
        let called = model.call(1, "k", write(2));
        model.has_tag(2, "two");
        model.answer(&called, Answer::Done);
        read(&mut model, Seen::Tag("two".to_owned()));
        assert!(model.violations().is_empty());
        read(&mut model, Seen::Version(1));
        assert_eq!(model.violations().len(), 1);
    }
}
