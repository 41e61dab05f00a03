//! The commit log: what makes a commit durable, and what recovery replays.
//!
//! Bytes and rules are in `docs/format.md`. In short: frames begin at multiples of 4,096 bytes, so that the frames
//! behind a damaged one can be found; each says up to where the log was known durable when it was written, so that
//! damage to synced frames is told apart from the torn tail of a power cut (invariant I8).

mod buffer;
mod chain;
mod file;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod keeper;
mod recover;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub(super) use chain::follow;
pub use chain::{Position, end_of};
pub use file::{LogFault, LogStep};
pub(super) use frame::{Effect, Effects, push_put};
pub(super) use keeper::{Flushed, Keeper, LogFiles};
pub(super) use recover::{Recovered, recover};
pub use tail::{LogTail, Stretch, TailError};
pub(super) use writer::{AppendError, Log};

/// Why a commit log could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("commit log {file} is damaged at byte {offset}: {what}")]
    Corrupt { file: String, offset: u64, what: String },
    #[error("commit log {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("the commit log's effects could not be applied: {0}")]
    Apply(String),
}
