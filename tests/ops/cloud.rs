//! A gateway whose packs are in a bucket of a second gateway, and both of them killed; one whose machine and bucket are lost.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::blobs::make_bucket;
use crate::support::{ACCESS_KEY, Gateway, SECRET_KEY, command, connect, exchange, read_to_close, signed_head};

const LIMIT: Duration = Duration::from_secs(60);

/// Text that has not been stored before and that hardly compresses.
fn text(seed: u64, length: usize) -> String {
    let mut bytes = vec![0; length / 2];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    hex::encode(bytes)
}

fn ask(gateway: &Gateway, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(&gateway.s3).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let head = format!("Content-Length: {}\r\nConnection: close\r\n", body.len());
    stream
        .write_all(signed_head(method, &gateway.s3, path, &head).as_bytes())
        .unwrap();
    // One that refuses early may close before it has read everything.
    let _ = stream.write_all(body.as_bytes());
    read_to_close(&mut stream)
}

fn put(gateway: &Gateway, path: &str, body: &str) {
    let answer = ask(gateway, "PUT", path, body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn all_read(gateway: &Gateway, objects: &[(String, String)]) {
    for (path, body) in objects {
        let answer = ask(gateway, "GET", path, "");
        assert!(
            answer.starts_with("HTTP/1.1 200"),
            "{path}: {}",
            &answer[..answer.len().min(600)]
        );
        assert!(answer.split_once("\r\n\r\n").unwrap().1 == body, "{path}");
    }
}

fn put_some(gateway: &Gateway, name: &str) -> Vec<(String, String)> {
    let sizes = [9_000, 30_000, 400_000, 3_000_000];
    let object = |size: usize| {
        (
            format!("/media/{name}-{size}"),
            text(size as u64 + name.len() as u64, size),
        )
    };
    let objects: Vec<_> = sizes.into_iter().map(object).collect();
    objects.iter().for_each(|(path, body)| put(gateway, path, body));
    objects
}

/// The front gateway's program.
fn front(data: &Path, back: &str) -> Command {
    let mut command = command(data);
    command
        .env("CAIRN_CLOUD_URL", "s3://packs/front")
        .env("CAIRN_CLOUD_ENDPOINT", format!("http://{back}"))
        .env("CAIRN_CLOUD_ACCESS_KEY", ACCESS_KEY)
        .env("CAIRN_CLOUD_SECRET_KEY", SECRET_KEY)
        .env("CAIRN_CLOUD_LATE", "2s")
        .env("CAIRN_CLOUD_CACHE", "0B");
    command
}

fn spawn_front(data: &Path, back: &str) -> Gateway {
    Gateway::spawn(front(data, back), data.to_path_buf())
}

fn kill(gateway: &mut Gateway) {
    gateway.child.kill().unwrap();
    gateway.child.wait().unwrap();
}

fn pack_files(data: &Path) -> usize {
    let folders = std::fs::read_dir(data.join("packs")).unwrap();
    let folders = folders
        .map(|folder| folder.unwrap().path())
        .filter(|path| path.is_dir());
    folders.map(|folder| std::fs::read_dir(folder).unwrap().count()).sum()
}

fn cairn(gateway: &Gateway, arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(arguments)
        .args(["--admin-listen", &gateway.admin, "--json"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {:?}", output.stderr))
}

fn migrate(gateway: &Gateway, to: &str, left: &str) {
    let mut status = cairn(gateway, &["store", "migrate", to]);
    let until = Instant::now() + LIMIT;
    while !status["to"].is_null() {
        assert!(Instant::now() < until && status["error"].is_null(), "{status}");
        std::thread::sleep(Duration::from_millis(100));
        status = cairn(gateway, &["store", "migrate"]);
    }
    assert_eq!(status[left], 0, "{status}");
}

fn is_sound(gateway: &Gateway) {
    let answer = gateway.admin_get("/v1/check?read_data");
    let last = answer.lines().last().unwrap();
    let line: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(line["report"]["sound"], true, "{line}");
}

#[test]
fn a_store_in_a_bucket_survives_the_death_of_either_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let (data, back_data) = (dir.path().join("front"), dir.path().join("back"));
    let mut back = Gateway::spawn(command(&back_data), back_data.clone());
    let address = back.s3.clone();
    make_bucket(&back, "packs");
    let mut gateway = spawn_front(&data, &address);
    make_bucket(&gateway, "media");
    let mut objects = put_some(&gateway, "one");
    all_read(&gateway, &objects);
    assert_eq!(pack_files(&data), 0);
    kill(&mut gateway);
    let gateway = spawn_front(&data, &address);
    all_read(&gateway, &objects);
    kill(&mut back);
    let refused = ask(&gateway, "PUT", "/media/refused", &text(5, 50_000));
    assert!(
        refused.contains("503") && refused.contains("cloud storage"),
        "{refused}"
    );
    let unread = ask(&gateway, "GET", &objects[2].0, "");
    assert!(unread.starts_with("HTTP/1.1 503"), "{unread}");
    let mut again = command(&back_data);
    again.env("CAIRN_LISTEN", &address);
    let _back = Gateway::spawn(again, back_data);
    objects.extend(put_some(&gateway, "second"));
    all_read(&gateway, &objects);
    is_sound(&gateway);
}

#[test]
fn a_store_moves_out_of_a_bucket_and_back_while_it_is_read_and_over_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("front");
    let back = Gateway::start(&[]);
    make_bucket(&back, "packs");
    // Begun on local packs.
    let gateway = Gateway::spawn(command(&data), data.clone());
    make_bucket(&gateway, "media");
    let mut objects = put_some(&gateway, "one");
    drop(gateway);
    let mut gateway = spawn_front(&data, &back.s3);
    objects.extend(put_some(&gateway, "second"));
    assert!(pack_files(&data) > 0);
    cairn(&gateway, &["store", "migrate", "cloud"]);
    kill(&mut gateway);
    let gateway = spawn_front(&data, &back.s3);
    migrate(&gateway, "cloud", "local_packs");
    assert_eq!(pack_files(&data), 0);
    all_read(&gateway, &objects);
    is_sound(&gateway);
    let from_a_page = exchange(
        &mut connect(&gateway.admin),
        b"POST /v1/migrate?to=local HTTP/1.0\r\nOrigin: http://evil.example\r\n\r\n",
    );
    assert!(from_a_page.starts_with("HTTP/1.0 403"), "{from_a_page}");
    migrate(&gateway, "local", "cloud_packs");
    is_sound(&gateway);
    drop(gateway);
    drop(back);
    // Nothing is in the cloud any more, and nobody asks for it.
    let gateway = Gateway::spawn(command(&data), data);
    all_read(&gateway, &objects);
}

const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// With encryption, a backup and its packs in the directory `cloud`.
fn kept_twice(dir: &Path, cloud: &str) -> Command {
    let url = |name: &str| format!("file://{}", dir.join(name).display());
    let mut command = command(&dir.join("data"));
    command
        .env("CAIRN_CLOUD_URL", url(cloud))
        .env("CAIRN_BACKUP_URL", url("backup"))
        .env("CAIRN_ENCRYPTION_KEY", MASTER_KEY);
    command
}

/// Runs another command of the program with the settings of `command`.
fn run(command: &Command, arguments: &[&str]) -> (Option<i32>, serde_json::Value, String) {
    let variables = command.get_envs();
    let output = Command::new(command.get_program())
        .args(arguments)
        .envs(variables.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))))
        .output()
        .unwrap();
    let (out, error) = (&output.stdout, &output.stderr);
    let told = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(error));
    let report = serde_json::from_slice(out).unwrap_or_default();
    (output.status.code(), report, told)
}

fn shipped(gateway: &Gateway) {
    let until = Instant::now() + LIMIT;
    loop {
        let answer = gateway.admin_get("/v1/backup");
        let status: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        if status["restorable_seq"].is_u64() && status["restorable_seq"] == status["durable_seq"] {
            return;
        }
        assert!(Instant::now() < until, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn contains(dir: &Path, wanted: &[u8]) -> bool {
    let mut entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.any(|path| {
        if path.is_dir() {
            return contains(&path, wanted);
        }
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(wanted.len()).any(|window| window == wanted)
    })
}

/// The machine and its bucket are lost together, with encryption on.
#[test]
fn an_encrypted_store_in_a_bucket_comes_back_from_its_backup_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (data, lost) = (dir.path().join("data"), dir.path().join("lost"));
    let settings = kept_twice(dir.path(), "lost");
    let mut gateway = Gateway::spawn(kept_twice(dir.path(), "lost"), data.clone());
    make_bucket(&gateway, "media");
    let objects = put_some(&gateway, "one");
    all_read(&gateway, &objects);
    shipped(&gateway);
    let (code, drill, told) = run(&settings, &["check", "--restore", "--json"]);
    assert_eq!((code, &drill["sound"]), (Some(0), &true.into()), "{told}");
    assert!(drill["packs"].as_u64().unwrap() >= 3, "{drill}");
    let cache = data.join("cache");
    for (_, body) in &objects {
        let plain = &body.as_bytes()[body.len() / 2..body.len() / 2 + 24];
        assert!(!contains(&lost, plain) && !contains(&cache, plain));
    }
    kill(&mut gateway);
    let (code, check, told) = run(&settings, &["check", "--read-data", "--json"]);
    assert_eq!((code, &check["cloud_packs"]), (Some(0), &check["packs"]), "{told}");
    assert!(check["cloud_packs"].as_u64().unwrap() >= 3, "{check}");
    drop(gateway);
    for gone in [&data, &lost] {
        std::fs::remove_dir_all(gone).unwrap();
    }
    let (code, _, told) = run(&settings, &["restore"]);
    assert_eq!(code, Some(0), "{told}");
    let settings = kept_twice(dir.path(), "new");
    let (code, check, told) = run(&settings, &["check", "--read-data", "--json"]);
    assert_eq!((code, &check["cloud_packs"]), (Some(0), &0.into()), "{told}");
    let gateway = Gateway::spawn(kept_twice(dir.path(), "new"), data.clone());
    all_read(&gateway, &objects);
    migrate(&gateway, "cloud", "local_packs");
    assert_eq!(pack_files(&data), 0);
    all_read(&gateway, &objects);
    is_sound(&gateway);
}
