//! Supervisors as processes, with the real agent as an ordinary child (the `local` driver). What a
//! program in its place can do that means harm is in [`hostile`].

mod attacks;
pub(crate) mod bench;
mod files;
mod hooks;
mod hostile;
mod lives;
mod probes;
mod scripts;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use msb::home::Home;
use msb::runtime::Kernel;
use msb::spec::{
    Health, HealthCheck, Image, ImageSource, Millis, Name, Probe, SandboxSpec, Status,
};
use msb::store::{Durability, NewSandbox, RunIdentity, SandboxRow, Store, StoreError};
use msb::supervisor::logs::{self, LogFollower, LogRange, LogStream};
use msb::supervisor::{
    self, ControlClient, ControlError, DEFAULT_BOOT_TIMEOUT_MS, DeniedReason, ExecSession,
    ImageDefaults, LaunchConfig, LaunchError, Launched, SandboxPaths, StatusEvent,
};
use msb_protocol::{
    ControlInput, ControlOutput, ExecInput, ExecOutput, ExecRequest, ExitStatus, Frame,
    FsErrorKind, FsFailure, FsReply, FsRequest, Node, Request, StdinMode, TreeItem,
    agent_handshake, mux, read_frame, write_data, write_message,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use bench::*;

#[tokio::test]
async fn a_job_ends_with_its_exit_code() {
    let bench = bench();
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill $$", 143)] {
        let up = bench.launch(bench.config(&format!("job-{code}"), sh(script))).await;
        let event = up.ended().await;
        assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(code)), "{event:?}");
        let row = bench.row(&up.config.id);
        assert_eq!((row.status, row.exit_code), (Status::Stopped, Some(code)));
        assert_eq!(row.run.unwrap().run_id, up.launched.run_id);
        assert!(row.finished_ms >= row.started_ms);
        gone(up.launched.pid).await;
        assert!(!bench.home.socket(&up.config.id).exists());
    }
    let store = Store::open(&bench.home).unwrap();
    let events = store.events_since(Some("shop"), 0, 1000).unwrap();
    let kinds: Vec<_> = events
        .iter()
        .filter(|event| event.sandbox.as_deref() == Some("job-3"))
        .map(|event| event.kind.as_str())
        .collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"starting"), Some(&"stopped")));
}

#[tokio::test]
async fn a_workload_that_cannot_start_says_so() {
    let bench = bench();
    let mut spec = idle();
    spec.cmd = Some(vec!["/no/such/program".into()]);
    let up = bench.up(spec).await;
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(127)), "{event:?}");
    assert!(!event.started);
    assert!(!supervisor::as_event(&bench.row(&up.config.id)).started);
    assert!(event.error.unwrap().contains("/no/such/program: command not found"));
}

#[tokio::test]
async fn a_stop_gives_the_workload_its_signal_and_time() {
    let bench = bench();
    let up = bench.up(sh("trap 'echo bye; exit 5' TERM; echo up; sleep 1000 & wait")).await;
    up.said("up").await;
    within(up.client.stop(None)).await.unwrap();
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(5)), "{event:?}");
    assert_eq!(up.logs(), ["stdout: up", "stdout: bye"]);
    assert!(matches!(up.client.stop(None).await, Err(ControlError::NotRunning)));
}

#[tokio::test]
async fn a_workload_that_does_not_want_to_stop_is_killed() {
    let bench = bench();
    let up = bench.up(sh("trap '' TERM; echo up; sleep 1000 & wait; sleep 1000")).await;
    up.said("up").await;
    within(up.client.stop(Some(3_600_000))).await.unwrap();
    // While it has time it answers.
    up.until(|event| event.status == Status::Draining).await;
    let event = within(up.client.status()).await.unwrap();
    assert_eq!(event.status, Status::Draining);
    let denied = up.client.exec(command("true")).await;
    assert!(matches!(denied, Err(ControlError::Denied(DeniedReason::Stopping))), "{denied:?}");
    // Asked again with less time.
    within(up.client.stop(Some(1))).await.unwrap();
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(137)), "{event:?}");
}

#[tokio::test]
async fn a_sandbox_without_a_workload_idles() {
    let bench = bench();
    let up = bench.up(idle()).await;
    up.running().await;
    assert_eq!(up.run("echo hello; exit 4").await, (ExitStatus::Code(4), "hello\n".into()));
    within(up.client.stop(None)).await.unwrap();
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, None), "{event:?}");
}

#[tokio::test]
async fn sigterm_to_the_supervisor_is_a_stop() {
    let bench = bench();
    let up = bench.up(sh("trap 'exit 5' TERM; echo up; sleep 1000 & wait")).await;
    up.said("up").await;
    let pid = Pid::from_raw(i32::try_from(up.launched.pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(up.ended().await.exit_code, Some(5));
}

#[tokio::test]
async fn a_kill_ends_it_at_once() {
    let bench = bench();
    let up = bench.up(sh("trap '' TERM; echo up; sleep 1000 & wait; sleep 1000")).await;
    up.running().await;
    up.said("up").await;
    within(up.client.kill()).await.unwrap();
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(137)), "{event:?}");
    assert_eq!(event.error, None);
}

#[tokio::test]
async fn the_end_of_the_vm_is_seen_at_once() {
    let bench = bench();
    let up = bench.up(sh("sleep 1000")).await;
    let vm = up.running().await.vm_pid.unwrap();
    kill_9(vm);
    let event = up.ended().await;
    assert_eq!(event.status, Status::Crashed);
    assert_eq!(event.error.as_deref(), Some("the VM ended unexpectedly (signal 9)"));
    assert_eq!(bench.row(&up.config.id).status, Status::Crashed);
    // Who has heard of the end may start it again at once.
    let again = bench.launch(up.config.clone()).await;
    again.running().await;
    gone(up.launched.pid).await;
    assert_eq!(within(again.client.status()).await.unwrap().status, Status::Running);
}

#[tokio::test]
async fn the_end_of_the_supervisor_ends_the_vm_and_is_seen_at_once() {
    let bench = bench();
    let up = bench.up(sh("sleep 1000")).await;
    let vm = up.running().await.vm_pid.unwrap();
    let watching = tokio::spawn({
        let (home, id) = (up.home.clone(), up.config.id.clone());
        async move { supervisor::wait_until(&home, &id, |_| false).await }
    });
    kill_9(up.launched.pid);
    let event = within(watching).await.unwrap().unwrap();
    assert_eq!(event.status, Status::Crashed);
    assert_eq!(event.error.as_deref(), Some("the supervisor ended unexpectedly"));
    gone(vm).await;
    // What it left behind (socket, lock) does not stand in the way.
    let again = bench.launch(up.config.clone()).await;
    again.running().await;
    assert_eq!(bench.row(&up.config.id).run.unwrap().run_id, again.launched.run_id);
}

#[tokio::test]
async fn one_supervisor_a_sandbox() {
    let bench = bench();
    let up = bench.up(idle()).await;
    up.running().await;
    let second = within(supervisor::launch(&bench.home, &up.config)).await;
    let error = second.unwrap_err();
    assert!(matches!(error, LaunchError::Refused(_)), "{error:?}");
    assert!(error.to_string().contains("another supervisor runs this sandbox"), "{error}");
    assert_eq!(within(up.client.status()).await.unwrap().status, Status::Running);
    assert_eq!(bench.row(&up.config.id).run.unwrap().run_id, up.launched.run_id);
}

#[tokio::test]
async fn one_supervisor_a_disk() {
    let bench = bench();
    let disk = bench.home.root().join("disk");
    fs::File::create(&disk).unwrap();
    let mut first = bench.config("a", idle());
    first.upper = Some(disk.clone());
    let mut second = bench.config("b", idle());
    second.upper = Some(disk);
    let _up = bench.launch(first).await;
    let error = within(supervisor::launch(&bench.home, &second)).await.unwrap_err();
    assert!(error.to_string().contains("another supervisor"), "{error}");
    assert_eq!(bench.row(&second.id).status, Status::Created);
}

#[tokio::test]
async fn a_launch_that_fails_says_why() {
    let bench = bench();
    let mut config = bench.config("web", idle());
    config.executable = Some("/bin/false".into());
    let died = within(supervisor::launch(&bench.home, &config)).await;
    assert!(matches!(died, Err(LaunchError::Died { .. })), "{died:?}");
    config.executable = Some("/no/such/file".into());
    let spawned = within(supervisor::launch(&bench.home, &config)).await;
    assert!(matches!(spawned, Err(LaunchError::Spawn(_))), "{spawned:?}");
    config.executable = Some(env!("CARGO_BIN_EXE_msb").into());
    config.driver = "steam".into();
    let refused = within(supervisor::launch(&bench.home, &config)).await.unwrap_err();
    assert!(refused.to_string().contains("unknown driver `steam`"), "{refused}");
    config.driver = "local".into();
    config.id = "ffffffffffff".into();
    let refused = within(supervisor::launch(&bench.home, &config)).await.unwrap_err();
    assert!(refused.to_string().contains("ffffffffffff does not exist"), "{refused}");
    config.local_agent = Some("/no/such/agent".into());
    config.id = bench.config("db", idle()).id;
    let refused = within(supervisor::launch(&bench.home, &config)).await.unwrap_err();
    assert!(refused.to_string().contains("cannot start the VM"), "{refused}");
    assert_eq!(bench.row(&config.id).status, Status::Crashed);
}

#[tokio::test]
async fn a_supervisor_keeps_nothing_of_its_parent() {
    let bench = bench();
    let leaked = fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let up = bench.up(idle()).await;
    let vm = up.running().await.vm_pid.unwrap();
    let proc = PathBuf::from(format!("/proc/{}", up.launched.pid));
    assert_eq!(fs::read(proc.join("environ")).unwrap(), b"");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), PathBuf::from("/"));
    for process in [up.launched.pid, vm] {
        for entry in fs::read_dir(format!("/proc/{process}/fd")).unwrap() {
            // One that is open for a moment only may be gone.
            let Ok(target) = fs::read_link(entry.unwrap().path()) else { continue };
            assert_ne!(target, PathBuf::from("/etc/passwd"), "process {process}");
        }
    }
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[3], up.launched.pid.to_string(), "it leads a session");
    let cmdline = fs::read(proc.join("cmdline")).unwrap();
    assert_eq!(cmdline, b"msb\0__supervise\0");
    let socket = bench.home.socket(&up.config.id);
    assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    let paths = SandboxPaths::new(&bench.home, &up.config.id);
    assert_eq!(fs::metadata(paths.logs()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_state_directory_with_a_long_path_works() {
    let bench = bench_below(&"d".repeat(200));
    let up = bench.up(idle()).await;
    up.running().await;
    assert_eq!(up.run("true").await.0, ExitStatus::Code(0));
}

#[tokio::test]
async fn the_workload_gets_what_image_and_spec_say() {
    let bench = bench();
    let mut config = bench.config("web", sh(""));
    config.image.entrypoint = vec!["/bin/sh".into(), "-c".into()];
    config.image.env = BTreeMap::from([("A".into(), "image".into()), ("B".into(), "image".into())]);
    config.image.workdir = Some("/usr".into());
    config.spec.cmd = Some(vec!["echo $A $B; pwd; sleep 1000".into()]);
    config.spec.env = BTreeMap::from([("B".into(), "spec".into())]);
    let up = bench.launch(config).await;
    up.said("/usr").await;
    assert_eq!(up.logs(), ["stdout: image spec", "stdout: /usr"]);
    let mut request = command("echo $A $B $C; pwd");
    request.env.insert("C".into(), "exec".into());
    let session = within(up.client.exec(request.clone())).await.unwrap();
    assert_eq!(within(collect(session)).await.1, "image spec exec\n/usr\n");
    let mut spec = up.config.spec.clone();
    spec.env.insert("B".into(), "later".into());
    within(up.client.update(spec)).await.unwrap();
    let session = within(up.client.exec(request)).await.unwrap();
    assert_eq!(within(collect(session)).await.1, "image later exec\n/usr\n");
}

fn check(script: String, start_period: u64) -> HealthCheck {
    HealthCheck {
        probe: Probe::Shell(script),
        interval: Millis::from_ms(10),
        timeout: Millis::from_secs(30),
        retries: 2,
        start_period: Millis::from_secs(start_period),
    }
}

#[tokio::test]
async fn health_follows_the_probes() {
    let bench = bench();
    let file = bench.home.root().join("healthy");
    let mut spec = sh("sleep 1000");
    spec.healthcheck = Some(check(format!("echo looking; test -e {}", file.display()), 3600));
    let up = bench.up(spec.clone()).await;
    assert_eq!(up.running().await.health, Some(Health::Starting));
    fs::write(&file, "").unwrap();
    let event = up.until(|event| event.health == Some(Health::Healthy)).await;
    assert_eq!(event.health, Some(Health::Healthy));
    assert_eq!(bench.row(&up.config.id).health, Some(Health::Healthy));
    fs::remove_file(&file).unwrap();
    let event = up.until(|event| event.health == Some(Health::Unhealthy)).await;
    assert_eq!(event.probe_output.as_deref(), Some("looking\n"));
    assert_eq!(event.status, Status::Running);
    // Another check, while it runs.
    spec.healthcheck = Some(check("true".into(), 0));
    within(up.client.update(spec.clone())).await.unwrap();
    up.until(|event| event.health == Some(Health::Healthy)).await;
    spec.healthcheck = None;
    within(up.client.update(spec)).await.unwrap();
    up.until(|event| event.health.is_none()).await;
}

#[tokio::test]
async fn a_probe_that_hangs_has_failed_and_is_killed() {
    let bench = bench();
    let pid = bench.home.root().join("pid");
    let mut spec = sh("sleep 1000");
    let probe = check(format!("echo $$ >{}; exec sleep 1000", pid.display()), 0);
    spec.healthcheck = Some(HealthCheck { timeout: Millis::from_ms(200), retries: 1, ..probe });
    let up = bench.up(spec).await;
    let event = up.until(|event| event.health == Some(Health::Unhealthy)).await;
    assert!(event.probe_output.unwrap().contains("timed out"));
    if let Ok(pid) = fs::read_to_string(pid).unwrap().trim().parse() {
        gone(pid).await;
    }
}

#[tokio::test]
async fn exec_carries_input_signals_and_exit_codes() {
    let bench = bench();
    let up = bench.up(idle()).await;
    up.running().await;
    let request = ExecRequest { stdin: StdinMode::Pipe, ..command("cat; echo end; exit 7") };
    let mut session = within(up.client.exec(request)).await.unwrap();
    write_data(&mut session.stream, 0, b"input\n").await.unwrap();
    write_data(&mut session.stream, 0, b"").await.unwrap();
    assert_eq!(within(collect(session)).await, (ExitStatus::Code(7), "input\nend\n".into()));
    let mut session = within(up.client.exec(command("exec sleep 1000"))).await.unwrap();
    started(&mut session).await;
    write_message(&mut session.stream, &ExecInput::Signal(15)).await.unwrap();
    assert_eq!(within(collect(session)).await.0, ExitStatus::Signal(15));
}

#[tokio::test]
async fn many_sessions_at_a_time_and_no_more() {
    let bench = bench();
    let up = bench.up(idle()).await;
    up.running().await;
    let mut sessions = Vec::new();
    let denied = loop {
        let request = ExecRequest { stdin: StdinMode::Pipe, ..command("exec cat") };
        match within(up.client.exec(request)).await {
            Ok(session) => sessions.push(session),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(denied, ControlError::Denied(DeniedReason::TooManySessions)),
        "{denied:?} after {}",
        sessions.len()
    );
    assert!(sessions.len() >= 64, "{}", sessions.len());
    for (n, session) in sessions.iter_mut().enumerate() {
        started(session).await;
        write_data(&mut session.stream, 0, format!("{n}\n").as_bytes()).await.unwrap();
        write_data(&mut session.stream, 0, b"").await.unwrap();
    }
    for (n, session) in sessions.into_iter().enumerate() {
        assert_eq!(within(collect(session)).await, (ExitStatus::Code(0), format!("{n}\n")));
    }
    assert_eq!(up.run("echo again").await.1, "again\n");
}

/// Each client hears that they are too many: one that saw its connection end would take it for the end
/// of the sandbox.
#[tokio::test]
async fn many_clients_at_a_time_and_no_more() {
    let bench = bench();
    let up = bench.up(idle()).await;
    up.running().await;
    let mut clients = Vec::new();
    let first = async |client: &ControlClient| {
        let mut watch = client.watch().await?;
        watch.next().await.map(|event| event.map(|_| watch))
    };
    let denied = loop {
        match within(first(&up.client)).await {
            Ok(watch) => clients.push(watch.expect("it runs")),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(denied, ControlError::Denied(DeniedReason::TooManyClients)),
        "{denied:?} after {}",
        clients.len()
    );
    let more = (0..100).map(|_| {
        let client = up.client.clone();
        tokio::spawn(async move { client.stop(None).await })
    });
    for asked in more.collect::<Vec<_>>() {
        let denied = within(asked).await.unwrap();
        assert!(
            matches!(denied, Err(ControlError::Denied(DeniedReason::TooManyClients))),
            "{denied:?}"
        );
    }
    drop(clients);
    let again = async {
        while let Err(error) = up.client.stop(None).await {
            assert!(
                matches!(error, ControlError::Denied(DeniedReason::TooManyClients)),
                "{error:?}"
            );
        }
    };
    within(again).await;
    up.ended().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_session() {
    let bench = bench();
    let up = bench.up(idle()).await;
    up.running().await;
    let mut session = within(up.client.exec(command("exec sleep 1000"))).await.unwrap();
    let pid = started(&mut session).await;
    drop(session);
    gone(pid).await;
    // One that is blocked by its client too.
    let mut session = within(up.client.exec(command("exec cat /dev/zero"))).await.unwrap();
    let pid = started(&mut session).await;
    drop(session);
    gone(pid).await;
}

#[tokio::test]
async fn a_slow_client_holds_up_nobody() {
    let bench = bench();
    let up = bench.up(sh("echo up; sleep 1000")).await;
    up.running().await;
    let _slow: Vec<ExecSession> = {
        let mut slow = Vec::new();
        for _ in 0..8 {
            slow.push(within(up.client.exec(command("exec cat /dev/zero"))).await.unwrap());
        }
        slow
    };
    for _ in 0..20 {
        assert_eq!(up.run("echo quick").await.1, "quick\n");
    }
    assert_eq!(within(up.client.status()).await.unwrap().status, Status::Running);
    assert!(up.peak_mib() < 100, "{} MiB", up.peak_mib());
}

#[tokio::test]
async fn exec_output_arrives_whole() {
    let bench = bench();
    let up = bench.up(idle()).await;
    up.running().await;
    let (status, output) = up.run("head -c 20000000 /dev/zero | tr '\\0' x; exit 9").await;
    assert_eq!((status, output.len()), (ExitStatus::Code(9), 20_000_000));
}

#[tokio::test]
async fn watchers_hear_of_everything_in_order() {
    let bench = bench();
    let up = bench.up(sh("echo up; sleep 1000")).await;
    let mut watch = within(up.client.watch()).await.unwrap();
    up.said("up").await;
    within(up.client.stop(None)).await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = within(watch.next()).await.unwrap() {
        if seen.last() != Some(&event.status) {
            seen.push(event.status);
        }
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&Status::Stopped));
}

#[tokio::test]
async fn logs_are_kept_by_stream_and_across_runs() {
    let bench = bench();
    let before = SystemTime::now();
    let config = bench.config("web", sh("echo out; echo err >&2; printf 'no\\377 end'"));
    let up = bench.launch(config).await;
    up.ended().await;
    let mut lines = up.logs();
    lines.sort();
    assert_eq!(lines, ["stderr: err", "stdout: no\u{fffd} end", "stdout: out"]);
    gone(up.launched.pid).await;
    let again = bench.launch(up.config.clone()).await;
    again.ended().await;
    assert_eq!(again.logs().len(), 6);
    let dir = SandboxPaths::new(&bench.home, &up.config.id).logs();
    let since = LogRange { since: Some(before), tail: Some(2) };
    assert_eq!(logs::read(&dir, &since).unwrap().len(), 2);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let bench = bench();
    let config = bench.config("web", sh("while :; do echo x; done"));
    let dir = SandboxPaths::new(&bench.home, &config.id).logs();
    fs::create_dir_all(&dir).unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.join("workload.log")).unwrap();
    let up = bench.launch(config).await;
    up.running().await;
    assert_eq!(up.run("echo fine").await.1, "fine\n");
    fs::remove_file(dir.join("workload.log")).unwrap();
    let (mut records, mut follower) = LogFollower::open(&dir, &LogRange::default()).unwrap();
    while records.is_empty() {
        within(follower.changed()).await.unwrap();
        records.extend(follower.read().unwrap());
    }
    assert_eq!(records[0].stream, LogStream::Msb);
    assert!(records[0].message.contains("records were lost"));
    within(up.client.stop(None)).await.unwrap();
    assert_eq!(up.ended().await.status, Status::Stopped);
}

#[tokio::test]
async fn a_lost_database_stops_nothing() {
    let bench = bench();
    let up = bench.up(sh("trap 'exit 5' TERM; echo up; sleep 1000 & wait")).await;
    up.said("up").await;
    up.running().await;
    let mut watch = within(up.client.watch()).await.unwrap();
    fs::remove_file(bench.home.database()).unwrap();
    assert_eq!(up.run("echo fine").await.1, "fine\n");
    within(up.client.stop(None)).await.unwrap();
    let mut last = None;
    while let Some(event) = within(watch.next()).await.unwrap() {
        last = Some(event);
    }
    assert_eq!(last.unwrap().exit_code, Some(5));
    gone(up.launched.pid).await;
}

#[tokio::test]
async fn a_client_that_talks_nonsense_is_left_alone() {
    let bench = bench();
    let up = bench.up(idle()).await;
    up.running().await;
    let socket = bench.home.socket(&up.config.id);
    for nonsense in [&b"\0\xff\xff\xff\xff"[..], b"GET / HTTP/1.1\r\n\r\n", b"\0\x03\0\0\0abc", b""]
    {
        let mut stream = within(tokio::net::UnixStream::connect(&socket)).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
    }
    let denied = within(up.client.exec(ExecRequest::default())).await;
    assert!(matches!(denied, Err(ControlError::Denied(DeniedReason::Invalid(_)))), "{denied:?}");
    assert_eq!(within(up.client.status()).await.unwrap().status, Status::Running);
}
