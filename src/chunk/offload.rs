//! Where work goes that would hold up a thread that answers: it waits for a disk, or goes by the byte.

use tokio::task::{JoinError, spawn_blocking};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// To a thread for calls that block.
    #[default]
    Threads,
    /// Nowhere: who asks does it. A simulation has one thread, or its histories would depend on how fast the others are.
    InPlace,
}

impl Offload {
    /// Fails if `work` panicked or the runtime ends.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        match self {
            Self::Threads => spawn_blocking(work).await,
            Self::InPlace => Ok(work()),
        }
    }
}
