//! Records what a process writes and what it syncs, for crash tests that rebuild the disk as a power cut may leave it.
//!
//! Loaded with `LD_PRELOAD`, it stands before libc's file calls, makes the system call itself and appends an event to
//! the log. A write is recorded after it returned and a sync as a pair around it, so a sync covers exactly the writes
//! recorded before its beginning. Changes of directories are made under one lock, so the log has their true order.
//!
//! - `SYNCTRACE_DIR`: only files below this directory are recorded.
//! - `SYNCTRACE_LOG`: where to, outside that directory; appended with plain writes, so a SIGKILL loses nothing.
//! - `SYNCTRACE_DROP`: syncs to leave out, see `rules`.
//! - `SYNCTRACE_CONTROL`, `SYNCTRACE_SKIP`: where to die or to fail, see `control`; with or without a log.
//!
//! A crate that makes system calls without libc escapes the recorder (rustix does by default: build it with
//! `use-libc`). The reader finds that out: all events replayed must give the directory as it is.
#![cfg(target_os = "linux")]

mod control;
mod directories;
mod files;
mod format;
mod page;
mod recorder;
mod rules;
