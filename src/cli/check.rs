//! `cairn check`: by itself where no gateway runs, else through the one that does.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use super::admin;
use super::progress::Line;
use crate::admin::CheckReport;
use crate::backup::{Choice, Lineage};
use crate::config::{Config, ConfigError, Values};
use crate::object::CheckProgress;
use crate::server::{self, CheckError, CheckRequest, DrillReport, LockError, RestoreRequest, ServeError, check};

/// The check could not be made.
const FAILED: u8 = 2;

/// Checks the store. Exit code 0: sound; 1: something is wrong; 2: nothing is known.
pub fn run(config: Result<(Config, Values), ConfigError>, request: CheckRequest, as_json: bool) -> ExitCode {
    let config = config.map_err(|error| error.to_string());
    let checked = config.and_then(|(config, _)| report(&config, request));
    tell(checked.map_err(|error| (error, FAILED)), |report| report.sound, as_json)
}

/// Tries the backup instead. Exit codes as above: 0 it would bring everything back, 1 it would not, 2 nothing is known.
pub fn drill(config: Result<(Config, Values), ConfigError>, choice: Choice, as_json: bool) -> ExitCode {
    let config = config.map_err(|error| (error.to_string(), FAILED));
    let tried = config.and_then(|(config, _)| drill_of(&config, choice));
    tell(tried, |report| report.sound, as_json)
}

/// Prints the report, or why there is none and the exit code that says so.
fn tell<T: Serialize + Display>(outcome: Result<T, (String, u8)>, is_sound: fn(&T) -> bool, as_json: bool) -> ExitCode {
    match outcome {
        Ok(report) => {
            let text = if as_json {
                serde_json::to_string(&report).unwrap_or_default()
            } else {
                report.to_string().trim_end().to_owned()
            };
            // Who closed the pipe reads the exit code.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::from(u8::from(!is_sound(&report)))
        }
        Err((error, code)) => {
            eprintln!("cairn: {error}");
            ExitCode::from(code)
        }
    }
}

/// Of the store and the generation of the data directory, if it has them and no other ones are chosen.
fn drill_of(config: &Config, mut choice: Choice) -> Result<DrillReport, (String, u8)> {
    let ids = Lineage::ids(&config.data).map_err(|error| (error.to_string(), FAILED))?;
    if let (Some((store, generation)), None) = (ids, choice.store) {
        choice.store = Some(store);
        choice.generation = choice.generation.or(generation);
    }
    let request = RestoreRequest { choice, lossy: false };
    server::drill(config, request).map_err(|error| (error.to_string(), if error.is_answer() { 1 } else { FAILED }))
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
