//! A client that signs with Signature Version 4, and a gateway in memory for it to talk to.
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>

use std::sync::Arc;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::chunk::{ChunkStore, ChunkStoreOptions};
use crate::clock::Clock;
use crate::iam::{AccessKey, Identities, Secret};
use crate::ids::IdSource;
use crate::kv::Kv;
use crate::kv::memory::MemoryKv;
use crate::object::Objects;
use crate::s3::{Body, S3Options, S3Wire, service};

pub const HOST: &str = "s3.example.com";
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub const IDENTITIES: &str = r#"
[[identity]]
name = "alice"
canonical_id = "a11ce"
access_key = "ALICE"
secret_key = "alice-secret"
[[identity]]
name = "bob"
canonical_id = "b0b"
access_key = "BOB"
secret_key = "bobs-secret"
"#;

/// The service, and the directory that its packs live in.
pub struct Gateway {
    pub wire: S3Wire,
    _directory: tempfile::TempDir,
}

impl Gateway {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let ids = Arc::new(IdSource::new(clock.clone()));
        let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
        let registry = prometheus::Registry::new();
        let options = ChunkStoreOptions::new(directory.path().join("packs"));
        let chunks = ChunkStore::open(Arc::clone(&kv), options, clock.clone(), Arc::clone(&ids), &registry)
            .await
            .unwrap();
        let objects = Objects::new(kv, chunks, clock, ids);
        let secret = objects.store_secret().await.unwrap();
        let root = AccessKey {
            access: "ROOTKEY".to_owned(),
            secret: Secret::new("root-secret"),
        };
        let identities = Arc::new(Identities::parse(IDENTITIES, root).unwrap());
        let options = S3Options {
            region: "us-east-1".to_owned(),
            domains: vec![HOST.to_owned()],
        };
        Self {
            wire: service(objects, identities, &secret, options),
            _directory: directory,
        }
    }

    /// A gateway with the bucket `media` of alice.
    pub async fn with_bucket() -> Self {
        let gateway = Self::new().await;
        Call::put("/media").send(&gateway).await.expect(200);
        gateway
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str) {
        assert_eq!(
            (self.status.as_u16(), self.element("Code").as_str()),
            (status, code),
            "{self:?}"
        );
        assert!(!self.element("Message").is_empty());
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    /// The text of the first element of that name.
    pub fn element(&self, name: &str) -> String {
        self.elements(name).into_iter().next().unwrap_or_default()
    }

    pub fn elements(&self, name: &str) -> Vec<String> {
        let text = self.text();
        text.split(&format!("<{name}>"))
            .skip(1)
            .map(|rest| rest.split(&format!("</{name}>")).next().unwrap().to_owned())
            .collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// How the payload enters the signature.
#[derive(Clone, Debug)]
pub enum Payload {
    Hashed,
    /// This text instead of the hash.
    Literal(String),
}

/// A request before it is signed. Alice's, unless told otherwise.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    unsigned: Vec<(String, String)>,
    body: Bytes,
    access: String,
    secret: String,
    payload: Payload,
    late_secs: i64,
    sends_length: bool,
}

impl Call {
    pub fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            query: Vec::new(),
            headers: vec![("host".to_owned(), HOST.to_owned())],
            unsigned: Vec::new(),
            body: Bytes::new(),
            access: "ALICE".to_owned(),
            secret: "alice-secret".to_owned(),
            payload: Payload::Hashed,
            late_secs: 0,
            sends_length: true,
        }
    }

    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn put(path: &str) -> Self {
        Self::new(Method::PUT, path)
    }

    pub fn post(path: &str) -> Self {
        Self::new(Method::POST, path)
    }

    pub fn head(path: &str) -> Self {
        Self::new(Method::HEAD, path)
    }

    pub fn delete(path: &str) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Signed, whatever its name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sent, and not signed.
    pub fn unsigned(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.unsigned.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    pub fn by(mut self, access: &str, secret: &str) -> Self {
        (self.access, self.secret) = (access.to_owned(), secret.to_owned());
        self
    }

    pub fn late_secs(mut self, secs: i64) -> Self {
        self.late_secs = secs;
        self
    }

    pub fn without_length(mut self) -> Self {
        self.sends_length = false;
        self
    }

    pub async fn send(self, gateway: &Gateway) -> Answer {
        let (request, _) = self.sign();
        send(gateway, request).await
    }

    /// The signed request, and what signs the chunks of its body.
    pub fn sign(mut self) -> (Request<Body>, Signer) {
        let signer = Signer::new(&self.secret, self.late_secs);
        let hash = match &self.payload {
            Payload::Hashed => hex::encode(Sha256::digest(&self.body)),
            Payload::Literal(text) => text.clone(),
        };
        self = self
            .header("x-amz-content-sha256", &hash)
            .header("x-amz-date", &signer.time);
        self.headers.sort();
        let names = self
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(";");
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", value.trim()))
            .collect();
        let query = canonical_query(&self.query);
        let canonical = format!("{}\n{}\n{query}\n{headers}\n{names}\n{hash}", self.method, self.path);
        let signature = signer.sign_request(&canonical);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={signature}",
            self.access, signer.scope
        );
        let uri = if query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{query}", self.path)
        };
        let mut request = Request::builder()
            .method(self.method)
            .uri(uri)
            .header("authorization", authorization);
        for (name, value) in self.headers.iter().chain(&self.unsigned) {
            request = request.header(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        if self.sends_length {
            request = request.header("content-length", self.body.len());
        }
        (request.body(Body::from(self.body)).unwrap(), signer.seeded(signature))
    }

    /// The same as a presigned URL that lives for `secs`.
    pub fn presign(mut self, secs: u64) -> Request<Body> {
        let signer = Signer::new(&self.secret, self.late_secs);
        let credential = format!("{}/{}", self.access, signer.scope);
        let (time, secs) = (signer.time.clone(), secs.to_string());
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", credential.as_str()),
            ("X-Amz-Date", time.as_str()),
            ("X-Amz-Expires", secs.as_str()),
            ("X-Amz-SignedHeaders", "host"),
        ] {
            self = self.query(name, value);
        }
        let query = canonical_query(&self.query);
        let canonical = format!(
            "{}\n{}\n{query}\nhost:{HOST}\n\nhost\nUNSIGNED-PAYLOAD",
            self.method, self.path
        );
        let signature = signer.sign_request(&canonical);
        let mut request = Request::builder()
            .method(self.method)
            .uri(format!("{}?{query}&X-Amz-Signature={signature}", self.path))
            .header("content-length", self.body.len());
        for (name, value) in self.headers.iter().chain(&self.unsigned) {
            request = request.header(name, value);
        }
        request.body(Body::from(self.body)).unwrap()
    }
}

pub async fn send(gateway: &Gateway, request: Request<Body>) -> Answer {
    let (parts, body) = gateway.wire.call(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

fn canonical_query(pairs: &[(String, String)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, STRICT).to_string();
    let mut pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    pairs.sort();
    pairs.join("&")
}

/// The key of one day, and the signature that the next chunk's builds on.
pub struct Signer {
    key: Vec<u8>,
    time: String,
    scope: String,
    previous: String,
}

impl Signer {
    fn new(secret: &str, late_secs: i64) -> Self {
        let now = OffsetDateTime::from_unix_timestamp(Clock::system().now().unix_secs() as i64).unwrap()
            - time::Duration::seconds(late_secs);
        let time = now
            .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
            .unwrap();
        let day = &time[..8];
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in [day, "us-east-1", "s3", "aws4_request"] {
            key = mac(&key, part.as_bytes());
        }
        Self {
            key,
            scope: format!("{day}/us-east-1/s3/aws4_request"),
            time,
            previous: String::new(),
        }
    }

    fn seeded(mut self, signature: String) -> Self {
        self.previous = signature;
        self
    }

    fn sign_request(&self, canonical: &str) -> String {
        let hash = hex::encode(Sha256::digest(canonical));
        let text = format!("AWS4-HMAC-SHA256\n{}\n{}\n{hash}", self.time, self.scope);
        hex::encode(mac(&self.key, text.as_bytes()))
    }

    /// One aws-chunk with its signature.
    pub fn chunk(&mut self, data: &[u8]) -> Vec<u8> {
        let empty = hex::encode(Sha256::digest(b""));
        let hash = hex::encode(Sha256::digest(data));
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{}\n{empty}\n{hash}",
            self.time, self.scope, self.previous
        );
        self.previous = hex::encode(mac(&self.key, text.as_bytes()));
        let mut chunk = format!("{:x};chunk-signature={}\r\n", data.len(), self.previous).into_bytes();
        chunk.extend_from_slice(data);
        if !data.is_empty() {
            chunk.extend_from_slice(b"\r\n");
        }
        chunk
    }

    /// The trailer after the last chunk.
    pub fn trailer(&self, name: &str, value: &str) -> Vec<u8> {
        let hash = hex::encode(Sha256::digest(format!("{name}:{value}\n")));
        let text = format!(
            "AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{}\n{hash}",
            self.time, self.scope, self.previous
        );
        let signature = hex::encode(mac(&self.key, text.as_bytes()));
        format!("{name}:{value}\r\nx-amz-trailer-signature:{signature}\r\n\r\n").into_bytes()
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
        .as_ref()
        .to_vec()
}
