use super::harness::{Fixture, content, publish, read};
use crate::chunk::{ComposeError, Piece, ReadError};
use crate::ids::DataId;
use crate::kv::Mutation;
use crate::limits::{KIB, MIB};

fn piece(data: DataId, offset: u64, length: u64) -> Piece {
    Piece {
        data,
        offset,
        length,
        part_number: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_outlive_their_owners() {
    let fixture = Fixture::new().await;
    let (a, b) = (content(1, 3 * MIB), content(2, 2 * MIB + 9));
    let (first, second) = (fixture.put(&a).await, fixture.put(&b).await);
    let stored = fixture.store.usage().await.unwrap().stored_bytes;
    let pieces = [
        piece(first, 100, 2 * MIB as u64),
        piece(second, 5, 1000),
        piece(first, 0, 7),
    ];
    let expected = [&a[100..100 + 2 * MIB], &b[5..1005], &a[..7]].concat();
    let composed = fixture.store.compose(fixture.domain, &pieces).await.unwrap();
    assert_eq!(composed.size, expected.len() as u64);
    let whole = publish(&fixture.store, composed).await.unwrap();
    assert_eq!(fixture.store.usage().await.unwrap().stored_bytes, stored);
    fixture.delete(first).await;
    fixture.delete(second).await;
    assert_eq!(fixture.collect().await.released, 2);
    fixture.check().await;
    assert!(fixture.get(whole, 0..expected.len() as u64).await == expected);
    assert!(fixture.get(whole, 2_000_000..2_098_000).await == expected[2_000_000..2_098_000]);
    // A copy of the composed data holds what the parts' owners have let go of.
    let copy = fixture
        .store
        .compose(fixture.domain, &[piece(whole, 50, 2 * MIB as u64 + 500)])
        .await
        .unwrap();
    let copy = publish(&fixture.store, copy).await.unwrap();
    fixture.delete(whole).await;
    fixture.collect().await;
    fixture.check().await;
    assert!(fixture.get(copy, 0..2 * MIB as u64 + 500).await == expected[50..2 * MIB + 550]);
    assert!(matches!(
        read(&fixture.store, whole, 0..1).await,
        Err(ReadError::Gone(_))
    ));
    fixture.delete(copy).await;
    fixture.collect().await;
    fixture.collect().await;
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!((recount.data, recount.chunks), (0, 0));
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pieces_take_several_rows_and_nest_once_too_many() {
    let fixture = Fixture::new().await;
    let bytes = content(3, 100 * KIB);
    let leaf = fixture.put(&bytes).await;
    let pieces: Vec<Piece> = (0..1500).map(|at| piece(leaf, at, 50)).collect();
    let expected: Vec<u8> = (0..1500).flat_map(|at| bytes[at..at + 50].to_vec()).collect();
    let many = fixture.store.compose(fixture.domain, &pieces).await.unwrap();
    let many = publish(&fixture.store, many).await.unwrap();
    assert!(fixture.get(many, 0..75_000).await == expected);
    assert!(fixture.get(many, 12_790..12_910).await == expected[12_790..12_910]);
    // More than 1,000 entries are not copied but referred to; fewer are.
    for (range, depth) in [(0..75_000u64, 3), (100..40_000, 2)] {
        let copy = fixture
            .store
            .compose(fixture.domain, &[piece(many, range.start, range.end - range.start)])
            .await;
        let copy = copy.unwrap();
        assert_eq!(copy.row.depth, depth);
        let copy = publish(&fixture.store, copy).await.unwrap();
        let wanted = &expected[range.start as usize..range.end as usize];
        assert!(fixture.get(copy, 0..wanted.len() as u64).await == wanted);
        fixture.check().await;
        fixture.delete(copy).await;
    }
    fixture.delete(leaf).await;
    fixture.delete(many).await;
    for _ in 0..4 {
        fixture.collect().await;
        fixture.check().await;
    }
    assert_eq!(fixture.store.recount().await.unwrap().data, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_composition_of_what_is_gone_is_refused() {
    let fixture = Fixture::new().await;
    let bytes = content(4, MIB);
    let data = fixture.put(&bytes).await;
    let size = bytes.len() as u64;
    let refused = |result: Result<_, ComposeError>| matches!(result.err(), Some(ComposeError::Gone(_)));
    assert!(refused(
        fixture.store.compose(fixture.domain, &[piece(data, 1, size)]).await
    ));
    let building = fixture.build(&bytes).await;
    assert!(refused(
        fixture.store.compose(fixture.domain, &[piece(building.id, 0, 1)]).await
    ));
    let other = fixture.store.create_domain().await.unwrap();
    let result = fixture.store.compose(other, &[piece(data, 0, 1)]).await;
    assert!(matches!(result.err(), Some(ComposeError::OtherDomain(_))));
    // Handed to the collector, but not looked at yet: a copy may still win.
    fixture.delete(data).await;
    let copy = fixture
        .store
        .compose(fixture.domain, &[piece(data, 0, size)])
        .await
        .unwrap();
    assert_eq!(fixture.collect().await.released, 1);
    let copy = publish(&fixture.store, copy).await.unwrap();
    assert!(fixture.get(copy, 0..size).await == bytes);
    assert!(refused(
        fixture.store.compose(fixture.domain, &[piece(data, 0, 1)]).await
    ));
    fixture.check().await;
}

#[tokio::test]
async fn empty_data_is_data() {
    let fixture = Fixture::new().await;
    let empty = fixture.put(&[]).await;
    let composed = fixture
        .store
        .compose(fixture.domain, &[piece(empty, 0, 0)])
        .await
        .unwrap();
    assert_eq!(composed.size, 0);
    let composed = publish(&fixture.store, composed).await.unwrap();
    assert!(fixture.get(composed, 0..0).await.is_empty());
    let mut mutation = Mutation::new();
    fixture.store.release(&mut mutation, empty);
    fixture.store.release(&mut mutation, composed);
    fixture.kv.commit(mutation).await.unwrap();
    assert_eq!(fixture.collect().await.unwound, 2);
    fixture.check().await;
}
