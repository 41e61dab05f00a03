//! Tests of the chunk store as a whole. The invariants' names are those of ARCHITECTURE.md.

mod braking;
mod cloud;
mod clouded;
mod collecting;
mod comparing;
mod composing;
mod crash;
mod damage;
mod encrypting;
mod epochs;
mod harness;
mod healing;
mod images;
mod invariants;
mod keys;
mod leaks;
mod migrating;
mod outages;
mod passing;
mod races;
mod scrubbing;
mod storing;
mod window;
