//! Bounds of scans, for every engine alike.

use std::ops::{Bound, Range};

use bytes::Bytes;

use super::{Family, ReadError, Scan};

/// The family that a scan reads: that of its start, or of its end when the start is open.
pub(super) fn family_of(scan: &Scan) -> Result<Family, ReadError> {
    let bound = match (&scan.start, &scan.end) {
        (Bound::Included(key) | Bound::Excluded(key), _) => key,
        (Bound::Unbounded, Bound::Included(key) | Bound::Excluded(key)) => key,
        (Bound::Unbounded, Bound::Unbounded) => {
            return Err(ReadError::Unavailable(
                "a scan without bounds names no family".to_owned(),
            ));
        }
    };
    Family::of(bound).ok_or_else(|| ReadError::Unavailable("the scan's bound is in no column family".to_owned()))
}

/// The first key after every key that begins with `prefix`; `None` when there is none.
pub(super) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            return Some(next);
        }
    }
    None
}

/// The scan's rows as a half-open range inside its family: start included, end excluded.
pub(super) fn half_open(scan: &Scan, family: Family) -> Range<Bytes> {
    let nibble = family as u8;
    let first = Bytes::copy_from_slice(&[nibble << 4]);
    let last = Bytes::copy_from_slice(&[(nibble + 1) << 4]);
    let start = match &scan.start {
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => next_key(key),
        Bound::Unbounded => first.clone(),
    };
    let end = match &scan.end {
        Bound::Included(key) => next_key(key),
        Bound::Excluded(key) => key.clone(),
        Bound::Unbounded => last.clone(),
    };
    start.max(first)..end.min(last)
}

/// The smallest key greater than `key`.
fn next_key(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_skips_exactly_its_prefix() {
        assert_eq!(successor(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(successor(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(successor(b"\xff\xff"), None);
        assert_eq!(successor(b""), None);
    }
}
