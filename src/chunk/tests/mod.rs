//! Tests of the chunk store as a whole. The invariants' names are those of ARCHITECTURE.md.

mod cloud;
mod collecting;
mod composing;
mod crash;
mod damage;
mod harness;
mod healing;
mod invariants;
mod migrating;
mod races;
mod scrubbing;
mod storing;
