//! A byte that flips on the disk under the running program.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Gateway, exchange, put, signed_head};

const BYTES: usize = 300_000;

/// Flips a byte in the middle of what every pack holds.
fn damage(packs: &Path) {
    for folder in std::fs::read_dir(packs).unwrap() {
        let Ok(files) = std::fs::read_dir(folder.unwrap().path()) else {
            continue;
        };
        for file in files {
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(file.unwrap().path())
                .unwrap();
            let mut byte = [0];
            let at = BYTES as u64 / 2;
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    }
}

/// Bytes that do not compress.
fn noise() -> Vec<u8> {
    let mut random = 7u64;
    let next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 56) as u8
    };
    std::iter::repeat_with(next).take(BYTES).collect()
}

fn scrub(gateway: &Gateway) -> serde_json::Value {
    let answer = gateway.admin_get("/v1/scrub");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Waits for a pass that began after this call.
fn next_pass(gateway: &Gateway) -> serde_json::Value {
    let before = scrub(gateway)["finished"].clone();
    let until = Instant::now() + Duration::from_secs(20);
    let mut other = 0;
    loop {
        let now = scrub(gateway);
        if now["finished"] != before && now["running"] == false {
            other += 1;
        }
        if other == 2 {
            return now;
        }
        assert!(Instant::now() < until, "no pass came: {now}");
        std::thread::sleep(Duration::from_millis(1100));
    }
}

#[test]
fn the_scrub_tells_the_object_that_a_flipped_byte_hits_and_an_upload_heals_it() {
    let gateway = Gateway::start(&[
        ("CAIRN_STORAGE_SCRUB_INTERVAL", "1s"),
        ("CAIRN_STORAGE_COMPRESSION", "off"),
    ]);
    let body = noise();
    put(&gateway, "/photos", b"");
    put(&gateway, "/photos/2026/cat.raw", &body);
    assert_eq!(next_pass(&gateway)["damaged"], 0);

    damage(&gateway.data.join("packs"));
    let line = gateway.wait_for_log("an object is damaged");
    assert!(line.contains("photos") && line.contains("2026/cat.raw"), "{line}");
    let found = next_pass(&gateway);
    assert_eq!(found["damaged"], 1);
    assert_eq!(found["damage"][0]["objects"][0]["key"], "2026/cat.raw");
    let told = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(["admin", "scrub", "--admin-listen", &gateway.admin])
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("  s3://photos/2026/cat.raw\n") && told.contains("damaged   1\n"),
        "{told}"
    );
    let get = || {
        let head = signed_head("GET", &gateway.s3, "/photos/2026/cat.raw", "Connection: close\r\n");
        exchange(&mut gateway.connect(), head.as_bytes())
    };
    assert!(get().starts_with("HTTP/1.1 500"));

    let (code, told) = check(&gateway, &["--read-data"]);
    assert_eq!(code, 1, "{told}");
    assert!(
        told.contains("s3://photos/2026/cat.raw") && told.contains("NOT SOUND"),
        "{told}"
    );

    put(&gateway, "/photos/copy", &body);
    let answer = get();
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "{}",
        &answer[..200.min(answer.len())]
    );
    assert_eq!(next_pass(&gateway)["damaged"], 0);
    assert_eq!(check(&gateway, &["--read-data"]).0, 0);
}

#[test]
fn a_stopped_store_is_checked() {
    let mut gateway = Gateway::start(&[]);
    put(&gateway, "/stopped", b"");
    put(&gateway, "/stopped/large", &noise());
    put(&gateway, "/stopped/small", b"small");
    gateway.signal("-TERM");
    assert!(gateway.wait_end(Duration::from_secs(20)).success());
    let (code, told) = check(&gateway, &["--read-data", "--repair", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &report["sound"]), (0, &serde_json::json!(true)), "{told}");
    assert_eq!(
        (&report["objects"], &report["bodies"]),
        (&serde_json::json!(2), &serde_json::json!(1))
    );
    assert_eq!(report["repaired"], serde_json::json!({"chunks": 0, "counters": 0}));
    damage(&gateway.data.join("packs"));
    let (code, told) = check(&gateway, &["--read-data"]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("s3://stopped/large"), "{told}");
}

#[test]
fn a_check_that_cannot_be_made_says_nothing_of_the_store() {
    let (mut asked, other) = (Gateway::start(&[]), Gateway::start(&[]));
    assert_eq!(check(&asked, &[]).0, 0);
    assert_eq!(check(&asked, &["--listen", "nonsense"]).0, 2);
    assert!(asked.admin_get("/v1/check?read-data").starts_with("HTTP/1.0 400"));
    // The other gateway's store is sound, and not the one that is meant.
    asked.admin.clone_from(&other.admin);
    assert_eq!(check(&asked, &[]), (2, String::new()));
    let empty = tempfile::tempdir().unwrap();
    asked.data = empty.path().to_path_buf();
    assert_eq!(check(&asked, &[]).0, 2);
}

/// The exit code of `cairn check` and what it prints.
fn check(gateway: &Gateway, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(["check", "--data"])
        .arg(&gateway.data)
        .args(["--admin-listen", &gateway.admin])
        .args(arguments)
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}
