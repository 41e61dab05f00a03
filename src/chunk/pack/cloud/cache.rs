//! The disk cache of records that were read from the cloud.
//!
//! A file a record, as the pack has it, named by pack and offset: what is in a file proves itself by its checksums, so that
//! nothing is synced, and a torn or damaged file is a miss. The least recently used records go first.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::blob::local::remove_file;
use crate::chunk::pack::{Extent, Wanted};
use crate::chunk::pool::PooledBuf;
use crate::chunk::record::{HEADER_BYTES, RecordHeader, crc32c};
use crate::ids::PackId;

/// What a file takes of the disk beside its bytes, at the least.
const FILE_BYTES: u64 = 4096;

type Key = (PackId, u32);

pub struct Cache(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    bytes_max: u64,
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    /// When each record was last used, and what it takes.
    entries: HashMap<Key, (u64, u64)>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: u64,
}

impl Index {
    fn touch(&mut self, key: Key) -> bool {
        let Some((used, _)) = self.entries.get_mut(&key) else {
            return false;
        };
        self.uses += 1;
        self.by_use.remove(used);
        *used = self.uses;
        self.by_use.insert(self.uses, key);
        true
    }

    fn insert(&mut self, key: Key, bytes: u64) {
        self.remove(key);
        self.uses += 1;
        self.entries.insert(key, (self.uses, bytes));
        self.by_use.insert(self.uses, key);
        self.bytes += bytes;
    }

    fn remove(&mut self, key: Key) {
        if let Some((used, bytes)) = self.entries.remove(&key) {
            self.by_use.remove(&used);
            self.bytes -= bytes;
        }
    }

    /// Takes out what is over `bytes_max`, the least recently used first.
    fn evict(&mut self, bytes_max: u64) -> Vec<Key> {
        let mut evicted = Vec::new();
        while self.bytes > bytes_max
            && let Some((_, key)) = self.by_use.first_key_value()
        {
            let key = *key;
            self.remove(key);
            evicted.push(key);
        }
        evicted
    }
}

/// What a record of so many bytes takes of the disk.
fn cost(bytes: u64) -> u64 {
    bytes.next_multiple_of(FILE_BYTES)
}

fn key(wanted: &Wanted) -> Key {
    (wanted.location.pack, wanted.location.offset)
}

/// Whether the bytes are the record that is wanted.
pub fn is_whole(bytes: &[u8], wanted: &Wanted) -> bool {
    let Ok(header) = RecordHeader::decode(bytes) else {
        return false;
    };
    let payload = bytes.get(HEADER_BYTES..).unwrap_or_default();
    bytes.len() == wanted.location.stored_len as usize
        && (header.id, header.domain) == (wanted.id, wanted.domain)
        && payload.len() == header.payload_len as usize
        && crc32c(payload) == header.payload_crc
}

impl Cache {
    /// Finds what an earlier process left in `dir`, which is made if it is not there. Blocks.
    pub fn open(dir: &Path, bytes_max: u64) -> io::Result<Self> {
        let inner = Inner {
            dir: dir.to_path_buf(),
            bytes_max,
            index: Mutex::default(),
        };
        inner.look_over()?;
        Ok(Self(Arc::new(inner)))
    }

    pub fn is_on(&self) -> bool {
        self.0.bytes_max > 0
    }

    /// Copies the extent's records into the buffer, which begins at `start` of the pack, if all of them are here. The buffer
    /// comes back but when the runtime ends.
    pub async fn load(&self, extent: &Extent, mut buffer: PooledBuf, start: u64) -> (Option<PooledBuf>, bool) {
        {
            let mut index = self.0.index.lock();
            if !extent.records().iter().all(|wanted| index.touch(key(wanted))) {
                return (Some(buffer), false);
            }
        }
        let (inner, records) = (Arc::clone(&self.0), extent.records().to_vec());
        let job = move || {
            // All of them, so that every damaged one is found out at once.
            let found = records.iter().fold(true, |found, wanted| {
                let from = (u64::from(wanted.location.offset) - start) as usize;
                let place = buffer.get_mut(from..from + wanted.location.stored_len as usize);
                place.is_some_and(|place| inner.read(wanted, place)) && found
            });
            (buffer, found)
        };
        match tokio::task::spawn_blocking(job).await {
            Ok((buffer, found)) => (Some(buffer), found),
            Err(_) => (None, false),
        }
    }

    /// Keeps those of the extent's records that are whole in `bytes`, which are the extent's.
    pub async fn keep(&self, extent: &Extent, bytes: Bytes) {
        let (inner, records) = (Arc::clone(&self.0), extent.records().to_vec());
        let job = move || {
            let start = records.first().map_or(0, |wanted| wanted.location.offset);
            for wanted in &records {
                let from = (wanted.location.offset - start) as usize;
                let record = bytes.get(from..from + wanted.location.stored_len as usize);
                let Some(record) = record.filter(|record| is_whole(record, wanted)) else {
                    continue;
                };
                if let Err(error) = inner.write(key(wanted), record) {
                    tracing::warn!(%error, "the cache of cloud packs cannot be written");
                    return;
                }
            }
        };
        // A cache that is not filled costs another read.
        let _ = tokio::task::spawn_blocking(job).await;
    }

    /// From now on the extent's records are misses. Their files are written over.
    pub fn forget(&self, extent: &Extent) {
        let mut index = self.0.index.lock();
        extent.records().iter().for_each(|wanted| index.remove(key(wanted)));
    }
}

impl Inner {
    fn path(&self, (pack, offset): Key) -> PathBuf {
        let folder = pack.0.last().copied().unwrap_or_default();
        self.dir
            .join(format!("{folder:02x}"))
            .join(format!("{pack}-{offset:08x}"))
    }

    fn read(&self, wanted: &Wanted, into: &mut [u8]) -> bool {
        let found = fs::read(self.path(key(wanted)));
        let found = found.ok().filter(|bytes| is_whole(bytes, wanted));
        match found.filter(|bytes| bytes.len() == into.len()) {
            Some(bytes) => {
                into.copy_from_slice(&bytes);
                true
            }
            None => {
                self.index.lock().remove(key(wanted));
                false
            }
        }
    }

    fn write(&self, key: Key, record: &[u8]) -> io::Result<()> {
        let cost = cost(record.len() as u64);
        if cost > self.bytes_max {
            return Ok(());
        }
        let evicted = {
            let mut index = self.index.lock();
            if index.touch(key) {
                return Ok(());
            }
            index.evict(self.bytes_max - cost)
        };
        for key in evicted {
            remove_file(&self.path(key))?;
        }
        let path = self.path(key);
        if let Err(error) = fs::write(&path, record) {
            let folder = path.parent().filter(|_| error.kind() == io::ErrorKind::NotFound);
            fs::create_dir_all(folder.ok_or(error)?)?;
            fs::write(&path, record)?;
        }
        self.index.lock().insert(key, cost);
        Ok(())
    }

    /// Takes in what is there, and removes what is over the bound or no record.
    fn look_over(&self) -> io::Result<()> {
        if self.bytes_max == 0 && !self.dir.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)?;
        let mut index = self.index.lock();
        for folder in fs::read_dir(&self.dir)? {
            let folder = folder?.path();
            if !folder.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder)? {
                let file = file?;
                match file.file_name().to_str().and_then(parse) {
                    Some(key) => index.insert(key, cost(file.metadata()?.len())),
                    None => remove_file(&file.path())?,
                }
            }
        }
        for key in index.evict(self.bytes_max) {
            remove_file(&self.path(key))?;
        }
        Ok(())
    }
}

fn parse(name: &str) -> Option<Key> {
    let (pack, offset) = name.split_once('-')?;
    Some((pack.parse().ok()?, u32::from_str_radix(offset, 16).ok()?))
}
