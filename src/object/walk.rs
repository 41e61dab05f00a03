//! Walks over many rows, a page in memory at a time.

use std::ops::{Bound, Range};

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};

use crate::kv::{Row, Scan};
use crate::limits;
use crate::meta::bucket::Bucket;
use crate::meta::key::{self, Table};
use crate::meta::record::Malformed;
use crate::object::{Objects, StoreError};

impl Objects {
    /// The rows of `range`, in pages of at most `limit`.
    pub(super) fn pages(&self, range: Range<Bytes>, limit: usize) -> impl Stream<Item = Result<Vec<Row>, StoreError>> {
        let limit = limit.min(limits::SCAN_ROWS_MAX);
        stream::try_unfold(Some(Bound::Included(range.start)), move |start| {
            let end = Bound::Excluded(range.end.clone());
            async move {
                let Some(start) = start else { return Ok(None) };
                let scan = Scan {
                    start,
                    end,
                    limit,
                    direction: Default::default(),
                    fold: None,
                };
                let rows = self.kv.scan(scan).await?;
                let Some(last) = rows.last().map(|row| row.key.clone()) else {
                    return Ok(None);
                };
                // Behind a page that is not full there is nothing.
                let next = (rows.len() == limit).then_some(Bound::Excluded(last));
                Ok(Some((rows, next)))
            }
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

fn bucket(row: Row) -> Result<Bucket, Malformed> {
    let name = row.key.get(1..).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.ok_or(Malformed {
        record: "bucket",
        reason: "its name is not UTF-8",
    })?;
    Bucket::decode(name, row.value.bytes, row.value.version)
}
