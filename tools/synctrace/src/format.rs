//! The event log, to the byte. `tools/torture` includes this same file to read it.
//!
//! A log is a sequence of records, little-endian, none aligned:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | length of the whole record, header included |
//! | 4 | kind, one of the constants below |
//! | 5 | flags, by kind |
//! | 6..8 | length of the first path |
//! | 8..12 | open id: names one successful open within one process, from 1 |
//! | 12..16 | sequence within the process, from 1 |
//! | 16..24, 24..32 | two numbers, by kind |
//! | 32.. | the first path, then the second path or the data |
//!
//! Paths are relative to the recorded directory. A record that is cut short at the end of the log is the mark of a
//! process killed while writing it, and is ignored.

/// Length of a record's header in bytes.
pub const HEADER_BYTES: usize = 32;

/// A process started recording; every earlier open id is void.
pub const START: u8 = 1;
/// path; flags `OPEN_*`.
pub const OPEN: u8 = 2;
/// first number: offset; data follows; flags `WRITE_SYNCED`.
pub const WRITE: u8 = 3;
/// first number: the new size.
pub const TRUNCATE: u8 = 4;
/// offset, length; flags: the mode of fallocate(2).
pub const ALLOCATE: u8 = 5;
/// A sync began: it covers what was recorded before it.
pub const SYNC_BEGIN: u8 = 6;
/// A sync succeeded; first number: the sequence of its SYNC_BEGIN.
pub const SYNC_END: u8 = 7;
/// path, second path.
pub const RENAME: u8 = 8;
/// path
pub const UNLINK: u8 = 9;
/// path
pub const MKDIR: u8 = 10;
/// path
pub const RMDIR: u8 = 11;
/// path (existing), second path (new).
pub const LINK: u8 = 12;
/// path: what was done that cannot be recorded.
pub const UNSUPPORTED: u8 = 13;
/// A sync that `SYNCTRACE_DROP` turned into a no-op; path: the file.
pub const DROPPED: u8 = 14;

/// The open made the file.
pub const OPEN_CREATED: u8 = 1;
/// The opened thing is a directory.
pub const OPEN_DIRECTORY: u8 = 2;
/// The open cut the file to nothing.
pub const OPEN_TRUNCATED: u8 = 4;
/// The write went through O_DSYNC, O_SYNC or RWF_DSYNC.
pub const WRITE_SYNCED: u8 = 1;
