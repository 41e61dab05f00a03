use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::harness::{Fixture, content, pack_files, publish, read};
use crate::chunk::index;
use crate::chunk::pack::{Extent, NewRecord};
use crate::chunk::{Pace, Piece, ReadError, ScrubReport};
use crate::ids::DataId;
use crate::kv::Mutation;
use crate::limits::MIB;
use crate::meta::chunk::ChunkRow;
use crate::meta::key::{self, Table};

const FAST: Pace = Pace { bytes_per_second: None };

/// What the scrub of all packs came to.
async fn scrub(fixture: &Fixture) -> ScrubReport {
    let mut sum = ScrubReport::default();
    for (pack, _) in fixture.store.pack_sizes() {
        let report = fixture.store.scrub_pack(pack, FAST).await.unwrap();
        sum.records += report.records;
        sum.bytes += report.bytes;
        sum.damaged += report.damaged;
        sum.healed += report.healed;
        sum.findings.extend(report.findings);
    }
    sum
}

/// Flips a byte in the middle of every pack; returns the files as they were.
fn damage(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = pack_files(dir)
        .into_iter()
        .map(|path| (std::fs::read(&path).unwrap(), path));
    let files: Vec<_> = files.map(|(bytes, path)| (path, bytes)).collect();
    for (path, bytes) in &files {
        let mut bytes = bytes.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    files
}

fn owner(data: DataId) -> (DataId, Bytes) {
    (data, Bytes::from(format!("owner of {data}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_upload_heals_what_a_scrub_has_found() {
    let fixture = Fixture::new().await;
    let (bytes, other) = (content(1, MIB), content(2, MIB));
    let (id, sound) = (fixture.put(&bytes).await, fixture.put(&other).await);
    fixture.store.packs.seal_all().await.unwrap();
    let clean = scrub(&fixture).await;
    assert_eq!(
        (clean.records, clean.damaged),
        (fixture.store.recount().await.unwrap().chunks, 0)
    );
    assert_eq!(clean.bytes, fixture.store.usage().await.unwrap().stored_bytes);

    let packs = damage(fixture.dir.path()).len() as u64;
    for _ in 0..2 {
        let report = scrub(&fixture).await;
        assert_eq!((report.records, report.damaged), (clean.records, packs));
        for finding in &report.findings {
            let hit = if finding.owners.rows.contains_key(&id) {
                id
            } else {
                sound
            };
            assert_eq!(finding.owners.rows, BTreeMap::from([owner(hit)]));
        }
    }
    // The one upload that a reader of the log would make.
    fixture.put(&bytes).await;
    fixture.put(&other).await;
    assert!(fixture.get(id, 0..MIB as u64).await == bytes && fixture.get(sound, 0..MIB as u64).await == other);
    assert_eq!(scrub(&fixture).await.damaged, 0);
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reads_well_again_is_not_damaged_any_more() {
    let fixture = Fixture::new().await;
    let bytes = content(1, MIB);
    let id = fixture.put(&bytes).await;
    fixture.store.packs.seal_all().await.unwrap();
    let files = damage(fixture.dir.path());
    assert_eq!(scrub(&fixture).await.damaged, 1);
    for (path, bytes) in files {
        std::fs::write(path, bytes).unwrap();
    }
    let report = scrub(&fixture).await;
    assert_eq!((report.damaged, report.healed), (0, 1));
    assert_eq!(scrub(&fixture).await.healed, 0);
    let stored = fixture.store.usage().await.unwrap().stored_bytes;
    assert!(fixture.get(id, 0..MIB as u64).await == bytes);
    fixture.put(&bytes).await;
    assert_eq!(fixture.store.usage().await.unwrap().stored_bytes, stored);
}

/// A record that is whole by its checksum, and yet not what it is called: only the full hash tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_under_another_name_is_found() {
    let fixture = Fixture::new().await;
    let id = fixture.put(&content(1, MIB)).await;
    let rows = key::table(Table::Chunk);
    let row = index::page(&*fixture.kv, rows, 1).await.unwrap().remove(0);
    let chunk = crate::ids::ChunkId(row.key[1..].try_into().unwrap());
    let known = ChunkRow::decode(row.value.bytes).unwrap();
    let wrong = NewRecord {
        domain: fixture.domain,
        id: chunk,
        raw: content(9, known.place.raw_len as usize).into(),
        encoded: None,
        written_at: 0,
        envelope: None,
    };
    let place = index::place(&fixture.store.packs.append(vec![wrong]).await.unwrap()[0]);
    let mut mutation = Mutation::new();
    mutation.put(row.key, ChunkRow { place, ..known }.encode());
    fixture.kv.commit(mutation).await.unwrap();
    let report = scrub(&fixture).await;
    assert_eq!((report.damaged, report.findings[0].chunk), (1, chunk));
    assert_eq!(report.findings[0].owners.rows, BTreeMap::from([owner(id)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_of_a_chunk_are_found_through_composed_data() {
    let fixture = Fixture::new().await;
    let part = fixture.put(&content(1, MIB)).await;
    let piece = |data| Piece {
        data,
        offset: 0,
        length: MIB as u64,
        part_number: 0,
    };
    let whole = fixture.store.compose(fixture.domain, &[piece(part)]).await.unwrap();
    let whole = publish(&fixture.store, whole).await.unwrap();
    let copy = fixture.store.compose(fixture.domain, &[piece(whole)]).await.unwrap();
    let copy = publish(&fixture.store, copy).await.unwrap();
    // Composed data names what it was composed of, however that came to be: its owner is gone, and it is not.
    fixture.delete(part).await;
    fixture.collect().await;
    fixture.store.packs.seal_all().await.unwrap();
    damage(fixture.dir.path());
    let report = scrub(&fixture).await;
    assert_eq!(
        report.findings[0].owners.rows,
        BTreeMap::from([owner(whole), owner(copy)])
    );
    assert!(!report.findings[0].owners.more);
    assert!(matches!(
        read(&fixture.store, copy, 0..MIB as u64).await,
        Err(ReadError::Damaged { .. })
    ));
}

/// A file that cannot be opened now says nothing about its records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_now_is_not_damaged() {
    let fixture = Fixture::new().await;
    let bytes = content(1, MIB);
    let id = fixture.put(&bytes).await;
    let fixture = fixture.restart().await;
    let before = scrub(&fixture).await;
    let pack = fixture.store.pack_sizes()[0].0;
    let entries = fixture.store.packs.records(pack).await.unwrap();
    let live = fixture.store.live(pack, &entries).await.unwrap();
    // Another process, which has no file open yet.
    let fixture = fixture.restart().await;
    let files = pack_files(fixture.dir.path());
    for path in &files {
        std::fs::rename(path, path.with_extension("away")).unwrap();
    }
    let mut report = ScrubReport::default();
    for (wanted, _) in &live {
        let extent = Extent::new(*wanted);
        fixture.store.scrub_extent(extent, &mut report).await.unwrap();
    }
    for path in &files {
        std::fs::rename(path.with_extension("away"), path).unwrap();
    }
    assert_eq!((report.damaged, report.unread), (0, live.len() as u64));
    let report = scrub(&fixture).await;
    assert_eq!((report.records, report.damaged, report.healed), (before.records, 0, 0));
    assert!(fixture.get(id, 0..MIB as u64).await == bytes);
}
