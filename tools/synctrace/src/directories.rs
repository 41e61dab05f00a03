//! The hooks on names: rename, unlink, link, mkdir, rmdir, and the path forms of truncate.
//!
//! Each makes its system call and records it under one lock, so that the log has the true order of names.

use crate::control::{Subject, around};
use crate::format;
use crate::page;
use crate::recorder::{Event, active, forget, order, resolve, unsupported};
use libc::{c_char, c_int, c_long, c_void, mode_t, off_t};
use std::ffi::CStr;

/// # Safety
/// `path` is NUL-terminated.
unsafe fn name(dirfd: c_int, path: *const c_char) -> Option<Vec<u8>> {
    // SAFETY: by this function's contract.
    if active() {
        resolve(dirfd, unsafe { CStr::from_ptr(path) }.to_bytes())
    } else {
        None
    }
}

/// The control's kind of an event.
fn step_kind(kind: u8) -> u64 {
    match kind {
        format::RENAME => page::RENAME,
        format::LINK => page::LINK,
        format::UNLINK => page::UNLINK,
        format::RMDIR => page::RMDIR,
        _ => page::MKDIR,
    }
}

/// Runs `call`; records it when it succeeded and its path is in the recorded directory.
fn on_one(path: Option<Vec<u8>>, kind: u8, call: impl FnOnce() -> c_long) -> c_int {
    let mut ordered = order();
    let result = match &path {
        Some(path) => around(step_kind(kind), &Subject::Named(path), call) as c_int,
        None => call() as c_int,
    };
    if let (Some(path), 0) = (path, result) {
        ordered.record(&Event {
            kind,
            path: &path,
            ..Event::default()
        });
    }
    result
}

/// As `on_one`, for a call that moves or links between two paths.
fn on_two(from: Option<Vec<u8>>, to: Option<Vec<u8>>, kind: u8, call: impl FnOnce() -> c_long) -> c_int {
    match (from, to) {
        (Some(from), Some(to)) => {
            let mut ordered = order();
            let result = around(step_kind(kind), &Subject::Named(&to), call) as c_int;
            if result == 0 {
                ordered.record(&Event {
                    kind,
                    path: &from,
                    rest: &to,
                    ..Event::default()
                });
            }
            result
        }
        (None, None) => call() as c_int,
        _ => {
            unsupported("a rename or link across the edge of the recorded directory");
            call() as c_int
        }
    }
}

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

const HERE: c_int = libc::AT_FDCWD;

hooks! {
    rename(from: *const c_char, to: *const c_char) -> c_int => renameat2(HERE, from, HERE, to, 0);
    renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int =>
        renameat2(from_dir, from, to_dir, to, 0);
    renameat2(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: u32) -> c_int => {
        if flags & !libc::RENAME_NOREPLACE != 0 && name(from_dir, from).is_some() {
            unsupported("renameat2 with exchange or whiteout");
        }
        on_two(name(from_dir, from), name(to_dir, to), format::RENAME, || {
            libc::syscall(libc::SYS_renameat2, from_dir, from, to_dir, to, flags)
        })
    };
    link(from: *const c_char, to: *const c_char) -> c_int => linkat(HERE, from, HERE, to, 0);
    linkat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_int) -> c_int =>
        on_two(name(from_dir, from), name(to_dir, to), format::LINK, || {
            libc::syscall(libc::SYS_linkat, from_dir, from, to_dir, to, flags)
        });
    symlink(target: *const c_char, path: *const c_char) -> c_int => symlinkat(target, HERE, path);
    symlinkat(target: *const c_char, dirfd: c_int, path: *const c_char) -> c_int => {
        if name(dirfd, path).is_some() {
            unsupported("symlink");
        }
        libc::syscall(libc::SYS_symlinkat, target, dirfd, path) as c_int
    };
    unlink(path: *const c_char) -> c_int => unlinkat(HERE, path, 0);
    unlinkat(dirfd: c_int, path: *const c_char, flags: c_int) -> c_int => {
        let kind = if flags & libc::AT_REMOVEDIR != 0 { format::RMDIR } else { format::UNLINK };
        on_one(name(dirfd, path), kind, || libc::syscall(libc::SYS_unlinkat, dirfd, path, flags))
    };
    rmdir(path: *const c_char) -> c_int => unlinkat(HERE, path, libc::AT_REMOVEDIR);
    remove(path: *const c_char) -> c_int => {
        if unlink(path) == 0 { 0 } else if crate::recorder::errno() == libc::EISDIR { rmdir(path) } else { -1 }
    };
    mkdir(path: *const c_char, mode: mode_t) -> c_int => mkdirat(HERE, path, mode);
    mkdirat(dirfd: c_int, path: *const c_char, mode: mode_t) -> c_int =>
        on_one(name(dirfd, path), format::MKDIR, || libc::syscall(libc::SYS_mkdirat, dirfd, path, mode));
    truncate(path: *const c_char, size: off_t) -> c_int => truncate64(path, size);
    truncate64(path: *const c_char, size: off_t) -> c_int => {
        if name(HERE, path).is_some() {
            unsupported("truncate by path");
        }
        libc::syscall(libc::SYS_truncate, path, size) as c_int
    };
    // Closes a descriptor without a call of close that could be seen.
    closedir(stream: *mut libc::DIR) -> c_int => {
        forget(libc::dirfd(stream));
        next::<unsafe extern "C" fn(*mut libc::DIR) -> c_int>(c"closedir")(stream)
    };
    fclose(stream: *mut libc::FILE) -> c_int => {
        forget(fileno(stream));
        next::<unsafe extern "C" fn(*mut libc::FILE) -> c_int>(c"fclose")(stream)
    };
    fopen(path: *const c_char, mode: *const c_char) -> *mut libc::FILE => fopen64(path, mode);
    fopen64(path: *const c_char, mode: *const c_char) -> *mut libc::FILE => {
        let reads = CStr::from_ptr(mode).to_bytes().first() == Some(&b'r') && !CStr::from_ptr(mode).to_bytes().contains(&b'+');
        if !reads && name(HERE, path).is_some() {
            unsupported("a stdio stream that writes to a recorded file");
        }
        next::<unsafe extern "C" fn(*const c_char, *const c_char) -> *mut libc::FILE>(c"fopen64")(path, mode)
    };
}

unsafe extern "C" {
    fn fileno(stream: *mut libc::FILE) -> c_int;
}

/// libc's own function of this name.
///
/// # Safety
/// `F` is that function's type.
unsafe fn next<F: Copy>(name: &CStr) -> F {
    // SAFETY: the name is NUL-terminated; the result is checked, and a function pointer has a pointer's size.
    unsafe {
        let found: *mut c_void = libc::dlsym(libc::RTLD_NEXT, name.as_ptr());
        if found.is_null() {
            crate::recorder::fatal("libc lacks a function");
        }
        std::mem::transmute_copy(&found)
    }
}
