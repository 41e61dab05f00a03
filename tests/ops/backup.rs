//! A machine that is lost under load, and the way back.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Gateway, command, exchange, read_to_close, signed_head};

/// What was acknowledged longer before the loss than this has to come back.
const BOUND: Duration = Duration::from_secs(5);
const WRITERS: u64 = 3;

/// Bytes that do not compress and follow from `seed`; every third is small enough for the metadata.
fn content(seed: u64) -> Vec<u8> {
    let length = if seed.is_multiple_of(3) {
        3_000
    } else {
        20_000 + (seed % 17) as usize * 30_000
    };
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// `None`: it was not acknowledged.
fn put(s3: &str, path: &str, body: &[u8]) -> Option<()> {
    let head = format!("Content-Length: {}\r\nConnection: close\r\n", body.len());
    let mut stream = std::net::TcpStream::connect(s3).ok()?;
    stream.write_all(signed_head("PUT", s3, path, &head).as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    read_to_close(&mut stream).starts_with("HTTP/1.1 200").then_some(())
}

/// The body of an object; `None`: there is none.
fn get(gateway: &Gateway, path: &str) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut stream = gateway.connect();
    let head = signed_head("GET", &gateway.s3, path, "Connection: close\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    if answer.starts_with(b"HTTP/1.1 404") {
        return None;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}");
    Some(answer.split_off(split))
}

fn cairn(data: &Path, url: &str, arguments: &[&str]) -> Output {
    let mut command = command(data);
    let program = command.get_program().to_owned();
    let variables: Vec<_> = command
        .env("CAIRN_BACKUP_URL", url)
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    Command::new(program).args(arguments).envs(variables).output().unwrap()
}

fn told(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(error))
}

fn status(gateway: &Gateway) -> serde_json::Value {
    let answer = gateway.admin_get("/v1/backup");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn wait_for(gateway: &Gateway, what: &str, is_there: impl Fn(&serde_json::Value) -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_there(&status(gateway)) {
        assert!(Instant::now() < until, "{what}: {}", status(gateway));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// When each object was acknowledged, written by several writers until the gateway is gone.
fn write_until_killed(mut gateway: Gateway, seconds: u64) -> (BTreeMap<u64, Instant>, u64, Instant) {
    let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
    let (next, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = |_| {
        let (acknowledged, next, is_over) = (Arc::clone(&acknowledged), Arc::clone(&next), Arc::clone(&is_over));
        let s3 = gateway.s3.clone();
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if put(&s3, &format!("/lost/{seed}"), &content(seed)).is_some() {
                    acknowledged.lock().unwrap().insert(seed, Instant::now());
                }
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(writer).collect();
    std::thread::sleep(Duration::from_secs(seconds));
    gateway.signal("-KILL");
    let killed = Instant::now();
    std::fs::remove_dir_all(&gateway.data).ok();
    gateway.wait_end(Duration::from_secs(20));
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    std::fs::remove_dir_all(&gateway.data).ok();
    assert!(!gateway.data.exists());
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    (acknowledged, next.load(Ordering::Relaxed), killed)
}

#[test]
fn what_was_acknowledged_five_seconds_before_a_machine_is_lost_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (data, url) = (
        dir.path().join("data"),
        format!("file://{}", dir.path().join("backup").display()),
    );
    let start = || {
        let mut command = command(&data);
        command.env("CAIRN_BACKUP_URL", &url);
        Gateway::spawn(command, data.clone())
    };
    let gateway = start();
    put(&gateway.s3, "/lost", b"").unwrap();
    wait_for(&gateway, "the backup begins", |status| {
        status["restorable_seq"].is_u64()
    });
    let (acknowledged, tried, killed) = write_until_killed(gateway, 8);
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());

    let restored = cairn(&data, &url, &["restore"]);
    assert!(restored.status.success(), "{}", told(&restored));
    let again = cairn(&data, &url, &["restore"]);
    assert!(told(&again).contains("is not empty"), "{}", told(&again));
    let gateway = start();
    let (mut old, mut young) = (0, 0);
    for seed in 0..tried {
        let found = get(&gateway, &format!("/lost/{seed}"));
        let is_old = acknowledged
            .get(&seed)
            .is_some_and(|at| killed.duration_since(*at) > BOUND);
        assert!(found.is_some() || !is_old, "object {seed} was acknowledged and is gone");
        assert!(
            found.is_none_or(|found| found == content(seed)),
            "object {seed} is another one"
        );
        old += u64::from(is_old);
        young += 1;
    }
    assert!(old > 5 && young > old, "{old} of {young}");

    // The restored store is backed up again, as another generation, and can be lost again.
    put(&gateway.s3, "/lost/after", b"after").unwrap();
    wait_for(&gateway, "the new generation", |status| {
        status["restorable_seq"].is_u64() && status["restorable_seq"] == status["durable_seq"]
    });
    assert!(
        gateway
            .admin_get("/metrics")
            .contains("cairn_backup_restorable_age_seconds")
    );
    let drill = cairn(&data, &url, &["check", "--restore", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&drill.stdout).unwrap();
    assert!(drill.status.success() && report["sound"] == true, "{}", told(&drill));
    assert!(report["objects"].as_u64().unwrap() > 10, "{report}");
    assert!(!data.join("restore-drill").exists());
    let shown = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(["backup", "status", "--admin-listen", &gateway.admin])
        .output()
        .unwrap();
    assert!(told(&shown).contains("state       following"), "{}", told(&shown));
    let mut gateway = gateway;
    gateway.signal("-TERM");
    assert!(gateway.wait_end(Duration::from_secs(20)).success());
    let check = cairn(&data, &url, &["check", "--read-data"]);
    assert!(check.status.success(), "{}", told(&check));
    lose_a_piece(&dir.path().join("backup"));
    let drill = cairn(&data, &url, &["check", "--restore"]);
    assert_eq!(drill.status.code(), Some(1), "{}", told(&drill));
    assert!(told(&drill).contains("WOULD NOT BE RESTORED"), "{}", told(&drill));
}

/// Removes the newest generation's pieces of packs.
fn lose_a_piece(backup: &Path) {
    let mut generations = Vec::new();
    for store in std::fs::read_dir(backup).unwrap().map(|entry| entry.unwrap().path()) {
        if store.file_name().unwrap().len() == 32 {
            generations.extend(std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    std::fs::remove_dir_all(generations.iter().max().unwrap().join("packs")).unwrap();
}

#[test]
fn a_half_restored_directory_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("restore-unfinished"), "").unwrap();
    for arguments in [&["serve"][..], &["check"]] {
        let refused = cairn(dir.path(), "", arguments);
        assert!(!refused.status.success());
        let text = told(&refused);
        assert!(
            text.contains("did not come to its end") || text.contains("holds no store"),
            "{text}"
        );
    }
    let nowhere = cairn(dir.path(), "", &["restore"]);
    assert!(told(&nowhere).contains("backup.url"), "{}", told(&nowhere));
}

#[test]
fn a_gateway_without_a_backup_says_so() {
    let gateway = Gateway::start(&[]);
    assert!(status(&gateway)["url"].is_null());
    let answer = exchange(
        &mut crate::support::connect(&gateway.admin),
        b"GET /health/ready HTTP/1.0\r\n\r\n",
    );
    assert!(answer.ends_with("ready\n"), "{answer}");
}
