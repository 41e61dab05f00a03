//! The hashing thread.

use md5_many::Md5Many;

use crate::chunk::md5::queue::{Queue, Round};

/// Hashes round after round until the queue is closed and empty.
pub fn run(queue: &Queue) {
    let engine = Md5Many::new();
    let mut round = Round::default();
    let mut digests = Vec::new();
    while queue.next_round(&mut round) {
        {
            let inputs: Vec<&[u8]> = round.slices.iter().map(|slice| slice.data.as_ref()).collect();
            engine.update_many(&mut round.states, &inputs);
        }
        digests.resize(round.ending.len(), [0; 16]);
        engine.finalize_many(&round.ending, &mut digests);
        queue.end_round(&round);
        for (answer, digest) in round.answers.drain(..).zip(&digests) {
            // Nobody waits any more: the upload was given up.
            let _ = answer.send(*digest);
        }
        round.clear();
    }
}
