//! Results for people and for programs.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::args::Load;
use crate::histogram::Histogram;
use crate::run::Outcome;
use crate::stats::name;

const MIB: f64 = (1 << 20) as f64;

fn latencies(histogram: &Histogram) -> Value {
    let us = |quantile| histogram.quantile_ns(quantile) as f64 / 1000.0;
    json!({
        "count": histogram.total, "mean": histogram.mean_ns() as f64 / 1000.0, "p50": us(0.5), "p90": us(0.9),
        "p99": us(0.99), "p999": us(0.999), "max": histogram.max_ns as f64 / 1000.0,
    })
}

fn per(time: Duration, count: f64) -> Option<f64> {
    (count > 0.0).then(|| time.as_secs_f64() * 1e6 / count)
}

fn endpoint(outcome: &Outcome) -> Value {
    let stats = &outcome.stats;
    let seconds = outcome.busy.as_secs_f64();
    let requests = stats.all.total as f64;
    let mib = stats.bytes as f64 / MIB;
    let mut by_op = Map::new();
    for (op, histogram) in &stats.by_op {
        by_op.insert((*op).to_owned(), latencies(histogram));
    }
    let server_cpu = |count| outcome.server_cpu.and_then(|cpu| per(cpu, count));
    json!({
        "endpoint": outcome.site.endpoint,
        "seconds": seconds,
        "requests": stats.all.total,
        "requests_per_s": requests / seconds,
        "mib_per_s": mib / seconds,
        "keys_per_s": stats.keys as f64 / seconds,
        "latency_us": latencies(&stats.all),
        "latency_by_op_us": by_op,
        "complete_us": if stats.complete.total > 0 { latencies(&stats.complete) } else { Value::Null },
        "errors": stats.errors,
        "failed": stats.failed(),
        "slow_downs": stats.slow_downs,
        "reconnects": stats.reconnects,
        "server_cpu_us_per_request": server_cpu(requests),
        "server_cpu_us_per_mib": server_cpu(mib),
        "server_cpu_us_per_key": server_cpu(stats.keys as f64),
        "client_cpu_us_per_request": per(outcome.client_cpu, requests),
        "resident_bytes": outcome.memory.map(|m| m.resident_bytes),
        "peak_resident_bytes": outcome.memory.map(|m| m.peak_bytes),
        "connections": outcome.answered.len(),
        "requests_by_connection_min": outcome.answered.iter().min(),
        "requests_by_connection_max": outcome.answered.iter().max(),
        "requests_per_s_by_slice": outcome.slices,
    })
}

/// Quartiles of the slice-by-slice ratios of throughput.
fn paired(first: &Outcome, second: &Outcome) -> Value {
    let mut ratios: Vec<f64> = first.slices.iter().zip(&second.slices).map(|(a, b)| a / b).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |part: f64| {
        ratios
            .get(((ratios.len().saturating_sub(1)) as f64 * part).round() as usize)
            .copied()
    };
    json!({ "p25": at(0.25), "p50": at(0.5), "p75": at(0.75), "pairs": ratios.len() })
}

pub fn document(load: &Load, outcomes: &[Outcome]) -> Value {
    let mut document = json!({
        "op": name(load.op),
        "size_bytes": load.size,
        "concurrency": load.concurrency,
        "compressible": load.compressible,
        "duplicate_ratio": load.duplicate_ratio,
    });
    if let Some(fields) = document.as_object_mut() {
        for outcome in outcomes {
            fields.insert(outcome.site.label.to_owned(), endpoint(outcome));
        }
        if let [first, second] = outcomes {
            fields.insert("throughput_ratio_by_slice".to_owned(), paired(first, second));
        }
    }
    document
}

/// Rows of the printed table: label, path in the endpoint's document, divisor for its unit.
const ROWS: [(&str, &str, f64); 18] = [
    ("requests/s", "/requests_per_s", 1.0),
    ("MiB/s", "/mib_per_s", 1.0),
    ("keys/s", "/keys_per_s", 1.0),
    ("server CPU µs/request", "/server_cpu_us_per_request", 1.0),
    ("server CPU µs/MiB", "/server_cpu_us_per_mib", 1.0),
    ("server CPU µs/key", "/server_cpu_us_per_key", 1.0),
    ("client CPU µs/request", "/client_cpu_us_per_request", 1.0),
    ("mean ms", "/latency_us/mean", 1000.0),
    ("p50 ms", "/latency_us/p50", 1000.0),
    ("p90 ms", "/latency_us/p90", 1000.0),
    ("p99 ms", "/latency_us/p99", 1000.0),
    ("p99.9 ms", "/latency_us/p999", 1000.0),
    ("max ms", "/latency_us/max", 1000.0),
    ("complete p50 ms", "/complete_us/p50", 1000.0),
    ("complete max ms", "/complete_us/max", 1000.0),
    ("resident MiB", "/resident_bytes", MIB),
    ("peak resident MiB", "/peak_resident_bytes", MIB),
    ("fewest requests/connection", "/requests_by_connection_min", 1.0),
];

pub fn text(document: &Value) -> String {
    let get = |label: &str, path: &str| document.pointer(&format!("/{label}{path}")).and_then(Value::as_f64);
    let paired = document.get("against").is_some();
    let mut out = format!(
        "{} {} B x {}\n",
        document["op"], document["size_bytes"], document["concurrency"]
    );
    for (label, path, unit) in ROWS {
        let Some(first) = get("server", path) else { continue };
        out.push_str(&format!("{label:<28}{:>14.3}", first / unit));
        if let (true, Some(second)) = (paired, get("against", path)) {
            out.push_str(&format!("{:>14.3}{:>10.3} x", second / unit, first / second));
        }
        out.push('\n');
    }
    for label in ["server", "against"] {
        let Some(endpoint) = document.get(label) else { continue };
        let by_op = endpoint["latency_by_op_us"].as_object();
        for (op, times) in by_op.into_iter().flatten() {
            out.push_str(&format!(
                "{label} {op}: {} done, p50 {} µs, p99 {} µs\n",
                times["count"], times["p50"], times["p99"]
            ));
        }
        let (failed, slow) = (&endpoint["failed"], &endpoint["slow_downs"]);
        out.push_str(&format!(
            "{label}: failed {failed} {}, SlowDown {slow}, reconnects {}\n",
            endpoint["errors"], endpoint["reconnects"]
        ));
    }
    if paired {
        out.push_str(&format!(
            "throughput ratio by slice: {}\n",
            document["throughput_ratio_by_slice"]
        ));
    }
    out
}
