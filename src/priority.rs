//! Which threads the kernel lets wait when every core is busy.
//!
//! A 4 KiB PUT takes a few microseconds on each of three threads. Beside a large upload it would at each of them wait out
//! the time slice of a thread that hashes, some milliseconds long. So threads that work by the byte give way, and those
//! that answer requests ask for short slices, with which the kernel lets a thread run as soon as it wakes up.

use std::io;
use std::time::Duration;

/// What `nice` adds for threads that give way: in contention they get a third of the time of one that does not.
pub const NICE: i32 = 5;

/// The least that Linux grants is 100 µs, and not before 6.12; earlier ones ignore it.
const SLICE: Duration = Duration::from_micros(200);

/// Lowers the priority of the calling thread for good.
pub fn give_way() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// Asks for short time slices for the calling thread and those that it starts.
pub fn answer_fast() {
    if let Err(error) = set_slice(SLICE) {
        tracing::debug!(%error, "a thread keeps its time slices");
    }
}

fn set_slice(slice: Duration) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        // The call sets this too: to what it is.
        sched_nice: rustix::process::nice(0)?,
        sched_priority: 0,
        sched_runtime: slice.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes behind the pointer, which `attributes` owns; 0 means the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn only_the_calling_thread_gives_way() {
        let nice = || rustix::process::nice(0).unwrap();
        let here = nice();
        let there = on_a_thread(move || {
            give_way();
            nice()
        });
        assert_eq!(there, (here + NICE).min(19));
        assert_eq!(nice(), here);
    }

    #[test]
    fn short_slices_keep_the_nice_value() {
        let (slice, nice) = on_a_thread(|| {
            give_way();
            let before = rustix::process::nice(0).unwrap();
            (set_slice(SLICE), rustix::process::nice(0).unwrap() - before)
        });
        assert_eq!((slice.is_ok(), nice), (true, 0));
    }
}
