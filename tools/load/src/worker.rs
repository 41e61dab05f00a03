//! A worker: one operation after another over its own connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::args::{Op, Payload as Mode};
use crate::body::next_random;
use crate::http::{Answer, HttpError};
use crate::link::{Bytes, Link, Payload, chunked_length};
use crate::sign::{EMPTY_SHA256, Extra, Request, STREAMING, Signer, UNSIGNED, push, push_number, sha256_hex};
use crate::site::{Plan, REPEATED, Site};
use crate::stats::{Stats, name};

const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How long a worker stands back after 503 SlowDown.
const BACK_OFF: Duration = Duration::from_millis(10);
/// Bytes of each GET that are compared with what was put, at a random place.
const COMPARED_BYTES: u64 = 64 << 10;
const REPEATED_BODIES: u64 = 64;

#[derive(Debug, thiserror::Error)]
pub enum OpError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{status} {code}")]
    Refused { status: u16, code: String },
    #[error("{0}")]
    Wrong(&'static str),
}

/// What an operation moved.
#[derive(Default)]
pub struct Moved {
    pub bytes: u64,
    pub keys: u64,
}

pub struct Worker {
    pub(crate) site: Arc<Site>,
    pub(crate) plan: Arc<Plan>,
    pub link: Link,
    pub(crate) signer: Signer,
    pub(crate) out: Vec<u8>,
    pub(crate) path: String,
    pub(crate) text: Vec<u8>,
    pub(crate) cursor: crate::listing::Cursor,
    random: u64,
    pub stats: Stats,
}

impl Worker {
    pub fn new(site: &Arc<Site>, plan: &Arc<Plan>, number: u64) -> Self {
        let load = &plan.load;
        let connections = load.connections / load.concurrency.max(1);
        Self {
            link: Link::new(
                &site.peer,
                connections,
                if load.op == Op::List { 1 << 20 } else { load.size },
            ),
            signer: site.signer(),
            site: Arc::clone(site),
            plan: Arc::clone(plan),
            out: Vec::with_capacity(8192),
            path: String::new(),
            text: Vec::new(),
            cursor: crate::listing::Cursor::default(),
            random: (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            stats: Stats::default(),
        }
    }

    /// Works until the deadline, or until there is nothing left to do.
    pub async fn run(mut self, deadline: Instant) -> Self {
        while Instant::now() < deadline {
            let count = self.plan.load.count.unwrap_or(u64::MAX);
            if self.site.begun.fetch_add(1, Ordering::Relaxed) >= count {
                break;
            }
            let op = self.choose();
            if op == Op::Delete && self.site.cursor.load(Ordering::Relaxed) >= self.plan.keys() {
                break;
            }
            self.step(op).await;
        }
        self
    }

    /// Makes the objects that others read, list or delete.
    pub async fn fill(mut self) -> Result<(), OpError> {
        loop {
            let index = self.site.cursor.fetch_add(1, Ordering::Relaxed);
            if index >= self.plan.keys() {
                return Ok(());
            }
            self.plan.filled_path(index, &mut self.path);
            let bytes = Bytes {
                object: self.plan.filled_object(index),
                offset: 0,
                length: self.plan.load.size,
            };
            self.upload("", bytes).await?;
        }
    }

    fn choose(&mut self) -> Op {
        if self.plan.load.op != Op::Mixed {
            return self.plan.load.op;
        }
        match next_random(&mut self.random) % 100 {
            0..60 => Op::Get,
            60..85 => Op::Put,
            85..95 => Op::Head,
            _ => Op::List,
        }
    }

    async fn step(&mut self, op: Op) {
        self.link.begun = None;
        self.link.rotate();
        let result = match tokio::time::timeout(ANSWER_WITHIN, self.operate(op)).await {
            Ok(result) => result,
            Err(_) => Err(HttpError::Timeout.into()),
        };
        let took_ns = self.link.begun.map_or(0, |begun| begun.elapsed().as_nanos() as u64);
        match result {
            Ok(moved) => {
                self.stats.all.record(took_ns);
                self.stats.bytes += moved.bytes;
                self.stats.keys += moved.keys;
                if self.plan.load.op == Op::Mixed {
                    self.stats.by_op.entry(name(op)).or_default().record(took_ns);
                }
            }
            Err(OpError::Refused { status: 503, code }) if code == "SlowDown" || code == "SlowDownWrite" => {
                self.stats.slow_downs += 1;
                tokio::time::sleep(BACK_OFF).await;
            }
            Err(error) => {
                if matches!(error, OpError::Http(_)) {
                    self.link.drop_current();
                    tokio::time::sleep(BACK_OFF).await;
                }
                *self.stats.errors.entry(error.to_string()).or_default() += 1;
            }
        }
    }

    async fn operate(&mut self, op: Op) -> Result<Moved, OpError> {
        match op {
            Op::Put | Op::Mixed => self.put().await,
            Op::Get => self.get().await,
            Op::Head => self.head().await,
            Op::List => self.list().await,
            Op::Delete => self.delete().await,
            Op::Multipart => self.multipart().await,
        }
    }

    /// A new object's number, or now and then that of a body sent before.
    fn new_object(&mut self) -> (u64, u64) {
        let sequence = self.site.sequence.fetch_add(1, Ordering::Relaxed);
        let repeats = self.plan.load.duplicate_ratio;
        if repeats > 0.0 && (next_random(&mut self.random) >> 11) as f64 / ((1u64 << 53) as f64) < repeats {
            return (sequence, REPEATED | (next_random(&mut self.random) % REPEATED_BODIES));
        }
        (sequence, sequence)
    }

    async fn put(&mut self) -> Result<Moved, OpError> {
        use std::fmt::Write;
        let (sequence, object) = self.new_object();
        let load = &self.plan.load;
        let ring = if load.op == Op::Put {
            load.keys.unwrap_or(u64::MAX)
        } else {
            u64::MAX
        };
        self.path.clear();
        let run = self.plan.content.run();
        let written = write!(self.path, "/{}/n{run:016x}/{:012}", load.bucket, sequence % ring);
        debug_assert!(written.is_ok());
        let bytes = Bytes {
            object,
            offset: 0,
            length: load.size,
        };
        self.upload("", bytes).await?;
        Ok(Moved {
            bytes: bytes.length,
            keys: 1,
        })
    }

    /// Puts `bytes` at the path, or at a part of it by `query`.
    pub(crate) async fn upload(&mut self, query: &str, bytes: Bytes) -> Result<Answer, OpError> {
        let plan = Arc::clone(&self.plan);
        let out = &mut self.out;
        out.clear();
        let whole_hash;
        let (hash, extra, wire_length): (&[u8], _, _) = match plan.payload {
            Mode::Chunked => (
                STREAMING.as_bytes(),
                Extra::DecodedLength(bytes.length),
                chunked_length(bytes.length),
            ),
            Mode::Unsigned => (UNSIGNED.as_bytes(), Extra::None, bytes.length),
            Mode::Signed => {
                self.text.clear();
                plan.content
                    .append(bytes.object, bytes.offset, bytes.length as usize, &mut self.text);
                whole_hash = sha256_hex(&self.text);
                (&whole_hash, Extra::None, bytes.length)
            }
        };
        let request = Request {
            method: "PUT",
            path: &self.path,
            query,
            payload_hash: hash,
            extra,
        };
        let seed = self.signer.head(&request, out);
        push(out, &[b"content-length: "]);
        push_number(out, wire_length);
        push(out, &[b"\r\n\r\n"]);
        let payload = match plan.payload {
            Mode::Chunked => Payload::Chunked(bytes, &mut self.signer, seed),
            Mode::Unsigned if bytes.length > 0 => Payload::Plain(bytes),
            Mode::Unsigned => Payload::None,
            Mode::Signed => {
                push(out, &[&self.text]);
                Payload::None
            }
        };
        let answer = self.link.exchange(out, payload, &plan.content, true, |_| {}).await?;
        self.expect(&answer, 200)?;
        Ok(answer)
    }

    /// A request without a body; what comes back stays in `self.text`.
    pub(crate) async fn plain(&mut self, method: &str, query: &str, extra: Extra<'_>) -> Result<Answer, OpError> {
        self.out.clear();
        let payload_hash = EMPTY_SHA256.as_bytes();
        let request = Request {
            method,
            path: &self.path,
            query,
            payload_hash,
            extra,
        };
        self.signer.head(&request, &mut self.out);
        let end: &[u8] = if matches!(method, "PUT" | "POST") {
            b"content-length: 0\r\n\r\n"
        } else {
            b"\r\n"
        };
        push(&mut self.out, &[end]);
        self.text.clear();
        let (text, content) = (&mut self.text, &self.plan.content);
        let sink = |piece: &[u8]| text.extend_from_slice(piece);
        Ok(self
            .link
            .exchange(&mut self.out, Payload::None, content, method != "HEAD", sink)
            .await?)
    }

    pub(crate) fn expect(&self, answer: &Answer, status: u16) -> Result<(), OpError> {
        if answer.status == status {
            return Ok(());
        }
        let refusal = String::from_utf8_lossy(&self.link.refusal);
        let code = between(&refusal, "<Code>", "</Code>").unwrap_or_default().to_owned();
        Err(OpError::Refused {
            status: answer.status,
            code,
        })
    }

    fn pick_filled(&mut self) -> u64 {
        let index = next_random(&mut self.random) % self.plan.keys();
        self.plan.filled_path(index, &mut self.path);
        self.plan.filled_object(index)
    }

    async fn get(&mut self) -> Result<Moved, OpError> {
        let object = self.pick_filled();
        let size = self.plan.load.size;
        let length = size.min(COMPARED_BYTES);
        let from = next_random(&mut self.random) % ((size - length) / 4096 + 1) * 4096;
        self.text.clear();
        self.plan.content.append(object, from, length as usize, &mut self.text);
        self.out.clear();
        let payload_hash = EMPTY_SHA256.as_bytes();
        let request = Request {
            method: "GET",
            path: &self.path,
            query: "",
            payload_hash,
            extra: Extra::None,
        };
        self.signer.head(&request, &mut self.out);
        push(&mut self.out, &[b"\r\n"]);
        let (mut position, mut same) = (0u64, true);
        let expected = &self.text;
        let sink = |piece: &[u8]| {
            let end = position + piece.len() as u64;
            let (low, high) = (position.max(from), end.min(from + length));
            if low < high {
                let got = piece.get((low - position) as usize..(high - position) as usize);
                same &= got == expected.get((low - from) as usize..(high - from) as usize);
            }
            position = end;
        };
        let answer = self
            .link
            .exchange(&mut self.out, Payload::None, &self.plan.content, true, sink)
            .await?;
        self.expect(&answer, 200)?;
        if position != size {
            return Err(OpError::Wrong("length differs"));
        }
        if !same {
            return Err(OpError::Wrong("content differs"));
        }
        Ok(Moved { bytes: size, keys: 1 })
    }

    async fn head(&mut self) -> Result<Moved, OpError> {
        self.pick_filled();
        let answer = self.plain("HEAD", "", Extra::None).await?;
        self.expect(&answer, 200)?;
        if answer.content_length != Some(self.plan.load.size) {
            return Err(OpError::Wrong("length differs"));
        }
        Ok(Moved { bytes: 0, keys: 1 })
    }

    async fn delete(&mut self) -> Result<Moved, OpError> {
        let index = self.site.cursor.fetch_add(1, Ordering::Relaxed);
        self.plan.filled_path(index, &mut self.path);
        let answer = self.plain("DELETE", "", Extra::None).await?;
        self.expect(&answer, 204)?;
        Ok(Moved { bytes: 0, keys: 1 })
    }

    pub async fn make_bucket(mut self) -> Result<(), OpError> {
        self.path = format!("/{}", self.plan.load.bucket);
        let answer = self.plain("PUT", "", Extra::None).await?;
        match self.expect(&answer, 200) {
            Err(OpError::Refused { code, .. }) if code == "BucketAlreadyOwnedByYou" => Ok(()),
            other => other,
        }
    }
}

pub(crate) fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close).map(|(inside, _)| inside)
}
