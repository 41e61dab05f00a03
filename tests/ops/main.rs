//! The running program under signals, limits, bad clients and changing certificates.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod blobs;
mod clients;
mod cloud;
mod damage;
mod lifecycle;
mod support;
mod tls;
mod webdav;
