//! The line on a terminal that tells how far a check has come.

use std::io::{IsTerminal, Stderr, Write};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::object::{CheckProgress, Progress, Stage};

const TELL_EVERY: Duration = Duration::from_millis(500);

/// Keeps one line of the terminal up to date until it is dropped. Does nothing where there is no terminal.
pub struct Line(Option<(Sender<()>, JoinHandle<()>)>);

impl Line {
    pub fn show(progress: Arc<CheckProgress>) -> Self {
        let terminal = std::io::stderr();
        if !terminal.is_terminal() {
            return Self(None);
        }
        let (stop, stopped) = channel();
        let work = move || {
            let mut shown = (Stage::Rows, Instant::now());
            while stopped.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
                let now = progress.now();
                if now.stage != shown.0 {
                    shown = (now.stage, Instant::now());
                }
                write(&terminal, &line(now, shown.1.elapsed()));
            }
            write(&terminal, "");
        };
        // Without a thread for it nothing is shown.
        Self(Builder::new().spawn(work).ok().map(|thread| (stop, thread)))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

fn write(mut terminal: &Stderr, line: &str) {
    // A terminal that went away needs no progress.
    let _ = write!(terminal, "\r\x1b[K{line}").and_then(|()| terminal.flush());
}

/// `elapsed`: since the stage began.
fn line(now: Progress, elapsed: Duration) -> String {
    let Progress { stage, done, total } = now;
    let (what, scale, unit) = match stage {
        Stage::Rows => return format!("comparing rows, {done} in {} s", elapsed.as_secs()),
        Stage::Index => ("comparing packs with the index", 1, "packs"),
        Stage::Objects => ("looking at objects", 1, "objects"),
        Stage::Data => ("reading packs", 1 << 20, "MiB"),
    };
    let done = done.min(total);
    if done == 0 {
        return what.to_owned();
    }
    let left = elapsed.as_secs_f64() * (total - done) as f64 / done as f64;
    let percent = u128::from(done) * 100 / u128::from(total);
    format!("{what}, {percent} % of {} {unit}, {left:.0} s left", total / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_what_is_left() {
        let second = Duration::from_secs(1);
        let at = |stage, done, total, elapsed| line(Progress { stage, done, total }, elapsed);
        assert_eq!(at(Stage::Rows, 7, 0, 3 * second), "comparing rows, 7 in 3 s");
        assert_eq!(at(Stage::Data, 0, 9, second), "reading packs");
        let told = at(Stage::Data, 25 << 20, 100 << 20, 2 * second);
        assert_eq!(told, "reading packs, 25 % of 100 MiB, 6 s left");
        let told = at(Stage::Objects, 11, 9, second);
        assert_eq!(told, "looking at objects, 100 % of 9 objects, 0 s left");
        assert_eq!(at(Stage::Index, 3, 0, second), "comparing packs with the index");
    }
}
