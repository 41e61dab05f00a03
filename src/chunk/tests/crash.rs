use std::collections::HashMap;
use std::sync::Arc;

use super::harness::{Fixture, LoggedKv, Random, build, check, content, copy_packs, open_on, publish, read, release};
use crate::chunk::Piece;
use crate::ids::DataId;
use crate::kv::Kv;
use crate::limits::MIB;

/// What was acknowledged, and after how many commits.
enum Told {
    Published(DataId, Vec<u8>),
    Released(DataId),
}

/// A workload of uploads, compositions, deletions and collections, which tells what it was told.
async fn work(fixture: &Fixture, kv: &LoggedKv, seed: u64) -> Vec<(usize, Told)> {
    let mut random = Random(seed);
    let mut told = Vec::new();
    let mut live: Vec<(DataId, Vec<u8>)> = Vec::new();
    for _ in 0..25 {
        match random.below(10) {
            0..=4 => {
                // Few seeds and lengths, so that much is equal.
                let bytes = content(random.below(4), MIB / 4 * (1 + random.below(6) as usize));
                let id = fixture.put(&bytes).await;
                told.push((kv.commits().await.1, Told::Published(id, bytes.clone())));
                live.push((id, bytes));
            }
            5 if !live.is_empty() => {
                let (source, bytes) = &live[random.below(live.len() as u64) as usize];
                let offset = random.below(bytes.len() as u64 / 2);
                let length = random.below(bytes.len() as u64 - offset) + 1;
                let piece = Piece {
                    data: *source,
                    offset,
                    length,
                    part_number: 1,
                };
                let data = fixture.store.compose(fixture.domain, &[piece, piece]).await.unwrap();
                let part = &bytes[offset as usize..(offset + length) as usize];
                let bytes = [part, part].concat();
                let id = publish(&fixture.store, data).await.unwrap();
                told.push((kv.commits().await.1, Told::Published(id, bytes.clone())));
                live.push((id, bytes));
            }
            6 | 7 if !live.is_empty() => {
                let (id, _) = live.swap_remove(random.below(live.len() as u64) as usize);
                release(&fixture.store, id).await.unwrap();
                told.push((kv.commits().await.1, Told::Released(id)));
            }
            8 => drop(fixture.build(&content(9, MIB)).await),
            _ => {
                fixture.collect().await;
            }
        }
    }
    told
}

/// I1 for the chunk store: whatever commits a crash takes (all behind the last synced one at the most), what was
/// acknowledged reads back and nothing leaks. The packs are those of the crash's moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_acknowledged_data_reads_back_after_any_crash() {
    for seed in 0..12 {
        let kv = Arc::new(LoggedKv::default());
        let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
        let told = work(&fixture, &kv, seed).await;
        // Some work that is under way when it happens.
        let half = build(&fixture.store, fixture.write_options(), &content(20, 3 * MIB))
            .await
            .unwrap();
        let packs = copy_packs(fixture.dir.path());
        let (last, synced) = kv.commits().await;
        let cuts: std::collections::BTreeSet<usize> = [synced, (synced + last) / 2, last].into();
        for cut in cuts {
            let copy = copy_packs(packs.path());
            let after: Arc<dyn Kv> = Arc::new(kv.after(cut).await);
            let store = open_on(Arc::clone(&after), copy.path()).await;
            let mut live: HashMap<DataId, &Vec<u8>> = HashMap::new();
            for (at, told) in &told {
                assert!(*at <= cut);
                match told {
                    Told::Published(id, bytes) => drop(live.insert(*id, bytes)),
                    Told::Released(id) => drop(live.remove(id)),
                }
            }
            for _ in 0..4 {
                store.collect_once().await.unwrap();
                check(&store).await;
            }
            for (id, bytes) in &live {
                assert!(
                    read(&store, *id, 0..bytes.len() as u64).await.unwrap() == **bytes,
                    "seed {seed} cut {cut}"
                );
            }
            let recount = store.recount().await.unwrap();
            let left = super::harness::garbage(&*after).await;
            assert_eq!(left, 0, "seed {seed} cut {cut}");
            let usage = store.usage().await.unwrap();
            assert!(live.is_empty() || recount.chunks > 0);
            assert!(
                usage.pack_bytes <= usage.stored_bytes * 118 / 100 + 4096 * 4,
                "{usage:?}"
            );
        }
        drop(half);
    }
}

/// A crash in the middle of a run of the collector, after each of its commits, with the files as they were then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_deleted_pack_is_never_needed_by_what_a_crash_leaves() {
    let kv = Arc::new(LoggedKv::default());
    let fixture = Fixture::on(Arc::clone(&kv) as Arc<dyn Kv>).await;
    let kept = fixture.put_and_delete_most().await;
    let before = kv.commits().await.0;
    assert!(fixture.collect().await.packs_deleted > 0);
    // The files are those after the run, when most is gone: any state that a crash may leave must do with them.
    let (last, synced) = kv.commits().await;
    assert!(synced > before);
    for cut in synced..=last {
        let copy = copy_packs(fixture.dir.path());
        let store = open_on(Arc::new(kv.after(cut).await), copy.path()).await;
        assert!(store.recovered().missing.is_empty());
        for (id, bytes) in &kept {
            assert!(
                read(&store, *id, 0..bytes.len() as u64).await.unwrap() == *bytes,
                "cut {cut}"
            );
        }
        store.collect_once().await.unwrap();
        check(&store).await;
    }
}
