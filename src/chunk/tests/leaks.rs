use std::io::Write;
use std::sync::Arc;

use super::harness::{Fixture, build, check, content, copy_packs, open_on, pack_files};
use crate::kv::Kv;
use crate::kv::fault::{CommitFault, FaultKv};
use crate::limits::MIB;

/// Leaks in every way there is, again and again: what is dead stays within the mark, and at the end all is reclaimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_leaked_bytes_are_bounded_and_reclaimed() {
    let kv = Arc::new(FaultKv::new(super::harness::LoggedKv::default()));
    let mut fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
    let kept = content(1, 2 * MIB);
    let id = fixture.put(&kept).await;
    for round in 0..6 {
        // Records are written, and the commit of their rows fails: bytes without a row.
        kv.script([CommitFault::Unavailable]);
        let failed = build(&fixture.store, fixture.write_options(), &content(100 + round, MIB)).await;
        assert!(failed.is_err());
        // An upload is dropped when it is all there, and one in the middle.
        drop(fixture.build(&content(200 + round, MIB)).await);
        let mut writer = fixture.store.writer(fixture.write_options());
        writer.write(content(300 + round, 3 * MIB).into()).await.unwrap();
        drop(writer);
        // A commit whose outcome nobody knows leaves data that only the next process may take.
        kv.script([CommitFault::UnknownApplied]);
        let unknown = build(&fixture.store, fixture.write_options(), &content(400 + round, MIB)).await;
        assert!(unknown.is_err());
        let leaked = fixture.store.usage().await.unwrap();
        assert!(leaked.pack_bytes > leaked.stored_bytes + MIB as u64, "{leaked:?}");
        fixture = fixture.restart().await;
        let debt = fixture.store.gc_status().await.unwrap().debt;
        assert!(debt.abandoned > 0 && debt.building == 0, "{debt:?}");
        for _ in 0..3 {
            fixture.collect().await;
        }
        let debt = fixture.store.gc_status().await.unwrap().debt;
        assert_eq!((debt.abandoned, debt.garbage), (0, 0));
        let usage = fixture.store.usage().await.unwrap();
        assert!(
            usage.pack_bytes * 100 <= usage.stored_bytes * 118,
            "round {round}: {usage:?}"
        );
        check(&fixture.store).await;
    }
    let recount = fixture.store.recount().await.unwrap();
    assert_eq!(recount.data, 1);
    assert!(fixture.get(id, 0..kept.len() as u64).await == kept);
}

/// What a kill leaves behind the last record of a pack, and files that no row knows, are reclaimed as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_torn_tails_and_unknown_packs_are_reclaimed() {
    let kv = Arc::new(super::harness::LoggedKv::default());
    let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
    let kept = content(1, MIB);
    let id = fixture.put(&kept).await;
    let (commits, _) = kv.commits().await;
    // Nothing of this one was committed when the process was killed; its last record is half written.
    let lost = build(&fixture.store, fixture.write_options(), &content(2, 3 * MIB)).await;
    let copy = copy_packs(fixture.dir.path());
    drop(lost);
    for file in pack_files(copy.path()) {
        let mut file = std::fs::File::options().append(true).open(file).unwrap();
        file.write_all(&content(3, MIB)).unwrap();
    }
    let after: Arc<dyn Kv> = Arc::new(kv.after(commits).await);
    let store = open_on(Arc::clone(&after), copy.path()).await;
    let usage = store.usage().await.unwrap();
    assert!(usage.pack_bytes > usage.stored_bytes + 2 * MIB as u64, "{usage:?}");
    let debt = store.gc_status().await.unwrap().debt;
    assert!(debt.dead_bytes > 2 * MIB as u64, "{debt:?}");
    store.collect_once().await.unwrap();
    let usage = store.usage().await.unwrap();
    assert!(usage.pack_bytes * 100 <= usage.stored_bytes * 118, "{usage:?}");
    let on_disk: u64 = pack_files(copy.path())
        .iter()
        .map(|file| std::fs::metadata(file).unwrap().len())
        .sum();
    assert!(
        on_disk * 100 <= usage.stored_bytes * 118 + 100 * MIB as u64,
        "{on_disk}"
    );
    assert!(super::harness::read(&store, id, 0..kept.len() as u64).await.unwrap() == kept);
    check(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_small_packs_of_many_restarts_become_one() {
    let mut fixture = Fixture::new().await;
    let mut kept = Vec::new();
    let mut moved = 0;
    for seed in 0..30 {
        let bytes = content(seed, 30_000);
        kept.push((fixture.put(&bytes).await, bytes));
        fixture = fixture.restart().await;
        let report = fixture.collect().await;
        moved += report.bytes_moved;
        assert!(fixture.store.packs.packs().len() <= 24, "{report:?}");
        // What is put together is left alone.
        assert_eq!(fixture.collect().await.bytes_moved, 0);
    }
    assert!(moved > 8 * 30_000 && moved < 3 * 30 * 30_000, "{moved}");
    for (id, bytes) in &kept {
        assert!(fixture.get(*id, 0..bytes.len() as u64).await == *bytes);
    }
    fixture.check().await;
}
