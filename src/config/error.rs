//! Why a configuration was refused, in words that name the setting and where its value came from.

use std::path::PathBuf;

use super::Origin;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {path} is not TOML: {message}")]
    Malformed { path: PathBuf, message: String },
    #[error("unknown key '{key}' in {path}{}", did_you_mean(nearest))]
    UnknownKey {
        key: String,
        path: PathBuf,
        nearest: Option<String>,
    },
    #[error("unknown variable {name} in the environment{}", did_you_mean(nearest))]
    UnknownVariable { name: String, nearest: Option<String> },
    #[error("the value of {name} in the environment is not UTF-8")]
    NotUtf8 { name: String },
    #[error("{key} (from {origin}): {message}")]
    Value {
        key: &'static str,
        origin: Origin,
        message: String,
    },
    #[error("{0}")]
    Combination(&'static str),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean '{name}'? `cairn config` lists them all"),
        None => "; `cairn config` lists the known ones".to_owned(),
    }
}

/// Why a file that holds secrets is no TOML or not of its form. The parser's own message would quote the line, and with
/// it perhaps a secret; of its reason only the kinds that name a field or an expected type are passed on.
pub fn toml_reason(error: &toml::de::Error) -> String {
    let message = error.message();
    let names_a_field = ["unknown field", "missing field", "duplicate field", "duplicate key"]
        .iter()
        .any(|kind| message.starts_with(kind));
    if names_a_field {
        return message.lines().next().unwrap_or_default().to_owned();
    }
    match message
        .strip_prefix("invalid type")
        .and_then(|rest| rest.rsplit_once(", expected "))
    {
        Some((_, expected)) => format!("the value has the wrong type, expected {expected}"),
        None => "this is not valid TOML".to_owned(),
    }
}

/// The candidate most like `word`, if one is like it at all.
pub fn nearest(word: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, &candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
