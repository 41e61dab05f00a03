//! What the machine itself can do, on one core: the figures that bound every other.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
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

/// Nanoseconds that this thread has had of a processor.
fn thread_cpu_ns() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let spent = stat.split(' ').next().and_then(|spent| spent.parse().ok());
    spent.ok_or_else(|| io::Error::other("the kernel does not count the CPU time of threads"))
}

/// CPU milliseconds that the sender of a mebibyte over loopback pays at the least: 256 KiB that lie in its cache, again and again.
fn loopback_send_ms() -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sink = std::thread::spawn(move || -> io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let mut into = vec![0; 1 << 20];
        while stream.read(&mut into)? > 0 {}
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let block = vec![0x5A; 256 << 10];
    stream.write_all(&block)?;
    let (begin, before) = (Instant::now(), thread_cpu_ns()?);
    let mut sent = 0.0;
    while begin.elapsed() < FOR * 2 {
        stream.write_all(&block)?;
        sent += block.len() as f64;
    }
    let spent_ms = (thread_cpu_ns()? - before) / 1e6;
    drop(stream);
    sink.join()
        .map_err(|_| io::Error::other("the receiving thread panicked"))??;
    Ok(spent_ms / (sent / MIB))
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
        "loopback_send_ms_per_mib": loopback_send_ms()?,
    }))
}
