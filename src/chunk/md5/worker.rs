//! The hashing thread.

use md5_many::{Md5Many, Md5State};

use crate::chunk::md5::queue::{LANES, Queue, Round};

/// Hashes round after round until the queue is closed and empty.
pub fn run(queue: &Queue) {
    let engine = Md5Many::new();
    let mut round = Round::default();
    let mut digests = Vec::new();
    while queue.next_round(&mut round) {
        hash(engine, &mut round);
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

/// Adds every slice to its state.
fn hash(engine: Md5Many, round: &mut Round) {
    let streams = round.slices.len();
    let mut inputs: Vec<&[u8]> = round.slices.iter().map(|slice| slice.data.as_ref()).collect();
    // The engine goes stream by stream below a full set of lanes, which is slower from two streams on than a full set
    // with idle lanes: those hash the longest slice once more into states that nobody reads.
    if streams > 1
        && let Some(longest) = inputs.iter().copied().max_by_key(|input| input.len())
    {
        let full = streams.next_multiple_of(LANES.min(engine.lanes()));
        inputs.resize(full, longest);
        round.states.resize(full, Md5State::new());
    }
    engine.update_many(&mut round.states, &inputs);
    round.states.truncate(streams);
}
