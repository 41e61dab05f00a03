//! What a client reads: an object, its head, a listing.

use std::time::Duration;

use bytes::Bytes;
use cairn::object::types::{ObjectInfo, RangeSpec};
use cairn::object::{GetError, GetRequest, ListEntry, ListRequest, ObjectBody};
use futures::StreamExt;
use tokio::time::sleep;

use crate::client::{Client, KEYS, Opened, key};
use crate::model::{Answer, Call, Called, Seen};

impl Client {
    pub async fn get(&self) {
        let Some(bucket) = self.open().await else { return };
        let name = self.any_key();
        if self.world().chance(200) {
            return self.head(&bucket, name).await;
        }
        let first = self.world().below(100_000);
        let range = match self.world().below(6) {
            0 => Some(RangeSpec::From(first, Some(first + self.world().below(50_000)))),
            1 => Some(RangeSpec::From(first, None)),
            2 => Some(RangeSpec::Suffix(1 + first)),
            _ => None,
        };
        self.get_range(&bucket, name, range).await;
    }

    async fn head(&self, bucket: &Opened, name: &str) {
        let Some(key) = key(name) else { return };
        let called = self.call(bucket, name, Call::Read);
        match self.objects.head(&bucket.grant, &key, GetRequest::default()).await {
            Ok(head) => self.saw(&called, &head.info),
            Err(error) => self.not_got(&called, &error),
        }
    }

    /// The bytes that a key should have, by its head.
    pub async fn stored_bytes(&self, bucket: &Opened, name: &str) -> Option<Bytes> {
        let head = self
            .objects
            .head(&bucket.grant, &key(name)?, GetRequest::default())
            .await
            .ok()?;
        self.shared.contents.known(&head.info.etag.to_string())
    }

    fn not_got(&self, called: &Called, error: &GetError) {
        match error {
            GetError::NoSuchKey => self.answer(called, Answer::Saw(Seen::Absent)),
            GetError::Store(error) => {
                self.check_error(error);
                self.answer(called, Answer::Failed);
            }
            _ => self.answer(called, Answer::Failed),
        }
    }

    /// True: the key is absent, or all that was asked for was given.
    pub async fn get_range(&self, bucket: &Opened, name: &str, range: Option<RangeSpec>) -> bool {
        let Some(key) = key(name) else { return false };
        let called = self.call(bucket, name, Call::Read);
        let request = GetRequest {
            range,
            ..GetRequest::default()
        };
        let outcome = match self.objects.get(&bucket.grant, &key, request).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.not_got(&called, &error);
                return matches!(error, GetError::NoSuchKey);
            }
        };
        let mut given = Vec::new();
        match outcome.body {
            ObjectBody::Inline(bytes) => given.extend_from_slice(&bytes),
            ObjectBody::Stream(mut stream) => {
                while let Some(piece) = stream.next().await {
                    if self.world().chance(100) {
                        self.world().pause(30).await;
                    }
                    match piece {
                        Ok(piece) => given.extend_from_slice(&piece),
                        Err(error) => {
                            self.check_error(&error.into());
                            self.answer(&called, Answer::Failed);
                            return false;
                        }
                    }
                }
            }
        }
        let tag = outcome.info.etag.to_string();
        let range = outcome.first as usize..(outcome.first + outcome.length) as usize;
        let known = self.shared.contents.known(&tag);
        match known.as_ref().and_then(|known| known.get(range.clone())) {
            Some(expected) if expected == given => {}
            found => self.world().violated(format!(
                "{name} with the ETag {tag}: wrong bytes in {range:?}: {} for {:?}",
                given.len(),
                found.map(<[u8]>::len)
            )),
        }
        self.saw(&called, &outcome.info);
        true
    }

    fn saw(&self, called: &Called, info: &ObjectInfo) {
        let version = info.headers.user.iter().find(|(name, _)| name == "v");
        let Some(version) = version.and_then(|(_, version)| version.parse().ok()) else {
            return self.world().violated("an object has lost its metadata".to_owned());
        };
        let tag = info.etag.to_string();
        let (known, length) = {
            let model = self.shared.model.lock();
            let known = model.tag_of(version).is_none_or(|known| known == tag);
            (known, self.shared.contents.known(&tag).map(|bytes| bytes.len() as u64))
        };
        if !known || length != Some(info.size) {
            self.world()
                .violated(format!("version {version} with ETag {tag} and {} bytes", info.size));
        }
        self.answer(called, Answer::Saw(Seen::Version(version)));
    }

    pub async fn list(&self) {
        if let Some(bucket) = self.open().await {
            self.list_all(&bucket).await;
        }
    }

    /// Reads all keys at once, in pages. True: all of them.
    pub async fn list_all(&self, bucket: &Opened) -> bool {
        let mut called: Vec<(&str, Called)> = KEYS
            .into_iter()
            .map(|name| (name, self.call(bucket, name, Call::Read)))
            .collect();
        let mut request = ListRequest {
            limit: 1 + self.world().below(6) as usize,
            ..ListRequest::default()
        };
        loop {
            let page = match self.objects.list(&bucket.grant, request.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    self.check_error(&error);
                    return false;
                }
            };
            for entry in &page.entries {
                let Some(at) = called.iter().position(|(name, _)| *name == entry.name()) else {
                    self.world()
                        .violated(format!("{} is listed and was never written, or twice", entry.name()));
                    continue;
                };
                let (_, called) = called.remove(at);
                if let ListEntry::Object(object) = entry {
                    self.answer(&called, Answer::Saw(Seen::Tag(object.etag().to_string())));
                }
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
            sleep(Duration::from_millis(self.world().below(10))).await;
        }
        called
            .iter()
            .for_each(|(_, called)| self.answer(called, Answer::Saw(Seen::Absent)));
        true
    }
}
