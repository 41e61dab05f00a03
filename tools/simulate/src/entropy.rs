//! Randomness from the seed, for everything in this process that asks the system for some: ids, keys, and the order of
//! hash maps.
//!
//! `getrandom` here takes the place of the C library's, as the linker looks in the program first. A thread that has no
//! seed gets the system's.

use std::cell::RefCell;
use std::ffi::c_void;
use std::thread;

thread_local! {
    // The signature of `getrandom` leaves no other place for it.
    static SOURCE: RefCell<Option<fastrand::Rng>> = const { RefCell::new(None) };
}

/// Runs `work` on a thread of its own, where all randomness comes from `seed`. A new thread, since each begins with keys
/// for its hash maps of its own. Fails with the words of a panic.
pub fn on_seeded_thread<T: Send>(seed: u64, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let seeded = || {
        SOURCE.set(Some(fastrand::Rng::with_seed(seed)));
        work()
    };
    thread::scope(|scope| scope.spawn(seeded).join()).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        format!("a panic: {}", text.unwrap_or("without words"))
    })
}

/// As `getrandom(2)`.
///
/// # Safety
/// `buffer` must be writable for `length` bytes, as for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: libc::c_uint) -> isize {
    let fill = |source: &RefCell<Option<fastrand::Rng>>| {
        let mut source = source.borrow_mut();
        let rng = source.as_mut()?;
        // SAFETY: the caller promises that these bytes may be written.
        unsafe { buffer.write_bytes(0, length) };
        // SAFETY: as above; they are initialized now.
        rng.fill(unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) });
        Some(length.cast_signed())
    };
    match SOURCE.try_with(fill) {
        Ok(Some(filled)) => filled,
        // SAFETY: the kernel writes at most `length` bytes behind `buffer`, which the caller promises are writable.
        _ => unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize },
    }
}
