//! The running program under signals, limits, bad clients and changing certificates.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod backup;
mod blobs;
mod clients;
mod damage;
mod lifecycle;
mod support;
mod tls;
