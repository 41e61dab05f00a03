//! Collection as an operator sees it.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Gateway, exchange, read_to_close, signed_head};

fn send(gateway: &Gateway, method: &str, path: &str, body: &[u8]) {
    let head = format!("Content-Length: {}\r\nConnection: close\r\n", body.len());
    let mut stream = gateway.connect();
    stream
        .write_all(signed_head(method, &gateway.s3, path, &head).as_bytes())
        .unwrap();
    stream.write_all(body).unwrap();
    let answer = read_to_close(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
}

fn gc(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(["admin", "gc"])
        .args(arguments)
        .args(["--admin-listen", &gateway.admin])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_was_collected_is_told_and_only_a_post_resumes() {
    let gateway = Gateway::start(&[("CAIRN_STORAGE_COLLECT_INTERVAL", "100ms")]);
    send(&gateway, "PUT", "/collected", b"");
    send(&gateway, "PUT", "/collected/key", &vec![7; 300_000]);
    send(&gateway, "DELETE", "/collected/key", b"");
    let until = Instant::now() + Duration::from_secs(20);
    let status = loop {
        let status: serde_json::Value = serde_json::from_str(&gc(&gateway, &["status", "--json"])).unwrap();
        if status["last"]["unwound"].as_u64().is_some_and(|count| count > 0) {
            break status;
        }
        assert!(Instant::now() < until, "nothing was collected: {status}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((&status["epoch"], &status["debt"]["garbage"]), (&1.into(), &0.into()));
    let text = gc(&gateway, &["status"]);
    assert!(
        text.contains("epoch 1") && text.contains("1 payloads unwound"),
        "{text}"
    );
    assert!(
        gateway
            .admin_get("/metrics")
            .contains("\ncairn_chunk_collect_stopped 0\n")
    );
    assert_eq!(gc(&gateway, &["resume"]), "collection was not stopped\n");
    let refused = gateway.admin_get("/v1/gc/resume");
    assert!(
        refused.contains(" 405 ") && refused.contains("allow: POST"),
        "{refused}"
    );
    let mut stream = std::net::TcpStream::connect(&gateway.admin).unwrap();
    let post = b"POST /v1/gc/resume HTTP/1.1\r\nHost: x\r\nOrigin: http://elsewhere\r\nConnection: close\r\n\r\n";
    assert!(exchange(&mut stream, post).starts_with("HTTP/1.1 403"));
}
