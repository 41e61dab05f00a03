use crate::config::Config;

use super::{AccessKey, Identities, IdentitiesError, ROOT_CANONICAL_ID, Secret};

use proptest::prelude::{Just, any, prop_oneof, proptest};

fn root() -> AccessKey {
    AccessKey {
        access: "ROOTKEY".to_owned(),
        secret: Secret::new("root-secret-key"),
    }
}

fn error(text: &str) -> String {
    Identities::parse(text, root()).unwrap_err().to_string()
}

const ALICE: &str = r#"
[[identity]]
name = "alice"
canonical_id = "a11ce"
email = "alice@example.com"
access_key = "ALICE1"
secret_key = "alice-secret-1"
keys = [{ access_key = "ALICE2", secret_key = "alice-secret-2" }]
"#;

#[test]
fn a_file_gives_identities_beside_root() {
    let identities = Identities::parse(ALICE, root()).unwrap();
    let (alice, secret) = identities.by_access_key("ALICE2").unwrap();
    assert_eq!((alice.name.as_str(), alice.is_root), ("alice", false));
    assert_eq!(secret.expose(), "alice-secret-2");
    assert_eq!(identities.by_access_key("ALICE1").unwrap().0, alice);
    let (root, _) = identities.by_access_key("ROOTKEY").unwrap();
    assert!(root.is_root);
    assert_eq!(root.canonical_id, ROOT_CANONICAL_ID);
    assert_eq!(identities.display_name("a11ce"), "alice");
    assert_eq!(identities.display_name("gone"), "gone");
    assert!(identities.by_access_key("alice1").is_none());
}

#[test]
fn a_secret_is_never_shown() {
    let identities = Identities::parse(ALICE, root()).unwrap();
    assert!(!format!("{identities:?}").contains("alice-secret"));
    for broken in [
        "[[identity]]\nsecret_key = \"hush-hush",
        "[[identity]]\nsecret_key = hush-hush",
        "[[identity]]\nkeys = \"hush-hush\"",
        "[[identity]]\nname = \"x\"\ncanonical_id = \"x\"\nsecret_key = [\"hush-hush\"]",
        "identity = \"hush-hush\"",
    ] {
        let message = error(broken);
        assert!(!message.contains("hush"), "{message}");
    }
}

#[test]
fn mistakes_are_told_by_line_and_name() {
    let unknown = error("[[identity]]\nname = \"a\"\ncanonical_id = \"a\"\nacess_key = \"x\"\n");
    assert!(unknown.contains("line 4") && unknown.contains("acess_key"), "{unknown}");
    assert!(error("[[identity]]\nname = \"a\"\n").contains("missing field"));
    assert!(error("[[identity]]\nname = 7\n").contains("expected a string"));
    let half = "[[identity]]\nname = \"a\"\ncanonical_id = \"a\"\naccess_key = \"AAA\"\n";
    assert!(error(half).contains("belong together"));
    let none = "[[identity]]\nname = \"a\"\ncanonical_id = \"a\"\n";
    assert!(error(none).contains("no key"));
    let slash = "[[identity]]\nname = \"a\"\ncanonical_id = \"a\"\naccess_key = \"A/A\"\nsecret_key = \"12345678\"\n";
    assert!(error(slash).contains("access key"));
    let short = "[[identity]]\nname = \"a\"\ncanonical_id = \"a\"\naccess_key = \"AAA\"\nsecret_key = \"1234567\"\n";
    assert!(error(short).contains("secret key"));
}

#[test]
fn nothing_is_given_out_twice() {
    let same_everything = format!("{ALICE}{ALICE}");
    assert!(error(&same_everything).contains("same name"));
    let other = |name: &str, id: &str, key: &str| {
        format!(
            "{ALICE}[[identity]]\nname = \"{name}\"\ncanonical_id = \"{id}\"\naccess_key = \"{key}\"\n\
             secret_key = \"another-one\"\n"
        )
    };
    assert!(error(&other("bob", "a11ce", "BOB")).contains("same canonical_id"));
    assert!(error(&other("bob", "b0b", "ALICE2")).contains("same access key"));
    assert!(error(&other("bob", "b0b", "ROOTKEY")).contains("same access key"));
    assert!(error(&other("root", "b0b", "BOB")).contains("same name"));
    assert!(Identities::parse(&other("bob", "b0b", "BOB"), root()).is_ok());
}

#[test]
fn a_missing_or_huge_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identities.toml");
    assert!(matches!(
        Identities::load(&path, root()),
        Err(IdentitiesError::Read { .. })
    ));
    std::fs::write(&path, vec![b'#'; crate::limits::IDENTITIES_FILE_BYTES_MAX + 1]).unwrap();
    assert!(matches!(
        Identities::load(&path, root()),
        Err(IdentitiesError::TooLarge)
    ));
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(Identities::load(&path, root()), Err(IdentitiesError::NotText)));
    std::fs::write(&path, ALICE).unwrap();
    assert!(Identities::load(&path, root()).is_ok());
}

/// The blocks of `text` that say they are TOML.
fn toml_blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or(rest))
}

#[test]
fn the_readme_s_examples_are_accepted() {
    let mut users = 0;
    for block in toml_blocks(include_str!("../../README.md")) {
        if block.contains("[[identity]]") {
            Identities::parse(block, root()).unwrap_or_else(|error| panic!("{error} in\n{block}"));
            users += 1;
        } else {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), block).unwrap();
            Config::load_from(Some(file.path()), std::iter::empty(), Default::default())
                .unwrap_or_else(|error| panic!("{error} in\n{block}"));
        }
    }
    assert!(users > 0);
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused(lines in proptest::collection::vec(prop_oneof![
        Just("[[identity]]".to_owned()), Just("name = \"a\"".to_owned()), Just("canonical_id = \"b\"".to_owned()),
        Just("access_key = \"AAA\"".to_owned()), Just("secret_key = \"12345678\"".to_owned()),
        Just("keys = [{ access_key = \"BBB\", secret_key = \"12345678\" }]".to_owned()), any::<String>(),
    ], 0..12)) {
        let _ = Identities::parse(&lines.join("\n"), root());
    }
}
