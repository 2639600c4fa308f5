//! Every tar format that programs write: by hand, and by GNU tar itself.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use super::tarball::{Tar, header, seal};
use super::{Built, build, must, open, read};

/// A tree with long names, links and holes.
fn sample(root: &Path) {
    let deep = root.join("d".repeat(120)).join("e".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("leaf"), "deep").unwrap();
    symlink("t".repeat(150), root.join("link")).unwrap();
    std::fs::write(root.join("a"), "contents").unwrap();
    std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
    let mut sparse = std::fs::File::create(root.join("sparse")).unwrap();
    for mebibytes in [0, 3, 4, 9, 20] {
        sparse.seek(SeekFrom::Start(mebibytes << 20)).unwrap();
        sparse.write_all(&[7; 10_000]).unwrap();
    }
    sparse.set_len(32 << 20).unwrap();
    let mut holes = std::fs::File::create(root.join("many-holes")).unwrap();
    for index in 0..60_u64 {
        holes.seek(SeekFrom::Start(index * 16_384)).unwrap();
        holes.write_all(&[8; 4096]).unwrap();
    }
    std::fs::File::create(root.join("all-hole")).unwrap().set_len(5 << 20).unwrap();
}

fn check_sample(built: &Built, root: &Path, long_names: bool) {
    if long_names {
        let leaf = format!("{}/{}/leaf", "d".repeat(120), "e".repeat(60));
        assert_eq!(built.text(&leaf), "deep");
        assert_eq!(built.text("link"), "t".repeat(150));
    }
    assert_eq!(built.text("a"), "contents");
    assert_eq!(built.at("a").nid, built.at("b").nid);
    for name in ["sparse", "many-holes", "all-hole"] {
        let contents = built.image.contents(built.at(name)).unwrap();
        assert!(contents == read(&root.join(name)), "{name}");
    }
    let mtime = root.join("a").metadata().unwrap().mtime();
    assert_eq!(built.at("a").mtime, mtime);
}

fn with_gnu_tar(arguments: &[&str], long_names: bool) {
    let root = tempfile::tempdir().unwrap();
    let tar = root.path().join("layer.tar");
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    sample(&tree);
    let (tar, dir) = (tar.to_str().unwrap(), tree.to_str().unwrap());
    let mut all = vec!["-C", dir, "-cf", tar];
    all.extend(arguments);
    all.push("--owner=0");
    if long_names {
        all.push(".");
    } else {
        all.extend(["a", "b", "sparse", "many-holes", "all-hole"]);
    }
    must("tar", "tar", &all);
    check_sample(&build(&[read(Path::new(tar))]), &tree, long_names);
}

#[test]
fn gnu_tar_old_formats() {
    with_gnu_tar(&["--format=v7"], false);
    with_gnu_tar(&["--format=ustar"], false);
    with_gnu_tar(&["--format=oldgnu", "--sparse"], true);
}

#[test]
fn gnu_tar_gnu_format() {
    with_gnu_tar(&["--format=gnu"], true);
    with_gnu_tar(&["--format=gnu", "--sparse"], true);
}

#[test]
fn gnu_tar_pax_format() {
    with_gnu_tar(&["--format=pax"], true);
    with_gnu_tar(&["--format=pax", "--sparse", "--sparse-version=0.0"], true);
    with_gnu_tar(&["--format=pax", "--sparse", "--sparse-version=0.1"], true);
    with_gnu_tar(&["--format=pax", "--sparse", "--sparse-version=1.0"], true);
}

#[test]
fn the_tar_crate() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/file", "x".repeat(130));
    let mut head = tar::Header::new_gnu();
    head.set_size(3);
    head.set_mode(0o640);
    head.set_uid(1 << 30);
    head.set_mtime(1 << 34);
    builder.append_data(&mut head, &long, &b"abc"[..]).unwrap();
    let built = build(&[builder.into_inner().unwrap()]);
    assert_eq!(built.text(&long), "abc");
    assert_eq!((built.at(&long).uid, built.at(&long).mtime), (1 << 30, 1 << 34));
}

#[test]
fn oddities_that_programs_produce() {
    let mut negative_time = header(b"base256", b'0', 0, b"");
    negative_time[136..148].fill(0xff);
    let mut v7_dir = header(b"v7dir/", 0, 0, b"");
    v7_dir[257..265].fill(0);
    let mut spaces = header(b"spaces", b'0', 0, b"");
    spaces[124..136].copy_from_slice(b"         3 \0");
    let mut prefix = header(b"name", b'0', 0, b"");
    prefix[345..351].copy_from_slice(b"prefix");
    let built = build(&[Tar::new()
        .raw(&header(b"pax_global_header", b'g', 16, b""))
        .data(b"16 path=ignored\n")
        .raw(&header(b"volume", b'V', 0, b""))
        .raw(&seal(negative_time))
        .raw(&seal(v7_dir))
        .raw(&seal(spaces))
        .data(b"abc")
        .raw(&seal(prefix))
        .raw(&header(b"contiguous", b'7', 2, b""))
        .data(b"ok")
        // Directories and links with a size have no contents all the same.
        .raw(&header(b"dir", b'5', 4096, b""))
        .raw(&header(b"link", b'1', 3, b"spaces"))
        .pax(&[("path", b"first"), ("path", b""), ("path", b"from-pax"), ("comment", b"x")])
        .file("from-header", "")
        .raw(&header(b"././@LongLink", b'L', 7, b""))
        .data(b"gnu-ln\0")
        .file("from-header", "")
        .cut()]);
    assert_eq!(
        built.paths().join(" "),
        "base256 contiguous dir from-pax gnu-ln link prefix prefix/name spaces v7dir"
    );
    assert_eq!(built.at("base256").mtime, -1);
    assert_eq!(built.text("link"), "abc");
}

/// Bytes of the header of a sparse file in the GNU format.
fn gnu_sparse(size: u64, stored: u64, segments: &[(u64, u64)]) -> [u8; 512] {
    let mut block = header(b"sparse", b'S', stored, b"");
    block[257..265].copy_from_slice(b"ustar  \0");
    let base256 = |field: &mut [u8], value: u64| {
        field[0] = 0x80;
        field[4..12].copy_from_slice(&value.to_be_bytes());
    };
    for (index, (offset, length)) in segments.iter().enumerate() {
        base256(&mut block[386 + index * 24..][..12], *offset);
        base256(&mut block[398 + index * 24..][..12], *length);
    }
    base256(&mut block[483..495], size);
    seal(block)
}

#[test]
fn a_sparse_file_of_hundreds_of_gigabytes_takes_little_room() {
    let (size, far) = (300_u64 << 30, (250_u64 << 30) + 12_345);
    let tar = Tar::new().raw(&gnu_sparse(size, 8, &[(3, 3), (far, 5)])).data(b"abcvwxyz").end();
    let file = tempfile::NamedTempFile::new().unwrap();
    let layer = msb::image::build::Layer { name: "l".into(), reader: tar.as_slice() };
    let limits = msb::image::layer::Limits::default();
    msb::image::build::build_image([layer], file.reopen().unwrap(), &limits).unwrap();
    let image = msb::image::erofs::reader::Image::open(open(file.path())).unwrap();
    let stat = &image.walk().unwrap()[b"sparse".as_slice()];
    assert_eq!(stat.size, size);
    assert_eq!(image.read(stat, 2, 5).unwrap(), b"\0abc\0");
    assert_eq!(image.read(stat, far - 1, 7).unwrap(), b"\0vwxyz\0");
    assert_eq!(image.read(stat, size - 2, 10).unwrap(), b"\0\0");
    assert!(file.as_file().metadata().unwrap().blocks() * 512 < 4 << 20);
}

#[test]
fn a_hidden_sparse_file_comes_back_for_its_hard_link() {
    let size = 40_u64 << 20;
    let lower = Tar::new()
        .raw(&gnu_sparse(size, 8, &[(3, 3), (30 << 20, 5)]))
        .data(b"abcvwxyz")
        .file("flat", "y".repeat(100_000))
        .link("kept", "sparse")
        .link("kept-flat", "flat")
        .end();
    let upper = Tar::new().file("sparse", "new").file(".wh.flat", "").end();
    let built = build(&[lower, upper]);
    assert_eq!(built.paths().join(" "), "kept kept-flat sparse");
    let mut expected = vec![0; 40 << 20];
    expected[3..6].copy_from_slice(b"abc");
    expected[30 << 20..][..5].copy_from_slice(b"vwxyz");
    assert!(built.image.contents(built.at("kept")).unwrap() == expected);
    assert_eq!(built.text("kept-flat"), "y".repeat(100_000));
    assert!(built.report.size_bytes < 4 << 20, "{}", built.report.size_bytes);
}

/// Zeros with an `M` at some places.
struct Marked {
    marks: [u64; 4],
    size: u64,
    at: u64,
}

impl Read for Marked {
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        let count = space.len().min(usize::try_from(self.size - self.at).unwrap());
        let space = &mut space[..count];
        space.fill(0);
        for mark in self.marks {
            if mark >= self.at && mark < self.at + count as u64 {
                space[usize::try_from(mark - self.at).unwrap()] = b'M';
            }
        }
        self.at += count as u64;
        Ok(count)
    }
}

#[test]
fn more_than_4_gib_of_data_in_one_file() {
    // Mostly zeros and dense in the archive, from a generator: never in memory.
    let size = (9_u64 << 29) + 1;
    let mut block = header(b"big", b'0', 0, b"");
    block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    block[128..136].copy_from_slice(&size.to_be_bytes());
    let marks = [0, (1_u64 << 32) - 1, 1 << 32, size - 1];
    let padding = size.next_multiple_of(512) - size;
    let head = seal(block);
    let reader = std::io::Read::chain(
        &head[..],
        std::io::Read::chain(Marked { marks, size, at: 0 }, std::io::repeat(0).take(padding)),
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let layer = msb::image::build::Layer { name: "l".into(), reader };
    let limits = msb::image::layer::Limits::default();
    msb::image::build::build_image([layer], file.reopen().unwrap(), &limits).unwrap();
    let image = msb::image::erofs::reader::Image::open(open(file.path())).unwrap();
    let stat = &image.walk().unwrap()[b"big".as_slice()];
    assert_eq!(stat.size, size);
    for mark in marks {
        assert_eq!(image.read(stat, mark, 1).unwrap(), b"M");
    }
    assert_eq!(image.read(stat, (1 << 32) - 3, 6).unwrap(), b"\0\0MM\0\0");
    assert!(file.as_file().metadata().unwrap().blocks() * 512 < 8 << 20);
}

#[test]
fn a_layer_of_100_000_entries() {
    let mut tar = Tar::new();
    for index in 0..100_000 {
        tar = tar.file(&format!("dir{}/file{index}", index % 100), index.to_string());
    }
    let upper = Tar::new().file("dir7/.wh.file7", "").file("dir8/.wh..wh..opq", "").end();
    let built = build(&[tar.end(), upper]);
    assert_eq!(built.report.entries, 100_002);
    assert_eq!(built.paths().len(), 100_000 - 1 - 1000 + 100);
    assert_eq!(built.text("dir99/file99999"), "99999");
}
