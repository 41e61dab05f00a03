//! The lanes against the reference crate.

use md5::{Digest, Md5};

use super::*;

fn reference(data: &[u8]) -> [u8; 16] {
    Md5::digest(data).into()
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; length];
    reader.fill(&mut bytes);
    bytes
}

#[test]
fn small_bodies_match_the_reference() {
    for length in (0..300).chain([4096, 8192, 8193]) {
        let data = noise(length, length as u64);
        assert_eq!(md5_small(&data), reference(&data), "{length} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_any_shape_match_the_reference() {
    let lanes = Arc::new(Md5Lanes::start(2).unwrap());
    let tasks: Vec<_> = (0..40usize)
        .map(|number| {
            let lanes = Arc::clone(&lanes);
            tokio::spawn(async move {
                let data = Bytes::from(noise(number * number * 977 + number % 3, number as u64));
                let mut stream = lanes.stream();
                let piece = 1 + number * 1013 % 150_000;
                for start in (0..data.len()).step_by(piece) {
                    stream.update(data.slice(start..data.len().min(start + piece))).await;
                    if start % 7 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                assert_eq!(stream.finish().await, reference(&data), "stream {number}");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_stream_leaves_the_others_alone() {
    let lanes = Md5Lanes::start(1).unwrap();
    let data = Bytes::from(noise(3 << 20, 9));
    let mut idle = lanes.stream();
    for _ in 0..30 {
        let mut dropped = lanes.stream();
        dropped.update(data.clone()).await;
    }
    let mut stream = lanes.stream();
    stream.update(data.clone()).await;
    assert_eq!(stream.finish().await, reference(&data));
    idle.update(data.clone()).await;
    assert_eq!(idle.finish().await, reference(&data));
    assert_eq!(lanes.queues[0].streams(), 0);
}

#[tokio::test]
async fn the_queue_is_bounded_and_drains() {
    let lanes = Md5Lanes::start(1).unwrap();
    let data = Bytes::from(noise(5 << 20, 3));
    let mut stream = lanes.stream();
    let mut whole = Md5::new();
    for _ in 0..20 {
        stream.update(data.clone()).await;
        whole.update(&data);
    }
    assert_eq!(stream.finish().await, <[u8; 16]>::from(whole.finalize()));
}

#[tokio::test]
async fn streams_that_outlive_the_threads_hash_for_themselves() {
    let lanes = Md5Lanes::start(1).unwrap();
    let mut stream = lanes.stream();
    let data = Bytes::from(noise(100_000, 8));
    stream.update(data.slice(..60_000)).await;
    drop(lanes);
    stream.update(data.slice(60_000..)).await;
    assert_eq!(stream.finish().await, reference(&data));
}
