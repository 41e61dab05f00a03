//! Simulations of the object layer: one seed, one history.

mod blobs;
mod client;
mod content;
mod entropy;
mod errors;
mod kv;
mod last;
mod model;
mod plan;
mod reads;
mod run;
#[cfg(test)]
mod tests;
mod uploads;
mod world;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use clap::Parser;

use crate::run::simulate;

#[derive(Parser)]
#[command(about)]
struct Options {
    /// How many seeds, from the first one on.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// This one alone, and its history in words.
    #[arg(long)]
    seed: Option<u64>,
    /// Simulations at the same time.
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, |cores| cores.get() as u64))]
    at_once: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seed) = options.seed {
        let report = simulate(seed, usize::MAX);
        report.lines.iter().for_each(|line| println!("{line}"));
        println!("seed {seed}: {} events, history {:016x}", report.events, report.history);
        report.violations.iter().for_each(|what| println!("VIOLATION {what}"));
        return if report.violations.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let began = Instant::now();
    let (failed, events) = run(options.first, options.seeds, options.at_once);
    println!(
        "{} seeds from {}: {events} events in {:.1} s, {} failed",
        options.seeds,
        options.first,
        began.elapsed().as_secs_f64(),
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs these seeds and tells of those that fail, which it returns, with the number of all events.
fn run(first: u64, seeds: u64, at_once: u64) -> (Vec<u64>, u64) {
    let (next, events) = (AtomicU64::new(first), AtomicU64::new(0));
    let work = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= first + seeds {
                return failed;
            }
            let report = simulate(seed, 0);
            events.fetch_add(report.events, Relaxed);
            if let Some(what) = report.violations.first() {
                println!("seed {seed} fails; see all of it with: make simulate SEED={seed}\n{what}");
                failed.push(seed);
            }
        }
    };
    let failed = thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once.max(1)).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap_or_default());
        joined.flatten().collect()
    });
    (failed, events.load(Relaxed))
}
