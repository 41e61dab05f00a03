//! Times lookups of single chunks, as a PUT of one chunk does them, and of 128 at a time, as a window does.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn::kv::Kv;
use cairn::kv::rocks::RocksKv;
use cairn::limits::WINDOW_CHUNKS_MAX;
use cairn::meta::key;
use serde_json::{Value, json};

use crate::content::chunk;
use crate::{Failure, Lookup, open, options};

/// Numbers from here on are of chunks that are not there.
const ABSENT: u64 = 1 << 40;

pub async fn run(arguments: &Lookup) -> Result<String, Failure> {
    let mut options = options(&arguments.data);
    options.block_cache_bytes = arguments.block_cache.unwrap_or(options.block_cache_bytes);
    let start = Instant::now();
    let kv = open(options).await?;
    let open_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut report = json!({"open_ms": open_ms});
    let mut chance = fastrand::Rng::with_seed(arguments.count);
    let mut present = |count: u64| -> Vec<Bytes> {
        let number = |_| key::chunk(&chunk(chance.u64(..arguments.chunks)).0);
        (0..count).map(number).collect()
    };
    for key in present(arguments.warm) {
        kv.get(&key).await?;
    }
    if arguments.count > 0 {
        let absent: Vec<Bytes> = (0..arguments.count)
            .map(|number| key::chunk(&chunk(ABSENT + number).0))
            .collect();
        report["absent"] = singles(&kv, &absent, false).await?;
        report["present"] = singles(&kv, &present(arguments.count), true).await?;
        report["window"] = windows(&kv, &present(arguments.count)).await?;
    }
    report["memory"] = memory()?;
    kv.shutdown().await;
    Ok(report.to_string())
}

async fn singles(kv: &RocksKv, keys: &[Bytes], there: bool) -> Result<Value, Failure> {
    let mut times = Vec::with_capacity(keys.len());
    for key in keys {
        let start = Instant::now();
        let found = kv.get(key).await?;
        times.push(start.elapsed());
        if found.is_some() != there {
            return Err(format!("a chunk is there: {}, expected: {there}", found.is_some()).into());
        }
    }
    Ok(told(times))
}

async fn windows(kv: &RocksKv, keys: &[Bytes]) -> Result<Value, Failure> {
    let mut times = Vec::new();
    for keys in keys.chunks_exact(WINDOW_CHUNKS_MAX) {
        let start = Instant::now();
        let found = kv.get_many(keys).await?;
        times.push(start.elapsed());
        if found.iter().any(Option::is_none) {
            return Err("a chunk of a window is not there".into());
        }
    }
    Ok(told(times))
}

fn told(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get(times.len() * part / 100)
            .map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    let total: Duration = times.iter().sum();
    json!({
        "count": times.len(), "p50_us": at(50), "p99_us": at(99),
        "per_s": times.len() as f64 / total.as_secs_f64().max(1e-9),
    })
}

/// Bytes of this process: resident, of which its own and not of a file, and the most that were resident.
fn memory() -> Result<Value, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    };
    Ok(json!({"resident": field("VmRSS:"), "anonymous": field("RssAnon:"), "peak": field("VmHWM:")}))
}
