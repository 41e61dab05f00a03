use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::harness::{Fixture, content, pack_files};
use crate::chunk::index;
use crate::chunk::pack::{Footer, NewRecord};
use crate::chunk::recover::RowClaims;
use crate::chunk::{Difference, Recount};
use crate::ids::ChunkId;
use crate::kv::broken::BrokenKv;
use crate::kv::memory::MemoryKv;
use crate::kv::skim::after;
use crate::kv::{Kv, Mutation};
use crate::limits::MIB;
use crate::meta::chunk::ChunkRow;
use crate::meta::key::{self, Table};

/// The first `count` chunk rows.
async fn chunks(fixture: &Fixture, count: usize) -> Vec<(ChunkId, ChunkRow)> {
    let rows = index::page(&*fixture.kv, key::table(Table::Chunk), count)
        .await
        .unwrap();
    let row = |row: crate::kv::Row| {
        let id = ChunkId(row.key[1..].try_into().unwrap());
        (id, ChunkRow::decode(row.value.bytes).unwrap())
    };
    rows.into_iter().map(row).collect()
}

async fn put_row(fixture: &Fixture, id: &ChunkId, row: &ChunkRow) {
    let mut mutation = Mutation::new();
    mutation.put(key::chunk(id), row.encode());
    fixture.kv.commit(mutation).await.unwrap();
}

/// What a recount says of chunks, and nothing else may be wrong but counters.
async fn told(fixture: &Fixture) -> (Recount, Vec<(ChunkId, String)>) {
    let recount = fixture.store.recount().await.unwrap();
    let is_counter = |difference: &Difference| matches!(difference, Difference::Counter { .. });
    assert!(recount.differences.iter().all(is_counter), "{:?}", recount.differences);
    assert_eq!(recount.findings.len() as u64, recount.findings_total);
    let told = recount
        .findings
        .iter()
        .map(|finding| (finding.chunk, finding.reason.clone()));
    (recount.clone(), told.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_recount_holds_the_index_against_what_a_rebuild_would_make() {
    let fixture = Fixture::new().await;
    let bytes = content(1, 2 * MIB);
    let id = fixture.put(&bytes).await;
    fixture.store.packs.seal_all().await.unwrap();
    let (recount, findings) = told(&fixture).await;
    assert_eq!((findings, recount.newer_copies), (vec![], 0));
    assert_eq!(recount.records, recount.chunks);
    let rows = chunks(&fixture, 4).await;

    // The row points behind the record, and no other pack has one.
    let (chunk, right) = &rows[0];
    let mut wrong = right.clone();
    wrong.place.offset += 1;
    put_row(&fixture, chunk, &wrong).await;
    let (recount, findings) = told(&fixture).await;
    assert_eq!(findings.len(), 1);
    let pack = right.place.pack;
    assert!(
        findings[0].0 == *chunk && findings[0].1.contains(&format!("would take the one in pack {pack}")),
        "{findings:?}"
    );
    assert!(recount.findings[0].owners.rows.contains_key(&id));
    // So that an upload of the same bytes stores it anew.
    assert!(chunks(&fixture, 1).await[0].1.damaged);
    put_row(&fixture, chunk, right).await;

    // The table says other lengths than the row.
    let (chunk, right) = &rows[1];
    let mut wrong = right.clone();
    wrong.place.raw_len += 1;
    put_row(&fixture, chunk, &wrong).await;
    let (_, findings) = told(&fixture).await;
    assert!(
        findings.len() == 1 && findings[0].0 == *chunk && findings[0].1.contains("the table of the pack"),
        "{findings:?}"
    );
    put_row(&fixture, chunk, right).await;

    // A chunk that no pack has.
    let (lost, absent) = (ChunkId([7; 32]), rows[2].1.clone());
    put_row(&fixture, &lost, &absent).await;
    let found = fixture.store.recount().await.unwrap();
    assert!(
        found.findings.len() == 1 && found.findings[0].reason.ends_with("no pack has one"),
        "{found:?}"
    );
    let mut mutation = Mutation::new();
    mutation.delete(key::chunk(&lost));
    fixture.kv.commit(mutation).await.unwrap();

    // An equal record in a newer pack is what a rebuild would take, and no fault; one of another length is.
    let (chunk, right) = &rows[3];
    for (length, faults) in [(right.place.raw_len, 0), (right.place.raw_len + 1, 1)] {
        let copy = NewRecord {
            domain: fixture.domain,
            id: *chunk,
            raw: content(9, length as usize).into(),
            encoded: None,
            written_at: fixture.store.packs.written_at(),
            envelope: None,
        };
        fixture.store.packs.append(vec![copy]).await.unwrap();
        let (recount, findings) = told(&fixture).await;
        assert_eq!(
            (recount.newer_copies, findings.len()),
            (1 + faults, faults as usize),
            "{findings:?}"
        );
    }
}

/// A footer that is damaged is told, the records are found by a scan, and none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_damaged_footer_is_told_and_mended_from_a_scan() {
    let fixture = Fixture::new().await;
    let bytes = content(1, MIB);
    let id = fixture.put(&bytes).await;
    fixture.store.packs.seal_all().await.unwrap();
    let files: Vec<(PathBuf, Vec<u8>)> = pack_files(fixture.dir.path())
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    let pack = fixture.store.pack_sizes()[0].0;
    let claims = || {
        Arc::new(RowClaims {
            kv: Arc::clone(&fixture.kv),
            runtime: tokio::runtime::Handle::current(),
        })
    };
    let mend = async || fixture.store.packs.mend_footer(pack, claims()).await.unwrap();
    assert_eq!(mend().await, Footer::Whole);
    let (path, whole) = &files[0];
    let table = whole.len() - 128;
    for at in [whole.len() - 4096 + 7, table + 40, table + 3] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(path, &flipped).unwrap();
        let recount = fixture.store.recount().await.unwrap();
        assert_eq!(
            (&recount.differences[..], recount.findings),
            (&[Difference::Footer { pack }][..], vec![])
        );
        assert!(matches!(mend().await, Footer::Rewritten { records } if u64::from(records) == recount.records));
        assert!(std::fs::read(path).unwrap() == *whole);
        fixture.check().await;
    }
    // With a record that is not whole the footer stays as it is, and the chunk is told.
    let mut flipped = whole.clone();
    flipped[table + 40] ^= 0x10;
    flipped[5000] ^= 0x10;
    std::fs::write(path, &flipped).unwrap();
    assert_eq!(mend().await, Footer::Lost);
    assert!(std::fs::read(path).unwrap() == flipped);
    let lost = fixture.store.scrub_footer(pack).await.unwrap();
    assert!(lost.len() == 1 && lost[0].owners.rows.contains_key(&id), "{lost:?}");
}

/// Rows come, move and go while they are counted: the collector is not held off, and no difference is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_recount_beside_writers_and_the_collector_tells_no_difference() {
    let fixture = Arc::new(Fixture::new().await);
    let collector = fixture.store.start_collector();
    let done = Arc::new(AtomicBool::new(false));
    let writers = [1u64, 2].map(|writer| {
        let (fixture, done) = (Arc::clone(&fixture), Arc::clone(&done));
        tokio::spawn(async move {
            let (mut kept, mut seed) = (Vec::new(), writer << 32);
            while !done.load(Ordering::Relaxed) {
                seed += 1;
                kept.push(fixture.put(&content(seed, 200_000)).await);
                if kept.len() > 4 {
                    fixture.delete(kept.remove(0)).await;
                }
            }
        })
    });
    let mut looks = 0;
    while looks < 30 || (fixture.store.metrics.collected_packs.get() < 3 && looks < 2000) {
        let recount = fixture.store.recount().await.unwrap();
        assert_eq!((recount.differences, recount.findings), (vec![], vec![]));
        looks += 1;
    }
    assert!(fixture.store.metrics.collected_packs.get() > 0);
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    collector.stop().await;
    fixture.check().await;
}

/// The reads of a recount hang; the collector deletes packs all the same, and the recount tells of what was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collection_goes_on_during_a_long_recount() {
    let kv = Arc::new(BrokenKv::new(MemoryKv::new()));
    let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
    fixture.put_and_delete_most().await;
    fixture.store.packs.seal_all().await.unwrap();
    let held = kv.hold_snapshots().await;
    let store = Arc::clone(&fixture.store);
    let recount = tokio::spawn(async move { store.recount().await.unwrap() });
    kv.wait_for_snapshot().await;
    let collected = tokio::time::timeout(Duration::from_secs(20), fixture.store.collect_once());
    assert!(
        collected
            .await
            .expect("the collector is held off")
            .unwrap()
            .packs_deleted
            > 0
    );
    assert!(!recount.is_finished());
    drop(held);
    let recount = recount.await.unwrap();
    assert_eq!((recount.differences, recount.findings), (vec![], vec![]));
}

/// Chunk rows that RocksDB cannot read are told, and the rest is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recount_goes_on_behind_rows_that_cannot_be_read() {
    let kv = Arc::new(BrokenKv::new(MemoryKv::new()));
    let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
    fixture.put(&content(1, 2 * MIB)).await;
    let all = fixture.store.recount().await.unwrap().chunks;
    let rows = chunks(&fixture, 3).await;
    kv.break_rows(key::chunk(&rows[1].0)..after(&key::chunk(&rows[2].0)));
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!((recount.chunks, recount.findings_total), (all - 2, 0));
    let told = |wanted: fn(&Difference) -> bool| recount.differences.iter().filter(|found| wanted(found)).count();
    assert_eq!(told(|found| matches!(found, Difference::Unreadable { .. })), 1);
    assert_eq!(told(|found| matches!(found, Difference::Uncounted)), 1);
    assert_eq!(
        told(|found| matches!(found, Difference::Malformed { .. })),
        2,
        "{recount:?}"
    );
    assert_eq!(recount.differences_total, 4);
}
