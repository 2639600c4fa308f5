//! The same layers, unpacked by umoci and extracted from the image by `fsck.erofs`, make the same tree.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::tarball::Tar;
use super::{build, must};

/// What is compared of one path: type and permissions, size, time, contents or target, and the first
/// path that shares its inode.
type Entry = (u32, u64, i64, Vec<u8>, String);

fn tree(root: &Path) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    let mut first_names: BTreeMap<u64, String> = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        let mut paths: Vec<_> =
            dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let meta = path.symlink_metadata().unwrap();
            let contents = if meta.is_symlink() {
                path.read_link().unwrap().into_os_string().into_encoded_bytes()
            } else if meta.is_file() {
                super::read(&path)
            } else {
                Vec::new()
            };
            let first = first_names.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
            let size = if meta.is_dir() { 0 } else { meta.size() };
            if meta.is_dir() {
                todo.push(path);
            }
            found.insert(name, (meta.mode(), size, meta.mtime(), contents, first));
        }
    }
    found
}

fn layers() -> Vec<Vec<u8>> {
    let time = |tar: Tar, seconds: &str| tar.pax(&[("mtime", seconds.as_bytes())]);
    let base = Tar::new()
        .dir("etc", 0o755)
        .file("etc/passwd", "root")
        .file("etc/group", "root")
        .dir("usr", 0o755)
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .file("usr/lib/libc.so", "c".repeat(300_000))
        .link("usr/lib/libc.so.6", "usr/lib/libc.so")
        .file("lib/through-link", "x")
        .dir("opt", 0o711)
        .dir("opt/app", 0o755)
        .file("opt/app/a", "a")
        .file("opt/app/b", "b")
        .dir("opt/old", 0o755)
        .file("opt/old/x", "x")
        .file("file-then-dir", "f")
        .dir("dir-then-file", 0o755)
        .file("dir-then-file/x", "x")
        .file("twice", "one")
        .file("twice", "two");
    let base = time(base, "1000000000.5").file("dated", "d");
    let middle = Tar::new()
        .dir("etc", 0o750)
        .file("etc/.wh.group", "")
        .file("etc/passwd", "root2")
        .dir("opt", 0o711)
        .file("opt/.wh.old", "")
        .dir("opt/app", 0o755)
        .file("opt/app/.wh..wh..opq", "")
        .file("opt/app/c", "c")
        .file(".wh.file-then-dir", "")
        .dir("file-then-dir", 0o700)
        .file("file-then-dir/y", "y")
        .file("dir-then-file", "now a file")
        .entry(b"set-id", b'0', 0o4755, b"", b"#!");
    let top = Tar::new()
        .dir("usr", 0o755)
        .dir("usr/lib", 0o755)
        .file("usr/lib/libc.so", "new")
        .dir("opt", 0o755)
        .dir("opt/old", 0o700)
        .file("opt/old/y", "back")
        .entry(b"pipe", b'6', 0o600, b"", b"");
    vec![base.end(), middle.end(), top.end()]
}

#[test]
fn the_same_tree_as_umoci() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let umoci = |args: &[&str]| must("umoci", "umoci", args);
    let layout = path("layout");
    let image = format!("{layout}:tag");
    umoci(&["init", "--layout", &layout]);
    umoci(&["new", "--image", &image]);
    let layers = layers();
    for layer in &layers {
        std::fs::write(path("layer.tar"), layer).unwrap();
        umoci(&["raw", "add-layer", "--image", &image, &path("layer.tar")]);
    }
    umoci(&["unpack", "--rootless", "--image", &image, &path("bundle")]);

    let built = build(&layers);
    let extract = format!("--extract={}", path("extracted"));
    let erofs = built.file.path().to_str().unwrap();
    must(
        "fsck.erofs",
        "erofs-utils",
        &[&extract, "--preserve-perms", "--no-preserve-owner", erofs],
    );

    let (mut ours, mut theirs) =
        (tree(&root.path().join("extracted")), tree(&root.path().join("bundle/rootfs")));
    for tree in [&mut ours, &mut theirs] {
        for (mode, _, mtime, _, first) in tree.values_mut() {
            // `fsck.erofs` copies hard links, and both touch directories while they fill them.
            first.clear();
            if *mode & 0o170_000 == 0o040_000 {
                *mtime = 0;
            }
        }
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, theirs) in theirs {
        assert!(ours[&name] == theirs, "{name}: {:?} / {theirs:?}", ours[&name]);
    }
    assert_eq!(built.at("dated").mtime_nsec, 500_000_000);
}
