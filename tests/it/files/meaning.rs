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

/// Every request that changes something, on the entries of a share.
fn changes(client: &mut Client, root: u64) -> Vec<(&'static str, Result<(), i32>)> {
    let file = client.lookup(root, "file").unwrap().node;
    let sub = client.lookup(root, "sub").unwrap().node;
    let set = |change: fn(&mut Set)| {
        let mut set = Set::default();
        change(&mut set);
        set
    };
    let nothing = |result: Result<Attr, i32>| result.map(drop);
    let open = client.open(file, libc::O_RDONLY).unwrap();
    let allocate = Body::default().n64(open).n64(0).n64(1).n64(0);
    vec![
        ("mkdir", nothing(client.mkdir(root, "n1", 0o755))),
        ("mknod", nothing(client.mknod(root, "n2", libc::S_IFREG | 0o644))),
        ("symlink", nothing(client.symlink(root, "n3", "target"))),
        ("link", nothing(client.link(file, root, "n4"))),
        ("create", client.create(root, "n5", libc::O_WRONLY, 0o644).map(drop)),
        ("create what is there", client.create(root, "file", libc::O_RDWR, 0o644).map(drop)),
        ("unlink", client.remove(UNLINK, root, "file")),
        ("rmdir", client.remove(RMDIR, root, "sub")),
        ("rename", client.rename((root, b"file"), (sub, b"file"), 0)),
        ("mode", nothing(client.setattr(file, &set(|set| set.mode = Some(0o600))))),
        ("owner", nothing(client.setattr(file, &set(|set| set.uid = Some(1))))),
        ("size", nothing(client.setattr(file, &set(|set| set.size = Some(1))))),
        ("time", nothing(client.setattr(file, &set(|set| set.mtime = Some((1, 1)))))),
        ("open to write", client.open(file, libc::O_WRONLY).map(drop)),
        ("open to read and write", client.open(file, libc::O_RDWR).map(drop)),
        ("open and empty", client.open(file, libc::O_RDONLY | libc::O_TRUNC).map(drop)),
        ("write", client.write(file, open, 0, b"x").map(drop)),
        ("allocate", client.call(FALLOCATE, file, &allocate.0).map(drop)),
        ("set an attribute", client.setxattr(file, "user.a", b"x")),
        ("remove an attribute", client.remove(REMOVEXATTR, file, "user.a")),
    ]
}

#[test]
fn nothing_of_a_read_only_share_changes() {
    let canary = super::canary::Canary::new();
    let share = Share { readonly: true, ..files(&canary.share()) };
    let mut client = Client::start(vec![share, files(&canary.share())]);
    let (readonly, writable) = (client.share(0), client.share(1));
    assert_ne!(readonly, writable);
    for (what, result) in changes(&mut client, readonly) {
        assert_eq!(result, Err(libc::EROFS), "{what}");
    }
    let file = client.lookup(readonly, "file").unwrap().node;
    let other = client.lookup(writable, "sub").unwrap().node;
    assert_eq!(client.link(file, other, "new"), Err(libc::EROFS));
    let moved = client.rename((readonly, b"file"), (other, b"new"), 0);
    assert_eq!(moved, Err(libc::EROFS));
    assert_eq!(fs::read(canary.path("share/file")).unwrap(), b"file");
    assert_eq!(fs::read_dir(canary.share()).unwrap().count(), 6);
    // The same things do work where they may.
    let works = changes(&mut client, writable);
    let failing = works.iter().filter(|(_, result)| result.is_err()).map(|(what, _)| *what);
    let failing: Vec<_> = failing.collect();
    // One is not empty, one is gone, and two have a handle for reading.
    assert_eq!(failing, ["rmdir", "rename", "write", "allocate"]);
    // The jail has it from the kernel, too.
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", client.server.pid())).unwrap();
    let options = |share: &str| {
        let mount = mounts.lines().find(|line| line.contains(share)).unwrap();
        mount.split(' ').nth(5).unwrap().split(',').next().unwrap().to_owned()
    };
    assert_eq!((options("-shares/0").as_str(), options("-shares/1").as_str()), ("ro", "rw"));
    canary.lives();
}

#[test]
fn shares_are_apart() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(one.path().join("file"), "one").unwrap();
    let single = files(&one.path().join("file"));
    let mut client = Client::start(vec![files(one.path()), files(two.path()), single]);
    let (first, second, third) = (client.share(0), client.share(1), client.share(2));
    let file = client.lookup(first, "file").unwrap().node;
    assert_eq!(client.link(file, second, "new"), Err(libc::EXDEV));
    assert_eq!(client.rename((first, b"file"), (second, b"new"), 0), Err(libc::EXDEV));
    assert_eq!(client.link(third, first, "new"), Err(libc::EXDEV));
    // What a share is called is not the guest's.
    assert_eq!(client.remove(UNLINK, ROOT, "2"), Err(libc::EPERM));
    assert_eq!(client.remove(RMDIR, ROOT, "1"), Err(libc::EPERM));
    assert_eq!(client.rename((first, b"file"), (ROOT, b"2"), 0), Err(libc::EPERM));
    assert_eq!(client.rename((ROOT, b"2"), (first, b"new"), 0), Err(libc::EPERM));
    assert_eq!(client.rename((ROOT, b"0"), (ROOT, b"1"), 2), Err(libc::EPERM));
    assert_eq!(client.mkdir(ROOT, "3", 0o755), Err(libc::EPERM));
    let set = Set { mode: Some(0), ..Set::default() };
    assert_eq!(client.setattr(ROOT, &set), Err(libc::EPERM));
    let handle = client.open(third, libc::O_RDWR | libc::O_TRUNC).unwrap();
    client.write(third, handle, 0, b"replaced").unwrap();
    assert_eq!(fs::read(one.path().join("file")).unwrap(), b"replaced");
}

#[test]
fn a_disk_keeps_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    fs::write(&path, vec![1; 8192]).unwrap();
    let disk = Share { kind: ShareKind::Disk, ..files(&path) };
    let mut client = Client::start(vec![disk.clone(), Share { readonly: true, ..disk }]);
    let (node, readonly) = (client.share(0), client.share(1));
    let handle = client.open(node, libc::O_RDWR | libc::O_APPEND).unwrap();
    assert_eq!(client.write(node, handle, 4096, &[2; 4096]), Ok(4096));
    assert_eq!(client.write(node, handle, 4097, &[3; 4096]), Err(libc::ENOSPC));
    assert_eq!(client.write(node, handle, 8192, &[3]), Err(libc::ENOSPC));
    assert_eq!(client.write(node, handle, i64::MAX as u64, &[3]), Err(libc::ENOSPC));
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let zero = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    let allocate = |client: &mut Client, mode: i32, offset: u64, length: u64| {
        let body = Body::default().n64(handle).n64(offset).n64(length);
        let body = body.n32(mode.cast_unsigned()).n32(0);
        client.call(FALLOCATE, node, &body.0).map(drop)
    };
    assert_eq!(allocate(&mut client, hole, 0, 1024), Ok(()));
    assert_eq!(allocate(&mut client, zero, 1024, 1024), Ok(()));
    assert_eq!(allocate(&mut client, zero, 8192, 1), Err(libc::ENOSPC));
    for refused in [0, libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_ZERO_RANGE] {
        assert_eq!(allocate(&mut client, refused, 0, 1), Err(libc::EPERM));
    }
    let set = Set { size: Some(0), ..Set::default() };
    assert_eq!(client.setattr(node, &set), Err(libc::EPERM));
    assert_eq!(client.open(node, libc::O_RDWR | libc::O_TRUNC), Err(libc::EPERM));
    assert_eq!(client.setxattr(node, "user.a", b"x"), Err(libc::EPERM));
    assert_eq!(client.open(readonly, libc::O_RDWR), Err(libc::EROFS));
    client.call(FSYNC, node, &Body::default().n64(handle).n64(0).0).unwrap();
    let content = fs::read(&path).unwrap();
    assert_eq!(content, [vec![0; 2048], vec![1; 2048], vec![2; 4096]].concat());
    // The host makes it longer, and that is seen at once.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(16_384).unwrap();
    assert_eq!(client.getattr(node).unwrap().size, 16_384);
    let answer = client.call(GETATTR, node, &[0; 16]).unwrap();
    assert_eq!((u64_at(&answer, 0), u32_at(&answer, 8)), (0, 0), "how long to believe it");
    assert_eq!(client.write(node, handle, 8192, &[4; 8192]), Ok(8192));
}

#[test]
fn owners_are_what_the_guest_says() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("usual"), "").unwrap();
    let mut client = Client::start(vec![files(dir.path())]);
    let own = rustix::process::geteuid().as_raw();
    let root = client.share(0);
    client.caller = (0, 0);
    let made = [
        client.create(root, "file", libc::O_WRONLY, 0o400).unwrap().0,
        client.mkdir(root, "dir", 0o755).unwrap(),
        client.mknod(root, "node", libc::S_IFREG).unwrap(),
    ];
    for attr in made {
        assert_eq!((attr.uid, attr.gid), (0, 0));
    }
    // Links and pipes cannot have the attribute.
    let link = client.symlink(root, "link", "x").unwrap();
    let pipe = client.mknod(root, "pipe", libc::S_IFIFO | 0o600).unwrap();
    assert_eq!(((link.uid, link.gid), (pipe.uid, pipe.gid)), ((1000, 1000), (1000, 1000)));
    client.caller = (1000, 1000);
    let file = client.create(root, "mine", libc::O_WRONLY, 0o444).unwrap().0;
    assert_eq!((file.uid, file.gid), (1000, 1000));
    let owned = |uid, gid| Set { uid, gid, ..Set::default() };
    let changed = client.setattr(file.node, &owned(Some(5), None)).unwrap();
    assert_eq!((changed.uid, changed.gid, changed.mode), (5, 1000, 0o100_444));
    let changed = client.setattr(file.node, &owned(None, Some(u32::MAX - 1))).unwrap();
    assert_eq!((changed.uid, changed.gid), (5, u32::MAX - 1));
    for name in ["file", "dir", "node", "mine", "usual", "link"] {
        let meta = fs::symlink_metadata(dir.path().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7000), (own, 0), "{name}");
    }
    // The note is not for guests, and gone when there is nothing to note.
    let names = |client: &mut Client, node| {
        let body = Body::default().n32(4096).n32(0);
        client.call(LISTXATTR, node, &body.0).unwrap()
    };
    assert_eq!(names(&mut client, file.node), b"");
    assert_eq!(client.getxattr(file.node, "user.msb.owner"), Err(libc::ENODATA));
    assert_eq!(client.setxattr(file.node, "user.msb.owner", b"0:0"), Err(libc::EOPNOTSUPP));
    let removed = client.remove(REMOVEXATTR, file.node, "user.msb.owner");
    assert_eq!(removed, Err(libc::EOPNOTSUPP));
    let noted = |name: &str| {
        let mut value = [0; 32];
        let length = rustix::fs::getxattr(dir.path().join(name), "user.msb.owner", &mut value);
        length.map(|length| String::from_utf8(value[..length].to_vec()).unwrap())
    };
    assert_eq!(noted("mine").unwrap(), "5:4294967294");
    client.setattr(file.node, &owned(Some(1000), Some(1000))).unwrap();
    assert_eq!(noted("mine"), Err(rustix::io::Errno::NODATA));
    assert_eq!(client.setattr(link.node, &owned(Some(0), Some(0))), Err(libc::EPERM));
    client.setattr(link.node, &owned(Some(1000), Some(1000))).unwrap();
}

#[test]
fn attributes_are_those_of_users() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    rustix::fs::setxattr(
        dir.path().join("file"),
        "user.host",
        b"from the host",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let mut client = Client::start(vec![files(dir.path())]);
    let file = client.walk("file").unwrap().node;
    assert_eq!(client.getxattr(file, "user.host").unwrap(), b"from the host");
    client.setxattr(file, "user.a", &[7; 1000]).unwrap();
    let list = |client: &mut Client, size: u32| {
        client.call(LISTXATTR, file, &Body::default().n32(size).n32(0).0)
    };
    let mut names: Vec<_> = list(&mut client, 4096).unwrap();
    assert_eq!(u32_at(&list(&mut client, 0).unwrap(), 0), 17);
    assert_eq!(list(&mut client, 5), Err(libc::ERANGE));
    names.sort_unstable();
    assert_eq!(names.len(), 17);
    let ask = |client: &mut Client, size: u32| {
        client.call(GETXATTR, file, &Body::default().n32(size).n32(0).name("user.a").0)
    };
    assert_eq!(u32_at(&ask(&mut client, 0).unwrap(), 0), 1000);
    assert_eq!(ask(&mut client, 999), Err(libc::ERANGE));
    for name in [
        "security.capability",
        "trusted.overlay.opaque",
        "system.posix_acl_access",
        "user",
        "user.",
        "x",
    ] {
        assert_eq!(client.getxattr(file, name), Err(libc::ENODATA), "{name}");
        assert_eq!(client.setxattr(file, name, b"x"), Err(libc::EOPNOTSUPP), "{name}");
        assert_eq!(client.remove(REMOVEXATTR, file, name), Err(libc::EOPNOTSUPP), "{name}");
    }
    let long = format!("user.{}", "n".repeat(251));
    assert_eq!(client.setxattr(file, &long, b"x"), Err(libc::ERANGE));
    assert!(client.setxattr(file, "user.large", &vec![0; 65_537]).is_err());
}

#[test]
fn times_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let mut client = Client::start(vec![files(dir.path())]);
    let file = client.walk("file").unwrap().node;
    for time in [(0, 0), (1, 999_999_999), (-1, 500_000_000), (-1_000_000, 1), (1 << 32, 5)] {
        let set = Set { mtime: Some(time), ..Set::default() };
        let told = client.setattr(file, &set).unwrap();
        assert_eq!((told.mtime, told.mtime_nanos), time);
        let meta = fs::metadata(dir.path().join("file")).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (time.0, i64::from(time.1)));
    }
}

#[test]
fn a_share_that_cannot_be_served_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |share: Share| {
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let spawned =
            msb::files::spawn_program(&program(), vec![share], theirs.into(), "tests", false);
        spawned.unwrap_err().to_string()
    };
    let absent = dir.path().join("absent");
    let why = refused(files(&absent));
    assert!(why.contains("absent: No such file"), "{why}");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let why = refused(files(&dir.path().join("pipe")));
    assert!(why.contains("pipe: "), "{why}");
    let why = refused(Share { kind: ShareKind::Disk, ..files(dir.path()) });
    assert!(why.contains("not supported"), "{why}");
}
