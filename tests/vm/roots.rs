//! Roots that are not images of a registry: a directory, and disks of every kind.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use expect_test::expect;

use crate::cli::{environment, sh};
use crate::environment::Environment;
use crate::guest::{APPLETS, BUSYBOX, driver_name};

const ROOTS: &str = r#"
name = "roots"

[defaults]
memory = "128MiB"
disk = "64MiB"

[sandbox.dir]
image = "./root"
cmd = ["sleep", "100000"]
patches = [{ text = "/etc/patched", content = "patched\n" }, { append = "/etc/what", content = "more\n" }]

[sandbox.raw]
image = "./raw.img"
patches = [
  { append = "/etc/what", content = "more\n" },
  { text = "/etc/patched", content = "raw\n" },
  { remove = "/etc/old" },
  { remove = "/root" },
  { text = "/root/new", content = "" },
]

[sandbox.parts]
image = "./parts.qcow2"
patches = [
  { append = "/etc/what", content = "more\n" },
  { text = "/etc/patched", content = "parts\n" },
  { remove = "/etc/old" },
  { remove = "/root" },
  { text = "/root/new", content = "" },
]

[sandbox.choice]
image = { disk = "./parts.qcow2", partition = 1, fstype = "ext4" }

[sandbox.sparse]
image = "./sparse.vmdk"
patches = [
  { append = "/etc/what", content = "more\n" },
  { text = "/etc/patched", content = "sparse\n" },
  { remove = "/etc/old" },
  { remove = "/root" },
  { text = "/root/new", content = "" },
]

[sandbox.written]
image = { disk = "./written.qcow2", writable = true }
"#;

/// Of each disk's file system, in bytes.
const FS_BYTES: u64 = 24 << 20;
/// Where the second partition starts, in bytes.
const SECOND: u64 = 2 << 20;

#[track_caller]
fn run(program: &str, package: &str, args: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(args).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = command.spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{error}: apt-get install {package}"));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A root file system with busybox, and a file that says what it is.
fn tree(root: &Path, what: &str) {
    for dir in ["bin", "etc", "root", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("apt-get install busybox-static");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::write(root.join("etc/what"), format!("{what}\n")).unwrap();
    fs::write(root.join("etc/old"), "").unwrap();
    fs::write(root.join("root/old"), "").unwrap();
}

/// Puts a file system with such a root into `path`.
pub(crate) fn file_system(env: &Environment, path: &Path, what: &str) {
    let root = env.root().join("tree");
    tree(&root, what);
    File::create(path).unwrap().set_len(FS_BYTES).unwrap();
    let (root, path) = (root.to_str().unwrap(), path.to_str().unwrap());
    run("mke2fs", "e2fsprogs", &["-q", "-F", "-t", "ext4", "-d", root, path], "");
    fs::remove_dir_all(root).unwrap();
}

fn convert(env: &Environment, from: &str, format: &str, to: &str) -> PathBuf {
    let path = |name: &str| env.project().join(name).display().to_string();
    let (from, made) = (path(from), path(to));
    let args = ["convert", "-f", "raw", "-O", format, &from, &made];
    run("qemu-img", "qemu-utils", &args, "");
    env.project().join(to)
}

fn hash(path: &Path) -> blake3::Hash {
    blake3::hash(&fs::read(path).unwrap())
}

/// What a guest says of its root, which it then writes to.
fn look(env: &Environment, name: &str) -> String {
    let script = "cat /etc/what; echo own > /etc/what; echo own > /new; cat /etc/what; sync";
    sh(env, &[], name, script).expect(0).stdout
}

#[test]
fn a_directory_is_a_root() {
    let env = environment(&driver_name(), ROOTS);
    let root = env.project().join("root");
    tree(&root, "directory");
    fs::hard_link(root.join("etc/what"), root.join("etc/again")).unwrap();
    symlink("../../../../etc/what", root.join("up")).unwrap();
    fs::write(root.join("bin/tool"), "").unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        chown(root.join("bin/tool"), Some(1234), Some(70_000)).unwrap();
    }
    fs::set_permissions(root.join("bin/tool"), Permissions::from_mode(0o4750)).unwrap();
    env.msb("up -d --wait dir").expect(0);
    let script =
        "cat /up /etc/again /etc/patched; ls -ln /bin/tool | { read m n u g r; echo $m $u $g; }";
    let said = sh(&env, &[], "dir", script).expect(0).stdout;
    let owner = if is_root { "1234 70000".to_owned() } else { own() };
    let expected = "directory\nmore\ndirectory\npatched\n-rwsr-x--- OWNER\n";
    assert_eq!(said, expected.replace("OWNER", &owner));
    assert_eq!(look(&env, "dir"), "directory\nmore\nown\n");
    env.msb("down").expect(0);
    assert_eq!(fs::read_to_string(root.join("etc/what")).unwrap(), "directory\n");
    assert!(!root.join("new").exists());
}

fn own() -> String {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    format!("{} {}", uid.as_raw(), gid.as_raw())
}

#[test]
fn disks_are_roots() {
    let env = environment(&driver_name(), ROOTS);
    let path = |name: &str| env.project().join(name);
    file_system(&env, &path("raw.img"), "raw");
    // As after a power cut: its journal cannot be replayed, since nothing writes to it.
    let raw = path("raw.img").display().to_string();
    run("debugfs", "e2fsprogs", &["-w", "-R", "feature needs_recovery", &raw], "");

    let disk = File::create(path("parts.img")).unwrap();
    disk.set_len(SECOND + FS_BYTES + (1 << 20)).unwrap();
    let label = format!(
        "label: gpt\nstart=2048, size=1024\nstart={}, size={}\n",
        SECOND / 512,
        FS_BYTES / 512
    );
    run("sfdisk", "fdisk", &["-q", path("parts.img").to_str().unwrap()], &label);
    file_system(&env, &path("part.img"), "partition");
    disk.write_all_at(&fs::read(path("part.img")).unwrap(), SECOND).unwrap();
    let qcow2 = convert(&env, "parts.img", "qcow2", "parts.qcow2");

    file_system(&env, &path("sparse.img"), "sparse");
    let vmdk = convert(&env, "sparse.img", "vmdk", "sparse.vmdk");
    let readonly = [path("raw.img"), qcow2, vmdk];
    let before = readonly.each_ref().map(|path| hash(path));
    for (name, what) in [("raw", "raw"), ("parts", "partition"), ("sparse", "sparse")] {
        env.msb(&format!("up -d --wait {name}")).expect(0);
        let patched = sh(&env, &[], name, "cat /etc/patched; ls /etc /root").expect(0).stdout;
        assert_eq!(
            patched,
            format!("{name}\n/etc:\nhosts\npasswd\npatched\nwhat\n\n/root:\nnew\n")
        );
        assert_eq!(look(&env, name), format!("{what}\nmore\nown\n"), "{name}");
        env.msb(&format!("stop {name}")).expect(0);
        env.msb(&format!("start {name}")).expect(0);
        assert_eq!(sh(&env, &[], name, "cat /new").expect(0).stdout, "own\n");
        env.msb(&format!("stop {name}")).expect(0);
    }
    assert!(readonly.each_ref().map(|path| hash(path)) == before, "a disk image was written to");

    let said = env.msb("up -d --wait choice").expect(1).stderr;
    assert!(said.contains("mount the disk image"), "{said}");
    env.msb("down").expect(0);
}

#[test]
fn a_disk_that_is_written_to_keeps_it() {
    let env = environment(&driver_name(), ROOTS);
    let written = env.project().join("written.img");
    file_system(&env, &written, "written");
    let disk = convert(&env, "written.img", "qcow2", "written.qcow2");
    env.msb("up -d --wait written").expect(0);
    assert_eq!(look(&env, "written"), "written\nown\n");
    env.msb("stop").expect(0);
    env.msb("start").expect(0);
    assert_eq!(sh(&env, &[], "written", "cat /new /etc/what").expect(0).stdout, "own\nown\n");
    env.msb("down").expect(0);
    // What is left is the disk, in order, for another sandbox.
    let (disk, written) = (disk.display().to_string(), written.display().to_string());
    run("qemu-img", "qemu-utils", &["check", "-q", &disk], "");
    run("qemu-img", "qemu-utils", &["convert", "-O", "raw", &disk, &written], "");
    run("e2fsck", "e2fsprogs", &["-fn", &written], "");
    env.msb("up -d --wait written").expect(0);
    expect!["own\n"].assert_eq(&sh(&env, &[], "written", "cat /new").expect(0).stdout);
    env.msb("down").expect(0);
}
