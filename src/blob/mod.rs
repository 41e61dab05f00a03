//! Files below the formats: written, synced and read by our own code; and blobs, which may lie anywhere.

pub mod directory;
pub mod fault;
mod listing;
pub mod local;
pub mod memory;
mod open;
pub mod remote;
pub mod space;
mod store;

#[cfg(test)]
mod suite;

pub use open::{OpenError, open, open_or_make};
pub use store::{Blob, BlobError, Blobs, LIST_PAGE_MAX, is_name};
