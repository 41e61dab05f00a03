//! What one seed makes of a simulation: who works, how often the process dies, what goes wrong and how often.

use fastrand::Rng;

/// Rates are parts of 1,000.
#[derive(Clone, Debug)]
pub struct Plan {
    pub clients: u64,
    /// Operations of each client and process.
    pub operations: u64,
    /// Processes, one after the other; each but the last ends in a crash.
    pub boots: u64,
    pub kv: KvPlan,
    pub blobs: BlobPlan,
    /// Clients that hang up in the middle.
    pub hang_ups: u64,
    /// Bodies that end early or are not what was announced.
    pub bad_bodies: u64,
    /// Objects of several windows.
    pub large: u64,
    pub multipart: bool,
    /// Whether a bucket comes and goes.
    pub volatile_bucket: bool,
}

#[derive(Clone, Debug)]
pub struct KvPlan {
    pub sync_ms: u64,
    pub slow: u64,
    pub sync_fails: u64,
    /// EIO and ENOSPC.
    pub refused: u64,
    /// Commits whose outcome the engine cannot tell, while it goes on: a database over a network.
    pub unknown: u64,
    pub unreadable: u64,
}

#[derive(Clone, Debug)]
pub struct BlobPlan {
    pub latency_ms: u64,
    pub slow: u64,
    pub hangs: u64,
    pub unavailable: u64,
    /// Done, and told that it failed.
    pub answer_lost: u64,
    /// Told that it failed, and done later.
    pub late: u64,
    /// Told that it failed, and half of it is there.
    pub torn: u64,
    /// Reads that end early and say that they are whole.
    pub cut: u64,
    /// Refuses what is put, for a while.
    pub full: u64,
    /// Bits that flip at rest, at each put.
    pub flips: u64,
    /// Bits that flip on the way to a reader.
    pub flips_read: u64,
}

impl Plan {
    pub fn new(rng: &mut Rng) -> Self {
        // A mode is off in most seeds, so that each is seen alone, with others, and not at all.
        let rate = |rng: &mut Rng, one_in: u64, most: u64| {
            if rng.u64(0..one_in) == 0 { rng.u64(1..=most) } else { 0 }
        };
        let kv = KvPlan {
            sync_ms: rng.u64(0..6),
            slow: rate(rng, 4, 30),
            sync_fails: rate(rng, 4, 10),
            refused: rate(rng, 3, 30),
            unknown: rate(rng, 5, 20),
            unreadable: rate(rng, 4, 10),
        };
        let blobs = BlobPlan {
            latency_ms: rng.u64(0..40),
            slow: rate(rng, 3, 60),
            hangs: rate(rng, 5, 10),
            unavailable: rate(rng, 3, 100),
            answer_lost: rate(rng, 3, 60),
            late: rate(rng, 3, 60),
            torn: rate(rng, 3, 60),
            cut: rate(rng, 4, 40),
            full: rate(rng, 6, 15),
            flips: rate(rng, 6, 60),
            flips_read: rate(rng, 6, 40),
        };
        Self {
            clients: rng.u64(1..=4),
            operations: rng.u64(8..=30),
            boots: rng.u64(1..=4),
            kv,
            blobs,
            hang_ups: rate(rng, 3, 60),
            bad_bodies: rate(rng, 3, 60),
            large: rate(rng, 6, 40),
            multipart: rng.u64(0..2) == 0,
            volatile_bucket: rng.u64(0..3) == 0,
        }
    }

    /// Whether bytes may change where nobody wrote them, so that reads may fail for good.
    pub fn has_flips(&self) -> bool {
        self.blobs.flips > 0 || self.blobs.flips_read > 0
    }
}
