//! Sandboxes that are started again, and those that have had their time.

use msb::spec::RestartPolicy;

use super::*;

/// Fails twice, then says so and goes on; `$1` counts its runs.
fn third_time(policy: RestartPolicy, marks: &std::path::Path) -> SandboxSpec {
    let marks = marks.display();
    let script = format!(
        "echo run >> {marks}; test $(wc -l < {marks}) -ge 3 || exit 7; echo well; sleep 1000"
    );
    SandboxSpec { restart: policy, ..sh(&script) }
}

fn kinds(bench: &Bench) -> Vec<String> {
    let store = Store::open(&bench.home).unwrap();
    let events = store.events_since(Some("shop"), 0, 1000).unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

#[tokio::test]
async fn a_workload_that_fails_is_started_again() {
    let bench = bench();
    let marks = bench._dir.path().join("marks");
    let up = bench.up(third_time(RestartPolicy::OnFailure { max: None }, &marks)).await;
    up.said("well").await;
    let event = up.running().await;
    assert_eq!(event.restarts, 2, "{event:?}");
    assert_ne!(event.run_id, up.launched.run_id);
    let row = bench.row(&up.config.id);
    assert_eq!(row.run.unwrap().run_id, event.run_id);
    assert_eq!((row.status, row.exit_code), (Status::Running, None));
    let again = kinds(&bench).iter().filter(|kind| *kind == "restarting").count();
    assert_eq!(again, 2, "{:?}", kinds(&bench));
    within(up.client.stop(None)).await.unwrap();
    let event = up.ended().await;
    assert_eq!(event.status, Status::Stopped);
    assert_eq!(fs::read_to_string(&marks).unwrap().lines().count(), 3);
}

#[tokio::test]
async fn failures_in_a_row_have_an_end() {
    let bench = bench();
    let policy = RestartPolicy::OnFailure { max: Some(2) };
    let up = bench.up(SandboxSpec { restart: policy, ..sh("exit 7") }).await;
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(7)), "{event:?}");
    assert_eq!(event.restarts, 2);
    gone(up.launched.pid).await;
    // What succeeds is done.
    let spec = SandboxSpec { restart: policy, ..sh("exit 0") };
    let up = bench.launch(bench.config("done", spec)).await;
    assert_eq!(up.ended().await.restarts, 0);
}

#[tokio::test]
async fn a_vm_that_crashes_counts_as_a_failure() {
    let bench = bench();
    let policy = RestartPolicy::OnFailure { max: Some(1) };
    let up = bench.up(SandboxSpec { restart: policy, ..sh("sleep 1000") }).await;
    for restarts in 0..2 {
        let event = up.until(|e| e.status == Status::Running && e.restarts == restarts).await;
        kill_9(event.vm_pid.unwrap());
    }
    let event = up.ended().await;
    assert_eq!((event.status, event.restarts), (Status::Crashed, 1), "{event:?}");
}

#[tokio::test]
async fn a_sandbox_that_waits_for_its_next_run_can_be_stopped() {
    let bench = bench();
    let up = bench.up(SandboxSpec { restart: RestartPolicy::Always, ..sh("exit 3") }).await;
    // Long enough a pause (6.4 s) that the rest finds it waiting.
    let waits = |event: &StatusEvent| event.status == Status::Restarting && event.restarts >= 6;
    let event = up.until(waits).await;
    assert_eq!((event.exit_code, event.vm_pid), (Some(3), None), "{event:?}");
    assert!(event.restart_at_ms.is_some());
    let denied = up.client.exec(command("true")).await;
    assert!(matches!(denied, Err(ControlError::Denied(DeniedReason::NotReady))), "{denied:?}");
    assert_eq!(bench.row(&up.config.id).status, Status::Restarting);
    within(up.client.stop(None)).await.unwrap();
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(3)), "{event:?}");
    gone(up.launched.pid).await;
}

#[tokio::test]
async fn an_edit_ends_the_wait_for_the_next_run() {
    let bench = bench();
    let up = bench.up(SandboxSpec { restart: RestartPolicy::Always, ..sh("exit 0") }).await;
    up.until(|event| event.status == Status::Restarting && event.restarts >= 4).await;
    within(up.client.update(sh("exit 0"))).await.unwrap();
    assert_eq!(up.ended().await.status, Status::Stopped);
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_started_is_not_started_again() {
    let bench = bench();
    let mut spec = SandboxSpec { restart: RestartPolicy::Always, ..idle() };
    spec.cmd = Some(vec!["/no/such/program".into()]);
    let event = bench.up(spec).await.ended().await;
    assert_eq!((event.exit_code, event.restarts), (Some(127), 0), "{event:?}");
}

#[tokio::test]
async fn time_that_is_up_ends_a_sandbox_for_good() {
    let bench = bench();
    let spec = SandboxSpec {
        restart: RestartPolicy::Always,
        max_duration: Some(Millis::from_secs(3600)),
        ..sh("trap 'exit 0' TERM; echo up; sleep 1000 & wait")
    };
    let up = bench.up(spec.clone()).await;
    up.said("up").await;
    // An edit moves the end of a sandbox that runs.
    let shorter = SandboxSpec { max_duration: Some(Millis::from_ms(1)), ..spec };
    within(up.client.update(shorter)).await.unwrap();
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(124)), "{event:?}");
    assert_eq!(event.error.as_deref(), Some("stopped after its max_duration of 1ms"));
    assert_eq!(bench.row(&up.config.id).error, event.error);
    gone(up.launched.pid).await;
}

#[tokio::test]
async fn a_sandbox_that_is_drained_is_not_started_again() {
    let bench = bench();
    let go = bench._dir.path().join("go");
    let script = format!("until test -e {}; do sleep 0.01; done; exit 3", go.display());
    let up = bench.up(SandboxSpec { restart: RestartPolicy::Always, ..sh(&script) }).await;
    up.running().await;
    let request = ExecRequest { stdin: StdinMode::Pipe, ..command("exec cat") };
    let _session = within(up.client.exec(request)).await.unwrap();
    within(up.client.drain()).await.unwrap();
    up.until(|event| event.status == Status::Draining).await;
    // The workload comes to its end before the session does.
    fs::write(&go, "").unwrap();
    let event = up.until(|event| event.status == Status::Restarting).await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(3)), "{event:?}");
    gone(up.launched.pid).await;
}

const IDLED: &str = "stopped after its idle_timeout of 1ms";

fn idles_after(limit: Millis, spec: &SandboxSpec) -> SandboxSpec {
    SandboxSpec { idle_timeout: Some(limit), restart: RestartPolicy::Always, ..spec.clone() }
}

#[tokio::test]
async fn a_sandbox_that_is_not_used_is_stopped_for_good() {
    let bench = bench();
    let spec = sh("trap 'exit 3' TERM; echo up; sleep 1000 & wait");
    let up = bench.up(idles_after(Millis::from_secs(3600), &spec)).await;
    up.said("up").await;
    within(up.client.update(idles_after(Millis::from_ms(1), &spec))).await.unwrap();
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(3)), "{event:?}");
    assert_eq!((event.error.as_deref(), event.restarts), (Some(IDLED), 0));
    assert_eq!(bench.row(&up.config.id).error, event.error);
    gone(up.launched.pid).await;
}

#[tokio::test]
async fn a_command_is_a_use_of_its_sandbox_however_quiet_it_is() {
    let bench = bench();
    let spec = sh("sleep 1000");
    let up = bench.up(idles_after(Millis::from_secs(3600), &spec)).await;
    up.running().await;
    // Far longer than the time that it may be idle.
    let quiet = within(up.client.exec(command("sleep 0.5; echo alive"))).await.unwrap();
    within(up.client.update(idles_after(Millis::from_ms(1), &spec))).await.unwrap();
    assert_eq!(within(collect(quiet)).await, (ExitStatus::Code(0), "alive\n".to_owned()));
    assert_eq!(up.ended().await.error.as_deref(), Some(IDLED));
}

#[tokio::test]
async fn a_detached_command_is_a_use_and_so_is_who_is_attached() {
    let bench = bench();
    let spec = sh("sleep 1000");
    let up = bench.up(idles_after(Millis::from_secs(3600), &spec)).await;
    up.running().await;
    let mark = bench._dir.path().join("mark");
    let script = format!("sleep 0.5; touch {}", mark.display());
    let mut session = within(up.client.exec(command(&script))).await.unwrap();
    within(write_message(&mut session.stream, &ExecInput::Detach)).await.unwrap();
    within(collect_detached(session)).await;
    within(up.client.update(idles_after(Millis::from_ms(1), &spec))).await.unwrap();
    assert_eq!(up.ended().await.error.as_deref(), Some(IDLED));
    assert!(mark.exists(), "it was let finish");

    let up = bench.launch(bench.config("held", idles_after(Millis::from_secs(3600), &spec))).await;
    up.running().await;
    let attached = within(up.client.attach()).await.unwrap();
    within(up.client.update(idles_after(Millis::from_ms(1), &spec))).await.unwrap();
    // A use of its own, which would be the last one.
    up.run("sleep 0.3").await;
    assert_eq!(up.running().await.error, None);
    drop(attached);
    assert_eq!(up.ended().await.error.as_deref(), Some(IDLED));
}

/// Reads until the agent closes the session.
async fn collect_detached(mut session: ExecSession) {
    let mut buffer = Vec::new();
    while let Ok(Some(_)) = read_frame(&mut session.stream, &mut buffer).await {}
}
