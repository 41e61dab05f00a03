//! The hooks on open files: open, write, cut, allocate, sync, duplicate, close, map.
//!
//! libc's variadic functions are given a fixed argument in place of `...`: on x86-64 and AArch64 Linux integer
//! arguments travel in the same registers either way.

use crate::control::{self, Subject, Verdict};
use crate::format;
use crate::page;
use crate::recorder::{
    Event, active, drops, drops_open, duplicate, errno, forget, order, record, records, resolve, set_errno, track,
    tracked, unsupported,
};
use crate::rules::Target;
use libc::{c_char, c_int, c_void, iovec, mode_t, off_t, off64_t, size_t, ssize_t};
use std::ffi::CStr;

/// Opens, and records the open when the path lies in the recorded directory.
unsafe fn open_file(dirfd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY (all calls here): the caller's arguments are passed on as they are; `path` is NUL-terminated by contract.
    let raw = |flags: c_int| unsafe { libc::syscall(libc::SYS_openat, dirfd, path, flags, mode) } as c_int;
    let name = if active() {
        resolve(dirfd, unsafe { CStr::from_ptr(path) }.to_bytes())
    } else {
        None
    };
    let Some(name) = name else {
        let fd = raw(flags);
        forget(fd);
        return fd;
    };
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        unsupported("O_TMPFILE");
    }
    let synced = flags & libc::O_DSYNC != 0;
    let dropped = synced && drops_open(&name);
    let flags = if dropped { flags & !libc::O_SYNC } else { flags };
    let mut ordered = order();
    let existed = unsafe { libc::syscall(libc::SYS_faccessat, dirfd, path, libc::F_OK) } == 0;
    let changes = flags & libc::O_TRUNC != 0 || !existed && flags & libc::O_CREAT != 0;
    let fd = if changes {
        control::around(page::CREATE, &Subject::Named(&name), || raw(flags).into()) as c_int
    } else {
        raw(flags)
    };
    if fd < 0 {
        return fd;
    }
    let id = track(fd, synced && !dropped);
    let mut kind = 0;
    if !existed {
        kind |= format::OPEN_CREATED;
    }
    if flags & libc::O_TRUNC != 0 {
        kind |= format::OPEN_TRUNCATED;
    }
    if is_directory(fd) {
        kind |= format::OPEN_DIRECTORY;
    }
    ordered.record(&Event {
        kind: format::OPEN,
        flags: kind,
        id,
        path: &name,
        ..Event::default()
    });
    if dropped {
        ordered.record(&Event {
            kind: format::DROPPED,
            id,
            path: &name,
            ..Event::default()
        });
    }
    fd
}

fn file_type(fd: c_int) -> mode_t {
    // SAFETY: an all-zero stat is a valid value, and fstat only writes to it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    match unsafe { libc::fstat(fd, &mut stat) } {
        0 => stat.st_mode & libc::S_IFMT,
        _ => 0,
    }
}

fn is_directory(fd: c_int) -> bool {
    file_type(fd) == libc::S_IFDIR
}

/// Defines hooks that all pass their arguments to one function.
macro_rules! hooks {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty => $body:expr;)*) => {
        $(
            /// # Safety
            /// As libc's function of this name.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
                // SAFETY: the arguments are the caller's, under the contract of libc's function.
                unsafe { $body }
            }
        )*
    };
}

const CREAT: c_int = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;

hooks! {
    open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int => open_file(libc::AT_FDCWD, path, flags, mode);
    open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int => open_file(libc::AT_FDCWD, path, flags, mode);
    __open_2(path: *const c_char, flags: c_int) -> c_int => open_file(libc::AT_FDCWD, path, flags, 0);
    __open64_2(path: *const c_char, flags: c_int) -> c_int => open_file(libc::AT_FDCWD, path, flags, 0);
    openat(dirfd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int =>
        open_file(dirfd, path, flags, mode);
    openat64(dirfd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int =>
        open_file(dirfd, path, flags, mode);
    __openat_2(dirfd: c_int, path: *const c_char, flags: c_int) -> c_int => open_file(dirfd, path, flags, 0);
    __openat64_2(dirfd: c_int, path: *const c_char, flags: c_int) -> c_int => open_file(dirfd, path, flags, 0);
    creat(path: *const c_char, mode: mode_t) -> c_int => open_file(libc::AT_FDCWD, path, CREAT, mode);
    creat64(path: *const c_char, mode: mode_t) -> c_int => open_file(libc::AT_FDCWD, path, CREAT, mode);

    write(fd: c_int, data: *const c_void, length: size_t) -> ssize_t => {
        let part = iovec { iov_base: data.cast_mut(), iov_len: length };
        wrote(fd, &part, 1, None, false, |part, _| {
            libc::syscall(libc::SYS_write, fd, (*part).iov_base, (*part).iov_len) as ssize_t
        })
    };
    writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t =>
        wrote(fd, parts, count, None, false, |parts, count| {
            libc::syscall(libc::SYS_writev, fd, parts, count) as ssize_t
        });
    pwrite(fd: c_int, data: *const c_void, length: size_t, offset: off_t) -> ssize_t =>
        pwrite64(fd, data, length, offset);
    pwrite64(fd: c_int, data: *const c_void, length: size_t, offset: off64_t) -> ssize_t => {
        let part = iovec { iov_base: data.cast_mut(), iov_len: length };
        wrote(fd, &part, 1, Some(offset), false, |part, _| {
            libc::syscall(libc::SYS_pwrite64, fd, (*part).iov_base, (*part).iov_len, offset) as ssize_t
        })
    };
    pwritev(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t =>
        pwritev64(fd, parts, count, offset);
    pwritev64(fd: c_int, parts: *const iovec, count: c_int, offset: off64_t) -> ssize_t =>
        wrote(fd, parts, count, Some(offset), false, |parts, count| {
            libc::syscall(libc::SYS_pwritev, fd, parts, count, offset, 0) as ssize_t
        });
    pwritev2(fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t =>
        pwritev64v2(fd, parts, count, offset, flags);
    pwritev64v2(fd: c_int, parts: *const iovec, count: c_int, offset: off64_t, flags: c_int) -> ssize_t => {
        let synced = flags & (libc::RWF_DSYNC | libc::RWF_SYNC) != 0;
        wrote(fd, parts, count, (offset >= 0).then_some(offset), synced, |parts, count| {
            libc::syscall(libc::SYS_pwritev2, fd, parts, count, offset, 0, flags) as ssize_t
        })
    };

    ftruncate(fd: c_int, size: off_t) -> c_int => ftruncate64(fd, size);
    ftruncate64(fd: c_int, size: off64_t) -> c_int => {
        let result = stepped(fd, page::TRUNCATE, || libc::syscall(libc::SYS_ftruncate, fd, size));
        changed(fd, result, format::TRUNCATE, 0, [size as u64, 0])
    };
    fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int => fallocate64(fd, mode, offset, length);
    fallocate64(fd: c_int, mode: c_int, offset: off64_t, length: off64_t) -> c_int => {
        let result = stepped(fd, page::ALLOCATE, || libc::syscall(libc::SYS_fallocate, fd, mode, offset, length));
        changed(fd, result, format::ALLOCATE, mode as u8, [offset as u64, length as u64])
    };
    posix_fallocate(fd: c_int, offset: off_t, length: off_t) -> c_int => posix_fallocate64(fd, offset, length);
    posix_fallocate64(fd: c_int, offset: off64_t, length: off64_t) -> c_int => {
        let before = errno();
        let result = if fallocate64(fd, 0, offset, length) == 0 { 0 } else { errno() };
        set_errno(before);
        result
    };

    fsync(fd: c_int) -> c_int => sync_file(fd, libc::SYS_fsync);
    fdatasync(fd: c_int) -> c_int => sync_file(fd, libc::SYS_fdatasync);
    // Promises nothing after a power cut (sync_file_range(2)), so it is not a sync to the record.
    sync_file_range(fd: c_int, offset: off64_t, length: off64_t, flags: u32) -> c_int =>
        stepped(fd, page::SYNC_RANGE, || libc::syscall(libc::SYS_sync_file_range, fd, offset, length, flags));
    syncfs(fd: c_int) -> c_int => {
        unsupported("syncfs");
        libc::syscall(libc::SYS_syncfs, fd) as c_int
    };
    sync() -> () => {
        unsupported("sync");
        libc::syscall(libc::SYS_sync);
    };

    close(fd: c_int) -> c_int => {
        forget(fd);
        libc::syscall(libc::SYS_close, fd) as c_int
    };
    dup(fd: c_int) -> c_int => duplicated(fd, libc::syscall(libc::SYS_dup, fd) as c_int);
    dup2(fd: c_int, to: c_int) -> c_int => {
        if fd == to { fcntl(fd, libc::F_GETFD, 0).min(0) | to } else { dup3(fd, to, 0) }
    };
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int =>
        duplicated(fd, libc::syscall(libc::SYS_dup3, fd, to, flags) as c_int);
    fcntl(fd: c_int, command: c_int, argument: usize) -> c_int => {
        let result = libc::syscall(libc::SYS_fcntl, fd, command, argument) as c_int;
        let copies = command == libc::F_DUPFD || command == libc::F_DUPFD_CLOEXEC;
        if copies { duplicated(fd, result) } else { result }
    };
    fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int => fcntl(fd, command, argument);

    // Callers fall back to read and write, which are recorded.
    copy_file_range(from: c_int, from_at: *mut off64_t, to: c_int, to_at: *mut off64_t, length: size_t, flags: u32)
        -> ssize_t => {
        if tracked(to).is_some() { refuse(libc::ENOSYS) } else {
            libc::syscall(libc::SYS_copy_file_range, from, from_at, to, to_at, length, flags) as ssize_t
        }
    };
    sendfile(to: c_int, from: c_int, offset: *mut off_t, length: size_t) -> ssize_t =>
        sendfile64(to, from, offset, length);
    sendfile64(to: c_int, from: c_int, offset: *mut off64_t, length: size_t) -> ssize_t => {
        if tracked(to).is_some() { refuse(libc::EINVAL) } else {
            libc::syscall(libc::SYS_sendfile, to, from, offset, length) as ssize_t
        }
    };

    mmap(address: *mut c_void, length: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t)
        -> *mut c_void => mmap64(address, length, protection, flags, fd, offset);
    mmap64(address: *mut c_void, length: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off64_t)
        -> *mut c_void => {
        let shared = flags & libc::MAP_TYPE != libc::MAP_PRIVATE && flags & libc::MAP_ANONYMOUS == 0;
        if shared && protection & libc::PROT_WRITE != 0 && tracked(fd).is_some() {
            unsupported("a writable shared mapping of a recorded file");
        }
        libc::syscall(libc::SYS_mmap, address, length, protection, flags, fd, offset) as *mut c_void
    };
}

/// Makes a write of `parts` with `call` and records what it took of them.
unsafe fn wrote(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    offset: Option<off64_t>,
    synced: bool,
    call: impl FnOnce(*const iovec, c_int) -> ssize_t,
) -> ssize_t {
    let Some(file) = tracked(fd) else {
        return call(parts, count);
    };
    // SAFETY: the caller's parts, under the contract of libc's function.
    let (length, dies) = unsafe { controlled(fd, parts, count, call) };
    if length < 1 {
        return length;
    }
    if file_type(fd) != libc::S_IFREG {
        forget(fd);
        return length;
    }
    let offset = offset.unwrap_or_else(|| {
        // SAFETY: only asks for the position, which a plain or appending write has left behind its bytes.
        (unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) }) - length as off64_t
    });
    if control::is_on() {
        control::wrote(fd, offset as u64, length as u64);
    }
    if records() {
        let flags = if synced || file.synced { format::WRITE_SYNCED } else { 0 };
        // SAFETY: the kernel has just read `length` bytes from these parts.
        let data = unsafe { gathered(parts, count, length as usize) };
        record(&Event {
            kind: format::WRITE,
            flags,
            id: file.id,
            numbers: [offset as u64, 0],
            rest: &data,
            ..Event::default()
        });
    }
    if dies {
        control::die();
    }
    length
}

/// Makes a write under the control's eyes; whether the process is to die after it.
unsafe fn controlled(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    call: impl FnOnce(*const iovec, c_int) -> ssize_t,
) -> (ssize_t, bool) {
    if !control::is_on() {
        return (call(parts, count), false);
    }
    // SAFETY: the caller's parts, under the contract of libc's function.
    let slices = unsafe { std::slice::from_raw_parts(parts, count.max(0) as usize) };
    let total: usize = slices.iter().map(|part| part.iov_len).sum();
    // SAFETY: as above.
    let is_zero = || unsafe { gathered(parts, count, total) }.iter().all(|byte| *byte == 0);
    let verdict = control::step(page::WRITE, &Subject::Open(fd), &is_zero);
    match verdict {
        Verdict::Fail(0) => (total as ssize_t, false),
        Verdict::Fail(code) => (refuse(code), false),
        Verdict::Go => (call(parts, count), false),
        Verdict::GoAndDie => (call(parts, count), true),
        Verdict::Halve | Verdict::HalveAndDie => {
            let dies = verdict == Verdict::HalveAndDie;
            // Whole pages, which a direct write demands. One page is all or nothing.
            let half = if total > 4096 {
                (total / 2).next_multiple_of(4096).min(total)
            } else {
                total
            };
            if dies && half == total {
                control::die();
            }
            let halves = front(slices, half);
            (call(halves.as_ptr(), halves.len() as c_int), dies)
        }
    }
}

/// The first `left` bytes of `parts`.
fn front(parts: &[iovec], mut left: usize) -> Vec<iovec> {
    let cut = parts.iter().map(|part| {
        let iov_len = left.min(part.iov_len);
        left -= iov_len;
        iovec {
            iov_base: part.iov_base,
            iov_len,
        }
    });
    cut.collect()
}

/// Copies the first `left` bytes of `parts`.
///
/// # Safety
/// The parts hold that many bytes.
unsafe fn gathered(parts: *const iovec, count: c_int, mut left: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(left);
    // SAFETY: by this function's contract.
    let parts = unsafe { std::slice::from_raw_parts(parts, count as usize) };
    for part in parts {
        let take = left.min(part.iov_len);
        // SAFETY: as above.
        data.extend_from_slice(unsafe { std::slice::from_raw_parts(part.iov_base.cast::<u8>(), take) });
        left -= take;
    }
    data
}

/// A call on an open file that counts if the file is followed.
fn stepped(fd: c_int, kind: u64, call: impl FnOnce() -> libc::c_long) -> c_int {
    let result = match tracked(fd) {
        Some(_) if control::is_on() => control::around(kind, &Subject::Open(fd), call),
        _ => call(),
    };
    result as c_int
}

fn changed(fd: c_int, result: c_int, kind: u8, flags: u8, numbers: [u64; 2]) -> c_int {
    if let (Some(file), 0) = (tracked(fd), result) {
        record(&Event {
            kind,
            flags,
            id: file.id,
            numbers,
            ..Event::default()
        });
    }
    result
}

unsafe fn sync_file(fd: c_int, call: libc::c_long) -> c_int {
    // SAFETY: a sync of the caller's descriptor.
    let raw = || unsafe { libc::syscall(call, fd) } as c_int;
    let Some(file) = tracked(fd) else { return raw() };
    let target = if is_directory(fd) {
        Target::Directory
    } else {
        Target::Data
    };
    if drops(fd, file.id, target) {
        return 0;
    }
    let begin = record(&Event {
        kind: format::SYNC_BEGIN,
        id: file.id,
        ..Event::default()
    });
    let result = synced_under_control(fd, target, raw);
    changed(fd, result, format::SYNC_END, 0, [u64::from(begin), 0])
}

/// Makes a sync; one that the control fails loses what it should have kept.
fn synced_under_control(fd: c_int, target: Target, raw: impl FnOnce() -> c_int) -> c_int {
    if !control::is_on() {
        return raw();
    }
    let kind = match target {
        Target::Directory => page::SYNC_DIRECTORY,
        Target::Data => page::SYNC,
    };
    let unsynced = control::take_unsynced(fd);
    let mut made = false;
    let result = stepped(fd, kind, || {
        made = true;
        raw().into()
    });
    if !made {
        let code = errno();
        control::lose(fd, &unsynced);
        set_errno(code);
    }
    result
}

fn duplicated(from: c_int, to: c_int) -> c_int {
    if to >= 0 {
        duplicate(from, to);
    }
    to
}

fn refuse(code: c_int) -> ssize_t {
    set_errno(code);
    -1
}
