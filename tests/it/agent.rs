//! The real guest agent as an ordinary child process on a socket pair: what the `local` driver runs,
//! and the same code that serves a guest from the preamble on.

mod local;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use msb_protocol::mux::{self, MuxError, MuxStream, Opener};
use msb_protocol::{
    BootConfig, ControlInput, ControlOutput, ExecFailure, ExecInput, ExecOutput, ExecRequest,
    ExitStatus, Frame, FsReply, INPUT_WINDOW, MAX_MESSAGE, Request, Rlimit, StdinMode, Tty,
    host_handshake, read_frame, write_data, write_message,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use local::*;

#[tokio::test]
async fn runs_a_command_and_reports_its_end() {
    let local = Local::start().await;
    let outcome = local.run(sh("echo out; echo err >&2; exit 7")).await;
    assert_eq!(outcome.stdout, "out\n");
    assert_eq!(outcome.stderr, "err\n");
    assert_eq!(outcome.end, exited(7));
    assert_eq!(local.run(sh("kill -KILL $$")).await.end, signalled(9));
    assert_eq!(local.run(command(&["true"])).await.end, exited(0));
    assert_eq!(local.shut_down(0).await, Some(0));
}

#[tokio::test]
async fn gives_the_environment_and_adds_what_is_missing() {
    let local = Local::start().await;
    let outcome = local.run(command(&["env"])).await;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(outcome.stdout, format!("HOME=/root\nPATH={path}\nUSER=root\n"));
    let mut request = command(&["env"]);
    let own = [("A", "1 = 2"), ("HOME", "/h"), ("PATH", "/nowhere:/usr/bin"), ("USER", "u")];
    request.env = own.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let outcome = local.run(request).await;
    assert_eq!(outcome.stdout, "A=1 = 2\nHOME=/h\nPATH=/nowhere:/usr/bin\nUSER=u\n");
}

#[tokio::test]
async fn changes_the_working_directory_and_makes_it_when_asked() {
    let local = Local::start().await;
    assert_eq!(local.sh("pwd").await, "/\n");
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b").display().to_string();
    let mut request = command(&["pwd"]);
    request.cwd = Some(deep.clone());
    let failed = ExecOutput::Failed(ExecFailure::BadWorkdir(deep.clone()));
    assert_eq!(local.run(request.clone()).await.end, failed);
    request.create_cwd = true;
    assert_eq!(local.run(request.clone()).await.stdout, format!("{deep}\n"));
    assert_eq!(local.run(request).await.end, exited(0), "it exists by then");
}

#[tokio::test]
async fn runs_as_the_user_that_is_named() {
    let local = Local::start().await;
    let id = "echo $(id -u) $(id -g) $(id -G) $HOME $USER";
    let run = async |user: &str| {
        let outcome = local.run(ExecRequest { user: Some(user.to_owned()), ..sh(id) }).await;
        assert_eq!(outcome.end, exited(0), "{outcome:?}");
        outcome.stdout
    };
    assert_eq!(run("nobody").await, "65534 65534 65534 /nonexistent nobody\n");
    assert_eq!(run("65534").await, "65534 65534 65534 /nonexistent nobody\n");
    assert_eq!(run("nobody:daemon").await, "65534 1 1 /nonexistent nobody\n");
    assert_eq!(run("nobody:4242").await, "65534 4242 4242 /nonexistent nobody\n");
    assert_eq!(run("54321").await, "54321 0 0 /\n");
    assert_eq!(run("root").await, "0 0 0 /root root\n");
    for user in ["no-such-user", "nobody:no-such-group", "4294967295", "-1"] {
        let outcome = local.run(ExecRequest { user: Some(user.to_owned()), ..sh(id) }).await;
        assert_eq!(outcome.end, ExecOutput::Failed(ExecFailure::UnknownUser(user.to_owned())));
    }
}

#[tokio::test]
async fn a_user_may_open_its_streams_by_name() {
    let local = Local::start().await;
    let script = "echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin";
    let request = ExecRequest { user: Some("nobody".to_owned()), ..with_stdin(sh(script)) };
    let mut session = local.open(request).await;
    write_data(&mut session.writer, 0, b"in").await.unwrap();
    write_data(&mut session.writer, 0, b"").await.unwrap();
    let outcome = session.finish().await;
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("out\nin", "err\n"));
}

#[tokio::test]
async fn says_why_a_command_cannot_start() {
    let local = Local::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let plain = file("plain", "text", 0o644);
    let text = file("text", "text", 0o755);
    let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
    let directory = dir.path().display().to_string();
    let missing = dir.path().join("missing").display().to_string();
    let below_file = format!("{plain}/x");
    let failure = async |argv: &[&str]| match local.run(command(argv)).await.end {
        ExecOutput::Failed(failure) => failure,
        end => panic!("{end:?}"),
    };
    for program in ["no-such-program", &missing, &below_file] {
        assert_eq!(failure(&[program]).await, ExecFailure::NotFound(program.to_owned()));
    }
    for program in [&plain, &text, &orphan, &directory] {
        assert_eq!(failure(&[program]).await, ExecFailure::NotExecutable(program.clone()));
    }
    assert!(matches!(failure(&[]).await, ExecFailure::Invalid(_)));
    assert!(matches!(failure(&["a\0b"]).await, ExecFailure::Invalid(_)));
    let long = "x".repeat(200_000);
    assert!(matches!(failure(&["true", &long]).await, ExecFailure::System(_)));
    for cwd in [&missing, &plain, "relative"] {
        let request = ExecRequest { cwd: Some(cwd.to_owned()), ..command(&["true"]) };
        let failed = ExecOutput::Failed(ExecFailure::BadWorkdir(cwd.to_owned()));
        assert_eq!(local.run(request).await.end, failed);
    }
}

#[tokio::test]
async fn looks_a_program_up_in_the_path_of_the_request() {
    let local = Local::start().await;
    let dir = tempfile::tempdir().unwrap();
    for (name, mode) in [("first", 0o644), ("second", 0o755)] {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("tool"), format!("#!/bin/sh\necho {name}\n")).unwrap();
        fs::set_permissions(path.join("tool"), fs::Permissions::from_mode(mode)).unwrap();
    }
    let dir = dir.path().display();
    let mut request = command(&["tool"]);
    request.env = BTreeMap::from([("PATH".to_owned(), format!("{dir}/first:{dir}/second"))]);
    assert_eq!(local.run(request.clone()).await.stdout, "second\n");
    request.env.insert("PATH".to_owned(), format!("{dir}/first:{dir}/none"));
    let failed = ExecOutput::Failed(ExecFailure::NotExecutable("tool".to_owned()));
    assert_eq!(local.run(request).await.end, failed);
}

#[tokio::test]
async fn passes_input_on_until_its_end() {
    let local = Local::start().await;
    assert_eq!(local.sh("cat; readlink /proc/self/fd/0").await, "/dev/null\n");
    let mut session = local.open(with_stdin(command(&["cat"]))).await;
    session.started().await;
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let expected = sent.clone();
    let mut writer = session.writer;
    let writing = tokio::spawn(async move {
        write_data(&mut writer, 0, &sent).await.unwrap();
        write_data(&mut writer, 0, b"").await.unwrap();
        writer
    });
    let (mut received, mut taken) = (Vec::new(), 0);
    let end = loop {
        match read_frame(&mut session.reader, &mut session.buffer).await.unwrap().unwrap() {
            Frame::Data { fd: 1, bytes } => received.extend_from_slice(bytes),
            frame => match frame.message::<ExecOutput>().unwrap() {
                ExecOutput::InputTaken(bytes) => taken += bytes,
                end => break end,
            },
        }
    };
    assert_eq!(end, exited(0));
    assert!(received == expected);
    let untold = expected.len() as u64 - taken;
    assert!(untold < INPUT_WINDOW as u64, "{untold}");
    writing.await.unwrap();
}

#[tokio::test]
async fn a_command_may_leave_its_input_unread() {
    let local = Local::start().await;
    let mut session = local.open(with_stdin(sh("head -c 3; exec <&-; echo done"))).await;
    session.started().await;
    let mut writer = session.writer;
    let writing =
        tokio::spawn(async move { write_data(&mut writer, 0, &vec![b'x'; 8 << 20]).await });
    session.writer = tokio::io::split(local.opener.open().await.unwrap()).1;
    assert_eq!(session.message().await, Some(exited(0)));
    assert_eq!(session.stdout, b"xxxdone\n");
    writing.abort();
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let local = Local::start().await;
    let mut session = local.open(sh("sleep 1000 & echo $!; wait")).await;
    session.started().await;
    session.until("\n").await;
    let child = number(&session.stdout);
    session.send(ExecInput::Signal(9999)).await;
    session.send(ExecInput::Signal(-1)).await;
    session.send(ExecInput::Signal(libc::SIGTERM)).await;
    assert_eq!(session.message().await, Some(signalled(libc::SIGTERM)));
    gone(child).await;
    let mut session = local
        .open(sh("trap 'echo caught; exit 3' USR1; echo up; while :; do sleep 0.01; done"))
        .await;
    session.started().await;
    session.until("up\n").await;
    session.send(ExecInput::Signal(libc::SIGUSR1)).await;
    assert_eq!(session.message().await, Some(exited(3)));
    assert_eq!(session.stdout, b"up\ncaught\n");
}

#[tokio::test]
async fn a_command_that_does_not_read_can_be_signalled() {
    let local = Local::start().await;
    let mut session = local.open(with_stdin(command(&["sleep", "1000"]))).await;
    session.started().await;
    write_data(&mut session.writer, 0, &vec![0; 200 << 10]).await.unwrap();
    session.send(ExecInput::Signal(libc::SIGINT)).await;
    assert_eq!(session.message().await, Some(signalled(libc::SIGINT)));
}

#[tokio::test]
async fn closing_the_stream_kills_the_group() {
    let local = Local::start().await;
    for is_reset in [true, false] {
        let mut session = local.open(sh("trap '' TERM HUP INT; sleep 1000 & echo $!; wait")).await;
        let leader = session.started().await;
        session.until("\n").await;
        let child = number(&session.stdout);
        if is_reset {
            drop(session);
        } else {
            session.writer.shutdown().await.unwrap();
        }
        gone(leader).await;
        gone(child).await;
    }
}

#[tokio::test]
async fn a_reset_is_seen_while_the_command_does_not_read() {
    let local = Local::start().await;
    let mut session = local.open(with_stdin(command(&["sleep", "1000"]))).await;
    let pid = session.started().await;
    let mut writer = session.writer;
    // More than the agent takes: the rest stays in the window of the stream.
    write_data(&mut writer, 0, &vec![0; 400 << 10]).await.unwrap();
    drop((session.reader, writer));
    gone(pid).await;
}

#[tokio::test]
async fn a_process_in_the_background_does_not_hold_the_session() {
    let local = Local::start().await;
    let outcome = local.run(sh("sleep 1000 & echo $!; head -c 60000 /dev/zero | tr '\\0' x")).await;
    assert_eq!(outcome.end, exited(0));
    let (pid, rest) = outcome.stdout.split_once('\n').unwrap();
    assert_eq!(rest.len(), 60_000);
    assert!(Path::new("/proc").join(pid).exists(), "it lives on");
    let pid = number(pid.as_bytes());
    assert_eq!(local.shut_down(10_000).await, Some(0));
    gone(pid).await;
}

#[tokio::test]
async fn output_is_complete_before_the_exit() {
    let local = Local::start().await;
    for _ in 0..20 {
        let script = "head -c 1000000 /dev/zero; head -c 300000 /dev/zero >&2; exit 5";
        let outcome = local.run(sh(script)).await;
        assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (1_000_000, 300_000));
        assert_eq!(outcome.end, exited(5));
    }
}

#[tokio::test]
async fn orphans_are_collected() {
    let local = Local::start().await;
    // The session ends when the orphan has closed its output, which it does by ending.
    let orphan = number(local.sh("(sh -c 'echo $$; exit 3' &)").await.as_bytes());
    gone(orphan).await;
    local.sh("true").await;
    assert!(!Path::new(&format!("/proc/{orphan}")).exists());
}

#[tokio::test]
async fn a_command_starts_clean() {
    let local = Local::start().await;
    let status = local.run(command(&["cat", "/proc/self/status"])).await.stdout;
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        assert!(status.contains(&format!("\n{field}:\t0000000000000000\n")), "{status}");
    }
    assert_eq!(local.sh("umask").await, "0022\n");
    assert_eq!(
        local.sh("echo /proc/self/fd/*").await.split(' ').count(),
        4,
        "and one of the shell"
    );
    let ids = local.sh("cut -d' ' -f1,5,6 /proc/$$/stat; echo $$").await;
    let (stat, pid) = ids.trim().split_once('\n').unwrap();
    assert_eq!(stat, format!("{pid} {pid} {pid}"), "it leads its group and session");
}

#[tokio::test]
async fn sets_resource_limits() {
    let local = Local::start().await;
    let limit = |name: &str, soft, hard| Rlimit { name: name.to_owned(), soft, hard };
    let mut request = sh("ulimit -Sn; ulimit -Hn; ulimit -c");
    request.rlimits = vec![limit("nofile", Some(99), Some(200)), limit("core", Some(0), None)];
    assert_eq!(local.run(request).await.stdout, "99\n200\n0\n");
    let mut request = command(&["true"]);
    request.rlimits = vec![limit("nonsense", None, None)];
    let end = local.run(request).await.end;
    assert!(matches!(end, ExecOutput::Failed(ExecFailure::Invalid(_))), "{end:?}");
}

#[tokio::test]
async fn a_terminal_has_size_type_and_job_control() {
    let local = Local::start().await;
    let script = "stty size; echo $TERM; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo tty >&2; \
                  trap 'stty size; exit 4' WINCH; echo up; while :; do sleep 0.01; done";
    let mut session = local.open(with_tty(sh(script))).await;
    session.started().await;
    session.until("up\r\n").await;
    assert_eq!(session.stdout, b"30 100\r\nvt100\r\ntty\r\nup\r\n");
    session.send(ExecInput::Resize { rows: 40, cols: 120 }).await;
    assert_eq!(session.message().await, Some(exited(4)));
    assert!(session.stdout.ends_with(b"40 120\r\n"));
    assert!(session.stderr.is_empty());
    let mut session = local.open(with_tty(sh("read line; echo \"<$line>\"; exec cat"))).await;
    session.started().await;
    write_data(&mut session.writer, 0, b"hello\n").await.unwrap();
    session.until("<hello>\r\n").await;
    write_data(&mut session.writer, 0, b"\x03").await.unwrap();
    assert_eq!(session.message().await, Some(signalled(libc::SIGINT)));
}

#[tokio::test]
async fn a_terminal_belongs_to_its_user() {
    let local = Local::start().await;
    let script = "stat -c %U $(tty); echo again > $(tty); echo self > /dev/tty";
    let request = ExecRequest { user: Some("nobody".to_owned()), ..with_tty(sh(script)) };
    let outcome = local.run(request).await;
    assert_eq!(outcome.stdout, "nobody\r\nagain\r\nself\r\n");
}

#[tokio::test]
async fn a_hundred_sessions_run_at_a_time() {
    let local = Local::start().await;
    let mut sessions = Vec::new();
    for index in 0..100_u32 {
        let mut session = local.open(with_stdin(sh(&format!("read x; echo {index}-$x")))).await;
        session.started().await;
        sessions.push(session);
    }
    for session in &mut sessions {
        write_data(&mut session.writer, 0, b"go\n").await.unwrap();
    }
    for (index, session) in sessions.into_iter().enumerate() {
        let pid = session.pid;
        let mut session = session;
        assert_eq!(session.message().await, Some(exited(0)));
        assert_eq!(session.stdout, format!("{index}-go\n").into_bytes());
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it is collected by then");
    }
    assert_eq!(local.shut_down(0).await, Some(0));
}

#[tokio::test]
async fn a_slow_reader_stalls_only_itself_and_costs_little() {
    let local = Local::start().await;
    let mut floods = Vec::new();
    for _ in 0..20 {
        let mut session = local.open(command(&["cat", "/dev/zero"])).await;
        session.started().await;
        floods.push(session);
    }
    for _ in 0..20 {
        assert_eq!(local.sh("head -c 100000 /dev/zero | wc -c").await, "100000\n");
    }
    let rss = local.rss_kib();
    assert!(rss < 48 << 10, "{rss} KiB");
    let leaders: Vec<u32> = floods.iter().map(|session| session.pid).collect();
    drop(floods);
    for leader in leaders {
        gone(leader).await;
    }
}

#[tokio::test]
async fn malformed_streams_are_reset_and_harm_nothing_else() {
    let local = Local::start().await;
    let too_long = u32::try_from(MAX_MESSAGE + 1).unwrap().to_le_bytes();
    let endless = [&[0][..], &u32::MAX.to_le_bytes()].concat();
    let long = [&[0][..], &too_long, &[0; 64]].concat();
    let nested = [&[0, 200, 0, 0, 0][..], &[0x81; 200]].concat();
    let starts: [&[u8]; 8] = [
        &[0],
        &[9, 0, 0, 0, 0],
        &[1, 1, 0, 0, 0, b'x'],
        &[0, 3, 0, 0, 0, 1, 2, 3],
        &[0, 1, 0, 0, 0, 0xff],
        &endless,
        &long,
        &nested,
    ];
    for bytes in starts {
        let mut stream = local.opener.open().await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"", "{bytes:?}");
    }
    // A second control stream is not taken, a session with bad input ends.
    let mut second = local.opener.open().await.unwrap();
    write_message(&mut second, &Request::Control).await.unwrap();
    assert_eq!(second.read(&mut [0; 8]).await.unwrap(), 0);
    for bad in [&[2, 1, 0, 0, 0, b'x'][..], &[0, 1, 0, 0, 0, 0xff], &[7, 0, 0, 0, 0]] {
        let mut session = local.open(command(&["sleep", "1000"])).await;
        let pid = session.started().await;
        session.writer.write_all(bad).await.unwrap();
        gone(pid).await;
    }
    assert_eq!(local.sh("echo fine").await, "fine\n");
}

#[tokio::test]
async fn garbage_instead_of_a_host_ends_the_agent() {
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"MSB\x01\xff\x00\xff\x00",
        b"MSB\x01\x01\0\x01\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let (mut child, socket) = spawn_agent();
        std::io::Write::write_all(&mut (&socket), garbage).unwrap();
        gone(child.id()).await;
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
}

#[tokio::test]
async fn is_set_up_once_before_anything_runs() {
    let mut local = Local::connect().await;
    let end = local.run(command(&["true"])).await.end;
    assert!(matches!(end, ExecOutput::Failed(ExecFailure::System(_))), "{end:?}");
    let config = BootConfig { hostname: "ignored".to_owned(), ..BootConfig::default() };
    local.send(&ControlInput::Boot(Box::new(config.clone()))).await;
    assert!(matches!(local.receive().await, Some(ControlOutput::Ready { .. })));
    assert_ne!(local.sh("uname -n").await, "ignored\n");
    local.send(&ControlInput::Boot(Box::new(config))).await;
    assert!(matches!(local.receive().await, Some(ControlOutput::BootFailed(_))));
    assert_eq!(local.sh("echo fine").await, "fine\n");
}

#[tokio::test]
async fn a_shutdown_ends_every_process_in_order() {
    let local = Local::start().await;
    let mut polite =
        local.open(sh("trap 'echo bye; exit 6' TERM; echo up; while :; do sleep 0.01; done")).await;
    polite.started().await;
    polite.until("up\n").await;
    // It leaves its session and group, and ignores what can be ignored.
    let script = "trap '' TERM; echo $$; exec >&- 2>&-; while :; do sleep 0.01; done";
    let daemon = format!("setsid sh -c \"{}\" &", script.replace('$', "\\$"));
    let daemon = number(local.sh(&daemon).await.as_bytes());
    assert!(Path::new(&format!("/proc/{daemon}")).exists());
    assert_eq!(local.shut_down(300).await, Some(0));
    assert_eq!(polite.message().await, Some(exited(6)));
    assert_eq!(polite.stdout, b"up\nbye\n");
    assert!(!Path::new(&format!("/proc/{daemon}")).exists());
}

#[tokio::test]
async fn nothing_starts_during_a_shutdown() {
    let mut local = Local::start().await;
    let mut stubborn = local.open(sh("trap '' TERM; echo up; while :; do sleep 0.01; done")).await;
    stubborn.started().await;
    stubborn.until("up\n").await;
    local.send(&ControlInput::Shutdown { grace_ms: 60_000 }).await;
    // Streams are served in order of arrival per stream only: wait until the shutdown is under way.
    loop {
        match local.run(command(&["true"])).await.end {
            ExecOutput::Failed(ExecFailure::System(_)) => break,
            end => assert_eq!(end, exited(0)),
        }
    }
    stubborn.send(ExecInput::Signal(libc::SIGKILL)).await;
    assert_eq!(stubborn.message().await, Some(signalled(libc::SIGKILL)));
    assert_eq!(local.receive().await, Some(ControlOutput::Bye));
    gone(local.child.id()).await;
    assert_eq!(local.child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn the_host_going_away_ends_everything() {
    let mut local = Local::start().await;
    let mut session = local.open(sh("trap '' TERM HUP; setsid sleep 1000 & echo $!; wait")).await;
    let leader = session.started().await;
    session.until("\n").await;
    let daemon = number(&session.stdout);
    local.driver.abort();
    gone(leader).await;
    gone(daemon).await;
    gone(local.child.id()).await;
    assert_eq!(local.child.wait().unwrap().code(), Some(1));
}

#[tokio::test]
async fn a_detached_command_runs_on_and_its_output_is_dropped() {
    let local = Local::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (go, done) = (dir.path().join("go"), dir.path().join("done"));
    // More than pipes hold, so that a command whose output nobody reads would stop.
    let script = format!(
        "printf up; until test -e {}; do :; done; head -c 3000000 /dev/zero; \
         head -c 3000000 /dev/zero >&2; touch {}; exec sleep 1000",
        go.display(),
        done.display()
    );
    for request in [with_stdin(sh(&script)), with_tty(sh(&script))] {
        let mut session = local.open(request).await;
        let pid = session.started().await;
        session.until("up").await;
        session.send(ExecInput::Detach).await;
        assert_eq!(session.message().await, None, "the agent closes the stream");
        drop(session);
        fs::write(&go, "").unwrap();
        while !done.exists() {
            assert!(Path::new(&format!("/proc/{pid}")).exists(), "it runs on");
            tokio::task::yield_now().await;
        }
        assert!(Path::new(&format!("/proc/{pid}")).exists(), "it runs on");
        fs::remove_file(&done).unwrap();
        fs::remove_file(&go).unwrap();
    }
    assert_eq!(local.shut_down(10_000).await, Some(0));
}

/// The answer to another set of scripts.
async fn replace_scripts(local: &Local, scripts: &[(&str, &str)]) -> FsReply {
    let scripts = scripts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let mut stream = local.opener.open().await.unwrap();
    write_message(&mut stream, &Request::Scripts(scripts.collect())).await.unwrap();
    let mut buffer = Vec::new();
    let frame = timeout(LIMIT, read_frame(&mut stream, &mut buffer)).await.unwrap().unwrap();
    frame.unwrap().message().unwrap()
}

#[tokio::test]
async fn scripts_are_on_the_path_until_others_take_their_place() {
    let mut local = Local::connect().await;
    let greet = "#!/bin/sh\necho \"hello $1\"; exit 4\n";
    let scripts = BTreeMap::from([("greet".to_owned(), greet.to_owned())]);
    local.send(&ControlInput::Boot(Box::new(BootConfig { scripts, ..Default::default() }))).await;
    assert!(matches!(local.receive().await, Some(ControlOutput::Ready { .. })));
    let outcome = local.run(command(&["greet", "you"])).await;
    assert_eq!((outcome.stdout.as_str(), outcome.end), ("hello you\n", exited(4)));
    // Before what the command's own environment has, and for what it runs.
    let mut request = sh("greet me; greet=$(command -v greet); echo ${PATH#${greet%/greet}}");
    request.env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into();
    assert_eq!(local.run(request).await.stdout, "hello me\n:/usr/bin:/bin\n");
    let reply = replace_scripts(&local, &[("other", "#!/bin/sh\necho other\n")]).await;
    assert_eq!(reply, FsReply::Done);
    assert_eq!(local.run(command(&["other"])).await.stdout, "other\n");
    let gone = ExecOutput::Failed(ExecFailure::NotFound("greet".to_owned()));
    assert_eq!(local.run(command(&["greet"])).await.end, gone);
    let reply = replace_scripts(&local, &[("../x", "")]).await;
    assert!(matches!(reply, FsReply::Failed(_)), "{reply:?}");
    assert_eq!(local.run(command(&["other"])).await.end, exited(0), "they are as they were");
    let dir = local.sh("dirname $(command -v other)").await;
    assert_eq!(replace_scripts(&local, &[]).await, FsReply::Done);
    let path = local.sh("echo $PATH").await;
    assert!(!path.contains(dir.trim()), "{path}");
    assert_eq!(local.shut_down(0).await, Some(0));
    assert!(!Path::new(dir.trim()).exists());
}
