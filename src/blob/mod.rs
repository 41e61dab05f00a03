//! Files below the formats: written, synced and read by our own code.

pub mod local;
pub mod space;
