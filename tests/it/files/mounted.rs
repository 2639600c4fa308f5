//! The server behind the kernel of this machine, as behind that of a guest: ordinary programs over
//! a real mount.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use msb::files::{FileServer, MAX_MESSAGE, Share, spawn_program};
use msb_protocol::FilesPreamble;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::client::{files, program, u32_at};

/// A file system that is mounted for this test's thread and the programs that it starts.
struct Mounted {
    at: tempfile::TempDir,
    _server: FileServer,
}

impl Mounted {
    fn new(shares: Vec<Share>) -> Self {
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let fuse = fuse.expect("this test needs root and the kernel's FUSE: `modprobe fuse`");
        // SAFETY: only this thread has another view of what is mounted.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
            .expect("this test needs root");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = spawn_program(&program(), shares, theirs.into(), "tests", false).unwrap();
        let at = tempfile::tempdir().unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,\
             max_read=131072\0",
            fuse.as_raw_fd()
        );
        let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("msb", at.path(), "fuse", flags, data).unwrap();
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        let preamble = FilesPreamble { uid: uid.as_raw(), gid: gid.as_raw() };
        (&ours).write_all(&preamble.encode()).unwrap();
        relay(fuse, ours);
        Self { at, _server: server }
    }

    fn share(&self, number: usize) -> PathBuf {
        self.at.path().join(number.to_string())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.at.path(), UnmountFlags::DETACH);
    }
}

fn relay(fuse: File, stream: UnixStream) {
    let (mut from_kernel, mut to_server) = (fuse.try_clone().unwrap(), stream.try_clone().unwrap());
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_MESSAGE];
        while let Ok(length) = from_kernel.read(&mut buffer) {
            if to_server.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
    });
    let (mut to_kernel, mut from_server) = (fuse, stream);
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_MESSAGE];
        while from_server.read_exact(&mut buffer[..16]).is_ok() {
            let length = usize::try_from(u32_at(&buffer, 0)).unwrap();
            from_server.read_exact(&mut buffer[16..length]).unwrap();
            // The kernel refuses answers to what it has given up.
            let _ = to_kernel.write(&buffer[..length]);
        }
    });
}

fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; install it"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn programs_work_on_a_share() {
    let host = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(vec![files(host.path())]);
    let share = mounted.share(0);
    let source = host.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::create_dir(source.join("deep")).unwrap();
    for number in 0..200 {
        fs::write(source.join(format!("deep/{number}")), vec![b'x'; number * 100]).unwrap();
    }
    fs::write(source.join("run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(source.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("deep/1", source.join("link")).unwrap();
    fs::hard_link(source.join("deep/2"), source.join("two")).unwrap();
    // From the share into it, and back out of an archive made of it.
    run(&share, "cp", &["-a", "source", "copy"]);
    run(&share, "diff", &["-r", "--no-dereference", "source", "copy"]);
    assert_eq!(fs::metadata(host.path().join("copy/two")).unwrap().nlink(), 2);
    assert_eq!(run(&share, "copy/run", &[]), "ran\n");
    run(&share, "tar", &["-cf", "a.tar", "copy"]);
    fs::create_dir(share.join("out")).unwrap();
    run(&share, "tar", &["-xf", "a.tar", "-C", "out"]);
    run(&share, "diff", &["-r", "--no-dereference", "source", "out/copy"]);
    let named = ["-c", "user.name=a", "-c", "user.email=a@b"];
    run(&share, "git", &["init", "-q", "copy"]);
    let copy = share.join("copy");
    run(&copy, "git", &["add", "."]);
    run(&copy, "git", &[&named[..], &["commit", "-qm", "all"]].concat());
    assert_eq!(run(&copy, "git", &["status", "--porcelain"]), "");
    run(&copy, "git", &["gc", "-q"]);
    run(&copy, "git", &["fsck", "--strict"]);
    run(&share, "rm", &["-r", "copy", "out", "a.tar"]);
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 1);
}

#[test]
fn edits_of_the_host_are_seen() {
    let host = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(vec![files(host.path())]);
    let share = mounted.share(0);
    let file = host.path().join("file");
    for round in 0_u32..6 {
        let text = format!("round {round}");
        if round % 2 == 0 {
            fs::write(&file, &text).unwrap();
        } else {
            fs::write(host.path().join("new"), &text).unwrap();
            fs::rename(host.path().join("new"), &file).unwrap();
        }
        let begun = std::time::Instant::now();
        while fs::read_to_string(share.join("file")).is_ok_and(|seen| seen != text) {
            assert!(begun.elapsed().as_millis() < 1500, "{round}");
            thread::yield_now();
        }
    }
    fs::write(share.join("file"), "by the guest").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "by the guest");
    // What is open stays, by whatever it is called.
    let open = File::open(share.join("file")).unwrap();
    fs::remove_file(share.join("file")).unwrap();
    let mut content = [0; 12];
    open.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"by the guest");
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    assert!(!file.exists());
}

#[test]
fn a_read_only_share_is_read_only() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "content").unwrap();
    let mounted = Mounted::new(vec![Share { readonly: true, ..files(host.path()) }]);
    let share = mounted.share(0);
    let denied = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    };
    denied(fs::write(share.join("file"), "x"));
    denied(fs::write(share.join("new"), "x"));
    denied(fs::remove_file(share.join("file")));
    denied(fs::create_dir(share.join("dir")));
    denied(fs::rename(share.join("file"), share.join("other")));
    denied(fs::set_permissions(share.join("file"), fs::Permissions::from_mode(0o600)));
    denied(symlink("x", share.join("link")));
    denied(fs::hard_link(share.join("file"), share.join("link")));
    assert_eq!(fs::read_to_string(share.join("file")).unwrap(), "content");
}
