//! The last look: everything reads, every count is right, and after everything is deleted nothing is left.

use std::time::Duration;

use cairn::chunk::StoreUsage;
use cairn::object::CheckProgress;
use cairn::object::types::RangeSpec;
use tokio::time::sleep;

use crate::blobs::Place;
use crate::client::{BUCKETS, Opened};
use crate::content::tag_of;
use crate::run::Gateway;

/// Longer than a put may be late, and than anything waits for it.
const LATE_MS: u64 = 20 * 60 * 1000;
/// Longer than answers of completed uploads are kept.
const DAY_MS: u64 = 25 * 60 * 60 * 1000;
/// Longer than any of the tasks in the background rests.
const TURN: Duration = Duration::from_secs(150);
/// The blob that says whose place it is.
const OWNER: &str = "cairn-store";

pub async fn last_look(gateway: &Gateway, place: &Place) {
    let world = gateway.client.world();
    let is_damaged = place.flips() > 0;
    for name in BUCKETS {
        let Some(bucket) = gateway.client.open_named(name).await else {
            continue;
        };
        read_all(gateway, &bucket, is_damaged).await;
        if is_damaged {
            heal(gateway, &bucket).await;
            read_all(gateway, &bucket, false).await;
        }
    }
    world.pass(LATE_MS);
    place.catch_up(world);
    sleep(TURN).await;
    if is_damaged {
        return;
    }
    check(gateway, "at the end").await;
    if let Some(told) = gateway.chunks.degraded() {
        world.violated(format!("nothing was damaged, and yet: {told}"));
    }
    delete_all(gateway).await;
}

/// After everything was deleted, and everything that waits for its time had it.
pub async fn nothing_is_left(gateway: &Gateway, place: &Place) {
    let world = gateway.client.world();
    world.pass(DAY_MS);
    sleep(TURN).await;
    check(gateway, "after everything was deleted").await;
    let left: Vec<String> = place.names().into_iter().filter(|name| name != OWNER).collect();
    if !left.is_empty() {
        world.violated(format!("blobs are left of nothing: {left:?}"));
    }
    match gateway.chunks.usage().await {
        Ok(usage) if usage == StoreUsage::default() => {}
        other => world.violated(format!("nothing is stored, and yet: {other:?}")),
    }
    // Of all families but that of single rows, where the store's own are.
    for family in 0x1_u8..=0x6 {
        for table in 0..16 {
            let rows = gateway.kv.rows(family << 4 | table).await.unwrap_or_default();
            let rows: Vec<String> = rows.iter().take(4).map(|row| hex::encode(&row.key)).collect();
            if !rows.is_empty() && !is_of_bucket(family, table) {
                world.violated(format!("rows of table {table:x} of family {family} are left: {rows:?}"));
            }
        }
    }
}

/// Buckets stay.
fn is_of_bucket(family: u8, _table: u8) -> bool {
    family == 1
}

async fn read_all(gateway: &Gateway, bucket: &Opened, may_fail: bool) {
    let client = &gateway.client;
    let keys = client.shared.model.lock().keys(bucket.id);
    for name in &keys {
        for range in [None, Some(RangeSpec::Suffix(30_000))] {
            if !client.get_range(bucket, name, range).await && !may_fail && range.is_none() {
                client
                    .world()
                    .violated(format!("{name} of {} cannot be read", bucket.name));
            }
        }
    }
    if !client.list_all(bucket).await {
        client.world().violated(format!("{} cannot be listed", bucket.name));
    }
}

/// What does not read is written again: the same bytes, which heals whatever else needs them.
async fn heal(gateway: &Gateway, bucket: &Opened) {
    let client = &gateway.client;
    let keys = client.shared.model.lock().keys(bucket.id);
    for name in &keys {
        if client.get_range(bucket, name, None).await {
            continue;
        }
        let Some(bytes) = client.stored_bytes(bucket, name).await else {
            client
                .world()
                .violated(format!("{name} of {} has no head", bucket.name));
            continue;
        };
        client.world().note(|| format!("heals {name}, {}", tag_of(&bytes)));
        if !client.put_body(bucket, name, bytes, false).await {
            client
                .world()
                .violated(format!("{name} of {} cannot be written again", bucket.name));
        }
    }
}

async fn check(gateway: &Gateway, when: &str) {
    let world = gateway.client.world();
    let progress = CheckProgress::default();
    match gateway.client.objects.check(true, 2, &progress).await {
        Ok(report) if report.is_sound() => {}
        Ok(report) => world.violated(format!("the check finds {when}: {report:?}")),
        Err(error) => world.violated(format!("the check fails {when}: {error}")),
    }
}

async fn delete_all(gateway: &Gateway) {
    let client = &gateway.client;
    for name in BUCKETS {
        let Some(bucket) = client.open_named(name).await else {
            continue;
        };
        let keys = client.shared.model.lock().keys(bucket.id);
        let names: Vec<&str> = keys.iter().map(String::as_str).collect();
        client.delete_all(&bucket, &names).await;
        client.abort_all(&bucket).await;
    }
}
