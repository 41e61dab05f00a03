//! Damage by the names that its owner knows.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::pin::pin;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::chunk::Finding;
use crate::ids::{BucketId, DataId};
use crate::kv::ReadError;
use crate::kv::skim::Skim;
use crate::meta::key::{self, Table};
use crate::meta::object::ObjectHead;
use crate::object::inspect::STEP_ROWS;
use crate::object::walk::{bucket, skims};
use crate::object::{Objects, StoreError};

/// A damaged chunk as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    pub chunk: String,
    pub pack: String,
    pub reason: String,
    pub objects: Vec<DamagedObject>,
    /// Other objects may need it too.
    pub more: bool,
}

/// An object that is damaged or needs what is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedObject {
    pub bucket: String,
    pub key: String,
    /// It is a part of this upload, which is not completed.
    pub upload: Option<String>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chunk {} in pack {}: {}", self.chunk, self.pack, self.reason)?;
        for object in &self.objects {
            writeln!(f, "  {object}")?;
        }
        if self.more {
            writeln!(f, "  and perhaps others")?;
        } else if self.objects.is_empty() {
            writeln!(f, "  no object needs it")?;
        }
        Ok(())
    }
}

impl fmt::Display for DamagedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)?;
        match &self.upload {
            Some(upload) => write!(f, " (a part of upload {upload})"),
            None => Ok(()),
        }
    }
}

impl Objects {
    /// Finds the names of the objects that the findings touch. One walk over the buckets, whatever their number.
    pub(super) async fn named(&self, findings: Vec<Finding>) -> Result<Vec<Damage>, StoreError> {
        if findings.is_empty() {
            return Ok(Vec::new());
        }
        let owners = findings.iter().flat_map(|finding| finding.owners.rows.values());
        let wanted = owners.filter_map(|owner| Some(key::parse_owner(owner)?.0)).collect();
        let names = self.bucket_names(&wanted).await?;
        let mut named = Vec::with_capacity(findings.len());
        for finding in findings {
            let mut objects = Vec::new();
            for (data, owner) in finding.owners.rows {
                let Some((bucket, key, upload)) = key::parse_owner(&owner) else {
                    continue;
                };
                if let Some(bucket) = names.get(&bucket)
                    && self.owns(&owner, data, upload.is_some()).await?
                {
                    objects.push(DamagedObject {
                        bucket: bucket.clone(),
                        key,
                        upload: upload.map(|upload| upload.to_string()),
                    });
                }
            }
            named.push(Damage {
                chunk: finding.chunk.to_string(),
                pack: finding.pack.to_string(),
                reason: finding.reason,
                objects,
                more: finding.owners.more,
            });
        }
        Ok(named)
    }

    /// Whether the row still stands for the data: an object may have been overwritten.
    async fn owns(&self, owner: &[u8], data: DataId, is_upload: bool) -> Result<bool, StoreError> {
        let value = match self.kv.get(owner).await {
            Ok(Some(value)) => value,
            Ok(None) => return Ok(false),
            // Nothing says otherwise.
            Err(ReadError::Corrupt(_)) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        Ok(is_upload || ObjectHead::decode(&value.bytes).is_ok_and(|head| head.data == data))
    }

    pub(super) async fn bucket_names(
        &self,
        wanted: &HashSet<BucketId>,
    ) -> Result<HashMap<BucketId, String>, StoreError> {
        let mut names = HashMap::new();
        let mut steps = pin!(skims(&*self.kv, key::table(Table::Bucket), STEP_ROWS));
        while let Some(step) = steps.try_next().await? {
            let Skim::Rows(rows) = step else { continue };
            // A row that cannot be read names nothing; a check tells it.
            for bucket in rows.into_iter().filter_map(|row| bucket(row).ok()) {
                if wanted.contains(&bucket.id) {
                    names.insert(bucket.id, bucket.name);
                }
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_by_object() {
        let object = |key: &str, upload: Option<&str>| DamagedObject {
            bucket: "b".into(),
            key: key.into(),
            upload: upload.map(Into::into),
        };
        let mut damage = Damage {
            chunk: "c1".into(),
            pack: "p1".into(),
            reason: "why".into(),
            objects: vec![object("k", None), object("big", Some("u1"))],
            more: true,
        };
        let lines = "chunk c1 in pack p1: why\n  s3://b/k\n  s3://b/big (a part of upload u1)\n";
        assert_eq!(damage.to_string(), format!("{lines}  and perhaps others\n"));
        damage.more = false;
        assert_eq!(damage.to_string(), lines);
        damage.objects.clear();
        assert!(damage.to_string().ends_with("\n  no object needs it\n"));
    }
}
