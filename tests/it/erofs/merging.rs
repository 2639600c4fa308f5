//! What is visible when layers lie over one another.

use super::build;
use super::tarball::Tar;

fn paths(layers: &[Vec<u8>]) -> String {
    build(layers).paths().join(" ")
}

#[test]
fn upper_files_win_and_lower_ones_show_through() {
    let lower = Tar::new().dir("etc", 0o755).file("etc/a", "1").file("etc/b", "1").end();
    let upper = Tar::new().file("etc/b", "2").file("c", "2").end();
    let built = build(&[lower, upper]);
    assert_eq!(built.paths().join(" "), "c etc etc/a etc/b");
    assert_eq!(built.text("etc/a") + &built.text("etc/b"), "12");
    assert_eq!(built.at("etc").mode, 0o040_755);
}

#[test]
fn attributes_of_directories_come_from_the_topmost_layer_that_has_them() {
    let first = Tar::new().dir("d", 0o700).dir("", 0o711).end();
    assert!(super::try_build(&[first], &Default::default()).is_err());
    let first = Tar::new().dir("./", 0o711).dir("d", 0o700).dir("e/", 0o701).end();
    let second = Tar::new().file("d/x", "").dir("e", 0o702).end();
    let third = Tar::new().file("d/y", "").file("e/y", "").file("new/y", "").end();
    let built = build(&[first, second, third]);
    assert_eq!(built.at("").mode, 0o040_711);
    assert_eq!(built.at("d").mode, 0o040_700);
    assert_eq!(built.at("e").mode, 0o040_702);
    assert_eq!(built.at("new").mode, 0o040_755);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = || Tar::new().file("d/a", "1").file("d/b", "1").file("e/a", "1").end();
    let upper = Tar::new().file("d/.wh.a", "").end();
    assert_eq!(paths(&[lower(), upper]), "d d/b e e/a");
    let upper = Tar::new().file(".wh.d", "").end();
    assert_eq!(paths(&[lower(), upper]), "e e/a");
    // The same layer's own file stays, whichever comes first.
    let upper = || Tar::new().file("d/.wh.a", "").file("d/a", "2");
    assert_eq!(build(&[lower(), upper().end()]).text("d/a"), "2");
    let upper = Tar::new().file("d/a", "2").file("d/.wh.a", "").end();
    assert_eq!(build(&[lower(), upper]).text("d/a"), "2");
    // A whited-out directory that is made again starts empty, also for the layers above.
    let upper = Tar::new().file(".wh.d", "").file("d/n", "").end();
    let top = Tar::new().file("d/t", "").end();
    assert_eq!(paths(&[lower(), upper, top]), "d d/n d/t e e/a");
    // What an upper layer brings back is not hidden by a lower whiteout.
    let upper = Tar::new().file("d/.wh.a", "").end();
    let top = Tar::new().file("d/a", "3").end();
    assert_eq!(build(&[lower(), upper, top]).text("d/a"), "3");
}

#[test]
fn opaque_directories_hide_lower_layers_only() {
    let lower = || Tar::new().dir("d", 0o700).file("d/a", "1").file("d/s/b", "1").end();
    for upper in [
        Tar::new().file("d/.wh..wh..opq", "").file("d/n", "2"),
        Tar::new().file("d/n", "2").file("d/.wh..wh..opq", ""),
    ] {
        assert_eq!(paths(&[lower(), upper.end()]), "d d/n");
    }
    let root = Tar::new().file(".wh..wh..opq", "").file("n", "").end();
    assert_eq!(paths(&[lower(), root]), "n");
}

#[test]
fn directories_and_files_replace_one_another() {
    let dir = || Tar::new().file("x/a", "1").end();
    let file = || Tar::new().file("x", "2").end();
    assert_eq!(paths(&[dir(), file()]), "x");
    assert_eq!(paths(&[file(), dir()]), "x x/a");
    // A file between two directories of the same name keeps them apart.
    let upper = Tar::new().file("x/b", "3").end();
    assert_eq!(paths(&[dir(), file(), upper]), "x x/b");
    let link = Tar::new().symlink("x", "elsewhere").end();
    assert_eq!(paths(&[link, dir()]), "x x/a");
}

#[test]
fn later_entries_of_a_layer_replace_earlier_ones() {
    let built = build(&[Tar::new()
        .file("a", "first")
        .file("a", "last")
        .dir("d", 0o700)
        .file("d/x", "")
        .dir("d", 0o711)
        .file("e/x", "")
        .file("e", "file")
        .file("f", "")
        .file("f", "")
        .dir("f", 0o755)
        .end()]);
    assert_eq!(built.paths().join(" "), "a d d/x e f");
    assert_eq!(built.text("a"), "last");
    assert_eq!(built.at("d").mode, 0o040_711);
    assert_eq!(built.text("e"), "file");
    assert_eq!(built.at("f").mode, 0o040_755);
}

#[test]
fn hard_links_share_an_inode() {
    let big = "contents ".repeat(1000);
    let lower = Tar::new().file("a", &big).link("b", "a").link("d/c", "/b").end();
    let built = build(std::slice::from_ref(&lower));
    assert_eq!(built.at("a").nid, built.at("d/c").nid);
    assert_eq!(built.at("a").links, 3);
    assert_eq!(built.text("d/c"), big);
    // One of the names is replaced, the first one even.
    let built = build(&[lower.clone(), Tar::new().file("a", "new").end()]);
    assert_eq!((built.text("a"), built.text("b")), ("new".into(), big.clone()));
    assert_eq!((built.at("a").links, built.at("b").links), (1, 2));
    // All but one are hidden.
    let top = Tar::new().file(".wh.a", "").file(".wh.b", "").end();
    let built = build(&[lower.clone(), top]);
    assert_eq!((built.text("d/c"), built.at("d/c").links), (big.clone(), 1));
    // All are.
    let top = Tar::new().file("a", "").file(".wh.b", "").file(".wh.d", "").end();
    let built = build(&[lower, top]);
    assert_eq!(built.paths(), ["a"]);
    assert!(built.report.size_bytes < 3 * 4096);
}

#[test]
fn hard_links_reach_lower_layers() {
    let big = "contents ".repeat(1000);
    let first = Tar::new().file("a", &big).symlink("l", "d").file("d/f", "f").end();
    let second = Tar::new().file("unrelated", "").end();
    let third = Tar::new().link("b", "a").link("c", "b").link("g", "l/f").end();
    let built = build(&[first.clone(), second.clone(), third.clone()]);
    assert_eq!(built.at("b").nid, built.at("a").nid);
    assert_eq!(built.at("c").links, 3);
    assert_eq!(built.at("g").nid, built.at("d/f").nid);
    // The target is hidden by a still higher layer, the link is not.
    let top = Tar::new().file("a", "new").end();
    let built = build(&[first.clone(), second, third.clone(), top]);
    assert_eq!((built.text("a"), built.text("b")), ("new".into(), big));
    assert_eq!(built.at("b").links, 2);
    // The target is hidden below the link.
    let second = Tar::new().file(".wh.a", "").end();
    let error = super::try_build(&[first, second, third], &Default::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "layer layer2: entry `b`: hard link to `a`, which does not exist"
    );
}

#[test]
fn parents_that_are_symlinks_of_the_same_layer_are_followed_inside_the_image() {
    let built = build(&[Tar::new()
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr")
        .symlink("up", "../../../../usr")
        .symlink("usr/back", "../abs")
        .symlink("dangling", "not/there")
        .file("lib/a", "")
        .file("abs/b", "")
        .file("up/c", "")
        .file("usr/back/lib/d", "")
        .file("dangling/e", "")
        .link("lib/f", "up/c")
        .file("lib/.wh.g", "")
        .end()]);
    assert_eq!(
        built.paths().join(" "),
        "abs dangling lib not not/there not/there/e up usr usr/b usr/back usr/c usr/lib usr/lib/a \
         usr/lib/d usr/lib/f"
    );
    // Also when an upper layer has something else there.
    let lower = Tar::new().symlink("lib", "usr/lib").file("lib/a", "").end();
    let upper = Tar::new().file("lib", "file").end();
    assert_eq!(paths(&[lower, upper]), "lib usr usr/lib usr/lib/a");
    // A symlink of a lower layer is replaced by the directory that is implied.
    let lower = Tar::new().symlink("lib", "usr/lib").file("usr/lib/a", "").end();
    let upper = Tar::new().file("lib/b", "").end();
    assert_eq!(paths(&[lower, upper]), "lib lib/b usr usr/lib usr/lib/a");
}

#[test]
fn old_bookkeeping_entries_are_ignored() {
    let tar = Tar::new().file(".wh..wh.aufs", "").file(".wh..wh.plnk/1.2", "").file("a", "");
    assert_eq!(paths(&[tar.end()]), "a");
}

#[test]
fn nothing_and_empty_layers() {
    assert_eq!(paths(&[]), "");
    assert_eq!(paths(&[Tar::new().end(), Vec::new(), Tar::new().file("a", "").cut()]), "a");
}

#[test]
fn special_files_and_attributes() {
    let tar = Tar::new()
        .device("null", b'3', 1, 3)
        .device("disk", b'4', 259, 0xfffff)
        .entry(b"pipe", b'6', 0o600, b"", b"")
        .pax(&[
            ("uid", b"4294967295"),
            ("gid", b"70000"),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.user.k", b"v=1\n\0"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.nfs4.acl", b"?"),
        ])
        .entry(b"f", b'0', 0o6755, b"", b"x")
        .end();
    let built = build(&[tar]);
    assert_eq!((built.at("null").mode, built.at("null").rdev), (0o020_644, 0x103));
    assert_eq!((built.at("disk").mode, built.at("disk").rdev), (0o060_644, 0xfff1_03ff));
    assert_eq!(built.at("pipe").mode, 0o010_600);
    let stat = built.at("f");
    assert_eq!((stat.mode, stat.uid, stat.gid), (0o106_755, u32::MAX, 70_000));
    assert_eq!((stat.mtime, stat.mtime_nsec), (-2, 500_000_000));
    let xattrs: Vec<_> = stat.xattrs.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
    assert_eq!(
        xattrs,
        [(b"security.capability".as_slice(), b"\x01\0\0\x02".as_slice()), (b"user.k", b"v=1\n\0")]
    );
    assert_eq!(built.report.dropped_xattrs, 2);
}

#[test]
fn the_same_layers_make_the_same_bytes() {
    let lower = Tar::new().file("a", "x".repeat(10_000)).link("b", "a").dir("d", 0o700).end();
    let upper = Tar::new().file("a", "y".repeat(20_000)).file("d/.wh.x", "").end();
    let layers = [lower, upper];
    assert!(build(&layers).bytes() == build(&layers).bytes());
}
