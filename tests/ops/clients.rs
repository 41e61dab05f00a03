//! Clients that are too many, too slow, half gone, or do not speak HTTP.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::support::{Gateway, exchange, header, read_to_close, signed_head};

const ANONYMOUS: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn more_connections_than_allowed_are_told_to_slow_down() {
    let gateway = Gateway::start(&[("CAIRN_LIMITS_CONNECTIONS", "2")]);
    let mut kept = [gateway.connect(), gateway.connect()];
    for stream in &mut kept {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
    }
    let answer = exchange(&mut gateway.connect(), ANONYMOUS);
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("<Code>SlowDown</Code>"),
        "{answer}"
    );
    drop(kept);
    std::thread::sleep(Duration::from_millis(200));
    assert!(exchange(&mut gateway.connect(), ANONYMOUS).starts_with("HTTP/1.1 403"));
}

#[test]
fn more_requests_than_allowed_wait_and_are_then_told_to_slow_down() {
    let gateway = Gateway::start(&[("CAIRN_LIMITS_REQUESTS", "1"), ("CAIRN_LIMITS_QUEUE_WAIT", "1s")]);
    let host = gateway.s3.clone();
    let made = exchange(
        &mut gateway.connect(),
        signed_head("PUT", &host, "/full", "Connection: close\r\n").as_bytes(),
    );
    assert!(made.starts_with("HTTP/1.1 200"), "{made}");
    let mut slow = gateway.connect();
    slow.write_all(signed_head("PUT", &host, "/full/k", "Content-Length: 4\r\nConnection: close\r\n").as_bytes())
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let asked = Instant::now();
    let answer = exchange(&mut gateway.connect(), ANONYMOUS);
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("<Code>SlowDown</Code>"),
        "{answer}"
    );
    assert!(header(&answer, "retry-after").is_some() && answer.contains("<RequestId>"));
    assert!(asked.elapsed() > Duration::from_millis(900));
    let mut patient = gateway.connect();
    patient.write_all(ANONYMOUS).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    slow.write_all(b"done").unwrap();
    assert!(read_to_close(&mut slow).starts_with("HTTP/1.1 200"));
    assert!(read_to_close(&mut patient).starts_with("HTTP/1.1 403"));
}

#[test]
fn heads_that_never_end_are_cut_off_and_idle_connections_closed() {
    let settings = [
        ("CAIRN_LIMITS_HEADER_TIMEOUT", "500ms"),
        ("CAIRN_LIMITS_IDLE_TIMEOUT", "3s"),
    ];
    let gateway = Gateway::start(&settings);
    let mut slow = gateway.connect();
    let mut mute = gateway.connect();
    let mut idle = gateway.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let began = Instant::now();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
    assert_eq!(read_to_close(&mut slow), "");
    assert_eq!(read_to_close(&mut mute), "");
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    assert!(read_to_close(&mut idle).starts_with("HTTP/1.1 403"));
    let idle_for = began.elapsed();
    assert!(
        idle_for > Duration::from_millis(2900) && idle_for < Duration::from_secs(6),
        "{idle_for:?}"
    );
    assert!(
        gateway
            .admin_get("/metrics")
            .contains("cairn_http_rejected_total{limit=\"slow_head\"} 2")
    );
}

#[test]
fn large_heads_that_never_end_are_limited() {
    let gateway = Gateway::start(&[]);
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(40_000));
    let mut kept = Vec::new();
    for _ in 0..70 {
        let mut stream = gateway.connect();
        stream.write_all(head.as_bytes()).unwrap();
        kept.push(stream);
    }
    let until = Instant::now() + Duration::from_secs(10);
    let refused = "cairn_http_rejected_total{limit=\"large_heads\"} 6";
    while !gateway.admin_get("/metrics").contains(refused) {
        assert!(Instant::now() < until, "{}", gateway.admin_get("/metrics"));
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(kept);
    // The gateway takes a moment to see that they are gone.
    let request = format!("{head}\r\n\r\n");
    while !exchange(&mut gateway.connect(), request.as_bytes()).starts_with("HTTP/1.1 403") {
        assert!(Instant::now() < until, "a large head is still refused");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Uploads that hold a part of their window and send nothing more, as on a slow link.
#[test]
fn slow_uploads_leave_room_for_others() {
    const SENT: usize = 7 << 20;
    let gateway = Gateway::start(&[]);
    let host = gateway.s3.clone();
    let close = "Connection: close\r\n";
    exchange(
        &mut gateway.connect(),
        signed_head("PUT", &host, "/slow", close).as_bytes(),
    );
    let body: Vec<u8> = (0..SENT as u32 / 4)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_be_bytes())
        .collect();
    let mut kept = Vec::new();
    for number in 0..24 {
        let mut upload = gateway.connect();
        let length = format!("Content-Length: {}\r\n", 100 << 20);
        upload
            .write_all(signed_head("PUT", &host, &format!("/slow/{number}"), &length).as_bytes())
            .unwrap();
        upload.write_all(&body).unwrap();
        kept.push(upload);
    }
    let began = Instant::now();
    let content = &body[..1 << 20];
    let mut put = gateway.connect();
    put.write_all(
        signed_head(
            "PUT",
            &host,
            "/slow/k",
            &format!("Content-Length: {}\r\n{close}", content.len()),
        )
        .as_bytes(),
    )
    .unwrap();
    put.write_all(content).unwrap();
    let answer = read_to_close(&mut put);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut got = Vec::new();
    let mut get = gateway.connect();
    get.write_all(signed_head("GET", &host, "/slow/k", close).as_bytes())
        .unwrap();
    get.read_to_end(&mut got).unwrap();
    assert!(got.ends_with(content));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_body_that_stops_coming_is_a_request_timeout() {
    let gateway = Gateway::start(&[("CAIRN_LIMITS_BODY_TIMEOUT", "500ms")]);
    let host = gateway.s3.clone();
    exchange(
        &mut gateway.connect(),
        signed_head("PUT", &host, "/slow", "Connection: close\r\n").as_bytes(),
    );
    let mut upload = gateway.connect();
    upload
        .write_all(signed_head("PUT", &host, "/slow/k", "Content-Length: 100\r\n").as_bytes())
        .unwrap();
    for _ in 0..4 {
        upload.write_all(b"0123456789").unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    let answer = read_to_close(&mut upload);
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("<Code>RequestTimeout</Code>"),
        "{answer}"
    );
}

#[test]
fn what_is_not_http_is_refused_and_the_gateway_lives() {
    let gateway = Gateway::start(&[]);
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        b"PUT /bucket/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"PUT /bucket/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PUT /bucket/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, nonsense\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let mut stream = gateway.connect();
        let answer = exchange(&mut stream, nonsense);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{nonsense:?}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000));
    let mut stream = gateway.connect();
    let _ = stream.write_all(long.as_bytes());
    let answer = read_to_close(&mut stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    // 512 lines are read; one more is not.
    for (more, status) in [(510, "HTTP/1.1 403"), (511, "HTTP/1.1 431")] {
        let lines = "X-A: 1\r\n".repeat(more);
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n");
        let answer = exchange(&mut gateway.connect(), many.as_bytes());
        assert!(answer.starts_with(status), "{more}: {answer}");
    }
    assert!(exchange(&mut gateway.connect(), ANONYMOUS).starts_with("HTTP/1.1 403"));
}

#[test]
fn a_client_that_only_stops_sending_gets_its_answer() {
    let gateway = Gateway::start(&[]);
    let mut stream = gateway.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_close(&mut stream).starts_with("HTTP/1.1 403"));
    let mut cut = gateway.connect();
    cut.write_all(signed_head("PUT", &gateway.s3, "/cut/k", "Content-Length: 100\r\n").as_bytes())
        .unwrap();
    cut.write_all(b"half").unwrap();
    cut.shutdown(Shutdown::Write).unwrap();
    assert!(!read_to_close(&mut cut).starts_with("HTTP/1.1 200"));
}

#[test]
fn no_body_is_asked_for_before_the_request_is_authorized() {
    let gateway = Gateway::start(&[]);
    let request =
        b"PUT /bucket/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    let answer = exchange(&mut gateway.connect(), request);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let host = gateway.s3.clone();
    exchange(
        &mut gateway.connect(),
        signed_head("PUT", &host, "/asks", "Connection: close\r\n").as_bytes(),
    );
    let mut stream = gateway.connect();
    let more = "Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n";
    stream
        .write_all(signed_head("PUT", &host, "/asks/k", more).as_bytes())
        .unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(exchange(&mut stream, b"hello").starts_with("HTTP/1.1 200"));
}
