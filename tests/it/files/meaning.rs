//! What requests mean.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use msb::files::{Share, ShareKind};
use msb::runtime::VmExit;

use super::client::*;

#[test]
fn a_tree_is_served() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/file"), "content").unwrap();
    let mut client = Client::start(vec![files(dir.path())]);
    let missing: Vec<_> = client.server.jail().missing().collect();
    assert_eq!(missing, [], "the jail");
    let file = client.walk("sub/file").unwrap();
    assert_eq!((file.size, file.mode, file.uid, file.gid), (7, 0o100_644, 1000, 1000));
    let handle = client.open(file.node, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(file.node, handle, 0, 4096).unwrap(), b"content");
    assert_eq!(client.read(file.node, handle, 3, 2).unwrap(), b"te");
    assert_eq!(client.write(file.node, handle, 0, b"x"), Err(libc::EBADF));
    client.release(RELEASE, file.node, handle).unwrap();
    assert_eq!(client.read(file.node, handle, 0, 1), Err(libc::EBADF));
    let root = client.share(0);
    let made = client.mkdir(root, "made", 0o750).unwrap();
    let (new, handle) = client.create(made.node, "new", libc::O_RDWR, 0o640).unwrap();
    assert_eq!(client.write(new.node, handle, 2, b"abc"), Ok(3));
    let meta = fs::metadata(dir.path().join("made/new")).unwrap();
    assert_eq!((meta.len(), meta.permissions().mode() & 0o7777), (5, 0o640));
    assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(fs::read(dir.path().join("made/new")).unwrap(), b"\0\0abc");
    for op in [READDIR, READDIRPLUS] {
        let names: Vec<_> = client.list(op, root).unwrap();
        let names: Vec<_> = names.iter().map(|(name, _, kind)| (name.as_slice(), *kind)).collect();
        assert_eq!(names, [(b"made".as_slice(), 4), (b"sub", 4)]);
    }
    drop(client.stream.shutdown(std::net::Shutdown::Write));
    assert_eq!(client.end(), VmExit::Code(0));
}

#[test]
fn shares_are_the_entries_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("single"), "one").unwrap();
    let shares = vec![
        files(dir.path()),
        files(&dir.path().join("single")),
        Share { readonly: true, ..files(dir.path()) },
        Share { kind: ShareKind::Disk, ..files(&dir.path().join("single")) },
    ];
    let mut client = Client::start(shares);
    for op in [READDIR, READDIRPLUS] {
        let names: Vec<_> = client.list(op, ROOT).unwrap();
        let names: Vec<_> = names.iter().map(|(name, _, kind)| (name.as_slice(), *kind)).collect();
        assert_eq!(names, [(b"0".as_slice(), 4), (b"1", 8), (b"2", 4), (b"3", 8)]);
    }
    for wrong in ["4", "00", "+1", "-1", "", ".", "..", "0/single", "x"] {
        assert!(client.lookup(ROOT, wrong).is_err(), "{wrong:?}");
    }
}
