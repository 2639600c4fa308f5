//! File systems that `mke2fs` and `debugfs` make, and what is left of them when bytes of them change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::image::{ImageConfig, ImageRecord};
use crate::spec::{DiskFormat, Image, ImageSource};

/// One file system of each kind that kernels have made or can make: options of `mke2fs` and the size in
/// MiB.
const KINDS: [(&str, u64); 14] = [
    ("-t ext2 -b 1024", 48),
    ("-t ext2 -r 0 -b 1024", 48),
    ("-t ext2 -b 4096", 48),
    ("-t ext3 -b 1024", 48),
    ("-t ext3 -b 2048 -I 128", 48),
    ("-t ext4 -b 1024", 48),
    ("-t ext4 -b 4096", 48),
    ("-t ext4 -b 1024 -O inline_data", 48),
    ("-t ext4 -b 1024 -O inline_data,^metadata_csum -I 1024", 48),
    ("-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg", 48),
    ("-t ext4 -b 1024 -O meta_bg,^resize_inode,^64bit,sparse_super2", 48),
    ("-t ext4 -O ea_inode,casefold,encrypt,large_dir,mmp", 48),
    ("-t ext4 -O bigalloc -C 65536", 96),
    ("-t ext4 -b 65536 -O ^has_journal", 96),
];
/// Files of a directory that needs an index.
const MANY: usize = 400;
/// Of a value that gets an inode where blocks have 1 KiB, in bytes.
const LARGE: usize = 1000;

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).env("PATH", "/usr/sbin:/sbin:/usr/bin").output();
    let output = output.unwrap_or_else(|error| panic!("{error}: apt-get install e2fsprogs"));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A tree with all that is found in different ways.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("many")).unwrap();
    fs::create_dir(root.join("few")).unwrap();
    fs::set_permissions(root.join("few"), fs::Permissions::from_mode(0o2750)).unwrap();
    for number in 0..MANY {
        let name = format!("many/a-name-that-is-not-short-{number:05}");
        fs::write(root.join(name), "").unwrap();
    }
    fs::write(root.join("few/tiny"), "tiny").unwrap();
    fs::write(root.join("few/small"), vec![b's'; 150]).unwrap();
    // Enough for three levels of tables of 1 KiB; every other piece is a hole.
    let big = File::create(root.join("few/big")).unwrap();
    for piece in (0..400_u64).step_by(2) {
        let bytes: Vec<u8> =
            (0..1024_u64).map(|at| u8::try_from((at + piece) % 251 + 1).unwrap()).collect();
        big.write_all_at(&bytes, piece * 1024).unwrap();
    }
    big.write_all_at(b"far", 70 << 20).unwrap();
    symlink("../few/tiny", root.join("short")).unwrap();
    symlink("x/".repeat(100), root.join("long")).unwrap();
    fs::set_permissions(root.join("few/tiny"), fs::Permissions::from_mode(0o4711)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 0);
    File::open(root.join("few/tiny")).unwrap().set_modified(old).unwrap();
}

fn open(path: &Path) -> Result<View> {
    let source = ImageSource::Disk {
        path: path.display().to_string(),
        fstype: Some("ext4".to_owned()),
        partition: None,
        writable: false,
    };
    let record = ImageRecord {
        digest: String::new(),
        config: ImageConfig::default(),
        file: path.to_owned(),
        size_bytes: 0,
        disk: Some(DiskFormat::Raw),
    };
    View::open(DiskBytes::root(&record, &Image { source, platform: None })?.0)
}

/// A file system with `tree` in it.
fn made(dir: &Path, options: &str, mib: u64) -> PathBuf {
    let (root, path) = (dir.join("tree"), dir.join("disk"));
    if !root.exists() {
        tree(&root);
    }
    let _ = fs::remove_file(&path);
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    let (root, disk) = (root.to_str().unwrap(), path.to_str().unwrap());
    let mut args = vec!["-q", "-F", "-d", root];
    args.extend(options.split(' '));
    args.push(disk);
    run("mke2fs", &args);
    path
}

/// What is compared of contents: their ends, since all else of a long file is a hole.
const END: usize = 600 << 10;

/// Every path, with kind, mode, owner, time, and what is in it.
type Listing = BTreeMap<String, (u16, u32, i64, Vec<u8>)>;

fn listed(
    view: &View,
    inode: &Inode,
    path: &str,
    found: &mut Listing,
    left: &mut usize,
) -> Result<()> {
    let attr = view.attr(inode)?;
    let contents = match inode.mode >> TYPE_BITS {
        REGULAR => {
            let size = usize::try_from(inode.size).unwrap_or(usize::MAX);
            let mut contents = vec![0; size.min(2 * END)];
            let (head, tail) = contents.split_at_mut(size.min(END));
            view.read(inode, 0, head)?;
            view.read(inode, inode.size - tail.len() as u64, tail)?;
            contents
        }
        0o12 => view.target(inode)?,
        DIRECTORY => {
            for (name, number) in view.names(inode)? {
                if *left == 0 {
                    return Err("too much".to_owned());
                }
                *left -= 1;
                let path = format!("{path}/{}", String::from_utf8_lossy(&name));
                listed(view, &view.inode(number)?, &path, found, left)?;
            }
            Vec::new()
        }
        _ => Vec::new(),
    };
    found.insert(path.to_owned(), (inode.mode, attr.uid, attr.mtime, contents));
    Ok(())
}

fn expected(path: &Path, name: &str, found: &mut Listing) {
    let meta = fs::symlink_metadata(path).unwrap();
    let contents = if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{name}/{}", entry.file_name().to_str().unwrap());
            expected(&entry.path(), &name, found);
        }
        Vec::new()
    } else if meta.is_symlink() {
        fs::read_link(path).unwrap().to_str().unwrap().as_bytes().to_vec()
    } else {
        let mut contents = fs::read(path).unwrap();
        if contents.len() > 2 * END {
            contents.drain(END..contents.len() - END);
        }
        contents
    };
    let mode = u16::try_from(meta.mode()).unwrap();
    found.insert(name.to_owned(), (mode, meta.uid(), meta.mtime(), contents));
}

#[test]
fn every_kind_of_file_system_is_read() {
    let dir = tempfile::tempdir().unwrap();
    tree(&dir.path().join("tree"));
    let mut wanted = Listing::new();
    expected(&dir.path().join("tree"), "", &mut wanted);
    for (options, mib) in KINDS {
        let view = open(&made(dir.path(), options, mib)).unwrap();
        let mut found = Listing::new();
        listed(&view, &view.root().unwrap(), "", &mut found, &mut 10_000).unwrap();
        assert!(found.remove("/lost+found").is_some(), "{options}");
        let names = |listing: &Listing| listing.keys().cloned().collect::<Vec<_>>();
        assert!(names(&found) == names(&wanted), "{options}: {} names", found.len());
        for (path, what) in &wanted {
            // The root of a file system is older than what is put into it.
            if !path.is_empty() {
                assert!(&found[path] == what, "{options}: {path}");
            }
        }
    }
}

#[test]
fn attributes_are_read_from_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("tree/few")).unwrap();
    fs::write(dir.path().join("tree/few/tiny"), "tiny").unwrap();
    let large = dir.path().join("large");
    fs::write(&large, vec![b'l'; LARGE]).unwrap();
    // user::rw-, user:7:r--, group::r--, mask::r--, other::---
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 7), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    fs::write(dir.path().join("acl"), &list).unwrap();
    for (options, values) in
        [("-t ext4 -b 4096", 1), ("-t ext4 -I 128 -b 4096", 1), ("-t ext4 -O ea_inode -b 1024", 4)]
    {
        let disk = made(dir.path(), options, 48);
        let set = |name: &str, file: &str| {
            let request = format!("ea_set -f {} /few/tiny {name}", dir.path().join(file).display());
            run("debugfs", &["-w", "-R", &request, disk.to_str().unwrap()]);
        };
        for number in 0..values {
            set(&format!("user.large{number}"), "large");
        }
        set("system.posix_acl_access", "acl");
        run("debugfs", &["-w", "-R", "ea_set /few/tiny security.x few", disk.to_str().unwrap()]);
        let view = open(&disk).unwrap();
        let dir = view.names(&view.root().unwrap()).unwrap()[b"few".as_slice()];
        let tiny = view.names(&view.inode(dir).unwrap()).unwrap()[b"tiny".as_slice()];
        let xattrs = view.attr(&view.inode(tiny).unwrap()).unwrap().xattrs;
        let is_there = |name: &str, value: &[u8]| {
            let found = &xattrs[name.as_bytes()];
            assert!(found == value, "{options}: {name}: {} bytes", found.len());
        };
        for number in 0..values {
            is_there(&format!("user.large{number}"), &[b'l'; LARGE]);
        }
        is_there("system.posix_acl_access", &list);
        is_there("security.x", b"few");
        assert_eq!(xattrs.len(), values + 2);
    }
}

#[test]
fn what_is_none_or_cannot_be_read_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let disk = made(dir.path(), "-t ext4 -b 1024", 48);
    let file = File::options().write(true).open(&disk).unwrap();
    let said = |at: u64, bytes: &[u8]| {
        let mut before = vec![0; bytes.len()];
        File::open(&disk).unwrap().read_exact_at(&mut before, at).unwrap();
        file.write_all_at(bytes, at).unwrap();
        let said = open(&disk).and_then(|view| view.root()).expect_err("it was taken");
        file.write_all_at(&before, at).unwrap();
        said
    };
    assert_eq!(said(1024 + 56, b"XY"), "it has no superblock of ext4");
    assert_eq!(
        said(1024 + 96, &[0xc7, 2, 0, 0x10]),
        "it has features that are not known (0x10000001)"
    );
    for (at, bytes) in [(24, [7, 0]), (32, [0, 0]), (40, [0, 0]), (88, [100, 0]), (88, [0, 8])] {
        assert_eq!(said(1024 + at, &bytes), "its superblock makes no sense", "{at}");
    }
    assert_eq!(said(1024, &[1, 0]), "there is no inode 2");
    // The inode table of the first group, far away.
    let far = said(2048 + 8, &[0xff; 4]);
    assert!(far.contains("beyond the end"), "{far}");
    assert!(open(&disk).unwrap().root().is_ok());
}

#[test]
fn no_change_of_bytes_does_harm() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir_all(root.join("few/deep/er")).unwrap();
    fs::write(root.join("few/deep/er/file"), vec![b'x'; 20_000]).unwrap();
    symlink("x/".repeat(100), root.join("long")).unwrap();
    for (options, seed) in [("-t ext2 -b 1024", 1), ("-t ext4 -b 1024 -O inline_data", 2)] {
        let disk = made(dir.path(), options, 1);
        let disk_bytes = fs::read(&disk).unwrap();
        let used: Vec<usize> = (0..disk_bytes.len()).filter(|at| disk_bytes[*at] != 0).collect();
        let file = File::options().write(true).open(&disk).unwrap();
        let mut random = Random(seed);
        let mut read = 0;
        for _ in 0..1500 {
            let mut undo = Vec::new();
            for _ in 0..=random.below(3) {
                let at = match used[random.below(used.len())] {
                    at if random.below(2) == 0 => at,
                    at => (at + random.below(8)).min(disk_bytes.len() - 1),
                };
                let any = u8::try_from(random.below(256)).unwrap();
                let value = [0, 1, 2, 0x7f, 0x80, 0xff, any][random.below(7)];
                file.write_all_at(&[value], at as u64).unwrap();
                undo.push(at);
            }
            let looked = open(&disk).and_then(|view| {
                let root = view.root()?;
                listed(&view, &root, "", &mut Listing::new(), &mut 300)
            });
            read += usize::from(looked.is_ok());
            for at in undo {
                file.write_all_at(&disk_bytes[at..=at], at as u64).unwrap();
            }
        }
        // Not all of it fails where it starts.
        assert!((100..1500).contains(&read), "{options}: {read}");
    }
}

/// A generator of numbers that look random (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % end
    }
}
