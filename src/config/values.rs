//! Settings as text, each with its origin: the merge of the four sources, and the checks of single values.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::nearest;
use super::location::{BlobLocation, Part};
use super::table::{LocationKeys, settings};
use super::{ConfigError, FILE_VARIABLE, Kind, Origin, Setting, VARIABLE_PREFIX, units};

/// Every setting of the table: its text, already checked by its kind, and where it came from.
pub struct Values(BTreeMap<&'static str, (String, Origin)>);

impl Values {
    pub(super) fn resolve(
        file: Option<&Path>,
        environment: impl Iterator<Item = (OsString, OsString)>,
        flags: BTreeMap<&'static str, String>,
    ) -> Result<Self, ConfigError> {
        let mut values: BTreeMap<_, _> = settings()
            .map(|setting| (setting.key, (setting.default.to_owned(), Origin::Default)))
            .collect();
        let (variables, file_variable) = read_environment(environment)?;
        if let Some(path) = file.map(Path::to_path_buf).or(file_variable) {
            for (key, text) in read_file(&path)? {
                values.insert(key, (text, Origin::File(path.clone())));
            }
        }
        for (setting, text) in variables {
            values.insert(setting.key, (text, Origin::Variable(setting.variable())));
        }
        for (flag, text) in flags {
            if let Some(setting) = settings().find(|setting| setting.flag == Some(flag)) {
                values.insert(setting.key, (text, Origin::Flag(flag)));
            }
        }
        for setting in settings() {
            if let Some((text, origin)) = values.get(setting.key) {
                check(setting, text).map_err(|message| ConfigError::Value {
                    key: setting.key,
                    origin: origin.clone(),
                    message,
                })?;
            }
        }
        Ok(Self(values))
    }

    /// The text of a setting; `None` when it is not set.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.0
            .get(key)
            .map(|(text, _)| text.clone())
            .filter(|text| !text.is_empty())
    }

    pub(super) fn is(&self, key: &str, value: &str) -> bool {
        self.0.get(key).is_some_and(|(text, _)| text == value)
    }

    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    pub(super) fn switch(&self, key: &str) -> bool {
        self.is(key, "true")
    }

    pub(super) fn list(&self, key: &str) -> Vec<String> {
        split_list(&self.text(key).unwrap_or_default())
    }

    pub(super) fn address(&self, key: &'static str) -> Result<SocketAddr, ConfigError> {
        self.typed(key, parse_address)
    }

    pub(super) fn size(&self, key: &'static str) -> Result<usize, ConfigError> {
        self.typed(key, |text| {
            usize::try_from(units::parse_size(text)?).map_err(|error| error.to_string())
        })
    }

    pub(super) fn duration(&self, key: &'static str) -> Result<Duration, ConfigError> {
        self.typed(key, units::parse_duration)
    }

    pub(super) fn count(&self, key: &'static str) -> Result<usize, ConfigError> {
        self.typed(key, |text| {
            text.parse().map_err(|_| format!("'{text}' is not a whole number"))
        })
    }

    /// The place that a group of settings tells; `None` when its URL is not set, and then no other of them may be.
    pub(super) fn location(&self, keys: &LocationKeys) -> Result<Option<BlobLocation>, ConfigError> {
        let text = |key: &str| self.text(key).unwrap_or_default();
        let refused = |key: &'static str, message: String| {
            let origin = self.0.get(key).map_or(Origin::Default, |(_, origin)| origin.clone());
            ConfigError::Value { key, origin, message }
        };
        if self.text(keys.url).is_none() {
            let lonely = [keys.endpoint, keys.access_key, keys.secret_key]
                .into_iter()
                .find(|key| self.text(key).is_some());
            return lonely.map_or(Ok(None), |key| {
                Err(refused(key, format!("is of no use without {}", keys.url)))
            });
        }
        BlobLocation::parse(
            &text(keys.url),
            &text(keys.endpoint),
            &text(keys.region),
            &text(keys.access_key),
            &text(keys.secret_key),
        )
        .map(Some)
        .map_err(|unusable| {
            let key = match unusable.part {
                Part::Url => keys.url,
                Part::Endpoint => keys.endpoint,
                Part::AccessKey => keys.access_key,
                Part::SecretKey => keys.secret_key,
            };
            refused(key, unusable.message)
        })
    }

    fn typed<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let (text, origin) = self.0.get(key).cloned().unwrap_or((String::new(), Origin::Default));
        parse(&text).map_err(|message| ConfigError::Value { key, origin, message })
    }

    /// The effective configuration as a TOML file, each line with the origin of its value; secrets are not shown.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut table = "";
        for setting in settings() {
            let (prefix, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
            if prefix != table {
                table = prefix;
                let _ = write!(out, "\n[{table}]\n");
            }
            let Some((text, origin)) = self.0.get(setting.key) else {
                continue;
            };
            let (comment, value) = shown(setting, text);
            let line = format!("{comment}{name} = {value}");
            let _ = writeln!(out, "{line:<44} # {origin}");
        }
        out
    }
}

/// The value as TOML, and what comes before the line: a setting that is not set is a comment.
fn shown(setting: &Setting, text: &str) -> (&'static str, String) {
    match setting.kind {
        Kind::Secret if !text.is_empty() => ("# ", "\"(hidden)\"".to_owned()),
        Kind::List => ("", toml::Value::from(split_list(text)).to_string()),
        _ if text.is_empty() => ("# ", "\"\"".to_owned()),
        Kind::Count { .. } | Kind::Switch => ("", text.to_owned()),
        _ => ("", toml::Value::from(text).to_string()),
    }
}

fn split_list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

type Variables = Vec<(&'static Setting, String)>;

/// The settings that the environment sets, and the configuration file that it names.
fn read_environment(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Variables, Option<PathBuf>), ConfigError> {
    let mut found = Vec::new();
    let mut file = None;
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else {
            continue;
        };
        if name == FILE_VARIABLE {
            file = Some(PathBuf::from(value));
            continue;
        }
        let Some(setting) = settings().find(|setting| setting.variable() == name) else {
            let known = settings().map(Setting::variable).chain([FILE_VARIABLE.to_owned()]);
            return Err(ConfigError::UnknownVariable {
                name: name.to_owned(),
                nearest: nearest(name, known),
            });
        };
        let value = value
            .into_string()
            .map_err(|_| ConfigError::NotUtf8 { name: name.to_owned() })?;
        found.push((setting, value));
    }
    Ok((found, file))
}

fn read_file(path: &Path) -> Result<Vec<(&'static str, String)>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    let document: toml::Table = toml::from_str(&text).map_err(|error| ConfigError::Malformed {
        path: path.to_path_buf(),
        message: error.message().to_owned(),
    })?;
    let mut entries = Vec::new();
    flatten("", document, &mut entries);
    entries
        .into_iter()
        .map(|(key, value)| {
            let Some(setting) = settings().find(|setting| setting.key == key) else {
                let known = settings().map(|setting| setting.key.to_owned());
                let nearest = nearest(&key, known);
                return Err(ConfigError::UnknownKey {
                    key,
                    path: path.to_path_buf(),
                    nearest,
                });
            };
            let value = value_text(setting, value).map_err(|message| ConfigError::Value {
                key: setting.key,
                origin: Origin::File(path.to_path_buf()),
                message,
            })?;
            Ok((setting.key, value))
        })
        .collect()
}

fn flatten(prefix: &str, table: toml::Table, entries: &mut Vec<(String, toml::Value)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, entries),
            value => entries.push((key, value)),
        }
    }
}

fn value_text(setting: &Setting, value: toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(switch) => Ok(switch.to_string()),
        toml::Value::Array(items) if setting.kind == Kind::List => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts
                .map(|texts| texts.join(","))
                .ok_or_else(|| "must be an array of strings".to_owned())
        }
        other => Err(format!("a {} cannot stand here", other.type_str())),
    }
}

fn check(setting: &Setting, text: &str) -> Result<(), String> {
    match setting.kind {
        // Where nothing is a choice, the default is nothing.
        Kind::Text | Kind::Path if text.is_empty() && !setting.default.is_empty() => {
            Err("must not be empty".to_owned())
        }
        Kind::Text | Kind::Path | Kind::Secret | Kind::List => Ok(()),
        Kind::Address => parse_address(text).map(drop),
        Kind::Size { min, max } => {
            let bytes = units::parse_size(text)?;
            in_range(
                bytes,
                min,
                max,
                &format!("must be between {}MiB and {}MiB", min >> 20, max >> 20),
            )
        }
        Kind::Duration { min_ms, max_ms } => {
            let ms = u64::try_from(units::parse_duration(text)?.as_millis()).unwrap_or(u64::MAX);
            in_range(
                ms,
                min_ms,
                max_ms,
                &format!("must be between {min_ms}ms and {}s", max_ms / 1000),
            )
        }
        Kind::Count { min, max } => {
            let number = text.parse().map_err(|_| format!("'{text}' is not a whole number"))?;
            in_range(number, min, max, &format!("must be between {min} and {max}"))
        }
        Kind::Switch => one_of(text, &["true", "false"]),
        Kind::Choice(choices) => one_of(text, choices),
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is not ADDRESS:PORT, as in 127.0.0.1:9000 or [::1]:9000"))
}

fn in_range(value: u64, min: u64, max: u64, message: &str) -> Result<(), String> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(message.to_owned())
    }
}

fn one_of(text: &str, choices: &[&str]) -> Result<(), String> {
    if choices.contains(&text) {
        return Ok(());
    }
    let hint = nearest(text, choices.iter().map(|choice| (*choice).to_owned()));
    let hint = hint
        .map(|choice| format!("; did you mean '{choice}'?"))
        .unwrap_or_default();
    Err(format!("'{text}' is not one of {}{hint}", choices.join(", ")))
}
