//! `msb images save` and `load`: what goes out comes back the same, here and in other programs, and a
//! hostile archive leaves nothing.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use msb::image::{ImageError, LoadSource, NoProgress, Platform};
use serde_json::Value;

use crate::cli_registry::{SLEEP, over_http, push};
use crate::environment::Environment;
use crate::support::oci::{
    Blobs, Compression, ImageSpec, compress, host_arch, image, layer, noise,
};
use crate::support::pulling::{Fixture, block_on, quick_limits};
use crate::support::registry::{TestRegistry, extract, run, skopeo};

/// An environment with images `one:v1` and `two:v1` of the registry, and their digests.
fn pulled(registry: &TestRegistry) -> (Environment, Vec<String>) {
    let digests = ["one", "two"].map(|name| push(registry, &format!("{name}:v1"), name));
    let env = Environment::new();
    over_http(&env, &registry.host, "");
    env.msb(&format!("pull {0}/one:v1 {0}/two:v1", registry.host)).expect(0);
    (env, digests.to_vec())
}

/// Digests of the images with their names.
fn listed(env: &Environment) -> Vec<(String, Vec<String>)> {
    let text = env.msb("images ls --format json").expect(0).stdout;
    let list: Value = serde_json::from_str(&text).unwrap();
    let name = |name: &Value| name["name"].as_str().unwrap().to_owned();
    list["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| {
            let names = image["names"].as_array().unwrap().iter().map(name).collect();
            (image["digest"].as_str().unwrap().to_owned(), names)
        })
        .collect()
}

#[test]
fn other_programs_read_what_is_saved() {
    let registry = TestRegistry::start();
    let (env, digests) = pulled(&registry);
    env.msb(&format!("images save {}/one:v1 -o one.tar", registry.host)).expect(0);
    let tar = env.project().join("one.tar");
    let raw =
        run(skopeo().args(["inspect", "--raw"]).arg(format!("oci-archive:{}", tar.display())));
    assert_eq!(msb::image::Digest::of(raw.as_bytes()).to_string(), digests[0]);
    let by_tag = format!("oci-archive:{}:v1", tar.display());
    run(skopeo().arg("inspect").arg(&by_tag));
    // As an engine that knows no layouts reads it.
    run(skopeo().args(["inspect", "--config"]).arg(format!("docker-archive:{}", tar.display())));
    // The same bytes again, also through a pipe.
    env.msb(&format!("images save {} -o again.tar", digests[0])).expect(0);
    assert!(fs::read(&tar).unwrap() == fs::read(env.project().join("again.tar")).unwrap());
    let file = fs::File::create(env.project().join("piped.tar")).unwrap();
    let mut command = env.command();
    command.args(["images", "save", &digests[0]]);
    env.run_with_stdout(&mut command, file.into()).expect(0);
    assert!(fs::read(&tar).unwrap() == fs::read(env.project().join("piped.tar")).unwrap());
}

#[test]
fn umoci_unpacks_what_is_saved() {
    let env = Environment::new();
    let mut blobs = Blobs::default();
    let made = blobs.make(&image(vec![layer(Compression::Gzip, &[("etc/text", b"one")])]));
    let source = env.project().join("source");
    blobs.write_layout(&source, &[("v1", &made.digest)]);
    env.msb("images load ./source --name app:v1").expect(0);
    env.msb("images save app:v1 -o app.tar").expect(0);
    let layout = env.project().join("layout");
    run(skopeo()
        .arg("copy")
        .arg(format!("oci-archive:{}", env.project().join("app.tar").display()))
        .arg(format!("oci:{}:v1", layout.display())));
    run(Command::new("umoci")
        .args(["unpack", "--rootless", "--image"])
        .arg(format!("{}:v1", layout.display()))
        .arg(env.project().join("bundle")));
    assert_eq!(fs::read(env.project().join("bundle/rootfs/etc/text")).unwrap(), b"one");
}

#[test]
fn loaded_as_it_was_saved() {
    let registry = TestRegistry::start();
    let (env, digests) = pulled(&registry);
    let host = registry.host.clone();
    env.msb(&format!("images save {host}/one:v1 {host}/two:v1 -o both.tar")).expect(0);
    let before = listed(&env);
    registry.stop();
    let plain = fs::read(env.project().join("both.tar")).unwrap();
    for (name, compression) in
        [("a", Compression::Plain), ("b", Compression::Gzip), ("c", Compression::Zstd)]
    {
        let other = Environment::new();
        let file = other.project().join(name);
        fs::write(&file, compress(&plain, compression)).unwrap();
        let ran = match compression {
            Compression::Gzip => {
                let mut command = other.command();
                let stdin = fs::File::open(&file).unwrap();
                other.run(command.args(["images", "load"]).stdin(Stdio::from(stdin)))
            }
            _ => other.msb(&format!("images load {name}")),
        };
        let ran = ran.expect(0);
        assert!(ran.stderr.contains(&format!("loaded {host}/one:v1")), "{}", ran.stderr);
        assert_eq!(listed(&other), before);
        // Without a registry: the sandbox runs from it, and it goes out again as it came.
        over_http(&other, &host, &format!("[sandbox.app]\nimage = \"{host}/two:v1\"\n{SLEEP}\n"));
        other.msb("up -d").expect(0);
        assert_eq!(other.row("app").image_digest.as_ref(), Some(&digests[1]));
        other.msb(&format!("images save {host}/one:v1 {host}/two:v1 -o out.tar")).expect(0);
        assert!(fs::read(other.project().join("out.tar")).unwrap() == plain);
        assert_eq!(fs::read_dir(other.home().tmp()).unwrap().count(), 0);
    }
}

#[test]
fn what_other_programs_saved() {
    let env = Environment::new();
    let mut blobs = Blobs::default();
    let one = blobs.make(&image(vec![layer(Compression::Gzip, &[("a", b"1")])]));
    let two = blobs.make(&image(vec![layer(Compression::Gzip, &[("a", b"2")])]));
    let dir = env.project().join("layout");
    blobs.write_layout(&dir, &[("one", &one.digest), ("docker.io/library/two:2", &two.digest)]);
    // A tag alone is no name, a whole reference is.
    let ran = env.msb("images load ./layout").expect(0);
    assert!(
        ran.stderr.contains(&format!("loaded {}, which has no name", one.digest)),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("loaded docker.io/library/two:2 ("), "{}", ran.stderr);
    env.msb("images load ./layout#one --name app:1").expect(0);
    let mut want = vec![
        (one.digest.clone(), vec!["docker.io/library/app:1".to_owned()]),
        (two.digest.clone(), vec!["docker.io/library/two:2".to_owned()]),
    ];
    want.sort_unstable();
    assert_eq!(listed(&env), want);
    let ran = env.msb("images load ./layout --name app:1").expect(1);
    assert!(
        ran.stderr.contains("it holds several images, and one name was given"),
        "{}",
        ran.stderr
    );
    env.msb("images load ./layout#three").expect(1);
    env.msb("images load ./nothing").expect(1);
    // The form from before layouts.
    let saved = env.project().join("saved.tar");
    run(skopeo()
        .arg("copy")
        .arg(format!("oci:{}:one", dir.display()))
        .arg(format!("docker-archive:{}:example.com/old:3", saved.display())));
    let ran = env.msb("images load saved.tar").expect(0);
    assert!(ran.stderr.contains("loaded example.com/old:3 ("), "{}", ran.stderr);
    env.msb("images save example.com/old:3 -o out.tar").expect(0);
    env.msb("images rm example.com/old:3").expect(0);
    assert!(env.msb("images load out.tar").expect(0).stderr.contains("loaded example.com/old:3"));
}

#[test]
fn loads_for_the_platform_that_is_asked_for() {
    let fixture = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    let mut blobs = Blobs::default();
    let mut make = |architecture: &'static str| {
        let layer = layer(Compression::Plain, &[("arch", architecture.as_bytes())]);
        blobs.make(&ImageSpec { architecture, ..image(vec![layer]) })
    };
    let (other, own) = (make("s390x"), make(host_arch()));
    let index = blobs.index(&[("s390x", &other), (host_arch(), &own)]);
    blobs.write_layout(dir.path(), &[("v1", &index)]);
    let source = LoadSource::Path(dir.path().to_str().unwrap().to_owned());
    let s390x: Platform = "linux/s390x".parse().unwrap();
    let load = |platform| {
        block_on(fixture.cache.load(&source, None, platform, Arc::new(NoProgress))).unwrap()
    };
    assert_eq!(load(None)[0].record.digest, own.digest);
    assert_eq!(load(Some(&s390x))[0].record.digest, other.digest);
}

#[test]
fn what_cannot_be_saved_is_not_half_saved() {
    let registry = TestRegistry::start();
    let (env, digests) = pulled(&registry);
    let hex = digests[0].strip_prefix("sha256:").unwrap();
    let names = || {
        let entries = fs::read_dir(env.project()).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    };
    let before = names();
    let blobs: Vec<PathBuf> =
        fs::read_dir(env.home().blobs()).unwrap().map(|e| e.unwrap().path()).collect();
    let whole: Vec<Vec<u8>> = blobs.iter().map(|blob| fs::read(blob).unwrap()).collect();
    for (blob, bytes) in blobs.iter().zip(&whole) {
        fs::write(blob, vec![7; bytes.len()]).unwrap();
    }
    let ran = env.msb(&format!("images save {hex} -o out.tar")).expect(1);
    assert!(ran.stderr.contains("the layer has been damaged"), "{}", ran.stderr);
    env.msb("images prune --layers").expect(0);
    let ran = env.msb(&format!("images save {hex} -o out.tar")).expect(1);
    assert!(ran.stderr.contains("is not kept on this machine"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: `msb images rm`, then `msb pull`"), "{}", ran.stderr);
    env.msb("images save nothing").expect(1);
    env.msb(&format!("images save {hex} -o /nowhere/out.tar")).expect(1);
    assert_eq!(names(), before);
    let ran = env.msb(&format!("images save {hex} -o /dev/full"));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
}

#[test]
fn an_interrupted_save_leaves_no_file() {
    let registry = TestRegistry::start();
    let (env, digests) = pulled(&registry);
    let count = || fs::read_dir(env.project()).unwrap().count();
    let before = count();
    let mut command = env.command();
    command
        .args(["images", "save", &digests[0], "-o", "out.tar"])
        .env("FAILPOINTS", "save-write=sleep(300)");
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    // It is listening once its file is there.
    while count() == before {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(count(), before);
}

/// The members of an archive: an honest image to be spoilt.
struct Archive(Vec<(String, Vec<u8>)>);

impl Archive {
    fn honest() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut blobs = Blobs::default();
        let made = blobs.make(&image(vec![
            layer(Compression::Gzip, &[("base", &noise(3, 40_000))]),
            layer(Compression::Plain, &[("top", b"top")]),
        ]));
        blobs.write_layout(dir.path(), &[("example.com/app:1", &made.digest)]);
        let mut members = Vec::new();
        for name in ["oci-layout", "index.json"] {
            members.push((name.to_owned(), fs::read(dir.path().join(name)).unwrap()));
        }
        for (digest, bytes) in blobs.0 {
            let hex = digest.strip_prefix("sha256:").unwrap();
            members.push((format!("blobs/sha256/{hex}"), bytes));
        }
        Self(members)
    }

    fn tar(&self) -> Vec<u8> {
        crate::support::oci::tar(&self.0)
    }

    /// Changes the members whose content `is_meant`.
    fn change(mut self, is_meant: impl Fn(&[u8]) -> bool, change: impl Fn(&mut Vec<u8>)) -> Self {
        let mut count = 0;
        for (_, bytes) in self.0.iter_mut().filter(|(_, bytes)| is_meant(bytes)) {
            change(bytes);
            count += 1;
        }
        assert!(count > 0, "nothing was changed");
        self
    }
}

fn load(fixture: &Fixture, path: &Path) -> Result<usize, ImageError> {
    let source = LoadSource::Path(path.to_str().unwrap().to_owned());
    block_on(fixture.cache.load(&source, None, None, Arc::new(NoProgress))).map(|all| all.len())
}

/// Fails, with words that say why, and leaves nothing.
#[track_caller]
fn refused(archive: &[u8], words: &str) {
    let fixture = Fixture::with(quick_limits());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive");
    fs::write(&path, archive).unwrap();
    let error = load(&fixture, &path).unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    assert!(text.contains(words), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_eq!(fixture.names(), [""; 0], "{text}");
    // And the honest one is then loaded in the same place.
    fs::write(&path, Archive::honest().tar()).unwrap();
    assert_eq!(load(&fixture, &path).unwrap(), 1);
    let file = fs::read_dir(fixture.home.erofs()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(extract(&file).len(), 2);
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[test]
fn hostile_contents_are_refused() {
    let is_gzip = |bytes: &[u8]| bytes.starts_with(&[0x1f, 0x8b]);
    let is_config = |bytes: &[u8]| contains(bytes, "diff_ids");
    let is_manifest =
        |bytes: &[u8]| contains(bytes, "\"layers\"") && contains(bytes, "schemaVersion");
    let is_index = |bytes: &[u8]| contains(bytes, "\"manifests\"");
    let flip = |bytes: &mut Vec<u8>| {
        let last = bytes.len() - 9;
        bytes[last] ^= 1;
    };
    refused(&Archive::honest().change(is_gzip, flip).tar(), "other content than its digest");
    refused(&Archive::honest().change(is_gzip, |b| b.truncate(100)).tar(), "ends after 100 bytes");
    refused(&Archive::honest().change(is_gzip, |b| b.push(0)).tar(), "is larger than");
    refused(&Archive::honest().change(is_config, flip).tar(), "other content than its digest");
    refused(&Archive::honest().change(is_manifest, flip).tar(), "other content than its digest");
    refused(&Archive::honest().change(is_index, |b| *b = b"{".to_vec()).tar(), "index.json");
    let empty = |b: &mut Vec<u8>| *b = br#"{"manifests":[]}"#.to_vec();
    refused(&Archive::honest().change(is_index, empty).tar(), "it is empty");
    let colours = |b: &mut Vec<u8>| {
        *b = br#"{"manifests":[{"digest":"sha256:\u001b[31m","size":1}]}"#.to_vec();
    };
    refused(&Archive::honest().change(is_index, colours).tar(), "a digest is wrong");
    let outside = |b: &mut Vec<u8>| {
        *b = br#"{"manifests":[{"digest":"sha256:../../../etc/passwd","size":1}]}"#.to_vec();
    };
    refused(&Archive::honest().change(is_index, outside).tar(), "a digest is wrong");
    // Diff ids of something else, in an image whose digests are right.
    let mut blobs = Blobs::default();
    let config = serde_json::json!({
        "architecture": host_arch(), "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [msb::image::Digest::of(b"other")] },
    });
    let tar = crate::support::oci::tar(&[("a".to_owned(), b"1".to_vec())]);
    let made = blobs.make_of(config.to_string().into_bytes(), &[(Compression::Plain, tar)]);
    let dir = tempfile::tempdir().unwrap();
    blobs.write_layout(dir.path(), &[("v1", &made.digest)]);
    let fixture = Fixture::with(quick_limits());
    let error = load(&fixture, dir.path()).unwrap_err();
    assert!(error.to_string().contains("unpacks to other content"), "{error}");
    assert_eq!(fixture.names(), [""; 0]);
}

#[test]
fn hostile_archives_are_refused() {
    refused(b"", "neither `index.json` nor `manifest.json`");
    refused(&noise(5, 100_000), "not an image archive");
    let whole = Archive::honest().tar();
    for part in 1..8 {
        refused(&whole[..whole.len() * part / 8], "");
    }
    refused(&compress(&noise(5, 1000), Compression::Gzip)[..500], "cannot be read");
    refused(&compress(&vec![0; 64 << 20], Compression::Gzip), "is larger than 8388608 bytes");
    refused(&compress(&vec![0; 64 << 20], Compression::Zstd), "is larger than 8388608 bytes");
    // Links in a circle, to the outside, and a name twice.
    let linked = |target: &str, kind: tar::EntryType| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, "index.json", target).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        builder.append_data(&mut header, "oci-layout", &b"{}"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    for target in ["index.json", "../../../../etc/passwd", "/etc/passwd", "."] {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
            refused(&linked(target, kind), "neither `index.json` nor `manifest.json`");
        }
    }
    // What `docker save` wrote, naming what is not there or outside.
    for manifest in [
        r#"[{"Config":"../../etc/passwd","RepoTags":["a:1"],"Layers":[]}]"#,
        r#"[{"Config":"/etc/passwd","RepoTags":null,"Layers":["/etc/passwd"]}]"#,
        r#"[{"Config":"manifest.json","RepoTags":["a:1"],"Layers":["manifest.json"]}]"#,
        "[]",
        "[[[[",
    ] {
        let members = [("manifest.json".to_owned(), manifest.as_bytes().to_vec())];
        refused(&crate::support::oci::tar(&members), "");
    }
}

#[test]
fn killed_while_loading_leaves_nothing_half_made() {
    let env = Environment::new();
    fs::write(env.project().join("a.tar"), Archive::honest().tar()).unwrap();
    for point in ["layer-stored", "image-before-row"] {
        let mut command = env.command();
        command.args(["images", "load", "a.tar"]).env("FAILPOINTS", format!("{point}=return"));
        assert_eq!(env.run(&mut command).code, -1, "{point} was not reached");
        assert!(listed(&env).is_empty(), "{point}");
        env.msb("images prune").expect(0);
        for dir in [env.home().erofs(), env.home().blobs(), env.home().tmp()] {
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{point}: {}", dir.display());
        }
        assert_eq!(env.run(&mut command).code, -1);
        env.msb("images load a.tar").expect(0);
        assert_eq!(listed(&env).len(), 1);
        assert_eq!(fs::read_dir(env.home().blobs()).unwrap().count(), 2, "{point}");
        assert_eq!(fs::read_dir(env.home().tmp()).unwrap().count(), 0, "{point}");
        env.msb("images rm example.com/app:1").expect(0);
    }
}

/// On a file system of every size: it fails with a reason or works, and leaves nothing half made.
#[test]
fn a_full_disk_while_loading() {
    let script = r#"
        mkdir -p "$MSB_HOME"
        for size in 128k 256k 320k 384k 448k 512k 640k 8m; do
            mount -t tmpfs -o size=$size,mode=0700 tmpfs "$MSB_HOME" || exit 90
            "$MSB" images load a.tar 2> "$LOG"
            code=$?
            [ $code = 0 ] || grep -q 'space' "$LOG" || { echo "$size: $code"; cat "$LOG"; exit 91; }
            mount -o remount,size=64m "$MSB_HOME" || exit 92
            [ $code = 0 ] || "$MSB" images prune 2> "$LOG" || { cat "$LOG"; exit 93; }
            left=$(find "$MSB_HOME/images" "$MSB_HOME/tmp" -type f)
            [ $code = 0 ] || [ -z "$left" ] || { echo "$size: left $left"; exit 94; }
            "$MSB" images load a.tar 2> "$LOG" || { cat "$LOG"; exit 95; }
            umount --lazy "$MSB_HOME" || exit 97
            echo "$size $code"
        done
    "#;
    assert!(rustix::process::geteuid().is_root(), "mounting needs root: run this test as root");
    let env = Environment::new();
    let mut file = fs::File::create(env.project().join("a.tar")).unwrap();
    file.write_all(&Archive::honest().tar()).unwrap();
    let mut command = Command::new("unshare");
    env.prepare(&mut command);
    command
        .args(["--mount", "sh", "-c", script])
        .env("MSB", env!("CARGO_BIN_EXE_msb"))
        .env("LOG", env.project().join("log"));
    let ran = env.run(&mut command).expect(0);
    assert!(ran.stdout.starts_with("128k 1\n"), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("8m 0\n"), "{}", ran.stdout);
}
