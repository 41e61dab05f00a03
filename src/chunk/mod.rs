//! The chunk store: every byte above the body limit, once.

mod bulk;
pub mod chunker;
mod cloud;
pub mod codec;
mod collect;
mod compose;
mod domain;
mod error;
mod evacuate;
mod garbage;
mod index;
pub mod md5;
mod metrics;
mod migrate;
mod offload;
mod owners;
pub mod pack;
mod packs;
pub mod pool;
mod reader;
mod rebuild;
pub mod record;
mod recount;
mod recover;
mod scrub;
mod session;
mod store;
mod stored;
mod trouble;
mod window;
mod writer;

#[cfg(test)]
mod tests;

pub use cloud::KeeperHandle;
pub use collect::{CollectOptions, CollectReport, CollectorHandle};
pub use compose::Piece;
pub use domain::DomainKey;
pub use error::{CollectError, ComposeError, MetaError, OpenError, ReadError, WriteError};
pub use garbage::UnwindReport;
pub use migrate::MigrateStatus;
pub use owners::Owners;
pub use pack::{AppendError, CloudOptions};
pub use reader::DataStream;
pub use rebuild::RebuildReport;
pub use recount::{Difference, Recount};
pub use recover::RecoverReport;
pub use scrub::{Finding, Pace, ScrubReport};
pub use store::{ChunkStore, ChunkStoreOptions, StoreUsage};
pub use stored::StoredData;
pub use writer::{DataWriter, WriteOptions};
