use super::*;

type Pairs = Vec<(OsString, OsString)>;

fn environment(pairs: &[(&str, &str)]) -> Pairs {
    pairs
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect()
}

fn load(
    file: Option<&str>,
    variables: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<(Config, Values), ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = file.map(|text| {
        let path = dir.path().join("cairn.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let flags = flags.iter().map(|(flag, value)| (*flag, (*value).to_owned())).collect();
    Config::load_from(path.as_deref(), environment(variables).into_iter(), flags)
}

fn refusal(file: Option<&str>, variables: &[(&str, &str)]) -> String {
    load(file, variables, &[])
        .err()
        .expect("a refused configuration")
        .to_string()
}

#[test]
fn later_sources_win() {
    let file = "listen = '127.0.0.1:1'\nregion = 'file'\n[limits]\nconnections = 7\n";
    let variables = [
        ("CAIRN_LISTEN", "127.0.0.1:2"),
        ("CAIRN_DATA", "/env"),
        ("HOME", "/root"),
    ];
    let (config, values) = load(Some(file), &variables, &[("listen", "127.0.0.1:3")]).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.region, "file");
    assert_eq!(config.data, Path::new("/env"));
    assert_eq!(config.limits.connections, 7);
    let shown = values.to_toml();
    for (setting, origin) in [
        ("listen = \"127.0.0.1:3\"", "# --listen"),
        ("data = \"/env\"", "# CAIRN_DATA"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(setting)).unwrap();
        assert!(line.ends_with(origin), "{line}");
    }
    assert!(shown.contains("requests = 512") && shown.contains("# default"));
}

#[test]
fn what_config_prints_can_be_loaded_again() {
    let (_, values) = load(None, &[("CAIRN_DOMAIN", "s3.example.com, s3.local")], &[]).unwrap();
    let (config, _) = load(Some(&values.to_toml()), &[], &[]).unwrap();
    assert_eq!(config.domains, ["s3.example.com", "s3.local"]);
    let odd = "\u{1}\n\"'\\\u{7f}";
    let (_, values) = load(None, &[("CAIRN_REGION", odd)], &[]).unwrap();
    let (config, _) = load(Some(&values.to_toml()), &[], &[]).unwrap();
    assert_eq!(config.region, odd);
}

#[test]
fn unknown_names_are_refused_with_the_nearest_right_one() {
    let message = refusal(Some("[limits]\nconections = 5\n"), &[]);
    assert!(
        message.contains("'limits.conections'") && message.contains("'limits.connections'"),
        "{message}"
    );
    let message = refusal(None, &[("CAIRN_LISTN", "x")]);
    assert!(
        message.contains("CAIRN_LISTN") && message.contains("'CAIRN_LISTEN'"),
        "{message}"
    );
    assert!(refusal(None, &[("CAIRN_ZZZZQQQQXX", "x")]).contains("cairn config"));
    assert!(refusal(None, &[("CAIRN_LOG_LEVEL", "wran")]).contains("did you mean 'warn'"));
}

#[test]
fn wrong_values_are_refused_with_their_origin() {
    let message = refusal(None, &[("CAIRN_LIMITS_BODY_TIMEOUT", "30")]);
    assert!(
        message.contains("limits.body_timeout (from CAIRN_LIMITS_BODY_TIMEOUT)"),
        "{message}"
    );
    for (name, value) in [
        ("CAIRN_LISTEN", "localhost"),
        ("CAIRN_STORAGE_BUFFERS", "1KiB"),
        ("CAIRN_LIMITS_CONNECTIONS", "0"),
        ("CAIRN_ADMIN_EXPOSED", "yes"),
        ("CAIRN_REGION", ""),
        ("CAIRN_TLS_CERT", "/only/one"),
        ("CAIRN_ROOT_ACCESS_KEY", "alone"),
        ("CAIRN_ADMIN_LISTEN", "0.0.0.0:9001"),
    ] {
        assert!(load(None, &[(name, value)], &[]).is_err(), "{name}={value}");
    }
    assert!(refusal(Some("listen = ["), &[]).contains("not TOML"));
    assert!(refusal(Some("listen = 1.5"), &[]).contains("cannot stand here"));
    assert!(
        load(
            None,
            &[("CAIRN_ADMIN_LISTEN", "0.0.0.0:9001"), ("CAIRN_ADMIN_EXPOSED", "true")],
            &[]
        )
        .is_ok()
    );
}

#[test]
fn secrets_are_never_shown() {
    let keys = [
        ("CAIRN_ROOT_ACCESS_KEY", "AK"),
        ("CAIRN_ROOT_SECRET_KEY", "hunter2hunter2"),
    ];
    let (config, values) = load(None, &keys, &[]).unwrap();
    assert!(!values.to_toml().contains("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn readme_shows_this_table() {
    let readme = include_str!("../../README.md");
    let shown = readme
        .split_once("<!-- config:begin -->\n")
        .and_then(|(_, rest)| rest.split_once("<!-- config:end -->"));
    assert_eq!(
        shown.map(|(table, _)| table),
        Some(markdown().as_str()),
        "paste the output of `cairn config --docs`"
    );
}
