//! The kinds of request: what must be there before, what is sent, and what it changes.

use super::site::{Site, TARGET};
use crate::Result;
use crate::client::{element, elements, refused};
use crate::content::{Content, etag, md5, multipart_etag};
use crate::history::{Change, Part, Upload, Version};
use crate::http::Response;
use crate::workload::BUCKET;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// S3's least size of a part that is not the last.
const PART_BYTES: usize = 5 * MIB;
const LAST_PART_BYTES: usize = 300 * KIB;
/// How many keys a multi-delete names.
const MANY: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// No byte.
    PutEmpty,
    /// 4 KiB: the body is a row.
    PutInline,
    /// 1 MiB: the body goes to a pack.
    PutPack,
    /// 20 MiB: several windows.
    PutLarge,
    Overwrite,
    Copy,
    Delete,
    DeleteMany,
    CreateUpload,
    UploadPart,
    Complete,
    Abort,
    CreateBucket,
    DeleteBucket,
}

pub const KINDS: [Kind; 14] = [
    Kind::PutEmpty,
    Kind::PutInline,
    Kind::PutPack,
    Kind::PutLarge,
    Kind::Overwrite,
    Kind::Copy,
    Kind::Delete,
    Kind::DeleteMany,
    Kind::CreateUpload,
    Kind::UploadPart,
    Kind::Complete,
    Kind::Abort,
    Kind::CreateBucket,
    Kind::DeleteBucket,
];

impl Kind {
    /// Whether it may begin a pack: then the process must not have one open already.
    pub fn wants_no_open_pack(self) -> bool {
        matches!(self, Self::PutPack | Self::PutLarge | Self::UploadPart)
    }
}

/// What a request changes.
pub enum Effect {
    Keys(Vec<(String, Option<Version>)>),
    /// Makes an upload of the target.
    Upload,
    /// Adds the last part to the site's upload.
    Part(Content),
    /// Ends the site's upload, and with it the target becomes this.
    Complete(Version),
    Abort,
    /// A bucket is there afterwards, or not.
    Bucket(bool),
}

/// A request that is ready to be sent.
pub struct Ask {
    pub method: &'static str,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub effect: Effect,
}

pub const SIDE_BUCKET: &str = "torture-side";

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn key_path(key: &str) -> String {
    format!("/{BUCKET}/{key}")
}

impl Ask {
    fn new(method: &'static str, path: String, effect: Effect) -> Self {
        Self {
            method,
            path,
            query: Vec::new(),
            headers: Vec::new(),
            body: Vec::new(),
            effect,
        }
    }

    pub fn put(key: &str, content: Content) -> Self {
        let body = content.bytes();
        let version = Version {
            content,
            etag: Some(etag(&body)),
        };
        Self {
            body,
            ..Self::new(
                "PUT",
                key_path(key),
                Effect::Keys(vec![(key.to_owned(), Some(version))]),
            )
        }
    }

    pub fn delete(key: &str) -> Self {
        Self::new("DELETE", key_path(key), Effect::Keys(vec![(key.to_owned(), None)]))
    }

    fn delete_many(keys: &[String]) -> Self {
        let names: String = keys
            .iter()
            .map(|key| format!("<Object><Key>{key}</Key></Object>"))
            .collect();
        let body = format!("<Delete>{names}</Delete>").into_bytes();
        let sum = BASE64.encode(md5(&body));
        let effect = Effect::Keys(keys.iter().map(|key| (key.clone(), None)).collect());
        Self {
            query: pairs(&[("delete", "")]),
            headers: pairs(&[("content-md5", &sum)]),
            body,
            ..Self::new("POST", format!("/{BUCKET}"), effect)
        }
    }

    fn copy(from: &str, to: &str, content: Content) -> Self {
        let version = Version { content, etag: None };
        Self {
            headers: pairs(&[("x-amz-copy-source", &key_path(from))]),
            ..Self::new("PUT", key_path(to), Effect::Keys(vec![(to.to_owned(), Some(version))]))
        }
    }

    fn part(upload: &Upload, number: u32, content: Content) -> Self {
        Self {
            query: pairs(&[("partNumber", &number.to_string()), ("uploadId", &upload.id)]),
            body: content.bytes(),
            ..Self::new("PUT", key_path(&upload.key), Effect::Part(content))
        }
    }

    /// Completes an upload of these parts.
    pub fn complete(upload: &Upload, parts: &[&Part]) -> Self {
        let hashes: Vec<[u8; 16]> = parts.iter().map(|part| md5(&part.content.bytes())).collect();
        let lines: String = parts
            .iter()
            .zip(&hashes)
            .map(|(part, hash)| {
                let (number, hash) = (part.number, hex::encode(hash));
                format!("<Part><PartNumber>{number}</PartNumber><ETag>\"{hash}\"</ETag></Part>")
            })
            .collect();
        let version = Version {
            content: Content {
                pieces: parts.iter().flat_map(|part| part.content.pieces.clone()).collect(),
            },
            etag: Some(multipart_etag(&hashes)),
        };
        Self {
            query: pairs(&[("uploadId", &upload.id)]),
            body: format!("<CompleteMultipartUpload>{lines}</CompleteMultipartUpload>").into_bytes(),
            ..Self::new("POST", key_path(&upload.key), Effect::Complete(version))
        }
    }

    pub fn abort(key: &str, id: &str) -> Self {
        Self {
            query: pairs(&[("uploadId", id)]),
            ..Self::new("DELETE", key_path(key), Effect::Abort)
        }
    }

    pub fn bucket(makes: bool) -> Self {
        let method = if makes { "PUT" } else { "DELETE" };
        Self::new(method, format!("/{SIDE_BUCKET}"), Effect::Bucket(makes))
    }
}

impl Site {
    /// Brings the site to where a request of this kind can be sent, and makes it.
    pub async fn prepare(&mut self, kind: Kind) -> Result<Ask> {
        let content = |site: &mut Self, bytes: usize| Content::one(site.rng.u64(..), bytes);
        let size = match kind {
            Kind::PutEmpty => 0,
            Kind::PutPack => MIB,
            Kind::PutLarge => 20 * MIB,
            Kind::Overwrite | Kind::Copy | Kind::Delete => 100 * KIB,
            _ => 4 * KIB,
        };
        let body = content(self, size);
        if !matches!(kind, Kind::Overwrite | Kind::Delete) {
            self.remove_target().await?;
        }
        let ask = match kind {
            Kind::PutEmpty | Kind::PutInline | Kind::PutPack | Kind::PutLarge => Ask::put(TARGET, body),
            Kind::Overwrite => {
                let earlier = content(self, 700 * KIB);
                self.done(Ask::put(TARGET, earlier)).await?;
                Ask::put(TARGET, body)
            }
            Kind::Delete => {
                self.done(Ask::put(TARGET, body)).await?;
                Ask::delete(TARGET)
            }
            Kind::Copy => {
                self.done(Ask::put("source", body.clone())).await?;
                Ask::copy("source", TARGET, body)
            }
            Kind::DeleteMany => {
                let keys: Vec<String> = (0..MANY).map(|number| format!("many-{number}")).collect();
                for (number, key) in keys.iter().enumerate() {
                    let body = content(self, 1 + number * 30 * KIB);
                    self.done(Ask::put(key, body)).await?;
                }
                Ask::delete_many(&keys)
            }
            Kind::CreateUpload => Ask {
                query: pairs(&[("uploads", "")]),
                ..Ask::new("POST", key_path(TARGET), Effect::Upload)
            },
            Kind::UploadPart | Kind::Complete | Kind::Abort => self.prepare_upload(kind).await?,
            Kind::CreateBucket => Ask::bucket(true),
            Kind::DeleteBucket => {
                self.done(Ask::bucket(true)).await?;
                Ask::bucket(false)
            }
        };
        Ok(ask)
    }

    async fn prepare_upload(&mut self, kind: Kind) -> Result<Ask> {
        let response = self
            .client
            .send("POST", &key_path(TARGET), &[("uploads", "")], &[], &[])
            .await?;
        let id = element(&response.text(), "UploadId").ok_or_else(|| refused("create upload", &response))?;
        self.history.uploads = vec![Upload {
            key: TARGET.to_owned(),
            id,
            acknowledged: self.clock.now(),
            parts: Vec::new(),
            ending: None,
        }];
        // An upload's first part would open the pack that the request itself is to open.
        let sizes: &[usize] = match kind {
            Kind::UploadPart => &[],
            _ => &[PART_BYTES, LAST_PART_BYTES],
        };
        for (number, bytes) in (1..).zip(sizes) {
            let body = Content::one(self.rng.u64(..), *bytes);
            let ask = Ask::part(self.upload()?, number, body);
            self.done(ask).await?;
        }
        let last = Content::one(self.rng.u64(..), MIB);
        let upload = self.upload()?;
        Ok(match kind {
            Kind::UploadPart => Ask::part(upload, 1, last),
            Kind::Complete => Ask::complete(upload, &upload.parts.iter().collect::<Vec<_>>()),
            _ => Ask::abort(TARGET, &upload.id),
        })
    }

    /// Notes that a request is about to be sent.
    pub fn begin(&mut self, ask: &Ask) {
        let start = self.clock.now();
        let change = |after: &Option<Version>| Change {
            start,
            acknowledged: None,
            after: after.clone(),
        };
        let end = |upload: &mut Upload| upload.ending = Some(start);
        match &ask.effect {
            Effect::Keys(keys) => {
                for (key, after) in keys {
                    self.history.changes.entry(key.clone()).or_default().push(change(after));
                }
            }
            Effect::Part(content) => {
                for upload in &mut self.history.uploads {
                    upload.parts.push(Part {
                        number: upload.parts.len() as u32 + 1,
                        content: content.clone(),
                        start,
                        acknowledged: None,
                    });
                }
            }
            Effect::Complete(version) => {
                let changes = self.history.changes.entry(TARGET.to_owned()).or_default();
                changes.push(change(&Some(version.clone())));
                self.history.uploads.iter_mut().for_each(end);
            }
            Effect::Abort => self.history.uploads.iter_mut().for_each(end),
            Effect::Upload | Effect::Bucket(_) => {}
        }
    }

    /// Notes a successful answer. `false` when it tells of a failure within.
    pub fn acknowledge(&mut self, ask: &Ask, response: &Response) -> bool {
        let now = self.clock.now();
        let text = response.text();
        let text = if text.starts_with("<?xml") { text } else { String::new() };
        let failed: Vec<String> = elements(&text, "Error")
            .into_iter()
            .filter_map(|error| element(error, "Key"))
            .collect();
        let settles = |key: &String| !failed.contains(key);
        let whole = text.contains("<Error>");
        match &ask.effect {
            Effect::Keys(keys) => {
                for (key, _) in keys.iter().filter(|(key, _)| settles(key)) {
                    if let Some(change) = self.history.changes.get_mut(key).and_then(|changes| changes.last_mut()) {
                        change.acknowledged = Some(now);
                    }
                }
            }
            Effect::Part(_) => {
                let parts = self
                    .history
                    .uploads
                    .iter_mut()
                    .filter_map(|upload| upload.parts.last_mut());
                parts.for_each(|part| part.acknowledged = Some(now));
            }
            Effect::Complete(_) if !whole => {
                if let Some(change) = self
                    .history
                    .changes
                    .get_mut(TARGET)
                    .and_then(|changes| changes.last_mut())
                {
                    change.acknowledged = Some(now);
                }
            }
            _ => {}
        }
        !whole
    }
}
