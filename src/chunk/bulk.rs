//! Threads for work that goes by the byte: cutting, naming, encoding, comparing.
//!
//! They give way to the threads that answer requests (`priority.rs`).

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tokio::sync::oneshot;

use crate::priority;

pub struct Bulk {
    /// `None`: who asks does the work.
    pool: Option<ThreadPool>,
}

impl Bulk {
    /// Starts `threads` threads, or none. What is run waits its turn; who runs it bounds how much that is.
    pub fn start(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        if threads == 0 {
            return Ok(Self { pool: None });
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("bulk-{number}"))
            .start_handler(|_| priority::give_way())
            .panic_handler(|_| tracing::error!("a bulk thread panicked"))
            .build()?;
        Ok(Self { pool: Some(pool) })
    }

    /// Runs `job` on one of the threads; it runs to its end if the future is dropped. `None`: it panicked.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let Some(pool) = &self.pool else { return Some(job()) };
        let (answer, result) = oneshot::channel();
        pool.spawn(move || {
            // Nobody waits any more: the upload was given up.
            let _ = answer.send(job());
        });
        result.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_run_on_threads_that_give_way() {
        let bulk = Bulk::start(2).unwrap();
        let nice = || rustix::process::nice(0).unwrap();
        let here = nice();
        assert_eq!(bulk.run(nice).await, Some((here + priority::NICE).min(19)));
        assert_eq!(nice(), here);
    }

    #[tokio::test]
    async fn a_job_that_panics_is_told_and_the_next_runs() {
        let bulk = Bulk::start(1).unwrap();
        assert_eq!(bulk.run(|| assert_eq!(1, 2)).await, None);
        assert_eq!(bulk.run(|| 7).await, Some(7));
    }
}
