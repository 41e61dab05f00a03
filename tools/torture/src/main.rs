//! Durability tests against the real gateway: kills, power cuts, left-out syncs, flipped bytes.

mod client;
mod content;
mod control;
mod crash;
mod disk;
mod flip;
mod history;
mod http;
mod image;
mod kill;
mod omit;
mod pages;
mod server;
mod steps;
#[cfg(test)]
mod tests;
mod trace;
mod verify;
mod workload;

use clap::Parser;
use std::process::ExitCode;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Failure>;

#[derive(Parser)]
#[command(about)]
enum Mode {
    /// SIGKILL under load, restart, and read everything that was acknowledged.
    Kill(kill::KillOptions),
    /// Record a run, build images of the disk after a power cut, start the gateway on each and read everything.
    Crash(crash::CrashOptions),
    /// Leave out one kind of sync after the other: each must make `crash` fail.
    Sabotage(crash::CrashOptions),
    /// Flip one byte at rest: it must be told, or not matter.
    Flip(flip::FlipOptions),
    /// Kill the gateway at, or fail, each of the file operations between a request's first byte and what follows its answer.
    Steps(steps::StepsOptions),
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let outcome = match Mode::parse() {
        Mode::Kill(options) => kill::run(&options).await,
        Mode::Crash(options) => crash::run(&options).await.and_then(|report| match report.failure {
            Some(text) => Err(text.into()),
            None => {
                println!("{} crash images: all sound", report.images);
                Ok(())
            }
        }),
        Mode::Sabotage(options) => crash::sabotage(&options).await,
        Mode::Flip(options) => flip::run(&options).await,
        Mode::Steps(options) => steps::run(&options).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
