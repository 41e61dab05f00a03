use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;

use super::uploads::complete;
use super::{Fixture, create_only, key, noise, put_request};
use crate::object::{CompleteError, CreateBucket, CreateOutcome, DeleteBucketError, PlaceError, PutError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_creators_exactly_one_wins() {
    let test = Arc::new(Fixture::new().await);
    let grant = test.bucket("b").await;
    for round in 0..20 {
        let name = format!("k{round}");
        let tries = (0..16usize).map(|at| {
            let (test, grant, name) = (Arc::clone(&test), grant.clone(), name.clone());
            let data = noise(if at % 2 == 0 { 10 } else { 20_000 }, at as u64);
            tokio::spawn(async move { test.put_if(&grant, &name, &data, create_only()).await.map(|_| data) })
        });
        let mut winners = Vec::new();
        for outcome in join_all(tries).await {
            match outcome.unwrap() {
                Ok(data) => winners.push(data),
                Err(PutError::Place(PlaceError::PreconditionFailed(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(test.get(&grant, &name).await.unwrap(), winners[0]);
    }
    assert_eq!(test.usage(&grant).await.objects, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_are_created_side_by_side() {
    let test = Arc::new(Fixture::new().await);
    let creations = (0..200).map(|at| {
        let (test, account) = (Arc::clone(&test), test.account(&test.alice));
        let name = format!("b{at}");
        tokio::spawn(async move {
            let request = CreateBucket::default();
            test.objects.create_bucket(&account, &name, request).await
        })
    });
    let mut ids = HashSet::new();
    for created in join_all(creations).await {
        match created.unwrap() {
            Ok(CreateOutcome::Created(bucket)) => assert!(ids.insert(bucket.id)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_one_key_never_fail() {
    let test = Arc::new(Fixture::new().await);
    let grant = test.bucket("b").await;
    let writers = (0..100u64).map(|at| {
        let (test, grant) = (Arc::clone(&test), grant.clone());
        tokio::spawn(async move {
            if at % 5 == 4 {
                test.objects
                    .delete(&grant, &key("hot"), Default::default())
                    .await
                    .unwrap();
            } else {
                test.put(&grant, "hot", &noise(if at % 2 == 0 { 10 } else { 9_000 }, at))
                    .await;
            }
            let read = test.get(&grant, "hot").await;
            assert!(
                read.is_ok() || matches!(read, Err(crate::object::GetError::NoSuchKey)),
                "{read:?}"
            );
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    test.usage(&grant).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_race_the_deletion_of_their_bucket() {
    let test = Arc::new(Fixture::new().await);
    for round in 0..40 {
        let grant = test.bucket(&format!("b{round}")).await;
        let puts = (0..8usize).map(|at| {
            let (test, grant) = (Arc::clone(&test), grant.clone());
            let data = noise(if at % 4 == 0 { 9_000 } else { 5 }, at as u64);
            tokio::spawn(async move { test.objects.put(&grant, put_request(&format!("k{at}"), &data)).await })
        });
        let puts: Vec<_> = puts.collect();
        let (objects, deleter) = (Arc::clone(&test.objects), grant.clone());
        let deletion = tokio::spawn(async move { objects.delete_bucket(&deleter).await });
        let mut stored = 0;
        for put in join_all(puts).await {
            match put.unwrap() {
                Ok(_) => stored += 1,
                Err(PutError::Place(PlaceError::NoSuchBucket)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        match deletion.await.unwrap() {
            // Nothing was acknowledged that went with the bucket.
            Ok(()) => assert_eq!(stored, 0),
            Err(DeleteBucketError::NotEmpty) => {
                assert!(stored > 0);
                assert_eq!(test.usage(&grant).await.objects, stored);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_upload_is_completed_once_and_not_after_its_abortion() {
    let test = Arc::new(Fixture::new().await);
    let grant = test.bucket("b").await;
    for round in 0..20 {
        let name = format!("k{round}");
        let upload = test.create(&grant, &name).await;
        let part = test.part(&grant, &name, upload, 1, &noise(20_000, round)).await;
        let completions = (0..4).map(|_| {
            let (test, grant) = (Arc::clone(&test), grant.clone());
            let request = complete(&name, upload, std::slice::from_ref(&part));
            tokio::spawn(async move { test.objects.complete_upload(&grant, request).await })
        });
        let completions: Vec<_> = completions.collect();
        let aborted = match round % 2 {
            0 => false,
            _ => test.objects.abort_upload(&grant, &key(&name), upload).await.is_ok(),
        };
        let mut answers = 0;
        for completion in join_all(completions).await {
            match completion.unwrap() {
                Ok(_) => answers += 1,
                Err(CompleteError::NoSuchUpload) => assert!(aborted),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(answers, if aborted { 0 } else { 4 });
        assert_eq!(test.get(&grant, &name).await.is_ok(), !aborted);
    }
    test.sweep().await;
    assert_eq!(test.usage(&grant).await.upload_bytes, 0);
}
