//! The log, the table of open files, and the raw system calls beneath the hooks.

use crate::control;
use crate::format;
use crate::rules::{Rules, Target};
use libc::{c_int, c_long};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Highest file descriptor that can be followed.
const FILES_MAX: usize = 1 << 16;
/// Set beside the open id when each write is synced (O_DSYNC, O_SYNC).
const SYNCED: u64 = 1 << 32;

// The hooks have no other place for state than statics: libc's signatures carry none.
static LOG: AtomicI32 = AtomicI32::new(-1);
static NEXT_ID: AtomicU32 = AtomicU32::new(1);
static FILES: [AtomicU64; FILES_MAX] = [const { AtomicU64::new(0) }; FILES_MAX];
static ORDER: Mutex<u32> = Mutex::new(0);
static SETTINGS: OnceLock<Settings> = OnceLock::new();

struct Settings {
    directory: Vec<u8>,
    rules: Rules,
}

/// An open file that is recorded.
#[derive(Clone, Copy)]
pub struct Tracked {
    pub id: u32,
    pub synced: bool,
}

/// One event before its sequence is known.
#[derive(Default)]
pub struct Event<'a> {
    pub kind: u8,
    pub flags: u8,
    pub id: u32,
    pub numbers: [u64; 2],
    pub path: &'a [u8],
    pub rest: &'a [u8],
}

/// Holds the order of events while a directory changes.
pub struct Ordered(MutexGuard<'static, u32>);

#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

extern "C" fn init() {
    let (log, control) = (variable("SYNCTRACE_LOG"), variable("SYNCTRACE_CONTROL"));
    let Some(directory) = variable("SYNCTRACE_DIR").filter(|_| log.is_some() || control.is_some()) else {
        return;
    };
    let Some(rules) = Rules::parse(&variable("SYNCTRACE_DROP").unwrap_or_default()) else {
        fatal("SYNCTRACE_DROP is not a list of KIND:PATTERN[@N]")
    };
    let mut directory = directory.into_bytes();
    while directory.len() > 1 && directory.ends_with(b"/") {
        directory.pop();
    }
    let skip = variable("SYNCTRACE_SKIP").unwrap_or_default();
    if control.is_some_and(|path| !control::start(&path, &skip)) {
        fatal("cannot use SYNCTRACE_CONTROL or SYNCTRACE_SKIP");
    }
    let _ = SETTINGS.set(Settings { directory, rules });
    if let Some(path) = log {
        open_log(path);
        record(&Event {
            kind: format::START,
            ..Event::default()
        });
    }
}

fn open_log(path: String) {
    let mut path = path.into_bytes();
    path.push(0);
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: the path is NUL-terminated and lives through the call.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o644) } as c_int;
    if fd < 0 {
        fatal("cannot open SYNCTRACE_LOG");
    }
    // Out of the way of programs that expect low numbers.
    // SAFETY: plain descriptor arithmetic on a descriptor that is ours.
    let high = unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 900) } as c_int;
    LOG.store(if high >= 0 { high } else { fd }, Ordering::Release);
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether files are followed at all.
pub fn active() -> bool {
    SETTINGS.get().is_some()
}

/// Whether there is a log to record in.
pub fn records() -> bool {
    LOG.load(Ordering::Acquire) >= 0
}

/// A recorder that cannot record must not let a test pass.
pub fn fatal(message: &str) -> ! {
    say(message);
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}

pub fn say(message: &str) {
    let text = format!("synctrace: {message}\n");
    // SAFETY: the buffer lives through the call.
    unsafe { libc::syscall(libc::SYS_write, 2, text.as_ptr(), text.len()) };
}

/// Says loudly, in the log too, that something happened which the log cannot express.
pub fn unsupported(message: &str) {
    say(message);
    record(&Event {
        kind: format::UNSUPPORTED,
        path: message.as_bytes(),
        ..Event::default()
    });
}

pub fn order() -> Ordered {
    Ordered(ORDER.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Appends one event and returns its sequence.
pub fn record(event: &Event<'_>) -> u32 {
    order().record(event)
}

impl Ordered {
    pub fn record(&mut self, event: &Event<'_>) -> u32 {
        if !records() {
            return 0;
        }
        *self.0 += 1;
        let sequence = *self.0;
        let length = format::HEADER_BYTES + event.path.len() + event.rest.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&[event.kind, event.flags]);
        bytes.extend_from_slice(&(event.path.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&event.id.to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        for number in event.numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(event.path);
        bytes.extend_from_slice(event.rest);
        // SAFETY: the buffer lives through the call; the descriptor is ours and stays open.
        let written = unsafe {
            libc::syscall(
                libc::SYS_write,
                LOG.load(Ordering::Relaxed),
                bytes.as_ptr(),
                bytes.len(),
            )
        };
        if written != length as c_long {
            fatal("the log took a short write");
        }
        sequence
    }
}

pub fn tracked(fd: c_int) -> Option<Tracked> {
    let entry = FILES.get(usize::try_from(fd).ok()?)?.load(Ordering::Acquire);
    (entry != 0).then_some(Tracked {
        id: entry as u32,
        synced: entry & SYNCED != 0,
    })
}

/// Enters a successful open in the table and returns its id.
pub fn track(fd: c_int, synced: bool) -> u32 {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let Some(entry) = usize::try_from(fd).ok().and_then(|fd| FILES.get(fd)) else {
        fatal("a file descriptor beyond the table")
    };
    entry.store(u64::from(id) | if synced { SYNCED } else { 0 }, Ordering::Release);
    id
}

pub fn forget(fd: c_int) {
    if let Some(entry) = usize::try_from(fd).ok().and_then(|fd| FILES.get(fd)) {
        entry.store(0, Ordering::Release);
    }
}

pub fn duplicate(from: c_int, to: c_int) {
    let entry = usize::try_from(from)
        .ok()
        .and_then(|fd| FILES.get(fd))
        .map_or(0, |entry| entry.load(Ordering::Acquire));
    match usize::try_from(to).ok().and_then(|fd| FILES.get(fd)) {
        Some(slot) => slot.store(entry, Ordering::Release),
        None if entry != 0 => fatal("a file descriptor beyond the table"),
        None => {}
    }
}

/// Whether the rules leave this sync out; if so that is recorded.
pub fn drops(fd: c_int, id: u32, target: Target) -> bool {
    let Some(settings) = SETTINGS.get() else { return false };
    let Some(path) = descriptor_path(fd).and_then(|path| relative(&path)) else {
        return false;
    };
    let name: &[u8] = if path.is_empty() { b"." } else { &path };
    let dropped = settings.rules.drops(target, name);
    if dropped {
        record(&Event {
            kind: format::DROPPED,
            id,
            path: name,
            ..Event::default()
        });
    }
    dropped
}

/// Whether the rules leave out the syncing of each write to this path (its O_DSYNC or O_SYNC).
pub fn drops_open(path: &[u8]) -> bool {
    SETTINGS
        .get()
        .is_some_and(|settings| settings.rules.drops(Target::Data, path))
}

/// The path below the recorded directory that `path` names, `None` outside it.
pub fn resolve(dirfd: c_int, path: &[u8]) -> Option<Vec<u8>> {
    let absolute = if path.starts_with(b"/") {
        path.to_vec()
    } else {
        let mut base = if dirfd == libc::AT_FDCWD {
            link_target(b"/proc/self/cwd\0")?
        } else {
            descriptor_path(dirfd)?
        };
        base.push(b'/');
        base.extend_from_slice(path);
        base
    };
    let mut clean: Vec<&[u8]> = Vec::new();
    for part in absolute.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(clean.pop()),
            _ => clean.push(part),
        }
    }
    let mut text = Vec::with_capacity(absolute.len());
    for part in clean {
        text.push(b'/');
        text.extend_from_slice(part);
    }
    relative(&text)
}

pub fn relative(path: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(SETTINGS.get()?.directory.as_slice())?;
    match rest.split_first() {
        None => Some(Vec::new()),
        Some((b'/', tail)) => Some(tail.to_vec()),
        Some(_) => None,
    }
}

pub fn descriptor_path(fd: c_int) -> Option<Vec<u8>> {
    link_target(format!("/proc/self/fd/{fd}\0").as_bytes())
}

fn link_target(link: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = vec![0_u8; libc::PATH_MAX as usize];
    // SAFETY: `link` ends with NUL (both callers), and the buffer's length is passed.
    let length = unsafe {
        libc::syscall(
            libc::SYS_readlinkat,
            libc::AT_FDCWD,
            link.as_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    buffer.truncate(usize::try_from(length).ok()?);
    Some(buffer)
}

pub fn set_errno(code: c_int) {
    // SAFETY: the address is this thread's errno.
    unsafe { *libc::__errno_location() = code };
}

pub fn errno() -> c_int {
    // SAFETY: the address is this thread's errno.
    unsafe { *libc::__errno_location() }
}
