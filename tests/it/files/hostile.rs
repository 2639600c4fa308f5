//! Requests that no kernel sends, from a guest that wants what is not shared.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use msb::files::MAX_MESSAGE;
use msb::runtime::VmExit;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::canary::Canary;
use super::client::*;

const BAD_NAMES: [&[u8]; 12] = [
    b"",
    b".",
    b"..",
    b"/",
    b"a/b",
    b"../beside",
    b"../canary/secret",
    b"/etc/passwd",
    b"sub/../..",
    b"sub/file",
    b"file/",
    b"./file",
];

/// Every request that has a name, with this one.
fn requests_with(name: &[u8], dir: u64, node: u64) -> Vec<(u32, u64, Vec<u8>)> {
    let body = Body::default;
    vec![
        (LOOKUP, dir, body().name(name).0),
        (MKDIR, dir, body().n32(0o777).n32(0).name(name).0),
        (MKNOD, dir, body().n32(0o100_666).n32(0).n32(0).n32(0).name(name).0),
        (MKNOD, dir, body().n32(0o010_666).n32(0).n32(0).n32(0).name(name).0),
        (UNLINK, dir, body().name(name).0),
        (RMDIR, dir, body().name(name).0),
        (SYMLINK, dir, body().name(name).name("target").0),
        (LINK, dir, body().n64(node).name(name).0),
        (CREATE, dir, body().n32(0o1102).n32(0o666).n32(0).n32(0).name(name).0),
        (RENAME2, dir, body().n64(dir).n32(0).n32(0).name("file").name(name).0),
        (RENAME2, dir, body().n64(dir).n32(0).n32(0).name(name).name("new").0),
        (RENAME2, dir, body().n64(dir).n32(2).n32(0).name("sub").name(name).0),
    ]
}

#[test]
fn a_name_is_the_name_of_one_entry() {
    let canary = Canary::new();
    let mut client = Client::start(vec![files(&canary.share())]);
    let root = client.share(0);
    let file = client.lookup(root, "file").unwrap().node;
    let sub = client.lookup(root, "sub").unwrap().node;
    let long = "n".repeat(256);
    let names = BAD_NAMES.into_iter().chain([long.as_bytes()]);
    for name in names {
        for dir in [root, sub, ROOT, file] {
            for (op, node, body) in requests_with(name, dir, file) {
                let answer = client.call(op, node, &body);
                assert!(answer.is_err(), "{op} {:?}", String::from_utf8_lossy(name));
            }
        }
    }
    // What is behind a zero is not part of a name.
    let cut = client.lookup(root, b"file\0/../../beside").unwrap();
    assert_eq!(cut.node, file);
    let entries = fs::read_dir(canary.share()).unwrap().count();
    assert_eq!(entries, 6);
    canary.lives();
}

#[test]
fn numbers_that_were_not_given_are_nothing() {
    let canary = Canary::new();
    let mut client = Client::start(vec![files(&canary.share())]);
    let root = client.share(0);
    let file = client.lookup(root, "file").unwrap().node;
    let sub = client.lookup(root, "sub").unwrap().node;
    let handle = client.open(file, libc::O_RDWR).unwrap();
    let secret = fs::metadata(canary.path("canary/secret")).unwrap();
    let secret = std::os::unix::fs::MetadataExt::ino(&secret);
    for forged in [0, 2, 3, 1 << 32, u64::MAX, secret, file ^ (1 << 48), file ^ (1 << 63)] {
        for (op, node, body) in requests_with(b"new", forged, file) {
            assert!(client.call(op, node, &body).is_err(), "{op}");
        }
        for op in [GETATTR, READLINK, OPEN, OPENDIR, STATFS] {
            assert_eq!(client.call(op, forged, &[0; 16]), Err(libc::ESTALE), "{op}");
        }
        assert_eq!(client.link(forged, root, "new"), Err(libc::ESTALE));
        assert_eq!(client.read(file, forged, 0, 10), Err(libc::EBADF));
        assert_eq!(client.read(forged, handle, 0, 10), Err(libc::EBADF));
        assert_eq!(client.write(file, forged, 0, b"x"), Err(libc::EBADF));
        client.tell(FORGET, forged, &u64::MAX.to_le_bytes());
    }
    // A handle is that of its file, and a directory's no file's.
    assert_eq!(client.read(sub, handle, 0, 10), Err(libc::EBADF));
    let dir = client.opendir(sub).unwrap();
    assert_eq!(client.read(sub, dir, 0, 10), Err(libc::EBADF));
    assert_eq!(client.call(READDIR, file, &read_body(handle, 0, 100)), Err(libc::EBADF));
    assert_eq!(client.release(RELEASE, sub, handle), Err(libc::EBADF));
    assert_eq!(client.read(file, handle, 0, 10).unwrap(), b"file");
    // What was forgotten is not known, and what is open of it stays open.
    client.tell(FORGET, file, &1_u64.to_le_bytes());
    assert_eq!(client.getattr(file), Err(libc::ESTALE));
    assert_eq!(client.read(file, handle, 0, 10).unwrap(), b"file");
    canary.lives();
}

#[test]
fn links_are_not_followed() {
    let canary = Canary::new();
    let mut client = Client::start(vec![files(&canary.share())]);
    let root = client.share(0);
    let target = canary.path("canary/secret").into_os_string().into_encoded_bytes();
    client.symlink(root, "made", &target).unwrap();
    client.symlink(root, "self", "/proc/self/fd").unwrap();
    for name in ["up", "absolute", "secret", "root", "made", "self"] {
        let link = client.lookup(root, name).unwrap();
        assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
        assert!(client.call(READLINK, link.node, &[]).is_ok());
        for below in ["secret", "deep", "passwd", "0", "etc"] {
            for (op, node, body) in requests_with(below.as_bytes(), link.node, link.node) {
                assert!(client.call(op, node, &body).is_err(), "{op} {name}/{below}");
            }
        }
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_TRUNC, 0o200_000] {
            assert!(client.open(link.node, flags).is_err(), "{name}");
        }
        assert!(client.opendir(link.node).is_err(), "{name}");
        for flags in [libc::O_WRONLY, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC] {
            assert!(client.create(root, name, flags, 0o666).is_err(), "{name}");
        }
        let sized = Set { size: Some(0), ..Set::default() };
        assert!(client.setattr(link.node, &sized).is_err(), "{name}");
        let moded = Set { mode: Some(0o777), ..Set::default() };
        assert!(client.setattr(link.node, &moded).is_err(), "{name}");
        assert!(client.setxattr(link.node, "user.x", b"x").is_err(), "{name}");
        // The link itself has times, and further names.
        let timed = Set { mtime: Some((1, 0)), ..Set::default() };
        assert_eq!(client.setattr(link.node, &timed).unwrap().mtime, 1, "{name}");
        let further = client.link(link.node, root, format!("{name}2")).unwrap();
        assert_eq!(further.node, link.node);
        assert!(
            fs::symlink_metadata(canary.share().join(format!("{name}2"))).unwrap().is_symlink()
        );
    }
    canary.lives();
}

#[test]
fn what_is_swapped_for_a_link_does_not_lead_out() {
    let canary = Canary::new();
    let mut client = Client::start(vec![files(&canary.share())]);
    let root = client.share(0);
    let sub = client.lookup(root, "sub").unwrap().node;
    let below = client.lookup(sub, "below").unwrap().node;
    fs::rename(canary.path("share/sub"), canary.path("share/moved")).unwrap();
    symlink("../canary", canary.path("share/sub")).unwrap();
    // The node is the directory, wherever it is.
    client.create(sub, "new", libc::O_WRONLY, 0o644).unwrap();
    client.create(below, "new", libc::O_WRONLY, 0o644).unwrap();
    assert!(canary.path("share/moved/new").exists());
    assert!(canary.path("share/moved/below/new").exists());
    assert_eq!(client.lookup(root, "sub").unwrap().mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(client.lookup(sub, "secret"), Err(libc::ENOENT));
    // Even outside of the share nothing above it can be named.
    assert_eq!(client.lookup(sub, ".."), Err(libc::EINVAL));
    canary.lives();
}

#[test]
fn races_with_the_host_do_not_lead_out() {
    let canary = Canary::new();
    let mut client = Client::start(vec![files(&canary.share())]);
    let root = client.share(0);
    let share = canary.share();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // A directory and a link that lead in and out, in turns.
            while !stop.load(Ordering::Relaxed) {
                fs::rename(share.join("sub"), share.join("away")).unwrap();
                symlink("../canary", share.join("sub")).unwrap();
                fs::remove_file(share.join("sub")).unwrap();
                fs::rename(share.join("away"), share.join("sub")).unwrap();
            }
        });
        let mut made = 0;
        for round in 0..3000 {
            let Ok(sub) = client.lookup(root, "sub") else { continue };
            let name = format!("n{}", round % 7);
            let _ = client.lookup(sub.node, "secret").map_err(|_| ()).is_ok_and(|_| panic!("out"));
            made += usize::from(client.create(sub.node, &name, libc::O_WRONLY, 0o666).is_ok());
            let _ = client.rename((sub.node, name.as_bytes()), (sub.node, b"secret"), 0);
            let _ = client.remove(UNLINK, sub.node, "secret");
            let _ = client.remove(RMDIR, sub.node, "deep");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(made > 0);
    });
    canary.lives();
}

#[test]
fn devices_are_not_made_and_nothing_but_files_is_opened() {
    let canary = Canary::new();
    let mut client = Client::start(vec![files(&canary.share())]);
    let root = client.share(0);
    for kind in [libc::S_IFCHR, libc::S_IFBLK, libc::S_IFDIR, libc::S_IFLNK, 0o170_000] {
        assert_eq!(client.mknod(root, "device", kind | 0o666), Err(libc::EPERM));
    }
    let pipe = client.mknod(root, "pipe", libc::S_IFIFO | 0o6777).unwrap();
    let socket = client.mknod(root, "socket", libc::S_IFSOCK | 0o666).unwrap();
    for node in [pipe.node, socket.node] {
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
            assert_eq!(client.open(node, flags), Err(libc::ENXIO));
        }
        assert_eq!(client.opendir(node), Err(libc::ENOTDIR));
        let sized = Set { size: Some(0), ..Set::default() };
        assert_eq!(client.setattr(node, &sized), Err(libc::EINVAL));
    }
    // No file that would run as its owner.
    let (file, _) = client.create(root, "new", libc::O_WRONLY, 0o106_777).unwrap();
    assert_eq!(file.mode, 0o100_777);
    let mode = Set { mode: Some(0o107_777), ..Set::default() };
    assert_eq!(client.setattr(file.node, &mode).unwrap().mode, 0o100_777);
    assert_eq!(client.mkdir(root, "dir", 0o7777).unwrap().mode, 0o041_777);
    canary.lives();
}

/// Ends with the code of a server that was sent what is no request.
fn ends(mut client: Client, bytes: &[u8]) {
    let _ = client.send(bytes);
    assert_eq!(client.end(), VmExit::Code(2));
}

#[test]
fn what_is_no_request_ends_the_server() {
    let canary = Canary::new();
    let start = || Client::start(vec![files(&canary.share())]);
    let with_length = |length: u32| {
        let mut message = message(GETATTR, 1, ROOT, (0, 0), &[0; 16]);
        message[..4].copy_from_slice(&length.to_le_bytes());
        message
    };
    let most = u32::try_from(MAX_MESSAGE).unwrap();
    for length in [0, 1, 39, most + 1, u32::MAX] {
        ends(start(), &with_length(length));
    }
    // One that is not there as a whole when all is over.
    for part in [&with_length(100)[..], &with_length(56)[..41], &[1]] {
        let mut client = start();
        client.send(part).unwrap();
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.end(), VmExit::Code(2));
    }
    // A write of another size than it says, and times that are none.
    let write = Body::default().n64(1).n64(0).n32(10).n32(0).n64(0).n64(0).bytes(b"short");
    ends(start(), &message(WRITE, 1, ROOT, (0, 0), &write.0));
    let set = Body::default().n32(9).n32(0).name("user.x").bytes(b"short");
    ends(start(), &message(SETXATTR, 1, ROOT, (0, 0), &set.0));
    let mut times = [0; 88];
    times[56..60].copy_from_slice(&u32::MAX.to_le_bytes());
    ends(start(), &message(SETATTR, 1, ROOT, (0, 0), &times));
    // No start, or another.
    let before = || Client::before_init(vec![files(&canary.share())]);
    ends(before(), &message(GETATTR, 1, ROOT, (0, 0), &[0; 16]));
    ends(before(), &message(INIT, 1, 0, (0, 0), &[0; 4]));
    canary.lives();
}

#[test]
fn unknown_requests_are_refused() {
    let canary = Canary::new();
    let mut client = Client::start(vec![files(&canary.share())]);
    let root = client.share(0);
    let known = BTreeSet::from([FORGET, 38, 42]);
    for op in (0..60).chain([4096, 1 << 20, u32::MAX]).filter(|op| !known.contains(op)) {
        let empty = client.call(op, root, &[]);
        assert!(empty.is_err() || op == STATFS || op == 5, "{op}");
    }
    for op in [33, 39, 40, 41, 48, 51, 4096] {
        assert_eq!(client.call(op, root, &[0; 64]), Err(libc::ENOSYS), "{op}");
    }
    assert_eq!(client.call(INIT, 0, &[7; 64]), Err(libc::EIO));
    client.getattr(root).unwrap();
    canary.lives();
}

/// One message of a guest that tries things: its operation, its node and its body.
fn attempt() -> impl Strategy<Value = (u32, u64, Vec<u8>)> {
    let op = prop_oneof![8 => 1_u32..52, 1 => any::<u32>()];
    let op = op.prop_filter("the end", |op| *op != 38);
    let node = prop_oneof![6 => 0_u64..12, 1 => any::<u64>()];
    let word = prop_oneof![
        4 => (0_u64..12).prop_map(|number| number.to_le_bytes().to_vec()),
        1 => any::<u64>().prop_map(|number| number.to_le_bytes().to_vec()),
        1 => Just(vec![0; 8]),
    ];
    let name = prop_oneof![
        Just("file"),
        Just("sub"),
        Just("up"),
        Just("secret"),
        Just("new"),
        Just(".."),
        Just("../beside"),
        Just("/"),
        Just("user.x"),
        Just("root"),
        Just("")
    ];
    let name = name.prop_map(|name: &str| [name.as_bytes(), &[0]].concat());
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    let piece = prop_oneof![4 => word, 4 => name, 1 => bytes];
    let body = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    (op, node, body)
}

/// Whatever is sent, each request is answered or the server ends, and nothing outside changes.
#[test]
fn random_requests_are_answered_or_end_the_server() {
    let canary = Canary::new();
    let mut runner = TestRunner::new(Config { cases: 60, ..Config::default() });
    let attempts = prop::collection::vec(attempt(), 1..80);
    let survived = std::cell::Cell::new(0);
    runner
        .run(&attempts, |attempts| {
            let mut client = Client::start(vec![files(&canary.share())]);
            // Small numbers mean nodes that exist.
            let mut nodes = vec![0, ROOT, client.share(0)];
            for name in ["file", "sub", "up", "secret", "root", "new"] {
                nodes.extend(client.lookup(nodes[2], name).map(|attr| attr.node));
            }
            let file = nodes[3];
            for flags in [libc::O_RDWR, libc::O_RDONLY] {
                let _ = client.open(file, flags);
            }
            let last = attempts.iter().try_fold((), |(), (op, node, body)| {
                let node = usize::try_from(*node).ok().and_then(|node| nodes.get(node).copied());
                let bytes = message(*op, 7, node.unwrap_or(*op as u64), (0, 0), body);
                client.send(&bytes)
            });
            let asked = last.is_ok().then(|| client.send(&message(STATFS, 9, ROOT, (0, 0), &[])));
            let answered = asked.is_some_and(|asked| asked.is_ok())
                && loop {
                    match client.receive() {
                        Ok((9, _)) => break true,
                        Ok(_) => {}
                        Err(error) => {
                            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it hangs");
                            break false;
                        }
                    }
                };
            if answered {
                survived.set(survived.get() + 1);
            } else {
                assert_eq!(client.end(), VmExit::Code(2));
            }
            canary.lives();
            Ok(())
        })
        .unwrap();
    assert!(survived.get() > 0);
}

#[test]
fn who_does_not_listen_waits() {
    let canary = Canary::new();
    let mut client = Client::start(vec![files(&canary.share())]);
    let root = client.share(0);
    let mut unheard = client.stream.try_clone().unwrap();
    let asking = thread::spawn(move || {
        let asked = message(READDIRPLUS, 5, ROOT, (0, 0), &read_body(0, 0, 4096));
        for _ in 0..20_000 {
            std::io::Write::write_all(&mut unheard, &asked).unwrap();
        }
    });
    for _ in 0..20_000 {
        assert_eq!(client.receive().unwrap().0, 5);
    }
    asking.join().unwrap();
    client.getattr(root).unwrap();
}
