//! A gateway whose packs are in a bucket of a second gateway, and both of them killed.

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
    let report: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(report["sound"], true, "{report}");
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
