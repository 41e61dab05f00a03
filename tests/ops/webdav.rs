//! Blobs on a WebDAV server of Debian, which is installed if it is not there, and a store on top.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn::blob::{self, BlobError};
use cairn::config::BlobLocation;

use crate::blobs::{runtime, suite};

const SERVER: &str = "/usr/sbin/lighttpd";
const MODULE: &str = "/usr/lib/lighttpd/mod_webdav.so";
const INSTALL: &str = "set -e; as_root() { if [ $(id -u) -eq 0 ]; then \"$@\"; else sudo \"$@\"; fi; }; \
    as_root apt-get update -qq; \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends lighttpd lighttpd-mod-webdav";

struct Server {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> Server {
    if !Path::new(SERVER).exists() || !Path::new(MODULE).exists() {
        let installed = Command::new("sh").args(["-c", INSTALL]).stdout(Stdio::null()).status();
        assert!(installed.unwrap().success(), "lighttpd cannot be installed");
    }
    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(dir.path().join("users"), "cairn:secret\n").unwrap();
    let config = format!(
        "server.modules = (\"mod_auth\", \"mod_authn_file\", \"mod_webdav\")\n\
         server.document-root = \"{root}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}\n\
         server.upload-dirs = (\"{dir}\")\nserver.errorlog = \"{dir}/errors\"\n\
         auth.backend = \"plain\"\nauth.backend.plain.userfile = \"{dir}/users\"\n\
         auth.require = (\"/\" => (\"method\" => \"basic\", \"realm\" => \"blobs\", \"require\" => \"valid-user\"))\n\
         webdav.activate = \"enable\"\n",
        root = root.display(),
        port = address.port(),
        dir = dir.path().display(),
    );
    let path = dir.path().join("lighttpd.conf");
    std::fs::write(&path, config).unwrap();
    let child = Command::new(SERVER).arg("-D").arg("-f").arg(&path).spawn().unwrap();
    let server = Server {
        child,
        address: address.to_string(),
        _dir: dir,
    };
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < until, "lighttpd does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

#[test]
fn webdav_behaves_and_tells_a_wrong_password() {
    let server = start();
    let location = |path: &str, password: &str| {
        let url = format!("webdav+http://{}{path}", server.address);
        BlobLocation::parse(&url, "", "", "cairn", password).unwrap()
    };
    runtime().block_on(async {
        for path in ["", "/deep/down"] {
            let blobs = blob::open(&location(path, "secret")).unwrap();
            suite::run(&*blobs).await;
        }
        let blobs = blob::open(&location("", "wrong")).unwrap();
        let refused = blobs.put("a", "x".into()).await;
        assert!(matches!(refused, Err(BlobError::Refused(_))), "{refused:?}");
        let refused = blobs.get("a", None).await;
        assert!(matches!(refused, Err(BlobError::Refused(_))), "{refused:?}");
    });
}
