//! What one worker counted, and the sum over workers.

use std::collections::BTreeMap;

use crate::args::Op;
use crate::histogram::Histogram;

#[derive(Default, Clone)]
pub struct Stats {
    pub all: Histogram,
    /// By operation, in a mixed run.
    pub by_op: BTreeMap<&'static str, Histogram>,
    /// The completing request of multipart uploads.
    pub complete: Histogram,
    pub bytes: u64,
    pub keys: u64,
    /// Failures but SlowDown, by S3 code or kind.
    pub errors: BTreeMap<String, u64>,
    pub slow_downs: u64,
    pub reconnects: u64,
}

pub fn name(op: Op) -> &'static str {
    match op {
        Op::Put => "put",
        Op::Get => "get",
        Op::Head => "head",
        Op::List => "list",
        Op::Delete => "delete",
        Op::Multipart => "multipart",
        Op::Mixed => "mixed",
    }
}

impl Stats {
    pub fn merge(&mut self, other: &Self) {
        self.all.merge(&other.all);
        self.complete.merge(&other.complete);
        for (op, histogram) in &other.by_op {
            self.by_op.entry(op).or_default().merge(histogram);
        }
        for (code, count) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        self.bytes += other.bytes;
        self.keys += other.keys;
        self.slow_downs += other.slow_downs;
        self.reconnects += other.reconnects;
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}
