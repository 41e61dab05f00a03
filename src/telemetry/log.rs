//! Log lines: formatted where they arise, written by a thread of their own, so that a slow terminal or pipe never holds
//! up a request. When the queue is full, lines are dropped and counted.

use std::future::Future;
use std::io::{self, Write};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use prometheus::{IntCounter, Registry};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogConfig, LogFormat};
use crate::limits::LOG_QUEUE_MAX;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

tokio::task_local! {
    /// The id of the request that this task is serving.
    static REQUEST_ID: [u8; 16];
}

/// Runs `work` so that every line that it logs carries the request's id. Costs nothing while nothing is logged, which a
/// span would.
pub fn in_request<F: Future>(id: [u8; 16], work: F) -> impl Future<Output = F::Output> {
    REQUEST_ID.scope(id, work)
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot start the log writer: {0}")]
    Thread(#[from] io::Error),
    #[error("cannot set up logging: {0}")]
    Subscriber(#[from] TryInitError),
    #[error("cannot register the log's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

pub struct LogMetrics {
    dropped: IntCounter,
}

impl LogMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let dropped = IntCounter::new(
            "cairn_log_lines_dropped_total",
            "Log lines dropped because the reader of the log is slow.",
        )?;
        registry.register(Box::new(dropped.clone()))?;
        Ok(Self { dropped })
    }
}

enum Message {
    Line(Vec<u8>),
    Flush(Sender<()>),
}

/// Writes what is left when it is dropped.
pub struct LogGuard {
    queue: Sender<Message>,
    _writer: JoinHandle<()>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let (done, flushed) = bounded(1);
        if self.queue.send_timeout(Message::Flush(done), FLUSH_TIMEOUT).is_ok() {
            let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Sends the process's log to standard error. Each line of a request carries the request's id.
///
/// Only Cairn's own lines follow `config.level`. Other crates are held at warnings, and s3s is off at every level: it
/// logs expected signatures, request bodies and whole errors.
pub fn init(config: &LogConfig, registry: &Registry) -> Result<LogGuard, LogError> {
    let metrics = LogMetrics::new(registry)?;
    let (queue, lines) = bounded(LOG_QUEUE_MAX);
    let writer = std::thread::Builder::new()
        .name("cairn-log".to_owned())
        .spawn(move || write_lines(&lines))?;
    let sink = Sink {
        queue: queue.clone(),
        dropped: metrics.dropped,
        format: config.format,
    };
    let level = config.level.parse().unwrap_or(LevelFilter::INFO);
    let targets = Targets::new()
        .with_target("cairn", level)
        .with_target("s3s", LevelFilter::OFF)
        .with_default(LevelFilter::WARN);
    let lines = fmt::layer().with_writer(sink).with_ansi(false);
    let layer = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(targets))
        .try_init()?;
    std::panic::set_hook(Box::new(|info| tracing::error!(target: "cairn::panic", "{info}")));
    Ok(LogGuard { queue, _writer: writer })
}

fn write_lines(lines: &Receiver<Message>) {
    let mut out = io::BufWriter::new(io::stderr());
    while let Ok(message) = lines.recv() {
        // A log that cannot be written to has nowhere to complain.
        let _ = match message {
            Message::Line(line) => out.write_all(&line),
            Message::Flush(done) => {
                let written = out.flush();
                let _ = done.send(());
                written
            }
        };
        if lines.is_empty() {
            let _ = out.flush();
        }
    }
}

#[derive(Clone)]
struct Sink {
    queue: Sender<Message>,
    dropped: IntCounter,
    format: LogFormat,
}

impl Sink {
    /// `line` and the id of the request that it belongs to, if there is one.
    fn complete(&self, line: &[u8]) -> Vec<u8> {
        let mut whole = line.to_vec();
        let _outside_of_a_request = REQUEST_ID.try_with(|id| {
            let id = std::str::from_utf8(id).unwrap_or_default();
            let (at, field) = match self.format {
                LogFormat::Text => (line.trim_ascii_end().len(), format!(" request={id}")),
                LogFormat::Json => (1, format!("\"request\":\"{id}\",")),
            };
            if at <= whole.len() {
                whole.splice(at..at, field.into_bytes());
            }
        });
        whole
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(self.complete(line))) {
            self.dropped.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_lines_and_counts_them() {
        let metrics = LogMetrics::new(&Registry::new()).unwrap();
        let (queue, lines) = bounded(1);
        let sink = Sink {
            queue,
            dropped: metrics.dropped.clone(),
            format: LogFormat::Text,
        };
        (&sink).write_all(b"one\n").unwrap();
        (&sink).write_all(b"two\n").unwrap();
        assert_eq!(metrics.dropped.get(), 1);
        assert!(matches!(lines.try_recv(), Ok(Message::Line(line)) if line == b"one\n"));
    }

    #[tokio::test]
    async fn a_line_of_a_request_carries_its_id() {
        let metrics = LogMetrics::new(&Registry::new()).unwrap();
        let (queue, lines) = bounded(4);
        for (format, line, expected) in [
            (
                LogFormat::Text,
                "WARN slow key=\"a\"\n",
                "WARN slow key=\"a\" request=0123456789ABCDEF\n",
            ),
            (
                LogFormat::Json,
                "{\"level\":\"WARN\"}\n",
                "{\"request\":\"0123456789ABCDEF\",\"level\":\"WARN\"}\n",
            ),
        ] {
            let sink = Sink {
                queue: queue.clone(),
                dropped: metrics.dropped.clone(),
                format,
            };
            (&sink).write_all(line.as_bytes()).unwrap();
            in_request(*b"0123456789ABCDEF", async { (&sink).write_all(line.as_bytes()) })
                .await
                .unwrap();
            for wanted in [line, expected] {
                assert!(matches!(lines.try_recv(), Ok(Message::Line(got)) if got == wanted.as_bytes()));
            }
        }
    }
}
