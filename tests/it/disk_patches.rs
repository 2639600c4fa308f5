//! Patches over disk images, with the `local` driver: the layer is the same as over a directory with the
//! same files, whatever the disk's format, and what cannot be looked into is refused at its line.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use msb::image::erofs::reader::Image;

use crate::cli_patches::{places, said};
use crate::environment::Environment;

const PATCHES: &str = r#"[
  { append = "/etc/motd", content = "more\n" },
  { append = "/etc/big", content = "end" },
  { text = "/through/new", content = "new\n" },
  { text = "/lib/deep/file", content = "deep\n" },
  { mkdir = "/var/made", mode = "0750" },
  { remove = "/etc/gone" },
  { remove = "/var/tree" },
  { text = "/var/tree/back", content = "back\n" },
  { symlink = "../etc/motd", at = "/var/link" },
  { append = "/etc/hosts", content = "10.1.2.3 other\n" },
]"#;

/// Sandboxes with the patches over each of these.
const IMAGES: [(&str, &str); 7] = [
    ("dir", r#""./root""#),
    ("raw", r#""./raw.img""#),
    ("three", r#""./three.img""#),
    ("packed", r#""./packed.qcow2""#),
    ("old", r#"{ disk = "./old.qcow2", partition = 6 }"#),
    ("parts", r#"{ disk = "./parts.qcow2", partition = 2, fstype = "ext4" }"#),
    ("stream", r#""./stream.vmdk""#),
];

/// Of each disk's file system, and where it is in one with partitions, in bytes.
const FS_BYTES: u64 = 24 << 20;
const PART: u64 = 3 << 20;

fn run(program: &str, package: &str, args: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(args).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = command.spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{error}: apt-get install {package}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A root with what the patches change.
fn tree(root: &Path) {
    for dir in ["etc", "usr/lib", "var/tree/old"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("etc/motd"), "motd\n").unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|at| u8::try_from(at % 249).unwrap()).collect();
    fs::write(root.join("etc/big"), big).unwrap();
    fs::set_permissions(root.join("etc/big"), Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(root.join("var"), Permissions::from_mode(0o1775)).unwrap();
    fs::write(root.join("etc/gone"), "gone").unwrap();
    fs::write(root.join("var/tree/old/file"), "old").unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    // Too long to be kept in an inode, and out of the root and back.
    symlink(format!("{}var", "../".repeat(40)), root.join("through")).unwrap();
}

fn disk(env: &Environment, kind: &str, name: &str) {
    let path = env.project().join(name);
    File::create(&path).unwrap().set_len(FS_BYTES).unwrap();
    let root = env.project().join("root");
    let (root, path) = (root.to_str().unwrap(), path.to_str().unwrap());
    run("mke2fs", "e2fsprogs", &["-q", "-F", "-t", kind, "-d", root, path], "");
}

/// Puts the file system of `raw.img` into a partition of the disk `name`.
fn partitioned(env: &Environment, label: &str, name: &str) {
    let path = env.project().join(name);
    let disk = File::create(&path).unwrap();
    disk.set_len(PART + FS_BYTES + (1 << 20)).unwrap();
    run("sfdisk", "fdisk", &["-q", path.to_str().unwrap()], label);
    disk.write_all_at(&fs::read(env.project().join("raw.img")).unwrap(), PART).unwrap();
}

fn convert(env: &Environment, from: &str, options: &[&str], to: &str) {
    let path = |name: &str| env.project().join(name).display().to_string();
    let (from, to) = (path(from), path(to));
    let args = [&["convert", "-f", "raw"], options, &[&from, &to]].concat();
    run("qemu-img", "qemu-utils", &args, "");
}

fn sandboxfile(images: &[(&str, &str)]) -> String {
    let mut text = "name = \"disks\"\n".to_owned();
    for (name, image) in images {
        text += &format!(
            "[sandbox.{name}]\nimage = {image}\ncmd = [\"sleep\", \"100000\"]\npatches = {PATCHES}\n"
        );
    }
    text
}

/// What the layer of a sandbox holds, by path: mode, owner, what it is, and its contents.
fn layer(env: &Environment, name: &str) -> BTreeMap<Vec<u8>, (u16, u32, u32, Vec<u8>)> {
    let path = env.home().sandbox(&env.row(name).id).join("patches.erofs");
    let image = Image::open(File::open(path).unwrap()).unwrap();
    let entries = image.walk().unwrap().into_iter();
    let contents = |stat: &msb::image::erofs::reader::Stat| match stat.mode >> 12 {
        0o4 | 0o2 => Vec::new(),
        _ => image.contents(stat).unwrap(),
    };
    entries.map(|(path, stat)| (path, (stat.mode, stat.uid, stat.rdev, contents(&stat)))).collect()
}

#[test]
fn the_layer_is_that_of_a_directory_with_the_same_files() {
    let env = Environment::new();
    env.write("Sandboxfile", &sandboxfile(&IMAGES));
    tree(&env.project().join("root"));
    disk(&env, "ext4", "raw.img");
    disk(&env, "ext3", "three.img");
    let sectors = FS_BYTES / 512;
    let gpt = format!("label: gpt\nstart=2048, size=1024\nstart={}, size={sectors}\n", PART / 512);
    partitioned(&env, &gpt, "gpt.img");
    let mbr = format!(
        "label: dos\nstart=2048, size=1000, type=83\nstart=4000, type=5\nstart=4096, size=1000, type=83\n\
         start={}, size={sectors}, type=83\n",
        PART / 512
    );
    partitioned(&env, &mbr, "mbr.img");
    convert(&env, "raw.img", &["-c", "-O", "qcow2", "-o", "cluster_size=4k"], "packed.qcow2");
    convert(&env, "mbr.img", &["-O", "qcow2", "-o", "compat=0.10"], "old.qcow2");
    convert(&env, "gpt.img", &["-O", "qcow2"], "parts.qcow2");
    convert(&env, "raw.img", &["-O", "vmdk", "-o", "subformat=streamOptimized"], "stream.vmdk");
    env.msb("up -d").expect(0);
    let expected = layer(&env, "dir");
    assert_eq!(expected[b"var/tree/back".as_slice()].3, b"back\n");
    assert_eq!(expected[b"var/new".as_slice()].3, b"new\n");
    assert_eq!(expected[b"etc/big".as_slice()].3.len(), 3_000_003);
    for (name, _) in &IMAGES[1..] {
        let found = layer(&env, name);
        assert!(found.keys().eq(expected.keys()), "{name}: {:?}", found.keys());
        for (path, what) in &expected {
            let path_text = String::from_utf8_lossy(path);
            assert!(found[path] == *what, "{name}: /{path_text}");
        }
    }
    env.msb("plan --detailed-exitcode").expect(0);

    // A disk that has changed is another one, and so is its layer.
    let before = env.row("raw").id;
    disk(&env, "ext2", "raw.img");
    env.msb("up -d -y").expect(0);
    assert_ne!(env.row("raw").id, before);
    assert_eq!(layer(&env, "raw").len(), expected.len());
    env.msb("stop raw").expect(0);
    fs::remove_dir_all(env.home().patches()).unwrap();
    fs::remove_dir_all(env.home().sandbox(&env.row("raw").id)).unwrap();
    env.msb("start raw").expect(0);
    assert_eq!(layer(&env, "raw").len(), expected.len());
}

#[test]
fn what_cannot_be_looked_into_is_refused_at_its_line() {
    let env = Environment::new();
    let images = [("one", r#"{ disk = "./one.img" }"#)];
    env.write("Sandboxfile", &sandboxfile(&images));
    let path = env.project().join("one.img");
    let refused = |at: u64, bytes: &[u8], expected: &str| {
        File::options().write(true).open(&path).unwrap().write_all_at(bytes, at).unwrap();
        let ran = env.msb("up -d").expect(3);
        assert!(said(&ran).contains(expected), "{}", ran.stderr);
        assert_eq!(places(&ran), ["Sandboxfile:6:3"], "{}", ran.stderr);
        assert!(env.rows().is_empty());
    };
    let blank = || File::create(&path).unwrap().set_len(FS_BYTES).unwrap();
    for (at, magic, name) in [
        (0x1_0040, b"_BHRfS_M".as_slice(), "btrfs"),
        (0, b"XFSB", "xfs"),
        (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
    ] {
        blank();
        refused(
            at,
            magic,
            &format!(
                "the file system of the disk image is {name}; patches look into ext2, ext3 and ext4"
            ),
        );
    }
    blank();
    refused(0, b"", "the disk holds no file system that is known; name its `fstype`");
    tree(&env.project().join("root"));
    disk(&env, "ext4", "one.img");
    // Inodes are 2048 bytes long, which no block is; features from the future.
    refused(
        1024 + 88,
        &[0, 8],
        "the disk image cannot be looked into: its superblock makes no sense",
    );
    refused(1024 + 96, &[0xc6, 2, 0, 0x10], "features that are not known (0x10000000)");
    let label = "label: dos\nsize=2048, type=83\nsize=2048, type=83\n";
    disk(&env, "ext4", "raw.img");
    blank();
    run("sfdisk", "fdisk", &["-q", path.to_str().unwrap()], label);
    refused(0, b"", "none of the partitions 1, 2 holds a file system that is known");

    // A link in a circle, a file that is too large, a directory that is a file.
    let debugfs = |request: &str| {
        run("debugfs", "e2fsprogs", &["-w", "-R", request, path.to_str().unwrap()], "");
    };
    disk(&env, "ext4", "one.img");
    debugfs("set_inode_field /through size 4096");
    let ran = env.msb("up -d").expect(3);
    assert!(said(&ran).contains("has more than 4095 bytes"), "{}", ran.stderr);
    assert_eq!(places(&ran), ["Sandboxfile:8:3"], "{}", ran.stderr);
    debugfs("set_inode_field /through size 123");
    debugfs("set_inode_field /etc/motd size 1099511627776");
    let ran = env.msb("up -d").expect(3);
    assert!(said(&ran).contains("/etc/motd has more than 1073741824 bytes"), "{}", ran.stderr);
    assert_eq!(places(&ran), ["Sandboxfile:6:3"], "{}", ran.stderr);
}
