//! `load`: a load generator for S3 servers that takes little of the machine it measures. `tools/README.md` tells how to
//! use it.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        reason = "tests may panic"
    )
)]

mod args;
mod body;
mod histogram;
mod http;
mod limits;
mod link;
mod listing;
mod multipart;
mod process;
mod report;
mod run;
mod sign;
mod site;
mod stats;
mod tls;
mod worker;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use serde_json::Value;

use args::{Cli, Command, Load};

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Run(#[from] run::RunError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

fn write_json(path: Option<&Path>, document: &Value) -> Result<(), Failure> {
    if let Some(path) = path {
        std::fs::write(path, serde_json::to_string_pretty(document)?)?;
    }
    Ok(())
}

/// Runs the load; answers whether every operation went well.
fn generate(load: &Load) -> Result<bool, Failure> {
    let mut builder = if load.threads > 1 {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.worker_threads(load.threads.max(1)).enable_all().build()?;
    let outcomes = runtime.block_on(run::run(load))?;
    if load.fill_only {
        return Ok(true);
    }
    let document = report::document(load, &outcomes);
    print!("{}", report::text(&document));
    write_json(load.json.as_deref(), &document)?;
    Ok(outcomes.iter().all(|outcome| outcome.stats.failed() == 0))
}

fn start() -> Result<bool, Failure> {
    let cli = Cli::parse();
    match (cli.command, cli.load) {
        (Some(Command::Limits { dir, json }), _) => {
            let document = limits::measure(&dir)?;
            println!("{}", serde_json::to_string_pretty(&document)?);
            write_json(json.as_deref(), &document)?;
            Ok(true)
        }
        (None, Some(load)) => generate(&load),
        (None, None) => {
            Cli::command().print_help()?;
            Ok(false)
        }
    }
}

fn main() -> ExitCode {
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("load: {failure}");
            ExitCode::from(2)
        }
    }
}
