//! The command line. Flags of settings are made from the table in `config`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{self, Config, ConfigError, Kind, Setting, Values};
use crate::server;

pub(crate) mod admin;
mod check;
mod key;
mod progress;
mod restore;

/// Why a command failed, as its user reads it.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    #[error(transparent)]
    Key(#[from] key::KeyError),
    #[error(transparent)]
    Restore(#[from] server::RestoreCommandError),
}

/// Runs the command that `arguments` (with the program's name first) ask for.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and errors both arrive here; clap knows which stream each belongs to.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(&matches) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cairn: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(matches: &ArgMatches) -> Result<ExitCode, CliError> {
    match matches.subcommand() {
        Some(("serve", matches)) => {
            let (config, _) = load(matches)?;
            server::run(config)?;
        }
        Some(("config", matches)) => {
            if matches.get_flag("docs") {
                print!("{}", config::markdown());
            } else {
                let (_, values) = load(matches)?;
                print!("{}", values.to_toml());
            }
        }
        Some(("version", _)) => println!("cairn {}", env!("CARGO_PKG_VERSION")),
        Some(("check", matches)) if matches.get_flag("restore") => {
            return Ok(check::drill(load(matches), matches.get_flag("json")));
        }
        Some(("restore", matches)) => {
            let (config, _) = load(matches)?;
            println!("{}", restore::run(&config, restore::request(matches))?);
        }
        Some(("check", matches)) => {
            let request = server::CheckRequest {
                read_data: matches.get_flag("read-data"),
                repair: matches.get_flag("repair"),
            };
            return Ok(check::run(load(matches), request, matches.get_flag("json")));
        }
        Some(("key", matches)) => {
            let told = key::run::<CliError>(matches, |matches| Ok(load(matches)?.0))?;
            println!("{}", told.trim_end());
        }
        Some((group @ ("admin" | "backup" | "store"), matches)) => match matches.subcommand() {
            Some((name, matches)) => println!("{}", ask(group, name, matches)?.trim_end()),
            None => return Ok(ExitCode::FAILURE),
        },
        _ => return Ok(ExitCode::FAILURE),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a running gateway answers.
fn ask(group: &str, name: &str, matches: &ArgMatches) -> Result<String, CliError> {
    // The settings of `gc` are those of its own commands.
    let (config, _) = load(matches.subcommand().map_or(matches, |(_, inner)| inner))?;
    let address = config.admin_listen;
    Ok(match (group, name) {
        ("backup", _) => admin::backup(address, matches.get_flag("json"))?,
        ("store", _) => {
            let to = matches.get_one::<String>("to").map(String::as_str);
            admin::migrate(address, to, matches.get_flag("json"))?
        }
        (_, "usage") => admin::usage(address, matches.get_flag("json"))?,
        (_, "gc") => gc(matches, address)?,
        (_, "scrub") => admin::scrub(address, matches.get_flag("json"))?,
        _ => admin::health(address)?,
    })
}

fn gc(matches: &ArgMatches, address: SocketAddr) -> Result<String, admin::AdminError> {
    match matches.subcommand() {
        Some(("status", matches)) => admin::gc_status(address, matches.get_flag("json")),
        _ => admin::gc_resume(address),
    }
}

fn load(matches: &ArgMatches) -> Result<(Config, Values), ConfigError> {
    let mut flags = BTreeMap::new();
    for flag in config::settings().filter_map(|setting| setting.flag) {
        // A command that does not take the flag knows nothing of it.
        if let Ok(Some(values)) = matches.try_get_many::<String>(flag) {
            flags.insert(flag, values.cloned().collect::<Vec<_>>().join(","));
        }
    }
    let file = matches.get_one::<PathBuf>("config").cloned();
    Config::load(file.as_deref(), flags)
}

fn command() -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML file of settings; see `cairn config`");
    let settings = setting_flags();
    let is_admin_listen = |argument: &&Arg| argument.get_id() == "admin-listen";
    let admin_listen = settings.iter().filter(is_admin_listen);
    let asking: Vec<Arg> = std::iter::once(&file).chain(admin_listen).cloned().collect();
    let docs = Arg::new("docs")
        .long("docs")
        .action(ArgAction::SetTrue)
        .help("print the table of settings as Markdown instead");
    Command::new("cairn")
        .about("An S3-compatible object gateway that keeps every byte once")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("serve")
                .about("Run the gateway")
                .arg(file.clone())
                .args(settings.clone()),
        )
        .subcommand(
            Command::new("config")
                .about("Show every setting, its value and where that comes from")
                .arg(file.clone())
                .args(settings.clone())
                .arg(docs),
        )
        .subcommand(check_command().arg(file.clone()).args(settings.clone()).arg(json()))
        .subcommand(key::command(
            &[std::slice::from_ref(&file), settings.as_slice()].concat(),
        ))
        .subcommand(restore::command().arg(file.clone()).args(settings.clone()))
        .subcommand(backup_command(&asking))
        .subcommand(store_command(&asking))
        .subcommand(Command::new("version").about("Show the version"))
        .subcommand(admin_command(&asking))
}

fn json() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("print JSON")
}

/// `asking`: the arguments of every command that asks a running gateway.
fn backup_command(asking: &[Arg]) -> Command {
    let status = Command::new("status").about("Show what a restore would bring back, and how old that is");
    Command::new("backup")
        .about("Ask a running gateway about its backup")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(status.args(asking).arg(json()))
}

fn admin_command(asking: &[Arg]) -> Command {
    let usage = Command::new("usage").about("Show logical, unique and stored bytes, in all and by bucket");
    let scrub = Command::new("scrub").about("Show how the scrub stands, and what is damaged, by object");
    let health = Command::new("health").about("Succeed if the gateway is ready for requests");
    let status = Command::new("status").about("Show how collection stands, what is left to do, and what is stuck");
    let resume = Command::new("resume").about("Let collection go on that was stopped, after `cairn check`");
    let gc = Command::new("gc")
        .about("Collection of deleted data")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(status.args(asking).arg(json()))
        .subcommand(resume.args(asking));
    Command::new("admin")
        .about("Ask a running gateway")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(usage.args(asking).arg(json()))
        .subcommand(scrub.args(asking).arg(json()))
        .subcommand(gc)
        .subcommand(health.args(asking))
}

/// The flags of the settings that have one.
fn setting_flags() -> Vec<Arg> {
    let flag = |setting: &Setting| {
        let flag = setting.flag?;
        let argument = Arg::new(flag)
            .long(flag)
            .help(setting.meaning)
            .value_name(value_name(setting.kind));
        Some(argument.action(if setting.kind == Kind::List {
            ArgAction::Append
        } else {
            ArgAction::Set
        }))
    };
    config::settings().filter_map(flag).collect()
}

fn check_command() -> Command {
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("check")
        .about("Check that everything stored fits together; exit code 0: sound, 1: not sound, 2: could not be checked")
        .arg(switch("read-data", "read every byte as well"))
        .arg(switch(
            "repair",
            "first make lost chunk rows and counters anew; for a gateway that is stopped",
        ))
        .arg(
            switch(
                "restore",
                "check the backup instead: restore its metadata beside the store, and read a sample of the objects",
            )
            .conflicts_with_all(["read-data", "repair"]),
        )
}

fn store_command(asking: &[Arg]) -> Command {
    let to = Arg::new("to")
        .value_name("PLACE")
        .value_parser(["cloud", "local"])
        .help("move all packs into the cloud, or into the data directory; without it, show how the move stands");
    let migrate = Command::new("migrate").about("Move all packs into the cloud or back, while they are used");
    Command::new("store")
        .about("Change where a running gateway keeps its data")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(migrate.arg(to).args(asking).arg(json()))
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Path => "PATH",
        Kind::Address => "ADDR:PORT",
        Kind::List => "NAME",
        _ => "VALUE",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
