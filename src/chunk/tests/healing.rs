use std::path::Path;
use std::sync::Arc;

use super::harness::{Fixture, build, content, pack_files, publish, read, release};
use crate::chunk::{ReadError, WriteError};
use crate::ids::DataId;
use crate::kv::CommitError;
use crate::kv::fault::{CommitFault, FaultKv};
use crate::kv::memory::MemoryKv;
use crate::limits::MIB;

/// Flips a byte every 4 KiB of every pack, past its header and before its footer.
fn damage(dir: &Path) {
    for file in pack_files(dir) {
        let mut bytes = std::fs::read(&file).unwrap();
        for at in (6000..bytes.len() - 8192).step_by(4096) {
            bytes[at] ^= 0x55;
        }
        std::fs::write(&file, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_fails_the_read_and_is_healed_by_an_upload() {
    let fixture = Fixture::new().await;
    let bytes = content(1, MIB);
    let size = bytes.len() as u64;
    let id = fixture.put(&bytes).await;
    damage(fixture.dir.path());
    for _ in 0..3 {
        // Never a wrong byte.
        assert!(matches!(
            read(&fixture.store, id, 0..size).await,
            Err(ReadError::Damaged { .. })
        ));
    }
    // The chunks that reads have found damaged are stored anew; the others follow once they are found.
    for _ in 0..40 {
        fixture.put(&bytes).await;
        if let Ok(read) = read(&fixture.store, id, 0..size).await {
            assert!(read == bytes);
            fixture.check().await;
            return;
        }
    }
    panic!("the data was not healed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_with_a_damaged_live_record_is_kept() {
    let fixture = Fixture::new().await;
    let size = 3 * MIB as u64 / 4;
    let (bytes, doomed) = (content(1, size as usize), content(2, size as usize));
    let (id, gone) = (fixture.put(&bytes).await, fixture.put(&doomed).await);
    fixture.store.packs.seal_all().await.unwrap();
    damage(fixture.dir.path());
    fixture.delete(gone).await;
    let report = fixture.collect().await;
    assert!(!report.stuck.is_empty(), "{report:?}");
    assert!(matches!(
        read(&fixture.store, id, 0..size).await,
        Err(ReadError::Damaged { .. })
    ));
    // Every damaged chunk is known now, so that a recount tells it, one upload heals all, and the packs go.
    let recount = fixture.store.recount().await.unwrap();
    assert!(
        recount.differences.is_empty() && !recount.findings.is_empty(),
        "{recount:?}"
    );
    fixture.put(&bytes).await;
    assert!(fixture.get(id, 0..size).await == bytes);
    let report = fixture.collect().await;
    assert!(report.stuck.is_empty() && report.packs_deleted > 0, "{report:?}");
    assert!(fixture.get(id, 0..size).await == bytes);
    fixture.check().await;
}

async fn faulty() -> (Fixture, Arc<FaultKv<MemoryKv>>) {
    let kv = Arc::new(FaultKv::new(MemoryKv::new()));
    (Fixture::on(Arc::clone(&kv) as Arc<dyn crate::kv::Kv>).await, kv)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_publish_loses_nothing_and_leaks_nothing() {
    for fault in [CommitFault::UnknownApplied, CommitFault::UnknownLost] {
        let (fixture, kv) = faulty().await;
        let bytes = content(1, MIB);
        let data = fixture.build(&bytes).await;
        let id = data.id;
        kv.script([fault]);
        assert!(matches!(
            publish(&fixture.store, data).await,
            Err(CommitError::Unknown(_))
        ));
        // While nobody knows, the collector stays away.
        let report = fixture.collect().await;
        assert_eq!(report.unwound, 0);
        drop(kv);
        let fixture = fixture.restart().await;
        let report = fixture.collect().await;
        if fault == CommitFault::UnknownApplied {
            assert_eq!(report.unwound, 0);
            assert!(fixture.get(id, 0..MIB as u64).await == bytes);
        } else {
            assert_eq!(report.unwound, 1);
            assert_eq!(fixture.store.recount().await.unwrap().chunks, 0);
        }
        fixture.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_window_fails_the_upload_and_is_swept_by_the_next_start() {
    for skip in 0..3 {
        for fault in [
            CommitFault::UnknownApplied,
            CommitFault::UnknownLost,
            CommitFault::Unavailable,
        ] {
            let (fixture, kv) = faulty().await;
            kv.script(std::iter::repeat_n(CommitFault::Pass, skip).chain([fault]));
            let result = build(&fixture.store, fixture.write_options(), &content(1, 12 * MIB)).await;
            assert!(matches!(result.err(), Some(WriteError::Meta(_))), "{skip} {fault:?}");
            drop(kv);
            let fixture = fixture.restart().await;
            fixture.collect().await;
            let recount = fixture.store.recount().await.unwrap();
            assert_eq!(
                (recount.data, recount.chunks, recount.differences),
                (0, 0, vec![]),
                "{skip} {fault:?}"
            );
            let id: DataId = fixture.put(&content(1, 12 * MIB)).await;
            assert!(fixture.get(id, 0..12 * MIB as u64).await == content(1, 12 * MIB));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_fails_anywhere_resumes() {
    for skip in 0..24 {
        for fault in [
            CommitFault::UnknownApplied,
            CommitFault::UnknownLost,
            CommitFault::Unavailable,
        ] {
            let (fixture, kv) = faulty().await;
            let (kept, doomed) = (content(1, MIB), content(2, 3 * MIB));
            let (id, gone) = (fixture.put(&kept).await, fixture.put(&doomed).await);
            release(&fixture.store, gone).await.unwrap();
            kv.script(std::iter::repeat_n(CommitFault::Pass, skip).chain([fault]));
            let failed = fixture.store.collect_once().await.is_err();
            // What the first run left of its script is used up, so that the second run meets no fault.
            for _ in 0..24 {
                let _ = fixture.store.create_domain().await;
            }
            drop(kv);
            let fixture = if failed { fixture.restart().await } else { fixture };
            fixture.collect().await;
            assert!(fixture.get(id, 0..MIB as u64).await == kept);
            fixture.check().await;
            let usage = fixture.store.usage().await.unwrap();
            assert!(
                usage.pack_bytes * 100 <= usage.stored_bytes * 118,
                "{skip} {fault:?} {usage:?}"
            );
        }
    }
}
