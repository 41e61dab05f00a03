//! Walks over many rows, a page in memory at a time.

use std::ops::Range;

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};

use crate::kv::skim::{Skim, after, skim};
use crate::kv::{Kv, ReadError, Row};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key::{self, Table};
use crate::meta::record::Malformed;
use crate::object::{Objects, StoreError};

/// The rows of `range` in pages of at most `limit`, and the stretches that cannot be read.
pub(super) fn skims(
    kv: &dyn Kv,
    range: Range<Bytes>,
    limit: usize,
) -> impl Stream<Item = Result<Skim, StoreError>> + Send {
    let limit = limit.min(limits::SCAN_ROWS_MAX);
    stream::try_unfold(range, move |left| async move {
        if left.start >= left.end {
            return Ok(None);
        }
        let step = skim(kv, left.clone(), limit).await?;
        let next = match &step {
            Skim::Gap(gap) => gap.keys.end.clone(),
            Skim::Rows(rows) => match rows.last() {
                Some(last) => after(&last.key),
                None => return Ok(None),
            },
        };
        Ok(Some((step, next..left.end)))
    })
}

impl Objects {
    /// The rows of `range`, in pages of at most `limit`.
    pub(super) fn pages(&self, range: Range<Bytes>, limit: usize) -> impl Stream<Item = Result<Vec<Row>, StoreError>> {
        skims(&*self.kv, range, limit).and_then(async |step| match step {
            Skim::Rows(rows) => Ok(rows),
            Skim::Gap(gap) => Err(ReadError::Corrupt(gap.reason).into()),
        })
    }

    /// The buckets of all owners, in the order of their names.
    pub fn buckets(&self) -> impl Stream<Item = Result<Bucket, StoreError>> {
        let pages = self.pages(key::table(Table::Bucket), limits::LIST_PAGE_MAX);
        pages
            .map_ok(|rows| stream::iter(rows.into_iter().map(|row| Ok(bucket(row)?))))
            .try_flatten()
    }
}

pub(super) fn bucket(row: Row) -> Result<Bucket, Malformed> {
    let name = row.key.get(1..).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.ok_or(Malformed {
        record: "bucket",
        reason: "its name is not UTF-8",
    })?;
    Bucket::decode(name, row.value.bytes, row.value.version)
}
