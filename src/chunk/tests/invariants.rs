use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::harness::{Fixture, build, content, publish, read};
use crate::chunk::index::{after, page};
use crate::chunk::pack::{Extent, PackState as FileState, Wanted};
use crate::chunk::recover::pack_rows;
use crate::chunk::{Piece, WriteOptions, index};
use crate::ids::{ChunkId, SegmentId};
use crate::kv::rocks::{RocksKv, RocksOptions};
use crate::kv::{Kv, Mutation};
use crate::limits::MIB;
use crate::meta::chunk::ChunkRow;
use crate::meta::data::{DataRow, DataState};
use crate::meta::key::{self, PackStatKind, Table, UsageKind, UsageScope};
use crate::meta::pack::PackState;
use crate::meta::segment::SegmentRow;

/// Some payloads with equal stretches, a composition and a deletion.
async fn populate(fixture: &Fixture) -> Vec<(crate::ids::DataId, Vec<u8>)> {
    let mut live = Vec::new();
    for seed in 0..6 {
        let mut bytes = content(seed % 4, 2 * MIB);
        bytes.extend(content(100 + seed, MIB));
        live.push((fixture.put(&bytes).await, bytes));
    }
    let piece = Piece {
        data: live[0].0,
        offset: 1000,
        length: 2 * MIB as u64,
        part_number: 1,
    };
    let composed = fixture.store.compose(fixture.domain, &[piece]).await.unwrap();
    let bytes = live[0].1[1000..1000 + 2 * MIB].to_vec();
    live.push((publish(&fixture.store, composed).await.unwrap(), bytes));
    for _ in 0..2 {
        let (id, _) = live.remove(0);
        fixture.delete(id).await;
    }
    fixture.collect().await;
    live
}

async fn read_all(fixture: &Fixture, live: &[(crate::ids::DataId, Vec<u8>)]) {
    for (id, bytes) in live {
        assert!(fixture.get(*id, 0..bytes.len() as u64).await == *bytes);
    }
}

async fn chunk_rows(kv: &dyn Kv) -> BTreeMap<ChunkId, ChunkRow> {
    let (mut rows, range) = (BTreeMap::new(), key::table(Table::Chunk));
    let mut from = range.start;
    loop {
        let found = page(kv, from..range.end.clone(), 1000).await.unwrap();
        let Some(last) = found.last() else { return rows };
        from = after(&last.key);
        for row in &found {
            rows.insert(
                ChunkId(row.key[1..].try_into().unwrap()),
                ChunkRow::decode(row.value.bytes.clone()).unwrap(),
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_every_chunk_of_a_live_object_resolves() {
    let fixture = Fixture::new().await;
    let live = populate(&fixture).await;
    let packs = pack_rows(&*fixture.kv).await.unwrap();
    let rows = chunk_rows(&*fixture.kv).await;
    assert!(rows.len() > 50);
    let domain = fixture.store.domain(fixture.domain).await.unwrap();
    for (id, row) in rows {
        assert_ne!(packs[&row.place.pack].row.state, PackState::Condemned);
        let wanted = Wanted {
            location: index::location(&row.place).unwrap(),
            domain: fixture.domain,
            id,
        };
        let read = fixture.store.read_records(Extent::new(wanted)).await.unwrap();
        assert_eq!(domain.chunk_id(&read[0].1), id);
    }
    read_all(&fixture, &live).await;
    // It can fail: a missing chunk row is noticed, by a recount and by the reader.
    let (id, _) = chunk_rows(&*fixture.kv).await.pop_first().unwrap();
    let mut mutation = Mutation::new();
    mutation.delete(key::chunk(&id));
    fixture.kv.commit(mutation).await.unwrap();
    assert!(fixture.store.recount().await.unwrap().differences_total > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_condemned_never_returns_to_live() {
    let fixture = Fixture::new().await;
    let bytes = content(1, MIB);
    let id = fixture.put(&bytes).await;
    let packs: Vec<_> = pack_rows(&*fixture.kv).await.unwrap().into_keys().collect();
    fixture.store.packs.seal_all().await.unwrap();
    fixture.delete(id).await;
    assert!(fixture.collect().await.packs_deleted > 0);
    for pack in packs {
        // A writer that comes late gets no version to guard, and cannot make the row again.
        assert_eq!(fixture.store.table.active(pack).await.unwrap(), None);
        assert!(fixture.kv.get(&key::pack(pack)).await.unwrap().is_none());
    }
    let again = fixture.put(&bytes).await;
    assert!(fixture.get(again, 0..MIB as u64).await == bytes);
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_stored_counts_equal_a_recount() {
    let fixture = Fixture::new().await;
    let live = populate(&fixture).await;
    fixture.check().await;
    let recount = fixture.store.recount().await.unwrap();
    let usage = fixture.store.usage().await.unwrap();
    assert_eq!(usage.unique_bytes, recount.tally.unique_bytes as u64);
    assert_eq!(usage.stored_bytes, recount.tally.stored_bytes as u64);
    for (pack, known) in pack_rows(&*fixture.kv).await.unwrap() {
        let info = fixture
            .store
            .packs
            .packs()
            .into_iter()
            .find(|info| info.id == pack)
            .unwrap();
        let count = async |kind| match fixture.kv.get(&key::pack_stat(pack, kind)).await.unwrap() {
            Some(value) => crate::kv::Counter::decode(&value.bytes).unwrap(),
            None => 0,
        };
        let (alive, dead) = (count(PackStatKind::Live).await, count(PackStatKind::Dead).await);
        assert!(
            alive >= 0 && dead >= 0 && (alive + dead) as u64 <= info.bytes,
            "{known:?} {info:?} {alive} {dead}"
        );
    }
    // It can fail: one byte too much is noticed, and so is a reference without its row.
    let mut mutation = Mutation::new();
    mutation.add(key::usage(UsageScope::Store, UsageKind::StoredBytes, 0), 1);
    fixture.kv.commit(mutation).await.unwrap();
    assert_eq!(fixture.store.recount().await.unwrap().differences_total, 1);
    assert_eq!(fixture.store.rebuild_index().await.unwrap().counters, 1);
    fixture.check().await;
    let mut mutation = Mutation::new();
    mutation.put(key::data_ref(live[0].0, crate::ids::DataId([3; 16])), Bytes::new());
    fixture.kv.commit(mutation).await.unwrap();
    assert_eq!(fixture.store.recount().await.unwrap().differences_total, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_reference_that_no_list_accounts_for_is_noticed() {
    let fixture = Fixture::new().await;
    populate(&fixture).await;
    fixture.check().await;
    let segments = page(&*fixture.kv, key::table(Table::Segment), 100).await.unwrap();
    let list = |value: &Bytes| SegmentRow::decode(value.clone()).unwrap().distinct_chunks();
    let (there, named) = (
        SegmentId(segments[0].key[1..].try_into().unwrap()),
        list(&segments[0].value.bytes),
    );
    let others = segments.iter().flat_map(|row| list(&row.value.bytes));
    let chunk = others.into_iter().find(|chunk| !named.contains(chunk)).unwrap();
    for (segment, differences) in [(there, 1), (SegmentId([9; 32]), 2)] {
        let mut mutation = Mutation::new();
        mutation.put(key::chunk_ref(&chunk, &segment), Bytes::new());
        fixture.kv.commit(mutation).await.unwrap();
        assert_eq!(fixture.store.recount().await.unwrap().differences_total, differences);
    }
}

async fn rebuild(fixture: &Fixture) {
    let live = populate(fixture).await;
    let before = chunk_rows(&*fixture.kv).await;
    for ids in before.keys().collect::<Vec<_>>().chunks(500) {
        let mut mutation = Mutation::new();
        ids.iter().for_each(|id| mutation.delete(key::chunk(id)));
        fixture.kv.commit(mutation).await.unwrap();
    }
    assert!(fixture.store.recount().await.unwrap().differences_total > 0);
    let report = fixture.store.rebuild_index().await.unwrap();
    assert_eq!(report.restored, before.len() as u64);
    assert_eq!(chunk_rows(&*fixture.kv).await, before);
    read_all(fixture, &live).await;
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_the_index_rebuilt_from_packs_equals_the_live_one() {
    rebuild(&Fixture::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_commit_that_is_tried_twice_counts_once() {
    let fixture = Fixture::new().await;
    let data = fixture.build(&content(1, MIB)).await;
    let mut mutation = Mutation::new();
    fixture.store.publish(&mut mutation, &data, Bytes::new());
    fixture.kv.commit(mutation.clone()).await.unwrap();
    assert!(fixture.kv.commit(mutation).await.is_err());
    let id = data.id;
    data.published();
    fixture.check().await;
    for _ in 0..2 {
        fixture.delete(id).await;
    }
    assert_eq!(fixture.collect().await.unwound, 1);
    // An owner's late second deletion meets nothing.
    fixture.delete(id).await;
    fixture.collect().await;
    assert_eq!(super::harness::garbage(&*fixture.kv).await, 0);
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!((recount.chunks, recount.differences), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_domains_share_nothing() {
    let fixture = Fixture::new().await;
    let bytes = content(1, 2 * MIB);
    let first = fixture.put(&bytes).await;
    let before = fixture.store.recount().await.unwrap();
    let other = fixture.store.create_domain().await.unwrap();
    let options = WriteOptions {
        domain: other,
        ..fixture.write_options()
    };
    let data = build(&fixture.store, options, &bytes).await.unwrap();
    let second = publish(&fixture.store, data).await.unwrap();
    let after = fixture.store.recount().await.unwrap();
    assert_eq!((after.chunks, after.segments), (2 * before.chunks, 2 * before.segments));
    fixture.delete(first).await;
    fixture.collect().await;
    assert_eq!(fixture.store.recount().await.unwrap().chunks, before.chunks);
    assert!(read(&fixture.store, second, 0..2 * MIB as u64).await.unwrap() == bytes);
    fixture.check().await;
}

/// The same on the embedded engine: populate, restart both halves, read, rebuild, collect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_invariants_hold_on_the_embedded_engine() {
    let dir = tempfile::tempdir().unwrap();
    let options = RocksOptions {
        dir: dir.path().to_path_buf(),
        ..RocksOptions::default()
    };
    let registry = prometheus::Registry::new();
    let rocks = Arc::new(RocksKv::open(options.clone(), &registry).await.unwrap());
    let fixture = Fixture::on(Arc::clone(&rocks) as Arc<dyn Kv>).await;
    let live = populate(&fixture).await;
    fixture.check().await;
    let Fixture {
        dir: packs,
        kv,
        store,
        domain,
        masters,
    } = fixture;
    drop((kv, store));
    rocks.shutdown().await;
    drop(rocks);
    let rocks = Arc::new(RocksKv::open(options, &prometheus::Registry::new()).await.unwrap());
    let kv = Arc::clone(&rocks) as Arc<dyn Kv>;
    let store = super::harness::open_on(Arc::clone(&kv), packs.path()).await;
    let fixture = Fixture {
        dir: packs,
        kv,
        store,
        domain,
        masters,
    };
    read_all(&fixture, &live).await;
    rebuild(&fixture).await;
    for (id, _) in live {
        let state = fixture.kv.get(&key::data(id)).await.unwrap().unwrap();
        assert_eq!(DataRow::decode(state.bytes).unwrap().state, DataState::Live);
        fixture.delete(id).await;
    }
    fixture.collect().await;
    fixture.check().await;
    assert!(
        fixture
            .store
            .packs
            .packs()
            .iter()
            .all(|pack| pack.state != FileState::Poisoned)
    );
    rocks.shutdown().await;
}
