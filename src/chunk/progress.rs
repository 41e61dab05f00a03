//! How far a check has come.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// The parts of a check, in their order, and what is counted in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Rows. How many there are is not known before.
    #[default]
    Rows,
    /// Packs whose tables are held against the index.
    Index,
    Objects,
    /// Bytes of packs.
    Data,
}

const STAGES: [Stage; 4] = [Stage::Rows, Stage::Index, Stage::Objects, Stage::Data];

/// Written by the one who checks, read by the one who shows it.
#[derive(Debug, Default)]
pub struct CheckProgress {
    stage: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
}

/// A moment of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub stage: Stage,
    pub done: u64,
    /// 0: not known.
    pub total: u64,
}

impl CheckProgress {
    pub fn begin(&self, stage: Stage, total: u64) {
        self.set(Progress { stage, done: 0, total });
    }

    pub fn add(&self, done: u64) {
        self.done.fetch_add(done, Relaxed);
    }

    /// Takes over what another process has told.
    pub fn set(&self, now: Progress) {
        self.done.store(now.done, Relaxed);
        self.total.store(now.total, Relaxed);
        self.stage.store(now.stage as u8, Relaxed);
    }

    pub fn now(&self) -> Progress {
        let stage = STAGES.get(usize::from(self.stage.load(Relaxed)));
        Progress {
            stage: stage.copied().unwrap_or_default(),
            done: self.done.load(Relaxed),
            total: self.total.load(Relaxed),
        }
    }
}
