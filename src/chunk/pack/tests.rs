//! Packs as their users see them, and what is left of them after crashes and flipped bytes.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::fuzz::Rows;
use super::*;
use crate::chunk::codec::{Codecs, Compression, Hint};
use crate::chunk::pool::BufferPool;
use crate::clock::Clock;
use crate::ids::IdSource;

const DOMAIN: DomainId = DomainId(5);

fn open(dir: &Path) -> PackSet {
    open_with(
        dir,
        PackOptions {
            pack_bytes: 1 << 20,
            ..PackOptions::default()
        },
    )
}

fn open_with(dir: &Path, options: PackOptions) -> PackSet {
    let ids = Arc::new(IdSource::new(Clock::system()));
    let registry = prometheus::Registry::new();
    PackSet::open(dir, options, ids, BufferPool::new(0), &registry, &Rows::default(), None).unwrap()
}

pub fn noise(length: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

fn record(raw: Bytes) -> NewRecord {
    NewRecord {
        domain: DOMAIN,
        id: ChunkId(*blake3::hash(&raw).as_bytes()),
        raw,
        encoded: None,
        written_at: 0,
        envelope: None,
    }
}

fn wanted(raw: &Bytes, location: Location) -> Wanted {
    Wanted {
        location,
        domain: DOMAIN,
        id: ChunkId(*blake3::hash(raw).as_bytes()),
    }
}

async fn read_one(set: &PackSet, raw: &Bytes, location: Location) -> Result<Bytes, ReadError> {
    Ok(set
        .read(Extent::new(wanted(raw, location)), Vec::new(), Through::Cache)
        .await?
        .records
        .remove(0)
        .1)
}

fn pack_files(dir: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    let mut files: Vec<_> = list(dir).iter().flat_map(|bucket| list(bucket)).collect();
    files.sort();
    files
}

/// A copy of the directory as a killed process would leave it.
fn image(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for file in pack_files(dir) {
        let to = copy.path().join(file.strip_prefix(dir).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    copy
}

#[tokio::test]
async fn records_come_back_from_open_and_sealed_packs() {
    let dir = TempDir::new().unwrap();
    for direct in [true, false] {
        let set = open_with(
            &dir.path().join(direct.to_string()),
            PackOptions {
                direct,
                ..PackOptions::default()
            },
        );
        let raws: Vec<Bytes> = [1, 4096, 65_536, 100_001, 4 << 20]
            .map(|length| noise(length, length as u64))
            .into();
        let locations = set.append(raws.iter().cloned().map(record).collect()).await.unwrap();
        for round in 0..3 {
            for (raw, location) in raws.iter().zip(&locations) {
                assert_eq!(read_one(&set, raw, *location).await.unwrap(), raw, "round {round}");
            }
            if round == 1 {
                assert_eq!(set.packs()[0].state, PackState::Open);
                set.seal_all().await.unwrap();
                assert_eq!(set.packs()[0].state, PackState::Sealed);
            }
        }
        let entries = set.records(locations[0].pack).await.unwrap();
        assert!(entries.is_sorted_by_key(|entry| entry.id) && entries.len() == raws.len());
        let mut by_order: Vec<_> = entries.to_vec();
        by_order.sort_by_key(|entry| entry.order);
        assert_eq!(
            by_order.iter().map(|entry| entry.location).collect::<Vec<_>>(),
            locations
        );
    }
}

#[tokio::test]
async fn an_extent_mixes_codecs_and_spans_batches() {
    let dir = TempDir::new().unwrap();
    let set = open_with(
        dir.path(),
        PackOptions {
            open_packs: 1,
            ..PackOptions::default()
        },
    );
    let codecs = Codecs::new(1);
    let mut extent: Option<Extent> = None;
    let mut raws = Vec::new();
    for number in 0..12u64 {
        let raw = if number % 2 == 0 {
            noise(30_000, number)
        } else {
            Bytes::from(format!("line {number}\n").repeat(4000))
        };
        let mut stored = Vec::new();
        let codec = codecs.encode(&raw, Compression::default(), Hint::Unknown, &mut stored);
        assert_eq!(codec == Codec::Raw, number % 2 == 0);
        let new = NewRecord {
            encoded: (codec != Codec::Raw).then_some((codec, stored)),
            ..record(raw.clone())
        };
        let location = set.append(vec![new]).await.unwrap()[0];
        match &mut extent {
            None => extent = Some(Extent::new(wanted(&raw, location))),
            Some(extent) => assert!(extent.push(wanted(&raw, location), u64::MAX)),
        }
        raws.push(raw);
    }
    let extent = extent.unwrap();
    let copied = set.copy(std::slice::from_ref(&extent)).await.unwrap();
    let read = set.read(extent, Vec::new(), Through::Cache).await.unwrap().records;
    assert_eq!(read.into_iter().map(|(_, raw)| raw).collect::<Vec<_>>(), raws);
    for (raw, location) in raws.iter().zip(copied) {
        assert_eq!(read_one(&set, raw, location).await.unwrap(), raw);
    }
}

#[tokio::test]
async fn full_packs_are_sealed_and_a_restart_finds_everything() {
    let dir = TempDir::new().unwrap();
    let set = Arc::new(open(dir.path()));
    let tasks: Vec<_> = (0..8u64)
        .map(|writer| {
            let set = Arc::clone(&set);
            tokio::spawn(async move {
                let mut written = Vec::new();
                for number in 0..12 {
                    let raw = noise(65_000, writer * 100 + number);
                    let location = set.append(vec![record(raw.clone())]).await.unwrap()[0];
                    written.push((raw, location));
                }
                written
            })
        })
        .collect();
    let mut written = Vec::new();
    for task in tasks {
        written.extend(task.await.unwrap());
    }
    assert!(set.packs().len() >= 5);
    let killed = image(dir.path());
    drop(set);
    let clean = open(dir.path());
    assert!(clean.recovered().is_empty());
    let after_kill = open(killed.path());
    assert!(
        after_kill
            .recovered()
            .iter()
            .all(|pack| pack.kind == RecoveredKind::Sealed && pack.dropped == 0)
    );
    assert!(!after_kill.recovered().is_empty());
    for (raw, location) in &written {
        assert_eq!(read_one(&clean, raw, *location).await.unwrap(), raw);
        assert_eq!(read_one(&after_kill, raw, *location).await.unwrap(), raw);
    }
    assert!(after_kill.packs().iter().all(|pack| pack.state == PackState::Sealed));
    drop(after_kill);
    assert!(open(killed.path()).recovered().is_empty());
}

#[tokio::test]
async fn a_flipped_byte_is_damage_and_never_other_bytes() {
    let dir = TempDir::new().unwrap();
    let set = open(dir.path());
    let raws = [noise(5000, 1), noise(5000, 2)];
    let locations = set.append(raws.iter().cloned().map(record).collect()).await.unwrap();
    drop(set);
    let path = pack_files(dir.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    for offset in (locations[0].offset as usize..locations[0].end() as usize).step_by(37) {
        let mut bytes = whole.clone();
        bytes[offset] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let set = open(dir.path());
        let answer = read_one(&set, &raws[0], locations[0]).await;
        assert!(
            matches!(answer, Err(ReadError::Damaged { .. })),
            "offset {offset}: {answer:?}"
        );
        assert_eq!(read_one(&set, &raws[1], locations[1]).await.unwrap(), raws[1]);
    }
    fs::write(&path, &whole).unwrap();
    let set = open(dir.path());
    let stale = wanted(&raws[1], locations[0]);
    assert!(matches!(
        set.read(Extent::new(stale), Vec::new(), Through::Cache).await,
        Err(ReadError::WrongChunk { .. })
    ));
    let behind = Location {
        offset: 900_000_000,
        ..locations[0]
    };
    assert!(matches!(
        read_one(&set, &raws[0], behind).await,
        Err(ReadError::Damaged { .. })
    ));
}

#[tokio::test]
async fn a_damaged_footer_is_found_and_rebuilt() {
    let dir = TempDir::new().unwrap();
    let set = open(dir.path());
    let raws: Vec<_> = (0..9).map(|seed| noise(3000, seed)).collect();
    for raw in &raws {
        set.append(vec![record(raw.clone())]).await.unwrap();
    }
    set.seal_all().await.unwrap();
    let mut entries = Vec::new();
    for pack in set.packs() {
        entries.push((pack, set.records(pack.id).await.unwrap()));
    }
    drop(set);
    for path in pack_files(dir.path()) {
        let whole = fs::read(&path).unwrap();
        for from_end in [1usize, 60, 100, 4000, 4096] {
            let mut bytes = whole.clone();
            let position = bytes.len() - from_end;
            bytes[position] ^= 4;
            fs::write(&path, &bytes).unwrap();
            let set = open(dir.path());
            for (pack, known) in &entries {
                assert_eq!(set.records(pack.id).await.unwrap(), *known, "{from_end} from the end");
            }
            let rebuilt = set
                .recovered()
                .iter()
                .any(|pack| pack.kind == RecoveredKind::FooterRebuilt);
            assert_eq!(rebuilt, from_end <= 128);
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[tokio::test]
async fn deletion_waits_for_nobody_but_readers_and_is_final() {
    let dir = TempDir::new().unwrap();
    let set = open(dir.path());
    let raw = noise(9000, 1);
    let location = set.append(vec![record(raw.clone())]).await.unwrap()[0];
    assert!(set.delete(location.pack, false).await.is_err());
    set.seal_all().await.unwrap();
    let held = read_one(&set, &raw, location).await.unwrap();
    set.delete(location.pack, false).await.unwrap();
    set.delete(location.pack, false).await.unwrap();
    assert!(matches!(
        read_one(&set, &raw, location).await,
        Err(ReadError::NotFound(_))
    ));
    assert!(matches!(set.records(location.pack).await, Err(ReadError::NotFound(_))));
    assert_eq!(held, raw);
    assert!(set.packs().is_empty() && pack_files(dir.path()).is_empty());
}

#[tokio::test]
async fn what_is_no_record_is_refused() {
    let dir = TempDir::new().unwrap();
    let set = open(dir.path());
    assert!(matches!(
        set.append(vec![record(Bytes::new())]).await,
        Err(AppendError::Size { .. })
    ));
    assert!(matches!(
        set.append(vec![record(noise(9 << 20, 1))]).await,
        Err(AppendError::Size { .. })
    ));
    assert_eq!(set.append(Vec::new()).await.unwrap(), []);
    fs::create_dir_all(dir.path().join("aa")).unwrap();
    fs::write(dir.path().join("aa/stranger"), b"?").unwrap();
    let ids = Arc::new(IdSource::new(Clock::system()));
    let again = PackSet::open(
        dir.path(),
        PackOptions::default(),
        ids,
        BufferPool::new(0),
        &prometheus::Registry::new(),
        &Rows::default(),
        None,
    );
    assert!(matches!(again, Err(OpenError::Unreadable { .. })));
}

/// One pack with `batches` synced batches of two records, unsealed.
fn unsealed(batches: u64) -> (TempDir, PathBuf, Vec<(Bytes, Location)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = TempDir::new().unwrap();
        let set = open_with(
            dir.path(),
            PackOptions {
                open_packs: 1,
                pack_bytes: 1 << 19,
                ..PackOptions::default()
            },
        );
        let mut written = Vec::new();
        for batch in 0..batches {
            let raws = [noise(7000, batch * 2), noise(9000, batch * 2 + 1)];
            let locations = set.append(raws.iter().cloned().map(record).collect()).await.unwrap();
            written.extend(raws.into_iter().zip(locations));
        }
        let killed = image(dir.path());
        let path = pack_files(killed.path()).remove(0);
        (killed, path, written)
    })
}

fn check_recovered(dir: &Path, synced: &[(Bytes, Location)]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let set = open(dir);
        for (raw, location) in synced {
            assert_eq!(read_one(&set, raw, *location).await.unwrap(), raw);
            let entries = set.records(location.pack).await.unwrap();
            assert!(entries.iter().any(|entry| entry.location == *location));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The last batches were written but not synced: any of their pages may be missing.
    #[test]
    fn a_power_cut_loses_nothing_that_was_synced(synced in 0u64..6, keep in proptest::collection::vec(any::<bool>(), 64)) {
        let (dir, path, written) = unsealed(6);
        let mut bytes = fs::read(&path).unwrap();
        let (kept, lost) = written.split_at(synced as usize * 2);
        let start = kept.last().map_or(0, |(_, location)| location.end().next_multiple_of(4096)) as usize;
        let end = lost.last().unwrap().1.end() as usize;
        for (page, keep) in (start..end).step_by(4096).zip(&keep) {
            if !keep {
                bytes[page..page + 4096].fill(0);
            }
        }
        fs::write(&path, &bytes).unwrap();
        check_recovered(dir.path(), kept);
    }

    #[test]
    fn batches_behind_a_torn_one_are_found(batch in 0usize..5, page in 0usize..5, garbage in any::<u8>()) {
        let (dir, path, mut written) = unsealed(6);
        let mut bytes = fs::read(&path).unwrap();
        let start = (written[batch * 2].1.offset - 64) as usize + page.min(3) * 4096;
        bytes[start..start + 4096].fill(garbage);
        fs::write(&path, &bytes).unwrap();
        written.drain(batch * 2..batch * 2 + 2);
        check_recovered(dir.path(), &written);
    }

    /// Bytes that are no pack, or a pack with noise in it, never panic and never make a wrong record.
    #[test]
    fn any_file_opens_or_fails(noise in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..200), cut in any::<proptest::sample::Index>(), wild in any::<bool>()) {
        let (dir, path, written) = unsealed(3);
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(cut.index(bytes.len()));
        if wild {
            bytes.clear();
            bytes.extend(noise.iter().map(|(_, byte)| *byte));
        } else if !bytes.is_empty() {
            for (position, byte) in &noise {
                let position = position.index(bytes.len().min(60_000));
                bytes[position] = *byte;
            }
        }
        fs::write(&path, &bytes).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let set = open(dir.path());
            for (raw, location) in &written {
                if let Ok(read) = read_one(&set, raw, *location).await {
                    prop_assert_eq!(&read, raw);
                }
            }
            Ok(())
        })?;
    }
}
