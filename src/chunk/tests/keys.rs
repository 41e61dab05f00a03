//! Master keys: given, missing, wrong, new; and what a crash leaves of a change.

use std::sync::Arc;

use super::harness::LoggedKv;
use crate::chunk::cipher::Key;
use crate::chunk::{KeyError, Keys, MasterKeys, MetaError, master_in_use, rotate};
use crate::clock::Clock;
use crate::ids::DomainId;
use crate::kv::memory::MemoryKv;
use crate::kv::{Kv, Mutation};
use crate::meta::domain::{DomainRow, DomainSecret};
use crate::meta::encryption::{EncryptionRow, EncryptionState};
use crate::meta::key;
use crate::meta::record::UnknownFields;

pub fn masters(numbers: &[u8]) -> MasterKeys {
    MasterKeys::new(numbers.iter().map(|number| Key::new([*number; 32]))).unwrap()
}

async fn open(kv: &dyn Kv, numbers: &[u8]) -> Result<Keys, KeyError> {
    let given = (!numbers.is_empty()).then(|| masters(numbers));
    Keys::open(kv, given.as_ref(), &Clock::system()).await
}

async fn encryption(kv: &dyn Kv) -> EncryptionRow {
    EncryptionRow::decode(kv.get(&key::store("encryption")).await.unwrap().unwrap().bytes).unwrap()
}

async fn change(kv: &dyn Kv, row: &EncryptionRow) {
    let mut mutation = Mutation::new();
    mutation.put(key::store("encryption"), row.encode());
    kv.commit(mutation).await.unwrap();
}

fn clear(id: u64) -> DomainRow {
    DomainRow {
        secret: DomainSecret::Clear([id as u8; 32]),
        created: Clock::system().now(),
        unknown: UnknownFields::default(),
    }
}

async fn add_clear(kv: &dyn Kv, count: u64) {
    for id in 0..count {
        let mut mutation = Mutation::new();
        mutation.put(key::domain(DomainId(id)), clear(id).encode());
        kv.commit(mutation).await.unwrap();
    }
}

async fn secret(kv: &dyn Kv, id: u64) -> DomainSecret {
    let row = kv.get(&key::domain(DomainId(id))).await.unwrap().unwrap();
    DomainRow::decode(row.bytes).unwrap().secret
}

#[tokio::test]
async fn a_missing_and_a_wrong_key_are_told_as_that() {
    let kv = MemoryKv::new();
    assert!(!open(&kv, &[]).await.unwrap().is_on());
    assert_eq!(master_in_use(&kv).await.unwrap(), None);
    assert!(open(&kv, &[1]).await.unwrap().is_on());
    let id = masters(&[1]).first();
    assert_eq!(master_in_use(&kv).await.unwrap(), Some(id));
    assert!(open(&kv, &[2, 1]).await.unwrap().is_on());
    let missing = open(&kv, &[]).await.unwrap_err();
    assert!(matches!(missing, KeyError::Missing(wanted) if wanted == id));
    let wrong = open(&kv, &[2, 3]).await.unwrap_err();
    assert!(matches!(wrong, KeyError::Wrong { wanted, .. } if wanted == id));
    for told in [missing.to_string(), wrong.to_string()] {
        assert!(
            told.contains(&id.to_string()) && told.contains("nothing is damaged"),
            "{told}"
        );
    }
    // The right key, and another row than the one that was written.
    let row = encryption(&kv).await;
    for at in [0, 8, 20, 36, 67] {
        let mut damaged = row.clone();
        damaged.wrapped[at] ^= 1;
        change(&kv, &damaged).await;
        assert!(matches!(open(&kv, &[1]).await, Err(KeyError::Damaged(_))), "{at}");
    }
    change(&kv, &row).await;
    assert!(open(&kv, &[1]).await.is_ok());
}

#[tokio::test]
async fn rotation_is_one_commit_and_changes_no_other_key() {
    let kv = LoggedKv::default();
    let naming = Key::new([7; 32]);
    let before = open(&kv, &[1]).await.unwrap();
    let wrapped = before.domain_secret(DomainId(5), &naming);
    let (commits, _) = kv.commits().await;
    let rotation = rotate(&kv, &masters(&[2, 1]), &Clock::system()).await.unwrap();
    assert_eq!(
        (rotation.from, rotation.to),
        (masters(&[1]).first(), masters(&[2]).first())
    );
    let (after, synced) = kv.commits().await;
    assert_eq!((after, synced), (commits + 1, after), "one commit, and a synced one");
    // Whatever a crash leaves, one of both opens it, and a keyring with both always does.
    for (count, opens) in [(commits, [true, false]), (after, [false, true])] {
        let left = kv.after(count).await;
        assert_eq!(
            [open(&left, &[1]).await.is_ok(), open(&left, &[2]).await.is_ok()],
            opens
        );
        for both in [[1, 2], [2, 1]] {
            let keys = open(&left, &both).await.unwrap();
            let (name, data) = keys.domain_keys(DomainId(5), &wrapped).unwrap();
            assert_eq!(name.expose(), naming.expose());
            assert_eq!(
                data.unwrap().expose(),
                before.domain_keys(DomainId(5), &wrapped).unwrap().1.unwrap().expose()
            );
            assert_eq!(keys.token_key(), before.token_key());
        }
    }
    let again = rotate(&kv, &masters(&[2, 1]), &Clock::system()).await;
    assert!(matches!(again, Err(KeyError::InUse(_))));
    assert!(matches!(
        rotate(&kv, &masters(&[3, 1]), &Clock::system()).await,
        Err(KeyError::Wrong { .. })
    ));
    let off = rotate(&MemoryKv::new(), &masters(&[1]), &Clock::system()).await;
    assert!(matches!(off, Err(KeyError::NotEncrypted)));
}

#[tokio::test]
async fn turning_it_on_wraps_every_domain_whatever_a_crash_leaves() {
    let kv = LoggedKv::default();
    add_clear(&kv, 600).await;
    let (start, _) = kv.commits().await;
    open(&kv, &[1]).await.unwrap();
    let (end, synced) = kv.commits().await;
    assert!(end > start + 3 && synced == end);
    for count in start..=end {
        let left = Arc::new(kv.after(count).await);
        assert_eq!(open(&*left, &[]).await.is_ok(), count == start);
        let keys = open(&*left, &[1]).await.unwrap();
        assert_eq!(encryption(&*left).await.state, EncryptionState::On);
        for id in [0, 255, 256, 599] {
            let secret = secret(&*left, id).await;
            assert!(matches!(secret, DomainSecret::Wrapped(_)), "{id} after {count}");
            let (naming, data) = keys.domain_keys(DomainId(id), &secret).unwrap();
            // Names stay what they are; the data key is none that was ever on the disk.
            assert_eq!(naming.expose(), &[id as u8; 32]);
            assert_ne!(data.unwrap().expose(), &[id as u8; 32]);
            assert!(
                keys.domain_keys(DomainId(id + 1), &secret).is_err(),
                "another domain's row"
            );
        }
    }
    // From then on a row that is not wrapped was put there by somebody else.
    let keys = open(&kv, &[1]).await.unwrap();
    assert!(keys.domain_keys(DomainId(1), &clear(1).secret).is_err());
    let off = Keys::default();
    assert!(off.domain_keys(DomainId(1), &secret(&kv, 1).await).is_err());
    assert!(off.domain_keys(DomainId(1), &clear(1).secret).unwrap().1.is_none());
}

#[tokio::test]
async fn a_damaged_row_is_told_as_that() {
    let kv = MemoryKv::new();
    open(&kv, &[1]).await.unwrap();
    let mut mutation = Mutation::new();
    mutation.put(key::store("encryption"), bytes::Bytes::from_static(b"nonsense"));
    kv.commit(mutation).await.unwrap();
    for given in [&[][..], &[1]] {
        assert!(matches!(
            open(&kv, given).await,
            Err(KeyError::Meta(MetaError::Malformed(_)))
        ));
    }
}
