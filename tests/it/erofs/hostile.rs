//! Archives that are wrong, on purpose or not: a clear error each, never a panic, never a wrong image.

use std::fmt::Write as _;
use std::io::{self, Read};

use expect_test::expect;
use msb::image::build::{Layer, build_image};
use msb::image::layer::{LayerError, Limits};
use proptest::prelude::*;

use super::tarball::{Tar, header, seal};

/// Small enough that every limit can be met.
const LIMITS: Limits = Limits {
    layers: 3,
    total_bytes: 1 << 20,
    file_bytes: 1 << 19,
    image_bytes: 1 << 20,
    entries: 50,
    metadata_bytes: 64 << 10,
    depth: 8,
};

fn message(error: &LayerError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        write!(text, ": {error}").unwrap();
        source = error.source();
    }
    text
}

fn outcome(layers: &[Vec<u8>]) -> String {
    match super::try_build(layers, &LIMITS) {
        Ok(built) => format!("ok: {}", built.paths().join(" ")),
        Err(error) => message(&error),
    }
}

/// A header with one field changed.
fn field(path: &[u8], flag: u8, at: usize, bytes: &[u8]) -> [u8; 512] {
    let mut block = header(path, flag, 0, b"");
    block[at..at + bytes.len()].copy_from_slice(bytes);
    seal(block)
}

fn sparse(records: &[(&str, &[u8])], data: &[u8]) -> Vec<u8> {
    Tar::new().pax(records).file("s", data).end()
}

fn report(cases: &[(&str, Vec<u8>)]) -> String {
    cases.iter().fold(String::new(), |mut out, (what, tar)| {
        writeln!(out, "{what}: {}", outcome(std::slice::from_ref(tar))).unwrap();
        out
    })
}

#[test]
fn paths_never_leave_the_image() {
    let name = "n".repeat(256);
    let deep = "d/".repeat(9) + "x";
    let long = "long/".repeat(820);
    let cases = [
        ("dot dot", Tar::new().file("../etc/passwd", "").end()),
        ("dot dot inside", Tar::new().file("a/../../b", "").end()),
        ("dot dot alone", Tar::new().dir("..", 0o755).end()),
        ("absolute", Tar::new().file("/etc/passwd", "").file("//x", "").end()),
        ("NUL", Tar::new().pax(&[("path", b"a\0b")]).file("x", "").end()),
        ("no name", Tar::new().file("", "").end()),
        ("name too long", Tar::new().file(&name, "").end()),
        ("path too long", Tar::new().file(&long, "").end()),
        ("too deep", Tar::new().file(&deep, "").end()),
        ("root as file", Tar::new().file(".", "").end()),
        ("root as symlink", Tar::new().symlink("./", "/etc").end()),
        ("control characters", Tar::new().file("../a\u{1b}[31m\n", "").end()),
        ("not unicode", Tar::new().entry(b"\xff\xfe", b'5', 0o755, b"", b"").end()),
        ("file as parent", Tar::new().file("a", "").file("a/b", "").end()),
        ("device as parent", Tar::new().device("a", b'3', 1, 3).file("a/b/c", "").end()),
        ("symlink out", Tar::new().symlink("a", "/../../..").file("a/b", "").end()),
        ("symlink up", Tar::new().symlink("a/l", "../../../x").file("a/l/b", "").end()),
        ("symlink loop", Tar::new().symlink("a", "b").symlink("b", "a").file("a/c", "").end()),
        ("symlink to itself", Tar::new().symlink("a", "a/a/a").file("a/c", "").end()),
        ("symlink grows", Tar::new().symlink("a", &"b/".repeat(9)).file("a/c", "").end()),
        ("symlink to file", Tar::new().file("f", "").symlink("a", "f").file("a/c", "").end()),
        ("no target", Tar::new().symlink("a", "").end()),
        ("long target", Tar::new().symlink("a", &"t".repeat(4096)).end()),
        ("NUL in target", Tar::new().pax(&[("linkpath", b"a\0b")]).symlink("x", "").end()),
        ("link to dot dot", Tar::new().link("a", "../../etc/shadow").end()),
        ("link to nothing", Tar::new().link("a", "etc/shadow").end()),
        ("link to itself", Tar::new().link("a", "a").end()),
        ("link to directory", Tar::new().dir("d", 0o755).link("a", "d").end()),
        ("link to root", Tar::new().link("a", "/").end()),
        ("link through symlink", Tar::new().symlink("l", "/../..").link("a", "l/etc").end()),
        ("whiteout of nothing", Tar::new().file(".wh.", "").end()),
        ("whiteout of dot dot", Tar::new().file("a/.wh...", "").end()),
        ("below a whiteout", Tar::new().file(".wh.a/b", "").end()),
        ("whiteout through dot dot", Tar::new().file("../.wh.etc", "").end()),
    ];
    expect![[r#"
        dot dot: layer layer0: entry `../etc/passwd`: `..` in the path
        dot dot inside: layer layer0: entry `a/../../b`: `..` in the path
        dot dot alone: layer layer0: entry `..`: `..` in the path
        absolute: ok: etc etc/passwd x
        NUL: layer layer0: entry `a\0b`: NUL in a name
        no name: layer layer0: entry ``: no name
        name too long: layer layer0: entry `nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…`: a name is longer than 255 bytes
        path too long: layer layer0: entry `long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/…`: the path is longer than 4095 bytes
        too deep: layer layer0: entry `d/d/d/d/d/d/d/d/d/x`: more than 8 names in a path
        root as file: layer layer0: entry `.`: the root must be a directory
        root as symlink: layer layer0: entry `./`: the root must be a directory
        control characters: layer layer0: entry `../a\u{1b}[31m\n`: `..` in the path
        not unicode: ok: ��
        file as parent: layer layer0: entry `a/b`: `a` is not a directory
        device as parent: layer layer0: entry `a/b/c`: `a` is not a directory
        symlink out: ok: a b
        symlink up: ok: a a/l x x/b
        symlink loop: layer layer0: entry `a/c`: too many symbolic links in the path
        symlink to itself: layer layer0: entry `a/c`: more than 8 names in a path
        symlink grows: layer layer0: entry `a/c`: more than 8 names in a path
        symlink to file: layer layer0: entry `a/c`: `f` is not a directory
        no target: layer layer0: entry `a`: a symbolic link without target
        long target: layer layer0: entry `a`: the path is longer than 4095 bytes
        NUL in target: layer layer0: entry `x`: NUL in a name
        link to dot dot: layer layer0: entry `a`: `..` in the path
        link to nothing: layer layer0: entry `a`: hard link to `etc/shadow`, which does not exist
        link to itself: layer layer0: entry `a`: hard link to `a`, which does not exist
        link to directory: layer layer0: entry `a`: hard link to `d`, which is a directory
        link to root: layer layer0: entry `a`: hard link to `/`, which is a directory
        link through symlink: layer layer0: entry `a`: hard link to `etc`, which does not exist
        whiteout of nothing: layer layer0: entry `.wh.`: bad whiteout
        whiteout of dot dot: layer layer0: entry `a/.wh...`: bad whiteout
        below a whiteout: layer layer0: entry `.wh.a/b`: bad whiteout
        whiteout through dot dot: layer layer0: entry `../.wh.etc`: `..` in the path
    "#]]
    .assert_eq(&report(&cases));
}

#[test]
fn malformed_headers() {
    let mut wrong_sum = header(b"a", b'0', 0, b"");
    wrong_sum[0] = b'b';
    let extensions = (0..70).fold(Tar::new(), |tar, _| tar.pax(&[("comment", b"")]));
    let endless = [&header(b"x", b'x', 1 << 30, b"")[..], &[b'a'; 4096]].concat();
    let cases = [
        ("random bytes", (0..=255).cycle().take(2048).collect()),
        ("not a tar", b"<html>".repeat(200)),
        ("wrong checksum", Tar::new().raw(&wrong_sum).end()),
        ("bad size", Tar::new().raw(&field(b"a", b'0', 124, b"12x45678901 ")).end()),
        ("negative size", Tar::new().raw(&field(b"a", b'0', 124, &[0xff; 12])).end()),
        ("huge size", Tar::new().raw(&field(b"a", b'0', 124, b"\x80\0\0\0\x7f\xff")).end()),
        ("enormous size", Tar::new().raw(&field(b"a", b'0', 124, &[0x9f; 12])).end()),
        ("bad mode", Tar::new().raw(&field(b"a", b'0', 100, b"rw-r--r-")).end()),
        ("bad owner", Tar::new().raw(&field(b"a", b'0', 108, b"-1")).end()),
        ("large owner", Tar::new().pax(&[("uid", b"4294967296")]).file("a", "").end()),
        ("bad time", Tar::new().pax(&[("mtime", b"now")]).file("a", "").end()),
        ("unknown type", Tar::new().raw(&header(b"a", b'Z', 0, b"")).end()),
        ("large device", Tar::new().device("a", b'3', 4096, 0).end()),
        ("bad device", Tar::new().raw(&field(b"a", b'4', 329, b"abc")).end()),
        ("lone zero block", Tar::new().raw(&[0; 512]).file("a", "").end()),
        ("PAX length", Tar::new().raw(&header(b"x", b'x', 9, b"")).data(b"99 path=a").end()),
        ("PAX number", Tar::new().raw(&header(b"x", b'x', 4, b"")).data(b"abc\n").end()),
        ("PAX value", Tar::new().raw(&header(b"x", b'x', 7, b"")).data(b"7 path\n").end()),
        ("PAX size", Tar::new().pax(&[("size", b"1e9")]).file("a", "").end()),
        ("PAX too large", endless),
        ("too many extensions", extensions.file("a", "").end()),
        ("extension of nothing", Tar::new().pax(&[("path", b"a")]).end()),
        ("xattr without name", Tar::new().pax(&[("SCHILY.xattr.user.", b"")]).file("a", "").end()),
        ("xattr with NUL", Tar::new().pax(&[("SCHILY.xattr.user.\0", b"")]).file("a", "").end()),
        ("xattr name", {
            let key = format!("SCHILY.xattr.user.{}", "k".repeat(251));
            Tar::new().pax(&[(&key, b"")]).file("a", "").end()
        }),
        ("xattr value", {
            Tar::new().pax(&[("SCHILY.xattr.user.k", &[b'v'; 65_536])]).file("a", "").end()
        }),
        ("xattrs together", {
            let big = [b'v'; 50_000];
            let keys = ["SCHILY.xattr.user.a", "SCHILY.xattr.user.b", "SCHILY.xattr.user.c"];
            Tar::new().pax(&keys.map(|key| (key, &big[..]))).file("a", "").end()
        }),
    ];
    expect![[r#"
        random bytes: layer layer0: at byte 0 of the archive: the checksum of the header does not match
        not a tar: layer layer0: at byte 0 of the archive: the checksum of the header does not match
        wrong checksum: layer layer0: at byte 0 of the archive: the checksum of the header does not match
        bad size: layer layer0: entry `a`: bad number in field `size`
        negative size: layer layer0: entry `a`: bad number in field `size`
        huge size: layer layer0: entry `a`: more than 1048576 bytes of layers
        enormous size: layer layer0: entry `a`: bad number in field `size`
        bad mode: layer layer0: entry `a`: bad number in field `mode`
        bad owner: layer layer0: entry `a`: bad number in field `uid`
        large owner: layer layer0: entry `a`: bad number in field `uid`
        bad time: layer layer0: at byte 0 of the archive: bad number in field `mtime`
        unknown type: layer layer0: entry `a`: unknown entry type `Z`
        large device: layer layer0: entry `a`: device number 4096:0 is too large
        bad device: layer layer0: entry `a`: bad number in field `devmajor`
        lone zero block: layer layer0: at byte 0 of the archive: a block of zeros between entries
        PAX length: layer layer0: at byte 0 of the archive: bad extended header: bad record length
        PAX number: layer layer0: at byte 0 of the archive: bad extended header: record without length
        PAX value: layer layer0: at byte 0 of the archive: bad extended header: record without value
        PAX size: layer layer0: at byte 0 of the archive: bad number in field `size`
        PAX too large: layer layer0: at byte 512 of the archive: more than 1048576 bytes of extended header
        too many extensions: layer layer0: at byte 65536 of the archive: bad extended header: too many in front of one entry
        extension of nothing: layer layer0: at byte 1024 of the archive: the archive is cut short
        xattr without name: ok: a
        xattr with NUL: layer layer0: entry `a`: bad extended attribute: bad name
        xattr name: layer layer0: entry `a`: bad extended attribute: bad name
        xattr value: layer layer0: entry `a`: bad extended attribute: value longer than 65535 bytes
        xattrs together: layer layer0: entry `a`: bad extended attribute: more than 128 KiB of them
    "#]]
    .assert_eq(&report(&cases));
}

#[test]
fn cut_short() {
    let whole = Tar::new()
        .pax(&[("path", b"name")])
        .file("x", "y".repeat(1000))
        .file("z", "z".repeat(600))
        .end();
    let mut out = String::new();
    for length in
        [0, 100, 512, 700, 1024, 1500, 1536, 2000, 2559, 2560, 3000, 3072, 3584, 3671, 3672]
    {
        writeln!(out, "{length}: {}", outcome(&[whole[..length].to_vec()])).unwrap();
    }
    expect![[r#"
        0: ok: 
        100: layer layer0: at byte 0 of the archive: the archive is cut short
        512: layer layer0: at byte 512 of the archive: the archive is cut short
        700: layer layer0: at byte 700 of the archive: the archive is cut short
        1024: layer layer0: at byte 1024 of the archive: the archive is cut short
        1500: layer layer0: at byte 1024 of the archive: the archive is cut short
        1536: layer layer0: entry `name`: the archive is cut short
        2000: layer layer0: entry `name`: the archive is cut short
        2559: ok: name
        2560: ok: name
        3000: layer layer0: at byte 2560 of the archive: the archive is cut short
        3072: layer layer0: entry `z`: the archive is cut short
        3584: layer layer0: entry `z`: the archive is cut short
        3671: layer layer0: entry `z`: the archive is cut short
        3672: ok: name z
    "#]]
    .assert_eq(&out);
}

#[test]
fn sparse_maps() {
    let v1 = |map: &str| {
        let mut data = map.as_bytes().to_vec();
        data.resize(data.len().next_multiple_of(512), 0);
        data.extend(b"abc");
        sparse(
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"1000"),
            ],
            &data,
        )
    };
    let v01 = |map: &[u8], size: &[u8]| {
        sparse(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)], b"abc")
    };
    let mut old = header(b"old", b'S', 0, b"");
    let mut gnu_more = header(b"old", b'S', 0, b"");
    gnu_more[257..265].copy_from_slice(b"ustar  \0");
    gnu_more[482] = 1;
    old[482] = 1;
    let more = (0..20_000).fold(Tar::new().raw(&seal(gnu_more)), |tar, _| {
        let mut block = [b'1'; 512];
        block[504] = 1;
        tar.raw(&block)
    });
    let cases = [
        ("good", v01(b"5,3", b"100")),
        ("overlap", v01(b"5,2,6,1", b"100")),
        ("backwards", v01(b"50,2,6,1", b"100")),
        ("beyond the end", v01(b"99,3", b"100")),
        ("overflow", v01(b"18446744073709551615,3", b"100")),
        ("sum too small", v01(b"5,2", b"100")),
        ("sum too large", v01(b"5,4", b"100")),
        ("odd", v01(b"5", b"100")),
        ("not numbers", v01(b"5,x", b"100")),
        ("file too large", v01(b"5,3", b"1000000000000")),
        ("no size", sparse(&[("GNU.sparse.map", b"0,3")], b"abc")),
        ("unknown version", sparse(&[("GNU.sparse.major", b"2")], b"abc")),
        ("alternation", sparse(&[("GNU.sparse.numbytes", b"3")], b"abc")),
        ("1.0 good", v1("1\n7\n3\n")),
        ("1.0 count", v1("99999999\n7\n3\n")),
        ("1.0 cut", v1("200\n7\n3\n")),
        ("1.0 not numbers", v1("1\nseven\n3\n")),
        ("1.0 no newline", v1(&"1".repeat(512))),
        ("ustar with type S", Tar::new().raw(&seal(old)).end()),
        ("GNU cut", Tar::new().raw(&seal(gnu_more)).cut()),
        ("GNU endless", more.end()),
    ];
    expect![[r#"
        good: ok: s
        overlap: layer layer0: entry `s`: bad sparse map: segments overlap
        backwards: layer layer0: entry `s`: bad sparse map: segments overlap
        beyond the end: layer layer0: entry `s`: bad sparse map: a segment is beyond the end
        overflow: layer layer0: entry `s`: bad sparse map: bad number
        sum too small: layer layer0: entry `s`: bad sparse map: segments do not add up
        sum too large: layer layer0: entry `s`: bad sparse map: segments do not add up
        odd: layer layer0: entry `s`: bad sparse map: offset without length
        not numbers: layer layer0: at byte 0 of the archive: bad sparse map: bad number
        file too large: layer layer0: entry `s`: more than 524288 bytes in one file
        no size: layer layer0: entry `s`: bad sparse map: no size
        unknown version: layer layer0: entry `s`: bad sparse map: unknown version
        alternation: layer layer0: at byte 0 of the archive: bad sparse map: offsets and lengths do not alternate
        1.0 good: ok: s
        1.0 count: layer layer0: entry `s`: more than 262144 segments of a sparse file
        1.0 cut: layer layer0: entry `s`: bad sparse map: bad number
        1.0 not numbers: layer layer0: entry `s`: bad sparse map: bad number
        1.0 no newline: layer layer0: entry `s`: bad sparse map: bad number
        ustar with type S: layer layer0: entry `old`: bad sparse map: not a GNU header
        GNU cut: layer layer0: entry `old`: the archive is cut short
        GNU endless: layer layer0: entry `old`: more than 262144 segments of a sparse file
    "#]]
    .assert_eq(&report(&cases));
}

#[test]
fn bombs() {
    let zeros = vec![0; 400_000];
    let attribute = || [b'v'; 30_000];
    let file = |name: &str| Tar::new().file(name, &zeros).end();
    let many = (0..60).fold(Tar::new(), |tar, n| tar.file(&n.to_string(), ""));
    let implied = (0..12).fold(Tar::new(), |tar, n| tar.file(&format!("{n}/b/c/d/e/f/g"), ""));
    let attributes = (0..4).fold(Tar::new(), |tar, n| {
        tar.pax(&[("SCHILY.xattr.user.k", &attribute())]).file(&n.to_string(), "")
    });
    let targets = (0..40).fold(Tar::new(), |tar, n| tar.symlink(&n.to_string(), &"t".repeat(4000)));
    let mut trailing = Tar::new().end();
    trailing.resize(2 << 20, 0);
    let mut out = report(&[
        ("large file", Tar::new().file("a", vec![0; 600_000]).end()),
        ("entries", many.end()),
        ("implied directories", implied.end()),
        ("attributes", attributes.end()),
        ("targets", targets.end()),
        ("zeros after the end", trailing),
    ]);
    let same = (0..4).fold(Tar::new(), |tar, _| tar.file("a", &zeros)).end();
    writeln!(out, "one name again and again: {}", outcome(&[same])).unwrap();
    writeln!(out, "layers: {}", outcome(&[vec![], vec![], vec![], vec![]])).unwrap();
    writeln!(out, "bytes: {}", outcome(&[file("a"), file("b"), file("c")])).unwrap();
    writeln!(out, "hidden bytes: {}", outcome(&[file("a"), file("a"), file("a")])).unwrap();
    expect![[r#"
        large file: layer layer0: entry `a`: more than 524288 bytes in one file
        entries: layer layer0: entry `50`: more than 50 entries
        implied directories: layer layer0: entry `7/b/c/d/e/f/g`: more than 50 entries
        attributes: layer layer0: entry `2`: more than 65536 bytes of names and attributes
        targets: layer layer0: entry `16`: more than 65536 bytes of names and attributes
        zeros after the end: layer layer0: at byte 1024 of the archive: more than 1048576 bytes of layers
        one name again and again: layer layer0: entry `a`: more than 1048576 bytes of layers
        layers: more than 3 layers
        bytes: layer layer0: entry `a`: more than 1048576 bytes of layers
        hidden bytes: layer layer0: entry `a`: more than 1048576 bytes of layers
    "#]]
    .assert_eq(&out);
}

/// Gives some bytes and then fails, as a reader that checks a digest does.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self.0.read(space)? {
            0 => Err(io::Error::new(io::ErrorKind::InvalidData, "digest mismatch")),
            count => Ok(count),
        }
    }
}

#[test]
fn errors_of_the_reader_come_through_wherever_they_happen() {
    let tar = Tar::new().file("a", vec![b'x'; 5000]).end();
    for length in [0, 100, 512, 3000, 5632, 6144, tar.len()] {
        let layer = Layer { name: "sha256:1234".into(), reader: Failing(&tar[..length]) };
        let out = tempfile::tempfile().unwrap();
        let error = build_image([layer], out, &Limits::default()).unwrap_err();
        assert_eq!(
            message(&error),
            "layer sha256:1234: cannot read the archive: digest mismatch",
            "after {length}"
        );
    }
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let tar = Tar::new().file("a", vec![b'x'; 5000]).end();
    let file = tempfile::NamedTempFile::new().unwrap();
    let layer = Layer { name: "l".into(), reader: tar.as_slice() };
    let error = build_image([layer], super::open(file.path()), &Limits::default()).unwrap_err();
    assert!(matches!(error, LayerError::Write(_)), "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever a damaged archive makes, it is a sound image or an error.
    #[test]
    fn damage_never_panics(
        changes in prop::collection::vec((0..6000_usize, any::<u8>(), any::<bool>()), 1..6),
        cut in 0..8000_usize,
    ) {
        let mut bytes = Tar::new()
            .dir("d", 0o755)
            .pax(&[("path", b"long/name"), ("SCHILY.xattr.user.k", b"v"), ("mtime", b"1.5")])
            .file("x", "contents".repeat(100))
            .pax(&[("GNU.sparse.map", b"0,3,8000,3"), ("GNU.sparse.size", b"9000")])
            .file("sparse", "abcdef")
            .symlink("l", "d")
            .link("l/h", "long/name")
            .file("d/.wh.x", "")
            .device("dev", b'4', 8, 1)
            .end();
        for (at, byte, fix) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let start = at / 512 * 512;
            if fix && let Some(block) = bytes.get_mut(start..start + 512) {
                // With the sum right the change gets further.
                let sealed = seal(<[u8; 512]>::try_from(&*block).unwrap());
                block.copy_from_slice(&sealed);
            }
        }
        bytes.truncate(cut.max(512));
        let upper = Tar::new().file("long/name", "upper").end();
        let _ = super::try_build(&[bytes, upper], &LIMITS);
    }
}
