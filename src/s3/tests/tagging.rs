//! The tags of a bucket over the wire.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use super::client::{Answer, Call, Gateway};

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

fn document(tags: &[(&str, &str)]) -> String {
    let tags: String = tags
        .iter()
        .map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>"))
        .collect();
    format!("<Tagging xmlns=\"{NAMESPACE}\"><TagSet>{tags}</TagSet></Tagging>")
}

fn tagging(call: Call) -> Call {
    call.query("tagging", "")
}

async fn put(gateway: &Gateway, tags: &[(&str, &str)]) -> Answer {
    tagging(Call::put("/media")).body(document(tags)).send(gateway).await
}

async fn get(gateway: &Gateway) -> Answer {
    tagging(Call::get("/media")).send(gateway).await
}

#[tokio::test]
async fn tags_are_put_read_and_deleted() {
    let gateway = Gateway::with_bucket().await;
    get(&gateway).await.refused(404, "NoSuchTagSet");
    tagging(Call::delete("/media")).send(&gateway).await.expect(204);
    let tags = [
        ("z", "1"),
        ("a", ""),
        ("cairn:compression", "max"),
        ("Größe &amp; x", "@ü"),
    ];
    let answer = put(&gateway, &tags).await.expect(204);
    assert!(answer.body.is_empty());
    let found = get(&gateway).await.expect(200);
    assert_eq!(found.elements("Key"), tags.map(|(key, _)| key));
    assert_eq!(found.text().matches("<Tag>").count(), 4);
    for value in ["<Value>1</Value>", "<Value>max</Value>", "<Value>@ü</Value>"] {
        assert!(found.text().contains(value), "{found:?}");
    }
    // A second set takes the place of the first; an empty one takes it away.
    put(&gateway, &[("b", "2")]).await.expect(204);
    assert_eq!(get(&gateway).await.expect(200).elements("Key"), ["b"]);
    tagging(Call::delete("/media")).send(&gateway).await.expect(204);
    get(&gateway).await.refused(404, "NoSuchTagSet");
    put(&gateway, &[("b", "2")]).await.expect(204);
    put(&gateway, &[]).await.expect(204);
    get(&gateway).await.refused(404, "NoSuchTagSet");
    // The bucket is what it was.
    Call::put("/media/key").body("x").send(&gateway).await.expect(200);
    Call::put("/media").send(&gateway).await.expect(200);
}

#[tokio::test]
async fn tags_that_s3_does_not_allow_are_refused() {
    let gateway = Gateway::with_bucket().await;
    put(&gateway, &[("kept", "1")]).await.expect(204);
    let (key, value) = ("ä".repeat(128), "ö".repeat(256));
    let (long_key, long_value) = ("k".repeat(129), "v".repeat(257));
    for tags in [
        [("", "1")],
        [(long_key.as_str(), "1")],
        [("a", long_value.as_str())],
        [("aws:a", "1")],
        [("a&#10;", "1")],
    ] {
        put(&gateway, &tags).await.refused(400, "InvalidTag");
    }
    put(&gateway, &[("a", "1"), ("b", "1"), ("a", "2")])
        .await
        .refused(400, "InvalidTag");
    let names: Vec<String> = (0..51).map(|number| format!("tag-{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    put(&gateway, &many).await.refused(400, "InvalidTag");
    assert_eq!(get(&gateway).await.elements("Key"), ["kept"]);
    // The most that is allowed.
    put(&gateway, &many[..50]).await.expect(204);
    assert_eq!(get(&gateway).await.elements("Key"), names[..50]);
    put(&gateway, &[(key.as_str(), value.as_str())]).await.expect(204);
    assert_eq!(get(&gateway).await.element("Value"), value);
}

#[tokio::test]
async fn a_refused_setting_tells_what_is_allowed() {
    let gateway = Gateway::with_bucket().await;
    for (key, value, told) in [
        (
            "cairn:compression",
            "zip",
            "off, fast, balanced, max or a zstd level from 1 to 22",
        ),
        ("cairn:compression", "23", "from 1 to 22"),
        ("cairn:chunking", "huge", "general, backup or media"),
        ("cairn:color", "red", "only cairn:compression and cairn:chunking"),
    ] {
        let refused = put(&gateway, &[(key, value)]).await;
        assert!(refused.element("Message").contains(told), "{refused:?}");
        refused.refused(400, "InvalidTag");
    }
    get(&gateway).await.refused(404, "NoSuchTagSet");
}

#[tokio::test]
async fn a_document_that_is_no_tag_set_is_refused() {
    let gateway = Gateway::with_bucket().await;
    for body in [
        "<Tagging",
        "<Tagging></Tagging>",
        "<Tags><TagSet/></Tags>",
        "<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>",
        "<Tagging><TagSet><Tag><Value>a</Value></Tag></TagSet></Tagging>",
        "<Tagging><TagSet><Tag><Key>a</Key><Key>b</Key><Value>a</Value></Tag></TagSet></Tagging>",
        "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value><Other/></Tag></TagSet></Tagging>",
    ] {
        let refused = tagging(Call::put("/media")).body(body).send(&gateway).await;
        refused.refused(400, "MalformedXML");
    }
    // What XML cannot hold does not come in by a reference.
    let refused = put(&gateway, &[("a", "&#xFFFE;")]).await;
    refused.refused(400, "MalformedXML");
    let empty = tagging(Call::put("/media")).send(&gateway).await;
    empty.refused(400, "MissingRequestBodyError");
    let hidden = "<Tagging><TagSet><Tag><Key>a<![CDATA[b]]></Key><Value>1</Value></Tag></TagSet></Tagging>";
    let refused = tagging(Call::put("/media")).body(hidden).send(&gateway).await;
    refused.refused(501, "NotImplemented");
    get(&gateway).await.refused(404, "NoSuchTagSet");
}

#[tokio::test]
async fn a_document_is_held_against_its_digests() {
    let gateway = Gateway::with_bucket().await;
    let body = document(&[("a", "1")]);
    let digest = STANDARD.encode(Md5::digest(&body));
    let call = |name: &str, digest: &str| tagging(Call::put("/media")).header(name, digest).body(body.clone());
    let wrong = STANDARD.encode([7; 16]);
    call("content-md5", &wrong)
        .send(&gateway)
        .await
        .refused(400, "BadDigest");
    call("x-amz-checksum-crc32", "AAAAAA==")
        .send(&gateway)
        .await
        .refused(400, "BadDigest");
    get(&gateway).await.refused(404, "NoSuchTagSet");
    call("content-md5", &digest).send(&gateway).await.expect(204);
}

#[tokio::test]
async fn only_who_may_change_the_bucket_sees_or_sets_its_tags() {
    let gateway = Gateway::with_bucket().await;
    put(&gateway, &[("a", "1")]).await.expect(204);
    for (access, secret, status) in [("BOB", "bobs-secret", 403), ("ROOTKEY", "root-secret", 204)] {
        let body = document(&[("b", "2")]);
        let calls = [
            (tagging(Call::put("/media")).body(body), status),
            (tagging(Call::get("/media")), if status == 204 { 200 } else { status }),
            (tagging(Call::delete("/media")), status),
        ];
        for (call, status) in calls {
            call.by(access, secret).send(&gateway).await.expect(status);
        }
        if status == 403 {
            assert_eq!(get(&gateway).await.elements("Key"), ["a"]);
        }
    }
    put(&gateway, &[("a", "1")]).await.expect(204);
    let expected = tagging(Call::delete("/media")).header("x-amz-expected-bucket-owner", "b0b");
    expected.send(&gateway).await.refused(403, "AccessDenied");
    assert_eq!(get(&gateway).await.elements("Key"), ["a"]);
    for call in [Call::get("/none"), Call::delete("/none")] {
        tagging(call).send(&gateway).await.refused(404, "NoSuchBucket");
    }
    let body = document(&[("a", "1")]);
    let put = tagging(Call::put("/none")).body(body);
    put.send(&gateway).await.refused(404, "NoSuchBucket");
}
