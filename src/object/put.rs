//! PutObject.

use crate::iam::Grant;
use crate::limits;
use crate::meta::object::{ObjectRecord, Payload};
use crate::object::place::{object_owner, recorded_class};
use crate::object::receive::{Incoming, hint_of};
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
        let record = ObjectRecord {
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
        self.place_arrived(bucket, &request.key, record, received.payload, &request.conditions)
            .await?;
        Ok(written)
    }
}
