//! A cloud that does not answer, or only in part: what the simulator found.

use std::sync::Arc;
use std::time::Duration;

use super::cloud::{again, all_read, cloud_options, fixture_with, open, place, put_some};
use crate::blob::BlobError;
use crate::blob::fault::{BlobFault, Call};
use crate::chunk::pack::{OpenError as PacksError, ReadError as PackError};
use crate::chunk::{Difference, OpenError};
use crate::kv::Kv;
use crate::kv::memory::MemoryKv;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_was_put_in_part_does_not_lock_its_store_out() {
    let place = place();
    place.script(Call::Put, [BlobFault::Cut]);
    let fixture = fixture_with(&place, 0).await;
    let put = put_some(&fixture, 2).await;
    let cloud = cloud_options(&place, fixture.dir.path());
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    all_read(&fixture, &put).await;
    // Now it is whole: another store is told.
    let other: Arc<dyn Kv> = Arc::new(MemoryKv::new());
    let refused = open(
        &other,
        fixture.dir.path(),
        Some(cloud_options(&place, fixture.dir.path())),
        None,
    )
    .await;
    assert!(matches!(
        refused,
        Err(OpenError::Packs(PacksError::Cloud(BlobError::Refused(_))))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_hangs_holds_up_neither_the_start_nor_who_deletes_nor_who_compares() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let put = put_some(&fixture, 2).await;
    place.script(Call::Get, [BlobFault::Hang]);
    let cloud = cloud_options(&place, fixture.dir.path());
    let fixture = again(fixture, Some(cloud)).await.unwrap();
    all_read(&fixture, &put).await;
    place.script(Call::List, [BlobFault::Hang]);
    let recount = fixture.store.recount().await.unwrap();
    assert!(
        matches!(recount.differences[..], [Difference::Unlisted { .. }]),
        "{recount:?}"
    );
    place.script(Call::Delete, [BlobFault::Hang]);
    let pack = fixture.store.packs.packs()[0].id;
    assert!(matches!(
        fixture.store.packs.delete(pack, true).await,
        Err(PackError::Io { .. })
    ));
}

/// It is to come back later, not to look at the same packs again and again for as long as a run may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_without_its_cloud_ends_its_run() {
    let place = place();
    let fixture = fixture_with(&place, 0).await;
    let kept = fixture.put_and_delete_most().await;
    place.set_down(true);
    let run = tokio::time::timeout(Duration::from_secs(10), fixture.store.collect_once());
    let report = run.await.expect("the run goes on").unwrap();
    assert_eq!((report.packs_deleted, report.stuck.len()), (0, 0), "{report:?}");
    place.set_down(false);
    assert!(fixture.collect().await.packs_deleted > 0);
    all_read(&fixture, &kept).await;
    fixture.check().await;
}
