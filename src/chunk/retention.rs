//! When the file of a condemned pack may go: at once, or after a backup no longer needs it.

use std::fmt::Debug;

use crate::clock::Timestamp;
use crate::ids::PackId;

/// Asked before the file of a condemned pack is deleted. A pack that must stay is asked about again at each run, after
/// a restart too; its row says since when it waits.
pub trait Retention: Debug + Send + Sync {
    fn may_delete(&self, pack: PackId, condemned: Timestamp) -> bool;
}

/// No restore window.
#[derive(Debug)]
pub struct DeleteNow;

impl Retention for DeleteNow {
    fn may_delete(&self, _: PackId, _: Timestamp) -> bool {
        true
    }
}
