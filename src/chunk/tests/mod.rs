//! Tests of the chunk store as a whole. The invariants' names are those of ARCHITECTURE.md.

mod collecting;
mod comparing;
mod composing;
mod crash;
mod damage;
mod encrypting;
mod harness;
mod healing;
mod invariants;
mod keys;
mod races;
mod scrubbing;
mod storing;
