//! Trees from one directory to another, and items that no sender sends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use msb_protocol::{FsErrorKind, FsFailure, MAX_TREE_DEPTH, Node, TreeItem};
use tempfile::TempDir;

use super::*;

fn sent(source: &Path, follow: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    send(source, follow, &mut Output::new(&mut bytes), &mut |_| {}).unwrap();
    bytes
}

fn made(bytes: &[u8], target: Target<'_>) -> Result<(), TransferError> {
    receive(&mut Input::new(bytes), target, Policy::default(), &mut |_| {})
}

fn to<'a>(path: &'a Path, name: &'a str) -> Target<'a> {
    Target { path, name: OsStr::new(name), contents: false }
}

fn copy(source: &Path, target: &Path) -> Result<(), TransferError> {
    made(&sent(source, false), Target { name: source.file_name().unwrap(), ..to(target, "") })
}

/// What is below `root`, by path: mode, time, links, and contents or target.
fn listing(root: &Path) -> BTreeMap<String, (u32, i64, u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let contents = if metadata.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            // Short enough for a message.
            let contents = fs::read(&path).unwrap();
            let hasher = BuildHasherDefault::<DefaultHasher>::default();
            format!("{} bytes, {}", contents.len(), hasher.hash_one(&contents)).into_bytes()
        };
        let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.insert(name, (metadata.mode(), metadata.mtime(), links, contents));
    }
    found
}

fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("a/file"), "hello").unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("a/large"), vec![7; 300_001]).unwrap();
    fs::hard_link(dir.join("a/file"), dir.join("a/b/again")).unwrap();
    symlink("../no/where", dir.join("a/link")).unwrap();
    fs::set_permissions(dir.join("empty"), PermissionsExt::from_mode(0o640)).unwrap();
    fs::set_permissions(dir.join("a/b"), PermissionsExt::from_mode(0o750)).unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 32 << 20).unwrap();
    sparse.set_len(64 << 20).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for path in ["empty", "a/b", "a"] {
        fs::File::open(dir.join(path)).unwrap().set_modified(old).unwrap();
    }
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let temp = tempfile::tempdir().unwrap();
    let source = temp.path().join("source");
    tree(&source);
    copy(&source, &temp.path().join("new")).unwrap();
    assert_eq!(listing(&source), listing(&temp.path().join("new")));
    let copied = fs::metadata(temp.path().join("new/sparse")).unwrap();
    assert!(copied.blocks() * 512 < 1 << 20, "{} blocks", copied.blocks());
    assert!(sent(&source, false).len() < 400_000);
    // Once more, over itself.
    let bytes = sent(&source, false);
    made(&bytes, Target { contents: true, ..to(&temp.path().join("new"), "source") }).unwrap();
    // Directories that exist keep their attributes, so theirs is the time of the last change.
    let files = |root: &Path| {
        let mut found = listing(root);
        found.retain(|path, _| !root.join(path).is_dir());
        found
    };
    assert_eq!(files(&source), files(&temp.path().join("new")));
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2);
}

#[test]
fn the_root_is_named_as_cp_does() {
    let temp = tempfile::tempdir().unwrap();
    let at = |path: &str| temp.path().join(path);
    fs::create_dir_all(at("dir")).unwrap();
    fs::create_dir_all(at("source/sub")).unwrap();
    fs::write(at("file"), "1").unwrap();
    fs::write(at("other"), "2").unwrap();
    symlink("dir", at("to-dir")).unwrap();
    symlink("other", at("to-file")).unwrap();

    copy(&at("file"), &at("new")).unwrap();
    copy(&at("file"), &at("dir")).unwrap();
    copy(&at("other"), &at("to-dir/")).unwrap();
    copy(&at("file"), &at("to-file")).unwrap();
    for path in ["new", "dir/file"] {
        assert_eq!(fs::read(at(path)).unwrap(), b"1", "{path}");
    }
    assert_eq!(fs::read(at("dir/other")).unwrap(), b"2");
    // A link in the way is replaced, not written through.
    assert_eq!(fs::read(at("other")).unwrap(), b"2");
    assert!(!fs::symlink_metadata(at("to-file")).unwrap().is_symlink());

    copy(&at("source"), &at("dir")).unwrap();
    copy(&at("source"), &at("brand-new/")).unwrap();
    made(&sent(&at("source"), false), Target { contents: true, ..to(&at("to-dir"), "x") }).unwrap();
    for path in ["dir/source/sub", "brand-new/sub", "dir/sub"] {
        assert!(at(path).is_dir(), "{path}");
    }
    for (source, target, kind) in [
        ("source", "file", ErrorKind::NotADirectory),
        ("file", "missing/", ErrorKind::NotFound),
        ("file", "missing/name", ErrorKind::NotFound),
        ("file", "file/name", ErrorKind::NotADirectory),
        ("file", "file/", ErrorKind::NotADirectory),
    ] {
        match copy(&at(source), &at(target)) {
            Err(TransferError::Local { source, .. }) => assert_eq!(source.kind(), kind, "{target}"),
            other => panic!("{target}: {other:?}"),
        }
    }
    // A directory and a file do not replace each other.
    fs::create_dir(at("dir/new")).unwrap();
    assert!(copy(&at("new"), &at("dir")).is_err());
    fs::remove_dir(at("dir/sub")).unwrap();
    fs::write(at("dir/sub"), "").unwrap();
    let bytes = sent(&at("source"), false);
    assert!(made(&bytes, Target { contents: true, ..to(&at("dir"), "") }).is_err());
    let names = fs::read_dir(at("dir")).unwrap().map(|e| e.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".msb")));
}

#[test]
fn a_link_is_followed_only_at_the_root_and_when_asked() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("file"), "1").unwrap();
    symlink("file", temp.path().join("link")).unwrap();
    let link = temp.path().join("link");
    made(&sent(&link, true), to(&temp.path().join("followed"), "")).unwrap();
    made(&sent(&link, false), to(&temp.path().join("kept"), "")).unwrap();
    assert_eq!(fs::read_link(temp.path().join("kept")).unwrap(), Path::new("file"));
    assert!(!fs::symlink_metadata(temp.path().join("followed")).unwrap().is_symlink());
}

#[test]
fn special_files_are_left_out_and_named() {
    let temp = tempfile::tempdir().unwrap();
    let source = temp.path().join("source");
    fs::create_dir(&source).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    let mut skipped = Vec::new();
    let bytes = sent(&source, false);
    let mut watch = |event: Event<'_>| {
        if let Event::Skipped { path, why } = event {
            skipped.push((path.to_vec(), why.to_owned()));
        }
    };
    let new = temp.path().join("new");
    receive(&mut Input::new(&bytes[..]), to(&new, ""), Policy::default(), &mut watch).unwrap();
    assert_eq!(skipped, [(b"socket".to_vec(), "a socket is not copied".to_owned())]);
    assert_eq!(fs::read_dir(new).unwrap().count(), 0);
    let error = send(&source.join("socket"), false, &mut Output::new(Vec::new()), &mut |_| {});
    assert!(matches!(error, Err(TransferError::Local { .. })));
}

#[test]
fn special_bits_come_along_only_when_wanted() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node { name: "x".into(), mode: 0o6755, ..Node::default() };
    let bytes = stream(&[TreeItem::File { node, size: 0 }, TreeItem::End, TreeItem::Finished]);
    let at = temp.path().join("x");
    for (special_bits, mode) in [(false, 0o755), (true, 0o6755)] {
        let policy = Policy { special_bits, owners: false };
        receive(&mut Input::new(&bytes[..]), to(&at, ""), policy, &mut |_| {}).unwrap();
        assert_eq!(fs::metadata(&at).unwrap().mode() & 0o7777, mode);
    }
}

fn node(name: &str) -> Node {
    Node { name: name.into(), mode: 0o755, ..Node::default() }
}

fn dir(name: &str) -> TreeItem {
    TreeItem::Dir(node(name))
}

fn file(name: &str, size: u64) -> TreeItem {
    TreeItem::File { node: node(name), size }
}

fn link(name: &str, target: &str) -> TreeItem {
    TreeItem::Symlink { node: node(name), target: target.into() }
}

fn hard(name: &str, to: &[&str]) -> TreeItem {
    TreeItem::HardLink { name: name.into(), to: to.iter().map(|name| (*name).into()).collect() }
}

/// The frames of `items`; a file of size n gets n bytes.
fn stream(items: &[TreeItem]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut output = Output::new(&mut bytes);
    for item in items {
        output.message(item).unwrap();
        if let TreeItem::File { size, .. } = item {
            let size = usize::try_from(*size).unwrap().min(100);
            output.data(0, size, |space| Ok(space.len())).unwrap();
        }
    }
    output.flush().unwrap();
    bytes
}

/// A directory with a target in it, and what is around it.
struct Around {
    temp: TempDir,
}

impl Around {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("target/existing")).unwrap();
        fs::create_dir(temp.path().join("outside")).unwrap();
        fs::write(temp.path().join("outside/secret"), "secret").unwrap();
        symlink("../outside", temp.path().join("target/planted")).unwrap();
        symlink("../outside/secret", temp.path().join("target/file")).unwrap();
        Self { temp }
    }

    fn receive(&self, items: &[TreeItem]) -> Result<(), TransferError> {
        let target = self.temp.path().join("target");
        made(&stream(items), Target { contents: true, ..to(&target, "root") })
    }

    fn assert_unharmed(&self, what: &str) {
        let names = |path: &str| {
            let entries = fs::read_dir(self.temp.path().join(path)).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["outside", "target"], "{what}");
        assert_eq!(names("outside"), ["secret"], "{what}");
        let secret = self.temp.path().join("outside/secret");
        assert_eq!(fs::read(&secret).unwrap(), b"secret", "{what}");
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1, "{what}");
        for name in names("target") {
            assert!(!name.starts_with(".msb"), "{what}: {name} is left");
        }
    }
}

#[test]
fn nothing_is_made_outside_of_the_target() {
    let deep: Vec<_> = (0..=MAX_TREE_DEPTH).map(|_| dir("d")).collect();
    let cases: Vec<(&str, Vec<TreeItem>)> = vec![
        ("up", vec![dir("r"), dir(".."), file("x", 1)]),
        ("here", vec![dir("r"), dir(".")]),
        ("a path", vec![dir("r"), file("../x", 1), TreeItem::End]),
        ("an absolute name", vec![dir("r"), file("/tmp/x", 1)]),
        ("no name", vec![dir("r"), file("", 1)]),
        ("a NUL byte", vec![dir("r"), file("x\0", 1)]),
        ("a long name", vec![dir("r"), file(&"x".repeat(256), 1)]),
        ("a link that was sent", vec![dir("r"), link("l", "../outside"), dir("l"), file("x", 1)]),
        ("a link that was there", vec![dir("r"), dir("planted"), file("x", 1)]),
        (
            "a link in a new directory",
            vec![dir("r"), dir("new"), link("l", "../../outside"), dir("l"), file("x", 1)],
        ),
        ("a hard link by a link", vec![dir("r"), hard("x", &["planted", "secret"])]),
        ("a hard link up", vec![dir("r"), hard("x", &["..", "outside", "secret"])]),
        ("a hard link to a path", vec![dir("r"), hard("x", &["../outside/secret"])]),
        ("a hard link to nothing", vec![dir("r"), hard("x", &[])]),
        ("a hard link as root", vec![hard("x", &["y"])]),
        ("deep", deep),
        ("ends", vec![dir("r"), TreeItem::End, TreeItem::End]),
        ("behind the root", vec![dir("r"), TreeItem::End, file("x", 1), TreeItem::End]),
        ("no root", vec![TreeItem::Finished]),
        ("a lone hole", vec![dir("r"), TreeItem::Hole(1)]),
        ("too long a hole", vec![dir("r"), file("x", 1), TreeItem::Hole(1)]),
        ("an endless hole", vec![dir("r"), file("x", 100), TreeItem::Hole(u64::MAX)]),
        ("short", vec![dir("r"), file("x", 101), TreeItem::End]),
        ("within a file", vec![dir("r"), file("x", 101), file("y", 1)]),
        ("not finished", vec![dir("r"), dir("new"), TreeItem::Finished]),
        ("cut", vec![dir("r"), dir("new"), dir("inner"), file("x", 1)]),
        ("an empty link", vec![dir("r"), link("x", "")]),
        ("a long link", vec![dir("r"), link("x", &"x".repeat(4096))]),
    ];
    for (what, items) in cases {
        let around = Around::new();
        let result = around.receive(&items);
        assert!(result.is_err(), "{what}");
        around.assert_unharmed(what);
        assert!(!around.temp.path().join("target/new").exists(), "{what}");
        assert!(!around.temp.path().join("target/x").exists(), "{what}");
    }
}

#[test]
fn a_link_in_the_way_is_replaced() {
    let around = Around::new();
    let items = [
        dir("r"),
        file("file", 4),
        TreeItem::End,
        file("planted", 3),
        TreeItem::End,
        TreeItem::End,
    ];
    around.receive(&[&items[..], &[TreeItem::Finished]].concat()).unwrap();
    around.assert_unharmed("replaced");
    assert_eq!(fs::read(around.temp.path().join("target/planted")).unwrap().len(), 3);
}

#[test]
fn a_hard_link_to_the_link_itself_reads_nothing_outside() {
    let around = Around::new();
    around.receive(&[dir("r"), hard("x", &["file"]), TreeItem::End, TreeItem::Finished]).unwrap();
    around.assert_unharmed("a hard link");
    assert!(fs::symlink_metadata(around.temp.path().join("target/x")).unwrap().is_symlink());
}

#[test]
fn a_failure_there_is_told_and_what_is_incomplete_removed() {
    let around = Around::new();
    let failure =
        FsFailure { kind: FsErrorKind::Other, path: "x".into(), message: "no luck".into() };
    let locked = Node { mode: 0, ..node("locked") };
    let items = [
        dir("r"),
        file("whole", 1),
        TreeItem::End,
        dir("new"),
        TreeItem::Dir(locked),
        dir("inner"),
        TreeItem::End,
        TreeItem::End,
        TreeItem::Failed(failure.clone()),
    ];
    let error = around.receive(&items).unwrap_err();
    assert!(matches!(error, TransferError::Peer(told) if told == failure));
    around.assert_unharmed("a failure");
    assert!(around.temp.path().join("target/whole").exists());
    assert!(!around.temp.path().join("target/new").exists());
}

#[test]
fn contents_are_copied_with_their_holes() {
    let temp = tempfile::tempdir().unwrap();
    tree(temp.path());
    for name in ["sparse", "a/large", "empty"] {
        let from = fs::File::open(temp.path().join(name)).unwrap();
        let dir = fs::File::open(temp.path()).unwrap();
        let new = NewFile::beside(std::os::fd::AsFd::as_fd(&dir), b"copy").unwrap();
        copy_file(&from, new.file()).unwrap();
        new.finish().unwrap();
        let copy = temp.path().join("copy");
        assert!(fs::read(temp.path().join(name)).unwrap() == fs::read(&copy).unwrap(), "{name}");
        assert!(fs::metadata(copy).unwrap().blocks() * 512 < 1 << 20);
    }
}
