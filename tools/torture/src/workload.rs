//! Eight writers, each on keys of its own.

use crate::Result;
use crate::client::{Access, Client, element, refused};
use crate::content::{Content, etag, md5, multipart_etag};
use crate::history::{Change, Clock, History, Part, Upload, Version};
use crate::http::Response;
use fastrand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub const BUCKET: &str = "torture";
pub const WRITERS: usize = 8;
const KEYS_PER_WRITER: usize = 12;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// S3's least size of a part that is not the last.
const PART_BYTES_MIN: usize = 5 * MIB;

/// How large bodies get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// 0 B to 40 MiB.
    Full,
    /// 0 B to a few MiB, rarely more: for runs whose every write is recorded.
    Small,
}

/// Set just before the gateway is ended: from then on a lost connection is no failure.
pub type Ending = Arc<AtomicBool>;

pub struct Writer {
    index: usize,
    client: Client,
    rng: Rng,
    scale: Scale,
    clock: Arc<Clock>,
    ending: Ending,
    history: History,
    done: u64,
}

/// Runs the writers until `ending` is set and the gateway is gone (or, if it stays, until their next turn).
pub struct Running(Vec<tokio::task::JoinHandle<Result<(History, u64)>>>);

impl Running {
    pub fn start(
        access: &Access,
        histories: Vec<History>,
        scale: Scale,
        clock: &Arc<Clock>,
        ending: &Ending,
        seed: u64,
    ) -> Self {
        let writers = histories.into_iter().enumerate().map(|(index, history)| Writer {
            index,
            client: Client::new(access),
            rng: Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(index as u64)),
            scale,
            clock: Arc::clone(clock),
            ending: Arc::clone(ending),
            history,
            done: 0,
        });
        Self(writers.map(|writer| tokio::spawn(writer.run())).collect())
    }

    /// The histories and how many requests were acknowledged.
    pub async fn join(self) -> Result<(Vec<History>, u64)> {
        let (mut histories, mut done) = (Vec::new(), 0);
        for writer in self.0 {
            let (history, count) = writer.await??;
            histories.push(history);
            done += count;
        }
        Ok((histories, done))
    }
}

impl Writer {
    async fn run(mut self) -> Result<(History, u64)> {
        while !self.ending.load(Ordering::SeqCst) {
            if let Err(error) = self.step().await {
                if self.ending.load(Ordering::SeqCst) {
                    break;
                }
                return Err(format!("writer {}: {error}", self.index).into());
            }
        }
        Ok((self.history, self.done))
    }

    async fn step(&mut self) -> Result<()> {
        let key = format!(
            "w{}/{}/key-{}",
            self.index,
            self.rng.u32(0..3),
            self.rng.usize(0..KEYS_PER_WRITER / 3)
        );
        match self.rng.u32(0..100) {
            0..=49 => self.put(key).await,
            50..=64 => self.delete(key).await,
            65..=79 => self.copy(key).await,
            80..=94 => self.multipart(key).await,
            _ => self.resume().await,
        }
    }

    fn size(&mut self) -> usize {
        let near = |rng: &mut Rng, size: usize| size - 1 + rng.usize(0..3);
        let rng = &mut self.rng;
        let (roll, full) = (rng.u32(0..100), self.scale == Scale::Full);
        match roll {
            0..=3 => 0,
            4..=39 => rng.usize(1..8 * KIB),
            40..=49 => near(rng, 8 * KIB),
            50..=57 => near(rng, 64 * KIB),
            58..=79 => rng.usize(8 * KIB..256 * KIB),
            80..=87 if full => MIB,
            88..=91 if full => rng.usize(MIB..8 * MIB),
            92..=94 if full => 5 * MIB + 1,
            95 if full => 40 * MIB,
            98..=99 => rng.usize(MIB..3 * MIB),
            _ => rng.usize(64 * KIB..512 * KIB),
        }
    }

    fn content(&mut self) -> Content {
        // A small range of seeds makes equal bodies, which are stored once.
        let seed = if self.rng.u32(0..5) == 0 {
            self.rng.u64(0..30)
        } else {
            self.rng.u64(..)
        };
        Content::one(seed, self.size())
    }

    /// Notes that the key is about to change.
    fn begin(&mut self, key: &str, after: Option<Version>) {
        let change = Change {
            start: self.clock.now(),
            acknowledged: None,
            after,
        };
        self.history.changes.entry(key.to_owned()).or_default().push(change);
    }

    /// Notes the answer; `etag` is what it told.
    fn acknowledged(&mut self, key: &str, etag: Option<String>) {
        let now = self.clock.now();
        self.done += 1;
        if let Some(change) = self.history.changes.get_mut(key).and_then(|changes| changes.last_mut()) {
            change.acknowledged = Some(now);
            if let (Some(version), Some(etag)) = (&mut change.after, etag) {
                version.etag = Some(etag);
            }
        }
    }

    async fn send(
        &mut self,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        self.client
            .send(method, &format!("/{BUCKET}/{key}"), query, headers, body)
            .await
    }

    async fn put(&mut self, key: String) -> Result<()> {
        let content = self.content();
        let body = content.bytes();
        let etag = etag(&body);
        self.begin(
            &key,
            Some(Version {
                content,
                etag: Some(etag.clone()),
            }),
        );
        let response = self.send("PUT", &key, &[], &[], &body).await?;
        match response.status {
            200 if response.etag() == etag => self.acknowledged(&key, None),
            // Overload is allowed; the change stays in doubt.
            503 => {}
            200 => return Err(format!("put of {key}: ETag {} instead of {etag}", response.etag()).into()),
            _ => return Err(refused(&format!("put of {key}"), &response).into()),
        }
        Ok(())
    }

    async fn delete(&mut self, key: String) -> Result<()> {
        self.begin(&key, None);
        let response = self.send("DELETE", &key, &[], &[], &[]).await?;
        match response.status {
            204 => self.acknowledged(&key, None),
            503 => {}
            _ => return Err(refused(&format!("delete of {key}"), &response).into()),
        }
        Ok(())
    }

    async fn copy(&mut self, key: String) -> Result<()> {
        let sources: Vec<String> = self
            .history
            .changes
            .keys()
            .filter(|from| **from != key)
            .cloned()
            .collect();
        let Some(from) = self.rng.choice(sources) else {
            return Ok(());
        };
        let Some(Some(version)) = self.history.certain(&from) else {
            return Ok(());
        };
        self.begin(
            &key,
            Some(Version {
                content: version.content,
                etag: None,
            }),
        );
        let source = format!("/{BUCKET}/{from}");
        let response = self
            .send("PUT", &key, &[], &[("x-amz-copy-source", &source)], &[])
            .await?;
        match (response.status, element(&response.text(), "ETag")) {
            (200, Some(etag)) => self.acknowledged(&key, Some(etag.trim_matches('"').to_owned())),
            (503, _) => {}
            _ => return Err(refused(&format!("copy of {from} to {key}"), &response).into()),
        }
        Ok(())
    }

    async fn multipart(&mut self, key: String) -> Result<()> {
        let response = self.send("POST", &key, &[("uploads", "")], &[], &[]).await?;
        let Some(id) = element(&response.text(), "UploadId").filter(|_| response.status == 200) else {
            return if response.status == 503 {
                Ok(())
            } else {
                Err(refused("create upload", &response).into())
            };
        };
        let upload = Upload {
            key,
            id,
            acknowledged: self.clock.now(),
            parts: Vec::new(),
            ending: None,
        };
        self.history.uploads.push(upload);
        let index = self.history.uploads.len() - 1;
        let large = if self.scale == Scale::Full {
            self.rng.usize(0..3)
        } else {
            usize::from(self.rng.u32(0..25) == 0)
        };
        for number in 1..=large + 1 {
            let last = number > large;
            let seed = self.rng.u64(..);
            let bytes = if last {
                self.size().min(6 * MIB)
            } else {
                PART_BYTES_MIN + self.rng.usize(0..3)
            };
            self.part(index, number as u32, Content::one(seed, bytes)).await?;
        }
        match self.rng.u32(0..10) {
            0..=6 => self.complete(index).await,
            7..=8 => self.abort(index).await,
            _ => Ok(()),
        }
    }

    /// Goes on with an upload that was left open, perhaps before a restart.
    async fn resume(&mut self) -> Result<()> {
        let open = (0..self.history.uploads.len()).filter(|index| {
            self.history
                .uploads
                .get(*index)
                .is_some_and(|upload| upload.ending.is_none())
        });
        let Some(index) = self.rng.choice(open.collect::<Vec<_>>()) else {
            return Ok(());
        };
        if self.rng.bool() {
            self.complete(index).await
        } else {
            self.abort(index).await
        }
    }

    async fn part(&mut self, index: usize, number: u32, content: Content) -> Result<()> {
        let start = self.clock.now();
        let Some(upload) = self.history.uploads.get_mut(index) else {
            return Ok(());
        };
        let (key, id) = (upload.key.clone(), upload.id.clone());
        let body = content.bytes();
        upload.parts.push(Part {
            number,
            content,
            start,
            acknowledged: None,
        });
        let text = number.to_string();
        let response = self
            .send("PUT", &key, &[("partNumber", &text), ("uploadId", &id)], &[], &body)
            .await?;
        if response.status != 200 || response.etag() != etag(&body) {
            return Err(refused(&format!("part {number} of {key}"), &response).into());
        }
        let now = self.clock.now();
        self.done += 1;
        if let Some(part) = self
            .history
            .uploads
            .get_mut(index)
            .and_then(|upload| upload.parts.last_mut())
        {
            part.acknowledged = Some(now);
        }
        Ok(())
    }

    async fn complete(&mut self, index: usize) -> Result<()> {
        let start = self.clock.now();
        let Some(upload) = self.history.uploads.get_mut(index) else {
            return Ok(());
        };
        // A part in doubt makes the result unknown; such an upload is only ever aborted.
        if upload.parts.is_empty() || upload.parts.iter().any(|part| part.acknowledged.is_none()) {
            return self.abort(index).await;
        }
        upload.ending = Some(start);
        let (key, id) = (upload.key.clone(), upload.id.clone());
        let hashes: Vec<[u8; 16]> = upload.parts.iter().map(|part| md5(&part.content.bytes())).collect();
        let pieces = upload
            .parts
            .iter()
            .flat_map(|part| part.content.pieces.clone())
            .collect();
        let lines: String = (1..)
            .zip(&hashes)
            .map(|(number, hash)| {
                format!(
                    "<Part><PartNumber>{number}</PartNumber><ETag>\"{}\"</ETag></Part>",
                    hex::encode(hash)
                )
            })
            .collect();
        let body = format!("<CompleteMultipartUpload>{lines}</CompleteMultipartUpload>");
        let etag = multipart_etag(&hashes);
        self.begin(
            &key,
            Some(Version {
                content: Content { pieces },
                etag: Some(etag.clone()),
            }),
        );
        let response = self
            .send("POST", &key, &[("uploadId", &id)], &[], body.as_bytes())
            .await?;
        let told = element(&response.text(), "ETag").unwrap_or_default();
        match response.status {
            200 if told.trim_matches('"') == etag => self.acknowledged(&key, None),
            503 => {}
            _ => return Err(refused(&format!("complete of {key}, ETag {etag} expected"), &response).into()),
        }
        Ok(())
    }

    async fn abort(&mut self, index: usize) -> Result<()> {
        let start = self.clock.now();
        let Some(upload) = self.history.uploads.get_mut(index) else {
            return Ok(());
        };
        upload.ending = Some(start);
        let (key, id) = (upload.key.clone(), upload.id.clone());
        let response = self.send("DELETE", &key, &[("uploadId", &id)], &[], &[]).await?;
        match response.status {
            204 => self.done += 1,
            503 => {}
            _ => return Err(refused(&format!("abort of {key}"), &response).into()),
        }
        Ok(())
    }
}
