//! The fuzz target of the commit log; `crate::fuzz` lists it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{BLOCK_BYTES, Effect, Effects, FRAME_HEADER_BYTES, FileHeader, FrameHeader, effect_header};
use super::recover::Recovered;
use super::{Log, LogError, LogFiles, recover};
use crate::ids::Sequence;
use crate::kv::Value;
use crate::kv::metrics::KvMetrics;
use crate::script::Script;

const GROUPS_MAX: usize = 8;
const FILE_BYTES: u64 = 8 * BLOCK_BYTES as u64;

/// Bytes as frames, sealed frames with any fields, and a log that was written and then damaged.
pub(crate) fn kv_log(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => bytes_as_structures(rest),
        1 => sealed_with_any_fields(Script::new(rest)),
        _ => written_and_damaged(Script::new(rest)),
    }
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|error| panic!("no scratch directory: {error}"))
}

fn files(dir: &Path) -> Arc<LogFiles> {
    let metrics = KvMetrics::new(&prometheus::Registry::new()).unwrap_or_else(|error| panic!("{error}"));
    Arc::new(LogFiles::new(dir.to_owned(), FILE_BYTES, None, Arc::new(metrics)))
}

fn bytes_as_structures(bytes: &[u8]) {
    let mut block = bytes.to_vec();
    block.resize(block.len().next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES), 0);
    let id = bytes
        .get(40..48)
        .and_then(|id| id.try_into().ok())
        .map_or(0, u64::from_le_bytes);
    if let Some(frame) = FrameHeader::claimed(&block, id) {
        assert!(frame.padded() >= BLOCK_BYTES && frame.padded() <= crate::limits::LOG_FRAME_BYTES_MAX);
        frame.verifies(&mut block);
    }
    if let Some(header) = FileHeader::decode(&mut block) {
        let mut again = vec![0; BLOCK_BYTES];
        header.encode(&mut again);
        assert_eq!(FileHeader::decode(&mut again), Some(header));
    }
    // As the effects of a frame: what is read covers the bytes, and would be written as it is.
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    frame.extend_from_slice(bytes);
    let (mut written, mut is_whole) = (Vec::new(), true);
    for effect in Effects::of(&frame, frame.len() as u32) {
        match effect {
            Ok(Effect::Put { key, stored }) => {
                written.extend_from_slice(&effect_header(key.len(), Some(stored.len())));
                written.extend_from_slice(key);
                written.extend_from_slice(stored);
            }
            Ok(Effect::Delete { key }) => {
                written.extend_from_slice(&effect_header(key.len(), None));
                written.extend_from_slice(key);
            }
            Err(_) => {
                assert!(is_whole, "an error comes once");
                is_whole = false;
            }
        }
    }
    assert!(bytes.starts_with(&written) && (!is_whole || written.len() == bytes.len()));
}

/// Files whose checksums are right and whose fields say anything. Whatever recovery makes of them, it does so again, and
/// where it succeeds the log goes on.
fn sealed_with_any_fields(mut script: Script<'_>) {
    let dir = scratch();
    let (mut base, mut first, mut previous) = (0, 1, 0);
    for number in 1..=1 + u64::from(script.u8() % 3) {
        let header = FileHeader {
            is_fresh: script.bit(),
            number: script.number(number),
            id: u64::from(script.u8()),
            base: script.number(base),
            first: Sequence(script.number(first)),
            previous: script.number(previous),
        };
        let mut bytes = vec![0; BLOCK_BYTES];
        header.encode(&mut bytes);
        (first, previous) = (header.first.0, header.previous);
        for _ in 0..script.u8() % 4 {
            let frame = frame(&mut script, &header, bytes.len() as u64, first, previous, &mut bytes);
            first = frame.0;
            previous = frame.1;
        }
        base = header.base.wrapping_add(bytes.len() as u64);
        let path = dir.path().join(format!("{number:08x}.log"));
        std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{error}"));
    }
    let applied = Sequence(script.number(0));
    goes_on(dir.path(), applied);
}

/// Appends a sealed frame to `file`; returns the sequence and the checksum that the next one has to go on with.
fn frame(
    script: &mut Script<'_>,
    header: &FileHeader,
    at: u64,
    first: u64,
    previous: u64,
    file: &mut Vec<u8>,
) -> (u64, u64) {
    let length = usize::from(script.u8());
    let effects = script.bytes(length);
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    bytes.extend_from_slice(effects);
    let length = bytes.len() as u64;
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    let frame = FrameHeader {
        length: script.number(length) as u32,
        count: script.number(1) as u32,
        first: Sequence(script.number(first)),
        synced_through: script.number(header.base.wrapping_add(at)),
        previous: script.number(previous),
        file_id: header.id,
        offset: script.number(header.base.wrapping_add(at)),
        checksum: 0,
    };
    let sum = frame.seal(&mut bytes);
    if script.u8() > 0xF0
        && let Some(byte) = bytes.get_mut(usize::from(script.u16()) % BLOCK_BYTES)
    {
        *byte ^= script.u8();
    }
    file.extend_from_slice(&bytes);
    (frame.first.0.wrapping_add(u64::from(frame.count)), sum)
}

fn goes_on(dir: &Path, applied: Sequence) {
    let replayed = |applied: Sequence| {
        let mut seen = Vec::new();
        let found = recover(dir, applied, &mut |effects, last| {
            assert!(effects.filter(Result::is_err).count() <= 1);
            assert!(last > applied && seen.last().is_none_or(|before| *before < last));
            seen.push(last);
            Ok(())
        });
        found.map(|found| (found, seen))
    };
    let Ok((found, seen)) = replayed(applied) else {
        return;
    };
    assert!(found.last >= applied && found.replayed == seen.len() as u64);
    assert!(seen.last().is_none_or(|last| *last <= found.last));
    assert!(replayed(applied).is_ok_and(|(_, again)| again == seen));
    append(dir, &found, &[(7, true)]);
    let (_, more) = replayed(found.last).unwrap_or_else(|error| panic!("the log does not go on: {error}"));
    assert_eq!(more, [Sequence(found.last.0 + 1)]);
}

/// What a written log promises.
#[derive(Debug)]
struct Written {
    groups: u64,
    /// Groups that were acknowledged.
    durable: u64,
    path: PathBuf,
    /// The last file's bytes that may be lost.
    tail: Range<u64>,
}

/// Appends groups of one mutation: its bytes, and whether it is synced.
fn append(dir: &Path, found: &Recovered, groups: &[(usize, bool)]) -> Written {
    let failed = |error| -> ! { panic!("a log on a sound disk fails: {error}") };
    let mut log = Log::begin(files(dir), found, found.last).unwrap_or_else(|error| failed(error));
    let (mut path, mut start) = log.position();
    let (mut durable, mut count) = (0, 0);
    for (size, is_synced) in groups {
        let version = Sequence(log.last().0 + 1);
        log.start_frame();
        let key = Bytes::copy_from_slice(&version.0.to_be_bytes());
        let bytes = vec![version.0 as u8; *size].into();
        log.push(&key, Some(&Value { bytes, version }));
        if let Err(error) = log.append(1) {
            failed(std::io::Error::other(error));
        }
        if log.position().0 != path {
            // The files before were synced when this one began.
            (durable, path, start) = (count, log.position().0, BLOCK_BYTES as u64);
        }
        count += 1;
        if *is_synced {
            log.sync().unwrap_or_else(|error| failed(error));
            (durable, start) = (count, log.position().1);
        }
    }
    let end = log.position().1;
    Written {
        groups: count,
        durable,
        path,
        tail: start..end,
    }
}

/// The sequences replayed, each with the effects that were written.
fn read(dir: &Path) -> Result<(Vec<u64>, Recovered), LogError> {
    let mut seen = Vec::new();
    let found = recover(dir, Sequence(0), &mut |effects, last| {
        for effect in effects {
            let Effect::Put { key, stored } = effect? else {
                return Err("no deletion was logged".to_owned());
            };
            assert!(key == last.0.to_be_bytes() && stored.starts_with(&last.0.to_le_bytes()));
            assert!(stored.iter().skip(8).all(|byte| *byte == last.0 as u8));
        }
        seen.push(last.0);
        Ok(())
    })?;
    Ok((seen, found))
}

/// Damage to what was not acknowledged leaves a prefix with all that was (invariant I8); any damage leaves a prefix or
/// is reported.
fn written_and_damaged(mut script: Script<'_>) {
    let dir = scratch();
    let mut groups = Vec::new();
    while groups.len() < usize::from(script.u8()) % GROUPS_MAX {
        groups.push((usize::from(script.u16()) % 9000, script.bit()));
    }
    let written = append(dir.path(), &Recovered::default(), &groups);
    let mut bytes = std::fs::read(&written.path).unwrap_or_else(|error| panic!("{error}"));
    let mut is_tail_only = true;
    for _ in 0..script.u8() % 4 {
        let at = usize::from(script.u16()) * 3 % bytes.len().max(1);
        let length = if script.bit() { 4 } else { BLOCK_BYTES };
        let mask = script.u8();
        for byte in bytes.iter_mut().skip(at).take(length) {
            *byte = if length == 4 { *byte ^ mask } else { 0 };
        }
        is_tail_only &= at as u64 >= written.tail.start;
    }
    if script.bit() {
        let length = usize::from(script.u16()) * 3;
        is_tail_only &= length as u64 >= written.tail.start;
        bytes.truncate(length);
    }
    std::fs::write(&written.path, bytes).unwrap_or_else(|error| panic!("{error}"));
    let (seen, found) = match read(dir.path()) {
        Ok(read) => read,
        Err(error) => {
            assert!(!is_tail_only, "a torn tail is taken for damage: {error}");
            return;
        }
    };
    assert!(seen.iter().copied().eq(1..=seen.len() as u64) && seen.len() as u64 <= written.groups);
    assert!(
        !is_tail_only || seen.len() as u64 >= written.durable,
        "an acknowledged group is lost"
    );
    append(dir.path(), &found, &[(10, true)]);
    goes_on(dir.path(), found.last);
}
