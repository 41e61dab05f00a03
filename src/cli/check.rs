//! `cairn check`: by itself where no gateway runs, else through the one that does.

use std::process::ExitCode;

use super::admin;
use crate::admin::CheckReport;
use crate::config::Config;
use crate::server::{CheckError, CheckRequest, LockError, ServeError, check};

/// The check could not be made.
const FAILED: u8 = 2;

/// Prints the report. Exit code 0: sound; 1: something is wrong; 2: nothing is known.
pub fn run(config: &Config, request: CheckRequest, as_json: bool) -> ExitCode {
    match report(config, request) {
        Ok(report) => {
            let text = if as_json {
                serde_json::to_string(&report).unwrap_or_default()
            } else {
                report.to_string().trim_end().to_owned()
            };
            println!("{text}");
            if report.sound {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("cairn: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn report(config: &Config, request: CheckRequest) -> Result<CheckReport, String> {
    match check(config, request) {
        Err(CheckError::Serve(ServeError::Lock(LockError::Held { .. }))) if !request.repair => {
            eprintln!("a gateway uses the directory: asking it");
            admin::check(config.admin_listen, request.read_data).map_err(|error| error.to_string())
        }
        outcome => outcome.map_err(|error| error.to_string()),
    }
}
