//! The key grammar: every row that Cairn stores, on one screen. Ordinals are frozen; `docs/format.md` is their account.
//!
//! A key is one table byte (its high nibble is the column family), then fields of fixed width in big-endian order.
//! A string is the last field and stands as it is, or is escaped so that byte order stays the order of the strings:
//! 0x00 becomes 0x00 0xFF, and 0x00 0x01 ends it.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::{BucketId, ChunkId, DataId, DomainId, PackId, SegmentId, UploadId};

/// Table bytes. 0x12, 0x13, 0x61, 0x62 and 0x7F are reserved for versions, version heads, the outbox, jobs and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// name → bucket record.
    Bucket = 0x10,
    /// bucket id, key (last, raw) → the current version.
    Object = 0x11,
    /// bucket id → empty: the anchor of everything that is inserted into the bucket.
    BucketAnchor = 0x14,
    /// owner (escaped), name (last) → empty: the buckets of one owner, in order.
    OwnerBucket = 0x15,
    /// data id → the payload of a small object.
    Body = 0x20,
    /// chunk id → where the chunk is.
    Chunk = 0x30,
    /// chunk id, segment id → empty: the segment refers to the chunk.
    ChunkRef = 0x40,
    /// segment id, data id, end offset → empty: the data refers to the segment.
    SegmentRef = 0x41,
    /// data id, owner data id → empty: the owner's tree refers to the data.
    DataRef = 0x42,
    /// data id → state, size, domain: the anchor of everything larger than a body.
    Data = 0x50,
    /// data id, end offset of the row's last entry → entries.
    Tree = 0x51,
    /// segment id → chunk list.
    Segment = 0x52,
    /// data id → a payload that nothing owns any more.
    Garbage = 0x60,
    /// upload id → what is left of an upload, or of a deleted bucket's uploads, and is to be thrown away.
    UploadGarbage = 0x63,
    /// bucket id, key (escaped), upload id → upload record.
    Upload = 0x70,
    /// upload id, part number → part record.
    Part = 0x71,
    /// pack id → state and placement.
    Pack = 0x72,
    /// pack id, counter kind → live or dead bytes.
    PackStat = 0x73,
    /// scope (0: store, 1: bucket), id, counter kind, stripe → counter.
    Usage = 0x74,
    /// domain id → the domain's key.
    Domain = 0x75,
    /// data id → overflow of an object record; upload id, last part number → a page of a completed object's parts.
    Aux = 0x76,
    /// name (last) → store-wide settings: format, allocators, secrets.
    Store = 0x77,
    /// upload id → the answer of a completed upload, kept a day.
    Completed = 0x78,
}

/// What a usage counter counts. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UsageKind {
    Objects = 0,
    /// Logical bytes of current objects.
    Bytes = 1,
    /// Logical bytes of parts of uploads in progress.
    UploadBytes = 2,
    /// Plaintext bytes of the chunks in the index, each once.
    UniqueBytes = 3,
    /// Stored bytes (record header included) of the chunks in the index.
    StoredBytes = 4,
}

/// What a pack counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PackStatKind {
    Live = 0,
    Dead = 1,
}

/// Whose usage a counter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageScope {
    Store,
    Bucket(BucketId),
}

struct Key(BytesMut);

impl Key {
    fn new(table: Table) -> Self {
        let mut bytes = BytesMut::with_capacity(64);
        bytes.put_u8(table as u8);
        Self(bytes)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn escaped(mut self, text: &[u8]) -> Self {
        for &byte in text {
            self.0.put_u8(byte);
            if byte == 0 {
                self.0.put_u8(0xFF);
            }
        }
        self.0.extend_from_slice(&[0, 1]);
        self
    }

    fn done(self) -> Bytes {
        self.0.freeze()
    }
}

pub fn bucket(name: &str) -> Bytes {
    Key::new(Table::Bucket).raw(name.as_bytes()).done()
}

pub fn object(bucket: BucketId, key: &str) -> Bytes {
    Key::new(Table::Object)
        .raw(&bucket.0.to_be_bytes())
        .raw(key.as_bytes())
        .done()
}

/// Bytes before the object's key in an [`object`] row.
pub const OBJECT_PREFIX_BYTES: usize = 9;

pub fn bucket_anchor(bucket: BucketId) -> Bytes {
    Key::new(Table::BucketAnchor).raw(&bucket.0.to_be_bytes()).done()
}

pub fn owner_bucket(owner: &str, name: &str) -> Bytes {
    Key::new(Table::OwnerBucket)
        .escaped(owner.as_bytes())
        .raw(name.as_bytes())
        .done()
}

pub fn body(data: DataId) -> Bytes {
    Key::new(Table::Body).raw(&data.0).done()
}

pub fn chunk(id: &ChunkId) -> Bytes {
    Key::new(Table::Chunk).raw(&id.0).done()
}

pub fn chunk_ref(chunk: &ChunkId, segment: &SegmentId) -> Bytes {
    Key::new(Table::ChunkRef).raw(&chunk.0).raw(&segment.0).done()
}

pub fn chunk_refs(chunk: &ChunkId) -> Range<Bytes> {
    prefix_range(Key::new(Table::ChunkRef).raw(&chunk.0).done())
}

pub fn segment_ref(segment: &SegmentId, data: DataId, end: u64) -> Bytes {
    Key::new(Table::SegmentRef)
        .raw(&segment.0)
        .raw(&data.0)
        .raw(&end.to_be_bytes())
        .done()
}

pub fn segment_refs(segment: &SegmentId) -> Range<Bytes> {
    prefix_range(Key::new(Table::SegmentRef).raw(&segment.0).done())
}

pub fn data_ref(data: DataId, owner: DataId) -> Bytes {
    Key::new(Table::DataRef).raw(&data.0).raw(&owner.0).done()
}

pub fn data_refs(data: DataId) -> Range<Bytes> {
    prefix_range(Key::new(Table::DataRef).raw(&data.0).done())
}

pub fn data(id: DataId) -> Bytes {
    Key::new(Table::Data).raw(&id.0).done()
}

/// The tree row whose last entry ends at byte `end` (exclusive) of the data.
pub fn tree(data: DataId, end: u64) -> Bytes {
    Key::new(Table::Tree).raw(&data.0).raw(&end.to_be_bytes()).done()
}

pub fn trees(data: DataId) -> Range<Bytes> {
    prefix_range(Key::new(Table::Tree).raw(&data.0).done())
}

pub fn segment(id: &SegmentId) -> Bytes {
    Key::new(Table::Segment).raw(&id.0).done()
}

pub fn garbage(data: DataId) -> Bytes {
    Key::new(Table::Garbage).raw(&data.0).done()
}

pub fn upload_garbage(upload: UploadId) -> Bytes {
    Key::new(Table::UploadGarbage).raw(&upload.0).done()
}

pub fn upload(bucket: BucketId, key: &str, upload: UploadId) -> Bytes {
    Key::new(Table::Upload)
        .raw(&bucket.0.to_be_bytes())
        .escaped(key.as_bytes())
        .raw(&upload.0)
        .done()
}

/// All uploads of `bucket` whose key begins with `prefix`.
pub fn uploads(bucket: BucketId, prefix: &str) -> Range<Bytes> {
    let escaped = Key::new(Table::Upload)
        .raw(&bucket.0.to_be_bytes())
        .escaped(prefix.as_bytes())
        .done();
    prefix_range(escaped.slice(..escaped.len() - 2))
}

/// The object key and the upload of an [`upload`] row; `None` when `row` is not one.
pub fn parse_upload(row: &[u8]) -> Option<(String, UploadId)> {
    let rest = row.strip_prefix(&[Table::Upload as u8])?.get(8..)?;
    let (key, id) = unescape(rest)?;
    Some((String::from_utf8(key).ok()?, UploadId(id.try_into().ok()?)))
}

/// The bucket, the object key and, of an [`upload`] row, the upload that own data; `None` when `row` owns none.
pub fn parse_owner(row: &[u8]) -> Option<(BucketId, String, Option<UploadId>)> {
    let bucket = BucketId(u64::from_be_bytes(row.get(1..OBJECT_PREFIX_BYTES)?.try_into().ok()?));
    if let Some((key, upload)) = parse_upload(row) {
        return Some((bucket, key, Some(upload)));
    }
    let key = row.strip_prefix(&[Table::Object as u8])?.get(8..)?;
    Some((bucket, String::from_utf8(key.to_vec()).ok()?, None))
}

pub fn part(upload: UploadId, number: u16) -> Bytes {
    Key::new(Table::Part).raw(&upload.0).raw(&number.to_be_bytes()).done()
}

pub fn parts(upload: UploadId) -> Range<Bytes> {
    prefix_range(Key::new(Table::Part).raw(&upload.0).done())
}

pub fn pack(id: PackId) -> Bytes {
    Key::new(Table::Pack).raw(&id.0).done()
}

pub fn pack_stat(id: PackId, kind: PackStatKind) -> Bytes {
    Key::new(Table::PackStat).raw(&id.0).raw(&[kind as u8]).done()
}

/// A usage counter. `stripe` is the gateway's number; readers sum the stripes.
pub fn usage(scope: UsageScope, kind: UsageKind, stripe: u16) -> Bytes {
    let (tag, id) = match scope {
        UsageScope::Store => (0, 0),
        UsageScope::Bucket(id) => (1, id.0),
    };
    Key::new(Table::Usage)
        .raw(&[tag])
        .raw(&id.to_be_bytes())
        .raw(&[kind as u8])
        .raw(&stripe.to_be_bytes())
        .done()
}

pub fn domain(id: DomainId) -> Bytes {
    Key::new(Table::Domain).raw(&id.0.to_be_bytes()).done()
}

pub fn aux(data: DataId) -> Bytes {
    Key::new(Table::Aux).raw(&data.0).done()
}

/// The page of the part manifest whose last part is `last_part`; `id` is the upload that made the object.
pub fn manifest(id: UploadId, last_part: u16) -> Bytes {
    Key::new(Table::Aux).raw(&id.0).raw(&last_part.to_be_bytes()).done()
}

pub fn manifests(id: UploadId) -> Range<Bytes> {
    manifest(id, 0)..prefix_range(Key::new(Table::Aux).raw(&id.0).done()).end
}

pub fn store(name: &str) -> Bytes {
    Key::new(Table::Store).raw(name.as_bytes()).done()
}

pub fn completed(upload: UploadId) -> Bytes {
    Key::new(Table::Completed).raw(&upload.0).done()
}

/// All rows of `table`.
pub fn table(table: Table) -> Range<Bytes> {
    prefix_range(Key::new(table).done())
}

/// All objects of `bucket` whose key begins with `prefix`.
pub fn objects(bucket: BucketId, prefix: &str) -> Range<Bytes> {
    prefix_range(object(bucket, prefix))
}

/// All keys that begin with `prefix`, which has a byte below 0xFF (a table byte has).
pub fn prefix_range(prefix: Bytes) -> Range<Bytes> {
    let end = successor(&prefix);
    prefix..end
}

/// The least key above every key that begins with `prefix`.
pub fn successor(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|&byte| byte != 0xFF).map_or(0, |at| at + 1);
    let mut end = BytesMut::from(prefix.get(..kept).unwrap_or_default());
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.freeze()
}

/// Splits an escaped string from what follows it.
fn unescape(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, 1, tail @ ..] => return Some((text, tail)),
            [0, 0xFF, tail @ ..] => {
                text.push(0);
                rest = tail;
            }
            [0, ..] | [] => return None,
            [byte, tail @ ..] => {
                text.push(*byte);
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn escaped_strings_keep_their_order(a in ".*", b in ".*", id in any::<[u8; 16]>()) {
            let row = |key: &str| upload(BucketId(7), key, UploadId(id));
            prop_assert_eq!(a.as_bytes().cmp(b.as_bytes()), row(&a).cmp(&row(&b)));
            prop_assert_eq!(parse_owner(&row(&a)), Some((BucketId(7), a.clone(), Some(UploadId(id)))));
            prop_assert_eq!(parse_owner(&object(BucketId(9), &b)), Some((BucketId(9), b, None)));
            prop_assert_eq!(parse_upload(&row(&a)), Some((a, UploadId(id))));
        }

        #[test]
        fn prefix_ranges_hold_just_what_begins_so(prefix in ".{0,5}", key in ".{0,9}") {
            let range = uploads(BucketId(7), &prefix);
            let row = upload(BucketId(7), &key, UploadId([0; 16]));
            prop_assert_eq!(range.contains(&row), key.starts_with(&prefix));
            let range = objects(BucketId(u64::MAX), &prefix);
            prop_assert_eq!(range.contains(&object(BucketId(u64::MAX), &key)), key.starts_with(&prefix));
        }

        #[test]
        fn parsing_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            parse_upload(&bytes);
            parse_owner(&bytes);
        }
    }

    #[test]
    fn successor_skips_trailing_ones() {
        assert_eq!(successor(&[1, 2, 0xFF, 0xFF]).as_ref(), &[1, 3]);
    }
}
