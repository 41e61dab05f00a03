//! `cairn check` on a data directory that no gateway uses.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use prometheus::Registry;

use super::stores::Stores;
use super::{ServeError, root_key, take_directory};
use crate::admin::{CheckReport, Repaired};
use crate::config::Config;
use crate::object::{CheckProgress, StoreError};

const TELL_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{0} holds no store")]
    NoStore(String),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("the index cannot be made anew: {0}")]
    Repair(#[from] crate::chunk::CollectError),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct CheckRequest {
    /// Read every byte too, and tell on a terminal how far that has come.
    pub read_data: bool,
    /// First make lost chunk rows anew from the packs, and set the counters to what the rows say.
    pub repair: bool,
}

/// Checks the store in the data directory, whose lock it takes.
pub fn check(config: &Config, request: CheckRequest) -> Result<CheckReport, CheckError> {
    if !config.data.join("packs").is_dir() {
        return Err(CheckError::NoStore(config.data.display().to_string()));
    }
    let _lock = take_directory(config)?;
    let root = root_key::load_or_make(&config.data, config.root.clone()).map_err(ServeError::from)?;
    let runtime = tokio::runtime::Runtime::new().map_err(ServeError::Threads)?;
    runtime.block_on(async {
        let opened = Stores::open(config, &root.keys, &Registry::new()).await;
        let stores = opened.map_err(ServeError::from)?;
        let report = run(&stores, request).await;
        stores.close().await;
        report
    })
}

async fn run(stores: &Arc<Stores>, request: CheckRequest) -> Result<CheckReport, CheckError> {
    let repaired = if request.repair {
        Some(stores.repair().await?)
    } else {
        None
    };
    let progress = Arc::new(CheckProgress::default());
    let telling = tokio::spawn(tell(Arc::clone(&progress)));
    let report = stores.checked(request.read_data, cores(), &progress).await;
    telling.abort();
    let repaired = repaired.map(|rebuilt| Repaired {
        chunks: rebuilt.restored,
        counters: rebuilt.counters,
    });
    Ok(CheckReport { repaired, ..report? })
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Keeps one line of a terminal up to date.
async fn tell(progress: Arc<CheckProgress>) {
    let begun = Instant::now();
    let mut terminal = std::io::stderr();
    if !terminal.is_terminal() {
        return;
    }
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let (done, total) = (progress.done.load(Relaxed), progress.total.load(Relaxed));
        let line = line(done, total, begun.elapsed());
        // A terminal that went away needs no progress.
        let _ = write!(terminal, "\r\x1b[K{line}").and_then(|()| terminal.flush());
        if total > 0 && done >= total {
            let _ = writeln!(terminal);
            return;
        }
    }
}

fn line(done: u64, total: u64, elapsed: Duration) -> String {
    if total == 0 {
        return format!("comparing rows, {} s", elapsed.as_secs());
    }
    let left = elapsed.as_secs_f64() * (total.saturating_sub(done)) as f64 / done.max(1) as f64;
    let percent = done * 100 / total;
    if done == 0 {
        return "reading packs".to_owned();
    }
    format!("reading packs, {percent} % of {} MiB, {left:.0} s left", total >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_what_is_left() {
        let second = Duration::from_secs(1);
        assert_eq!(line(0, 0, 3 * second), "comparing rows, 3 s");
        assert_eq!(line(0, 9, second), "reading packs");
        assert_eq!(
            line(25 << 20, 100 << 20, 2 * second),
            "reading packs, 25 % of 100 MiB, 6 s left"
        );
        assert_eq!(line(9, 9, second), "reading packs, 100 % of 0 MiB, 0 s left");
    }
}
