//! Guests that mean harm: programs in the place of the agent.

use msb_protocol::{ExecFailure, FsEntry, FsKind, FsMetadata, GuestMetrics};

use super::*;

async fn crash_of(bench: &Bench, agent: PathBuf, spec: SandboxSpec) -> (Up, StatusEvent) {
    let mut config = bench.config("web", spec);
    config.local_agent = Some(agent);
    let up = bench.launch(config).await;
    let event = up.ended().await;
    assert_eq!(event.status, Status::Crashed, "{event:?}");
    (up, event)
}

#[tokio::test]
async fn a_guest_that_never_answers_is_given_up() {
    let bench = bench();
    let mut config = bench.config("web", sh("true"));
    config.local_agent = Some(bench.script("echo 'Kernel panic: no init'; exec sleep 1000"));
    config.boot_timeout_ms = 300;
    let up = bench.launch(config).await;
    let starting = up.client.exec(command("true")).await;
    assert!(matches!(
        starting,
        Err(ControlError::Denied(DeniedReason::NotReady) | ControlError::NotRunning)
    ));
    let event = up.ended().await;
    let error = event.error.unwrap();
    assert!(error.starts_with("the guest did not boot in time"), "{error}");
    assert!(error.ends_with("Kernel panic: no init"), "{error}");
    assert_eq!(bench.row(&up.config.id).error.unwrap(), error);
}

#[tokio::test]
async fn a_guest_that_panics_is_quoted() {
    let bench = bench();
    let agent = bench.script("echo one; echo 'the last words'; exit 0");
    let (_up, event) = crash_of(&bench, agent, sh("true")).await;
    let error = event.error.unwrap();
    assert!(error.contains("the VM ended unexpectedly (exit code 0)"), "{error}");
    assert!(error.ends_with("the last words"), "{error}");
}

#[tokio::test]
async fn a_guest_that_sends_noise_breaks_the_link_only() {
    let bench = bench();
    let agent = bench.script("exec cat /dev/urandom >&3");
    let (_up, event) = crash_of(&bench, agent, sh("true")).await;
    assert!(event.error.is_some());
}

/// Serves like an agent up to `Boot`, then does what `evil` does with the control stream.
fn agent(evil: impl AsyncFnOnce(mux::MuxStream, &mut mux::Acceptor)) {
    let stream = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stream = tokio::net::UnixStream::from_std(stream).unwrap();
        agent_handshake(&mut stream).await.unwrap();
        let (mut acceptor, driver) = mux::server(stream);
        let talk = async {
            let mut control = acceptor.accept().await.unwrap();
            let mut buffer = Vec::new();
            let request = read_frame(&mut control, &mut buffer).await.unwrap().unwrap();
            assert_eq!(request.message::<Request>().unwrap(), Request::Control);
            let boot = read_frame(&mut control, &mut buffer).await.unwrap().unwrap();
            assert!(matches!(boot.message().unwrap(), ControlInput::Boot(_)));
            evil(control, &mut acceptor).await;
        };
        tokio::select! { _ = driver => {}, () = talk => {} }
    });
}

async fn say(stream: &mut mux::MuxStream, message: &ControlOutput) -> io::Result<()> {
    write_message(stream, message).await?;
    stream.flush().await
}

const READY: ControlOutput = ControlOutput::Ready { uptime_us: 1 };

#[test]
#[ignore = "an agent of floods_of_messages_break_the_link"]
fn helper_ready_for_ever() {
    agent(async |mut control, _| while say(&mut control, &READY).await.is_ok() {});
}

#[tokio::test]
async fn floods_of_messages_break_the_link() {
    let bench = bench();
    let agent = bench.hostile("helper_ready_for_ever");
    let (_up, event) = crash_of(&bench, agent, idle()).await;
    let error = event.error.unwrap();
    assert!(error.contains("broke the protocol"), "{error}");
}

#[test]
#[ignore = "an agent of a_frame_that_is_too_long_breaks_the_link"]
fn helper_long_frame() {
    agent(async |mut control, _| {
        control.write_all(&[0, 0xff, 0xff, 0xff, 0x7f]).await.unwrap();
        while control.write_all(&[0; 4096]).await.is_ok() {}
    });
}

#[tokio::test]
async fn a_frame_that_is_too_long_breaks_the_link() {
    let bench = bench();
    let agent = bench.hostile("helper_long_frame");
    let (_up, event) = crash_of(&bench, agent, idle()).await;
    let error = event.error.unwrap();
    assert!(error.contains("too long"), "{error}");
}

#[test]
#[ignore = "an agent of a_guest_that_cannot_be_set_up_says_why"]
fn helper_boot_failed() {
    agent(async |mut control, _| {
        let failed = msb_protocol::BootFailed {
            stage: "mount \u{1b}[31mupper".into(),
            message: "x".repeat(100_000),
        };
        say(&mut control, &ControlOutput::BootFailed(failed)).await.unwrap();
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn a_guest_that_cannot_be_set_up_says_why() {
    let bench = bench();
    let agent = bench.hostile("helper_boot_failed");
    let (_up, event) = crash_of(&bench, agent, idle()).await;
    let error = event.error.unwrap();
    assert!(error.starts_with("the guest could not be set up: mount [31mupper: xxx"), "{error}");
    assert!(error.len() < 10_000);
}

#[test]
#[ignore = "an agent of endless_output_is_bounded"]
fn helper_endless_output() {
    agent(async |mut control, acceptor| {
        say(&mut control, &READY).await.unwrap();
        let mut session = acceptor.accept().await.unwrap();
        let mut buffer = Vec::new();
        read_frame(&mut session, &mut buffer).await.unwrap();
        write_message(&mut session, &ExecOutput::Started { pid: 1 }).await.unwrap();
        let line = vec![b'x'; 256 << 10];
        loop {
            for fd in [1, 2] {
                if write_data(&mut session, fd, &line).await.is_err() {
                    return;
                }
            }
        }
    });
}

#[tokio::test]
async fn endless_output_is_bounded() {
    let bench = bench();
    let mut config = bench.config("web", sh("true"));
    config.local_agent = Some(bench.hostile("helper_endless_output"));
    let up = bench.launch(config).await;
    up.running().await;
    let dir = SandboxPaths::new(&bench.home, &up.config.id).logs();
    let (_, mut follower) =
        LogFollower::open(&dir, &LogRange { tail: Some(0), since: None }).unwrap();
    while !dir.join("workload.log.2").exists() {
        within(follower.changed()).await.unwrap();
    }
    assert_eq!(within(up.client.status()).await.unwrap().status, Status::Running);
    assert!(up.peak_mib() < 100, "{} MiB", up.peak_mib());
    within(up.client.kill()).await.unwrap();
    assert_eq!(up.ended().await.status, Status::Stopped);
    let kept: u64 = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("workload"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(kept <= 3 * logs::LOG_MAX_BYTES, "{kept}");
}

#[test]
#[ignore = "an agent of sessions_that_lie_break"]
fn helper_lies() {
    agent(async |mut control, acceptor| {
        say(&mut control, &READY).await.unwrap();
        let mut session = acceptor.accept().await.unwrap();
        write_message(&mut session, &ExecOutput::Exited(ExitStatus::Code(0))).await.unwrap();
        session.flush().await.unwrap();
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn a_session_that_ends_before_it_began_is_no_success() {
    let bench = bench();
    let agent = bench.hostile("helper_lies");
    let (_up, event) = crash_of(&bench, agent, sh("true")).await;
    assert_eq!(event.exit_code, None);
    assert!(event.error.unwrap().contains("the workload's session broke"));
}

/// Retitles, clears, colours by both introducers, turns the text around, and overwrites the line.
const UGLY: &str = "ugly\u{1b}]0;pwned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{7f}\r\u{2066}end";

#[test]
#[ignore = "an agent of nothing_of_a_guest_reaches_the_terminal_as_it_is"]
fn helper_ugly() {
    agent(async |mut control, acceptor| {
        say(&mut control, &READY).await.unwrap();
        let mut open = Vec::new();
        while let Some(mut stream) = acceptor.accept().await {
            let mut buffer = Vec::new();
            let frame = read_frame(&mut stream, &mut buffer).await.unwrap().unwrap();
            answer_ugly(frame.message().unwrap(), &mut stream).await;
            stream.flush().await.unwrap();
            open.push(stream);
        }
    });
}

async fn answer_ugly(request: Request, stream: &mut mux::MuxStream) {
    let started = ExecOutput::Started { pid: 1 };
    let failure =
        || FsFailure { kind: FsErrorKind::Other, path: UGLY.into(), message: UGLY.into() };
    match request {
        Request::Exec(request) if request.argv.iter().any(|word| word == "workload") => {
            write_message(stream, &started).await.unwrap();
            write_data(stream, 1, format!("{UGLY}\n").as_bytes()).await.unwrap();
        }
        Request::Exec(request) if request.argv.iter().any(|word| word == "probe") => {
            write_message(stream, &started).await.unwrap();
            write_data(stream, 1, UGLY.as_bytes()).await.unwrap();
            write_message(stream, &ExecOutput::Exited(ExitStatus::Signal(i32::MAX))).await.unwrap();
        }
        Request::Exec(_) => {
            let failed = ExecOutput::Failed(ExecFailure::NotFound(UGLY.into()));
            write_message(stream, &failed).await.unwrap();
        }
        Request::Metrics => write_message(stream, &GuestMetrics::default()).await.unwrap(),
        Request::Fs(FsRequest::Get { .. }) => {
            write_message(stream, &TreeItem::Failed(failure())).await.unwrap();
        }
        Request::Fs(_) => write_message(stream, &FsReply::Failed(failure())).await.unwrap(),
        _ => {}
    }
}

#[test]
#[ignore = "an agent of nothing_of_a_guest_reaches_the_terminal_as_it_is"]
fn helper_ugly_failure() {
    println!("{UGLY}");
    agent(async |mut control, _| {
        let failed = msb_protocol::BootFailed { stage: UGLY.into(), message: UGLY.into() };
        say(&mut control, &ControlOutput::BootFailed(failed)).await.unwrap();
        std::future::pending::<()>().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_guest_reaches_the_terminal_as_it_is() {
    let bench = bench();
    let mut spec = SandboxSpec { cmd: Some(vec!["workload".into()]), ..idle() };
    spec.healthcheck = Some(HealthCheck { retries: 1, ..super::check("probe".into(), 0) });
    spec.healthcheck.as_mut().unwrap().probe = Probe::Exec(vec!["probe".into()]);
    let mut config = bench.config("web", spec);
    config.local_agent = Some(bench.hostile("helper_ugly"));
    let up = bench.launch(config).await;
    up.until(|event| event.health == Some(Health::Unhealthy)).await;
    let mut config = bench.config("gone", idle());
    config.local_agent = Some(bench.hostile("helper_ugly_failure"));
    bench.launch(config).await.ended().await;
    let records = up.logs();
    assert!(records.iter().any(|record| record.contains("pwned")), "{records:?}");
    for (words, shown) in [
        (&["ps"][..], ""),
        (&["ps", "--format", "json"], ""),
        (&["ls"], ""),
        (&["logs", "web"], "pwned"),
        (&["logs", "--format", "json", "web"], "pwned"),
        (&["inspect", "web", "gone"], "pwned"),
        (&["events"], "pwned"),
        (&["events", "--format", "json"], "pwned"),
        (&["stats", "--no-stream"], "web"),
        (&["stats", "--no-stream", "--format", "json"], "web"),
        (&["exec", "web", "--", "x"], "pwned"),
        (&["cp", "web:/x", "."], "pwned"),
        (&["cp", "/etc/hostname", "web:/x"], "pwned"),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_msb"));
        command
            .env("MSB_HOME", bench.home.root())
            .env("NO_COLOR", "1")
            .env("TERM", "xterm")
            .current_dir(bench._dir.path())
            .args(["-p", "shop"])
            .args(words);
        let terminal = crate::terminal::Terminal::run(&command, 40, 4000);
        let said = tokio::task::block_in_place(|| terminal.all());
        assert!(said.contains(shown), "{words:?}: {said:?}");
        // What draws a bar moves the cursor and clears lines; nothing else is among it.
        let told: Vec<&str> = said.split('\u{1b}').skip(1).collect();
        let ours = ["[K", "[2K", "[1A", "[1B", "[?25l", "[?25h", "[A"];
        let foreign = told.iter().find(|rest| !ours.iter().any(|ours| rest.starts_with(ours)));
        assert_eq!(foreign, None, "{words:?}: {said:?}");
        let marks = ['\u{7}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{7f}', '\u{fffd}'];
        assert!(!said.contains(marks), "{words:?}: {said:?}");
        assert!(!said.replace("\r\n", "").contains("\rend"), "{words:?}: {said:?}");
    }
}

#[test]
#[ignore = "an agent of the tests in files.rs"]
fn helper_lying_trees() {
    agent(async |mut control, acceptor| {
        say(&mut control, &READY).await.unwrap();
        while let Some(mut stream) = acceptor.accept().await {
            let mut buffer = Vec::new();
            let frame = read_frame(&mut stream, &mut buffer).await.unwrap().unwrap();
            let Ok(Request::Fs(request)) = frame.message() else { continue };
            let lie = match request {
                FsRequest::Get { path, .. } => path.shown(),
                _ => "entries".to_owned(),
            };
            let lie = lie.trim_end_matches("/.").rsplit('/').next().unwrap_or_default();
            // The host hangs up on most of them.
            let _ = tell(&mut stream, lie).await;
        }
    });
}

async fn tell(stream: &mut mux::MuxStream, lie: &str) -> io::Result<()> {
    let node = |name: &str| Node { name: name.into(), mode: 0o755, ..Node::default() };
    let dir = |name: &str| TreeItem::Dir(node(name));
    let file = |name: &str, size| TreeItem::File { node: node(name), size };
    let link = |name: &str, to: &str| TreeItem::Symlink { node: node(name), target: to.into() };
    let mut items = vec![dir("root")];
    match lie {
        "up" => items.extend([dir(".."), file("x", 0), TreeItem::End]),
        "path" => items.extend([file("../outside/x", 0), TreeItem::End]),
        "absolute" => items.extend([file("/tmp/msb-was-here", 0), TreeItem::End]),
        "link" => items.extend([dir("new"), link("l", "../../outside"), dir("l"), file("x", 0)]),
        "planted" => items.extend([dir("planted"), file("x", 0), TreeItem::End]),
        "hard link" => items.push(TreeItem::HardLink {
            name: "x".into(),
            to: vec!["planted".into(), "secret".into()],
        }),
        "longer" => items.push(file("x", 10)),
        "shorter" => items.extend([dir("new"), file("x", 10), TreeItem::End, TreeItem::End]),
        "deep" => items.extend((0..1000).map(|_| dir("d"))),
        "cut" => items.extend([dir("new"), file("x", 0), TreeItem::End]),
        "escape" => {
            let path = "\u{1b}[2J".into();
            let kind = FsErrorKind::Other;
            let message = "\u{9b}2J\r".to_owned();
            items = vec![TreeItem::Failed(FsFailure { kind, path, message })];
        }
        "exec" => {
            write_message(stream, &ExecOutput::Started { pid: 1 }).await?;
        }
        "entries" => {
            let metadata = FsMetadata {
                kind: FsKind::File,
                size: 0,
                mode: 0,
                uid: 0,
                gid: 0,
                modified_ms: None,
                created_ms: None,
            };
            let entry = FsEntry { name: "x".repeat(100_000).as_str().into(), metadata };
            write_message(stream, &FsReply::Entries(vec![entry])).await?;
        }
        _ => {}
    }
    for item in &items {
        write_message(stream, item).await?;
    }
    match lie {
        "longer" => while write_data(stream, 0, &[b'x'; 4096]).await.is_ok() {},
        "noise" => while stream.write_all(&[0xff; 4096]).await.is_ok() {},
        "flood" => {
            let why = "x".repeat(10_000);
            let skipped = TreeItem::Skipped { path: "a".into(), why };
            for _ in 0..20_000 {
                write_message(stream, &skipped).await?;
            }
        }
        _ => {}
    }
    stream.shutdown().await
}
