//! PutObject.

use crate::iam::Grant;
use crate::limits;
use crate::meta::object::{ObjectRecord, Payload};
use crate::object::place::{Content, Placement, object_owner, recorded_class, settle};
use crate::object::receive::{Incoming, ReceivedPayload, hint_of};
use crate::object::requests::{PutRequest, Written};
use crate::object::types::{ChecksumAlgorithm, ETag};
use crate::object::{Objects, PlaceError, PutError, checksum, headers};

impl Objects {
    /// Stores a body and makes it the key's current version. Up to 8 KiB that is one commit; beyond, the bytes are
    /// durable in packs before the commit that publishes them.
    pub async fn put(&self, grant: &Grant, request: PutRequest) -> Result<Written, PutError> {
        let bucket = grant.bucket().ok_or(PlaceError::NoSuchBucket)?;
        let incoming = Incoming {
            body: request.body,
            content_length: request.content_length,
            integrity: request.integrity,
            default_checksum: ChecksumAlgorithm::Crc64Nvme,
            inline_bytes_max: limits::BODY_BYTES_MAX,
            hint: hint_of(&request.headers),
        };
        let received = self.receive(bucket, incoming).await?;
        let mut record = ObjectRecord {
            size: received.size,
            modified: self.clock.now(),
            md5: received.md5,
            parts: 0,
            checksum: Some(checksum::to_record(&received.checksum)),
            payload: Payload::None,
            data: self.ids.data_id(),
            owner: object_owner(grant, bucket),
            storage_class: recorded_class(request.headers.storage_class.clone()),
            manifest: None,
            headers: headers::to_fields(&request.headers),
            unknown: Default::default(),
        };
        let written = Written {
            etag: ETag {
                md5: record.md5,
                parts: 0,
            },
            checksum: Some(received.checksum),
            size: record.size,
            last_modified: record.modified,
        };
        let (key, conditions) = (&request.key, &request.conditions);
        match received.payload {
            ReceivedPayload::Inline(bytes) => {
                let content = if bytes.is_empty() {
                    Content::None
                } else {
                    Content::Body(bytes)
                };
                record.payload = content.payload();
                self.place(Placement {
                    bucket,
                    key,
                    record,
                    content,
                    conditions,
                    extra: None,
                })
                .await?;
            }
            ReceivedPayload::Data(data) => {
                (record.payload, record.data) = (Payload::Data, data.id);
                let content = Content::Data(&data);
                let outcome = self
                    .place(Placement {
                        bucket,
                        key,
                        record,
                        content,
                        conditions,
                        extra: None,
                    })
                    .await;
                settle(
                    data,
                    outcome.as_ref().err().and_then(PlaceError::store),
                    outcome.is_ok(),
                );
                outcome?;
            }
        }
        Ok(written)
    }
}
