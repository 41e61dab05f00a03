//! The key grammar and the records: what the rows of the metadata store mean. Nothing here does I/O.

pub mod key;
pub mod record;
