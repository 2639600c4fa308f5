//! The jail of the server, and who it is.

use std::fs;
use std::os::unix::fs::MetadataExt;

use msb::files::Share;

use super::client::*;

/// What the kernel says of the process.
#[test]
fn a_server_has_no_power_but_over_files() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::start(vec![files(dir.path())]);
    let status = fs::read_to_string(format!("/proc/{}/status", client.server.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    // Passing over permissions and over ownership.
    let kept = if rustix::process::geteuid().is_root() { 1_u64 << 1 | 1 << 3 } else { 0 };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let has = u64::from_str_radix(&field(set), 16).unwrap();
        assert!(has == kept || has == 0 || set == "CapBnd" && kept == 0, "{set} {has:x}");
        assert!(set != "CapEff" || has == kept, "{has:x}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
    }
    let held = ["NoNewPrivs", "Seccomp", "Seccomp_filters"].map(field);
    assert_eq!(held, ["1", "2", "2"]);
    assert_eq!(field("NSpid").split_whitespace().last(), Some("1"));
    // Nothing in sight but the system's programs, the shares and its own descriptors.
    let mut top: Vec<_> = fs::read_dir(format!("/proc/{}/root", client.server.pid()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    top.sort();
    top.retain(|name| !name.starts_with("lib") && name != "bin" && name != "usr");
    let program = program().components().nth(1).unwrap().as_os_str().to_owned();
    let program = program.into_string().unwrap();
    top.retain(|name| *name != program);
    assert_eq!(top, [".msb-shares", "dev", "etc", "proc"]);
}

/// Not a test: the ordinary user.
#[test]
#[ignore = "the helper process of another test"]
fn ordinary_user() {
    assert!(!rustix::process::geteuid().is_root());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    let shares = vec![files(dir.path()), Share { readonly: true, ..files("/etc".as_ref()) }];
    let mut client = Client::start(shares);
    let missing: Vec<_> = client.server.jail().missing().collect();
    assert_eq!(missing, [], "the jail");
    let file = client.walk("file").unwrap();
    assert_eq!((file.uid, file.gid), (1000, 1000));
    let root = client.share(0);
    client.caller = (0, 0);
    // What its owner may not write can still be noted to be another's.
    for mode in [0o444, 0o000] {
        let name = format!("{mode:o}");
        client.create(root, &name, libc::O_WRONLY, mode).unwrap();
        let meta = fs::metadata(dir.path().join(&name)).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (STRANGER, mode));
    }
    assert_eq!(client.lookup(root, "444").unwrap().uid, 0);
    // What is another's on the host stays that, and closed to whom it was.
    let etc = client.share(1);
    let shadow = client.lookup(etc, "shadow").unwrap();
    assert_eq!((shadow.uid, shadow.gid), (NOBODY, NOBODY));
    assert_eq!(client.open(shadow.node, libc::O_RDONLY), Err(libc::EACCES));
    let hosts = client.lookup(etc, "passwd").unwrap();
    assert!(client.open(hosts.node, libc::O_RDONLY).is_ok());
}

/// Not a test: on a machine without user namespaces.
#[test]
#[ignore = "the helper process of another test"]
fn without_user_namespaces() {
    forbid_user_namespaces();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    let mut client = Client::start(vec![files(dir.path())]);
    let missing: Vec<_> = client.server.jail().missing().map(|(layer, _)| layer).collect();
    assert_eq!(missing.first(), Some(&"user namespace"));
    let file = client.walk("file").unwrap();
    let handle = client.open(file.node, libc::O_RDWR).unwrap();
    assert_eq!(client.read(file.node, handle, 0, 100).unwrap(), b"content");
    assert_eq!(client.write(file.node, handle, 0, b"C"), Ok(1));
    let root = client.share(0);
    client.create(root, "new", libc::O_WRONLY, 0o644).unwrap();
    // Not when the jail must be whole.
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let share = vec![files(dir.path())];
    let refused = msb::files::spawn_program(&program(), share, theirs.into(), "tests", true);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("required to be: user namespace ("), "{refused}");
}

/// As a sysctl does for the whole machine: for this process and those that it starts.
fn forbid_user_namespaces() {
    use seccompiler::SeccompCmpArgLen::Dword;
    use seccompiler::{SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
    let flag = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let made = SeccompCondition::new(0, Dword, SeccompCmpOp::MaskedEq(flag), flag).unwrap();
    let rules = [(libc::SYS_clone, vec![SeccompRule::new(vec![made]).unwrap()])];
    let filter = SeccompFilter::new(
        rules.into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSPC.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter_all_threads(&program).unwrap();
}

/// Whom a namespace shows in the place of users that it does not know.
const NOBODY: u32 = 65_534;
const STRANGER: u32 = 4321;

#[test]
fn an_ordinary_user_shares_what_is_his() {
    elsewhere("ordinary_user", true);
}

#[test]
fn without_user_namespaces_files_are_served() {
    elsewhere("without_user_namespaces", true);
    elsewhere("without_user_namespaces", false);
}

/// Runs a test of this file in a process of its own, as an ordinary user if that is asked for.
fn elsewhere(name: &str, stranger: bool) {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let name = format!("files::confined::{name}");
    command.args(["--exact", &name, "--ignored", "--nocapture"]);
    if stranger && rustix::process::geteuid().is_root() {
        command.uid(STRANGER).gid(STRANGER);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}
