//! Failed writes and syncs. Failpoints are global: one test, one scenario after the other.

use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::{AppendError, Extent, NewRecord, PackOptions, PackSet, PackState, Wanted};
use crate::chunk::pool::BufferPool;
use crate::clock::Clock;
use crate::ids::{ChunkId, DomainId, IdSource};

fn record(seed: u8) -> NewRecord {
    NewRecord {
        domain: DomainId(1),
        id: ChunkId([seed; 32]),
        raw: Bytes::from(vec![seed; 10_000]),
        encoded: None,
    }
}

fn open(dir: &TempDir) -> PackSet {
    let ids = Arc::new(IdSource::new(Clock::system()));
    let options = PackOptions {
        open_packs: 1,
        ..PackOptions::default()
    };
    PackSet::open(
        dir.path(),
        options,
        ids,
        BufferPool::new(0),
        &prometheus::Registry::new(),
        &super::fuzz::Rows::default(),
    )
    .unwrap()
}

async fn assert_reads(set: &PackSet, seed: u8, location: super::Location) {
    let wanted = Wanted {
        location,
        domain: DomainId(1),
        id: ChunkId([seed; 32]),
    };
    assert_eq!(set.read(Extent::new(wanted)).await.unwrap()[0].1, vec![seed; 10_000]);
}

#[tokio::test]
async fn a_failed_step_poisons_the_pack_and_loses_nothing() {
    let scenario = fail::FailScenario::setup();
    for point in ["pack-write", "pack-sync"] {
        let dir = TempDir::new().unwrap();
        let set = open(&dir);
        let before = set.append(vec![record(1)]).await.unwrap()[0];
        fail::cfg(point, "1*return").unwrap();
        let moved = set.append(vec![record(2)]).await.unwrap()[0];
        assert_ne!(before.pack, moved.pack);
        let states: Vec<_> = set.packs().iter().map(|pack| pack.state).collect();
        assert_eq!(states, [PackState::Poisoned, PackState::Open], "{point}");
        fail::cfg(point, "2*return").unwrap();
        assert!(matches!(set.append(vec![record(3)]).await, Err(AppendError::Io(_))));
        let after = set.append(vec![record(4)]).await.unwrap()[0];
        for (seed, location) in [(1, before), (2, moved), (4, after)] {
            assert_reads(&set, seed, location).await;
        }
        assert_eq!(set.records(before.pack).await.unwrap().len(), 1);
        drop(set);
        let set = open(&dir);
        for (seed, location) in [(1, before), (2, moved), (4, after)] {
            assert_reads(&set, seed, location).await;
        }
        assert!(set.packs().iter().all(|pack| pack.state == PackState::Sealed));
    }
    let dir = TempDir::new().unwrap();
    let set = open(&dir);
    fail::cfg("pack-create", "1*return").unwrap();
    assert!(matches!(set.append(vec![record(1)]).await, Err(AppendError::Full)));
    let location = set.append(vec![record(1)]).await.unwrap()[0];
    fail::cfg("pack-seal", "1*return").unwrap();
    assert!(set.seal_all().await.is_err());
    assert_reads(&set, 1, location).await;
    fail::cfg("pack-delete", "1*return").unwrap();
    assert!(set.delete(location.pack).await.is_err());
    assert_reads(&set, 1, location).await;
    set.delete(location.pack).await.unwrap();
    assert!(set.packs().is_empty());
    scenario.teardown();
}
