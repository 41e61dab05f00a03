use super::copies::copy_to;
use super::uploads::complete;
use super::{Fixture, create_only, key, noise, put_request};
use crate::chunk::{AppendError, WriteError};
use crate::kv::fault::CommitFault;
use crate::object::{CompleteError, GetError, PlaceError, PutError, ReceiveError, StoreError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_outcome_is_told_and_never_cleaned_up_after() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    for size in [100, 50_000] {
        let (old, new) = (noise(size, 1), noise(size, 2));
        for fault in [CommitFault::UnknownApplied, CommitFault::UnknownLost] {
            test.put(&grant, "k", &old).await;
            // A large body has a commit of its window before the one that publishes.
            let before = if size > 8192 {
                publishing_commit(&test, &grant, size).await
            } else {
                0
            };
            let faults = std::iter::repeat_n(CommitFault::Pass, before).chain([fault]);
            test.kv.script(faults);
            let outcome = test.objects.put(&grant, put_request("k", &new)).await;
            assert!(
                matches!(outcome, Err(PutError::Place(PlaceError::Store(StoreError::Unknown(_))))),
                "{size} {fault:?}"
            );
            test.chunks.collect_once().await.unwrap();
            let expected = if fault == CommitFault::UnknownApplied {
                &new
            } else {
                &old
            };
            assert_eq!(test.get(&grant, "k").await.unwrap(), *expected, "{size} {fault:?}");
            test.usage(&grant).await;
        }
    }
}

/// Commits of a large PUT before the one that publishes it.
async fn publishing_commit(test: &Fixture, grant: &crate::iam::Grant, size: usize) -> usize {
    for before in 0..10 {
        let faults = std::iter::repeat_n(CommitFault::Pass, before).chain([CommitFault::Unavailable]);
        test.kv.script(faults);
        let outcome = test.objects.put(grant, put_request("probe", &noise(size, 77))).await;
        if matches!(outcome, Err(PutError::Place(_))) {
            return before;
        }
    }
    panic!("no commit published the object")
}

#[tokio::test]
async fn a_refused_commit_changes_nothing() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    test.kv.script([CommitFault::Unavailable]);
    let outcome = test.objects.put(&grant, put_request("k", b"v")).await;
    assert!(matches!(
        outcome,
        Err(PutError::Place(PlaceError::Store(StoreError::Commit(_))))
    ));
    assert!(matches!(test.get(&grant, "k").await, Err(GetError::NoSuchKey)));
    test.put(&grant, "k", b"v").await;
    test.kv.script([CommitFault::UnknownApplied]);
    assert!(
        test.objects
            .delete(&grant, &key("k"), Default::default())
            .await
            .is_err()
    );
    assert!(test.get(&grant, "k").await.is_err());
    test.usage(&grant).await;
}

#[tokio::test]
async fn a_completion_with_an_unknown_outcome_is_answered_by_the_retry() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    for fault in [CommitFault::UnknownApplied, CommitFault::UnknownLost] {
        let upload = test.create(&grant, "k").await;
        let part = test.part(&grant, "k", upload, 1, b"").await;
        let request = || complete("k", upload, std::slice::from_ref(&part));
        // The claim and the manifest pass.
        test.kv.script([CommitFault::Pass, CommitFault::Pass, fault]);
        let outcome = test.objects.complete_upload(&grant, request()).await;
        assert!(matches!(
            outcome,
            Err(CompleteError::Place(PlaceError::Store(StoreError::Unknown(_))))
        ));
        let written = test.objects.complete_upload(&grant, request()).await.unwrap();
        assert_eq!(test.info(&grant, "k").await.unwrap().etag, written.etag);
        test.usage(&grant).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_a_full_disk_takes_no_data_and_gives_back_what_is_deleted() {
    const SIZE: usize = 1 << 20;
    let test = Fixture::with_reserve(1 << 16).await;
    test.space.look_at(u64::MAX / 2).unwrap();
    let (grant, foreign) = (test.bucket("b").await, test.bucket_of(&test.bob, "c").await);
    for name in ["kept", "deleted"] {
        test.put(&grant, name, &noise(SIZE, name.len() as u64)).await;
    }
    test.space.look_at(0).unwrap();
    for size in [1, SIZE] {
        let outcome = test.put_if(&grant, "new", &noise(size, 9), create_only()).await;
        let Err(PutError::Receive(ReceiveError::Store(StoreError::Write(WriteError::Append(error))))) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(matches!(error, AppendError::Full));
    }
    // A copy to another domain is new data; one that only refers to what is there is none.
    let refused = test.objects.copy(&grant, &key("kept"), &foreign, copy_to("copy")).await;
    assert!(refused.is_err());
    test.objects
        .copy(&grant, &key("kept"), &grant, copy_to("copy"))
        .await
        .unwrap();
    assert_eq!(test.get(&grant, "kept").await.unwrap(), noise(SIZE, 4));
    let held = test.chunks.usage().await.unwrap().pack_bytes;
    let doomed = key("deleted");
    test.objects.delete(&grant, &doomed, Default::default()).await.unwrap();
    test.chunks.collect_once().await.unwrap();
    let left = test.chunks.usage().await.unwrap().pack_bytes;
    assert!(left < held * 6 / 10, "{left} of {held}");
    // Room comes back without a restart.
    test.space.look_at(u64::MAX / 2).unwrap();
    test.put(&grant, "new", &noise(SIZE, 9)).await;
    assert_eq!(test.get(&grant, "kept").await.unwrap(), noise(SIZE, 4));
    assert_eq!(test.usage(&grant).await.objects, 3);
}
