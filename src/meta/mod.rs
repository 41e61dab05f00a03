//! The key grammar and the records: what the rows of the metadata store mean. Nothing here does I/O.

pub mod bucket;
pub mod key;
pub mod object;
pub mod record;
pub mod upload;
