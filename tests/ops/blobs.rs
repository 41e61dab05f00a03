//! Blobs on a server: the suite of every store of blobs, against a gateway of our own.

use cairn::blob::{self, BlobError};
use cairn::config::BlobLocation;

use crate::support::{ACCESS_KEY, Gateway, SECRET_KEY, read_to_close, signed_head};

/// What the suite finds beside it in the product.
mod store {
    pub use cairn::blob::{BlobError, Blobs, LIST_PAGE_MAX};
}
#[path = "../../src/blob/suite.rs"]
pub mod suite;

pub fn make_bucket(gateway: &Gateway, name: &str) {
    use std::io::Write;
    let head = "Content-Length: 0\r\nConnection: close\r\n";
    let mut stream = gateway.connect();
    let request = signed_head("PUT", &gateway.s3, &format!("/{name}"), head);
    stream.write_all(request.as_bytes()).unwrap();
    let answer = read_to_close(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn location(url: &str, endpoint: &str, secret_key: &str) -> BlobLocation {
    BlobLocation::parse(url, endpoint, "us-east-1", ACCESS_KEY, secret_key).unwrap()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn s3_behaves_and_tells_what_is_wrong() {
    let gateway = Gateway::start(&[]);
    make_bucket(&gateway, "blobs");
    let endpoint = format!("http://{}", gateway.s3);
    let open = |url: &str, secret_key: &str| blob::open(&location(url, &endpoint, secret_key)).unwrap();
    runtime().block_on(async {
        suite::run(&*open("s3://blobs", SECRET_KEY)).await;
        // Two prefixes of a bucket know nothing of each other.
        let (one, two) = (
            open("s3://blobs/one", SECRET_KEY),
            open("s3://blobs/one-two/three", SECRET_KEY),
        );
        two.put("kept", "two".into()).await.unwrap();
        suite::run(&*one).await;
        assert_eq!(two.get("kept", None).await.unwrap(), "two");
        for (url, secret_key) in [("s3://blobs", "wrong"), ("s3://absent", SECRET_KEY)] {
            let blobs = open(url, secret_key);
            for refused in [
                blobs.put("a", "x".into()).await,
                blobs.get("a", None).await.map(drop),
                blobs.list("", None).await.map(drop),
            ] {
                let Err(BlobError::Refused(reason)) = refused else {
                    panic!("{url}: {refused:?}")
                };
                assert!(!reason.contains(SECRET_KEY), "{reason}");
            }
        }
    });
}

#[test]
fn a_server_that_is_gone_is_worth_a_retry_and_comes_back() {
    let mut gateway = Gateway::start(&[]);
    make_bucket(&gateway, "blobs");
    let blobs = blob::open(&location("s3://blobs", &format!("http://{}", gateway.s3), SECRET_KEY)).unwrap();
    runtime().block_on(async {
        blobs.put("a", "x".into()).await.unwrap();
        gateway.child.kill().unwrap();
        gateway.child.wait().unwrap();
        let put = blobs.put("b", "x".into()).await;
        assert!(matches!(put, Err(BlobError::Unavailable(_))), "{put:?}");
        let get = blobs.get("a", None).await;
        assert!(matches!(get, Err(BlobError::Unavailable(_))), "{get:?}");
        let mut again = crate::support::command(&gateway.data);
        again.env("CAIRN_LISTEN", &gateway.s3);
        let data = gateway.data.clone();
        let _again = tokio::task::spawn_blocking(|| Gateway::spawn(again, data))
            .await
            .unwrap();
        assert_eq!(blobs.get("a", None).await.unwrap(), "x");
    });
}
