//! A few objects of all, read to their end: what a drill of the backup does.

use std::collections::BTreeSet;
use std::pin::pin;

use futures::TryStreamExt;
use md5::{Digest, Md5};

use crate::chunk::md5::md5_small;
use crate::ids::PackId;
use crate::limits::PACK_BYTES_MAX;
use crate::meta::key;
use crate::meta::object::{ObjectHead, Payload};
use crate::object::{DamagedObject, Objects, StoreError};

/// Rows looked at in one step.
const STEP_ROWS: usize = 500;

/// An object of a sample.
#[derive(Clone, Debug)]
pub struct Sampled {
    pub object: DamagedObject,
    head: ObjectHead,
}

impl Objects {
    /// `count` objects, each of the store's as likely as any other, and the packs that they need. Objects that would make
    /// these packs more than about `pack_bytes_max` are left out. Reads the rows of all objects.
    pub async fn sample(
        &self,
        count: usize,
        pack_bytes_max: u64,
    ) -> Result<(Vec<Sampled>, BTreeSet<PackId>), StoreError> {
        let mut random = getrandom::u64().map_err(|error| StoreError::Entropy(error.to_string()))?;
        let (mut sample, mut seen) = (Vec::new(), 0u64);
        let mut buckets = pin!(self.buckets());
        while let Some(bucket) = buckets.try_next().await? {
            let mut pages = pin!(self.pages(key::objects(bucket.id, ""), STEP_ROWS));
            while let Some(rows) = pages.try_next().await? {
                for row in rows {
                    seen += 1;
                    // A row takes a place with the chance that it needs so that all have the same in the end.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let place = usize::try_from((random >> 16) % seen).unwrap_or(usize::MAX);
                    let name = row.key.get(key::OBJECT_PREFIX_BYTES..).unwrap_or_default();
                    let object = DamagedObject {
                        bucket: bucket.name.clone(),
                        key: String::from_utf8_lossy(name).into_owned(),
                        upload: None,
                    };
                    let head = ObjectHead::decode(&row.value.bytes)?;
                    if sample.len() < count {
                        sample.push(Sampled { object, head });
                    } else if let Some(slot) = sample.get_mut(place) {
                        *slot = Sampled { object, head };
                    }
                }
            }
        }
        let packs_max = usize::try_from(pack_bytes_max / PACK_BYTES_MAX).unwrap_or(usize::MAX);
        let (mut chosen, mut packs) = (Vec::new(), BTreeSet::new());
        for sampled in sample {
            let mut more = packs.clone();
            if sampled.head.payload == Payload::Data {
                more.extend(self.chunks.packs_of(sampled.head.data).await?);
            }
            if more.len() <= packs_max {
                packs = more;
                chosen.push(sampled);
            }
        }
        Ok((chosen, packs))
    }

    /// Reads an object to its end, and compares its length and, unless it was uploaded in parts, its MD5. Returns its
    /// bytes, or what is wrong.
    pub async fn read_back(&self, sampled: &Sampled) -> Result<u64, String> {
        let head = &sampled.head;
        let (bytes, md5) = match head.payload {
            Payload::None => (0, md5_small(&[])),
            Payload::Body | Payload::EncryptedBody => {
                let row = self
                    .kv
                    .get(&key::body(head.data))
                    .await
                    .map_err(|error| error.to_string())?;
                let row = row.ok_or("its body is not there")?;
                let body = match head.payload {
                    Payload::EncryptedBody => self.chunks.open_body(head.data, &row.bytes).await,
                    _ => Ok(row.bytes),
                };
                let body = body.map_err(|error| error.to_string())?;
                (body.len() as u64, md5_small(&body))
            }
            Payload::Data => {
                let stream = self.chunks.read(head.data, 0..head.size).await;
                let mut stream = pin!(stream.map_err(|error| error.to_string())?);
                let (mut bytes, mut hash) = (0, Md5::new());
                while let Some(part) = stream.try_next().await.map_err(|error| error.to_string())? {
                    bytes += part.len() as u64;
                    hash.update(&part);
                }
                (bytes, hash.finalize().into())
            }
        };
        if bytes != head.size {
            return Err(format!("it has {bytes} bytes and should have {}", head.size));
        }
        if head.parts == 0 && md5 != head.md5 {
            return Err("its bytes do not have the MD5 that is its ETag".to_owned());
        }
        Ok(bytes)
    }
}
