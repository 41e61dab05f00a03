//! What the machine itself can do, on one core: the figures that bound every other.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use md5::Md5;
use sha2::{Digest, Sha256};

const FOR: Duration = Duration::from_millis(700);
const MIB: f64 = (1 << 20) as f64;

/// Mebibytes a second of `work`, which handles `bytes` bytes a call.
fn rate(bytes: usize, mut work: impl FnMut()) -> f64 {
    work();
    let begin = Instant::now();
    let mut calls = 0u64;
    while begin.elapsed() < FOR {
        work();
        calls += 1;
    }
    calls as f64 * bytes as f64 / MIB / begin.elapsed().as_secs_f64()
}

/// Synced 4 KiB overwrites a second, one after another, in a preallocated file.
fn syncs_per_second(dir: &Path) -> io::Result<f64> {
    let path = dir.join("load-limits.tmp");
    let mut file = File::create(&path)?;
    file.write_all(&vec![1u8; 4 << 20])?;
    file.sync_all()?;
    let begin = Instant::now();
    let mut syncs = 0u64;
    while begin.elapsed() < FOR * 2 {
        file.seek(SeekFrom::Start(syncs % 1024 * 4096))?;
        file.write_all(&[syncs as u8; 4096])?;
        file.sync_data()?;
        syncs += 1;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(syncs as f64 / elapsed)
}

pub fn measure(dir: &Path) -> io::Result<serde_json::Value> {
    let source = vec![0x5Au8; 64 << 20];
    let mut target = vec![0u8; 64 << 20];
    let block = source.get(..1 << 20).unwrap_or_default();
    let md5 = rate(block.len(), || {
        black_box(Md5::digest(black_box(block)));
    });
    let sha256 = rate(block.len(), || {
        black_box(Sha256::digest(black_box(block)));
    });
    let memcpy = rate(source.len(), || {
        target.copy_from_slice(black_box(&source));
        black_box(&mut target);
    });
    Ok(serde_json::json!({
        "md5_mib_per_s": md5,
        "sha256_mib_per_s": sha256,
        "memcpy_mib_per_s": memcpy,
        "fdatasync_4k_per_s": syncs_per_second(dir)?,
    }))
}
