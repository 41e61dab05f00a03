//! ListObjects, its second version, and ListObjectVersions.

use super::client::{Answer, Call, Gateway};

async fn with_keys(keys: &[&str]) -> Gateway {
    let gateway = Gateway::with_bucket().await;
    for key in keys {
        Call::put(&format!("/media/{key}"))
            .body("x")
            .send(&gateway)
            .await
            .expect(200);
    }
    gateway
}

fn prefixes(answer: &Answer) -> Vec<String> {
    answer
        .elements("CommonPrefixes")
        .iter()
        .map(|xml| xml.replace("<Prefix>", "").replace("</Prefix>", ""))
        .collect()
}

#[tokio::test]
async fn url_encoding_is_what_boto_expects() {
    let gateway = with_keys(&["foo%2B1/bar", "foo/bar/xyzzy", "quux%20ab/thud", "asdf%2Bb"]).await;
    let call = Call::get("/media")
        .query("delimiter", "/")
        .query("encoding-type", "url");
    let encoded = call.clone().send(&gateway).await.expect(200);
    assert_eq!(encoded.elements("Key"), ["asdf%2Bb"]);
    assert_eq!(prefixes(&encoded), ["foo%2B1/", "foo/", "quux%20ab/"]);
    assert_eq!(encoded.element("Delimiter"), "/");
    let second = call.query("list-type", "2").send(&gateway).await.expect(200);
    assert_eq!(prefixes(&second), ["foo%2B1/", "foo/", "quux%20ab/"]);
    assert_eq!(second.element("KeyCount"), "4");
    let plain = Call::get("/media").send(&gateway).await.expect(200);
    assert_eq!(
        plain.elements("Key"),
        ["asdf+b", "foo+1/bar", "foo/bar/xyzzy", "quux ab/thud"]
    );
    Call::get("/media")
        .query("encoding-type", "html")
        .send(&gateway)
        .await
        .refused(400, "InvalidArgument");
}

#[tokio::test]
async fn the_first_version_goes_by_markers() {
    let gateway = with_keys(&["a", "b/1", "b/2", "c"]).await;
    let page = Call::get("/media")
        .query("max-keys", "2")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(page.elements("Key"), ["a", "b/1"]);
    assert_eq!(
        (
            page.element("IsTruncated").as_str(),
            page.element("NextMarker").as_str()
        ),
        ("true", "")
    );
    assert_eq!(page.element("MaxKeys"), "2");
    assert!(
        page.text().contains("<Marker></Marker>") || page.text().contains("<Marker/>"),
        "{page:?}"
    );
    let call = Call::get("/media").query("delimiter", "/").query("max-keys", "2");
    let page = call.clone().send(&gateway).await.expect(200);
    assert_eq!(
        (page.elements("Key"), prefixes(&page)),
        (vec!["a".to_owned()], vec!["b/".to_owned()])
    );
    assert_eq!(page.element("NextMarker"), "b/");
    let page = call.query("marker", "b/").send(&gateway).await.expect(200);
    assert_eq!(
        (page.elements("Key"), page.element("IsTruncated").as_str()),
        (vec!["c".to_owned()], "false")
    );
    assert_eq!(page.element("DisplayName"), "alice");
    let none = Call::get("/media")
        .query("max-keys", "0")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(
        (none.elements("Key").len(), none.element("IsTruncated").as_str()),
        (0, "false")
    );
    for bad in ["-1", "blah", "99999999999"] {
        Call::get("/media")
            .query("max-keys", bad)
            .send(&gateway)
            .await
            .refused(400, "InvalidArgument");
    }
    assert_eq!(
        Call::get("/media")
            .query("delimiter", "")
            .send(&gateway)
            .await
            .expect(200)
            .elements("Delimiter")
            .len(),
        0
    );
}

#[tokio::test]
async fn the_second_version_goes_by_sealed_tokens() {
    let gateway = with_keys(&["a", "b", "c", "d"]).await;
    let call = || Call::get("/media").query("list-type", "2");
    let page = call()
        .query("max-keys", "1")
        .query("start-after", "a")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(
        (page.elements("Key"), page.element("StartAfter").as_str()),
        (vec!["b".to_owned()], "a")
    );
    assert_eq!(page.elements("DisplayName").len(), 0);
    let token = page.element("NextContinuationToken");
    let rest = call()
        .query("continuation-token", &token)
        .query("fetch-owner", "true")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(
        (rest.elements("Key").len(), rest.element("ContinuationToken")),
        (2, token.clone())
    );
    assert_eq!(rest.element("DisplayName"), "alice");
    assert_eq!(rest.elements("NextContinuationToken").len(), 0);
    let empty = call().query("continuation-token", "").send(&gateway).await.expect(200);
    assert_eq!(empty.elements("Key").len(), 4);
    call()
        .query("continuation-token", "c")
        .send(&gateway)
        .await
        .refused(400, "InvalidArgument");
    call()
        .query("continuation-token", &token.to_lowercase())
        .send(&gateway)
        .await
        .refused(400, "InvalidArgument");
    Call::put("/other").send(&gateway).await.expect(200);
    let other = Call::get("/other")
        .query("list-type", "2")
        .query("continuation-token", &token);
    other.send(&gateway).await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn every_object_is_its_null_version() {
    let gateway = with_keys(&["a", "b", "c/d"]).await;
    let page = Call::get("/media")
        .query("versions", "")
        .query("max-keys", "2")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(page.elements("VersionId"), ["null", "null"]);
    assert_eq!(page.elements("IsLatest"), ["true", "true"]);
    assert_eq!(
        (
            page.element("NextKeyMarker").as_str(),
            page.element("NextVersionIdMarker").as_str()
        ),
        ("b", "null")
    );
    let next = Call::get("/media")
        .query("versions", "")
        .query("key-marker", "b")
        .query("version-id-marker", "null");
    assert_eq!(
        next.query("delimiter", "/")
            .send(&gateway)
            .await
            .expect(200)
            .elements("CommonPrefixes")
            .len(),
        1
    );
    let wrong = Call::get("/media")
        .query("versions", "")
        .query("version-id-marker", "null");
    wrong.send(&gateway).await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn names_that_xml_cannot_hold_are_encoded() {
    let gateway = Gateway::with_bucket().await;
    Call::put("/media/a%01b").body("x").send(&gateway).await.expect(200);
    Call::put("/media/plain").body("x").send(&gateway).await.expect(200);
    // Its answer would have to name the key.
    Call::post("/media/c%02d")
        .query("uploads", "")
        .send(&gateway)
        .await
        .refused(501, "NotImplemented");
    for (listing, value) in [("list-type", "2"), ("versions", "")] {
        let page = Call::get("/media")
            .query(listing, value)
            .send(&gateway)
            .await
            .expect(200);
        assert_eq!(page.elements("Key"), ["a%01b", "plain"]);
        assert_eq!(page.element("EncodingType"), "url");
    }
    let page = Call::get("/media")
        .query("prefix", "p")
        .send(&gateway)
        .await
        .expect(200);
    assert!(page.elements("EncodingType").is_empty());
}

#[tokio::test]
async fn control_characters_in_parameters_break_no_answer() {
    let gateway = with_keys(&["a", "b"]).await;
    let list = |pairs: &[(&str, &str)]| {
        let call = pairs
            .iter()
            .fold(Call::get("/media"), |call, (name, value)| call.query(name, value));
        let gateway = &gateway;
        async move { call.send(gateway).await }
    };
    for (pairs, element, shown) in [
        (&[("prefix", "\u{1}")][..], "Prefix", "%01"),
        (&[("marker", "\u{1}")], "Marker", "%01"),
        (&[("delimiter", "\u{1}")], "Delimiter", "%01"),
        (&[("list-type", "2"), ("prefix", "\u{1}")], "Prefix", "%01"),
        (&[("list-type", "2"), ("start-after", "\u{1}")], "StartAfter", "%01"),
        (&[("versions", ""), ("prefix", "\u{1}")], "Prefix", "%01"),
        (&[("versions", ""), ("key-marker", "\u{1}")], "KeyMarker", "%01"),
        (
            &[("versions", ""), ("prefix", "\u{1}"), ("max-keys", "0")],
            "Prefix",
            "%01",
        ),
        (&[("uploads", ""), ("prefix", "\u{1}")], "Prefix", "%01"),
        (&[("uploads", ""), ("prefix", "..")], "Prefix", ".."),
        (&[("uploads", ""), ("key-marker", "\u{1}")], "KeyMarker", "%01"),
    ] {
        let answer = list(pairs).await.expect(200);
        assert_eq!(answer.element(element), shown, "{pairs:?}");
        let encoding = if shown == ".." { "" } else { "url" };
        assert_eq!(answer.element("EncodingType"), encoding, "{pairs:?}");
    }
    let page = list(&[("list-type", "2"), ("max-keys", "1")]).await.expect(200);
    let token = page.element("NextContinuationToken");
    let next = list(&[
        ("list-type", "2"),
        ("start-after", "\u{1}"),
        ("continuation-token", &token),
    ])
    .await;
    assert_eq!(next.expect(200).element("StartAfter"), "%01");
    // What is no name is not encoded in any answer.
    for pairs in [
        &[("versions", ""), ("key-marker", "a"), ("version-id-marker", "\u{1}")][..],
        &[("uploads", ""), ("upload-id-marker", "\u{1}")],
        &[("uploads", ""), ("key-marker", "a"), ("upload-id-marker", "\u{1}")],
        &[("max-keys", "\u{1}")],
        &[("encoding-type", "\u{1}")],
        &[("list-type", "2"), ("continuation-token", "\u{1}")],
    ] {
        list(pairs).await.refused(400, "InvalidArgument");
    }
    let buckets = Call::get("/").query("prefix", "\u{1}").send(&gateway).await;
    buckets.refused(400, "InvalidArgument");
    let read = Call::get("/media/a").query("response-content-type", "\u{1}");
    read.send(&gateway).await.refused(400, "InvalidArgument");
}
