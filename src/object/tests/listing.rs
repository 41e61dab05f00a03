use std::collections::BTreeSet;

use proptest::prelude::*;

use super::Fixture;
use crate::iam::Grant;
use crate::object::{ListEntry, ListRequest};

/// The names of all entries, page by page.
async fn list(test: &Fixture, grant: &Grant, request: &ListRequest) -> Vec<String> {
    let (mut names, mut request) = (Vec::new(), request.clone());
    loop {
        let page = test.objects.list(grant, request.clone()).await.unwrap();
        assert!(page.entries.len() <= request.limit);
        for entry in &page.entries {
            let is_prefix = matches!(entry, ListEntry::CommonPrefix(_));
            let delimiter = request.delimiter.as_deref().unwrap_or("\0none");
            let rest = entry.name().strip_prefix(request.prefix.as_str()).unwrap();
            assert_eq!(is_prefix, rest.contains(delimiter), "{}", entry.name());
            names.push(entry.name().to_owned());
        }
        match page.next {
            None => return names,
            Some(next) => {
                assert_eq!(Some(next.as_str()), page.entries.last().map(ListEntry::name));
                request.start_after = Some(next);
            }
        }
    }
}

/// What a listing means: all names rolled up, in order, those behind the marker.
fn model(keys: &BTreeSet<String>, request: &ListRequest) -> Vec<String> {
    let delimiter = request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
    let rolled = keys.iter().filter_map(|key| {
        let rest = key.strip_prefix(request.prefix.as_str())?;
        let cut = delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
        Some(cut.map_or(key.clone(), |cut| key[..request.prefix.len() + cut].to_owned()))
    });
    let names: BTreeSet<String> = rolled.collect();
    let after = request.start_after.as_deref();
    names
        .into_iter()
        .filter(|name| after.is_none_or(|after| name.as_str() > after))
        .collect()
}

fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    let key = prop_oneof![
        "[ab/]{1,5}",
        "[a-c]/[a-c]/[a-c]{1,2}",
        "[aé\u{0}\u{1}/\u{10ffff}]{1,4}",
        "a/[a-z]{1,3}"
    ];
    proptest::collection::btree_set(key, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn lists_as_the_model_does(
        keys in keys(), prefix in prop_oneof![Just(String::new()), "[ab/]{1,3}", "a/", Just("é".to_owned())],
        delimiter in proptest::option::of(prop_oneof!["/", "a/", "[ab]{1,2}", Just("\u{0}".to_owned())]),
        after in proptest::option::of(prop_oneof!["[ab/é]{1,4}", "a/", "\u{10ffff}"]), limit in 1usize..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let request = ListRequest { prefix, delimiter, start_after: after, limit };
        let expected = model(&keys, &request);
        let found = runtime.block_on(async {
            let test = Fixture::new().await;
            let grant = test.bucket("b").await;
            for key in &keys {
                test.put(&grant, key, b"").await;
            }
            list(&test, &grant, &request).await
        });
        prop_assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn pages_hold_at_most_what_was_asked() {
    let test = Fixture::new().await;
    let grant = test.bucket("b").await;
    for at in 0..1005 {
        test.put(&grant, &format!("k{at:04}"), b"x").await;
    }
    let request = |limit| ListRequest {
        limit,
        ..Default::default()
    };
    let page = test.objects.list(&grant, request(0)).await.unwrap();
    assert!(page.entries.is_empty() && page.next.is_none());
    let page = test.objects.list(&grant, request(5000)).await.unwrap();
    assert_eq!((page.entries.len(), page.next.as_deref()), (1000, Some("k0999")));
    let page = test.objects.list(&grant, request(1000)).await.unwrap();
    let ListEntry::Object(object) = &page.entries[7] else {
        panic!()
    };
    assert_eq!((object.key(), object.size()), ("k0007", 1));
    assert!(
        object.storage_class().unwrap().is_none() && object.owner().unwrap().is_none() && object.checksum().is_some()
    );
}
