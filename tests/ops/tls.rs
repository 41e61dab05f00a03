//! HTTPS, and certificates that change under it. `openssl` makes the certificates and is the client.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Gateway;

fn make_certificate(dir: &Path, name: &str) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", &format!("/CN={name}"), "-keyout"])
        .arg(dir.join("next.key"))
        .arg("-out")
        .arg(dir.join("next.crt"))
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    std::fs::rename(dir.join("next.key"), dir.join("tls.key")).unwrap();
    std::fs::rename(dir.join("next.crt"), dir.join("tls.crt")).unwrap();
}

/// What `openssl s_client` says about a handshake that offers `protocol`.
fn handshake(address: &str, protocol: &str) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", address, "-alpn", protocol])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn wait_for_name(address: &str, name: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    while !handshake(address, "http/1.1").contains(name) {
        assert!(Instant::now() < until, "the certificate of {name} is not served");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn certificates_are_replaced_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    make_certificate(dir.path(), "first.example");
    let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let settings = [
        ("CAIRN_TLS_CERT", cert.to_str().unwrap()),
        ("CAIRN_TLS_KEY", key.to_str().unwrap()),
    ];
    let gateway = Gateway::start(&settings);
    let shown = handshake(&gateway.s3, "h2");
    assert!(
        shown.contains("first.example") && shown.contains("ALPN protocol: h2"),
        "{shown}"
    );

    make_certificate(dir.path(), "second.example");
    wait_for_name(&gateway.s3, "second.example");

    std::fs::write(&cert, "not a certificate").unwrap();
    gateway.signal("-HUP");
    gateway.wait_for_log("the old one stays");
    assert!(handshake(&gateway.s3, "http/1.1").contains("second.example"));

    make_certificate(dir.path(), "third.example");
    gateway.signal("-HUP");
    wait_for_name(&gateway.s3, "third.example");
}
