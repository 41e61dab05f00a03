//! The chunk store: every byte above the body limit, once.

pub mod chunker;
pub mod codec;
pub mod md5;
pub mod pack;
pub mod pool;
mod temporary;
pub use temporary::*;
pub mod record;
