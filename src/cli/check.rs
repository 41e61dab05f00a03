//! `cairn check`: by itself where no gateway runs, else through the one that does.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use super::admin;
use super::progress::Line;
use crate::admin::CheckReport;
use crate::config::{Config, ConfigError, Values};
use crate::object::CheckProgress;
use crate::server::{self, CheckError, CheckRequest, DrillReport, LockError, RestoreRequest, ServeError, check};

/// The check could not be made.
const FAILED: u8 = 2;

/// Prints the report. Exit code 0: sound; 1: something is wrong; 2: nothing is known.
pub fn run(config: Result<(Config, Values), ConfigError>, request: CheckRequest, as_json: bool) -> ExitCode {
    let config = config.map_err(|error| error.to_string());
    match config.and_then(|(config, _)| report(&config, request)) {
        Ok(report) => {
            let text = if as_json {
                serde_json::to_string(&report).unwrap_or_default()
            } else {
                report.to_string().trim_end().to_owned()
            };
            // Who closed the pipe reads the exit code.
            let _ = writeln!(std::io::stdout(), "{text}");
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

/// Tries the backup instead. Exit codes as above: 0 it would bring everything back, 1 it would not, 2 nothing is known.
pub fn drill(config: Result<(Config, Values), ConfigError>, as_json: bool) -> ExitCode {
    let config = config.map_err(|error| error.to_string());
    let tried = config.and_then(|(config, _)| drill_of(&config, RestoreRequest::default()));
    match tried {
        Ok(report) => {
            let text = if as_json {
                serde_json::to_string(&report).unwrap_or_default()
            } else {
                report.to_string().trim_end().to_owned()
            };
            // Who closed the pipe reads the exit code.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::from(u8::from(!report.sound))
        }
        Err(error) => {
            eprintln!("cairn: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn drill_of(config: &Config, request: RestoreRequest) -> Result<DrillReport, String> {
    server::drill(config, request).map_err(|error| error.to_string())
}

fn report(config: &Config, request: CheckRequest) -> Result<CheckReport, String> {
    let progress = Arc::new(CheckProgress::default());
    let _line = Line::show(Arc::clone(&progress));
    match check(config, request, &progress) {
        Err(CheckError::Serve(ServeError::Lock(held @ LockError::Held { .. }))) if !request.repair => {
            eprintln!("{held}; asking the gateway on {}", config.admin_listen);
            let report = admin::check(config.admin_listen, request.read_data, &progress);
            let report = report.map_err(|error| error.to_string())?;
            if config.data.canonicalize().is_ok_and(|data| data == report.data) {
                return Ok(report);
            }
            let (asked, other) = (config.admin_listen, report.data.display());
            Err(format!(
                "the gateway on {asked} serves {other}, another store: see --admin-listen"
            ))
        }
        outcome => outcome.map_err(|error| error.to_string()),
    }
}
