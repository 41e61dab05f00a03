//! Every event is a failpoint: the process dies there, or the call fails.
//!
//! `SYNCTRACE_CONTROL` names a file with the layout of `page`, through which a driver says when and how.
//! `SYNCTRACE_SKIP` is a list of rules separated by `;` for events that do not count: `all:PATTERN`, or
//! `zeros:PATTERN` for writes of nothing but zeros.

use crate::page;
use crate::recorder::{descriptor_path, relative, set_errno};
use crate::rules::matches;
use libc::{c_int, c_long, off64_t};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
static SKIP: OnceLock<Vec<Skip>> = OnceLock::new();
static UNSYNCED: Mutex<Unsynced> = Mutex::new(BTreeMap::new());

/// What a failed sync would lose of each file, by device and number.
type Unsynced = BTreeMap<(u64, u64), Vec<Range<u64>>>;

/// The last change of a name in each directory.
static CHANGES: Mutex<BTreeMap<Vec<u8>, u64>> = Mutex::new(BTreeMap::new());

struct Skip {
    zeros_only: bool,
    pattern: Vec<u8>,
}

/// What is about to happen.
pub enum Subject<'a> {
    Open(c_int),
    Named(&'a [u8]),
}

/// What is to become of an event.
#[derive(PartialEq, Eq)]
pub enum Verdict {
    Go,
    GoAndDie,
    /// A write: carry out half.
    Halve,
    HalveAndDie,
    Fail(c_int),
}

/// Maps the page. `false` when that cannot be done, or the rules are none.
pub fn start(path: &str, skip: &str) -> bool {
    let rules = skip.split(';').filter(|rule| !rule.is_empty()).map(|rule| {
        let (kind, pattern) = rule.split_once(':')?;
        matches!(kind, "all" | "zeros").then(|| Skip {
            zeros_only: kind == "zeros",
            pattern: pattern.as_bytes().to_vec(),
        })
    });
    let Some(rules) = rules.collect() else { return false };
    let _ = SKIP.set(rules);
    let path = format!("{path}\0");
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the path is NUL-terminated; the mapping is new, and stays until the process ends.
    let found = unsafe {
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0);
        if fd < 0 {
            return false;
        }
        let null = std::ptr::null_mut::<u8>();
        let shared = libc::MAP_SHARED;
        let found = libc::syscall(libc::SYS_mmap, null, page::PAGE_BYTES, protection, shared, fd, 0);
        libc::syscall(libc::SYS_close, fd);
        found
    };
    if found < 0 {
        return false;
    }
    PAGE.store(found as *mut AtomicU64, Ordering::Release);
    true
}

fn page() -> Option<&'static [AtomicU64]> {
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: set once, to a mapping of this size that is aligned to a page and never goes; others only use it in words.
    (!page.is_null()).then(|| unsafe { std::slice::from_raw_parts(page, page::PAGE_BYTES / 8) })
}

pub fn is_on() -> bool {
    !PAGE.load(Ordering::Relaxed).is_null()
}

/// Counts an event, and takes the action if it is the one.
pub fn step(kind: u64, subject: &Subject<'_>, is_zero: &dyn Fn() -> bool) -> Verdict {
    let Some(page) = page() else { return Verdict::Go };
    let path = match subject {
        Subject::Named(path) => path.to_vec(),
        Subject::Open(fd) => descriptor_path(*fd)
            .and_then(|path| relative(&path))
            .unwrap_or_default(),
    };
    let skips = |rule: &Skip| matches(&rule.pattern, &path) && (!rule.zeros_only || kind == page::WRITE && is_zero());
    if SKIP.get().is_some_and(|rules| rules.iter().any(skips)) {
        return Verdict::Go;
    }
    let word = |index: usize| page.get(index).map_or(0, |word| word.load(Ordering::SeqCst));
    let add = |index: usize| page.get(index).map_or(0, |word| word.fetch_add(1, Ordering::SeqCst));
    add(page::TOTAL);
    if let Subject::Named(path) = subject {
        changes().insert(parent(path).to_vec(), kind);
    }
    let content = page::WRITE | page::SYNC | page::TRUNCATE | page::ALLOCATE;
    if word(page::FIRED) > 0 && kind & content != 0 && fired_path(page) == path {
        add(page::AFTERWARDS);
    }
    if word(page::ARMED) == 0 || word(page::KINDS) & kind == 0 {
        return Verdict::Go;
    }
    let (number, at, action) = (add(page::COUNT) + 1, word(page::AT), word(page::ACTION));
    if at == 0 || number < at || (number > at && action != page::FAIL_ON) {
        return Verdict::Go;
    }
    if number == at {
        note(page, kind, &path);
    }
    add(page::FIRED);
    match action {
        page::KILL_BEFORE => die(),
        page::KILL_AFTER => Verdict::GoAndDie,
        page::KILL_HALFWAY if kind == page::WRITE => Verdict::HalveAndDie,
        page::KILL_HALFWAY => die(),
        page::FAIL | page::FAIL_ON => Verdict::Fail(word(page::ERRNO) as c_int),
        page::SHORTEN => Verdict::Halve,
        _ => Verdict::Go,
    }
}

/// As `step`, around a call that is no write.
pub fn around(kind: u64, subject: &Subject<'_>, call: impl FnOnce() -> c_long) -> c_long {
    match step(kind, subject, &|| false) {
        Verdict::Fail(0) => 0,
        Verdict::Fail(code) => {
            set_errno(code);
            -1
        }
        Verdict::GoAndDie => {
            call();
            die()
        }
        _ => call(),
    }
}

pub fn die() -> ! {
    // SAFETY: ends this process; the signal can be neither blocked nor caught.
    unsafe { libc::syscall(libc::SYS_kill, libc::syscall(libc::SYS_getpid), libc::SIGKILL) };
    loop {
        // SAFETY: waits for the signal, should it come to another thread first.
        unsafe { libc::syscall(libc::SYS_sched_yield) };
    }
}

fn note(page: &[AtomicU64], kind: u64, path: &[u8]) {
    let room = page::PAGE_BYTES - page::PATH_AT;
    let bytes = path.get(..path.len().min(room)).unwrap_or_default();
    for (word, eight) in page.iter().skip(page::PATH_AT / 8).zip(bytes.chunks(8)) {
        let mut filled = [0_u8; 8];
        for (to, from) in filled.iter_mut().zip(eight) {
            *to = *from;
        }
        word.store(u64::from_ne_bytes(filled), Ordering::SeqCst);
    }
    let change = match kind {
        page::SYNC_DIRECTORY => changes().get(path).copied().unwrap_or_default(),
        _ => 0,
    };
    for (index, value) in [
        (page::FIRED_PATH, bytes.len() as u64),
        (page::FIRED_CHANGE, change),
        (page::FIRED_KIND, kind),
    ] {
        if let Some(word) = page.get(index) {
            word.store(value, Ordering::SeqCst);
        }
    }
}

fn changes() -> MutexGuard<'static, BTreeMap<Vec<u8>, u64>> {
    CHANGES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
    path.get(..end).unwrap_or_default()
}

fn fired_path(page: &[AtomicU64]) -> Vec<u8> {
    let length = page.get(page::FIRED_PATH).map_or(0, |word| word.load(Ordering::SeqCst)) as usize;
    let words = page.iter().skip(page::PATH_AT / 8);
    let bytes = words.flat_map(|word| word.load(Ordering::SeqCst).to_ne_bytes());
    bytes.take(length).collect()
}

/// Which file, wherever it was opened, and its size.
fn identity(fd: c_int) -> Option<((u64, u64), u64)> {
    // SAFETY: an all-zero stat is a valid value, and fstat only writes to it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    (unsafe { libc::fstat(fd, &mut stat) } == 0).then_some(((stat.st_dev, stat.st_ino), stat.st_size as u64))
}

fn unsynced() -> MutexGuard<'static, Unsynced> {
    UNSYNCED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers what a failed sync would lose.
pub fn wrote(fd: c_int, offset: u64, length: u64) {
    let Some((file, _)) = identity(fd) else { return };
    let mut unsynced = unsynced();
    let ranges = unsynced.entry(file).or_default();
    match ranges.last_mut() {
        Some(last) if last.end == offset => last.end += length,
        _ => ranges.push(offset..offset + length),
    }
}

/// Takes what was written to the file since its last sync.
pub fn take_unsynced(fd: c_int) -> Vec<Range<u64>> {
    identity(fd)
        .and_then(|(file, _)| unsynced().remove(&file))
        .unwrap_or_default()
}

/// Zeros in place of what a failed sync dropped. Through a descriptor of its own, since the caller's may be direct.
pub fn lose(fd: c_int, ranges: &[Range<u64>]) {
    let path = format!("/proc/self/fd/{fd}\0");
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    let Some((_, size)) = identity(fd) else { return };
    // SAFETY: the path is NUL-terminated and lives through the call.
    let own = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) } as c_int;
    let zeros = vec![0_u8; 1 << 16];
    for range in ranges {
        let mut at = range.start;
        while at < range.end.min(size) {
            let length = (range.end.min(size) - at).min(zeros.len() as u64);
            // SAFETY: the buffer holds at least `length` bytes and lives through the call.
            let done = unsafe { libc::syscall(libc::SYS_pwrite64, own, zeros.as_ptr(), length, at as off64_t) };
            if done <= 0 {
                crate::recorder::fatal("what a failed sync loses could not be lost");
            }
            at += done as u64;
        }
    }
    // SAFETY: a descriptor of our own.
    unsafe { libc::syscall(libc::SYS_close, own) };
}
