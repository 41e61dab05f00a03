//! Starts the real binary on free ports, and speaks raw HTTP to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub const ACCESS_KEY: &str = "TESTTESTTESTTESTTEST";
pub const SECRET_KEY: &str = "secretsecretsecretsecretsecretsecretsecr";
const START_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Gateway {
    pub child: Child,
    pub s3: String,
    pub admin: String,
    pub log: Receiver<String>,
    pub data: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

/// The program with a clean environment, a data directory, free ports and known root keys.
pub fn command(data: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAIRN_")) {
        command.env_remove(name);
    }
    command
        .arg("serve")
        .env("CAIRN_DATA", data)
        .env("CAIRN_LISTEN", "127.0.0.1:0")
        .env("CAIRN_ADMIN_LISTEN", "127.0.0.1:0")
        .env("CAIRN_STORAGE_RESERVE", "1MiB")
        .env("CAIRN_LOG_FORMAT", "json")
        .env("CAIRN_LOG_ACCESS", "all")
        .env("CAIRN_ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("CAIRN_ROOT_SECRET_KEY", SECRET_KEY);
    command
}

impl Gateway {
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut command = command(&data);
        command.envs(settings.iter().copied());
        let mut gateway = Self::spawn(command, data);
        gateway._dir = Some(dir);
        gateway
    }

    pub fn spawn(mut command: Command, data: PathBuf) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        let mut gateway = Self {
            child,
            s3: String::new(),
            admin: String::new(),
            log,
            data,
            _dir: None,
        };
        let line = gateway.wait_for_log("\"serving\"");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        gateway.s3 = line["s3"].as_str().unwrap().to_owned();
        gateway.admin = line["admin"].as_str().unwrap().to_owned();
        gateway
    }

    pub fn wait_for_log(&self, part: &str) -> String {
        let until = Instant::now() + START_TIMEOUT;
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("no log line with {part} in {seen:#?}");
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub fn wait_end(&mut self, limit: Duration) -> std::process::ExitStatus {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the gateway does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn connect(&self) -> TcpStream {
        connect(&self.s3)
    }

    /// The whole answer to `GET path` of the admin listener.
    pub fn admin_get(&self, path: &str) -> String {
        exchange(
            &mut connect(&self.admin),
            format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes(),
        )
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends `request` and reads until the other side closes.
pub fn exchange(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    read_to_close(stream)
}

pub fn read_to_close(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The value of a response header.
pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// The head of a request that root signed with SigV4, its payload unsigned
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>). A query in `path` stands as it is signed:
/// sorted, each name with a value.
pub fn signed_head(method: &str, host: &str, path: &str, more: &str) -> String {
    use aws_lc_rs::{digest, hmac};
    let now = time::OffsetDateTime::now_utc();
    let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
    let stamp = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
    let (names, payload) = ("host;x-amz-content-sha256;x-amz-date", "UNSIGNED-PAYLOAD");
    let (resource, query) = path.split_once('?').unwrap_or((path, ""));
    let canonical = format!(
        "{method}\n{resource}\n{query}\nhost:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n\n{names}\n{payload}"
    );
    let scope = format!("{day}/us-east-1/s3/aws4_request");
    let hash = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}");
    let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let mut key = mac(format!("AWS4{SECRET_KEY}").as_bytes(), &day);
    for part in ["us-east-1", "s3", "aws4_request", &to_sign] {
        key = mac(key.as_ref(), part);
    }
    let signature = hex::encode(key.as_ref());
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nx-amz-content-sha256: {payload}\r\nx-amz-date: {stamp}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={names}, Signature={signature}\r\n\
         {more}\r\n"
    )
}

/// Puts an object, or makes a bucket.
pub fn put(gateway: &Gateway, path: &str, body: &[u8]) {
    let head = format!("Content-Length: {}\r\nConnection: close\r\n", body.len());
    let mut stream = gateway.connect();
    stream
        .write_all(signed_head("PUT", &gateway.s3, path, &head).as_bytes())
        .unwrap();
    stream.write_all(body).unwrap();
    let answer = read_to_close(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
