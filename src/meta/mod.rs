//! The key grammar and the records: what the rows of the metadata store mean. Nothing here does I/O.

pub mod bucket;
pub mod chunk;
pub mod collector;
pub mod data;
pub mod domain;
pub mod encryption;
pub mod key;
pub mod object;
pub mod pack;
pub mod record;
pub mod scrub;
pub mod segment;
pub mod tree;
pub mod upload;
pub mod usage;
