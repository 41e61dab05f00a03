//! Points in time: between two commits, to which a restore can go.

use crate::clock::Timestamp;
use crate::ids::Sequence;

/// A commit, and a time before which it and all before it had been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub sequence: Sequence,
    pub time: Timestamp,
}

/// What a restore is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// All that there is.
    #[default]
    Last,
    /// What had been made by then.
    At(Timestamp),
}

impl Wanted {
    pub fn allows(self, point: Point) -> bool {
        match self {
            Self::Last => true,
            Self::At(time) => point.time <= time,
        }
    }
}
