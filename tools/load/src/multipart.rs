//! Multipart uploads: create, parts one after another, complete.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::body::FILLED;
use crate::link::{Bytes, Payload};
use crate::sign::{Extra, Request, push, push_number, sha256_hex};
use crate::worker::{Moved, OpError, Worker, between};

impl Worker {
    pub(crate) async fn multipart(&mut self) -> Result<Moved, OpError> {
        let object = self.site.sequence.fetch_add(1, Ordering::Relaxed);
        let load = self.plan.load.clone();
        let source = format!("/{}/{}part-source", load.bucket, load.key_prefix);
        if load.part_copy {
            self.path.clone_from(&source);
            self.upload(
                "",
                Bytes {
                    object: FILLED,
                    offset: 0,
                    length: load.part_size,
                },
            )
            .await?;
        }
        self.path = format!("/{}/m{:016x}/{object:012}", load.bucket, self.plan.content.run());
        let answer = self.plain("POST", "uploads=", Extra::None).await?;
        self.expect(&answer, 200)?;
        let text = String::from_utf8_lossy(&self.text).into_owned();
        let id = between(&text, "<UploadId>", "</UploadId>")
            .ok_or(OpError::Wrong("no UploadId"))?
            .to_owned();
        let mut parts = String::from("<CompleteMultipartUpload>");
        for number in 1..=load.size.div_ceil(load.part_size).max(1) {
            let query = format!("partNumber={number}&uploadId={}", crate::sign::encode_query(&id));
            let offset = (number - 1) * load.part_size;
            let etag = if load.part_copy {
                let answer = self.plain("PUT", &query, Extra::CopySource(&source)).await?;
                self.expect(&answer, 200)?;
                let text = String::from_utf8_lossy(&self.text);
                between(&text, "<ETag>", "</ETag>")
                    .ok_or(OpError::Wrong("no ETag"))?
                    .to_owned()
            } else {
                let length = load.part_size.min(load.size - offset);
                self.upload(&query, Bytes { object, offset, length }).await?.etag
            };
            let written = write!(
                parts,
                "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            );
            debug_assert!(written.is_ok());
        }
        parts.push_str("</CompleteMultipartUpload>");
        self.complete(&id, &parts).await?;
        Ok(Moved {
            bytes: load.size,
            keys: 1,
        })
    }

    async fn complete(&mut self, id: &str, parts: &str) -> Result<(), OpError> {
        let query = format!("uploadId={}", crate::sign::encode_query(id));
        let payload_hash = sha256_hex(parts.as_bytes());
        let path = &self.path;
        let request = Request {
            method: "POST",
            path,
            query: &query,
            payload_hash: &payload_hash,
            extra: Extra::None,
        };
        self.out.clear();
        self.signer.head(&request, &mut self.out);
        push(&mut self.out, &[b"content-length: "]);
        push_number(&mut self.out, parts.len() as u64);
        push(&mut self.out, &[b"\r\n\r\n", parts.as_bytes()]);
        self.text.clear();
        let begun = Instant::now();
        let (text, content) = (&mut self.text, &self.plan.content);
        let sink = |piece: &[u8]| text.extend_from_slice(piece);
        let answer = self
            .link
            .exchange(&mut self.out, Payload::None, content, true, sink)
            .await?;
        self.expect(&answer, 200)?;
        if memchr::memmem::find(&self.text, b"<Error>").is_some() {
            return Err(OpError::Wrong("complete answered 200 with an error inside"));
        }
        self.stats.complete.record(begun.elapsed().as_nanos() as u64);
        Ok(())
    }
}
