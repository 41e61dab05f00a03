use futures::TryStreamExt;

use super::{Fixture, key};
use crate::object::{CreateBucket, CreateOutcome, DeleteBucketError, ListBuckets};

#[tokio::test]
async fn a_bucket_is_created_once_and_deleted_when_empty() {
    let test = Fixture::new().await;
    let grant = test.bucket("one").await;
    let again = |who| test.objects.create_bucket(who, "one", CreateBucket::default());
    let (alice, bob) = (test.account(&test.alice), test.account(&test.bob));
    assert!(matches!(
        again(&alice).await.unwrap(),
        CreateOutcome::AlreadyOwnedByYou(_)
    ));
    assert!(matches!(again(&bob).await.unwrap(), CreateOutcome::AlreadyExists));
    test.put(&grant, "k", b"v").await;
    assert!(matches!(
        test.objects.delete_bucket(&grant).await,
        Err(DeleteBucketError::NotEmpty)
    ));
    test.objects
        .delete(&grant, &key("k"), Default::default())
        .await
        .unwrap();
    test.objects.delete_bucket(&grant).await.unwrap();
    assert!(test.objects.bucket("one").await.unwrap().is_none());
    assert!(matches!(
        test.objects.delete_bucket(&grant).await,
        Err(DeleteBucketError::NoSuchBucket)
    ));
    // The recreated bucket has another identity, the same domain, and inherits nothing.
    let next = test.bucket("one").await;
    assert_ne!(next.bucket().unwrap().id, grant.bucket().unwrap().id);
    assert_eq!(next.bucket().unwrap().domain, grant.bucket().unwrap().domain);
    assert!(test.get(&next, "k").await.is_err());
}

#[tokio::test]
async fn owners_list_their_own_buckets_in_pages() {
    let test = Fixture::new().await;
    for name in ["b-2", "a", "b-1", "c", "b-3"] {
        test.bucket(name).await;
    }
    test.bucket_of(&test.bob, "b-bob").await;
    let grant = test.account(&test.alice);
    let list = |prefix: &str, start_after: &str, limit| {
        let request = ListBuckets {
            prefix: prefix.into(),
            start_after: start_after.into(),
            limit,
        };
        let (objects, grant) = (&test.objects, &grant);
        async move {
            let page = objects.list_buckets(grant, request).await.unwrap();
            (
                page.buckets.into_iter().map(|bucket| bucket.name).collect::<Vec<_>>(),
                page.next,
            )
        }
    };
    assert_eq!(list("", "", 100).await.0, ["a", "b-1", "b-2", "b-3", "c"]);
    assert_eq!(
        list("b-", "", 2).await,
        (vec!["b-1".into(), "b-2".into()], Some("b-2".into()))
    );
    assert_eq!(list("b-", "b-2", 2).await, (vec!["b-3".into()], None));
    assert_eq!(list("b-", "zzz", 2).await, (vec![], None));
    let bob = test.account(&test.bob);
    let page = test
        .objects
        .list_buckets(
            &bob,
            ListBuckets {
                limit: 10,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(page.buckets.len(), 1);
    let all = test.objects.buckets().try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(all.len(), 6);
}

#[tokio::test]
async fn the_store_secret_is_made_once() {
    let test = Fixture::new().await;
    let secret = test.objects.store_secret().await.unwrap();
    assert_eq!(test.restarted().store_secret().await.unwrap(), secret);
    assert_ne!(secret, [0; 32]);
}
