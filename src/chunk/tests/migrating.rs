//! Packs that move between the data directory and the cloud.

use std::sync::Arc;
use std::time::Duration;

use super::cloud::{Place, again, all_read, cloud_options, fixture_with, place, put_some};
use super::harness::{Fixture, content, pack_files};
use crate::blob::Blobs;
use crate::blob::fault::{BlobFault, Call};
use crate::meta::pack::Backend;

async fn blobs(place: &Place) -> usize {
    place.inner().list("packs/", None).await.unwrap().len()
}

async fn restart(fixture: Fixture, place: &Place) -> Fixture {
    let cloud = cloud_options(place, fixture.dir.path());
    again(fixture, Some(cloud)).await.unwrap()
}

/// Moves everything, and fails unless it is there.
async fn migrate(fixture: &Fixture, to: Backend) {
    fixture.store.migrate_to(to).await.unwrap();
    fixture.store.migrate().await.unwrap();
    let status = fixture.store.migrate_status().await.unwrap();
    assert_eq!((status.to, &status.error), (None, &None), "{status:?}");
    assert!(fixture.store.packs.packs().iter().all(|info| info.backend == to));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_move_there_and_back_while_they_are_read() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let put = Arc::new(put_some(&fixture, 6).await);
    let count = fixture.store.packs.packs().len();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, put) = (Arc::clone(&fixture.store), Arc::clone(&put));
            tokio::spawn(async move {
                for round in 0..60 {
                    let (id, bytes) = &put[round % put.len()];
                    let read = super::harness::read(&store, *id, 0..bytes.len() as u64).await;
                    assert!(read.unwrap() == *bytes);
                }
            })
        })
        .collect();
    for _ in 0..2 {
        migrate(&fixture, Backend::Local).await;
        assert_eq!((pack_files(fixture.dir.path()).len(), blobs(&place).await), (count, 0));
        migrate(&fixture, Backend::Cloud).await;
        assert_eq!((pack_files(fixture.dir.path()).len(), blobs(&place).await), (0, count));
    }
    for reader in readers {
        reader.await.unwrap();
    }
    migrate(&fixture, Backend::Local).await;
    fixture.check().await;
    // Without a place in the cloud, as before there was one.
    let fixture = again(fixture, None).await.unwrap();
    assert_eq!(fixture.store.recovered(), &Default::default());
    all_read(&fixture, &put).await;
    fixture.check().await;
}

/// The crash between any two steps of a move, each made by a call that fails or never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_move_that_ends_anywhere_leaves_every_pack_whole_and_is_resumed() {
    for (to, call, fault) in [
        (Backend::Cloud, Call::Put, BlobFault::Unavailable),
        (Backend::Cloud, Call::Put, BlobFault::AnswerLost),
        (Backend::Cloud, Call::Put, BlobFault::Hang),
        (Backend::Cloud, Call::Put, BlobFault::Cut),
        (Backend::Cloud, Call::Get, BlobFault::Hang),
        (Backend::Local, Call::Get, BlobFault::Unavailable),
        (Backend::Local, Call::Get, BlobFault::Cut),
        (Backend::Local, Call::Delete, BlobFault::Unavailable),
        (Backend::Local, Call::Delete, BlobFault::Hang),
    ] {
        let place = place();
        let mut fixture = fixture_with(&place, 0).await;
        let put = put_some(&fixture, 3).await;
        if to == Backend::Cloud {
            migrate(&fixture, Backend::Local).await;
        }
        let count = fixture.store.packs.packs().len();
        fixture.store.migrate_to(to).await.unwrap();
        place.script(call, [fault, fault]);
        let _ = tokio::time::timeout(Duration::from_millis(300), fixture.store.migrate()).await;
        let status = fixture.store.migrate_status().await.unwrap();
        assert_eq!(status.to, Some(to), "{call:?} {fault:?}: it is not done");
        for _ in 0..2 {
            // What is left of the script.
            let _ = tokio::time::timeout(Duration::from_millis(900), fixture.store.migrate()).await;
        }
        fixture = restart(fixture, &place).await;
        assert_eq!(fixture.store.recovered(), &Default::default(), "{call:?} {fault:?}");
        all_read(&fixture, &put).await;
        fixture.check().await;
        migrate(&fixture, to).await;
        let (local, cloud) = (pack_files(fixture.dir.path()).len(), blobs(&place).await);
        let (there, left) = if to == Backend::Cloud {
            (cloud, local)
        } else {
            (local, cloud)
        };
        assert_eq!((there, left), (count, 0), "{call:?} {fault:?}");
        all_read(&fixture, &put).await;
        fixture.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_collected_half_way_leaves_no_copy() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let id = fixture.put(&content(1, 300_000)).await;
    migrate(&fixture, Backend::Local).await;
    fixture.store.migrate_to(Backend::Cloud).await.unwrap();
    place.script(Call::Put, [BlobFault::AnswerLost]);
    assert!(fixture.store.migrate().await.is_err());
    assert_eq!((pack_files(fixture.dir.path()).len(), blobs(&place).await), (1, 1));
    let fixture = restart(fixture, &place).await;
    fixture.delete(id).await;
    fixture.collect().await;
    assert_eq!((pack_files(fixture.dir.path()).len(), blobs(&place).await), (0, 0));
    fixture.store.migrate().await.unwrap();
    fixture.check().await;
}
