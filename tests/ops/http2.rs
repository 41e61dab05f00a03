//! HTTP/2: streams that share a connection do not stop each other, and a client that takes nothing is cut off.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, StatusCode};

use crate::support::{Gateway, signed_head};

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection whose streams may each be sent `window_bytes` before the client asks for more.
struct Connection {
    requests: SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
    host: String,
}

impl Connection {
    async fn open(gateway: &Gateway, window_bytes: u32) -> Self {
        let stream = tokio::net::TcpStream::connect(&gateway.s3).await.unwrap();
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(window_bytes)
            .handshake(stream)
            .await
            .unwrap();
        Self {
            requests,
            driver: tokio::spawn(connection),
            host: gateway.s3.clone(),
        }
    }

    /// Sends a head; a body of `length` bytes follows through the second value.
    async fn send(&mut self, method: &str, path: &str, length: usize) -> (ResponseFuture, SendStream<Bytes>) {
        let head = signed_head(method, &self.host, path, "");
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.host))
            .header("content-length", length);
        // The host is the URI's authority.
        for (name, value) in head.lines().skip(2).filter_map(|line| line.split_once(": ")) {
            request = request.header(name.to_ascii_lowercase(), value);
        }
        self.requests.clone().ready().await.unwrap();
        self.requests
            .send_request(request.body(()).unwrap(), length == 0)
            .unwrap()
    }

    async fn status(&mut self, method: &str, path: &str) -> StatusCode {
        let (answer, _) = self.send(method, path, 0).await;
        answer.await.unwrap().status()
    }

    async fn get(&mut self, path: &str) -> Vec<u8> {
        let (answer, _) = self.send("GET", path, 0).await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        whole(answer.into_body()).await
    }
}

async fn whole(mut body: RecvStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    bytes
}

/// Sends `bytes` as the server's windows allow.
async fn upload(stream: &mut SendStream<Bytes>, mut bytes: Bytes, is_last: bool) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx))
            .await
            .unwrap()
            .unwrap();
        let piece = bytes.split_to(granted.min(bytes.len()));
        stream.send_data(piece, is_last && bytes.is_empty()).unwrap();
    }
}

fn body(seed: u8, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(2 * PATIENCE, test).await.unwrap() });
}

#[test]
fn uploads_on_one_connection_do_not_stop_each_other() {
    let gateway = Gateway::start(&[]);
    run(async {
        let mut connection = Connection::open(&gateway, 1 << 20).await;
        assert_eq!(connection.status("PUT", "/many").await, StatusCode::OK);
        let bodies: Vec<Bytes> = (0..4).map(|seed| body(seed, 6 * MIB + 1)).collect();
        // The first stops half way, inside a window, and holds what it has.
        let (slow_answer, mut slow) = connection.send("PUT", "/many/0", bodies[0].len()).await;
        upload(&mut slow, bodies[0].slice(..3 * MIB), false).await;
        let mut rest = Vec::new();
        for (number, body) in bodies.iter().enumerate().skip(1) {
            let (answer, mut stream) = connection.send("PUT", &format!("/many/{number}"), body.len()).await;
            let body = body.clone();
            rest.push(tokio::spawn(async move {
                upload(&mut stream, body, true).await;
                answer.await.unwrap().status()
            }));
        }
        for done in rest {
            assert_eq!(done.await.unwrap(), StatusCode::OK);
        }
        assert_eq!(connection.status("GET", "/many/0").await, StatusCode::NOT_FOUND);
        upload(&mut slow, bodies[0].slice(3 * MIB..), true).await;
        assert_eq!(slow_answer.await.unwrap().status(), StatusCode::OK);
        for (number, body) in bodies.iter().enumerate() {
            assert!(connection.get(&format!("/many/{number}")).await == *body, "{number}");
        }
    });
}

#[test]
fn a_client_that_opens_no_window_is_cut_off_and_stops_nobody() {
    let gateway = Gateway::start(&[("CAIRN_LIMITS_BODY_TIMEOUT", "1s"), ("CAIRN_LIMITS_REQUESTS", "2")]);
    run(async {
        let mut good = Connection::open(&gateway, 1 << 20).await;
        assert_eq!(good.status("PUT", "/shut").await, StatusCode::OK);
        let bytes = body(9, 2 * MIB);
        let (answer, mut stream) = good.send("PUT", "/shut/big", bytes.len()).await;
        upload(&mut stream, bytes.clone(), true).await;
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);

        let mut shut = Connection::open(&gateway, 0).await;
        let (answer, _) = shut.send("GET", "/shut/big", 0).await;
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        // Its other streams are answered as long as it takes those answers, and others' connections are.
        assert_eq!(shut.status("HEAD", "/shut/big").await, StatusCode::OK);
        assert!(good.get("/shut/big").await == bytes);

        let silent_since = Instant::now();
        let ended = tokio::time::timeout(PATIENCE, answer.body_mut().data()).await;
        let ended = ended.expect("the client that takes nothing is still served");
        assert!(!matches!(ended, Some(Ok(_))), "a byte came through a window of none");
        assert!(silent_since.elapsed() > Duration::from_millis(900));
        // Its request's place is free again: two at once are let in.
        let (first, _) = good.send("GET", "/shut/big", 0).await;
        let (second, _) = good.send("GET", "/shut/big", 0).await;
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        let (first, second) = tokio::join!(whole(first.into_body()), whole(second.into_body()));
        assert!(first == bytes && second == bytes);
        shut.driver.abort();
    });
}
