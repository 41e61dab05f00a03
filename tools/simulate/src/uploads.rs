//! Multipart uploads and buckets that come and go.

use bytes::{Bytes, BytesMut};
use cairn::iam::{Action, authorize};
use cairn::ids::UploadId;
use cairn::object::types::{CompletedPart, PartInfo, WriteConditions};
use cairn::object::{
    CompleteError, CompleteUpload, CopyPartError, CreateBucket, CreateUpload, DeleteBucketError, ListUploads,
    PlaceError, ReceiveError, StoreError, UploadEntry, UploadPart, UploadPartCopy, UploadPartError,
};

use crate::client::{BUCKETS, Client, Opened, key, named, plain};
use crate::content::{PART_BYTES, tag_of, tag_of_parts};
use crate::model::{Answer, Call, Version};

/// Parts of one upload.
const PARTS_MAX: u64 = 3;

/// An upload that one client has in its hands; others may take it up after a crash.
#[derive(Clone, Debug)]
pub struct Upload {
    bucket: &'static str,
    bucket_id: u64,
    name: &'static str,
    id: UploadId,
    version: Version,
    /// What was answered, by number. A part whose upload was not answered may be there or not.
    parts: Vec<(String, Bytes)>,
}

impl Client {
    /// Goes on with an upload, or begins one.
    pub async fn upload(&self) {
        let taken = self.shared.uploads.lock().pop();
        let upload = match taken {
            Some(upload) if self.world().chance(800) => upload,
            left => {
                self.shared.uploads.lock().extend(left);
                let Some(upload) = self.create_upload().await else {
                    return;
                };
                upload
            }
        };
        let Some(bucket) = self.open_named(upload.bucket).await else {
            return;
        };
        if bucket.id == upload.bucket_id {
            self.go_on(&bucket, upload).await;
        }
    }

    async fn create_upload(&self) -> Option<Upload> {
        let (bucket, name) = (self.open().await?, self.any_key());
        let version = self.shared.model.lock().version();
        let request = CreateUpload {
            key: key(name)?,
            headers: named(version),
            checksum: None,
        };
        let created = self.objects.create_upload(&bucket.grant, request).await.ok()?;
        Some(Upload {
            bucket: bucket.name,
            bucket_id: bucket.id,
            name,
            id: created.id,
            version,
            parts: Vec::new(),
        })
    }

    async fn go_on(&self, bucket: &Opened, mut upload: Upload) {
        loop {
            self.world().pause(30).await;
            let is_last = upload.parts.len() as u64 == PARTS_MAX;
            let done = match self.world().below(10) {
                0 => return self.abort(bucket, &upload).await,
                1..3 => break,
                _ if is_last => false,
                3 => self.copy_part(bucket, &mut upload).await,
                _ => self.send_part(bucket, &mut upload).await,
            };
            if !done {
                break;
            }
        }
        if !upload.parts.is_empty() && self.world().chance(700) {
            self.complete(bucket, &upload).await;
        } else {
            self.shared.uploads.lock().push(upload);
        }
    }

    /// Of five MiB, or of less: then it is the last one.
    async fn send_part(&self, bucket: &Opened, upload: &mut Upload) -> bool {
        let is_whole = self.world().chance(150);
        let contents = &self.shared.contents;
        let bytes = if is_whole {
            contents.part(self.world())
        } else {
            contents.body(self.world())
        };
        let Some(key) = key(upload.name) else { return false };
        let is_bad = self.world().strikes(self.world().plan.bad_bodies);
        let request = UploadPart {
            key,
            upload: upload.id,
            number: upload.parts.len() as u16 + 1,
            body: self.stream(&bytes, is_bad),
            content_length: Some(bytes.len() as u64),
            integrity: plain(),
        };
        match self.objects.upload_part(&bucket.grant, request).await {
            Ok(part) => {
                if is_bad || part.etag.to_string() != tag_of(&bytes) {
                    self.world()
                        .violated(format!("part {} was taken as {}", part.number, part.etag));
                }
                self.has_part(upload, &part, bytes)
            }
            Err(error) => {
                self.check_part(&error);
                false
            }
        }
    }

    fn has_part(&self, upload: &mut Upload, part: &PartInfo, bytes: Bytes) -> bool {
        let is_whole = bytes.len() >= PART_BYTES;
        upload.parts.push((part.etag.to_string(), bytes));
        is_whole
    }

    fn check_part(&self, error: &UploadPartError) {
        if let UploadPartError::Receive(ReceiveError::Store(error)) = error {
            self.check_error(error);
        }
    }

    /// A whole object as a part, if its ETag tells which bytes it has.
    async fn copy_part(&self, bucket: &Opened, upload: &mut Upload) -> bool {
        let (Some(source), from) = (self.open().await, self.any_key()) else {
            return false;
        };
        let (Some(source_key), Some(key)) = (key(from), key(upload.name)) else {
            return false;
        };
        let request = UploadPartCopy {
            source_key,
            source_conditions: Default::default(),
            source_range: None,
            key,
            upload: upload.id,
            number: upload.parts.len() as u16 + 1,
        };
        match self
            .objects
            .upload_part_copy(&source.grant, &bucket.grant, request)
            .await
        {
            Ok(part) => match self.shared.contents.known(&part.etag.to_string()) {
                Some(bytes) => self.has_part(upload, &part, bytes),
                None => false,
            },
            Err(CopyPartError::Part(error)) => {
                self.check_part(&error);
                false
            }
            Err(_) => false,
        }
    }

    async fn abort(&self, bucket: &Opened, upload: &Upload) {
        let Some(key) = key(upload.name) else { return };
        if let Err(cairn::object::UploadError::Store(error)) =
            self.objects.abort_upload(&bucket.grant, &key, upload.id).await
        {
            self.check_error(&error);
        }
    }

    /// Aborts whatever the bucket has of uploads, known or not.
    pub async fn abort_all(&self, bucket: &Opened) {
        let request = ListUploads {
            limit: 1000,
            ..ListUploads::default()
        };
        let Ok(page) = self.objects.list_uploads(&bucket.grant, request).await else {
            return self.world().violated("the uploads cannot be listed".to_owned());
        };
        for entry in page.entries {
            if let UploadEntry::Upload(upload) = entry
                && self
                    .objects
                    .abort_upload(&bucket.grant, &upload.key, upload.id)
                    .await
                    .is_err()
            {
                self.world()
                    .violated(format!("the upload {} cannot be aborted", upload.id));
            }
        }
    }

    async fn complete(&self, bucket: &Opened, upload: &Upload) {
        let tags: Vec<String> = upload.parts.iter().map(|(tag, _)| tag.clone()).collect();
        let tag = tag_of_parts(&tags);
        let mut whole = BytesMut::new();
        upload
            .parts
            .iter()
            .for_each(|(_, bytes)| whole.extend_from_slice(bytes));
        self.shared.contents.know(tag.clone(), whole.freeze());
        self.shared.model.lock().has_tag(upload.version, &tag);
        let (version, only_if_absent) = (upload.version, false);
        let called = self.call(
            bucket,
            upload.name,
            Call::Write {
                version,
                only_if_absent,
            },
        );
        // A retry of one whose outcome is unknown gets the answer of the first.
        for _ in 0..3 {
            let Some(request) = complete_request(upload) else {
                return;
            };
            match self.objects.complete_upload(&bucket.grant, request).await {
                Ok(written) => return self.written(&called, &written, &tag),
                Err(CompleteError::Place(PlaceError::Store(StoreError::Unknown(_)))) => {
                    self.world().pause(50).await;
                }
                Err(CompleteError::Place(error)) => return self.not_placed(bucket, &called, &error),
                // It was not known after the first try, and is no answer about that.
                Err(CompleteError::NoSuchUpload) => return,
                Err(_) => return self.answer(&called, Answer::Failed),
            }
        }
    }

    /// Deletes the bucket that comes and goes, or makes it.
    pub async fn bucket_goes(&self) {
        let name = BUCKETS[2];
        let Some(bucket) = self.open_named(name).await else {
            return self.make_bucket(name).await;
        };
        let keys = self.shared.model.lock().keys(bucket.id);
        if self.world().chance(600) {
            let names: Vec<&str> = keys.iter().map(String::as_str).collect();
            self.delete_all(&bucket, &names).await;
        }
        let calls: Vec<_> = keys.iter().map(|name| self.call(&bucket, name, Call::Close)).collect();
        let answer = match self.objects.delete_bucket(&bucket.grant).await {
            Ok(()) => Answer::Done,
            Err(DeleteBucketError::Store(StoreError::Unknown(_))) => return,
            Err(DeleteBucketError::Store(error)) => {
                self.check_error(&error);
                Answer::Failed
            }
            Err(_) => Answer::Failed,
        };
        calls.iter().for_each(|called| self.answer(called, answer.clone()));
    }

    pub async fn make_bucket(&self, name: &'static str) {
        let Ok(grant) = authorize(&self.shared.identity, Action::CreateBucket, None) else {
            return;
        };
        if let Err(error) = self.objects.create_bucket(&grant, name, CreateBucket::default()).await {
            self.check_error(&error);
        }
    }
}

fn complete_request(upload: &Upload) -> Option<CompleteUpload> {
    let part = |(index, (tag, _)): (usize, &(String, Bytes))| CompletedPart {
        number: index as u16 + 1,
        etag: tag.clone(),
        checksum: None,
    };
    Some(CompleteUpload {
        key: key(upload.name)?,
        upload: upload.id,
        parts: upload.parts.iter().enumerate().map(part).collect(),
        object_size: None,
        checksum: None,
        checksum_kind: None,
        conditions: WriteConditions::default(),
    })
}
