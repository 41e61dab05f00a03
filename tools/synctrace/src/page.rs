//! The control page, to the byte. `tools/torture` includes this same file to write it.
//!
//! A file of `PAGE_BYTES` that the library maps and the driver reads and writes. It holds words of 8 bytes in the
//! machine's order; a constant below is a word's index. The driver sets `ARMED` last.

pub const PAGE_BYTES: usize = 4096;

/// 1: events count, and the action is taken.
pub const ARMED: usize = 0;
/// One of the actions below.
pub const ACTION: usize = 1;
/// The event that the action befalls, from 1; 0: none, only count.
pub const AT: usize = 2;
/// The kinds of event that count: a sum of the kinds below.
pub const KINDS: usize = 3;
/// What a failed call says; 0: that it was done, a lie that a test must notice.
pub const ERRNO: usize = 4;

/// Events that counted since the driver last set this to 0.
pub const COUNT: usize = 8;
/// Events since the start of the process, armed or not.
pub const TOTAL: usize = 9;
/// How often the action was taken.
pub const FIRED: usize = 10;
/// The kind of the event that it befell first, and the length of its path.
pub const FIRED_KIND: usize = 11;
pub const FIRED_PATH: usize = 12;
/// Writes, syncs, cuts and allocations of that event's file since then.
pub const AFTERWARDS: usize = 13;
/// Where that event was the sync of a directory: the kind of the last change of a name in it, or 0.
pub const FIRED_CHANGE: usize = 14;

/// Offset in bytes of that event's path, relative to the directory, cut to what the page holds.
pub const PATH_AT: usize = 1024;

/// SIGKILL in place of the event.
pub const KILL_BEFORE: u64 = 1;
/// SIGKILL once the event is carried out.
pub const KILL_AFTER: u64 = 2;
/// SIGKILL once half of a write is carried out; any other event as `KILL_BEFORE`.
pub const KILL_HALFWAY: u64 = 3;
/// The event fails and is not carried out. A failed sync of a file loses what was written to it since the last sync:
/// the kernel may drop those pages, and says so only once.
pub const FAIL: u64 = 4;
/// As `FAIL`, for every event from this one on.
pub const FAIL_ON: u64 = 5;
/// A write takes only half of its bytes, which is no error; other events are carried out.
pub const SHORTEN: u64 = 6;

pub const WRITE: u64 = 1;
/// fsync or fdatasync of a file.
pub const SYNC: u64 = 1 << 1;
/// fsync of a directory.
pub const SYNC_DIRECTORY: u64 = 1 << 2;
pub const SYNC_RANGE: u64 = 1 << 3;
pub const RENAME: u64 = 1 << 4;
pub const LINK: u64 = 1 << 5;
pub const UNLINK: u64 = 1 << 6;
pub const MKDIR: u64 = 1 << 7;
pub const RMDIR: u64 = 1 << 8;
pub const TRUNCATE: u64 = 1 << 9;
pub const ALLOCATE: u64 = 1 << 10;
/// An open that makes a file or cuts one to nothing.
pub const CREATE: u64 = 1 << 11;
