//! An encrypted store: what lies on the disk, what is read back, and what is found when it was altered.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::harness::{Fixture, content, open_with, pack_files, read};
use super::keys::masters;
use crate::chunk::pack::{self, Extent, Through, Wanted};
use crate::chunk::record::{HEADER_BYTES, RecordHeader, crc32c};
use crate::chunk::{MetaError, Pace, ReadError, index};
use crate::ids::{ChunkId, DataId};
use crate::kv::Kv;
use crate::kv::memory::MemoryKv;
use crate::limits::MIB;
use crate::meta::chunk::ChunkRow;
use crate::meta::key::{self, Table};

const MARK: &[u8] = b"a plaintext that nobody may find on the disk";

async fn encrypted() -> Fixture {
    Fixture::with(Arc::new(MemoryKv::new()), Some(masters(&[1]))).await
}

/// Half of it compresses, and the mark stands in both halves.
fn marked(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = content(seed, length / 2);
    bytes.extend(MARK.iter().chain(b" - ").copied().cycle().take(length - length / 2));
    bytes[5000..5000 + MARK.len()].copy_from_slice(MARK);
    bytes
}

fn is_found(fixture: &Fixture, mark: &[u8]) -> bool {
    let has = |bytes: Vec<u8>| bytes.windows(mark.len()).any(|part| part == mark);
    pack_files(fixture.dir.path())
        .iter()
        .any(|file| has(std::fs::read(file).unwrap()))
}

async fn rows(fixture: &Fixture) -> HashMap<ChunkId, ChunkRow> {
    let rows = index::page(&*fixture.kv, key::table(Table::Chunk), 4000).await.unwrap();
    rows.into_iter()
        .map(|row| {
            (
                ChunkId(row.key[1..].try_into().unwrap()),
                ChunkRow::decode(row.value.bytes).unwrap(),
            )
        })
        .collect()
}

fn wanted(fixture: &Fixture, id: ChunkId, row: &ChunkRow) -> Wanted {
    Wanted {
        location: index::location(&row.place).unwrap(),
        domain: fixture.domain,
        id,
    }
}

/// The bytes of a record in its file, and the file.
fn on_disk(fixture: &Fixture, row: &ChunkRow) -> (Vec<u8>, std::fs::File) {
    let name = format!("{}.pack", row.place.pack);
    let files = pack_files(fixture.dir.path());
    let path = files.iter().find(|path| path.ends_with(&name)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; row.place.stored_len as usize];
    file.read_exact_at(&mut bytes, u64::from(row.place.offset)).unwrap();
    (bytes, file)
}

async fn read_all(fixture: &Fixture, id: DataId, bytes: &[u8]) {
    let size = bytes.len() as u64;
    assert!(fixture.get(id, 0..size).await == bytes);
    for range in [0..1, size / 3..size / 2, size - 1..size, 4990..5050] {
        let wanted = &bytes[range.start as usize..range.end as usize];
        assert!(fixture.get(id, range).await == wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_plaintext_is_in_the_packs() {
    let bytes = marked(1, 3 * MIB);
    let clear = Fixture::new().await;
    clear.put(&bytes).await;
    assert!(is_found(&clear, MARK), "the search finds what is there");
    let fixture = encrypted().await;
    let id = fixture.put(&bytes).await;
    assert!(!is_found(&fixture, MARK));
    assert!(rows(&fixture).await.values().all(|row| row.encrypted));
    read_all(&fixture, id, &bytes).await;
    fixture.check().await;
    let fixture = fixture.restart().await;
    read_all(&fixture, id, &bytes).await;
    // Equal bytes are found under encryption as well.
    let stored = fixture.store.usage().await.unwrap().stored_bytes;
    fixture.put(&bytes).await;
    assert_eq!(fixture.store.usage().await.unwrap().stored_bytes, stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_move_verbatim() {
    let fixture = encrypted().await;
    let kept = fixture.put_and_delete_most().await;
    let mut before = HashMap::new();
    for (id, row) in rows(&fixture).await {
        before.insert(id, on_disk(&fixture, &row).0);
    }
    fixture.store.packs.seal_all().await.unwrap();
    let old: Vec<_> = pack_files(fixture.dir.path());
    while fixture.collect().await.bytes_moved > 0 {}
    let after = rows(&fixture).await;
    assert!(old.iter().any(|path| !path.exists()) && !after.is_empty());
    for (id, row) in &after {
        assert!(row.encrypted && on_disk(&fixture, row).0 == before[id], "{id}");
    }
    for (id, bytes) in &kept {
        read_all(&fixture, *id, bytes).await;
    }
    fixture.check().await;
}

/// Every byte of a record is vouched for by a checksum, and for one who can compute checksums by the cipher.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_byte_is_damage_and_never_read() {
    let fixture = encrypted().await;
    fixture.put(&marked(3, MIB / 2)).await;
    fixture.store.packs.seal_all().await.unwrap();
    let rows = rows(&fixture).await;
    let is_raw = |row: &ChunkRow| row.place.raw_len + HEADER_BYTES as u32 == row.place.stored_len;
    let [raw, packed] = [true, false].map(|wanted| rows.iter().find(|(_, row)| is_raw(row) == wanted).unwrap());
    for (id, row) in [raw, packed] {
        let (sound, file) = on_disk(&fixture, row);
        let at = u64::from(row.place.offset);
        let read = async || {
            fixture
                .store
                .read_records(Extent::new(wanted(&fixture, *id, row)))
                .await
        };
        let plain = read().await.unwrap();
        for byte in (0..HEADER_BYTES).chain((HEADER_BYTES..sound.len()).step_by(997)) {
            for is_forged in [false, true] {
                let mut bytes = sound.clone();
                bytes[byte] ^= 0x10;
                if is_forged {
                    let crc = crc32c(&bytes[HEADER_BYTES..]);
                    bytes[104..108].copy_from_slice(&crc.to_le_bytes());
                    let crc = crc32c(&bytes[..HEADER_BYTES - 4]);
                    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
                    if bytes == sound {
                        continue;
                    }
                }
                file.write_all_at(&bytes, at).unwrap();
                match read().await {
                    Err(pack::ReadError::Damaged { .. } | pack::ReadError::WrongChunk { .. }) => {}
                    Ok(_) => panic!("byte {byte}, forged {is_forged}: it is read"),
                    Err(error) => panic!("byte {byte}, forged {is_forged}: {error}"),
                }
            }
        }
        file.write_all_at(&sound, at).unwrap();
        assert_eq!(read().await.unwrap(), plain);
        let header = RecordHeader::decode(&sound).unwrap();
        assert!(header.envelope.is_some() && crc32c(&sound[HEADER_BYTES..]) == header.payload_crc);
        // Without keys a record is not told to be damaged.
        let extent = Extent::new(wanted(&fixture, *id, row));
        let locked = fixture.store.packs.read(extent, Vec::new(), Through::Cache).await;
        assert!(matches!(locked, Err(pack::ReadError::Io { .. })), "{locked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lay_there_in_clear_is_readable_and_the_next_upload_encrypts_it() {
    let (bytes, other) = (marked(4, 2 * MIB), marked(5, MIB));
    let mut fixture = Fixture::new().await;
    let (id, untouched) = (fixture.put(&bytes).await, fixture.put(&other).await);
    let names: Vec<ChunkId> = rows(&fixture).await.into_keys().collect();
    fixture.masters = Some(masters(&[1]));
    let mut fixture = fixture.restart().await;
    read_all(&fixture, id, &bytes).await;
    fixture.put(&bytes).await;
    let after = rows(&fixture).await;
    assert!(
        names.iter().all(|name| after.contains_key(name)) && after.len() == names.len(),
        "names stay"
    );
    let is_clear = after.values().filter(|row| !row.encrypted).count();
    assert!(
        is_clear > 0 && is_clear < after.len(),
        "what was uploaded again is encrypted, and nothing else"
    );
    read_all(&fixture, id, &bytes).await;
    read_all(&fixture, untouched, &other).await;
    fixture.put(&other).await;
    assert!(rows(&fixture).await.values().all(|row| row.encrypted));
    fixture.check().await;
    // The clear records are dead now, and go.
    fixture.store.packs.seal_all().await.unwrap();
    while fixture.collect().await.bytes_moved > 0 {}
    fixture = fixture.restart().await;
    assert!(!is_found(&fixture, MARK));
    read_all(&fixture, id, &bytes).await;
    read_all(&fixture, untouched, &other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_the_index_of_an_encrypted_store_is_made_anew() {
    let fixture = encrypted().await;
    let bytes = marked(6, 2 * MIB);
    let id = fixture.put(&bytes).await;
    for is_sealed in [false, true] {
        if is_sealed {
            fixture.store.packs.seal_all().await.unwrap();
        }
        let before = rows(&fixture).await;
        let mut mutation = crate::kv::Mutation::new();
        before.keys().for_each(|id| mutation.delete(key::chunk(id)));
        fixture.kv.commit(mutation).await.unwrap();
        fixture.store.rebuild_index().await.unwrap();
        assert_eq!(rows(&fixture).await, before);
    }
    read_all(&fixture, id, &bytes).await;
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_verifies_the_full_hash_of_what_is_encrypted() {
    let fixture = encrypted().await;
    fixture.put(&marked(7, MIB)).await;
    fixture.store.packs.seal_all().await.unwrap();
    let scrub = async || {
        let (pack, _) = fixture.store.pack_sizes()[0];
        fixture
            .store
            .scrub_pack(pack, Pace { bytes_per_second: None })
            .await
            .unwrap()
    };
    let report = scrub().await;
    assert_eq!((report.records, report.damaged), (rows(&fixture).await.len() as u64, 0));
    let (id, row) = rows(&fixture).await.into_iter().next().unwrap();
    let (_, file) = on_disk(&fixture, &row);
    file.write_all_at(b"XX", u64::from(row.place.offset) + HEADER_BYTES as u64 + 9)
        .unwrap();
    let report = scrub().await;
    assert_eq!((report.damaged, report.findings[0].chunk), (1, id));
}

#[tokio::test]
async fn a_body_opens_under_its_own_id_alone() {
    let fixture = encrypted().await;
    let (id, other) = (DataId([1; 16]), DataId([2; 16]));
    let row = fixture
        .store
        .seal_body(fixture.domain, id, MARK)
        .await
        .unwrap()
        .unwrap();
    assert!(!row.windows(8).any(|part| MARK.windows(8).any(|mark| mark == part)));
    assert_eq!(fixture.store.open_body(id, &row).await.unwrap(), MARK);
    let is_refused = |outcome| matches!(outcome, Err(ReadError::Meta(MetaError::Malformed(_))));
    assert!(is_refused(fixture.store.open_body(other, &row).await));
    for at in 0..row.len() {
        let mut altered = row.to_vec();
        altered[at] ^= 1;
        assert!(is_refused(fixture.store.open_body(id, &altered).await), "{at}");
        assert!(is_refused(fixture.store.open_body(id, &row[..at]).await), "{at}");
    }
    let clear = Fixture::new().await;
    assert_eq!(clear.store.seal_body(clear.domain, id, MARK).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domains_do_not_read_each_other() {
    let fixture = encrypted().await;
    let bytes = content(8, MIB);
    let id = fixture.put(&bytes).await;
    // The data key of the domain's row gives way to that of another one: nothing of it is read, and nothing wrong.
    let second = fixture.store.create_domain().await.unwrap();
    let row = fixture.kv.get(&key::domain(second)).await.unwrap().unwrap();
    let mut mutation = crate::kv::Mutation::new();
    mutation.put(key::domain(fixture.domain), row.bytes);
    fixture.kv.commit(mutation).await.unwrap();
    let kv = Arc::clone(&fixture.kv) as Arc<dyn Kv>;
    let copy = super::harness::copy_packs(fixture.dir.path());
    let again = open_with(kv, copy.path(), fixture.masters.as_ref()).await;
    let outcome = read(&again, id, 0..bytes.len() as u64).await;
    assert!(matches!(outcome, Err(ReadError::Pack(_))), "{outcome:?}");
}
