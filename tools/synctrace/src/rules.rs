//! Which syncs to leave out, to show that a test notices.
//!
//! `SYNCTRACE_DROP` is a list of rules separated by `;`. A rule is `KIND:PATTERN` or `KIND:PATTERN@N`: KIND is
//! `data` (fdatasync, fsync, O_DSYNC or O_SYNC of a file), `dir` (fsync of a directory) or `any`; PATTERN is compared with the path
//! relative to the recorded directory (`.` for that directory itself): `*` stands for any run of bytes; with `@N` only the N-th match goes.

use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Data,
    Directory,
}

struct Rule {
    target: Option<Target>,
    pattern: Vec<u8>,
    nth: Option<u32>,
    matches: AtomicU32,
}

#[derive(Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// `None` when the text is not a list of rules.
    pub fn parse(text: &str) -> Option<Self> {
        text.split(';')
            .filter(|rule| !rule.is_empty())
            .map(Rule::parse)
            .collect::<Option<Vec<_>>>()
            .map(Self)
    }

    pub fn drops(&self, target: Target, path: &[u8]) -> bool {
        self.0.iter().any(|rule| rule.drops(target, path))
    }
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let target = match kind {
            "data" => Some(Target::Data),
            "dir" => Some(Target::Directory),
            "any" => None,
            _ => return None,
        };
        let (pattern, nth) = match rest.rsplit_once('@') {
            Some((pattern, nth)) => (pattern, Some(nth.parse().ok()?)),
            None => (rest, None),
        };
        Some(Self {
            target,
            pattern: pattern.as_bytes().to_vec(),
            nth,
            matches: AtomicU32::new(0),
        })
    }

    fn drops(&self, target: Target, path: &[u8]) -> bool {
        if self.target.is_some_and(|wanted| wanted != target) || !matches(&self.pattern, path) {
            return false;
        }
        let count = self.matches.fetch_add(1, Ordering::Relaxed) + 1;
        self.nth.is_none_or(|nth| nth == count)
    }
}

pub fn matches(pattern: &[u8], path: &[u8]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((b'*', rest)) => (0..=path.len()).any(|skip| path.get(skip..).is_some_and(|tail| matches(rest, tail))),
        Some((byte, rest)) => path
            .split_first()
            .is_some_and(|(first, tail)| first == byte && matches(rest, tail)),
    }
}
