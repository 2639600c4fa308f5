//! Restarts, time limits, checks and hooks as commands show them.

use msb::spec::Status;
use msb::supervisor::{self, StatusEvent};

use crate::environment::Environment;

/// Waits until `done` holds of a sandbox, or until its last run has ended.
fn until(env: &Environment, name: &str, done: impl FnMut(&StatusEvent) -> bool) -> StatusEvent {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(supervisor::wait_until(&env.home(), &env.row(name).id, done)).unwrap()
}

#[test]
fn a_job_may_fail_before_it_succeeds() {
    let env = Environment::new();
    let marks = env.root().join("marks");
    let marks = marks.display();
    env.write(
        "Sandboxfile",
        &format!(
            r#"
name = "life"
[defaults]
image = "./image"
[sandbox.migrate]
kind = "job"
restart = "on-failure:3"
cmd = ["/bin/sh", "-c", "echo run >> {marks}; test $$(wc -l < {marks}) -ge 3"]
[sandbox.web]
cmd = ["sleep", "100000"]
depends_on = {{ migrate = "completed" }}
"#
        ),
    );
    env.msb("up -d").expect(0);
    assert_eq!(env.statuses(), ["migrate stopped", "web running"]);
    assert_eq!(std::fs::read_to_string(env.root().join("marks")).unwrap().lines().count(), 3);
    env.msb("down").expect(0);
}

#[test]
fn a_sandbox_that_is_started_again_and_again_is_shown_and_stopped() {
    let env = Environment::new();
    env.write(
        "Sandboxfile",
        "name = \"life\"\n[sandbox.web]\nimage = \"./image\"\nrestart = \"always\"\ncmd = [\"false\"]\n",
    );
    env.msb("up -d").expect(0);
    // Each pause is twice as long as the one before: some time it is shown, on any machine.
    let shown = (3..).find_map(|restarts| {
        let waits =
            |event: &StatusEvent| event.status == Status::Restarting && event.restarts >= restarts;
        until(&env, "web", waits);
        let ran = env.msb("ps").expect(0);
        ran.stdout.contains("restarting in ").then_some(ran.stdout)
    });
    assert!(shown.is_some_and(|shown| shown.contains("s (exit 1)")));
    env.msb("up -d").expect(0);
    env.msb("stop").expect(0);
    assert_eq!(env.statuses(), ["web stopped"]);
    env.msb("down").expect(0);
}

#[test]
fn an_edit_ends_a_sandbox_that_has_had_its_time() {
    ended_by_an_edit("max_duration");
}

#[test]
fn a_sandbox_that_nobody_uses_is_stopped_and_started_again_by_up() {
    let env = ended_by_an_edit("idle_timeout");
    env.write("Sandboxfile", &limited("idle_timeout", "1h"));
    env.msb("up -d").expect(0);
    assert_eq!(env.statuses(), ["web running"]);
}

/// A sandbox `web` with the time limit `key`.
fn limited(key: &str, limit: &str) -> String {
    format!(
        "name = \"life\"\n[sandbox.web]\nimage = \"./image\"\ncmd = [\"sleep\", \"100000\"]\n\
         {key} = \"{limit}\"\n"
    )
}

/// Where an edit of `key` has stopped the sandbox.
fn ended_by_an_edit(key: &str) -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", &limited(key, "1h"));
    env.msb("up -d").expect(0);
    let run = env.row("web").run;
    env.write("Sandboxfile", &limited(key, "1ms"));
    env.msb("up -d").expect(0);
    until(&env, "web", |_| false);
    assert_eq!(env.row("web").run, run, "the edit of a running sandbox needs no new run");
    let ran = env.msb("ps").expect(0);
    assert!(ran.stdout.contains(&format!("stopped ({key})")), "{}", ran.stdout);
    let ran = env.msb("inspect web").expect(0);
    assert!(ran.stdout.contains(&format!("stopped after its {key} of 1ms")), "{}", ran.stdout);
    env
}

#[test]
fn what_a_failing_hook_wrote_is_shown() {
    let env = Environment::new();
    env.write(
        "Sandboxfile",
        "name = \"life\"\n[sandbox.web]\nimage = \"./image\"\ncmd = [\"sleep\", \"100000\"]\n\
         hooks = { post_start = [[\"/bin/sh\", \"-c\", \"echo no database; exit 3\"]] }\n",
    );
    let ran = env.msb("up -d").expect(1);
    assert!(ran.stderr.contains("(exit code 3): no database"), "{}", ran.stderr);
    assert_eq!(env.statuses(), ["web stopped"]);
}
