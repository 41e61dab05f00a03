//! What is wrong with one pack or payload holds up no other one.

use std::sync::Arc;

use super::harness::{Fixture, content, open_at, options, publish};
use crate::chunk::index::page;
use crate::chunk::recover::{pack_row, pack_rows};
use crate::clock::Clock;
use crate::ids::DataId;
use crate::kv::broken::BrokenKv;
use crate::kv::memory::MemoryKv;
use crate::kv::skim::after;
use crate::kv::{Kv, Mutation};
use crate::limits::MIB;
use crate::meta::key::{self, PackStatKind, Table, UsageKind, UsageScope};

type Broken = Arc<BrokenKv<MemoryKv>>;

async fn fixture() -> (Broken, Fixture) {
    let kv = Arc::new(BrokenKv::new(MemoryKv::new()));
    let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
    (kv, fixture)
}

/// The only chunk's key of the payload that is put while no other one is there.
async fn first_chunk(fixture: &Fixture) -> bytes::Bytes {
    page(&*fixture.kv, key::table(Table::Chunk), 1).await.unwrap()[0]
        .key
        .clone()
}

/// Payloads in packs of their own.
async fn put_apart(fixture: &Fixture, seeds: std::ops::Range<u64>) -> Vec<DataId> {
    let mut ids = Vec::new();
    for seed in seeds {
        ids.push(fixture.put(&content(seed, MIB)).await);
        fixture.store.packs.seal_all().await.unwrap();
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_whose_rows_cannot_be_read_keeps_its_space_and_no_other_one_does() {
    let (kv, fixture) = fixture().await;
    let ids = put_apart(&fixture, 0..3).await;
    kv.break_rows(key::trees(ids[0]));
    for id in ids {
        fixture.delete(id).await;
    }
    for _ in 0..2 {
        assert_eq!(fixture.collect().await.unreadable, 1);
    }
    assert_eq!(pack_rows(&*fixture.kv).await.unwrap().len(), 1);
    assert!(fixture.store.degraded().unwrap().starts_with("1 deleted payloads keep"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_with_a_row_that_cannot_be_read_is_stuck_and_the_others_go() {
    let (kv, fixture) = fixture().await;
    fixture.put(&content(7, MIB / 2)).await;
    let broken = first_chunk(&fixture).await;
    let ids = put_apart(&fixture, 0..3).await;
    for id in ids {
        fixture.delete(id).await;
    }
    kv.break_rows(broken.clone()..after(&broken));
    let report = fixture.collect().await;
    assert_eq!((report.packs_deleted, report.stuck.len()), (2, 1), "{report:?}");
    assert!(fixture.store.degraded().unwrap().contains("not to be emptied"));
}

/// More packs are stuck than a run empties, and they have the most dead bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_packs_leave_room_in_a_run_for_others() {
    let (clock, _hand) = Clock::manual(1_700_000_000_000);
    let (dir, kv) = (tempfile::tempdir().unwrap(), Arc::new(MemoryKv::new()));
    let mut options = options(dir.path());
    options.packs.pack_bytes = MIB as u64 / 4;
    let store = open_at(Arc::clone(&kv) as Arc<dyn Kv>, options, clock).await;
    let domain = store.create_domain().await.unwrap();
    let write = crate::chunk::WriteOptions {
        domain,
        profile: crate::chunk::chunker::Profile::General,
        expected_bytes: None,
        compression: None,
        hint: crate::chunk::codec::Hint::Unknown,
    };
    for seed in 0..70 {
        let data = super::harness::build(&store, write, &content(seed, MIB / 4))
            .await
            .unwrap();
        let id = publish(&store, data).await.unwrap();
        super::harness::release(&store, id).await.unwrap();
    }
    store.packs.seal_all().await.unwrap();
    let packs = pack_rows(&*kv).await.unwrap();
    assert!(packs.len() > 67);
    // A byte that no row explains keeps a pack; the store's counter agrees.
    let mut mutation = Mutation::new();
    let kept: Vec<_> = packs.keys().skip(2).copied().collect();
    for pack in &kept {
        mutation.add(key::pack_stat(*pack, PackStatKind::Live), 1);
    }
    mutation.add(
        key::usage(UsageScope::Store, UsageKind::StoredBytes, 0),
        kept.len() as i64,
    );
    kv.commit(mutation).await.unwrap();
    let mut deleted = 0;
    for _ in 0..3 {
        deleted += store.collect_once().await.unwrap().packs_deleted;
    }
    for pack in packs.keys().take(2) {
        assert!(pack_row(&*kv, *pack).await.unwrap().is_none(), "{deleted} deleted");
    }
}
