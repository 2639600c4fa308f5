//! The wire form of every message, held by `golden/messages.txt`: a change there is a change of the
//! protocol, which older agents and hosts must be able to read, or which needs a new version.

use std::collections::BTreeMap;
use std::fmt::Debug;

use expect_test::expect_file;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    BootConfig, BootFailed, ControlInput, ControlOutput, DiskMount, ExecFailure, ExecInput,
    ExecOutput, ExecRequest, ExitStatus, Frame, FsEntry, FsErrorKind, FsFailure, FsKind,
    FsMetadata, FsPut, FsReply, FsRequest, FsWrite, GrowReply, GrowRequest, GuestMetrics,
    HttpProbe, Node, Preamble, ProbeOutput, ProbeRequest, Request, Rlimit, RootConfig, RootDisk,
    ShareMount, StdinMode, TmpfsMount, TreeItem, Tty,
};

/// Gathers lines, checking that each message decodes as itself.
#[derive(Default)]
struct Golden(String);

impl Golden {
    fn add<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, value: &T) {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        assert_eq!(&Frame::Message(&bytes).message::<T>().unwrap(), value);
        self.line(name, &bytes);
    }

    fn line(&mut self, name: &str, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.push_str(&format!("{name} {hex}\n"));
    }
}

fn scripts() -> BTreeMap<String, String> {
    BTreeMap::from([("backup".into(), "#!/bin/sh\ntrue".into())])
}

fn boot_config() -> BootConfig {
    BootConfig {
        root: RootConfig {
            lowers: vec!["patch".into(), "image".into()],
            upper: Some("upper".into()),
            disk: Some(RootDisk {
                serial: "image".into(),
                fstype: Some("btrfs".into()),
                partition: Some(2),
                writable: false,
            }),
        },
        disks: vec![DiskMount {
            serial: "vol0".into(),
            path: "/data".into(),
            fstype: "ext4".into(),
            readonly: false,
            populate: true,
            share: Some(7),
        }],
        shares: vec![ShareMount {
            share: 1,
            path: "/src".into(),
            readonly: true,
            populate: false,
            fstype: Some("ext4".into()),
        }],
        user: Some("app".into()),
        tmpfs: vec![TmpfsMount {
            path: "/tmp".into(),
            size_bytes: Some(1 << 20),
            mode: 0o1777,
            readonly: true,
        }],
        hostname: "web".into(),
        hosts: BTreeMap::from([("10.0.0.2".into(), vec!["db".into()])]),
        scripts: scripts(),
        clock_ns: 1_700_000_000_000_000_000,
    }
}

fn exec_request() -> ExecRequest {
    ExecRequest {
        argv: vec!["sh".into(), "-c".into(), "true".into()],
        env: BTreeMap::from([("A".into(), "1".into())]),
        cwd: Some("/srv".into()),
        user: Some("app:staff".into()),
        stdin: StdinMode::Pipe,
        tty: Some(Tty { rows: 24, cols: 80, term: "xterm".into() }),
        rlimits: vec![Rlimit { name: "nofile".into(), soft: Some(1), hard: None }],
        create_cwd: true,
    }
}

fn fs_requests() -> Vec<(&'static str, FsRequest)> {
    let path = || "/a".into();
    let write = |offset, mode, sync| FsWrite { path: path(), offset, mode, sync };
    vec![
        ("stat", FsRequest::Stat { path: path(), follow: true }),
        ("list", FsRequest::List { path: b"/\xff"[..].into() }),
        ("make_dir", FsRequest::MakeDir { path: path() }),
        ("remove", FsRequest::Remove { path: path() }),
        ("remove_dir", FsRequest::RemoveDir { path: path() }),
        ("rename", FsRequest::Rename { from: path(), to: "/b".into() }),
        ("copy", FsRequest::Copy { from: path(), to: "/b".into() }),
        ("read", FsRequest::Read { path: path(), offset: 1, length: Some(2) }),
        ("write", FsRequest::Write(write(Some(1), Some(0o644), true))),
        ("write.least", FsRequest::Write(write(None, None, false))),
        ("get", FsRequest::Get { path: path(), follow: false }),
        (
            "put",
            FsRequest::Put(FsPut { path: path(), name: "b".into(), contents: true, archive: true }),
        ),
    ]
}

fn fs_replies() -> Vec<(&'static str, FsReply)> {
    let metadata = |kind| FsMetadata {
        kind,
        size: 5,
        mode: 0o1777,
        uid: 1,
        gid: 2,
        modified_ms: Some(1_700_000_000_123),
        created_ms: None,
    };
    let failure =
        FsFailure { kind: FsErrorKind::NotFound, path: "/a".into(), message: "gone".into() };
    let entry = |name: &str, kind| FsEntry { name: name.into(), metadata: metadata(kind) };
    vec![
        ("done", FsReply::Done),
        ("metadata", FsReply::Metadata(metadata(FsKind::File))),
        (
            "entries",
            FsReply::Entries(vec![
                entry("d", FsKind::Directory),
                entry("l", FsKind::Symlink),
                entry("o", FsKind::Other),
            ]),
        ),
        ("failed", FsReply::Failed(failure)),
    ]
}

fn tree_items() -> Vec<(&'static str, TreeItem)> {
    let node = || Node {
        name: "a".into(),
        mode: 0o4755,
        uid: 1,
        gid: 2,
        mtime: -1,
        mtime_ns: 999_999_999,
    };
    let failure =
        FsFailure { kind: FsErrorKind::PermissionDenied, path: "a/b".into(), message: "no".into() };
    vec![
        ("dir", TreeItem::Dir(node())),
        ("file", TreeItem::File { node: node(), size: 1 << 40 }),
        ("symlink", TreeItem::Symlink { node: node(), target: "/b".into() }),
        ("hard_link", TreeItem::HardLink { name: "b".into(), to: vec!["a".into(), "c".into()] }),
        ("hole", TreeItem::Hole(1 << 30)),
        ("end", TreeItem::End),
        ("skipped", TreeItem::Skipped { path: "a".into(), why: "a socket".into() }),
        ("finished", TreeItem::Finished),
        ("failed", TreeItem::Failed(failure)),
    ]
}

#[test]
fn the_wire_form_stays() {
    let mut golden = Golden::default();
    golden.line("preamble", &Preamble::OURS.encode());
    golden.add("request.control", &Request::Control);
    golden.add("request.exec", &Request::Exec(exec_request()));
    golden.add("request.exec.least", &Request::Exec(ExecRequest::default()));
    let http = HttpProbe { host: "localhost:80".into(), path: "/health".into() };
    let probe =
        ProbeRequest { addresses: vec!["127.0.0.1:80".into()], http: Some(http), timeout_ms: 5000 };
    golden.add("request.probe", &Request::Probe(probe));
    golden.add("request.metrics", &Request::Metrics);
    let metrics = GuestMetrics {
        cpu_us: 1,
        memory_total_bytes: 2,
        memory_available_bytes: 3,
        disk_read_bytes: 4,
        disk_write_bytes: 5,
        net_rx_bytes: 6,
        net_tx_bytes: 7,
    };
    golden.add("metrics", &metrics);
    golden.add("request.grow", &Request::Grow(GrowRequest { share: 3 }));
    golden.add("grow.grown", &GrowReply::Grown);
    golden.add("grow.failed", &GrowReply::Failed("x".into()));
    golden.add("probe.connected", &ProbeOutput::Connected);
    golden.add("probe.status", &ProbeOutput::Status(204));
    golden.add("probe.failed", &ProbeOutput::Failed("x".into()));
    golden.add("control.boot", &ControlInput::Boot(Box::new(boot_config())));
    golden.add("control.boot.least", &ControlInput::Boot(Box::default()));
    golden.add("control.shutdown", &ControlInput::Shutdown { grace_ms: 10_000 });
    golden.add("control.ready", &ControlOutput::Ready { uptime_us: 1_500_000 });
    let failed = BootFailed { stage: "mount upper".into(), message: "no such disk".into() };
    golden.add("control.boot_failed", &ControlOutput::BootFailed(failed));
    golden.add("control.bye", &ControlOutput::Bye);
    golden.add("exec.signal", &ExecInput::Signal(15));
    golden.add("exec.resize", &ExecInput::Resize { rows: 24, cols: 80 });
    golden.add("exec.started", &ExecOutput::Started { pid: 42 });
    golden.add("exec.input_taken", &ExecOutput::InputTaken(1 << 17));
    golden.add("exec.exited.code", &ExecOutput::Exited(ExitStatus::Code(3)));
    golden.add("exec.exited.signal", &ExecOutput::Exited(ExitStatus::Signal(9)));
    let what = || "x".to_owned();
    for (name, failure) in [
        ("not_found", ExecFailure::NotFound(what())),
        ("not_executable", ExecFailure::NotExecutable(what())),
        ("bad_workdir", ExecFailure::BadWorkdir(what())),
        ("unknown_user", ExecFailure::UnknownUser(what())),
        ("invalid", ExecFailure::Invalid(what())),
        ("system", ExecFailure::System(what())),
    ] {
        golden.add(&format!("exec.failed.{name}"), &ExecOutput::Failed(failure));
    }
    golden.add("request.detached", &Request::Detached);
    golden.add("request.scripts", &Request::Scripts(scripts()));
    for (name, request) in fs_requests() {
        golden.add(&format!("request.fs.{name}"), &Request::Fs(request));
    }
    for (name, reply) in fs_replies() {
        golden.add(&format!("fs.{name}"), &reply);
    }
    for (name, item) in tree_items() {
        golden.add(&format!("tree.{name}"), &item);
    }
    expect_file!["../golden/messages.txt"].assert_eq(&golden.0);
}

#[test]
fn fields_of_a_newer_side_are_passed_over_and_missing_ones_have_defaults() {
    #[derive(Serialize)]
    struct Newer {
        argv: Vec<String>,
        from_the_future: u32,
    }
    let newer = Newer { argv: vec!["true".into()], from_the_future: 1 };
    let mut bytes = Vec::new();
    ciborium::into_writer(&newer, &mut bytes).unwrap();
    let request: ExecRequest = Frame::Message(&bytes).message().unwrap();
    assert_eq!(request, ExecRequest { argv: vec!["true".into()], ..ExecRequest::default() });
}
