//! Metrics of the HTTP side. Every counter is found by index: a request costs a few atomic additions and no lookup.

use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::operation::Operation;

/// Seconds; 250 µs to 60 s.
const LATENCY_BUCKETS: [f64; 15] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0,
];

/// The statuses that have a counter of their own; any other is counted as `other`.
const STATUSES: [u16; 19] = [
    200, 204, 206, 301, 304, 307, 400, 403, 404, 405, 408, 409, 411, 412, 413, 416, 500, 501, 503,
];

/// Why a connection or request was turned away before it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    Connections,
    Requests,
    BufferedBodies,
    LargeHeads,
    SlowHead,
    SlowBody,
    SlowReader,
    Handshake,
}

impl Rejection {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Connections, "connections"),
        (Self::Requests, "requests"),
        (Self::BufferedBodies, "buffered_bodies"),
        (Self::LargeHeads, "large_heads"),
        (Self::SlowHead, "slow_head"),
        (Self::SlowBody, "slow_body"),
        (Self::SlowReader, "slow_reader"),
        (Self::Handshake, "handshake"),
    ];
}

struct OfOperation {
    name: &'static str,
    /// By index into `STATUSES`; the last one is for all others.
    by_status: [OnceLock<IntCounter>; STATUSES.len() + 1],
    latency: Histogram,
    received: IntCounter,
    sent: IntCounter,
}

pub struct HttpMetrics {
    requests: IntCounterVec,
    by_operation: Vec<OfOperation>,
    rejections: Vec<(Rejection, IntCounter)>,
    pub in_flight: IntGauge,
    pub connections: IntGauge,
    pub accepted: IntCounter,
    pub aborted: IntCounter,
    pub network_received: IntCounter,
    pub network_sent: IntCounter,
}

fn latency(registry: &Registry) -> Result<HistogramVec, prometheus::Error> {
    let name = "cairn_http_request_duration_seconds";
    let options = HistogramOpts::new(name, "Time from a request's head to the last byte of its answer.");
    let latency = HistogramVec::new(options.buckets(LATENCY_BUCKETS.to_vec()), &["operation"])?;
    registry.register(Box::new(latency.clone()))?;
    Ok(latency)
}

impl HttpMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let requests = counters(
            "cairn_http_requests_total",
            "Requests answered.",
            &["operation", "status"],
        )?;
        let received = counters(
            "cairn_http_request_body_bytes_total",
            "Bytes of request bodies.",
            &["operation"],
        )?;
        let sent = counters(
            "cairn_http_response_body_bytes_total",
            "Bytes of response bodies.",
            &["operation"],
        )?;
        let rejected = counters(
            "cairn_http_rejected_total",
            "Requests and connections over a limit.",
            &["limit"],
        )?;
        let latency = latency(registry)?;
        let by_operation = Operation::ALL.iter().map(|operation| {
            let name = operation.name();
            OfOperation {
                name,
                by_status: std::array::from_fn(|_| OnceLock::new()),
                latency: latency.with_label_values(&[name]),
                received: received.with_label_values(&[name]),
                sent: sent.with_label_values(&[name]),
            }
        });
        Ok(Self {
            by_operation: by_operation.collect(),
            rejections: Rejection::ALL
                .iter()
                .map(|(why, name)| (*why, rejected.with_label_values(&[*name])))
                .collect(),
            requests,
            in_flight: gauge("cairn_http_requests_in_flight", "Requests being served.")?,
            connections: gauge("cairn_http_connections", "Open connections.")?,
            accepted: counter("cairn_http_connections_accepted_total", "Connections accepted.")?,
            aborted: counter(
                "cairn_http_responses_aborted_total",
                "Answers that were not sent to their end.",
            )?,
            network_received: counter("cairn_network_received_bytes_total", "Bytes read from client sockets.")?,
            network_sent: counter("cairn_network_sent_bytes_total", "Bytes written to client sockets.")?,
        })
    }

    pub fn answered(&self, operation: Operation, status: StatusCode, took: Duration, received: u64, sent: u64) {
        let Some(of) = self.by_operation.get(operation as usize) else {
            return;
        };
        let code = status.as_u16();
        let index = STATUSES.binary_search(&code).unwrap_or(STATUSES.len());
        if let Some(cell) = of.by_status.get(index) {
            cell.get_or_init(|| {
                let label = STATUSES.get(index).map_or("other".to_owned(), u16::to_string);
                self.requests.with_label_values(&[of.name, &label])
            })
            .inc();
        }
        of.latency.observe(took.as_secs_f64());
        if received > 0 {
            of.received.inc_by(received);
        }
        if sent > 0 {
            of.sent.inc_by(sent);
        }
    }

    pub fn rejected(&self, why: Rejection) {
        if let Some((_, counter)) = self.rejections.iter().find(|(reason, _)| *reason == why) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_operation_and_status() {
        let registry = Registry::new();
        let metrics = HttpMetrics::new(&registry).unwrap();
        metrics.answered(Operation::PutObject, StatusCode::OK, Duration::from_millis(3), 10, 0);
        metrics.answered(
            Operation::PutObject,
            StatusCode::IM_A_TEAPOT,
            Duration::from_millis(3),
            0,
            0,
        );
        metrics.rejected(Rejection::Requests);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            "cairn_http_requests_total{operation=\"PutObject\",status=\"200\"} 1",
            "cairn_http_requests_total{operation=\"PutObject\",status=\"other\"} 1",
            "cairn_http_request_duration_seconds_count{operation=\"PutObject\"} 2",
            "cairn_http_request_body_bytes_total{operation=\"PutObject\"} 10",
            "cairn_http_rejected_total{limit=\"requests\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(STATUSES.is_sorted());
    }
}
