//! `Sandboxfile.lock` with a real registry: who writes it, who believes it, and who refuses.

use std::fs;
use std::process::Stdio;

use expect_test::expect;

use crate::cli_registry::{SLEEP, over_http, push, said};
use crate::environment::{Environment, Ran};
use crate::support::oci::{Blobs, Compression, ImageSpec, host_arch, image, layer};
use crate::support::registry::TestRegistry;

const LOCK: &str = "Sandboxfile.lock";

/// A project of sandboxes, each of the image `NAME:v1`.
fn declare(env: &Environment, host: &str, names: &[&str]) {
    let sandboxes: Vec<String> = names
        .iter()
        .map(|name| format!("[sandbox.{name}]\nimage = \"{host}/{name}:v1\"\n{SLEEP}\n"))
        .collect();
    over_http(env, host, &sandboxes.join("\n"));
}

fn lock_text(env: &Environment) -> String {
    fs::read_to_string(env.project().join(LOCK)).unwrap()
}

fn digest_of(env: &Environment, name: &str) -> String {
    env.row(name).image_digest.unwrap()
}

/// What was said, with known digests as words.
fn told(ran: Ran, host: &str, digests: &[(&str, &str)]) -> String {
    let mut text = format!("{}{}", ran.stdout, ran.messages());
    for (digest, word) in digests {
        text = text.replace(*digest, word).replace(&digest["sha256:".len()..][..12], word);
    }
    text.replace(host, "REGISTRY").replace(host_arch(), "HOST")
}

#[test]
fn a_locked_tag_stays_what_it_was() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    let first = push(&registry, "app:v1", "one");
    let env = Environment::new();
    declare(&env, &host, &["app"]);
    env.msb("up -d").expect(0);
    env.msb("pull").expect(0);
    assert!(!env.project().join(LOCK).exists(), "only `update` makes it");
    let ran = env.msb("update").expect(0);
    expect![[r#"
        REGISTRY/app:v1 (linux/HOST): FIRST
        wrote $TEST/p/Sandboxfile.lock; `msb plan` shows what follows
    "#]]
    .assert_eq(&told(ran, &host, &[(&first, "FIRST")]));
    expect![[r#"
        # Which content the image references of the Sandboxfile mean. `msb update` writes this file;
        # commit it, and `msb up --locked` runs what it says or nothing.
        version = 1

        [image."REGISTRY/app:v1"]
        "linux/HOST" = "FIRST"
    "#]]
    .assert_eq(
        &lock_text(&env)
            .replace(&host, "REGISTRY")
            .replace(&first, "FIRST")
            .replace(host_arch(), "HOST"),
    );
    // To lock what runs changes nothing.
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    assert_eq!(env.msb("update").expect(0).stderr, "no changes\n");

    let second = push(&registry, "app:v1", "two");
    let words = [(first.as_str(), "FIRST"), (second.as_str(), "SECOND")];
    // Another machine, after the tag has moved.
    let other = Environment::new();
    declare(&other, &host, &["app"]);
    fs::copy(env.project().join(LOCK), other.project().join(LOCK)).unwrap();
    other.msb("up -d --locked").expect(0);
    assert_eq!(digest_of(&other, "app"), first);
    assert_eq!(other.msb("up -d --locked").expect(0).stderr, "no changes\n");
    other.msb("pull").expect(0);
    other.msb("up -d").expect(0);
    assert_eq!(digest_of(&other, "app"), first);

    let dry = told(env.msb("update --dry-run").expect(0), &host, &words);
    expect![[r#"
        REGISTRY/app:v1 (linux/HOST): FIRST -> SECOND
    "#]]
    .assert_eq(&dry);
    assert!(lock_text(&env).contains(&first));
    env.msb("update").expect(0);
    let ran = env.msb("plan --detailed-exitcode").expect(2);
    expect![[r#"
        shop: 1 to replace
        #1 pull image REGISTRY/app:v1: missing (Sandboxfile:4)
        #2 stop sandbox app: image moved FIRST -> SECOND (Sandboxfile:3) [needs #1]
        #3 remove sandbox app: image moved FIRST -> SECOND (Sandboxfile:3) [needs #2]
        #4 create sandbox app: image moved FIRST -> SECOND (Sandboxfile:3) [needs #3]
        #5 start sandbox app: image moved FIRST -> SECOND (Sandboxfile:3) [needs #4]
    "#]]
    .assert_eq(&told(ran, &host, &words));
    env.msb("up -d --locked").expect(0);
    assert_eq!(digest_of(&env, "app"), second);
    // Back to what a colleague's lock says, without a registry.
    fs::copy(other.project().join(LOCK), env.project().join(LOCK)).unwrap();
    registry.stop();
    env.msb("up -d").expect(0);
    assert_eq!(digest_of(&env, "app"), first);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
}

#[test]
fn always_follows_the_lock() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    let first = push(&registry, "app:v1", "one");
    let env = Environment::new();
    let sandbox =
        format!("[sandbox.app]\nimage = \"{host}/app:v1\"\npull_policy = \"always\"\n{SLEEP}\n");
    over_http(&env, &host, &sandbox);
    env.msb("update").expect(0);
    push(&registry, "app:v1", "two");
    env.msb("up -d").expect(0);
    assert_eq!(digest_of(&env, "app"), first);
    registry.stop();
    // No registry is asked, so `up` knows at a glance that there is nothing to do.
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    fs::remove_file(env.project().join(LOCK)).unwrap();
    assert!(env.msb("up -d").expect(1).stderr.contains("asking the registry"));
}

#[test]
fn locked_refuses_what_is_not_stated() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    for name in ["a", "b"] {
        push(&registry, &format!("{name}:v1"), name);
    }
    let env = Environment::new();
    declare(&env, &host, &["a"]);
    let ran = env.msb("up -d --locked").expect(3);
    expect![[r#"
          × the image `REGISTRY/a:v1` of the sandbox `a` cannot be locked: there is no
          │ Sandboxfile.lock
          ╭─[Sandboxfile:4:1]
         3 │ [sandbox.a]
         4 │ image = "REGISTRY/a:v1"
          · ─────
         5 │ cmd = ["/bin/sleep", "100000"]
          ╰────
          help: `msb update` writes it; without `--locked`, the registry is asked
        error: 1 image not locked
    "#]]
    .assert_eq(&said(ran, &host).replace("  │ [sandbox", " │ [sandbox"));
    assert!(env.rows().is_empty());
    env.msb("update").expect(0);
    env.msb("up -d --locked").expect(0);

    declare(&env, &host, &["a", "b"]);
    let before = lock_text(&env);
    for words in ["up -d --locked", "plan --locked", "pull --locked", "up -d --locked b"] {
        let ran = env.msb(words).expect(3);
        let text =
            ran.stderr.replace(['│', '\n'], "").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains("of the sandbox `b` is not in Sandboxfile.lock for linux/"),
            "{text}"
        );
        assert!(text.contains("[Sandboxfile:8:1]"), "{text}");
    }
    // What is stated is enough for those that are asked for.
    env.msb("up -d --locked a").expect(0);
    env.msb("plan").expect(0);
    env.msb("up --dry-run").expect(0);
    assert_eq!(lock_text(&env), before);
    assert_eq!(env.statuses(), ["a running"]);
    // Without the flag, what is missing is asked for and stated.
    let ran = env.msb("up -d").expect(0);
    let said = said(ran, &host);
    let first = "image REGISTRY/b:v1: asking the registry, for Sandboxfile.lock\n";
    assert!(said.starts_with(first), "{said}");
    assert!(lock_text(&env).starts_with(before.trim_end()), "{}", lock_text(&env));
    registry.stop();
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    env.msb("up -d --locked").expect(0);
    env.msb("pull --locked").expect(0);
    // A project of files alone has nothing to lock.
    env.write("local", "[sandbox.x]\nimage = \"./image\"\ncmd = [\"true\"]\n");
    env.msb("-f local plan --locked").expect(0);
}

#[test]
fn every_platform_of_the_project_is_stated() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    let mut blobs = Blobs::default();
    let made: Vec<_> = ["amd64", "arm64", "s390x", "ppc64le"]
        .map(|architecture| {
            let layer = layer(Compression::Gzip, &[("arch", architecture.as_bytes())]);
            (architecture, blobs.make(&ImageSpec { architecture, ..image(vec![layer]) }))
        })
        .into();
    let entries: Vec<_> = made.iter().map(|(name, made)| (*name, made)).collect();
    let index = blobs.index(&entries);
    let dir = registry.scratch("platforms");
    blobs.write_layout(&dir, &[("v1", &index)]);
    registry.push(&dir, "v1", "app:v1");
    push(&registry, "other:v1", "other");
    let env = Environment::new();
    let sandboxes = format!(
        "[sandbox.app]\nimage = \"{host}/app:v1\"\n{SLEEP}\n\n\
         [sandbox.big]\nimage = {{ oci = \"{host}/app:v1\", platform = \"linux/s390x\" }}\n{SLEEP}\n\n\
         [sandbox.other]\nimage = \"{host}/other:v1\"\nprofiles = [\"rare\"]\n{SLEEP}\n"
    );
    over_http(&env, &host, &sandboxes);
    env.msb("update").expect(0);
    let mut text = lock_text(&env).replace(&host, "REGISTRY");
    for (architecture, made) in &made {
        text = text.replace(&made.digest, architecture);
    }
    let lines: Vec<&str> = text.lines().skip(4).collect();
    let want = [
        "[image.\"REGISTRY/app:v1\"]",
        "\"linux/amd64\" = \"amd64\"",
        "\"linux/arm64\" = \"arm64\"",
        "\"linux/s390x\" = \"s390x\"",
    ];
    assert_eq!(lines[..4], want);
    assert!(lines[5].contains("other:v1"), "profiles or not");
    env.msb("up -d --locked").expect(0);
    assert_eq!(digest_of(&env, "big"), made[2].1.digest);
    // Only what is named is asked for, and nothing else of it is lost.
    let before = lock_text(&env);
    push(&registry, "other:v1", "moved");
    assert_eq!(env.msb("update app").expect(0).stderr, "no changes\n");
    assert_eq!(lock_text(&env), before);
    env.msb("update other").expect(0);
    assert_ne!(lock_text(&env), before);
    // What is declared no more goes with the next whole update.
    over_http(&env, &host, &format!("[sandbox.app]\nimage = \"{host}/app:v1\"\n{SLEEP}\n"));
    let ran = env.msb("update").expect(0);
    assert!(ran.stderr.contains("other:v1: removed, nothing uses it"), "{}", ran.stderr);
    assert!(ran.stderr.contains("app:v1 (linux/s390x): removed"), "{}", ran.stderr);
    assert!(!lock_text(&env).contains("other"));
    env.msb("update nobody").expect(64);
}

#[test]
fn a_lock_file_that_makes_no_sense() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    push(&registry, "app:v1", "one");
    let env = Environment::new();
    declare(&env, &host, &["app"]);
    env.msb("update").expect(0);
    let good = lock_text(&env);
    env.write(LOCK, &format!("<<<<<<< ours\n{good}"));
    for words in ["up -d", "plan", "pull", "update app"] {
        let ran = env.msb(words).expect(3);
        assert!(
            ran.stderr.contains("Sandboxfile.lock: the lock file makes no sense"),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("hint: `msb update` writes it anew"), "{}", ran.stderr);
    }
    env.msb("ps").expect(0);
    env.msb("down").expect(0);
    env.msb("update").expect(0);
    assert_eq!(lock_text(&env), good);
    env.write(LOCK, "version = 2\n");
    for words in ["up -d", "update"] {
        let ran = env.msb(words).expect(3);
        assert!(ran.stderr.contains("a newer version of msb wrote it"), "{}", ran.stderr);
    }
    assert_eq!(lock_text(&env), "version = 2\n");
    // Content that the registry does not have.
    let wrong = format!("sha256:{}", "ab".repeat(32));
    let digest = push(&registry, "app:v1", "one");
    env.write(LOCK, &good.replace(&digest, &wrong));
    let ran = env.msb("up -d").expect(1);
    assert!(ran.stderr.contains("not found"), "{}", ran.stderr);
    assert!(env.rows().is_empty());
    // A registry that is not there: nothing is written.
    env.write(LOCK, &good);
    registry.stop();
    env.msb("update").expect(1);
    assert_eq!(lock_text(&env), good);
}

#[test]
fn several_commands_write_it_at_once() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        push(&registry, &format!("{name}:v1"), name);
    }
    let env = Environment::new();
    declare(&env, &host, &names);
    env.write(LOCK, "version = 1\n");
    let commands: Vec<_> = names
        .iter()
        .map(|name| {
            let mut command = env.command();
            command.args(["update", name]).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut command in commands {
        assert!(command.wait().unwrap().success());
    }
    for name in names {
        assert!(lock_text(&env).contains(&format!("{host}/{name}:v1")), "{name}");
    }
    env.msb("plan --locked").expect(0);
    let left = env.project().join("Sandboxfile.lock.tmp");
    assert!(!left.exists(), "a temporary file was left");
    // One that a killed command left is in nobody's way, and a link there is not followed.
    let victim = env.project().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &left).unwrap();
    env.write(LOCK, "version = 1\n");
    env.msb("update").expect(0);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!left.exists() && lock_text(&env).contains("a:v1"));
}

#[test]
fn each_sandboxfile_has_its_own() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    push(&registry, "app:v1", "one");
    let env = Environment::new();
    declare(&env, &host, &["app"]);
    fs::rename(env.project().join("Sandboxfile"), env.project().join("dev.toml")).unwrap();
    env.msb("-f dev.toml update").expect(0);
    assert!(env.project().join("dev.lock").exists());
    let text = fs::read(env.project().join("dev.toml")).unwrap();
    fs::write(env.project().join("Sandboxfile.toml"), &text).unwrap();
    env.msb("update").expect(0);
    assert!(env.project().join(LOCK).exists());
    let mut command = env.command();
    let stdin = fs::File::open(env.project().join("dev.toml")).unwrap();
    let ran = env.run(command.args(["-f", "-", "update"]).stdin(stdin)).expect(64);
    assert!(ran.stderr.contains("has no lock file"), "{}", ran.stderr);
}
