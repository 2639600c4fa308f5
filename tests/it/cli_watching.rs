//! `events`, `wait`, `graph`, and choosing sandboxes by label and status.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use expect_test::expect;
use serde_json::Value;

use crate::environment::Environment;

const SHOP: &str = r#"
name = "shop"

[defaults]
image = "./image"

[sandbox.check]
kind = "job"
cmd = ["/bin/sh", "-c", "exit 3"]
labels = { tier = "jobs" }

[sandbox.db]
cmd = ["sleep", "100000"]
healthcheck = { exec = ["true"], interval = "100ms" }
labels = { tier = "data", keep = "yes" }

[sandbox.web]
cmd = ["sleep", "100000"]
depends_on = { db = "healthy" }
labels = { tier = "front" }
"#;

fn shop() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", SHOP);
    env
}

fn events(env: &Environment, words: &str) -> Vec<Value> {
    let ran = env.msb(&format!("events --format json {words}")).expect(0);
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn events_are_read_again_from_any_number_on() {
    let env = shop();
    assert_eq!(env.msb("events").expect(0).stdout, "");
    env.msb("up -d --wait db web").expect(0);
    env.msb("down").expect(0);
    let all = events(&env, "");
    let kinds = |events: &[Value], name: &str| -> Vec<String> {
        let of = events.iter().filter(|event| event["sandbox"] == name);
        of.map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        kinds(&all, "db"),
        ["created", "starting", "running", "healthy", "draining", "stopped", "removed"]
    );
    let seq = |event: &Value| event["seq"].as_i64().unwrap();
    assert!(all.windows(2).all(|pair| seq(&pair[0]) < seq(&pair[1])));
    let middle = seq(&all[4]);
    assert_eq!(events(&env, &format!("--since-seq {middle}")), all[5..]);
    let web = events(&env, "web");
    assert!(web.iter().all(|event| event["sandbox"] == "web") && !web.is_empty());
    let stopped = all.iter().find(|event| event["kind"] == "stopped").unwrap();
    assert_eq!(stopped["detail"]["exit_code"], 143);
    let text = env.msb("events web").expect(0).stdout;
    assert!(text.lines().any(|line| line.ends_with("web stopped exit_code=143")), "{text}");
}

#[test]
fn events_are_told_as_they_happen() {
    let env = shop();
    let mut command = env.command();
    command.args(["events", "--follow", "--format", "json"]).stdout(Stdio::piped());
    let mut following = command.spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut heard = |kind: &str, sandbox: &str| {
        loop {
            let line = lines.next().expect("it follows until it is stopped").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["kind"] == kind && event["sandbox"] == sandbox {
                return event;
            }
        }
    };
    // Each of these is heard of before the next thing happens.
    env.msb("up -d --wait db").expect(0);
    heard("healthy", "db");
    env.msb("up -d check").expect(0);
    assert_eq!(heard("stopped", "check")["detail"]["exit_code"], 3);
    env.msb("down").expect(0);
    heard("removed", "db");
    let pid = rustix::process::Pid::from_child(&following);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(following.wait().unwrap().code(), Some(130));
}

#[test]
fn waiting_gives_the_code_of_the_workload() {
    let env = shop();
    env.msb("up -d").expect(0);
    assert_eq!(env.msb("wait check").expect(3).stdout, "check stopped (exit 3)\n");
    assert_eq!(
        env.msb("wait --condition completed check").expect(3).stdout,
        "check stopped (exit 3)\n"
    );
    assert_eq!(env.msb("wait --condition healthy db").expect(0).stdout, "db running (healthy)\n");
    env.msb("wait --condition started check db web").expect(0);
    let ran = env.msb("wait --timeout 50ms web").expect(4);
    assert!(ran.stderr.contains("waiting took too long"), "{}", ran.stderr);
    env.msb("wait nothing").expect(1);
    let mut command = env.command();
    command.args(["wait", "web", "db"]).stdout(Stdio::piped());
    let waiting = command.spawn().unwrap();
    env.msb("stop").expect(0);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143));
    assert!(String::from_utf8(output.stdout).unwrap().contains("web stopped (exit 143)\n"));
}

#[test]
fn sandboxes_are_chosen_by_label_and_status() {
    let env = shop();
    env.msb("up -d --wait db web").expect(0);
    let names = |words: &str| -> Vec<String> {
        let ran = env.msb(&format!("ps --format json {words}")).expect(0);
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        let rows = document["sandboxes"].as_array().unwrap();
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("--label tier=data"), ["db"]);
    assert_eq!(names("--label tier --label keep=yes"), ["db"]);
    assert_eq!(names("--label keep=no"), [""; 0]);
    assert_eq!(names("--status running --status stopped"), ["db", "web"]);
    env.msb("stop --label tier=front").expect(0);
    assert_eq!(env.statuses(), ["db running", "web stopped"]);
    assert_eq!(names("--status stopped"), ["web"]);
    assert_eq!(names("web --status running"), [""; 0]);
    let ran = env.msb("stop --label tier=none").expect(0);
    assert_eq!(ran.stderr, "nothing to do\n");
    env.msb("start --status stopped").expect(0);
    assert_eq!(env.statuses(), ["db running", "web running"]);
    let ran = env.msb("ls --label tier=front").expect(0);
    assert!(ran.stdout.contains("1 running"), "{}", ran.stdout);
    assert!(!env.msb("ls --label tier=none").expect(0).stdout.contains("shop"));
    assert_eq!(env.msb("logs --label tier=none").expect(0).stdout, "");
    env.msb("rm --stop --yes --label tier=front").expect(0);
    assert_eq!(env.statuses(), ["db running"]);
    env.msb("down --label tier=front").expect(0).ends_with("nothing to remove");
    env.msb("down --label tier=data --status running").expect(0);
    assert_eq!(env.statuses(), [""; 0]);
    env.msb("ps --status asleep").expect(64);
}

#[test]
fn the_graph_is_in_the_order_of_starts() {
    let env = shop();
    expect![[r#"
        SANDBOX  AFTER
        check    
        db       
        web      db (healthy)
    "#]]
    .assert_eq(&env.msb("graph").expect(0).stdout);
    expect![[r#"
        digraph "shop" {
          rankdir = "RL"
          "db" [shape = "ellipse"]
          "web" [shape = "ellipse"]
          "web" -> "db" [label = "healthy", style = "solid"]
        }
    "#]]
    .assert_eq(&env.msb("graph --format dot web").expect(0).stdout);
    let document: Value =
        serde_json::from_str(&env.msb("graph --format json").expect(0).stdout).unwrap();
    assert_eq!(document["schema"], "msb.graph/1");
    assert_eq!(document["sandboxes"][0]["kind"], "job");
    assert_eq!(document["edges"][0]["to"], "db");
}

#[test]
fn stats_measure_what_runs() {
    let env = shop();
    env.msb("up -d --wait db web").expect(0);
    let ran = env.msb("stats --no-stream --format json").expect(0);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["schema"], "msb.stats/1");
    let sandboxes = document["sandboxes"].as_array().unwrap();
    assert_eq!(sandboxes.iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["db", "web"]);
    assert!(sandboxes[0]["metrics"]["memory_bytes"].as_u64().unwrap() > 0);
    let text = env.msb("stats --no-stream --label tier=front").expect(0).stdout;
    assert!(text.starts_with("NAME"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    env.msb("kill --label tier=front").expect(0);
    assert_eq!(env.statuses(), ["db running", "web stopped"]);
}
