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
    let (mut times, before) = (Vec::with_capacity(keys.len()), cpu()?);
    for key in keys {
        let start = Instant::now();
        let found = kv.get(key).await?;
        times.push(start.elapsed());
        if found.is_some() != there {
            return Err(format!("a chunk is there: {}, expected: {there}", found.is_some()).into());
        }
    }
    Ok(told(times, cpu()? - before))
}

async fn windows(kv: &RocksKv, keys: &[Bytes]) -> Result<Value, Failure> {
    let (mut times, before) = (Vec::new(), cpu()?);
    for keys in keys.chunks_exact(WINDOW_CHUNKS_MAX) {
        let start = Instant::now();
        let found = kv.get_many(keys).await?;
        times.push(start.elapsed());
        if found.iter().any(Option::is_none) {
            return Err("a chunk of a window is not there".into());
        }
    }
    Ok(told(times, cpu()? - before))
}

/// `cpu` is what they took of it together. On a machine that others use, that says more than the slowest ones.
fn told(mut times: Vec<Duration>, cpu: Duration) -> Value {
    times.sort_unstable();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |part: usize| times.get(times.len() * part / 100).copied().map_or(0.0, micros);
    let each = |time| micros(time) / times.len().max(1) as f64;
    let total = times.iter().sum();
    json!({
        "count": times.len(), "mean_us": each(total), "p50_us": at(50), "p99_us": at(99), "cpu_us": each(cpu),
    })
}

/// CPU time of this process, in the ticks of 10 ms that proc_pid_stat(5) counts in.
fn cpu() -> Result<Duration, Failure> {
    let line = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = line.rsplit_once(')').ok_or("/proc/self/stat has another form")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(Duration::from_millis(10 * ticks.sum::<Result<u64, _>>()?))
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
