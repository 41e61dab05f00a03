//! `cairn key`: by itself where no gateway runs, else through the one that does.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};

use super::admin::{self, AdminError};
use crate::admin::{KeysReport, RotationReport};
use crate::config::{Config, MasterKeySource};
use crate::server::{KeyCommandError, KeyringError, LockError, keyring, list_keys, rotate_key};

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    Command(#[from] KeyCommandError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("the gateway on {asked} serves {other}, another store: see --admin-listen")]
    OtherStore { asked: String, other: String },
}

pub fn command(arguments: &[Arg]) -> Command {
    let out = Arg::new("out")
        .long("out")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("make this file, for its owner alone; without it the key is printed");
    Command::new("key")
        .about("Master keys of an encrypted store")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("generate").about("Make a new master key").arg(out))
        .subcommand(
            Command::new("list")
                .about("Show the master key in use and those that are given")
                .args(arguments),
        )
        .subcommand(
            Command::new("rotate")
                .about("Put a new master key into use; no data is rewritten")
                .args(arguments),
        )
}

/// What the user is told. `load`: of the configuration that the arguments ask for.
pub fn run<E: From<KeyError>>(
    matches: &ArgMatches,
    load: impl FnOnce(&ArgMatches) -> Result<Config, E>,
) -> Result<String, E> {
    match matches.subcommand() {
        Some(("generate", matches)) => Ok(generate(matches.get_one::<PathBuf>("out"))?),
        Some(("list", matches)) => Ok(list(&load(matches)?)?.to_string()),
        Some((_, matches)) => Ok(rotate(&load(matches)?)?.to_string()),
        None => Ok(String::new()),
    }
}

fn generate(out: Option<&PathBuf>) -> Result<String, KeyError> {
    let Some(path) = out else {
        return Ok(keyring::generate()?.to_string());
    };
    keyring::create(path)?;
    let path = path.display();
    Ok(format!(
        "{path} holds a new master key: keep a copy of it, away from the data"
    ))
}

fn list(config: &Config) -> Result<KeysReport, KeyError> {
    match list_keys(config) {
        Err(KeyCommandError::Lock(LockError::Held { .. })) => asked(config),
        outcome => Ok(outcome?),
    }
}

fn rotate(config: &Config) -> Result<RotationReport, KeyError> {
    match rotate_key(config) {
        Err(KeyCommandError::Lock(LockError::Held { .. })) => {}
        outcome => return Ok(outcome?),
    }
    let in_use = asked(config)?.in_use;
    if let Some(source @ MasterKeySource::File(path)) = &config.encryption {
        let first = keyring::load(source, &config.data)?.first().to_string();
        if in_use.is_some_and(|in_use| in_use == first) {
            keyring::add(path)?;
        }
    }
    Ok(admin::rotate_key(config.admin_listen)?)
}

/// What the gateway says that runs on the data directory.
fn asked(config: &Config) -> Result<KeysReport, KeyError> {
    let report = admin::keys(config.admin_listen)?;
    if config.data.canonicalize().is_ok_and(|data| data == report.data) {
        return Ok(report);
    }
    Err(KeyError::OtherStore {
        asked: config.admin_listen.to_string(),
        other: report.data.display().to_string(),
    })
}
