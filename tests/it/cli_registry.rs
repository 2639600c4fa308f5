//! Images from a real registry under the real program: what is asked for, when, and what it says
//! when there is no answer.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use expect_test::expect;
use msb::image::NoProgress;

use crate::environment::{Environment, Ran};
use crate::support::liar::{Content, Liar};
use crate::support::oci::{Blobs, Compression, image, layer};
use crate::support::pulling::{block_on, cache_at, insecure, oci};
use crate::support::registry::{PASSWORD, TestRegistry, USER};

pub(crate) const SLEEP: &str = r#"cmd = ["/bin/sleep", "100000"]"#;

/// Pushes an image of two layers with `text` in it; gives its digest.
pub(crate) fn push(registry: &TestRegistry, name: &str, text: &str) -> String {
    let dir = registry.scratch(&format!("{text}-{}", name.replace(['/', ':'], "-")));
    let mut blobs = Blobs::default();
    let made = blobs.make(&image(vec![
        layer(Compression::Gzip, &[("etc/base", b"base")]),
        layer(Compression::Zstd, &[("etc/text", text.as_bytes())]),
    ]));
    blobs.write_layout(&dir, &[("v1", &made.digest)]);
    registry.push(&dir, "v1", name);
    made.digest
}

/// A Sandboxfile over plain HTTP; what follows is its sandboxes.
pub(crate) fn over_http(env: &Environment, host: &str, sandboxes: &str) {
    env.write(
        "Sandboxfile",
        &format!("name = \"shop\"\n\n{sandboxes}\n[registry.\"{host}\"]\ninsecure = true\n"),
    );
}

/// A Sandboxfile of one sandbox whose registry asks for a password.
fn private(env: &Environment, host: &str) {
    env.write(
        "Sandboxfile",
        &format!(
            "name = \"shop\"\n\n[sandbox.app]\nimage = \"{host}/private:v1\"\n{SLEEP}\n\n\
             [registry.\"{host}\"]\ninsecure = true\nusername = \"{USER}\"\n\
             password = {{ env = \"REGISTRY_PASSWORD\" }}\n"
        ),
    );
}

fn up_with_password(env: &Environment, password: &str) -> Ran {
    env.run(env.command().args(["up", "-d"]).env("REGISTRY_PASSWORD", password))
}

/// What was said about one registry, without its port, digests, times and the width of columns.
pub(crate) fn said(ran: Ran, host: &str) -> String {
    let mut text = ran.messages().replace(host, "REGISTRY");
    while let Some(at) = text.find("sha256:") {
        let rest = text.split_off(at);
        let rest = rest.trim_start_matches("sha256:");
        text.push('…');
        text.push_str(rest.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    while text.contains("   ") {
        text = text.replace("   ", "  ");
    }
    text
}

/// Neither sandboxes, nor images, nor what belongs to half of one.
#[track_caller]
fn assert_nothing_made(env: &Environment) {
    assert!(env.rows().is_empty(), "{:?}", env.statuses());
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
    for dir in [env.home().blobs(), env.home().erofs()] {
        let left: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn pulled_once_with_a_password_and_never_asked_for_again() {
    let registry = TestRegistry::start_private();
    let host = registry.host.clone();
    push(&registry, "private:v1", "one");
    let env = Environment::new();
    private(&env, &host);
    let ran = up_with_password(&env, PASSWORD).expect(0);
    expect![[r#"
        image REGISTRY/private:v1  resolving
        image REGISTRY/private:v1  pulling
        image REGISTRY/private:v1  building
        image REGISTRY/private:v1  pulled
        app  created
        app  starting
        app  started
        1 started
    "#]]
    .assert_eq(&said(ran, &host));
    assert_eq!(up_with_password(&env, PASSWORD).expect(0).stderr, "no changes\n");

    registry.stop();
    assert_eq!(up_with_password(&env, PASSWORD).expect(0).stderr, "no changes\n");
    env.msb("plan --detailed-exitcode").expect(0);
    env.msb("down").expect(0);
    let ran = up_with_password(&env, PASSWORD).expect(0);
    expect![[r#"
        app  created
        app  starting
        app  started
        1 started
    "#]]
    .assert_eq(&said(ran, &host));
    env.msb("restart").expect(0);
}

#[test]
fn a_wrong_password_is_an_error_that_does_not_tell_it() {
    let registry = TestRegistry::start_private();
    let host = &registry.host;
    push(&registry, "private:v1", "one");
    let env = Environment::new();
    private(&env, host);
    let ran = up_with_password(&env, "hunter2").expect(1);
    assert!(!format!("{ran:?}").contains("hunter2"));
    expect![[r#"
        image REGISTRY/private:v1  resolving
        image REGISTRY/private:v1  failed: image REGISTRY/private:v1: REGISTRY: access denied with the credentials of the Sandboxfile: authentication required
        app  skipped: image REGISTRY/private:v1 failed or was skipped
        1 skipped
        error: image REGISTRY/private:v1: REGISTRY: access denied with the credentials of the Sandboxfile: authentication required
        hint: set `username` and `password` in [registry."REGISTRY"], or run `docker login REGISTRY`
    "#]]
    .assert_eq(&said(ran, host));
    assert_nothing_made(&env);
    // Without the variable.
    let ran = env.msb("up -d");
    assert_ne!(ran.code, 0);
    expect![[r#"
        image REGISTRY/private:v1  resolving
        image REGISTRY/private:v1  failed: image REGISTRY/private:v1: the credentials for REGISTRY cannot be read
        app  skipped: image REGISTRY/private:v1 failed or was skipped
        1 skipped
        error: image REGISTRY/private:v1: the credentials for REGISTRY cannot be read
          caused by: the environment variable REGISTRY_PASSWORD is not set
        hint: check `password` in [registry."REGISTRY"] or the Docker credential configuration
    "#]]
    .assert_eq(&said(ran, host));
    assert_nothing_made(&env);
    up_with_password(&env, PASSWORD).expect(0);
    assert_eq!(env.statuses(), ["app running"]);
}

#[test]
fn always_follows_a_tag_that_moves() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    let first = push(&registry, "moving:v1", "one");
    let env = Environment::new();
    let sandboxes = format!(
        "[defaults]\n{SLEEP}\n\n\
         [sandbox.fixed]\nimage = \"{host}/moving@{first}\"\n\n\
         [sandbox.moving]\nimage = \"{host}/moving:v1\"\npull_policy = \"always\"\n\n\
         [sandbox.other]\nimage = \"./image\"\n"
    );
    over_http(&env, &host, &sandboxes);
    env.msb("up -d").expect(0);
    let before = env.rows();
    let ran = env.msb("up -d").expect(0);
    expect![[r#"
        image REGISTRY/moving:v1: asking the registry
        3 unchanged
    "#]]
    .assert_eq(&said(ran, &host));

    let second = push(&registry, "moving:v1", "two");
    let ran = env.msb("up -d").expect(0);
    expect![[r#"
        image REGISTRY/moving:v1: asking the registry
        image REGISTRY/moving:v1  resolving
        image REGISTRY/moving:v1  pulling
        image REGISTRY/moving:v1  building
        image REGISTRY/moving:v1  pulled
        moving  stopping
        moving  stopped
        moving  removed
        moving  created
        moving  starting
        moving  started
        1 replaced, 2 unchanged
    "#]]
    .assert_eq(&said(ran, &host));
    let after = env.rows();
    for (before, after) in before.iter().zip(&after) {
        let is_moving = after.name == "moving";
        assert_eq!(before.id != after.id, is_moving, "{}", after.name);
        assert_eq!(before.run != after.run, is_moving, "{}", after.name);
    }
    assert_eq!(env.row("moving").image_digest, Some(second));
    env.msb("plan --detailed-exitcode").expect(0);

    // Back again: nothing is pulled, and a look without a network knows.
    push(&registry, "moving:v1", "one");
    let ran = env.msb("up -d").expect(0);
    expect![[r#"
        image REGISTRY/moving:v1: asking the registry
        moving  stopping
        moving  stopped
        moving  removed
        moving  created
        moving  starting
        moving  started
        1 replaced, 2 unchanged
    "#]]
    .assert_eq(&said(ran, &host));
    assert_eq!(env.row("moving").image_digest, Some(first));
    env.msb("plan --detailed-exitcode").expect(0);

    registry.stop();
    let ran = env.msb("up -d").expect(1);
    expect![[r#"
        image REGISTRY/moving:v1: asking the registry
        error: image REGISTRY/moving:v1: REGISTRY: manifest v1: the connection failed
          caused by: Connection refused (os error 111)
        hint: does it run? if it speaks plain HTTP, set `insecure = true` in [registry."REGISTRY"]
    "#]]
    .assert_eq(&said(ran, &host));
    assert!(env.statuses().iter().all(|status| status.ends_with(" running")));
}

#[test]
fn a_tag_that_another_project_pulled_again_is_a_cause() {
    let registry = TestRegistry::start();
    let host = &registry.host;
    let first = push(&registry, "app:v1", "one");
    let env = Environment::new();
    let sandbox = format!("[sandbox.app]\nimage = \"{host}/app:v1\"\n{SLEEP}\n");
    over_http(&env, host, &sandbox);
    env.msb("up -d").expect(0);
    let second = push(&registry, "app:v1", "two");
    // `if-missing` asks nobody.
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    let cache = cache_at(&env.home());
    let image = oci(format!("{host}/app:v1"));
    block_on(cache.pull(&image, &insecure(host), Arc::new(NoProgress))).unwrap();
    let ran = env.msb("plan --detailed-exitcode").expect(2);
    let short = |digest: &str| digest["sha256:".len()..][..12].to_owned();
    let text = ran.stdout.replace(&short(&first), "FIRST").replace(&short(&second), "SECOND");
    expect![[r#"
        shop: 1 to replace
        #1 stop sandbox app: image moved FIRST -> SECOND (Sandboxfile:3)
        #2 remove sandbox app: image moved FIRST -> SECOND (Sandboxfile:3) [needs #1]
        #3 create sandbox app: image moved FIRST -> SECOND (Sandboxfile:3) [needs #2]
        #4 start sandbox app: image moved FIRST -> SECOND (Sandboxfile:3) [needs #3]
    "#]]
    .assert_eq(&text);
    let ran = env.msb("up -d").expect(0);
    assert!(ran.messages().ends_with("1 replaced\n"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_had() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    push(&registry, "app:v1", "one");
    let env = Environment::new();
    let sandbox = |image: &str, policy: &str| {
        over_http(
            &env,
            &host,
            &format!(
                "[sandbox.app]\nimage = \"{host}/{image}\"\npull_policy = \"{policy}\"\n{SLEEP}\n"
            ),
        );
    };
    sandbox("app:v1", "never");
    expect![[r#"
        image REGISTRY/app:v1  resolving
        image REGISTRY/app:v1  failed: image REGISTRY/app:v1: not in the cache, and the pull policy is `never`
        app  skipped: image REGISTRY/app:v1 failed or was skipped
        1 skipped
        error: image REGISTRY/app:v1: not in the cache, and the pull policy is `never`
        hint: use `pull_policy = "if-missing"`, or pull it first
    "#]]
    .assert_eq(&said(env.msb("up -d").expect(1), &host));
    assert_nothing_made(&env);
    sandbox("app:v2", "if-missing");
    expect![[r#"
        image REGISTRY/app:v2  resolving
        image REGISTRY/app:v2  failed: image REGISTRY/app:v2: REGISTRY: manifest v2 not found: manifest unknown
        app  skipped: image REGISTRY/app:v2 failed or was skipped
        1 skipped
        error: image REGISTRY/app:v2: REGISTRY: manifest v2 not found: manifest unknown
        hint: check the spelling of the name and tag; private images need credentials
    "#]]
    .assert_eq(&said(env.msb("up -d").expect(1), &host));
    assert_nothing_made(&env);
    registry.stop();
    sandbox("app:v1", "if-missing");
    expect![[r#"
        image REGISTRY/app:v1  resolving
        image REGISTRY/app:v1  failed: image REGISTRY/app:v1: REGISTRY: manifest v1: the connection failed
        app  skipped: image REGISTRY/app:v1 failed or was skipped
        1 skipped
        error: image REGISTRY/app:v1: REGISTRY: manifest v1: the connection failed
          caused by: Connection refused (os error 111)
        hint: does it run? if it speaks plain HTTP, set `insecure = true` in [registry."REGISTRY"]
    "#]]
    .assert_eq(&said(env.msb("up -d").expect(1), &host));
    assert_nothing_made(&env);
}

/// An honest registry that remembers what it was asked for, and what it serves.
pub(crate) fn counting() -> (Liar, Vec<String>) {
    let mut blobs = Blobs::default();
    let made = blobs.make(&image(vec![
        layer(Compression::Gzip, &[("etc/a", b"a")]),
        layer(Compression::Zstd, &[("etc/b", b"b")]),
    ]));
    let mut digests = made.layers.clone();
    digests.push(made.config.clone());
    (Liar::honest(Content::new(blobs, &made)), digests)
}

pub(crate) fn requests(liar: &Liar, digest: &str) -> usize {
    liar.seen().iter().filter(|seen| seen.is_blob(digest)).count()
}

#[test]
fn sandboxes_and_projects_share_one_pull() {
    let (liar, digests) = counting();
    let env = Environment::new();
    let sandboxes: String = ["a", "b", "c"]
        .map(|name| format!("[sandbox.{name}]\nimage = \"{}/app\"\n{SLEEP}\n\n", liar.host))
        .concat();
    over_http(&env, &liar.host, &sandboxes);
    let text = fs::read_to_string(env.project().join("Sandboxfile")).unwrap();
    env.write("other", &text.replace("name = \"shop\"", "name = \"other\""));
    // Two projects at the same time.
    let mut other = env.command().args(["-f", "other", "up", "-d"]).spawn().unwrap();
    env.msb("up -d").expect(0);
    assert!(other.wait().unwrap().success());
    assert_eq!(env.rows().len(), 6);
    for digest in &digests {
        assert_eq!(requests(&liar, digest), 1, "{digest}");
    }
    let seen = liar.seen().len();
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    assert_eq!(liar.seen().len(), seen, "nobody was asked");
}

/// The only bootable file.
fn bootable(env: &Environment) -> PathBuf {
    let mut files = fs::read_dir(env.home().erofs()).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

#[test]
fn images_that_do_not_fit_are_made_again() {
    let registry = TestRegistry::start();
    let host = &registry.host;
    let first = push(&registry, "app:v1", "one");
    let env = Environment::new();
    over_http(&env, host, &format!("[sandbox.app]\nimage = \"{host}/app:v1\"\n{SLEEP}\n"));
    env.msb("up -d").expect(0);
    let id = env.row("app").id;
    let file = bootable(&env);
    let whole = fs::read(&file).unwrap();
    for what in ["of an older version", "removed", "cut off"] {
        match what {
            "removed" => fs::remove_file(&file).unwrap(),
            "cut off" => fs::write(&file, b"").unwrap(),
            _ => {
                let name = file.file_name().unwrap().to_str().unwrap().replace(".v1.", ".v0.");
                fs::rename(&file, file.with_file_name(name)).unwrap();
            }
        }
        // What runs has it open and is left alone.
        assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n", "{what}");
        env.msb("stop").expect(0);
        // The disk belongs to the image as it was, wherever the tag has gone.
        let moved = push(&registry, "app:v1", &what.replace(' ', "-"));
        assert_ne!(moved, first);
        env.msb("up -d").expect(0);
        assert_eq!(
            (env.row("app").id, env.row("app").image_digest),
            (id.clone(), Some(first.clone()))
        );
        assert!(fs::read(&file).unwrap() == whole, "{what}");
        assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n", "{what}");
    }
    fs::remove_file(&file).unwrap();
    env.msb("restart").expect(0);
    assert!(fs::read(&file).unwrap() == whole);
}

#[test]
fn a_protected_disk_gets_its_own_image_again() {
    let registry = TestRegistry::start();
    let host = &registry.host;
    let first = push(&registry, "app:v1", "one");
    let env = Environment::new();
    let sandbox = format!("[sandbox.app]\nimage = \"{host}/app:v1\"\n{SLEEP}\n");
    over_http(&env, host, &format!("{sandbox}lifecycle = {{ protect = true }}\n"));
    env.msb("up -d").expect(0);
    let file = bootable(&env);
    push(&registry, "app:v1", "two");
    let image = oci(format!("{host}/app:v1"));
    let cache = cache_at(&env.home());
    block_on(cache.pull(&image, &insecure(host), Arc::new(NoProgress))).unwrap();
    env.msb("stop").expect(0);
    fs::remove_file(&file).unwrap();
    // The tag names the second image, which is here; the disk belongs to the first.
    env.msb("up -d").expect(0);
    assert_eq!(env.row("app").image_digest, Some(first));
    assert!(file.exists());
}
