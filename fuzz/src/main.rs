//! One binary for all targets, so that RocksDB is linked once: `CAIRN_FUZZ` names the target of a run.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    // Asked again for each input: there is no other place for it but a global, and a run notices nothing of it.
    let name = std::env::var("CAIRN_FUZZ").unwrap_or_default();
    match cairn::fuzz::TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, target)) => target(data),
        None => {
            let known: Vec<_> = cairn::fuzz::TARGETS.iter().map(|(target, _)| *target).collect();
            panic!("set CAIRN_FUZZ to one of {}", known.join(", "));
        }
    }
    Corpus::Keep
});
