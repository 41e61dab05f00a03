use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

use super::frame::{BLOCK_BYTES, Effect};
use super::recover::Recovered;
use super::{Log, LogError, LogFiles, LogTail, Position, TailError, end_of, follow, recover};
use crate::ids::Sequence;
use crate::kv::Value;
use crate::kv::metrics::KvMetrics;

const BLOCK: u64 = BLOCK_BYTES as u64;

fn files(dir: &Path) -> Arc<LogFiles> {
    let metrics = KvMetrics::new(&prometheus::Registry::new()).unwrap();
    Arc::new(LogFiles::new(dir.to_owned(), 16 * BLOCK, None, Arc::new(metrics)))
}

/// What a written log promises.
struct Written {
    /// Groups that were acknowledged.
    durable: u64,
    groups: u64,
    /// The file with the unsynced tail, and where the tail begins.
    tail: (PathBuf, u64),
    /// Where the tail's last frame ends.
    end: u64,
}

/// Appends one group of one mutation for each element: its bytes, and whether it is synced.
fn write(dir: &Path, found: &Recovered, groups: &[(usize, bool)]) -> Written {
    let mut log = Log::begin(files(dir), found, found.last).unwrap();
    let mut tail = log.position();
    let (mut durable, mut count) = (0, 0);
    for (size, is_synced) in groups {
        let before = log.position().0;
        let version = Sequence(log.last().0 + 1);
        log.start_frame();
        let key = Bytes::copy_from_slice(&version.0.to_be_bytes());
        log.push(
            &key,
            Some(&Value {
                bytes: vec![version.0 as u8; *size].into(),
                version,
            }),
        );
        log.append(1).unwrap();
        if log.position().0 != before {
            // The files before were synced when this one began.
            (durable, tail) = (count, (log.position().0, BLOCK));
        }
        count += 1;
        if *is_synced {
            log.sync().unwrap();
            (durable, tail) = (count, log.position());
        }
    }
    Written {
        durable,
        groups: count,
        tail,
        end: log.position().1,
    }
}

/// The sequences replayed, each with whole effects.
fn read(dir: &Path) -> Result<(Vec<u64>, Recovered), LogError> {
    let mut seen = Vec::new();
    let found = recover(dir, Sequence(0), &mut |effects, last| {
        for effect in effects {
            let Effect::Put { key, stored } = effect? else {
                return Err("no deletion was logged".to_owned());
            };
            assert_eq!(key, last.0.to_be_bytes());
            assert_eq!(stored[..8], last.0.to_le_bytes());
            assert!(stored[8..].iter().all(|byte| *byte == last.0 as u8));
        }
        seen.push(last.0);
        Ok(())
    })?;
    Ok((seen, found))
}

fn group_list(max: usize) -> impl proptest::strategy::Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((0usize..20_000, any::<bool>()), 1..max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_torn_tail_leaves_a_prefix_with_all_that_was_acknowledged(
        groups in group_list(24),
        holes in prop::collection::vec((any::<u32>(), 1usize..9000, any::<bool>()), 0..6),
        is_cut in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let written = write(dir.path(), &Recovered::default(), &groups);
        let (path, start) = &written.tail;
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        for (at, length, is_zero) in holes {
            let span = written.end - start;
            if span == 0 { continue; }
            let at = u64::from(at) % span;
            let length = length.min((span - at) as usize);
            let junk = if is_zero { 0 } else { 0xA5 };
            file.write_all_at(&vec![junk; length], start + at).unwrap();
        }
        if is_cut {
            file.set_len(*start).unwrap();
        }
        let (seen, found) = read(dir.path()).unwrap();
        let expected: Vec<u64> = (1..=seen.len() as u64).collect();
        prop_assert_eq!(&seen, &expected);
        prop_assert!(seen.len() as u64 >= written.durable && seen.len() as u64 <= written.groups);
        // The log goes on behind the damage, in a fresh file that makes the old ones obsolete.
        let more = write(dir.path(), &found, &[(10, true), (10, true)]);
        prop_assert_eq!(more.groups, 2);
        let mut replayed = 0;
        recover(dir.path(), found.last, &mut |_, _| { replayed += 1; Ok(()) }).unwrap();
        prop_assert_eq!(replayed, 2);
    }

    #[test]
    fn a_flipped_byte_in_the_synced_part_is_reported(
        groups in group_list(16), which in any::<u32>(), bit in 0u8..8,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::begin(files(dir.path()), &Recovered::default(), Sequence(0)).unwrap();
        for (size, _) in &groups {
            let version = Sequence(log.last().0 + 1);
            log.start_frame();
            log.push(&Bytes::from_static(b"k"), Some(&Value { bytes: vec![7; *size].into(), version }));
            log.append(1).unwrap();
        }
        log.sync().unwrap();
        let (path, end) = log.position();
        log.mark().unwrap();
        prop_assert!(!log.wants_mark());
        let at = u64::from(which) % end;
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at as usize] ^= 1 << bit;
        std::fs::write(&path, bytes).unwrap();
        let outcome = recover(dir.path(), Sequence(0), &mut |_, _| Ok(()));
        prop_assert!(matches!(outcome, Err(LogError::Corrupt { offset, .. }) if offset <= at), "{:?}", outcome);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..9000),
        keeps_header in any::<bool>(),
        keeps_magic in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let written = write(dir.path(), &Recovered::default(), &[(10, true)]);
        let mut whole = std::fs::read(&written.tail.0).unwrap();
        if keeps_magic {
            let frame = whole[4096..4160].to_vec();
            bytes.splice(0..bytes.len().min(56), frame);
        }
        if keeps_header {
            whole.truncate(4096);
            whole.extend(bytes);
        } else {
            whole = bytes;
        }
        std::fs::write(&written.tail.0, whole).unwrap();
        let _outcome = recover(dir.path(), Sequence(0), &mut |effects, _| {
            effects.for_each(drop);
            Ok(())
        });
    }
}

#[test]
fn a_missing_file_is_reported_unless_it_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path(), &Recovered::default(), &[(20_000, true); 12]);
    assert_eq!(read(dir.path()).unwrap().0.len(), 12);
    let first = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .min()
        .unwrap();
    assert_ne!(first, written.tail.0);
    std::fs::remove_file(first).unwrap();
    assert!(matches!(read(dir.path()), Err(LogError::Corrupt { .. })));
    let mut left = 0;
    let found = recover(dir.path(), Sequence(11), &mut |_, _| {
        left += 1;
        Ok(())
    });
    assert_eq!((found.unwrap().last, left), (Sequence(12), 1));
}

#[test]
fn an_engine_ahead_of_a_torn_log_goes_on_behind_both() {
    let dir = tempfile::tempdir().unwrap();
    let written = write(
        dir.path(),
        &Recovered::default(),
        &[(10, true), (10, false), (10, false)],
    );
    let file = std::fs::OpenOptions::new().write(true).open(&written.tail.0).unwrap();
    file.set_len(written.tail.1).unwrap();
    let found = recover(dir.path(), Sequence(3), &mut |_, _| Err("nothing is newer".to_owned())).unwrap();
    assert_eq!((found.last, found.replayed), (Sequence(3), 0));
    write(dir.path(), &found, &[(10, true)]);
    let mut last = Sequence(0);
    recover(dir.path(), Sequence(3), &mut |_, sequence| {
        last = sequence;
        Ok(())
    })
    .unwrap();
    assert_eq!(last, Sequence(4));
}

fn group(log: &mut Log, bytes: usize) {
    let version = Sequence(log.last().0 + 1);
    log.start_frame();
    let bytes = vec![version.0 as u8; bytes].into();
    log.push(&Bytes::from_static(b"key"), Some(&Value { bytes, version }));
    log.append(1).unwrap();
}

/// All stretches from `from` to what is durable, each followed as a restore does, and the sequences in them.
fn read_on(tail: &LogTail, from: Position) -> Result<(Vec<u64>, Position), TailError> {
    let (mut seen, mut position) = (Vec::new(), from);
    let durable = tail.durable().offset;
    while let Some(mut stretch) = tail.read(position, durable, 3 * BLOCK_BYTES)? {
        let mut visit = |_: super::Effects<'_>, last: Sequence| {
            seen.push(last.0);
            Ok(())
        };
        let end = follow(&mut stretch.bytes, stretch.start, position, &mut visit).unwrap();
        assert_eq!(end, stretch.end);
        assert_eq!(end_of(&mut stretch.bytes, stretch.start), Ok(end));
        position = end;
    }
    Ok((seen, position))
}

#[test]
fn a_reader_gets_all_that_is_durable_over_files_and_restarts_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let shared = files(dir.path());
    let mut log = Log::begin(Arc::clone(&shared), &Recovered::default(), Sequence(0)).unwrap();
    let tail = LogTail::new(Arc::clone(&shared));
    let start = tail.durable();
    tail.hold_from(start.offset);
    for size in [10, 30_000, 100_000, 10, 9_000, 9_000, 9_000, 40_000] {
        group(&mut log, size);
        log.sync().unwrap();
    }
    log.mark().unwrap();
    group(&mut log, 10);
    let (seen, position) = read_on(&tail, start).unwrap();
    assert_eq!(seen, (1..=8).collect::<Vec<_>>());
    assert_eq!(position, tail.durable());
    assert!(tail.held_bytes() > 200_000);
    tail.hold_from(position.offset);
    assert_eq!(tail.held_bytes(), 0);
    drop(log);

    let found = recover(dir.path(), Sequence(8), &mut |_, _| Ok(())).unwrap();
    let shared = files(dir.path());
    let mut again = found;
    shared.keep(std::mem::take(&mut again.spans));
    let mut log = Log::begin(Arc::clone(&shared), &again, again.last).unwrap();
    let tail = LogTail::new(shared);
    for _ in 0..3 {
        group(&mut log, 5_000);
        log.sync().unwrap();
    }
    // The unsynced group survived the restart, which made it durable.
    assert_eq!(read_on(&tail, position).unwrap().0, [9, 10, 11, 12]);
    assert_eq!(read_on(&tail, start).unwrap().0, (1..=12).collect::<Vec<_>>());
    for odd in [
        Position {
            checksum: 1,
            ..position
        },
        Position {
            sequence: Sequence(7),
            ..position
        },
        Position {
            offset: tail.durable().offset + BLOCK,
            ..tail.durable()
        },
    ] {
        assert!(matches!(tail.goes_on(odd), Err(TailError::Broken { .. })), "{odd:?}");
    }
    tail.goes_on(position).unwrap();
    let mut cut = tail.read(start, u64::MAX, BLOCK_BYTES).unwrap().unwrap();
    *cut.bytes.last_mut().unwrap() ^= 1;
    assert!(end_of(&mut cut.bytes, cut.start).is_err());
}
