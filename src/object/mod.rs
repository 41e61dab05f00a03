//! The meaning of each S3 operation, in S3's terms and without its wire.

pub mod types;
