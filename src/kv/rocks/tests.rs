use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::{OpenError, RocksKv, RocksOptions};
use crate::kv::log::{LogError, LogFault, LogStep};
use crate::kv::{CommitError, Counter, Family, Kv, Mutation, suite};
use crate::limits::KIB;

fn options(dir: &Path) -> RocksOptions {
    RocksOptions {
        dir: dir.to_owned(),
        log_file_bytes: 256 * KIB as u64,
        ..RocksOptions::default()
    }
}

async fn open(dir: &Path) -> RocksKv {
    RocksKv::open(options(dir), &prometheus::Registry::new()).await.unwrap()
}

fn row(number: u64) -> Bytes {
    suite::key(Family::Bodies, &format!("{number:06}"))
}

async fn write(kv: &RocksKv, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let mut mutation = if number % 3 == 0 {
            Mutation::deferred()
        } else {
            Mutation::new()
        };
        mutation.put(row(number), vec![number as u8; 3000]);
        mutation.add(suite::key(Family::Rest, "count"), 1);
        kv.commit(mutation).await.unwrap();
    }
}

async fn check(kv: &RocksKv, count: u64) {
    for number in 0..count {
        assert_eq!(
            kv.get(&row(number)).await.unwrap().unwrap().bytes,
            vec![number as u8; 3000]
        );
    }
    let counter = kv.get(&suite::key(Family::Rest, "count")).await.unwrap().unwrap();
    assert_eq!(Counter::decode(&counter.bytes), Some(count as i64));
}

/// The files as they are now: what a kill would leave.
fn image(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            image(&entry.path(), &target);
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behaves() {
    let dir = tempfile::tempdir().unwrap();
    let kv = open(dir.path()).await;
    suite::run(&kv).await;
    kv.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reopens_after_shutdown_and_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(&dir.path().join("0")).await;
    write(&first, 0..200).await;
    first.shutdown().await;
    drop(first);
    image(&dir.path().join("0"), &dir.path().join("1"));
    // Each image is taken from a running store; small log files make it roll many times.
    for generation in 1..4 {
        let here = dir.path().join(generation.to_string());
        let kv = open(&here).await;
        check(&kv, generation * 200).await;
        write(&kv, generation * 200..(generation + 1) * 200).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        image(&here, &dir.path().join((generation + 1).to_string()));
        kv.shutdown().await;
    }
    let kv = open(&dir.path().join("4")).await;
    check(&kv, 800).await;
    kv.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_log_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let kv = open(&dir.path().join("a")).await;
    write(&kv, 0..5).await;
    kv.shutdown().await;
    drop(kv);
    for (turn, at) in [100, 4096, 4196, 8192 + 57, 3 * 4096 + 4000].into_iter().enumerate() {
        let copy = dir.path().join(format!("b{turn}"));
        image(&dir.path().join("a"), &copy);
        let log = std::fs::read_dir(copy.join("log"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let log = log.filter(|path| path.extension().unwrap() == "log").max().unwrap();
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[at] ^= 0x10;
        std::fs::write(&log, bytes).unwrap();
        let opened = RocksKv::open(options(&copy), &prometheus::Registry::new()).await;
        let Err(OpenError::Log(LogError::Corrupt { offset, .. })) = opened else {
            panic!("byte {at} passed")
        };
        assert_eq!(offset, at as u64 / 4096 * 4096);
    }
}

#[derive(Default)]
struct Failing {
    sync: AtomicBool,
    write: AtomicBool,
    create: AtomicBool,
}

impl LogFault for Failing {
    fn before(&self, step: LogStep) -> io::Result<()> {
        let flag = match step {
            LogStep::Sync => &self.sync,
            LogStep::Write => &self.write,
            LogStep::Create => &self.create,
        };
        if flag.load(Ordering::SeqCst) {
            Err(io::Error::other("the disk is gone"))
        } else {
            Ok(())
        }
    }
}

/// A full disk: no file can be begun, and those that are there take what fits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_for_a_file_writes_wait_for_room_and_no_restart() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Failing::default());
    let with_fault = RocksOptions {
        log_fault: Some(fault.clone()),
        log_file_bytes: 1 << 20,
        ..options(dir.path())
    };
    let kv = RocksKv::open(with_fault, &prometheus::Registry::new()).await.unwrap();
    fault.create.store(true, Ordering::SeqCst);
    let mut written = 0;
    let refused = loop {
        let mut mutation = Mutation::new();
        mutation.absent(suite::key(Family::Rest, &format!("large {written}")));
        mutation.put(suite::key(Family::Rest, &format!("large {written}")), vec![7; 200_000]);
        match kv.commit(mutation).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 200, "the log never needed a file");
    };
    assert!(matches!(refused, CommitError::Unavailable(_)), "{refused}");
    assert_eq!(kv.health(), Ok(()));
    // What was refused is not there, now or later.
    let lost = suite::key(Family::Rest, &format!("large {written}"));
    assert_eq!(kv.get(&lost).await.unwrap(), None);
    fault.create.store(false, Ordering::SeqCst);
    write(&kv, 0..10).await;
    kv.shutdown().await;
    drop(kv);
    let kv = open(dir.path()).await;
    check(&kv, 10).await;
    assert_eq!(kv.get(&lost).await.unwrap(), None);
    for number in 0..written {
        let key = suite::key(Family::Rest, &format!("large {number}"));
        assert_eq!(kv.get(&key).await.unwrap().unwrap().bytes.len(), 200_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_or_write_poisons_until_a_restart() {
    for fails_sync in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let fault = Arc::new(Failing::default());
        let with_fault = RocksOptions {
            log_fault: Some(fault.clone()),
            ..options(dir.path())
        };
        let kv = RocksKv::open(with_fault, &prometheus::Registry::new()).await.unwrap();
        write(&kv, 0..10).await;
        assert_eq!(kv.health(), Ok(()));
        let flag = if fails_sync { &fault.sync } else { &fault.write };
        // The idle mark must be written before: it would take the failure.
        tokio::time::sleep(Duration::from_millis(500)).await;
        flag.store(true, Ordering::SeqCst);
        let lost = || {
            let mut mutation = Mutation::new();
            mutation.put(suite::key(Family::Rest, "lost"), "x");
            mutation
        };
        assert!(matches!(kv.commit(lost()).await, Err(CommitError::Unknown(_))));
        flag.store(false, Ordering::SeqCst);
        assert!(matches!(kv.commit(lost()).await, Err(CommitError::Unavailable(_))));
        assert!(kv.health().unwrap_err().contains("the disk is gone"));
        check(&kv, 10).await;
        assert_eq!(kv.get(&suite::key(Family::Rest, "lost")).await.unwrap(), None);
        kv.shutdown().await;
        drop(kv);
        let kv = open(dir.path()).await;
        check(&kv, 10).await;
        write(&kv, 10..11).await;
        kv.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_are_compacted_away() {
    let dir = tempfile::tempdir().unwrap();
    let kv = open(dir.path()).await;
    let row = |number: u64| suite::key(Family::Heads, &format!("{number:06}"));
    let change = async |numbers: std::ops::Range<u64>, deletes: bool| {
        for start in numbers.clone().step_by(500) {
            let mut mutation = Mutation::deferred();
            for number in start..(start + 500).min(numbers.end) {
                if deletes {
                    mutation.delete(row(number));
                } else {
                    mutation.put(row(number), vec![0; 100]);
                }
            }
            kv.commit(mutation).await.unwrap();
        }
    };
    change(0..20_000, false).await;
    change(0..10_000, true).await;
    let range = row(0)..row(20_000);
    assert!(kv.database.tombstones(Family::Heads, &range) >= 10_000);
    let tidied = async {
        while kv.database.tombstones(Family::Heads, &range) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), tidied).await.unwrap();
    assert_eq!(kv.metrics().compactions.get(), 1, "one burst, one compaction");
    kv.shutdown().await;
}

#[tokio::test]
async fn dropping_without_shutdown_closes_before_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    for generation in 0..3 {
        let kv = open(dir.path()).await;
        if generation > 0 {
            check(&kv, generation * 20).await;
        }
        write(&kv, generation * 20..(generation + 1) * 20).await;
        drop(kv);
    }
}

/// Ends the committer's thread as a bug would.
#[derive(Default)]
struct Panics(AtomicBool);

impl LogFault for Panics {
    fn before(&self, _: LogStep) -> io::Result<()> {
        assert!(!self.0.load(Ordering::SeqCst), "a bug in the committer");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committer_that_panicked_is_not_healthy() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Panics::default());
    let with_fault = RocksOptions {
        log_fault: Some(fault.clone()),
        ..options(dir.path())
    };
    let kv = RocksKv::open(with_fault, &prometheus::Registry::new()).await.unwrap();
    write(&kv, 0..10).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    fault.0.store(true, Ordering::SeqCst);
    let lost = || {
        let mut mutation = Mutation::new();
        mutation.put(suite::key(Family::Rest, "lost"), "x");
        mutation
    };
    assert!(matches!(kv.commit(lost()).await, Err(CommitError::Unknown(_))));
    // The caller may hear of it while the thread is still on its way out.
    let told = async {
        while kv.health().is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.unwrap();
    assert!(matches!(kv.commit(lost()).await, Err(CommitError::Unavailable(_))));
    fault.0.store(false, Ordering::SeqCst);
    kv.shutdown().await;
    drop(kv);
    check(&open(dir.path()).await, 10).await;
}

/// Refuses direct writes as some file systems do, until the log writes through the page cache.
#[derive(Default)]
struct RefusesOnce(AtomicBool);

impl LogFault for RefusesOnce {
    fn before(&self, step: LogStep) -> io::Result<()> {
        if step == LogStep::Write && !self.0.swap(true, Ordering::SeqCst) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_direct_write_is_done_through_the_page_cache() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(RefusesOnce::default());
    let with_fault = RocksOptions {
        log_fault: Some(fault.clone()),
        ..options(dir.path())
    };
    let kv = RocksKv::open(with_fault, &prometheus::Registry::new()).await.unwrap();
    write(&kv, 0..20).await;
    assert!(fault.0.load(Ordering::SeqCst));
    assert_eq!(kv.health(), Ok(()));
    kv.shutdown().await;
    drop(kv);
    check(&open(dir.path()).await, 20).await;
}

#[tokio::test]
async fn a_manifest_whose_name_a_power_cut_lost_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let kv = open(dir.path()).await;
    write(&kv, 0..50).await;
    kv.shutdown().await;
    drop(kv);
    std::fs::write(dir.path().join("db/CURRENT"), "MANIFEST-999999\n").unwrap();
    let kv = open(dir.path()).await;
    check(&kv, 50).await;
    write(&kv, 50..60).await;
    kv.shutdown().await;
    drop(kv);
    check(&open(dir.path()).await, 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_takes_is_told_by_family() {
    let dir = tempfile::tempdir().unwrap();
    let kv = open(dir.path()).await;
    let told = |family| kv.metrics().file_bytes.with_label_values(&[family]).get();
    write(&kv, 0..50).await;
    kv.refresh_metrics();
    assert_eq!((told("bodies"), told("rest")), (0, 0));
    assert!(kv.metrics().memtable_bytes.get() > 50 * 3000);
    kv.database.flush().unwrap();
    kv.refresh_metrics();
    assert!(told("bodies") > 50 * 3000 && told("rest") > 0);
    assert_eq!(told("heads"), 0);
}
