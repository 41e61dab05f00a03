use std::path::Path;

use crate::source::Source;
use crate::{layers, shape};

fn source(path: &str, text: &str) -> Source {
    Source::parse(path, text.to_owned()).unwrap()
}

/// The messages for one file, the layers' included.
fn messages(path: &str, text: &str) -> String {
    let parsed = source(path, text);
    let mut findings = shape::check(&parsed);
    findings.extend(layers::check(&[parsed]));
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn bad(path: &str, text: &str, part: &str) {
    let found = messages(path, text);
    assert!(found.contains(part), "expected '{part}' in '{found}'");
}

#[track_caller]
fn good(path: &str, text: &str) {
    assert_eq!(messages(path, text), "");
}

#[test]
fn the_repository_is_tidy() {
    // Cargo runs tests in their package's folder; a path that is compiled in would be that of another checkout.
    let root = Path::new("../..");
    let findings = crate::check(root).unwrap();
    let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "\n{}\n{} findings", text.join("\n"), text.len());
}

#[test]
fn long_files_and_functions() {
    bad(
        "src/ids.rs",
        &"//\n".repeat(501),
        "src/ids.rs:501: the file has 501 lines",
    );
    good("src/ids.rs", &"//\n".repeat(500));
    let function = |lines: usize| {
        format!(
            "struct A;\nimpl A {{\nfn f() {{\n{}}}\n}}\n",
            "a();\n".repeat(lines - 2)
        )
    };
    bad("src/ids.rs", &function(71), "src/ids.rs:3: function 'f' has 71 lines");
    good("src/ids.rs", &function(70));
}

#[test]
fn imports_go_down() {
    bad(
        "src/kv/mod.rs",
        "use crate::meta::Key;",
        "'kv' may not import from 'meta'",
    );
    bad(
        "src/meta/key.rs",
        "fn f() { crate::object::get() }",
        "'meta' may not import from 'object'",
    );
    bad(
        "src/kv/a.rs",
        "use super::super::chunk::Pack;",
        "'kv' may not import from 'chunk'",
    );
    bad(
        "src/kv/a.rs",
        "fn f() { g!(a, crate::s3::X) }",
        "'kv' may not import from 's3'",
    );
    bad(
        "src/blob/a.rs",
        "use crate::{ids, kv::Kv};",
        "'blob' may not import from 'kv'",
    );
    bad("src/misc.rs", "", "module 'misc' has no layer");
    good(
        "src/object/put.rs",
        "use crate::iam::Grant; use super::types; use crate::kv::Kv;",
    );
    bad(
        "src/iam/mod.rs",
        "use crate::object::Objects;",
        "'iam' may not import from 'object'",
    );
    good("src/kv/a.rs", "use crate::{ids, blob::Local};");
    good("src/kv/mod.rs", "#[cfg(test)] mod tests { use crate::meta::Key; }");
    good("src/main.rs", "use cairn::cli; fn main() {}");
}

#[test]
fn no_circles() {
    let sources = [
        source("src/ids.rs", "use crate::clock::Clock;"),
        source("src/clock.rs", "use crate::ids::Id;"),
    ];
    let found: Vec<String> = layers::check(&sources).iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|message| message.contains("leads back")));
}

#[test]
fn globs() {
    bad("src/ids.rs", "use std::io::*;", "src/ids.rs:1: glob import");
    bad("src/ids.rs", "use super::*;", "glob import");
    good(
        "src/ids.rs",
        "#[cfg(test)]\nmod tests { use super::*; use proptest::prelude::*; }",
    );
    bad(
        "src/ids.rs",
        "#[cfg(test)]\nmod tests { use std::io::*; }",
        "glob import",
    );
}

#[test]
fn statics() {
    bad("src/ids.rs", "static mut A: u8 = 0;", "global static 'A'");
    bad(
        "src/ids.rs",
        "fn f() { static A: std::sync::OnceLock<u8> = std::sync::OnceLock::new(); }",
        "global static 'A'",
    );
    bad("src/ids.rs", "lazy_static! { static ref A: u8 = 0; }", "lazy_static!");
    bad("src/ids.rs", "thread_local! { static A: u8 = 0; }", "thread_local!");
    good(
        "src/main.rs",
        "#[global_allocator]\nstatic A: M = M;\nfn f(a: &'static str) {}",
    );
}

#[test]
fn engines_the_clock_and_the_environment_at_home() {
    bad("src/object/put.rs", "fn f(a: s3s::Body) {}", "s3s stays");
    bad("src/object/put.rs", "use s3s::{dto, Body};", "s3s stays");
    good("src/s3/put.rs", "use s3s::dto;");
    bad("src/kv/memory.rs", "use rocksdb::DB;", "rocksdb stays");
    good("src/kv/rocks/mod.rs", "use rocksdb::DB;");
    bad(
        "src/meta/key.rs",
        "fn f() { std::time::SystemTime::now(); }",
        "only clock.rs",
    );
    bad(
        "src/meta/key.rs",
        "fn f() { OffsetDateTime::now_utc(); }",
        "only clock.rs",
    );
    good("src/clock.rs", "fn f() { SystemTime::now(); Instant::now(); }");
    bad("src/server.rs", "fn f() { std::env::var(\"A\"); }", "only config");
    bad("src/server.rs", "use std::env;", "only config");
    bad("src/server.rs", "fn f() { env::var(\"A\"); }", "only config");
    good("src/config.rs", "use std::env; fn f() { env::var(\"A\"); }");
    good("tools/load/src/a.rs", "fn f() { std::time::SystemTime::now(); }");
}

#[test]
fn unfinished_work() {
    for name in ["todo", "unimplemented", "dbg"] {
        bad("src/ids.rs", &format!("fn f() {{ {name}!() }}"), "not finished work");
    }
    bad("src/ids.rs", concat!("/", "/ TO", "DO: later"), "no notes");
    bad("src/ids.rs", concat!("/", "// FIX", "ME later\nstruct A;"), "no notes");
    bad(
        "src/ids.rs",
        "#[test]\n#[ignore]\nfn f() {}",
        "src/ids.rs:2: an ignored test",
    );
    bad("src/ids.rs", "fn f() { assert!(true) }", "cannot fail");
}

#[test]
fn silence_and_unsafety_are_explained() {
    bad(
        "src/ids.rs",
        "#[allow(dead_code)]\nfn f() {}",
        "silenced without a reason",
    );
    good(
        "src/ids.rs",
        "#[allow(dead_code, reason = \"kept for the linker\")]\nfn f() {}",
    );
    good("src/ids.rs", "// kept for the linker\n#[allow(dead_code)]\nfn f() {}");
    bad("src/ids.rs", "fn f() { unsafe { g() } }", "unsafe without");
    bad("src/ids.rs", "unsafe impl Send for A {}", "unsafe without");
    good(
        "src/ids.rs",
        "fn f() {\n // SAFETY: g takes anything.\n unsafe { g() }\n}",
    );
}
