//! `msb pull`, `msb images` and `msb df` with a real registry: what stays, what goes, and what a kill
//! in between leaves.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use expect_test::expect;
use serde_json::Value;

use crate::cli_registry::{SLEEP, counting, over_http, push, requests, said};
use crate::environment::{Environment, Ran};
use crate::support::oci::{Blobs, Compression, ImageSpec, host_arch, image, layer, noise};
use crate::support::registry::TestRegistry;

fn json(ran: Ran) -> Value {
    serde_json::from_str(&ran.expect(0).stdout).unwrap()
}

/// A project of one sandbox of `HOST/IMAGE`, and nothing made yet.
fn project(registry: &TestRegistry, image: &str) -> Environment {
    let env = Environment::new();
    let host = &registry.host;
    over_http(&env, host, &format!("[sandbox.app]\nimage = \"{host}/{image}\"\n{SLEEP}\n"));
    env
}

/// Names of files below the images, by kind.
fn files(env: &Environment) -> (usize, usize) {
    let count = |dir| fs::read_dir(dir).unwrap().count();
    (count(env.home().erofs()), count(env.home().blobs()))
}

fn short(digest: &str) -> &str {
    &digest["sha256:".len()..][..12]
}

#[test]
fn listed_with_what_they_share() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    let env = project(&registry, "one:v1");
    assert_eq!(json(env.msb("images ls --format json"))["images"], Value::Array(Vec::new()));
    let one = push(&registry, "one:v1", "one");
    push(&registry, "two:v1", "two");
    env.msb("up -d").expect(0);
    env.msb(&format!("pull {host}/two:v1 {host}/one:v1")).expect(0);
    let list = json(env.msb("images ls --format json"));
    assert_eq!(list["schema"], "msb.images/1");
    let images = list["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    // The layer that both have.
    let saving = list["saving_bytes"].as_u64().unwrap();
    assert!(saving > 0);
    for image in images {
        assert_eq!(image["shared_bytes"], saving);
        assert!(image["layer_bytes"].as_u64().unwrap() > saving);
        assert!(image["disk_bytes"].as_u64().unwrap() >= 4096);
        let is_one = image["digest"] == one.as_str();
        let users = image["used_by"].as_array().unwrap();
        assert_eq!(users.len(), usize::from(is_one));
        assert_eq!(
            image["names"][0]["name"],
            format!("{host}/{}:v1", if is_one { "one" } else { "two" })
        );
    }
    let text = env.msb("images ls").expect(0);
    assert!(text.stdout.contains(short(&one)), "{}", text.stdout);
    assert!(text.stderr.contains("stored once"), "{}", text.stderr);

    let shown = json(env.msb(&format!("images inspect {} --format json", short(&one))));
    assert_eq!(shown["schema"], "msb.image/1");
    assert_eq!(shown["digest"], one.as_str());
    assert_eq!(shown["config"]["cmd"][0], "/bin/hello");
    assert_eq!(shown["platform"], format!("linux/{}", host_arch()));
    let layers = shown["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!((&layers[0]["images"], &layers[1]["images"]), (&Value::from(2), &Value::from(1)));
    assert!(layers.iter().all(|layer| layer["stored"] == true));
    let text = env.msb(&format!("images inspect {host}/one:v1")).expect(0).stdout;
    assert!(text.contains("shop/app") && text.contains("in 2 images"), "{text}");
    let ran = env.msb("images inspect nothing").expect(1);
    expect![[r#"
        error: there is no image `nothing` on this machine
        hint: `msb images ls` lists what is there
    "#]]
    .assert_eq(&ran.stderr);
}

#[test]
fn an_image_that_a_sandbox_uses_stays() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    push(&registry, "one:v1", "one");
    push(&registry, "two:v1", "two");
    let env = project(&registry, "one:v1");
    env.msb("up -d").expect(0);
    env.msb(&format!("pull {host}/two:v1")).expect(0);
    assert_eq!(files(&env), (2, 3));
    let refused = expect![[r#"
        error: image … is used by sandbox shop/app
        hint: `msb down` or `msb rm` removes the sandboxes
    "#]];
    refused.assert_eq(&said(env.msb(&format!("images rm {host}/one:v1")).expect(1), &host));
    env.msb("stop").expect(0);
    refused.assert_eq(&said(env.msb(&format!("images rm {host}/one:v1")).expect(1), &host));
    assert!(env.msb("images prune --all --yes").expect(0).stderr.starts_with("1 image removed"));
    // The layer that both had is still one of the other.
    assert_eq!(files(&env), (1, 2));
    env.msb("start").expect(0);
    env.msb("down").expect(0);
    env.msb(&format!("images rm {host}/one:v1")).expect(0);
    assert_eq!(files(&env), (0, 0));
    env.msb("up -d").expect(0);
}

#[test]
fn names_go_one_by_one() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    push(&registry, "one:v1", "one");
    push(&registry, "one:v2", "one");
    let env = project(&registry, "one:v1");
    env.msb(&format!("pull {host}/one:v1 {host}/one:v2")).expect(0);
    assert_eq!(files(&env).0, 1);
    let ran = env.msb(&format!("images rm {host}/one:v1")).expect(0);
    assert!(said(ran, &host).contains("has other names"));
    assert_eq!(files(&env).0, 1);
    env.msb(&format!("images inspect {host}/one:v1")).expect(1);
    env.msb(&format!("images rm {host}/one:v2 {host}/one:v2")).expect(1);
    assert_eq!(files(&env), (0, 0));
}

#[test]
fn many_processes_pull_an_image_once() {
    let (liar, digests) = counting();
    let env = Environment::new();
    over_http(
        &env,
        &liar.host,
        &format!("[sandbox.app]\nimage = \"{}/app\"\n{SLEEP}\n", liar.host),
    );
    let pulls: Vec<_> = (0..6)
        .map(|_| {
            let mut command = env.command();
            command.arg("pull").stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut pull in pulls {
        assert!(pull.wait().unwrap().success());
    }
    for digest in &digests {
        assert_eq!(requests(&liar, digest), 1, "{digest}");
    }
    // And the layers that are here are not asked for when another image has them.
    assert_eq!(files(&env), (1, digests.len() - 1));
    assert!(env.rows().is_empty(), "nothing was started");
    env.msb("up -d").expect(0);
    assert_eq!(requests(&liar, &digests[0]), 1);
}

#[test]
fn a_layer_of_another_image_is_not_downloaded_again() {
    let mut blobs = Blobs::default();
    let base = layer(Compression::Gzip, &[("etc/base", b"base")]);
    let first = blobs.make(&image(vec![base.clone()]));
    let second = blobs.make(&image(vec![base, layer(Compression::Zstd, &[("etc/a", b"a")])]));
    let mut content = crate::support::liar::Content::new(blobs, &first);
    content.tags.insert("second".to_owned(), second.digest.clone());
    let liar = crate::support::liar::Liar::honest(content);
    let env = Environment::new();
    over_http(&env, &liar.host, "");
    env.msb(&format!("pull {}/app", liar.host)).expect(0);
    env.msb(&format!("pull {}/app:second", liar.host)).expect(0);
    assert_eq!(requests(&liar, &first.layers[0]), 1);
    // One that has rotted on the disk is.
    let stored = env.home().blobs().join(first.layers[0].strip_prefix("sha256:").unwrap());
    let whole = fs::read(&stored).unwrap();
    fs::write(&stored, vec![0; whole.len()]).unwrap();
    env.msb(&format!("images rm {}/app:second", liar.host)).expect(0);
    env.msb(&format!("pull {}/app:second", liar.host)).expect(0);
    assert_eq!(requests(&liar, &first.layers[0]), 2);
    assert!(fs::read(&stored).unwrap() == whole);
}

/// Two images with a layer in common, each pulled by several processes at once.
#[test]
fn a_layer_of_two_pulls_at_once_comes_once() {
    let mut blobs = Blobs::default();
    let base = layer(Compression::Gzip, &[("etc/base", &noise(9, 400_000))]);
    let first = blobs.make(&image(vec![base.clone(), layer(Compression::Gzip, &[("a", b"1")])]));
    let second = blobs.make(&image(vec![base, layer(Compression::Zstd, &[("a", b"2")])]));
    let mut content = crate::support::liar::Content::new(blobs, &first);
    content.tags.insert("second".to_owned(), second.digest.clone());
    let liar = crate::support::liar::Liar::honest(content);
    let env = Environment::new();
    over_http(&env, &liar.host, "");
    let pulls: Vec<_> = ["latest", "second", "latest", "second"]
        .iter()
        .map(|tag| {
            let mut command = env.command();
            command.arg("pull").arg(format!("{}/app:{tag}", liar.host));
            command.stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut pull in pulls {
        assert!(pull.wait().unwrap().success());
    }
    for digest in first.layers.iter().chain(&second.layers) {
        assert_eq!(requests(&liar, digest), 1, "{digest}");
    }
    assert_eq!(files(&env), (2, 3));
}

#[test]
fn what_pull_gets() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    for name in ["a", "b", "c"] {
        push(&registry, &format!("{name}:v1"), name);
    }
    let env = Environment::new();
    let sandboxes: String = ["a", "b", "c"]
        .map(|name| format!("[sandbox.{name}]\nimage = \"{host}/{name}:v1\"\n{SLEEP}\n"))
        .concat();
    over_http(&env, &host, &format!("{sandboxes}pull_policy = \"never\"\n"));
    let ran = env.msb("pull b").expect(0);
    expect![[r#"
        image REGISTRY/b:v1  resolving
        image REGISTRY/b:v1  pulling
        image REGISTRY/b:v1  building
        image REGISTRY/b:v1  pulled
        1 image
    "#]]
    .assert_eq(&said(ran, &host));
    let ran = said(env.msb("pull").expect(0), &host);
    assert!(ran.starts_with("c: skipped, its pull policy is `never`\n"), "{ran}");
    assert!(ran.ends_with("2 images\n"), "{ran}");
    assert_eq!(files(&env).0, 2);
    // A tag that has moved is followed, whatever the policy of `up` is.
    let moved = push(&registry, "b:v1", "moved");
    env.msb("pull b").expect(0);
    assert!(env.msb("images ls").expect(0).stdout.contains(short(&moved)));
    let ran = env.msb(&format!("pull {host}/a:v9 {host}/c:v1")).expect(1);
    let ran = said(ran, &host);
    assert!(
        ran.contains("1 image\nerror: image REGISTRY/a:v9: REGISTRY: manifest v9 not found"),
        "{ran}"
    );
    env.msb("pull UPPER").expect(64);
    env.msb("pull a --platform linux/amd64").expect(64);
}

#[test]
fn each_platform_is_an_image() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    let mut blobs = Blobs::default();
    let mut make = |architecture: &'static str| {
        let layer = layer(Compression::Gzip, &[("etc/arch", architecture.as_bytes())]);
        blobs.make(&ImageSpec { architecture, ..image(vec![layer]) })
    };
    let (other, own) = (make("s390x"), make(host_arch()));
    let index = blobs.index(&[("s390x", &other), (host_arch(), &own)]);
    let dir = registry.scratch("platforms");
    blobs.write_layout(&dir, &[("v1", &index)]);
    registry.push(&dir, "v1", "app:v1");
    let env = Environment::new();
    over_http(
        &env,
        &host,
        &format!(
            "[sandbox.app]\nimage = {{ oci = \"{host}/app:v1\", platform = \"linux/s390x\" }}\n{SLEEP}\n"
        ),
    );
    env.msb(&format!("pull {host}/app:v1")).expect(0);
    assert!(
        env.msb(&format!("images inspect {host}/app:v1")).expect(0).stdout.contains(&own.digest)
    );
    env.msb(&format!("pull {host}/app:v1 --platform linux/s390x")).expect(0);
    let ran = env.msb(&format!("images inspect {host}/app:v1")).expect(1);
    assert!(
        ran.stderr.contains("is 2 images") && ran.stderr.contains("--platform"),
        "{}",
        ran.stderr
    );
    let shown = env.msb(&format!("images inspect {host}/app:v1 --platform linux/s390x")).expect(0);
    assert!(shown.stdout.contains(&other.digest));
    registry.stop();
    // The sandbox has the platform that it states, and no registry is asked.
    env.msb("up -d").expect(0);
    assert_eq!(env.row("app").image_digest, Some(other.digest));
    env.msb(&format!("images rm {host}/app:v1 --platform linux/{}", host_arch())).expect(0);
    let error = env.msb(&format!("pull {host}/app --platform linux")).expect(64);
    assert!(error.stderr.contains("is not a platform"), "{}", error.stderr);
}

#[test]
fn prune_removes_what_nothing_names() {
    let registry = TestRegistry::start();
    let host = registry.host.clone();
    push(&registry, "app:v1", "one");
    let env = project(&registry, "app:v1");
    env.msb("pull").expect(0);
    assert_eq!(env.msb("images prune").expect(0).stderr, "nothing to remove\n");
    // The tag moves on; leftovers of every kind.
    push(&registry, "app:v1", "two");
    env.msb("pull").expect(0);
    let home = env.home();
    let image = fs::read_dir(home.erofs()).unwrap().next().unwrap().unwrap().path();
    let hex = "ab".repeat(32);
    for path in [
        home.erofs().join(format!("{hex}.v0.erofs")),
        home.erofs().join(format!("{hex}.v1.erofs")),
        home.erofs().join(format!("{hex}.v999.erofs")),
        home.blobs().join(&hex),
        home.blobs().join(format!("{}.part", "cd".repeat(32))),
        home.tmp().join(format!("image-{hex}.tmp")),
        home.tmp().join(format!("blob-{hex}.gone")),
    ] {
        fs::copy(&image, path).unwrap();
    }
    let ran = env.msb("images prune --dry-run").expect(0);
    let text = ran.stdout.lines().map(|line| line.split(" (").next().unwrap()).collect::<Vec<_>>();
    assert_eq!(text[1..3], ["3 layers", "4 leftover files"]);
    assert_eq!(files(&env), (5, 5));
    let df = json(env.msb("df --format json"));
    assert_eq!(df["schema"], "msb.df/1");
    let reclaimable: u64 = df["kinds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k["reclaimable_bytes"].as_u64().unwrap())
        .sum();
    assert!(reclaimable > 7 * 4096, "{df}");

    let ran = env.msb("images prune").expect(0);
    assert!(ran.stderr.starts_with("1 image removed"), "{}", ran.stderr);
    // The image, its two layers, and what a later version of msb made.
    assert_eq!(files(&env), (2, 2));
    assert!(home.erofs().join(format!("{hex}.v999.erofs")).exists());
    assert_eq!(fs::read_dir(home.tmp()).unwrap().count(), 0);
    registry.stop();
    env.msb("up -d").expect(0);
    env.msb("down").expect(0);

    let ran = env.msb("images prune --all").expect(7);
    assert!(ran.stderr.contains(&format!("image {host}/app:v1")), "{}", ran.stderr);
    assert_eq!(files(&env), (2, 2));
    env.msb("images prune --layers").expect(0);
    assert_eq!(files(&env), (2, 0));
    env.msb("up -d").expect(0);
    env.msb("down").expect(0);
    env.msb("images prune --all -y").expect(0);
    assert_eq!(files(&env), (1, 0));
}

#[test]
fn what_another_process_uses_stays() {
    let registry = TestRegistry::start();
    push(&registry, "app:v1", "one");
    let env = project(&registry, "app:v1");
    env.msb("pull").expect(0);
    let path = fs::read_dir(env.home().erofs()).unwrap().next().unwrap().unwrap().path();
    let layer = fs::read_dir(env.home().blobs()).unwrap().next().unwrap().unwrap().path();
    let (image, blob) = (fs::File::open(path).unwrap(), fs::File::open(&layer).unwrap());
    image.lock_shared().unwrap();
    blob.lock_shared().unwrap();
    let ran = env.msb("images prune --all --yes").expect(0);
    assert!(ran.stderr.contains("is being used by another msb; it stays"), "{}", ran.stderr);
    // Its layers are those of an image.
    assert_eq!(files(&env), (1, 2));
    let name = format!("{}/app:v1", registry.host);
    let ran = env.msb(&format!("images rm {name}")).expect(1);
    assert!(ran.stderr.contains("try again"), "{}", ran.stderr);
    drop(image);
    env.msb("images prune --all --yes").expect(0);
    assert_eq!(files(&env), (0, 1), "a layer that a pull has found stays");
    assert!(layer.exists());
    drop(blob);
    env.msb("images prune").expect(0);
    assert_eq!(files(&env), (0, 0));
}

/// `up` and `prune --all` at the same time, over and over: nothing that is used goes missing.
#[test]
fn prune_beside_up() {
    let registry = TestRegistry::start();
    push(&registry, "app:v1", "one");
    let env = project(&registry, "app:v1");
    for _ in 0..5 {
        let mut prunes: Vec<_> = (0..3)
            .map(|_| {
                let mut command = env.command();
                command.args(["images", "prune", "--all", "--yes"]).stderr(Stdio::null());
                command.spawn().unwrap()
            })
            .collect();
        env.msb("up -d").expect(0);
        prunes.iter_mut().for_each(|prune| assert!(prune.wait().unwrap().success()));
        env.msb("images prune --all --yes").expect(0);
        assert_eq!(files(&env), (1, 2));
        env.msb("down").expect(0);
    }
}

#[test]
fn killed_while_removing_leaves_nothing_half_gone() {
    let registry = TestRegistry::start();
    let name = format!("{}/app:v1", registry.host);
    push(&registry, "app:v1", "one");
    let env = project(&registry, "app:v1");
    for point in ["image-row-removed", "image-removed", "layers-renamed"] {
        for words in [format!("images rm {name}"), "images prune --all --yes".to_owned()] {
            env.msb("pull").expect(0);
            let mut command = env.command();
            command.args(words.split(' ')).env("FAILPOINTS", format!("{point}=return"));
            assert_eq!(env.run(&mut command).code, -1, "{point} was not reached");
            let list = json(env.msb("images ls --format json"));
            assert_eq!(list["images"].as_array().unwrap().len(), 0, "{point}");
            env.msb("images prune").expect(0);
            assert_eq!(files(&env), (0, 0), "{point}");
            assert_eq!(fs::read_dir(env.home().tmp()).unwrap().count(), 0, "{point}");
            // And without the prune, a pull makes use of what is left.
            env.msb("pull").expect(0);
            assert_eq!(env.run(&mut command).code, -1);
            env.msb("up -d").expect(0);
            assert_eq!(files(&env).0, 1, "{point}");
            env.msb("down").expect(0);
            env.msb("images prune --all -y").expect(0);
        }
    }
}

/// Every image has its file and its layers, and nothing is there but what an image has.
fn assert_whole(env: &Environment, when: &str) {
    let list = json(env.msb("images ls --format json"));
    for image in list["images"].as_array().unwrap() {
        let digest = image["digest"].as_str().unwrap();
        let shown = json(env.msb(&format!("images inspect {digest} --format json")));
        assert!(shown["file"].is_string(), "{when}: {shown}");
        let layers = shown["layers"].as_array().unwrap();
        assert!(layers.iter().all(|layer| layer["stored"] == true), "{when}: {shown}");
    }
}

/// Pulls, loads, removals and prunes beside each other, each killed at some moment: what is listed is
/// whole, what runs goes on, and a prune leaves what is listed alone.
#[test]
fn killed_at_any_moment() {
    let registry = TestRegistry::start();
    let host = &registry.host;
    push(&registry, "app:v1", "one");
    push(&registry, "two:v1", "two");
    let env = project(&registry, "app:v1");
    env.msb("up -d").expect(0);
    env.msb(&format!("pull {host}/two:v1")).expect(0);
    env.msb(&format!("images save {host}/two:v1 -o two.tar")).expect(0);
    let commands = [
        format!("pull {host}/two:v1"),
        "images load two.tar".to_owned(),
        format!("images rm {host}/two:v1"),
        "images prune --all --yes".to_owned(),
    ];
    for round in 0..24_u64 {
        let mut children: Vec<_> = commands
            .iter()
            .map(|words| {
                let mut command = env.command();
                command.args(words.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
                command.spawn().unwrap()
            })
            .collect();
        for (index, child) in children.iter_mut().enumerate() {
            // Some end by themselves; which is different each time.
            std::thread::sleep(Duration::from_micros(3100 * ((round * 7 + index as u64 * 3) % 17)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_whole(&env, &format!("round {round}"));
    }
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    let ran = env.msb("images prune --all --yes").expect(0);
    let names: Vec<_> =
        fs::read_dir(env.home().blobs()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files(&env), (1, 2), "{names:?} {}", ran.stderr);
    assert_eq!(fs::read_dir(env.home().tmp()).unwrap().count(), 0);
    env.msb("restart").expect(0);
    env.msb("images load two.tar").expect(0);
    assert_whole(&env, "at the end");
}

#[test]
fn what_an_interrupted_pull_left_goes_after_a_day() {
    let registry = TestRegistry::start();
    push(&registry, "app:v1", "one");
    push(&registry, "app:v2", "two");
    let env = project(&registry, "app:v1");
    env.msb("pull").expect(0);
    let old = SystemTime::now() - Duration::from_secs(25 * 60 * 60);
    for entry in fs::read_dir(env.home().blobs()).unwrap() {
        fs::File::open(entry.unwrap().path()).unwrap().set_modified(old).unwrap();
    }
    let left = env.home().blobs().join("ab".repeat(32));
    fs::write(&left, "x").unwrap();
    fs::File::open(&left).unwrap().set_modified(old).unwrap();
    env.msb(&format!("pull {}/app:v2", registry.host)).expect(0);
    // Three layers of two images.
    assert_eq!(files(&env), (2, 3));
    assert!(!left.exists());
}

#[test]
fn df_says_what_is_where() {
    let env = Environment::new();
    let empty = env.msb("df").expect(0).stdout;
    assert!(empty.starts_with("KIND "), "{empty}");
    env.write("Sandboxfile", crate::environment::PAIR);
    env.msb("up -d").expect(0);
    let df = json(env.msb("df --format json"));
    let kind = |name: &str| {
        df["kinds"].as_array().unwrap().iter().find(|kind| kind["kind"] == name).unwrap().clone()
    };
    assert_eq!(kind("images")["count"], 1);
    assert_eq!(kind("images")["reclaimable_bytes"], 0);
    assert_eq!(kind("sandboxes")["count"], 2);
    let disks = kind("sandboxes")["disk_bytes"].as_u64().unwrap();
    let real = |path: &std::path::Path| msb::image::disk_usage(path);
    assert_eq!(disks, real(&env.home().sandboxes()));
    // Sparse: far less than the disks' sizes.
    assert!(disks > 0 && disks < 64 << 20, "{disks}");
    env.msb("volume create data").expect(0);
    let df = json(env.msb("df --format json"));
    let of = |key: &str| -> Vec<Value> {
        df["kinds"].as_array().unwrap().iter().map(|kind| kind[key].clone()).collect()
    };
    let all: u64 = of("disk_bytes").iter().map(|bytes| bytes.as_u64().unwrap()).sum();
    // All but the directories that lead to it.
    let rest = real(env.home().root()).checked_sub(all);
    assert!(rest.is_some_and(|bytes| bytes < 64 << 10), "{rest:?}");
    assert!(of("disk_complete").iter().all(|complete| complete == true), "{df}");
}
