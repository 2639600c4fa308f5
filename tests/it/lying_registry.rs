//! A registry that lies: every lie has a clear error, leaves nothing under a final name, and does
//! not keep the next pull from an honest registry from working.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use expect_test::{Expect, expect};
use serde_json::json;

use crate::support::liar::{Body, Content, Liar, Reply, Seen};
use crate::support::oci::{
    Blobs, Compression, Made, compress, host_arch, image, layer, noise, tar,
};
use crate::support::pulling::{Fixture, insecure, oci, quick_limits, render, with_password};
use crate::support::registry::extract;

/// A small image of two layers.
fn honest() -> (Content, Made) {
    let mut blobs = Blobs::default();
    let data = noise(7, 50_000);
    let made = blobs.make(&image(vec![
        layer(Compression::Plain, &[("base", &data)]),
        layer(Compression::Gzip, &[("top", b"top")]),
    ]));
    (Content::new(blobs, &made), made)
}

/// Pulls from a registry that answers as `lie` says where it says something. Then from an honest
/// one, into the same home.
fn check(
    lie: impl Fn(&Seen, &Content, &Made) -> Option<Reply> + Send + Sync + 'static,
    want: &Expect,
) {
    let (content, made) = honest();
    let (lies_content, lies_made) = (content.clone(), made.clone());
    let liar = Liar::start(move |seen| {
        lie(seen, &lies_content, &lies_made).unwrap_or_else(|| lies_content.serve(seen))
    });
    let fixture = Fixture::with(quick_limits());
    let image = oci(format!("{}/app", liar.host));
    let error = fixture.pull(&image, &insecure(&liar.host)).unwrap_err();
    want.assert_eq(&render(&error));
    fixture.assert_nothing_made();
    assert!(fixture.cache.cached(&image).unwrap().is_none());

    let honest = Liar::honest(content);
    let image = oci(format!("{}/app", honest.host));
    let record = fixture.pull(&image, &insecure(&honest.host)).unwrap();
    assert_eq!(record.digest, made.digest);
    let files = extract(&record.file);
    assert_eq!(files, [("base".to_owned(), noise(7, 50_000)), ("top".to_owned(), b"top".to_vec())]);
    assert_eq!(fixture.names().len(), 1 + made.layers.len(), "{:?}", fixture.names());
}

/// Answers for the lowest layer.
fn base_layer(reply: impl Fn(&[u8]) -> Reply) -> impl Fn(&Seen, &Content, &Made) -> Option<Reply> {
    move |seen, content, made| {
        let digest = &made.layers[0];
        seen.is_blob(digest).then(|| reply(&content.blobs.0[digest]))
    }
}

fn manifest(reply: impl Fn(&[u8]) -> Reply) -> impl Fn(&Seen, &Content, &Made) -> Option<Reply> {
    move |seen, _, made| seen.path.contains("/manifests/").then(|| reply(&made.manifest))
}

#[test]
fn other_content() {
    let flip = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[1_000] ^= 1;
        Reply::ok(bytes)
    };
    check(
        base_layer(flip),
        &expect![[r#"
            image 127.0.0.1:PORT/app: layer sha256:… has other content than its digest says: got sha256:…
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn other_configuration() {
    check(
        |seen, content, made| {
            let mut bytes = content.blobs.0[&made.config].clone();
            bytes[5] ^= 1;
            seen.is_blob(&made.config).then(|| Reply::ok(bytes))
        },
        &expect![[r#"
            image 127.0.0.1:PORT/app: configuration sha256:… has other content than its digest says: got sha256:…
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn truncated() {
    check(
        base_layer(|bytes| Reply::ok(bytes[..bytes.len() / 2].to_vec())),
        &expect![[r#"
            image 127.0.0.1:PORT/app: layer sha256:… ends after 25856 bytes; its manifest says 51712
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn cut_again_and_again() {
    check(
        base_layer(|bytes| {
            Reply::body(Body::Cut(bytes[..100].to_vec()))
                .with("content-length", bytes.len().to_string())
        }),
        &expect![[r#"
            image 127.0.0.1:PORT/app: 127.0.0.1:PORT: layer sha256:…: the connection failed
              because end of file before message length reached
              help: check the network and run it again: what has arrived is kept"#]],
    );
}

#[test]
fn larger_than_announced() {
    let longer = |bytes: &[u8]| [bytes, b"more"].concat();
    check(
        base_layer(move |bytes| Reply::ok(longer(bytes))),
        &expect![[r#"
            image 127.0.0.1:PORT/app: layer sha256:… is larger than 51712 bytes, the size in its manifest
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn endless_body() {
    check(
        base_layer(|_| Reply::body(Body::Endless(vec![0; 10_000]))),
        &expect![[r#"
            image 127.0.0.1:PORT/app: layer sha256:… is larger than 51712 bytes, the size in its manifest
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn slow_drip() {
    check(
        base_layer(|_| Reply::body(Body::Drip)),
        &expect![[r#"
            image 127.0.0.1:PORT/app: 127.0.0.1:PORT: layer sha256:…: stalled, less than 1024 bytes in 0 s
              help: check the network and run it again: what has arrived is kept"#]],
    );
}

#[test]
fn silence() {
    check(
        base_layer(|_| Reply::body(Body::Stall)),
        &expect![[r#"
            image 127.0.0.1:PORT/app: 127.0.0.1:PORT: layer sha256:…: stalled, less than 1024 bytes in 0 s
              help: check the network and run it again: what has arrived is kept"#]],
    );
}

#[test]
fn a_range_of_something_else() {
    check(
        base_layer(|bytes| {
            let mut reply = Reply::ok(bytes.to_vec()).with("content-range", "bytes 5-9/10");
            reply.status = 206;
            reply
        }),
        &expect![[r#"
            image 127.0.0.1:PORT/app: 127.0.0.1:PORT: layer sha256:…: the registry answered 206: another range than asked for"#]],
    );
}

#[test]
fn garbage_manifest() {
    check(
        manifest(|_| Reply::ok(b"<html>\x1b[2J not what you want</html>".to_vec())),
        &expect![[r#"
            image 127.0.0.1:PORT/app: manifest sha256:…: not an image manifest: expected value at line 1 column 1
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn huge_manifest() {
    check(
        manifest(|_| Reply::body(Body::Endless(vec![b' '; 65_536]))),
        &expect![[r#"
            image 127.0.0.1:PORT/app: manifest latest is larger than 4194304 bytes, the most that is accepted
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn manifest_of_another_digest() {
    check(
        manifest(|bytes| {
            let other = format!("sha256:{}", "0".repeat(64));
            Reply::ok(bytes.to_vec()).with("docker-content-digest", other)
        }),
        &expect![[r#"
            image 127.0.0.1:PORT/app: manifest latest has other content than its digest says: got sha256:…
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn pinned_manifest_of_other_content() {
    let (content, made) = honest();
    let mut other = content.clone();
    let swapped = other.blobs.make(&image(vec![layer(Compression::Plain, &[("evil", b"1")])]));
    let liar = Liar::start(move |seen| {
        if seen.path.contains("/manifests/") {
            return Reply::ok(swapped.manifest.clone());
        }
        other.serve(seen)
    });
    let fixture = Fixture::with(quick_limits());
    let image = oci(format!("{}/app@{}", liar.host, made.digest));
    let error = fixture.pull(&image, &insecure(&liar.host)).unwrap_err();
    expect![[r#"
        image 127.0.0.1:PORT/app@sha256:…: manifest sha256:… has other content than its digest says: got sha256:…
          help: the image or the registry is broken or hostile; nothing of it was kept"#]]
    .assert_eq(&render(&error));
    fixture.assert_nothing_made();
}

#[test]
fn overloaded_or_broken() {
    check(
        manifest(|_| {
            let body = json!({ "errors": [{ "code": "X", "message": "come\nback later" }] });
            let mut reply = Reply::ok(body.to_string().into_bytes()).with("retry-after", "0");
            reply.status = 503;
            reply
        }),
        &expect![[r#"
            image 127.0.0.1:PORT/app: 127.0.0.1:PORT: manifest latest: the registry answered 503: come back later
              help: the registry is overloaded or broken: try again later"#]],
    );
}

#[test]
fn not_found_layer() {
    check(
        base_layer(|_| Reply::status(404)),
        &expect![[r#"
            image 127.0.0.1:PORT/app: 127.0.0.1:PORT: layer sha256:… not found
              help: check the spelling of the name and tag; private images need credentials"#]],
    );
}

#[test]
fn redirect_in_a_circle() {
    check(
        |seen, _, _| Some(Reply::status(307).with("location", seen.path.clone())),
        &expect![[r#"
            image 127.0.0.1:PORT/app: 127.0.0.1:PORT: manifest latest: the redirect to http://127.0.0.1:PORT is refused: there are too many
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn redirect_into_the_network_of_the_host() {
    check(
        base_layer(|_| Reply::status(302).with("location", "http://169.254.169.254/secret?sig=1")),
        &expect![[r#"
            image 127.0.0.1:PORT/app: 127.0.0.1:PORT: layer sha256:…: the redirect to http://169.254.169.254 is refused: it is not https
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn unauthorized_for_ever() {
    let (content, _) = honest();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let liar = Liar::start(move |seen| {
        let _ = content.serve(seen);
        counter.fetch_add(1, Ordering::SeqCst);
        Reply::status(401).with("www-authenticate", "Basic realm=\"x\"")
    });
    let fixture = Fixture::with(quick_limits());
    let image = oci(format!("{}/app", liar.host));
    let access = with_password(&liar.host, "ci", "secret");
    let error = fixture.pull(&image, &access).unwrap_err();
    expect![[r#"
        image 127.0.0.1:PORT/app: 127.0.0.1:PORT: access denied with the credentials of the Sandboxfile
          help: set `username` and `password` in [registry."127.0.0.1:PORT"], or run `docker login 127.0.0.1:PORT`"#]]
    .assert_eq(&render(&error));
    assert_eq!(asked.load(Ordering::SeqCst), 2, "once without and once with credentials");
    fixture.assert_nothing_made();
}

#[test]
fn a_redirect_elsewhere_gets_no_credentials() {
    let (content, made) = honest();
    let store = Liar::honest(content.clone());
    let elsewhere = store.host.clone();
    let liar = Liar::start(move |seen| {
        if seen.header("authorization").is_none() {
            return Reply::status(401).with("www-authenticate", "Basic realm=\"x\"");
        }
        match seen.path.contains("/blobs/") {
            true => Reply::status(307).with("location", format!("http://{elsewhere}{}", seen.path)),
            false => content.serve(seen),
        }
    });
    let fixture = Fixture::with(quick_limits());
    let image = oci(format!("{}/app", liar.host));
    let record = fixture.pull(&image, &with_password(&liar.host, "ci", "secret")).unwrap();
    assert_eq!(record.digest, made.digest);
    let seen = store.seen();
    assert_eq!(seen.len(), 3, "the configuration and two layers");
    assert!(seen.iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn a_challenge_of_another_origin_is_not_answered() {
    let (content, _) = honest();
    let store = Liar::start(|_| {
        Reply::status(401).with("www-authenticate", "Basic realm=\"give it to me\"")
    });
    let elsewhere = store.host.clone();
    let liar = Liar::start(move |seen| match seen.path.contains("/blobs/") {
        true => Reply::status(307).with("location", format!("http://{elsewhere}{}", seen.path)),
        false => content.serve(seen),
    });
    let fixture = Fixture::with(quick_limits());
    let image = oci(format!("{}/app", liar.host));
    let error = fixture.pull(&image, &with_password(&liar.host, "ci", "secret")).unwrap_err();
    assert!(render(&error).contains("access denied"), "{error}");
    assert!(store.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn tokens() {
    let (content, made) = honest();
    let tokens = Liar::start(|seen| match seen.header("authorization") {
        // "ci:secret"
        Some("Basic Y2k6c2VjcmV0") => Reply::ok(br#"{"token":"abc"}"#.to_vec()),
        _ => Reply::status(401),
    });
    let realm = format!("http://{}/token", tokens.host);
    let liar = Liar::start(move |seen| match seen.header("authorization") {
        Some("Bearer abc") => content.serve(seen),
        _ => Reply::status(401).with(
            "www-authenticate",
            format!("Bearer realm=\"{realm}\",service=\"s p\",scope=\"repository:app:push\""),
        ),
    });
    let fixture = Fixture::with(quick_limits());
    let image = oci(format!("{}/team/app", liar.host));
    let error = fixture.pull(&image, &insecure(&liar.host)).unwrap_err();
    assert!(render(&error).contains("access denied with no credentials"), "{error}");
    let record = fixture.pull(&image, &with_password(&liar.host, "ci", "secret")).unwrap();
    assert_eq!(record.digest, made.digest);
    let seen = tokens.seen();
    assert_eq!(seen.len(), 2, "one token for all requests of a pull");
    assert_eq!(seen[1].query, "scope=repository%3Ateam%2Fapp%3Apull&service=s+p");
    let basic = |seen: &Seen| seen.header("authorization").is_some_and(|v| v.starts_with("Basic"));
    assert!(!liar.seen().iter().any(basic), "the password goes to the token endpoint only");
}

/// Pulls an image whose parts fit their digests, but not one another.
fn check_image(config: Vec<u8>, stored: &[(Compression, Vec<u8>)], want: &Expect) {
    let mut blobs = Blobs::default();
    let made = blobs.make_of(config, stored);
    let liar = Liar::honest(Content::new(blobs, &made));
    let fixture = Fixture::with(quick_limits());
    let image = oci(format!("{}/app", liar.host));
    let error = fixture.pull(&image, &insecure(&liar.host)).unwrap_err();
    want.assert_eq(&render(&error));
    fixture.assert_nothing_made();
    assert!(fixture.names().iter().all(|name| !name.starts_with("blobs")), "nothing to resume");
}

fn config(diff_ids: &[String]) -> Vec<u8> {
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    json!({ "architecture": host_arch(), "os": "linux", "rootfs": rootfs }).to_string().into()
}

fn digest(bytes: &[u8]) -> String {
    msb::image::Digest::of(bytes).to_string()
}

#[test]
fn wrong_diff_id() {
    let stored = compress(&tar(&[("a".to_owned(), vec![1; 100])]), Compression::Gzip);
    check_image(
        config(&[digest(b"something else")]),
        &[(Compression::Gzip, stored)],
        &expect![[r#"
            image 127.0.0.1:PORT/app: layer sha256:… unpacks to other content than the image says: sha256:…, not sha256:…
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn missing_diff_id() {
    let stored = compress(&tar(&[]), Compression::Gzip);
    check_image(
        config(&[]),
        &[(Compression::Gzip, stored)],
        &expect![[r#"
            image 127.0.0.1:PORT/app: configuration sha256:…: 0 diff ids for the 1 layers of the manifest
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn gzip_bomb() {
    let bomb = tar(&[("zeros".to_owned(), vec![0; 64 << 20])]);
    check_image(
        config(&[digest(&bomb)]),
        &[(Compression::Gzip, compress(&bomb, Compression::Gzip))],
        &expect![[r#"
            image 127.0.0.1:PORT/app: the image cannot be built from its layers
              because layer sha256:…: entry `zeros`: more than 8388608 bytes of layers"#]],
    );
}

#[test]
fn corrupt_compression() {
    let whole = tar(&[("a".to_owned(), noise(3, 5_000))]);
    let mut stored = compress(&whole, Compression::Gzip);
    stored.truncate(2_000);
    check_image(
        config(&[digest(&whole)]),
        &[(Compression::Gzip, stored)],
        &expect![[r#"
            image 127.0.0.1:PORT/app: layer sha256:… cannot be unpacked
              because incomplete deflate stream
              help: the image or the registry is broken or hostile; nothing of it was kept"#]],
    );
}

#[test]
fn an_image_for_another_machine() {
    let rootfs = json!({ "type": "layers", "diff_ids": [] });
    let config = json!({ "architecture": "s390x", "os": "linux", "rootfs": rootfs }).to_string();
    let mut blobs = Blobs::default();
    let made = blobs.make_of(config.into_bytes(), &[]);
    let liar = Liar::honest(Content::new(blobs, &made));
    let fixture = Fixture::with(quick_limits());
    let mut image = oci(format!("{}/app", liar.host));
    image.platform = Some("linux/riscv64".to_owned());
    let error = fixture.pull(&image, &insecure(&liar.host)).unwrap_err();
    expect![[r#"
        image 127.0.0.1:PORT/app: the image is for linux/s390x, not for linux/riscv64
          help: set `platform` of the image to one that exists and that this machine runs"#]]
    .assert_eq(&render(&error));
    fixture.assert_nothing_made();
}

#[test]
fn without_insecure_it_is_https() {
    let (content, _) = honest();
    let liar = Liar::honest(content);
    let fixture = Fixture::with(quick_limits());
    let image = oci(format!("{}/app", liar.host));
    let access = msb::image::RegistryAccess::anonymous();
    let error = fixture.pull(&image, &access).unwrap_err();
    expect![[r#"
        image 127.0.0.1:PORT/app: 127.0.0.1:PORT: manifest latest: the connection failed
          because received corrupt message of type InvalidContentType
          help: does it run? if it speaks plain HTTP, set `insecure = true` in [registry."127.0.0.1:PORT"]"#]]
    .assert_eq(&render(&error));
    assert_eq!(liar.seen().len(), 0, "nothing is said in clear");
}

#[test]
fn nobody_listens() {
    let fixture = Fixture::with(quick_limits());
    // Port 1 is never served.
    let image = oci("127.0.0.1:1/app");
    let error = fixture.pull(&image, &insecure("127.0.0.1:1")).unwrap_err();
    expect![[r#"
        image 127.0.0.1:PORT/app: 127.0.0.1:PORT: manifest latest: the connection failed
          because Connection refused (os error 111)
          help: does it run? if it speaks plain HTTP, set `insecure = true` in [registry."127.0.0.1:PORT"]"#]]
    .assert_eq(&render(&error));
}
