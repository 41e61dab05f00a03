//! What was asked of the gateway and what it acknowledged, and so what each key may hold at a moment.

use crate::content::Content;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A moment: the length of the recorder's log in bytes, or a count where nothing is recorded.
pub type Mark = u64;

pub enum Clock {
    Log(PathBuf),
    Count(AtomicU64),
}

impl Clock {
    pub fn now(&self) -> Mark {
        match self {
            Self::Log(path) => std::fs::metadata(path).map_or(0, |found| found.len()),
            Self::Count(count) => count.fetch_add(1, Ordering::SeqCst),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub content: Content,
    /// Known where S3 states it, or where an answer told it.
    pub etag: Option<String>,
}

/// One change of a key, known to have happened only if `acknowledged`.
#[derive(Clone, Debug)]
pub struct Change {
    pub start: Mark,
    pub acknowledged: Option<Mark>,
    pub after: Option<Version>,
}

#[derive(Clone, Debug)]
pub struct Part {
    pub number: u32,
    pub content: Content,
    pub start: Mark,
    pub acknowledged: Option<Mark>,
}

/// A multipart upload whose creation was acknowledged.
#[derive(Clone, Debug)]
pub struct Upload {
    pub key: String,
    pub id: String,
    pub acknowledged: Mark,
    pub parts: Vec<Part>,
    /// When complete or abort was first asked.
    pub ending: Option<Mark>,
}

/// Everything one writer did; no other writer touches its keys.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub changes: BTreeMap<String, Vec<Change>>,
    pub uploads: Vec<Upload>,
}

impl History {
    /// The states that this key may be in after a crash at `at`.
    pub fn allowed(&self, key: &str, at: Mark) -> Vec<Option<Version>> {
        let mut allowed = vec![None];
        for change in self.changes.get(key).into_iter().flatten() {
            if change.start >= at {
                break;
            }
            if change.acknowledged.is_some_and(|mark| mark <= at) {
                allowed.clear();
            }
            allowed.push(change.after.clone());
        }
        allowed
    }

    /// The state now, if nothing is in doubt.
    pub fn certain(&self, key: &str) -> Option<Option<Version>> {
        let mut allowed = self.allowed(key, Mark::MAX);
        if allowed.len() == 1 { allowed.pop() } else { None }
    }

    /// Settles a key at what was read.
    pub fn settle(&mut self, key: &str, state: Option<Version>) {
        self.changes.insert(
            key.to_owned(),
            vec![Change {
                start: 0,
                acknowledged: Some(0),
                after: state,
            }],
        );
    }

    /// Uploads that must be there after a crash at `at`.
    pub fn open_uploads(&self, at: Mark) -> impl Iterator<Item = &Upload> {
        self.uploads
            .iter()
            .filter(move |upload| upload.acknowledged <= at && upload.ending.is_none_or(|mark| mark >= at))
    }

    /// Marks of all acknowledgements: the moments that say most about a crash.
    pub fn acknowledgements(&self) -> Vec<Mark> {
        let changes = self.changes.values().flatten().filter_map(|change| change.acknowledged);
        let parts = self
            .uploads
            .iter()
            .flat_map(|upload| &upload.parts)
            .filter_map(|part| part.acknowledged);
        changes.chain(parts).collect()
    }
}

impl Upload {
    /// The contents that this part number may have at `at`; an empty list if it was never sent; `None` in it: absent.
    pub fn allowed(&self, number: u32, at: Mark) -> Vec<Option<Content>> {
        let mut allowed = vec![None];
        for part in self
            .parts
            .iter()
            .filter(|part| part.number == number && part.start < at)
        {
            if part.acknowledged.is_some_and(|mark| mark <= at) {
                allowed.clear();
            }
            allowed.push(Some(part.content.clone()));
        }
        allowed
    }
}
