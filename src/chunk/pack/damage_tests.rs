//! Flipped bytes and torn tails of packs that were not sealed, with an index that tells the one from the other.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::fuzz::Rows;
use super::shared::path_in;
use super::tests::noise;
use super::*;
use crate::chunk::pool::BufferPool;
use crate::chunk::record::{RecordHeader, crc32c};
use crate::clock::Clock;
use crate::ids::IdSource;

const DOMAIN: DomainId = DomainId(5);
const RECORDS_A_BATCH: usize = 3;

/// An unsealed pack as a killed process leaves it.
struct Killed {
    dir: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
    /// Contents in the order of writing, [`RECORDS_A_BATCH`] a batch.
    written: Vec<(Bytes, Location)>,
}

impl Killed {
    async fn new(batches: usize) -> Self {
        let raw = |number| noise(3000 + 2000 * (number % RECORDS_A_BATCH), number as u64);
        let batch = |batch| {
            (0..RECORDS_A_BATCH)
                .map(|number| raw(batch * RECORDS_A_BATCH + number))
                .collect()
        };
        Self::of((0..batches).map(batch).collect()).await
    }

    async fn of(batches: Vec<Vec<Bytes>>) -> Self {
        let (live, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let set = open(live.path(), &Rows::default()).0;
        let mut written = Vec::new();
        for raws in batches {
            let records = raws.iter().map(|raw| NewRecord {
                domain: DOMAIN,
                id: id(raw),
                raw: raw.clone(),
                encoded: None,
                written_at: 0,
                envelope: None,
            });
            let locations = set.append(records.collect()).await.unwrap();
            written.extend(raws.into_iter().zip(locations));
        }
        let pack = written[0].1.pack;
        let path = path_in(dir.path(), pack);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = fs::read(path_in(live.path(), pack)).unwrap();
        Self {
            dir,
            path,
            bytes,
            written,
        }
    }

    fn rows(&self) -> Rows {
        Rows(
            self.written
                .iter()
                .map(|(raw, location)| (id(raw), *location))
                .collect(),
        )
    }

    fn frame(&self, batch: usize) -> usize {
        self.written[batch * RECORDS_A_BATCH].1.offset as usize - 64
    }

    /// Starts on the file with the byte at `at` flipped.
    fn flipped(&self, at: usize, rows: &Rows) -> (PackSet, prometheus::Registry) {
        let mut bytes = self.bytes.clone();
        bytes[at] ^= 0x10;
        fs::write(&self.path, bytes).unwrap();
        open(self.dir.path(), rows)
    }

    fn is_untouched_but_for(&self, at: usize) -> bool {
        let mut bytes = fs::read(&self.path).unwrap();
        bytes[at] ^= 0x10;
        bytes == self.bytes
    }

    /// Reads everything; the numbers of the records that are told to be damaged.
    async fn unreadable(&self, set: &PackSet) -> Vec<usize> {
        let mut failed = Vec::new();
        for (number, (raw, location)) in self.written.iter().enumerate() {
            let wanted = Wanted {
                location: *location,
                domain: DOMAIN,
                id: id(raw),
            };
            match set.read(Extent::new(wanted), Vec::new(), Through::Cache).await {
                Ok(read) => assert_eq!(read.records[0].1, raw),
                Err(ReadError::Damaged { .. }) => failed.push(number),
                Err(error) => panic!("record {number}: {error}"),
            }
        }
        failed
    }
}

fn open(dir: &Path, rows: &Rows) -> (PackSet, prometheus::Registry) {
    let ids = Arc::new(IdSource::new(Clock::system()));
    let registry = prometheus::Registry::new();
    let options = PackOptions {
        open_packs: 1,
        pack_bytes: 1 << 20,
        ..PackOptions::default()
    };
    let set = PackSet::open(dir, options, ids, BufferPool::new(0), &registry, rows, None).unwrap();
    (set, registry)
}

fn id(raw: &Bytes) -> ChunkId {
    ChunkId(*blake3::hash(raw).as_bytes())
}

fn damaged_total(registry: &prometheus::Registry) -> f64 {
    let families = registry.gather();
    let family = families
        .iter()
        .find(|family| family.name() == "cairn_pack_damaged_total");
    family.unwrap().get_metric()[0].get_counter().get_value()
}

fn only(set: &PackSet) -> &Recovered {
    let [repair] = set.recovered() else {
        panic!("{:?}", set.recovered())
    };
    repair
}

#[tokio::test]
async fn i8_a_flipped_frame_header_is_damage_and_costs_no_record() {
    for batches in [1, 3] {
        let killed = Killed::new(batches).await;
        for batch in 0..batches {
            for byte in [0, 5, 13, 29, 33, 37, 63] {
                let at = killed.frame(batch) + byte;
                for start in 0..2 {
                    let (set, registry) = if start == 0 {
                        killed.flipped(at, &killed.rows())
                    } else {
                        open(killed.dir.path(), &killed.rows())
                    };
                    let repair = only(&set);
                    assert_eq!(
                        (repair.kind, repair.lost_bytes, repair.damaged.len()),
                        (RecoveredKind::Damaged, 0, 0),
                        "batch {batch} of {batches}, byte {byte}"
                    );
                    assert_eq!(damaged_total(&registry), 1.0);
                    assert_eq!(set.packs()[0].state, PackState::Damaged);
                    assert!(killed.is_untouched_but_for(at));
                    assert_eq!(killed.unreadable(&set).await, [0; 0]);
                    // The collector finds all of them.
                    let records = set.records(killed.written[0].1.pack).await.unwrap();
                    assert_eq!(records.len(), killed.written.len());
                }
            }
        }
    }
}

#[tokio::test]
async fn i8_a_flipped_record_is_damage_and_costs_no_other() {
    for batches in [1, 3] {
        let killed = Killed::new(batches).await;
        for (number, (raw, location)) in killed.written.iter().enumerate() {
            // Magic, lengths, id, both checksums, payload.
            for byte in [0, 57, 61, 30, 105, 125, 128, location.stored_len as usize - 1] {
                let at = location.offset as usize + byte;
                let (set, registry) = killed.flipped(at, &killed.rows());
                let repair = only(&set);
                let context = format!("record {number} of {}, byte {byte}", killed.written.len());
                assert_eq!(repair.kind, RecoveredKind::Damaged, "{context}");
                assert_eq!(repair.lost_bytes, u64::from(location.stored_len), "{context}");
                // A flipped id names nobody.
                let named = if byte == 30 { vec![] } else { vec![id(raw)] };
                assert_eq!(repair.damaged, named, "{context}");
                assert!(damaged_total(&registry) >= 1.0);
                assert!(killed.is_untouched_but_for(at), "{context}");
                assert_eq!(killed.unreadable(&set).await, [number], "{context}");
                let records = set.records(location.pack).await.unwrap();
                assert_eq!(records.len(), killed.written.len() - 1, "{context}");
            }
        }
    }
}

#[tokio::test]
async fn i8_a_pack_that_was_cut_off_is_damage() {
    let killed = Killed::new(2).await;
    let rows = killed.rows();
    for length in [0, 4096, killed.frame(1), killed.frame(1) + 4096] {
        fs::write(&killed.path, &killed.bytes[..length]).unwrap();
        let (set, _) = open(killed.dir.path(), &rows);
        assert_eq!(only(&set).kind, RecoveredKind::Damaged);
        assert_eq!(fs::metadata(&killed.path).unwrap().len(), length as u64);
        let failed = killed.unreadable(&set).await;
        assert!(!failed.is_empty() && (length < killed.frame(1) || failed.iter().all(|number| *number >= 3)));
    }
}

/// Bytes that no row points to are dropped, whatever happened to them; padding and zeros matter to nobody.
#[tokio::test]
async fn what_no_row_points_to_is_a_torn_tail() {
    let killed = Killed::new(3).await;
    let mut rows = killed.rows();
    rows.0.truncate(2 * RECORDS_A_BATCH);
    let last = &killed.written[2 * RECORDS_A_BATCH..];
    for (at, left) in [
        (killed.frame(2), 6),
        (last[0].1.offset as usize, 6),
        (last[1].1.offset as usize + 200, 8),
        (last[2].1.end() as usize - 1, 8),
        (killed.bytes.len() - 1, 9),
    ] {
        let (set, registry) = killed.flipped(at, &rows);
        let repair = only(&set);
        assert_eq!(
            (repair.kind, repair.records),
            (RecoveredKind::Sealed, left),
            "byte {at}"
        );
        assert_eq!(damaged_total(&registry), 0.0);
        assert!(fs::metadata(&killed.path).unwrap().len() < killed.bytes.len() as u64);
        assert!(killed.unreadable(&set).await.iter().all(|number| *number >= 6));
    }
    // Nothing was acknowledged at all.
    let (set, _) = killed.flipped(killed.frame(0), &Rows::default());
    assert_eq!((only(&set).kind, only(&set).records), (RecoveredKind::Sealed, 6));
    let single = Killed::new(1).await;
    let (set, _) = single.flipped(single.frame(0), &Rows::default());
    assert_eq!(only(&set).kind, RecoveredKind::Removed);
    assert!(!single.path.exists());
}

/// A client cannot make a record out of a payload: the index decides.
#[tokio::test]
async fn a_payload_that_looks_like_a_record_is_none() {
    let forged = RecordHeader {
        domain: DOMAIN,
        id: ChunkId([9; 32]),
        codec: Codec::Raw,
        raw_len: 3,
        payload_len: 3,
        written_at: 1,
        payload_crc: crc32c(b"abc"),
        envelope: None,
    };
    let raw: Bytes = [&noise(5000, 1)[..], &forged.encode(), b"abc", &noise(100, 2)]
        .concat()
        .into();
    let killed = Killed::of(vec![vec![raw, noise(700, 3)]]).await;
    let (first, second) = (killed.written[0].1, killed.written[1].1);
    for (at, left) in [
        (killed.frame(0), vec![first, second]),
        (first.offset as usize + 1, vec![second]),
    ] {
        let (set, _) = killed.flipped(at, &killed.rows());
        let mut records = set.records(first.pack).await.unwrap().to_vec();
        records.sort_by_key(|entry| entry.location.offset);
        assert_eq!(records.iter().map(|entry| entry.location).collect::<Vec<_>>(), left);
    }
}

/// The footer of a sealed pack: a damaged trailer is told and written anew; records that are damaged as well keep the
/// file from being touched.
#[tokio::test]
async fn i8_a_flipped_trailer_is_told_and_nothing_is_lost() {
    let mut killed = Killed::new(2).await;
    fs::write(&killed.path, &killed.bytes).unwrap();
    drop(open(killed.dir.path(), &killed.rows()));
    killed.bytes = fs::read(&killed.path).unwrap();
    let end = killed.bytes.len();
    for from_end in [128, 120, 112, 90, 1] {
        let (set, registry) = killed.flipped(end - from_end, &killed.rows());
        assert_eq!(only(&set).kind, RecoveredKind::FooterRebuilt);
        assert_eq!(damaged_total(&registry), 1.0);
        assert_eq!(fs::read(&killed.path).unwrap(), killed.bytes);
        assert_eq!(killed.unreadable(&set).await, [0; 0]);
    }
    let record = killed.written[1].1.offset as usize + 500;
    killed.bytes[record] ^= 1;
    let (set, _) = killed.flipped(end - 1, &killed.rows());
    assert_eq!(only(&set).kind, RecoveredKind::Damaged);
    assert!(killed.is_untouched_but_for(end - 1));
    assert_eq!(killed.unreadable(&set).await, [1]);
}
