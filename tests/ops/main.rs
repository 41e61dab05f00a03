//! The running program under signals, limits, bad clients and changing certificates.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod backup;
mod blobs;
mod clients;
mod cloud;
mod collection;
mod damage;
mod encryption;
mod http2;
mod lifecycle;
mod support;
mod tls;
mod webdav;
