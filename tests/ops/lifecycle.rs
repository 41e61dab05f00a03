//! Start, second process, signals, the admin listener, the command line.

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use crate::support::{ACCESS_KEY, Gateway, SECRET_KEY, command, exchange, header, read_to_close, signed_head};

#[test]
fn a_second_process_is_refused_and_told_the_first() {
    let gateway = Gateway::start(&[]);
    let second = command(&gateway.data).output().unwrap();
    assert!(!second.status.success());
    let message = String::from_utf8_lossy(&second.stderr);
    assert!(
        message.contains("in use by process") && message.contains(&gateway.child.id().to_string()),
        "{message}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let gateway = Gateway::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let second = command(dir.path()).env("CAIRN_LISTEN", &gateway.s3).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains(&format!("cannot listen on {}", gateway.s3)));
}

#[test]
fn a_request_in_flight_survives_sigterm() {
    let mut gateway = Gateway::start(&[]);
    let mut idle = gateway.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    let host = gateway.s3.clone();
    let made = exchange(
        &mut gateway.connect(),
        signed_head("PUT", &host, "/drained", "Connection: close\r\n").as_bytes(),
    );
    assert!(made.starts_with("HTTP/1.1 200"), "{made}");

    let mut upload = gateway.connect();
    upload
        .write_all(signed_head("PUT", &host, "/drained/key", "Content-Length: 10\r\n").as_bytes())
        .unwrap();
    upload.write_all(b"01234").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    gateway.signal("-TERM");
    gateway.wait_for_log("stopping");
    assert!(
        read_to_close(&mut idle).len() < 4096,
        "the idle connection is closed at once"
    );
    upload.write_all(b"56789").unwrap();
    let answer = read_to_close(&mut upload);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(gateway.wait_end(Duration::from_secs(10)).success());
}

#[test]
fn a_connection_that_asks_nothing_does_not_delay_the_end() {
    let mut gateway = Gateway::start(&[]);
    let _mute = gateway.connect();
    std::thread::sleep(Duration::from_millis(200));
    gateway.signal("-TERM");
    assert!(gateway.wait_end(Duration::from_secs(5)).success());
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let mut gateway = Gateway::start(&[("CAIRN_LIMITS_DRAIN_TIMEOUT", "500ms")]);
    let mut upload = gateway.connect();
    upload
        .write_all(signed_head("PUT", &gateway.s3, "/none/key", "Content-Length: 10\r\n").as_bytes())
        .unwrap();
    let mut stuck = gateway.connect();
    stuck.write_all(b"GET / HT").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    gateway.signal("-INT");
    assert!(gateway.wait_end(Duration::from_secs(10)).success());
}

#[test]
fn health_metrics_and_usage_are_served_beside() {
    let gateway = Gateway::start(&[]);
    let answer = exchange(
        &mut gateway.connect(),
        b"GET /bucket/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    for path in ["/health/live", "/health/ready"] {
        assert!(gateway.admin_get(path).starts_with("HTTP/1.0 200"), "{path}");
    }
    let metrics = gateway.admin_get("/metrics");
    for name in [
        "cairn_http_requests_total{operation=\"GetObject\",status=\"403\"} 1",
        "cairn_http_request_duration_seconds_bucket",
        "cairn_process_resident_memory_bytes",
        "cairn_network_received_bytes_total",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    assert!(gateway.admin_get("/v1/usage").contains("\"logical_bytes\":0"));
    assert!(gateway.admin_get("/nothing").starts_with("HTTP/1.0 404"));
    let run = |what: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_cairn"))
            .args(["admin", what, "--admin-listen", &gateway.admin])
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("health"), "ready\n");
    assert!(run("usage").starts_with("logical"));
}

#[test]
fn every_answer_carries_the_request_id_of_the_log() {
    let gateway = Gateway::start(&[]);
    let request = format!(
        "GET /bucket/k?x=1 HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{SECRET_KEY}\r\nConnection: close\r\n\r\n"
    );
    let answer = exchange(&mut gateway.connect(), request.as_bytes());
    let id = header(&answer, "x-amz-request-id").unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(id.len(), 16);
    assert!(header(&answer, "x-amz-id-2").is_some() && header(&answer, "date").is_some());
    assert_eq!(header(&answer, "server"), Some("Cairn"));
    let line = gateway.wait_for_log(id);
    assert!(line.contains("\"operation\":\"GetObject\""), "{line}");
    assert!(!line.contains(SECRET_KEY));
    let denied = exchange(
        &mut gateway.connect(),
        b"GET /bucket/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    let id = header(&denied, "x-amz-request-id").unwrap();
    assert!(
        denied.contains(&format!("<RequestId>{id}</RequestId>")) && denied.contains("<Resource>/bucket/k</Resource>"),
        "{denied}"
    );
    let page = exchange(
        &mut gateway.connect(),
        b"GET /-/console HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(page.starts_with("HTTP/1.1 404"), "{page}");
}

#[test]
fn the_configuration_is_shown_and_mistakes_are_named() {
    let cairn = || Command::new(env!("CARGO_BIN_EXE_cairn"));
    let shown = cairn()
        .args(["config", "--data", "/somewhere"])
        .env("CAIRN_REGION", "eu-west-9")
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("data = \"/somewhere\"") && shown.contains("# --data") && shown.contains("# CAIRN_REGION"));
    let wrong = cairn().arg("config").env("CAIRN_REGOIN", "x").output().unwrap();
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean 'CAIRN_REGION'"));
    assert!(
        !cairn()
            .args(["serve", "--lisen", "x"])
            .output()
            .unwrap()
            .status
            .success()
    );
    let nobody = cairn()
        .args(["admin", "health", "--admin-listen", "127.0.0.1:1"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no gateway answers"));
}
