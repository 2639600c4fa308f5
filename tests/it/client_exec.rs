//! Exec sessions by the library, with supervisors and agents as processes.

use std::path::Path;
use std::time::Duration;

use msb::client::{
    self, ExecConfig, ExecError, ExecEvent, ExecFailure, ExecHandle, ExecOutput, ExitStatus, Stdin,
};

use crate::supervisor::bench::{Bench, Up, bench, gone, idle, within};

/// A sandbox that idles.
struct Place {
    up: Up,
    _bench: Bench,
}

async fn place() -> Place {
    let bench = bench();
    let up = bench.up(idle()).await;
    up.running().await;
    Place { up, _bench: bench }
}

fn sh(script: &str) -> ExecConfig {
    ExecConfig::new("/bin/sh").args(["-c", script])
}

impl Place {
    async fn exec(&self, config: ExecConfig) -> ExecHandle {
        within(client::exec(&self.up.home, &self.up.config.id, config)).await.unwrap()
    }

    async fn collect(&self, config: ExecConfig) -> Result<ExecOutput, ExecError> {
        within(self.exec(config).await.collect()).await
    }
}

/// Reads until standard output holds `text`.
async fn until(handle: &mut ExecHandle, text: &str) {
    let mut said = String::new();
    while !said.contains(text) {
        match within(handle.recv()).await.unwrap() {
            Some(ExecEvent::Stdout(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            Some(ExecEvent::Started { .. }) => {}
            other => panic!("{other:?} after {said:?}"),
        }
    }
}

async fn pid(handle: &mut ExecHandle) -> u32 {
    match within(handle.recv()).await.unwrap() {
        Some(ExecEvent::Started { pid }) => pid,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn output_and_status_are_collected() {
    let place = place().await;
    let output = place.collect(sh("echo out; echo err >&2; exit 3")).await.unwrap();
    assert_eq!((&*output.stdout(), &*output.stderr()), ("out\n", "err\n"));
    assert_eq!((output.code(), output.success()), (3, false));
    let output = place.collect(sh("kill -TERM $$")).await.unwrap();
    assert_eq!((output.status(), output.code()), (ExitStatus::Signal(15), 143));
    assert!(place.collect(ExecConfig::new("true")).await.unwrap().success());
}

#[tokio::test]
async fn what_cannot_be_started_is_typed() {
    let place = place().await;
    let failure = async |config| match place.collect(config).await {
        Err(ExecError::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    };
    let not_found = failure(ExecConfig::new("no-such-program")).await;
    assert_eq!(not_found, ExecFailure::NotFound("no-such-program".into()));
    assert_eq!(not_found.code(), 127);
    let denied = failure(ExecConfig::new("/etc/passwd")).await;
    assert_eq!(denied, ExecFailure::NotExecutable("/etc/passwd".into()));
    assert_eq!(denied.code(), 126);
    let nowhere = failure(ExecConfig::new("true").cwd("/no/such/place")).await;
    assert!(matches!(nowhere, ExecFailure::BadWorkdir(_)));
    let limit = failure(ExecConfig::new("true").rlimit("x", None, None)).await;
    assert!(matches!(limit, ExecFailure::Invalid(_)));
}

#[tokio::test]
async fn standard_input_is_nothing_bytes_or_a_pipe() {
    let place = place().await;
    let cat = || ExecConfig::new("cat");
    assert_eq!(place.collect(cat()).await.unwrap().stdout(), "");
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    let output = place.collect(cat().stdin(Stdin::Bytes(bytes.clone()))).await.unwrap();
    assert!(output.stdout_bytes() == bytes, "1 MB goes in and comes out");
    // A command that does not want its input is no error.
    let output = place.collect(ExecConfig::new("true").stdin(Stdin::Bytes(bytes))).await.unwrap();
    assert!(output.success());

    let mut handle = place.exec(cat().stdin(Stdin::Pipe)).await;
    let sink = handle.take_stdin().unwrap();
    assert!(handle.take_stdin().is_none());
    sink.write(b"one ").await.unwrap();
    until(&mut handle, "one ").await;
    sink.write(b"two").await.unwrap();
    sink.close();
    assert_eq!(within(handle.collect()).await.unwrap().stdout(), "two");
    // A sink that nobody took ends with the wish for the end.
    assert!(within(place.exec(cat().stdin(Stdin::Pipe)).await.wait()).await.unwrap().success());
    assert!(place.exec(cat()).await.take_stdin().is_none());
}

#[tokio::test]
async fn a_command_has_its_directory_environment_and_limits() {
    let place = place().await;
    let config = sh("pwd; echo $A; ulimit -n; ulimit -Hn").cwd("/tmp").env("A", "b c").rlimit(
        "nofile",
        Some(20),
        Some(30),
    );
    let output = place.collect(config).await.unwrap();
    assert_eq!(output.stdout(), "/tmp\nb c\n20\n30\n");
}

/// Time limits, the next one for a machine that was too busy to begin the command in the last one.
const LIMITS: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_secs(3), Duration::from_secs(20)];

#[tokio::test]
async fn a_timeout_kills_the_group_and_keeps_the_output() {
    let place = place().await;
    let script = "echo before; echo bad >&2; trap '' TERM INT; sleep 1000 & echo $!; wait";
    let mut said = String::new();
    for limit in LIMITS {
        match place.collect(sh(script).timeout(limit)).await {
            Err(ExecError::TimedOut { after, output }) => {
                assert_eq!((after, output.status()), (limit, ExitStatus::Signal(9)));
                said = format!("{}{}", output.stderr(), output.stdout());
            }
            other => panic!("{other:?}"),
        }
        if said.lines().count() == 3 {
            break;
        }
    }
    let child = said.trim_end().strip_prefix("bad\nbefore\n").expect(&said).parse().unwrap();
    gone(child).await;
    // Whatever is in the way: the command does not read the input that comes before the signal.
    let limit = LIMITS[0];
    let full = Stdin::Bytes(vec![0; 8 << 20]);
    let config = ExecConfig::new("sleep").arg("1000").stdin(full).timeout(limit);
    assert!(matches!(place.collect(config).await, Err(ExecError::TimedOut { .. })));
    let quick = sh("echo quick").timeout(Duration::from_secs(1000));
    assert_eq!(place.collect(quick).await.unwrap().stdout(), "quick\n");
    // A session that is only watched ends the same way.
    let mut handle = place.exec(sh("echo up; exec sleep 1000").timeout(limit)).await;
    let error = loop {
        match within(handle.recv()).await {
            Ok(event) => assert!(!matches!(event, None | Some(ExecEvent::Exited(_))), "{event:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ExecError::TimedOut { .. }), "{error:?}");
    assert_eq!(handle.recv().await.unwrap(), None);
}

#[tokio::test]
async fn a_command_that_ended_in_time_is_not_told_to_have_timed_out() {
    let place = place().await;
    for script in ["exit 3", "echo 1; echo 2 >&2; sleep 0.1; echo 3; exit 3"] {
        let mut ended = None;
        for limit in LIMITS {
            let mut handle = place.exec(sh(script).timeout(limit)).await;
            // The end is heard of when the time is over.
            tokio::time::sleep(limit).await;
            ended = Some(within(handle.wait()).await);
            if matches!(ended, Some(Ok(_))) {
                break;
            }
        }
        assert!(matches!(ended, Some(Ok(ExitStatus::Code(3)))), "{script}: {ended:?}");
    }
}

#[tokio::test]
async fn signals_reach_the_group_and_a_kill_is_never_in_the_way() {
    let place = place().await;
    let mut handle =
        place.exec(sh("trap 'exit 9' USR1; echo up; while :; do sleep 0.01; done")).await;
    until(&mut handle, "up").await;
    handle.signal(10).await.unwrap();
    assert_eq!(within(handle.wait()).await.unwrap(), ExitStatus::Code(9));
    assert!(handle.signal(10).await.is_err(), "the session has ended");

    let mut handle = place.exec(ExecConfig::new("sleep").arg("1000").stdin(Stdin::Pipe)).await;
    let pid = pid(&mut handle).await;
    let sink = handle.take_stdin().unwrap();
    let writing = tokio::spawn(async move { sink.write(&vec![0; 8 << 20]).await });
    handle.kill().await;
    assert_eq!(within(handle.wait()).await.unwrap(), ExitStatus::Signal(9));
    gone(pid).await;
    assert!(within(writing).await.unwrap().is_err());
}

#[tokio::test]
async fn signals_do_not_wait_for_input_that_is_not_read() {
    let place = place().await;
    // More than is on its way at any time, and what all of that time would have to be.
    for size in [8 << 20, 300_000, 1000] {
        let script = "trap 'exit 9' USR1; echo up; while :; do sleep 0.01; done";
        let mut handle = place.exec(sh(script).stdin(Stdin::Pipe)).await;
        until(&mut handle, "up").await;
        let sink = handle.take_stdin().unwrap();
        let mut write = Box::pin(async move { sink.write(&vec![0; size]).await });
        // As far as it goes by itself.
        let patience = Duration::from_millis(300);
        let written = tokio::time::timeout(patience, &mut write).await;
        assert!(size > 1000 || matches!(written, Ok(Ok(()))), "{written:?}");
        within(handle.signal(10)).await.unwrap();
        assert_eq!(within(handle.wait()).await.unwrap(), ExitStatus::Code(9), "{size}");
        if written.is_err() {
            assert!(within(write).await.is_err(), "the session has ended");
        }
    }
    // What a command does not want is dropped, however much it is.
    let bytes = Stdin::Bytes(vec![0; 8 << 20]);
    let config = sh("exec <&-; echo closed; while :; do sleep 0.01; done").stdin(bytes);
    let mut handle = place.exec(config).await;
    until(&mut handle, "closed").await;
    handle.signal(15).await.unwrap();
    assert_eq!(within(handle.wait()).await.unwrap(), ExitStatus::Signal(15));
}

#[tokio::test]
async fn dropping_a_handle_kills_the_group() {
    let place = place().await;
    let mut handle = place.exec(sh("sleep 1000 & echo pid $!; wait").stdin(Stdin::Pipe)).await;
    let leader = pid(&mut handle).await;
    until(&mut handle, "pid").await;
    // What else has an end of the session does not keep it.
    let (_sink, _control) = (handle.take_stdin(), handle.control());
    drop(handle);
    gone(leader).await;
}

#[tokio::test]
async fn a_detached_command_runs_on() {
    let place = place().await;
    let mut handle = place.exec(sh("echo up; exec sleep 1000")).await;
    let pid = pid(&mut handle).await;
    within(handle.detach()).await.unwrap();
    // A session that comes later is served by the same agent: the earlier one has been let go.
    assert!(place.collect(ExecConfig::new("true")).await.unwrap().success());
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    within(place.up.client.stop(None)).await.unwrap();
    gone(pid).await;
}

#[tokio::test]
async fn a_command_that_has_ended_can_be_detached() {
    let place = place().await;
    let handle = place.exec(sh("exit 6")).await;
    while handle.resize(24, 80).await.is_ok() {
        tokio::task::yield_now().await;
    }
    within(handle.detach()).await.unwrap();
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes() {
    let place = place().await;
    let script = "trap 'stty size; exit 4' WINCH; stty size; while :; do sleep 0.01; done";
    let mut handle = place.exec(sh(script).tty(33, 101)).await;
    until(&mut handle, "33 101").await;
    handle.resize(44, 122).await.unwrap();
    until(&mut handle, "44 122").await;
    assert_eq!(within(handle.wait()).await.unwrap(), ExitStatus::Code(4));
}

#[tokio::test]
async fn a_process_in_the_background_does_not_hold_the_session() {
    let place = place().await;
    let output = place.collect(sh("sleep 1000 & echo $!")).await.unwrap();
    let pid: u32 = output.stdout().trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "it lives on");
}

#[tokio::test]
async fn collecting_is_bounded() {
    let place = place().await;
    match place.collect(sh("exec yes").max_output(100_000)).await {
        Err(ExecError::TooMuchOutput { limit, output }) => {
            assert_eq!((limit, output.stdout_bytes().len()), (100_000, 100_000));
        }
        other => panic!("{other:?}"),
    }
    let exactly = place.collect(sh("head -c 100000 /dev/zero").max_output(100_000)).await;
    assert_eq!(exactly.unwrap().stdout_bytes().len(), 100_000);
}

/// A hundred sessions, of which one is not read at all.
#[tokio::test]
async fn a_slow_reader_stalls_nobody_and_costs_little() {
    let place = place().await;
    let mut slow = place.exec(sh("exec yes")).await;
    pid(&mut slow).await;
    let before = peak_kib();
    let sessions = (0..100).map(|number| place.collect(sh(&format!("cat; echo {number}"))));
    let outputs = within(futures_util::future::join_all(sessions)).await;
    for (number, output) in outputs.into_iter().enumerate() {
        assert_eq!(output.unwrap().stdout(), format!("{number}\n"));
    }
    let grown = peak_kib().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB for an output that nobody reads");
    slow.kill().await;
    assert!(matches!(within(slow.wait()).await, Ok(ExitStatus::Signal(9))));
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_end_of_the_sandbox_ends_its_sessions() {
    let place = place().await;
    let mut handle = place.exec(sh("echo up; exec sleep 1000")).await;
    until(&mut handle, "up").await;
    within(place.up.client.kill()).await.unwrap();
    assert!(matches!(within(handle.wait()).await, Err(ExecError::Gone)));
}
