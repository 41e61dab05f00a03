//! How every store of blobs behaves: run on each of them, the fault-injecting one included, and by `tests/ops` on
//! servers. Needs an empty store.

use bytes::Bytes;
use futures::future::join_all;

use super::store::{BlobError, Blobs, LIST_PAGE_MAX};

pub async fn run(blobs: &dyn Blobs) {
    bytes_come_back_whole_and_in_ranges(blobs).await;
    absent_blobs_are_told(blobs).await;
    odd_names_are_refused(blobs).await;
    listings_have_order_and_pages(blobs).await;
    many_at_once_lose_nothing(blobs).await;
}

fn noise(length: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

async fn names(blobs: &dyn Blobs, prefix: &str, after: Option<&str>) -> Vec<String> {
    let found = blobs.list(prefix, after).await.unwrap();
    found.into_iter().map(|blob| blob.name).collect()
}

async fn bytes_come_back_whole_and_in_ranges(blobs: &dyn Blobs) {
    for length in [0, 1, 4096, 70_000, 9 << 20] {
        let (name, bytes) = (format!("sizes/{length}"), noise(length, length as u64));
        blobs.put(&name, bytes.clone()).await.unwrap();
        assert_eq!(blobs.size(&name).await, Ok(length as u64));
        assert!(blobs.get(&name, None).await.unwrap() == bytes, "{length} bytes");
    }
    let (name, bytes) = ("sizes/70000", noise(70_000, 70_000));
    for (start, end) in [(0, 1), (0, 70_000), (69_999, 70_000), (12_345, 54_321)] {
        let found = blobs.get(name, Some(start as u64..end as u64)).await.unwrap();
        assert!(found == bytes[start..end], "{start}..{end}: {} bytes", found.len());
    }
    for range in [60_000..90_000, 70_000..70_001, 80_000..90_000] {
        assert_eq!(blobs.get(name, Some(range)).await, Err(BlobError::Short));
    }
    for blob in blobs.list("sizes/", None).await.unwrap() {
        assert_eq!(blob.name, format!("sizes/{}", blob.bytes));
        blobs.delete(&blob.name).await.unwrap();
    }
    assert!(names(blobs, "", None).await.is_empty());
}

async fn absent_blobs_are_told(blobs: &dyn Blobs) {
    blobs.put("here", Bytes::from_static(b"x")).await.unwrap();
    blobs.delete("here").await.unwrap();
    for name in ["never", "a/b/c", "here"] {
        assert_eq!(blobs.get(name, None).await, Err(BlobError::NotFound), "{name}");
        assert_eq!(blobs.get(name, Some(0..4)).await, Err(BlobError::NotFound), "{name}");
        assert_eq!(blobs.size(name).await, Err(BlobError::NotFound), "{name}");
        assert_eq!(blobs.delete(name).await, Ok(()), "{name}");
    }
    assert!(names(blobs, "none/", None).await.is_empty());
}

async fn odd_names_are_refused(blobs: &dyn Blobs) {
    let long = "n".repeat(513);
    for name in [
        "", "/a", "a/", "a//b", "../a", ".part/a", "a/.b", "A", "ä", "a b", &long,
    ] {
        let refused = |answer: Result<(), BlobError>| matches!(answer, Err(BlobError::Refused(_)));
        assert!(refused(blobs.put(name, Bytes::new()).await), "{name}");
        assert!(refused(blobs.get(name, None).await.map(drop)), "{name}");
        assert!(refused(blobs.size(name).await.map(drop)), "{name}");
        assert!(refused(blobs.delete(name).await), "{name}");
    }
    for prefix in ["a", "/", "../", "a//"] {
        assert!(
            matches!(blobs.list(prefix, None).await, Err(BlobError::Refused(_))),
            "{prefix}"
        );
    }
}

async fn listings_have_order_and_pages(blobs: &dyn Blobs) {
    // '-' and '.' are below '/' in byte order.
    let mut all = ["a-b", "a.b", "a/b/c", "a/b/d", "a/c", "ab", "b/x"]
        .map(str::to_owned)
        .to_vec();
    join_all(
        all.iter()
            .map(|name| async { blobs.put(name, Bytes::from_static(b"1")).await.unwrap() }),
    )
    .await;
    all.sort();
    assert_eq!(names(blobs, "", None).await, all);
    assert_eq!(names(blobs, "", Some("a/b/c")).await, ["a/b/d", "a/c", "ab", "b/x"]);
    assert_eq!(names(blobs, "", Some("a/bb")).await, ["a/c", "ab", "b/x"]);
    assert_eq!(names(blobs, "a/", None).await, ["a/b/c", "a/b/d", "a/c"]);
    assert_eq!(names(blobs, "a/", Some("a/b/d")).await, ["a/c"]);
    assert_eq!(names(blobs, "a/b/", Some("zz")).await, Vec::<String>::new());
    for name in all {
        blobs.delete(&name).await.unwrap();
    }
    let many: Vec<String> = (0..LIST_PAGE_MAX + 505)
        .map(|number| format!("many/{:02}/{number:05}", number / 70))
        .collect();
    for some in many.chunks(50) {
        join_all(
            some.iter()
                .map(|name| async { blobs.put(name, Bytes::from_static(b"1")).await.unwrap() }),
        )
        .await;
    }
    let first = names(blobs, "many/", None).await;
    assert_eq!(first, many[..LIST_PAGE_MAX]);
    assert_eq!(
        names(blobs, "many/", first.last().map(String::as_str)).await,
        many[LIST_PAGE_MAX..]
    );
    for some in many.chunks(50) {
        join_all(some.iter().map(|name| async { blobs.delete(name).await.unwrap() })).await;
    }
    assert!(names(blobs, "", None).await.is_empty());
}

async fn many_at_once_lose_nothing(blobs: &dyn Blobs) {
    let blob = |number: u64| (format!("at-once/{number}"), noise(20_000 + number as usize, number));
    let put = |number| async move {
        let (name, bytes) = blob(number);
        blobs.put(&name, bytes).await.unwrap();
    };
    join_all((0..32).map(put)).await;
    let get = |number| async move {
        let (name, bytes) = blob(number);
        assert!(blobs.get(&name, None).await.unwrap() == bytes);
        assert!(blobs.get(&name, Some(10_000..20_000)).await.unwrap() == bytes[10_000..20_000]);
        blobs.delete(&name).await.unwrap();
    };
    join_all((0..32).map(get)).await;
}
