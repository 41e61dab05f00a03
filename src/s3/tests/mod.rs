//! The service driven by signed requests, in this process.

mod authentication;
mod bodies;
mod buckets;
mod client;
mod listings;
mod objects;
mod tagging;
mod uploads;
