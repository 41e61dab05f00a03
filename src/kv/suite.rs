//! How every engine behaves: run on each of them, the fault-injecting wrapper included. Needs an empty store.

use std::ops::Bound;

use bytes::Bytes;

use super::{CommitError, Counter, Direction, Family, Fold, Guard, Kv, Mutation, Row, Scan, Value};
use crate::ids::Sequence;
use crate::limits::{ENCODED_KEY_BYTES_MAX, MUTATION_BYTES_MAX, MUTATION_EFFECTS_MAX, SCAN_ROWS_MAX};

pub(super) async fn run(kv: &dyn Kv) {
    rows_carry_their_commit(kv).await;
    every_guard_holds_and_fails(kv).await;
    a_conflict_changes_nothing(kv).await;
    counters_sum(kv).await;
    empty_looks_at_the_range(kv).await;
    scans_see_bounds_and_limits(kv).await;
    folds_seek_past_prefixes(kv).await;
    deferred_is_seen_at_once(kv).await;
    over_the_limits_is_refused(kv).await;
    many_writers_lose_nothing(kv).await;
    a_snapshot_stands_still(kv).await;
}

/// A key of the test table in `family`.
pub(super) fn key(family: Family, name: &str) -> Bytes {
    [&[(family as u8) << 4 | 0xF], name.as_bytes()].concat().into()
}

fn rest(name: &str) -> Bytes {
    key(Family::Rest, name)
}

fn put(key: &Bytes, value: &str) -> Mutation {
    let mut mutation = Mutation::new();
    mutation.put(key.clone(), value.to_owned());
    mutation
}

async fn rows_carry_their_commit(kv: &dyn Kv) {
    let mut last = Sequence(0);
    for family in Family::ALL {
        let key = key(family, "versions");
        assert_eq!(kv.get(&key).await.unwrap(), None);
        let first = kv.commit(put(&key, "one")).await.unwrap();
        assert!(first > last);
        let row = kv.get(&key).await.unwrap().unwrap();
        assert_eq!((row.bytes, row.version), (Bytes::from("one"), first));
        last = kv.commit(put(&key, &"two".repeat(2000))).await.unwrap();
        let found = kv.get_many(&[rest("none"), key.clone()]).await.unwrap();
        assert_eq!(found[0], None);
        let row = found[1].clone().unwrap();
        assert_eq!((row.bytes.len(), row.version), (6000, last));
        let mut gone = Mutation::new();
        gone.delete(key.clone());
        last = kv.commit(gone).await.unwrap();
        assert_eq!(kv.get(&key).await.unwrap(), None);
    }
}

async fn a_snapshot_stands_still(kv: &dyn Kv) {
    let keys = ["a", "b", "c"].map(|name| key(Family::References, &format!("snapshot {name}")));
    for key in &keys[..2] {
        kv.commit(put(key, "before")).await.unwrap();
    }
    let whole = Scan {
        start: Bound::Included(keys[0].clone()),
        end: Bound::Included(keys[2].clone()),
        limit: 10,
        direction: Direction::Forward,
        fold: None,
    };
    let before = kv.scan(whole.clone()).await.unwrap();
    let view = kv.snapshot().await.unwrap();
    let mut change = put(&keys[0], "after");
    change.delete(keys[1].clone());
    change.put(keys[2].clone(), "new");
    kv.commit(change).await.unwrap();
    assert_eq!(view.scan(whole.clone()).await.unwrap(), before);
    let found: Vec<_> = view.get_many(&keys).await.unwrap();
    let bytes = |row: &Option<Value>| row.as_ref().map(|row| row.bytes.clone());
    let old = Some(Bytes::from_static(b"before"));
    assert_eq!(found.iter().map(bytes).collect::<Vec<_>>(), [old.clone(), old, None]);
    assert_eq!(view.get(&keys[2]).await.unwrap(), None);
    let again = view.snapshot().await.unwrap();
    drop(view);
    assert_eq!(again.scan(whole.clone()).await.unwrap(), before);
    let refused = again.commit(put(&keys[0], "late")).await;
    assert!(matches!(refused, Err(CommitError::Refused(_))));
    assert_eq!(kv.scan(whole).await.unwrap().len(), 2);
}

async fn every_guard_holds_and_fails(kv: &dyn Kv) {
    let (here, gone) = (rest("guard/here"), rest("guard/none"));
    let version = kv.commit(put(&here, "v")).await.unwrap();
    let old = Some(Sequence(version.0 - 1));
    let at_most = |limit| Guard::AtMost {
        key: gone.clone(),
        delta: 5,
        limit,
    };
    let pairs = [
        (
            Guard::Unchanged {
                key: here.clone(),
                version: Some(version),
            },
            Guard::Unchanged {
                key: here.clone(),
                version: old,
            },
        ),
        (
            Guard::Unchanged {
                key: gone.clone(),
                version: None,
            },
            Guard::Unchanged {
                key: here.clone(),
                version: None,
            },
        ),
        (
            Guard::Equals {
                key: here.clone(),
                value: "v".into(),
            },
            Guard::Equals {
                key: here.clone(),
                value: "w".into(),
            },
        ),
        (Guard::Absent { key: gone.clone() }, Guard::Absent { key: here.clone() }),
        (Guard::Exists { key: here.clone() }, Guard::Exists { key: gone.clone() }),
        (at_most(5), at_most(4)),
        (
            Guard::Empty {
                range: rest("guard/i")..rest("guard/n"),
                anchor: here.clone(),
            },
            Guard::Empty {
                range: rest("guard/a")..rest("guard/z"),
                anchor: here.clone(),
            },
        ),
    ];
    for (holds, fails) in pairs {
        let mut mutation = Mutation::new();
        mutation.guard(holds.clone());
        kv.commit(mutation.clone()).await.unwrap();
        let index = mutation.guard(fails);
        mutation.guard(holds);
        let error = kv.commit(mutation).await.unwrap_err();
        assert!(
            matches!(error, CommitError::Conflict { guard } if guard == index && index == 1),
            "{error:?}"
        );
    }
}

async fn a_conflict_changes_nothing(kv: &dyn Kv) {
    let (a, counter) = (rest("conflict/a"), rest("conflict/counter"));
    let mut mutation = put(&a, "x");
    mutation.add(counter.clone(), 3);
    mutation.exists(rest("conflict/none"));
    assert!(matches!(
        kv.commit(mutation).await,
        Err(CommitError::Conflict { guard: 0 })
    ));
    assert_eq!(kv.get_many(&[a, counter]).await.unwrap(), [None, None]);
}

async fn counters_sum(kv: &dyn Kv) {
    let counter = rest("counter");
    let mut mutation = Mutation::new();
    mutation.add(counter.clone(), 7);
    mutation.add(counter.clone(), -2);
    kv.commit(mutation.clone()).await.unwrap();
    let sequence = kv.commit(mutation).await.unwrap();
    let row = kv.get(&counter).await.unwrap().unwrap();
    assert_eq!((Counter::decode(&row.bytes), row.version), (Some(10), sequence));

    let mut overflow = Mutation::new();
    overflow.add(counter.clone(), i64::MAX);
    assert!(matches!(kv.commit(overflow).await, Err(CommitError::Refused(_))));
    let text = rest("counter/text");
    kv.commit(put(&text, "text")).await.unwrap();
    let mut wrong = Mutation::new();
    wrong.add(text, 1);
    assert!(matches!(kv.commit(wrong).await, Err(CommitError::Refused(_))));

    let tries = (0..20).map(|_| {
        let mut mutation = Mutation::new();
        mutation.guard(Guard::AtMost {
            key: counter.clone(),
            delta: 1,
            limit: 15,
        });
        mutation.add(counter.clone(), 1);
        kv.commit(mutation)
    });
    let passed = futures::future::join_all(tries)
        .await
        .into_iter()
        .filter(Result::is_ok)
        .count();
    assert_eq!(passed, 5);
}

async fn empty_looks_at_the_range(kv: &dyn Kv) {
    let anchor = rest("empty");
    let row = rest("empty/row");
    kv.commit(put(&row, "")).await.unwrap();
    let mut close = Mutation::new();
    close.guard(Guard::Empty {
        range: rest("empty/")..rest("empty0"),
        anchor,
    });
    assert!(matches!(
        kv.commit(close.clone()).await,
        Err(CommitError::Conflict { guard: 0 })
    ));
    let mut gone = Mutation::new();
    gone.delete(row);
    // The deletion and the look may share a group.
    let (deleted, closed) = futures::join!(kv.commit(gone), kv.commit(close));
    deleted.unwrap();
    closed.unwrap();
}

fn scan(start: Bound<Bytes>, end: Bound<Bytes>, limit: usize) -> Scan {
    Scan {
        start,
        end,
        limit,
        direction: Direction::Forward,
        fold: None,
    }
}

fn names(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .map(|row| String::from_utf8_lossy(&row.key[1..]).into_owned())
        .collect()
}

async fn scans_see_bounds_and_limits(kv: &dyn Kv) {
    let name = |index: usize| format!("scan/{index:04}");
    let at = |index: usize| key(Family::Heads, &name(index));
    for first in (0..4500).step_by(500) {
        let mut mutation = Mutation::deferred();
        (first..first + 500).for_each(|index| mutation.put(at(index), index.to_string()));
        kv.commit(mutation).await.unwrap();
    }
    for limit in [4, 100] {
        let rows = kv
            .scan(scan(Bound::Included(at(5)), Bound::Excluded(at(8)), limit))
            .await
            .unwrap();
        assert_eq!(names(&rows), [name(5), name(6), name(7)]);
        assert_eq!(rows[2].value.bytes, "7");
        let rows = kv
            .scan(scan(Bound::Excluded(at(5)), Bound::Included(at(8)), limit))
            .await
            .unwrap();
        assert_eq!(names(&rows), [name(6), name(7), name(8)]);
        let mut backward = scan(Bound::Included(at(5)), Bound::Included(at(4000)), limit);
        backward.direction = Direction::Backward;
        let rows = kv.scan(backward).await.unwrap();
        assert_eq!((rows.len(), names(&rows)[0].clone()), (limit, name(4000)));
        assert_eq!(names(&rows)[1], name(3999));
    }
    let rows = kv
        .scan(scan(Bound::Included(at(0)), Bound::Unbounded, usize::MAX))
        .await
        .unwrap();
    assert_eq!(rows.len(), SCAN_ROWS_MAX);
    let rows = kv
        .scan(scan(Bound::Unbounded, Bound::Excluded(at(2)), 100))
        .await
        .unwrap();
    assert_eq!(names(&rows), [name(0), name(1)]);
    for (start, end) in [(at(8), at(5)), (at(5), at(5))] {
        let rows = kv
            .scan(scan(Bound::Included(start), Bound::Excluded(end), 100))
            .await
            .unwrap();
        assert_eq!(rows, []);
    }
    assert!(kv.scan(scan(Bound::Unbounded, Bound::Unbounded, 1)).await.is_err());
    assert!(
        kv.scan(scan(Bound::Included(at(1)), Bound::Unbounded, 0))
            .await
            .unwrap()
            .is_empty()
    );
}

async fn folds_seek_past_prefixes(kv: &dyn Kv) {
    let at = |name: &str| key(Family::Heads, &format!("fold:{name}"));
    let mut mutation = Mutation::new();
    for name in ["a", "b--1", "b--2", "b--2--x", "b-", "c--", "c--\u{7f}", "d", "e--1"] {
        mutation.put(at(name), "");
    }
    kv.commit(mutation).await.unwrap();
    for limit in [3, 100] {
        let mut folded = scan(Bound::Included(at("")), Bound::Excluded(at("z")), limit);
        folded.fold = Some(Fold {
            skip: 6,
            delimiter: Bytes::from("--"),
        });
        let rows = kv.scan(folded).await.unwrap();
        let expected = ["fold:a", "fold:b-", "fold:b--1", "fold:c--", "fold:d", "fold:e--1"];
        assert_eq!(names(&rows), expected[..limit.min(6)]);
    }
}

async fn deferred_is_seen_at_once(kv: &dyn Kv) {
    let key = rest("deferred");
    let mut deferred = Mutation::deferred();
    deferred.put(key.clone(), "x");
    let first = kv.commit(deferred).await.unwrap();
    assert_eq!(kv.get(&key).await.unwrap().unwrap().version, first);
    let mut synced = Mutation::new();
    synced.unchanged(key.clone(), Some(first));
    synced.put(key.clone(), "y");
    assert!(kv.commit(synced).await.unwrap() > first);
}

async fn over_the_limits_is_refused(kv: &dyn Kv) {
    let mut twice = put(&rest("limit"), "a");
    twice.delete(rest("limit"));
    let mut sum_and_put = put(&rest("limit"), "a");
    sum_and_put.add(rest("limit"), 1);
    let mut many = Mutation::new();
    (0..=MUTATION_EFFECTS_MAX).for_each(|index| many.delete(rest(&index.to_string())));
    let mut bad_guard = Mutation::new();
    bad_guard.exists(Bytes::from_static(b"\x01"));
    let cases = [
        twice,
        sum_and_put,
        many,
        bad_guard,
        put(&rest("limit"), &"x".repeat(MUTATION_BYTES_MAX)),
        put(&rest(&"k".repeat(ENCODED_KEY_BYTES_MAX)), ""),
        put(&Bytes::from_static(b"\xF0"), ""),
        put(&Bytes::new(), ""),
    ];
    for case in cases {
        assert!(matches!(kv.commit(case).await, Err(CommitError::Refused(_))));
    }
    let most = MUTATION_BYTES_MAX - rest("limit").len();
    kv.commit(put(&rest("limit"), &"x".repeat(most))).await.unwrap();
    assert_eq!(kv.get(&rest("limit")).await.unwrap().unwrap().bytes.len(), most);
}

async fn many_writers_lose_nothing(kv: &dyn Kv) {
    let counter = rest("writers");
    let writers = (0..16).map(|writer| {
        let counter = counter.clone();
        async move {
            for turn in 0..20 {
                let own = rest(&format!("writers/{writer}"));
                let version = kv.get(&own).await.unwrap().map(|value| value.version);
                let mut mutation = put(&own, &turn.to_string());
                mutation.unchanged(own.clone(), version);
                mutation.add(counter.clone(), 1);
                let sequence = kv.commit(mutation).await.unwrap();
                assert_eq!(kv.get(&own).await.unwrap().unwrap().version, sequence);
            }
        }
    });
    futures::future::join_all(writers).await;
    let row = kv.get(&counter).await.unwrap().unwrap();
    assert_eq!(Counter::decode(&row.bytes), Some(320));
}
