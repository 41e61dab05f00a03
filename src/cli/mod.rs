//! The command line. Flags of settings are made from the table in `config`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{self, Config, ConfigError, Kind, Setting, Values};
use crate::server;

pub(crate) mod admin;
mod check;

/// Why a command failed, as its user reads it.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
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
        Some(("check", matches)) => {
            let request = server::CheckRequest {
                read_data: matches.get_flag("read-data"),
                repair: matches.get_flag("repair"),
            };
            return Ok(check::run(load(matches), request, matches.get_flag("json")));
        }
        Some(("store", matches)) => {
            let Some(("migrate", matches)) = matches.subcommand() else {
                return Ok(ExitCode::FAILURE);
            };
            let (config, _) = load(matches)?;
            let to = matches.get_one::<String>("to").map(String::as_str);
            let report = admin::migrate(config.admin_listen, to, matches.get_flag("json"))?;
            println!("{}", report.trim_end());
        }
        Some(("admin", matches)) => {
            let Some((name, matches)) = matches.subcommand() else {
                return Ok(ExitCode::FAILURE);
            };
            let (config, _) = load(matches)?;
            let report = match name {
                "usage" => admin::usage(config.admin_listen, matches.get_flag("json"))?,
                "scrub" => admin::scrub(config.admin_listen, matches.get_flag("json"))?,
                _ => admin::health(config.admin_listen)?,
            };
            println!("{}", report.trim_end());
        }
        _ => return Ok(ExitCode::FAILURE),
    }
    Ok(ExitCode::SUCCESS)
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
    let admin_listen: Vec<Arg> = settings
        .iter()
        .filter(|argument| argument.get_id() == "admin-listen")
        .cloned()
        .collect();
    let json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("print JSON");
    let docs = Arg::new("docs")
        .long("docs")
        .action(ArgAction::SetTrue)
        .help("print the table of settings as Markdown instead");
    let usage = Command::new("usage").about("Show logical, unique and stored bytes, in all and by bucket");
    let scrub = Command::new("scrub").about("Show how the scrub stands, and what is damaged, by object");
    let health = Command::new("health").about("Succeed if the gateway is ready for requests");
    let with_admin = |command: Command| command.arg(file.clone()).args(admin_listen.clone());
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
        .subcommand(
            check_command()
                .arg(file.clone())
                .args(settings.clone())
                .arg(json.clone()),
        )
        .subcommand(
            Command::new("store")
                .about("Change where a running gateway keeps its data")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(with_admin(migrate_command()).arg(json.clone())),
        )
        .subcommand(Command::new("version").about("Show the version"))
        .subcommand(
            Command::new("admin")
                .about("Ask a running gateway")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(with_admin(usage).arg(json.clone()))
                .subcommand(with_admin(scrub).arg(json))
                .subcommand(with_admin(health)),
        )
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
}

fn migrate_command() -> Command {
    let to = Arg::new("to")
        .value_name("PLACE")
        .value_parser(["cloud", "local"])
        .help("move all packs into the cloud, or into the data directory; without it, show how the move stands");
    Command::new("migrate")
        .about("Move all packs into the cloud or back, while they are used")
        .arg(to)
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
