//! An encrypted store: what lies on the disk, which key opens it, and how that changes.

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Gateway, command, exchange, put, read_to_close, signed_head};

const MARK: &str = "a-plaintext-that-nobody-may-find ";
const MIB: usize = 1 << 20;

/// A data directory and a place for keys, which is not below it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn keys(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, with a key file or without.
    fn command(&self, keys: Option<&Path>) -> Command {
        let mut command = command(&self.data());
        command
            .env("CAIRN_STORAGE_COMPRESSION", "off")
            .env("CAIRN_LOG_LEVEL", "trace");
        if let Some(keys) = keys {
            command.env("CAIRN_ENCRYPTION_KEY_FILE", keys);
        }
        command
    }

    fn start(&self, keys: Option<&Path>) -> Gateway {
        Gateway::spawn(self.command(keys), self.data())
    }

    /// What the program says that refuses to start.
    fn refusal(&self, keys: Option<&Path>) -> String {
        let output = self.command(keys).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    /// The files below the data directory that hold these bytes.
    fn holding(&self, bytes: &[u8]) -> Vec<PathBuf> {
        files(&self.data())
            .into_iter()
            .filter(|path| {
                let content = std::fs::read(path).unwrap();
                content.windows(bytes.len()).any(|part| part == bytes)
            })
            .collect()
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// `cairn key`, on this gateway's store whether or not it runs: whether it succeeded, and what it says.
fn key(gateway: &Gateway, keys: &Path, what: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(["key", what, "--admin-listen", &gateway.admin, "--data"])
        .arg(&gateway.data)
        .arg("--key-file")
        .arg(keys)
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(told).unwrap())
}

fn generate(path: &Path) {
    let made = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(["key", "generate", "--out"])
        .arg(path)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// The keys of a file, as they stand in it.
fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn marked(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = format!("{seed} {MARK}").repeat(length / MARK.len()).into_bytes();
    bytes.truncate(length);
    bytes
}

fn objects() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("/safe/tiny", marked(60, 1)),
        ("/safe/small", marked(8192, 2)),
        ("/safe/medium", marked(100_000, 3)),
        ("/safe/large", marked(3 * MIB, 4)),
        ("/safe/parts", [marked(5 * MIB, 5), marked(1000, 6)].concat()),
    ]
}

fn request(gateway: &Gateway, method: &str, path: &str, body: &[u8]) -> String {
    let more = format!("Content-Length: {}\r\nConnection: close\r\n", body.len());
    let mut stream = gateway.connect();
    stream
        .write_all(signed_head(method, &gateway.s3, path, &more).as_bytes())
        .unwrap();
    stream.write_all(body).unwrap();
    let answer = read_to_close(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
    answer
}

fn fill(gateway: &Gateway) {
    put(gateway, "/safe", b"");
    for (path, bytes) in objects().iter().take(4) {
        put(gateway, path, bytes);
    }
    let begun = request(gateway, "POST", "/safe/parts?uploads=", b"");
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap();
    let mut list = String::new();
    for (number, bytes) in [(1, marked(5 * MIB, 5)), (2, marked(1000, 6))] {
        let path = format!("/safe/parts?partNumber={number}&uploadId={id}");
        let answer = request(gateway, "PUT", &path, &bytes);
        let etag = crate::support::header(&answer, "etag").unwrap();
        list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    request(gateway, "POST", &format!("/safe/parts?uploadId={id}"), list.as_bytes());
}

fn check_objects(gateway: &Gateway) {
    for (path, bytes) in objects() {
        let head = signed_head("GET", &gateway.s3, path, "Connection: close\r\n");
        let answer = exchange(&mut gateway.connect(), head.as_bytes());
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert!(body.as_bytes() == bytes, "{path}: {}", &answer[..answer.len().min(300)]);
    }
}

fn stop(mut gateway: Gateway) -> Vec<String> {
    gateway.signal("-TERM");
    assert!(gateway.wait_end(Duration::from_secs(20)).success());
    gateway.log.try_iter().collect()
}

#[test]
fn nothing_lies_in_clear_and_nothing_opens_without_the_key() {
    let clear = Place::new();
    let gateway = clear.start(None);
    fill(&gateway);
    stop(gateway);
    let found = clear.holding(MARK.as_bytes());
    let is_below = |name: &str| found.iter().any(|path| path.starts_with(clear.data().join(name)));
    assert!(
        is_below("packs") && is_below("log"),
        "the search finds what is there: {found:?}"
    );

    let place = Place::new();
    let (keys, wrong) = (place.keys("keys"), place.keys("wrong"));
    generate(&keys);
    generate(&wrong);
    let gateway = place.start(Some(&keys));
    fill(&gateway);
    check_objects(&gateway);
    assert_eq!(place.holding(MARK.as_bytes()), [] as [PathBuf; 0]);
    let (_, listed) = key(&gateway, &keys, "list");
    let id = listed.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(
        listed.contains("the store is encrypted") && listed.contains("in use"),
        "{listed}"
    );
    let mut log: Vec<String> = gateway.log.try_iter().collect();
    // A process that ends so leaves what it wrote; one that ends well also flushes tables and seals packs.
    drop(gateway);
    let gateway = place.start(Some(&keys));
    check_objects(&gateway);
    log.extend(stop(gateway));
    assert_eq!(place.holding(MARK.as_bytes()), [] as [PathBuf; 0]);

    let told = place.refusal(None);
    assert!(
        told.contains(&format!("encrypted with master key {id}, and no key was given")),
        "{told}"
    );
    let told = place.refusal(Some(&wrong));
    assert!(
        told.contains(&id) && told.contains("the key that was given is another one"),
        "{told}"
    );
    assert!(
        !told.contains("damaged at") && told.contains("nothing is damaged"),
        "{told}"
    );
    let inside = place.data().join("keys");
    std::fs::copy(&keys, &inside).unwrap();
    assert!(place.refusal(Some(&inside)).contains("lies in the data directory"));
    std::fs::remove_file(inside).unwrap();

    let secret = &lines(&keys)[0];
    let mut from_variable = place.command(None);
    from_variable.env("CAIRN_ENCRYPTION_KEY", secret);
    let gateway = Gateway::spawn(from_variable, place.data());
    check_objects(&gateway);
    log.extend(stop(gateway));
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, secret).unwrap();
    assert!(log.len() > 20);
    for shape in [secret.clone(), hex::encode(&bytes), format!("{bytes:?}")] {
        assert!(!log.iter().any(|line| line.contains(&shape)));
    }
    assert!(place.holding(&bytes).is_empty() && place.holding(secret.as_bytes()).is_empty());
}

#[test]
fn a_rotation_rewrites_no_pack_and_the_old_key_opens_nothing() {
    let place = Place::new();
    let (keys, old) = (place.keys("keys"), place.keys("old"));
    generate(&keys);
    std::fs::copy(&keys, &old).unwrap();
    let gateway = place.start(Some(&keys));
    fill(&gateway);
    let packs = || -> Vec<(PathBuf, Vec<u8>)> {
        let files = files(&place.data().join("packs")).into_iter();
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    };
    let before = packs();
    // While it serves.
    let (done, told) = key(&gateway, &keys, "rotate");
    assert!(done && told.contains("from now on"), "{told}");
    assert!(packs() == before);
    assert_eq!(
        (lines(&keys).len(), lines(&keys)[1].clone()),
        (2, lines(&old)[0].clone())
    );
    check_objects(&gateway);
    let admin = gateway.admin.clone();
    stop(gateway);
    assert!(place.refusal(Some(&old)).contains("is another one"));
    let only = place.keys("only");
    std::fs::write(&only, &lines(&keys)[0]).unwrap();
    let gateway = place.start(Some(&only));
    check_objects(&gateway);
    stop(gateway);

    // While it does not.
    let mut gateway = place.start(Some(&keys));
    gateway.admin = admin;
    gateway.child.kill().unwrap();
    gateway.child.wait().unwrap();
    let before = packs();
    let (done, told) = key(&gateway, &keys, "rotate");
    assert!(done && lines(&keys).len() == 3, "{told}");
    assert!(packs() == before);
    assert!(place.refusal(Some(&only)).contains("is another one"));
    let gateway = place.start(Some(&keys));
    check_objects(&gateway);
    let (_, listed) = key(&gateway, &keys, "list");
    assert!(listed.contains("for backups from its time"), "{listed}");
}

#[test]
fn a_rotation_that_is_killed_leaves_a_store_that_opens() {
    let place = Place::new();
    let keys = place.keys("keys");
    generate(&keys);
    let gateway = place.start(Some(&keys));
    fill(&gateway);
    stop(gateway);
    let opens = |keys: &Path| {
        let mut command = place.command(Some(keys));
        let mut check = Command::new(command.get_program());
        check
            .arg("check")
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdout(Stdio::null());
        check.output().unwrap().status.code() == Some(0)
    };
    let rotate = || {
        Command::new(env!("CARGO_BIN_EXE_cairn"))
            .args(["key", "rotate", "--data"])
            .arg(place.data())
            .arg("--key-file")
            .arg(&keys)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let begun = Instant::now();
    assert!(rotate().wait().unwrap().success());
    let whole = begun.elapsed();
    let mut outcomes = std::collections::BTreeSet::new();
    for round in 1..=16 {
        let old = place.keys(&format!("old{round}"));
        std::fs::copy(&keys, &old).unwrap();
        let mut rotation = rotate();
        std::thread::sleep(whole * round / 16);
        rotation.kill().unwrap();
        rotation.wait().unwrap();
        assert!(opens(&keys), "the file as it was left opens the store, round {round}");
        let is_old = opens(&old);
        outcomes.insert((lines(&keys).len() > lines(&old).len(), is_old));
    }
    println!("a new key in the file, the old one opens: {outcomes:?}");
    assert!(outcomes.len() > 1, "every kill came at the same place: {outcomes:?}");
    let gateway = place.start(Some(&keys));
    check_objects(&gateway);
}

/// A process that holds keys leaves no core, whatever the limit is.
#[test]
fn a_process_with_keys_dumps_no_core() {
    for is_encrypted in [false, true] {
        let place = Place::new();
        let keys = place.keys("keys");
        generate(&keys);
        let mut command = place.command(is_encrypted.then_some(&*keys));
        command.current_dir(place.dir.path());
        // SAFETY: one call that is allowed between fork and exec, on a value of this frame.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit {
                    rlim_cur: 1 << 20,
                    rlim_max: libc::RLIM_INFINITY,
                };
                libc::setrlimit(libc::RLIMIT_CORE, &limit);
                Ok(())
            });
        }
        let mut gateway = Gateway::spawn(command, place.data());
        gateway.signal("-ABRT");
        let status = gateway.wait_end(Duration::from_secs(20));
        assert_eq!(status.signal(), Some(libc::SIGABRT));
        // Without keys it does where the system writes cores at all.
        println!("encrypted: {is_encrypted}, core: {}", status.core_dumped());
        assert!(!(is_encrypted && status.core_dumped()));
    }
}
