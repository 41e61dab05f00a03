//! The hooks on open files: open, write, cut, allocate, sync, duplicate, close, map.
//!
//! libc's variadic functions are given a fixed argument in place of `...`: on x86-64 and AArch64 Linux integer
//! arguments travel in the same registers either way.

use crate::format;
use crate::recorder::{
    Event, active, drops, drops_open, duplicate, errno, forget, order, record, resolve, set_errno, track, tracked,
    unsupported,
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
    let fd = raw(flags);
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
        wrote(fd, &part, 1, None, false, libc::syscall(libc::SYS_write, fd, data, length) as ssize_t)
    };
    writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t =>
        wrote(fd, parts, count, None, false, libc::syscall(libc::SYS_writev, fd, parts, count) as ssize_t);
    pwrite(fd: c_int, data: *const c_void, length: size_t, offset: off_t) -> ssize_t =>
        pwrite64(fd, data, length, offset);
    pwrite64(fd: c_int, data: *const c_void, length: size_t, offset: off64_t) -> ssize_t => {
        let part = iovec { iov_base: data.cast_mut(), iov_len: length };
        wrote(fd, &part, 1, Some(offset), false, libc::syscall(libc::SYS_pwrite64, fd, data, length, offset) as ssize_t)
    };
    pwritev(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t =>
        pwritev64(fd, parts, count, offset);
    pwritev64(fd: c_int, parts: *const iovec, count: c_int, offset: off64_t) -> ssize_t => {
        let length = libc::syscall(libc::SYS_pwritev, fd, parts, count, offset, 0) as ssize_t;
        wrote(fd, parts, count, Some(offset), false, length)
    };
    pwritev2(fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t =>
        pwritev64v2(fd, parts, count, offset, flags);
    pwritev64v2(fd: c_int, parts: *const iovec, count: c_int, offset: off64_t, flags: c_int) -> ssize_t => {
        let length = libc::syscall(libc::SYS_pwritev2, fd, parts, count, offset, 0, flags) as ssize_t;
        let synced = flags & (libc::RWF_DSYNC | libc::RWF_SYNC) != 0;
        wrote(fd, parts, count, (offset >= 0).then_some(offset), synced, length)
    };

    ftruncate(fd: c_int, size: off_t) -> c_int => ftruncate64(fd, size);
    ftruncate64(fd: c_int, size: off64_t) -> c_int => {
        let result = libc::syscall(libc::SYS_ftruncate, fd, size) as c_int;
        changed(fd, result, format::TRUNCATE, 0, [size as u64, 0])
    };
    fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int => fallocate64(fd, mode, offset, length);
    fallocate64(fd: c_int, mode: c_int, offset: off64_t, length: off64_t) -> c_int => {
        let result = libc::syscall(libc::SYS_fallocate, fd, mode, offset, length) as c_int;
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
        libc::syscall(libc::SYS_sync_file_range, fd, offset, length, flags) as c_int;
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

/// Records `length` bytes that a write took from the front of `parts`.
unsafe fn wrote(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    offset: Option<off64_t>,
    synced: bool,
    length: ssize_t,
) -> ssize_t {
    let (Some(file), 1..) = (tracked(fd), length) else {
        return length;
    };
    if file_type(fd) != libc::S_IFREG {
        forget(fd);
        return length;
    }
    let offset = offset.unwrap_or_else(|| {
        // SAFETY: only asks for the position, which a plain or appending write has left behind its bytes.
        (unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) }) - length as off64_t
    });
    let mut left = length as usize;
    let mut data = Vec::with_capacity(left);
    // SAFETY: the kernel has just read `length` bytes from these parts.
    let parts = unsafe { std::slice::from_raw_parts(parts, count as usize) };
    for part in parts {
        let take = left.min(part.iov_len);
        // SAFETY: as above.
        data.extend_from_slice(unsafe { std::slice::from_raw_parts(part.iov_base.cast::<u8>(), take) });
        left -= take;
    }
    let flags = if synced || file.synced { format::WRITE_SYNCED } else { 0 };
    let numbers = [offset as u64, 0];
    record(&Event {
        kind: format::WRITE,
        flags,
        id: file.id,
        numbers,
        rest: &data,
        ..Event::default()
    });
    length
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
    let result = raw();
    changed(fd, result, format::SYNC_END, 0, [u64::from(begin), 0])
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
