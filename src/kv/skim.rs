//! Reading on behind rows that the disk does not give back as they were written.
//!
//! An engine answers a scan that meets a damaged block with an error, and does not say where the block ends. That place is
//! found by asking: from which key on are there rows again.

use std::ops::{Bound, Range};

use bytes::Bytes;

use super::range::successor;
use super::{Direction, Kv, ReadError, Row, Scan};

/// What is next in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skim {
    /// None: the range ends.
    Rows(Vec<Row>),
    Gap(Gap),
}

/// A stretch of keys whose rows, if there are any, cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub keys: Range<Bytes>,
    pub reason: String,
}

/// The first rows of `range`, at most `limit`, or what stands before the next ones. Fails only if the engine does not answer
/// for another reason than damage.
pub async fn skim(kv: &dyn Kv, range: Range<Bytes>, limit: usize) -> Result<Skim, ReadError> {
    let mut limit = limit.max(1);
    loop {
        match scan(kv, range.clone(), limit).await {
            Ok(rows) => return Ok(Skim::Rows(rows)),
            Err(ReadError::Corrupt(reason)) if limit == 1 => {
                let until = next_readable(kv, &range).await?;
                let keys = range.start..until;
                return Ok(Skim::Gap(Gap { keys, reason }));
            }
            // The rows before the damage come first.
            Err(ReadError::Corrupt(_)) => limit /= 2,
            Err(error) => return Err(error),
        }
    }
}

/// The least key above `key`: where to go on behind a row.
pub fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

async fn scan(kv: &dyn Kv, range: Range<Bytes>, limit: usize) -> Result<Vec<Row>, ReadError> {
    let scan = Scan {
        start: Bound::Included(range.start),
        end: Bound::Excluded(range.end),
        limit,
        direction: Direction::Forward,
        fold: None,
    };
    kv.scan(scan).await
}

async fn is_readable(kv: &dyn Kv, from: &Bytes, end: &Bytes) -> Result<bool, ReadError> {
    match scan(kv, from.clone()..end.clone(), 1).await {
        Ok(_) => Ok(true),
        Err(ReadError::Corrupt(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A key behind the damage at the start of `range`, close behind it: the distance is doubled and more until a key reads, then
/// halved between the last that did not and the first that did.
async fn next_readable(kv: &dyn Kv, range: &Range<Bytes>) -> Result<Bytes, ReadError> {
    let (mut bad, mut good) = (range.start.clone(), range.end.clone());
    for width in (1..=range.start.len()).rev() {
        let Some(next) = range.start.get(..width).and_then(successor).map(Bytes::from) else {
            break;
        };
        if next >= range.end {
            break;
        }
        if is_readable(kv, &next, &range.end).await? {
            good = next;
            break;
        }
        bad = next;
    }
    let shared = bad.iter().zip(&good).take_while(|(bad, good)| bad == good).count();
    let (prefix, mut low, mut high) = (good.slice(..shared), number(&bad, shared), number(&good, shared));
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let key: Bytes = [&prefix[..], &middle.to_be_bytes()].concat().into();
        if is_readable(kv, &key, &range.end).await? {
            (good, high) = (key, middle);
        } else {
            low = middle;
        }
    }
    Ok(good)
}

/// The sixteen bytes from `at` on as a number, zeros behind the key's end.
fn number(key: &[u8], at: usize) -> u128 {
    let mut bytes = [0; 16];
    let rest = key.get(at..).unwrap_or_default();
    bytes.iter_mut().zip(rest).for_each(|(byte, found)| *byte = *found);
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::Mutation;
    use super::super::broken::BrokenKv;
    use super::super::memory::MemoryKv;
    use super::*;
    use proptest::prelude::*;

    fn key(name: u64) -> Bytes {
        [&[0x70], &name.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[..]]
            .concat()
            .into()
    }

    /// All rows of `range`, and the gaps.
    async fn skim_all(kv: &dyn Kv, range: Range<Bytes>, limit: usize) -> (Vec<Bytes>, Vec<Gap>) {
        let (mut found, mut gaps, mut from) = (Vec::new(), Vec::new(), range.start);
        while from < range.end {
            match skim(kv, from.clone()..range.end.clone(), limit).await.unwrap() {
                Skim::Rows(rows) => match rows.last() {
                    Some(last) => {
                        from = after(&last.key);
                        found.extend(rows.into_iter().map(|row| row.key));
                    }
                    None => break,
                },
                Skim::Gap(gap) => {
                    assert!(gap.keys.start == from && gap.keys.end > from);
                    from = gap.keys.end.clone();
                    gaps.push(gap);
                }
            }
        }
        (found, gaps)
    }

    proptest! {
        /// Every row is read or lies in a gap, and of one damaged stretch no other row is lost with it.
        #[test]
        fn what_is_behind_damage_is_read(names in prop::collection::btree_set(any::<u64>(), 1..60),
                                         from in 0usize..60, length in 1usize..20, limit in 1usize..20) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let kv = BrokenKv::new(MemoryKv::new());
                let mut keys: Vec<Bytes> = names.into_iter().map(key).collect();
                keys.sort();
                for key in &keys {
                    let mut mutation = Mutation::new();
                    mutation.put(key.clone(), "");
                    kv.commit(mutation).await.unwrap();
                }
                let from = from % keys.len();
                let last = (from + length).min(keys.len()) - 1;
                kv.break_rows(keys[from].clone()..after(&keys[last]));
                let range = Bytes::from_static(&[0x70])..Bytes::from_static(&[0x71]);
                let (found, gaps) = skim_all(&kv, range, limit).await;
                let expected: Vec<Bytes> = [&keys[..from], &keys[last + 1..]].concat();
                assert_eq!((found, gaps.len()), (expected, 1));
                assert!(keys[from..=last].iter().all(|key| gaps[0].keys.contains(key)));
            });
        }
    }
}
