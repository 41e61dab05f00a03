//! The operations on buckets.

use super::client::{Call, Gateway};

#[tokio::test]
async fn a_bucket_lives_and_goes() {
    let gateway = Gateway::new().await;
    let created = Call::put("/media").send(&gateway).await.expect(200);
    assert_eq!(created.header("location"), "/media");
    Call::put("/media").send(&gateway).await.expect(200);
    assert_eq!(
        Call::head("/media")
            .send(&gateway)
            .await
            .expect(200)
            .header("x-amz-bucket-region"),
        "us-east-1"
    );
    let location = Call::get("/media")
        .query("location", "")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(location.element("LocationConstraint"), "");
    let versioning = Call::get("/media")
        .query("versioning", "")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(versioning.element("Status"), "");
    let controls = Call::get("/media")
        .query("ownershipControls", "")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(controls.element("ObjectOwnership"), "BucketOwnerEnforced");
    let acl = Call::get("/media").query("acl", "").send(&gateway).await.expect(200);
    assert_eq!(acl.elements("ID"), ["a11ce", "a11ce"]);
    assert_eq!(acl.elements("DisplayName"), ["alice", "alice"]);
    assert_eq!(acl.elements("Permission"), ["FULL_CONTROL"]);
    Call::delete("/media").send(&gateway).await.expect(204);
    Call::delete("/media").send(&gateway).await.refused(404, "NoSuchBucket");
    Call::head("/media").send(&gateway).await.expect(404);
}

#[tokio::test]
async fn a_full_bucket_stays() {
    let gateway = Gateway::with_bucket().await;
    Call::put("/media/a").body("x").send(&gateway).await.expect(200);
    Call::delete("/media")
        .send(&gateway)
        .await
        .refused(409, "BucketNotEmpty");
    Call::delete("/media/a").send(&gateway).await.expect(204);
    Call::delete("/media").send(&gateway).await.expect(204);
}

#[tokio::test]
async fn the_location_is_recorded() {
    let gateway = Gateway::new().await;
    let body = |region: &str| {
        format!(
            "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
        )
    };
    Call::put("/far")
        .body(body("eu-central-1"))
        .send(&gateway)
        .await
        .expect(200);
    let location = Call::get("/far").query("location", "").send(&gateway).await.expect(200);
    assert!(location.text().contains(">eu-central-1<"), "{location:?}");
    Call::put("/far")
        .body(body("eu-central-1"))
        .send(&gateway)
        .await
        .refused(409, "BucketAlreadyOwnedByYou");
    Call::put("/worse")
        .body(body("no region"))
        .send(&gateway)
        .await
        .refused(400, "InvalidLocationConstraint");
    Call::put("/worse")
        .body("<CreateBucketConf")
        .send(&gateway)
        .await
        .refused(400, "MalformedXML");
    Call::head("/worse").send(&gateway).await.expect(404);
}

#[tokio::test]
async fn bad_names_and_acls_are_refused() {
    let gateway = Gateway::new().await;
    for name in [
        "ab",
        "Media",
        "foo_bar",
        "foo.-bar",
        "foo..bar",
        "192.168.1.1",
        "-foo",
        "foo-",
        "xn--foo",
    ] {
        Call::put(&format!("/{name}"))
            .send(&gateway)
            .await
            .refused(400, "InvalidBucketName");
    }
    let with = |acl: &str| Call::put("/media").header("x-amz-acl", acl);
    with("public-read")
        .send(&gateway)
        .await
        .refused(400, "InvalidBucketAclWithObjectOwnership");
    with("public-read")
        .header("x-amz-object-ownership", "ObjectWriter")
        .send(&gateway)
        .await
        .refused(501, "NotImplemented");
    with("everybody").send(&gateway).await.refused(400, "InvalidArgument");
    with("private").send(&gateway).await.expect(200);
    let acl = Call::put("/media").query("acl", "").header("x-amz-acl", "public-read");
    acl.send(&gateway).await.refused(400, "AccessControlListNotSupported");
    let object = Call::put("/media/a").header("x-amz-acl", "public-read").body("x");
    object
        .send(&gateway)
        .await
        .refused(400, "AccessControlListNotSupported");
    Call::put("/media/a")
        .header("x-amz-acl", "bucket-owner-full-control")
        .body("x")
        .send(&gateway)
        .await
        .expect(200);
}

#[tokio::test]
async fn more_buckets_than_one_scan_gives_are_one_list() {
    let gateway = Gateway::new().await;
    for number in 0..1005 {
        Call::put(&format!("/many-{number:04}"))
            .send(&gateway)
            .await
            .expect(200);
    }
    assert_eq!(
        Call::get("/").send(&gateway).await.expect(200).elements("Name").len(),
        1005
    );
    let page = Call::get("/")
        .query("max-buckets", "1003")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(page.elements("Name").len(), 1003);
    let token = page.element("ContinuationToken");
    let rest = Call::get("/")
        .query("continuation-token", &token)
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(rest.elements("Name"), ["many-1003", "many-1004"]);
}

#[tokio::test]
async fn buckets_are_listed_by_pages() {
    let gateway = Gateway::new().await;
    for name in ["aaa", "bbb-1", "bbb-2", "ccc"] {
        Call::put(&format!("/{name}")).send(&gateway).await.expect(200);
    }
    let all = Call::get("/").send(&gateway).await.expect(200);
    assert_eq!(all.elements("Name"), ["aaa", "bbb-1", "bbb-2", "ccc"]);
    assert_eq!(all.element("ID"), "a11ce");
    let page = Call::get("/")
        .query("max-buckets", "3")
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(page.elements("Name").len(), 3);
    let token = page.element("ContinuationToken");
    let rest = Call::get("/")
        .query("continuation-token", &token)
        .send(&gateway)
        .await
        .expect(200);
    assert_eq!(rest.elements("Name"), ["ccc"]);
    let bob = Call::get("/")
        .query("continuation-token", &token)
        .by("BOB", "bobs-secret")
        .send(&gateway)
        .await;
    bob.refused(400, "InvalidArgument");
    assert_eq!(
        Call::get("/")
            .query("prefix", "bbb")
            .send(&gateway)
            .await
            .expect(200)
            .elements("Name")
            .len(),
        2
    );
    Call::get("/")
        .query("max-buckets", "0")
        .send(&gateway)
        .await
        .refused(400, "InvalidArgument");
}
