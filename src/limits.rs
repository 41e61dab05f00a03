//! Every cap in one place. A queue, page, cache, body or name that is not bounded here is a bug.

use std::time::Duration;

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

// What S3 allows (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).

/// Bytes of an object key in UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of user metadata: names without their prefix, plus values.
pub const USER_METADATA_BYTES_MAX: usize = 2 * KIB;
pub const PART_NUMBER_MAX: u16 = 10_000;
/// Bytes of one PUT, one part or one copied source.
pub const PUT_BYTES_MAX: u64 = 5 << 30;
/// Bytes of every part but the last.
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// Bytes of a whole object.
pub const OBJECT_BYTES_MAX: u64 = 50 << 40;
/// Buckets of one page of ListBuckets; read in pages of `LIST_PAGE_MAX`.
pub const LIST_BUCKETS_MAX: usize = 10_000;
/// Rows of one listing page.
pub const LIST_PAGE_MAX: usize = 1000;
/// Keys of one DeleteObjects request.
pub const DELETE_OBJECTS_MAX: usize = 1000;
/// Tags of an object, each of at most 128 + 256 characters.
pub const TAGS_MAX: usize = 10;
/// Tags of a bucket, of the same lengths.
pub const BUCKET_TAGS_MAX: usize = 50;

// Identities and the S3 wire.

/// Bytes of the bootstrap file of identities.
pub const IDENTITIES_FILE_BYTES_MAX: usize = MIB;
pub const IDENTITIES_MAX: usize = 10_000;
/// Key pairs of one identity.
pub const IDENTITY_KEYS_MAX: usize = 16;
/// Bytes of an XML request body: 1,000 keys of DeleteObjects or 10,000 parts of a complete, escaped.
pub const XML_BODY_BYTES_MAX: usize = 8 * MIB;
/// Bytes of one signed aws-chunk: it is held until its signature is checked. Clients send 64 KiB to 1 MiB.
pub const AWS_CHUNK_BYTES_MAX: usize = MIB;
/// Seconds between a request's date and ours.
pub const CLOCK_SKEW_SECS_MAX: u32 = 15 * 60;
/// Seconds that a presigned URL may live.
pub const PRESIGNED_SECS_MAX: u32 = 7 * 24 * 60 * 60;

// The metadata store.

pub const MUTATION_EFFECTS_MAX: usize = 2048;
pub const MUTATION_BYTES_MAX: usize = MIB;
/// Encoded bytes of one key, so that every engine can hold it.
pub const ENCODED_KEY_BYTES_MAX: usize = 2500;
/// Rows that one scan returns at the most.
pub const SCAN_ROWS_MAX: usize = 4096;
/// Mutations waiting for the committer; more wait for a place.
pub const COMMIT_QUEUE_MAX: usize = 4096;
/// Bytes of the mutations waiting for the committer.
pub const COMMIT_QUEUE_BYTES_MAX: usize = 16 * MIB;
/// Mutations that one group takes, so that its overlay stays small.
pub const COMMIT_GROUP_MUTATIONS_MAX: usize = 512;
/// Bytes of one frame of the commit log: a group, its keys' lengths and one mutation more.
pub const LOG_FRAME_BYTES_MAX: usize = 16 * MIB;
/// Bytes of the mutations that one group takes.
pub const COMMIT_GROUP_BYTES_MAX: usize = 4 * MIB;
/// Times that a transaction is run again after a conflict.
pub const TRANSACTION_TRIES_MAX: u32 = 32;

// The chunk store.

/// Objects up to this many bytes live in the metadata store, in the body family.
pub const BODY_BYTES_MAX: usize = 8 * KIB;
pub const WINDOW_BYTES_MAX: usize = 8 * MIB;
pub const WINDOW_BYTES_MIN: usize = MIB;
pub const WINDOW_CHUNKS_MAX: usize = 128;
/// Windows of one upload that are being stored at the same time.
pub const WINDOWS_IN_FLIGHT: usize = 2;
/// Keys of a keyring, old ones included.
pub const MASTER_KEYS_MAX: usize = 64;
/// Bytes of a keyring file.
pub const KEYRING_BYTES_MAX: usize = 64 * KIB;
/// Bytes of plaintext windows and read extents in memory, over all requests.
pub const BUFFER_POOL_BYTES: usize = 64 * MIB;
/// How long a request waits for such memory before it is answered 503 SlowDown.
pub const BUFFER_WAIT: Duration = Duration::from_secs(10);
pub const PACK_BYTES_MAX: u64 = 64 << 20;
/// Entries of one tree row.
pub const TREE_ROW_ENTRIES_MAX: usize = 1000;
/// Levels of data that refer to data.
pub const TREE_DEPTH_MAX: usize = 8;
/// The same when many read.
pub const EXTENT_BYTES_MIN: usize = 256 * KIB;
/// Bytes that one read takes from a pack at once: the records of a MiB, with their headers.
pub const EXTENT_BYTES_MAX: usize = MIB + 32 * KIB;

// The HTTP server. What an operator may change is in `config`.

/// Bytes of a request's line and headers together.
pub const HEAD_BYTES_MAX: usize = 64 * KIB;
/// Bytes of an unfinished head from which on it counts as large.
pub const LARGE_HEAD_BYTES: usize = 16 * KIB;
/// Connections with a large head; a head that would be one more ends its connection. hyper's buffer for such a head
/// grows to [`CONNECTION_BUFFER_BYTES`], before anybody knows who sends it.
pub const LARGE_HEADS_MAX: usize = 64;
/// Header lines of a request. S3 counts only their bytes; hyper holds 64 bytes a possible line while it parses a head.
pub const HEADERS_MAX: usize = 512;
/// Bytes that one HTTP/1 connection reads ahead, or holds unsent.
pub const CONNECTION_BUFFER_BYTES: usize = 256 * KIB;
/// HTTP/2 connections; each may hold a window of bytes before its request is let in.
pub const H2_CONNECTIONS_MAX: usize = 32;
pub const H2_STREAMS_MAX: u32 = 32;
pub const H2_STREAM_WINDOW_BYTES: u32 = 128 << 10;
/// Room for all streams: one that waits for memory must not stop those that have it.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = H2_STREAMS_MAX * H2_STREAM_WINDOW_BYTES;
/// Bytes of an error document.
pub const ERROR_BODY_BYTES_MAX: usize = 64 * KIB;
/// Connections over the limit that are told so; more are closed without a word.
pub const TURNED_AWAY_MAX: usize = 64;
/// Log lines waiting to be written; more are dropped and counted.
pub const LOG_QUEUE_MAX: usize = 8192;
/// Connections of the admin listener.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Threads for calls that block.
pub const BLOCKING_THREADS_MAX: usize = 16;
