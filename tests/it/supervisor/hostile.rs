//! Guests that mean harm: programs in the place of the agent.

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
            write_message(stream, &FsReply::Entries(Vec::new())).await?;
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
