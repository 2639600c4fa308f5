//! A guest whose root speaks to the file server in person.
//!
//! The port `files` is held by PID 1. Root of the guest takes a copy of its descriptor, stops the
//! thread that reads answers, and then sends what no kernel would. That program is this one, with
//! its libraries, put into the guest by a patch.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use super::raw::{
    CREATE, Connection, LINK, LOOKUP, MKDIR, MKNOD, OPEN, OPENDIR, READ, READLINK, RELEASE, RENAME,
    RMDIR, SETATTR, SETXATTR, SYMLINK, UNLINK, WRITE, name, node_of, numbers,
};
use crate::cli::{environment, sh};
use crate::environment::{Environment, Ran, supervisor_process, wait_for_end};
use crate::guest::driver_name;

const PROJECT: &str = r#"
name = "hostile"

[sandbox.guest]
image = "./image"
memory = "256MiB"
disk = "256MiB"
cmd = ["sleep", "100000"]
volumes."/share" = { bind = "./share" }
volumes."/ro" = { bind = "./ro", readonly = true }
patches = [{ copy_dir = "./tool", to = "/tool" }]
"#;

/// Shares by their numbers: in the order of their paths in the guest.
const RO: &str = "0";
const SHARE: &str = "1";
/// What begins the lines of the attacker.
const SAID: &str = "attacker:";
/// More than the server lets a guest have open.
const OPENS: usize = 20_000;

#[test]
fn requests_that_no_kernel_sends() {
    let env = environment(&driver_name(), PROJECT);
    for dir in ["share/sub", "ro", "outside"] {
        fs::create_dir_all(env.project().join(dir)).unwrap();
    }
    for file in ["share/inside", "share/sub/file", "ro/keep", "outside/canary"] {
        env.write(file, "untouched\n");
    }
    symlink("../outside/canary", env.project().join("share/out")).unwrap();
    symlink("../outside", env.project().join("share/outdir")).unwrap();
    pack_this_program(&env.project().join("tool"));
    env.msb("up -d --wait").expect(0);

    // Written through a map of the file, by a program that does not say when it is done.
    run_in_guest(&env, "mapper").expect(0);
    let mapped = fs::read(env.project().join("share/mapped")).unwrap();
    assert!(mapped == pattern(), "{} bytes were written", mapped.len());

    let before = treasures(&env);
    let ran = run_in_guest(&env, "attacker");
    // The first one comes behind the name of the test.
    let said: Vec<&str> = ran.stdout.lines().filter_map(|l| Some(l.split_once(SAID)?.1)).collect();
    assert_eq!(said, [" done"], "{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(treasures(&env), before);
    assert_eq!(fs::read_to_string(env.project().join("share/inside")).unwrap(), "untouched\n");
    // The kernel's own requests pass as before.
    assert_eq!(sh(&env, &[], "guest", "cat /share/inside").expect(0).stdout, "untouched\n");

    let supervisor = supervisor_process(&env, "guest");
    run_in_guest(&env, "babbler");
    wait_for_end(&supervisor);
    let row = env.row("guest");
    assert_eq!(row.error.as_deref(), Some("the file server has ended: exit code 2"));
    assert_eq!(treasures(&env), before);
}

/// Runs an ignored test of this file in the guest.
fn run_in_guest(env: &Environment, test: &str) -> Ran {
    let script = format!(
        "/tool/ld.so --library-path /tool /tool/program --exact mounts::hostile::{test} --ignored \
         --nocapture --test-threads=1"
    );
    sh(env, &[], "guest", &script)
}

/// Copies this program and the libraries that it has loaded.
fn pack_this_program(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    for path in maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(Path::new) {
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let to = if file.starts_with("ld-linux") { "ld.so" } else { file };
        if file.contains(".so") && !dir.join(to).exists() {
            fs::copy(path, dir.join(to)).unwrap();
        }
    }
    fs::copy(std::env::current_exe().unwrap(), dir.join("program")).unwrap();
}

/// Everything that the guest must not change: contents, owners, modes, links and times.
fn treasures(env: &Environment) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open: Vec<PathBuf> = ["ro", "outside", "image/index.json", "Sandboxfile"]
        .map(|path| env.project().join(path))
        .to_vec();
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut text = format!(
            "{:o} {}:{} {} {}.{}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
        found.insert(path, text);
    }
    found
}

/// Runs in the guest.
#[test]
#[ignore = "what a hostile guest runs"]
fn attacker() {
    let mut server = Connection::take_over();
    let share = node_of(&server.ask(LOOKUP, 1, &name(SHARE)).unwrap());
    let ro = node_of(&server.ask(LOOKUP, 1, &name(RO)).unwrap());
    bad_names(&mut server, share, ro);
    forged_nodes(&mut server, share);
    links(&mut server, share);
    readonly(&mut server, share, ro);
    many_opens(&mut server, share);
    println!("{SAID} done");
}

/// Runs in the guest.
#[test]
#[ignore = "what a hostile guest runs"]
fn babbler() {
    Connection::take_over().send(&[0x41; 4096]);
    println!("{SAID} done");
}

fn pattern() -> Vec<u8> {
    (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(0x9E37_79B9).to_le_bytes()).collect()
}

/// Runs in the guest.
#[test]
#[ignore = "what writes to a map in a guest"]
fn mapper() {
    let pattern = pattern();
    let file = File::create_new("/share/mapped").unwrap();
    file.set_len(pattern.len() as u64).unwrap();
    drop(file);
    let file = File::options().read(true).write(true).open("/share/mapped").unwrap();
    // SAFETY: the map is as long as the file, which nobody truncates, and is written to within.
    unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (start, fd) = (std::ptr::null_mut(), file.as_raw_fd());
        let map = libc::mmap(start, pattern.len(), access, libc::MAP_SHARED, fd, 0);
        assert_ne!(map, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        std::ptr::copy_nonoverlapping(pattern.as_ptr(), map.cast(), pattern.len());
        libc::_exit(0);
    }
}

/// Names the request if the server does not refuse it.
fn refused(server: &mut Connection, what: &str, operation: u32, node: u64, body: &[u8]) {
    // Node 0 is how a kernel is told that there is nothing.
    let nothing = |answer: &[u8]| operation == LOOKUP && answer.starts_with(&[0; 8]);
    if let Ok(answer) = server.ask(operation, node, body)
        && !nothing(&answer)
    {
        println!("{SAID} {what}: {operation} of {node} with {body:?} gives {answer:?}");
    }
}

fn bad_names(server: &mut Connection, share: u64, ro: u64) {
    let long = "x".repeat(5000);
    let names: [&[u8]; 10] = [
        b"..\0",
        b".\0",
        b"\0",
        b"/\0",
        b"../outside/canary\0",
        b"/etc/passwd\0",
        b"sub/file\0",
        b"sub/../../outside/canary\0",
        b"no end",
        long.as_bytes(),
    ];
    for bad in names {
        for dir in [1, share, ro] {
            let with = |numbers: &[u8]| [numbers, bad].concat();
            let mut try_ = |operation, body: &[u8]| refused(server, "name", operation, dir, body);
            for operation in [LOOKUP, UNLINK, RMDIR] {
                try_(operation, bad);
            }
            try_(CREATE, &with(&numbers(&[0o2, 0o100_666, 0, 0])));
            try_(MKDIR, &with(&numbers(&[0o777, 0])));
            try_(MKNOD, &with(&numbers(&[0o100_666, 0, 0, 0])));
            try_(SYMLINK, &[bad, b"/etc/passwd\0"].concat());
            try_(LINK, &with(&share.to_le_bytes()));
            try_(RENAME, &[&share.to_le_bytes()[..], bad, b"new\0"].concat());
            try_(RENAME, &[&share.to_le_bytes()[..], b"inside\0", bad].concat());
        }
    }
    // A name ends at its first zero: what follows is no second name.
    refused(server, "zero", LOOKUP, share, b"nothing\0inside\0");
}

fn forged_nodes(server: &mut Connection, share: u64) {
    let forged = [0, share + 1000, 1 << 20, 1 << 40, u64::MAX, u64::MAX - 1];
    for node in forged {
        for operation in [OPEN, OPENDIR] {
            refused(server, "forged node", operation, node, &numbers(&[0, 0]));
        }
        refused(server, "forged node", LOOKUP, node, b"canary\0");
        refused(server, "forged node", UNLINK, node, b"canary\0");
        refused(server, "forged node", SETATTR, node, &truncation());
        refused(server, "forged node", READ, node, &transfer(1));
        refused(server, "forged node", WRITE, node, &[&transfer(1)[..], b"x"].concat());
        refused(server, "forged node", READLINK, node, &[]);
        refused(server, "forged node", LINK, share, &[&node.to_le_bytes()[..], b"l\0"].concat());
    }
}

/// What is a link on the host leads nowhere.
fn links(server: &mut Connection, share: u64) {
    let made = server.ask(SYMLINK, share, b"up\0..\0").map(|answer| node_of(&answer)).unwrap();
    for node in [b"out\0".as_slice(), b"outdir\0"]
        .map(|link| node_of(&server.ask(LOOKUP, share, link).unwrap()))
        .into_iter()
        .chain([made])
    {
        for flags in [0, 1, 2, 0o1002] {
            refused(server, "link", OPEN, node, &numbers(&[flags, 0]));
        }
        refused(server, "link", OPENDIR, node, &numbers(&[0, 0]));
        refused(server, "link", SETATTR, node, &truncation());
        for inner in [b"canary\0".as_slice(), b"outside\0", b"Sandboxfile\0"] {
            refused(server, "link", LOOKUP, node, inner);
            refused(server, "link", UNLINK, node, inner);
        }
        let file = [&numbers(&[0o2, 0o100_666, 0, 0])[..], b"new\0"].concat();
        refused(server, "link", CREATE, node, &file);
    }
    let device = [&numbers(&[0o020_666, 0x103, 0, 0])[..], b"device\0"].concat();
    refused(server, "device", MKNOD, share, &device);
}

fn readonly(server: &mut Connection, share: u64, ro: u64) {
    let keep = node_of(&server.ask(LOOKUP, ro, b"keep\0").unwrap());
    for flags in [1, 2, 0o1000, 0o1001, 0o2002] {
        refused(server, "read-only", OPEN, keep, &numbers(&[flags, 0]));
    }
    refused(server, "read-only", SETATTR, keep, &truncation());
    let owner = "user.msb.owner\0".as_bytes();
    let attribute = [&numbers(&[3, 0])[..], owner, b"7:7"].concat();
    refused(server, "read-only", SETXATTR, keep, &attribute);
    refused(server, "read-only", UNLINK, ro, b"keep\0");
    refused(server, "read-only", MKDIR, ro, &[&numbers(&[0o777, 0])[..], b"d\0"].concat());
    // Between a share that is writable and one that is not.
    let to = |node: u64, names: &[u8]| [&node.to_le_bytes()[..], names].concat();
    refused(server, "link out", LINK, share, &to(keep, b"stolen\0"));
    refused(server, "move out", RENAME, ro, &to(share, b"keep\0stolen\0"));
    refused(server, "move in", RENAME, share, &to(ro, b"inside\0keep\0"));
    // Opened for reading, then written to.
    let handle = server.ask(OPEN, keep, &numbers(&[0, 0])).unwrap();
    let handle = u64::from_le_bytes(handle[..8].try_into().unwrap());
    refused(server, "write", WRITE, keep, &[&transfer(handle)[..], b"x"].concat());
}

fn many_opens(server: &mut Connection, share: u64) {
    let inside = node_of(&server.ask(LOOKUP, share, b"inside\0").unwrap());
    let mut open = || server.ask(OPEN, inside, &numbers(&[0, 0])).ok();
    let handles: Vec<Vec<u8>> = (0..OPENS).map_while(|_| open()).collect();
    if handles.len() == OPENS {
        println!("{SAID} {OPENS} files are open");
    }
    for handle in handles {
        server.ask(RELEASE, inside, &[&handle[..8], &[0; 16]].concat()).unwrap();
    }
}

/// Sets the size to nothing.
fn truncation() -> Vec<u8> {
    const SIZE: u32 = 1 << 3;
    let mut body = numbers(&[SIZE]);
    body.resize(88, 0);
    body
}

/// One byte at the beginning of an open file.
fn transfer(handle: u64) -> Vec<u8> {
    let mut body = handle.to_le_bytes().to_vec();
    body.extend(numbers(&[0, 0, 1, 0, 0, 0, 0, 0]));
    body
}
