//! Cairn: an S3-compatible object gateway that keeps every byte once. `ARCHITECTURE.md` tells where everything lives.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

pub mod admin;
pub mod backup;
pub mod blob;
pub mod chunk;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod iam;
pub mod ids;
pub mod kv;
pub mod limits;
pub mod meta;
pub mod object;
mod priority;
pub mod s3;
#[cfg(any(test, feature = "fuzzing"))]
mod script;
pub mod server;
pub mod shutdown;
pub mod telemetry;
