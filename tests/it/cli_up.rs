//! `up` and what follows, with the `local` driver: the real agent as an ordinary process.

use expect_test::expect;
use rustix::process::{Signal, pidfd_send_signal};

use crate::environment::{Environment, image_layout, supervisor_process};
use crate::terminal::Group;

const SHOP: &str = r#"
name = "shop"

[defaults]
image = "./image"

[sandbox.check]
kind = "job"
cmd = ["/bin/sh", "-c", "echo checked"]

[sandbox.db]
cmd = ["/bin/sh", "-c", "echo ready; exec sleep 100000"]
env = { LEVEL = "one" }
depends_on = { check = "completed" }
healthcheck = { exec = ["true"], interval = "100ms" }

[sandbox.web]
cmd = ["/bin/sh", "-c", "echo hello; exec sleep 100000"]
depends_on = { db = "healthy" }
"#;

fn shop() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", SHOP);
    env
}

#[test]
fn a_project_comes_up_in_order_and_goes_down() {
    let env = shop();
    let ran = env.msb("up -d --wait").expect(0);
    let end = ran.messages().lines().last().unwrap_or_default().to_owned();
    expect!["3 started"].assert_eq(&end);
    expect![[r#"
        [
            "check stopped",
            "db running",
            "web running",
        ]
    "#]]
    .assert_debug_eq(&env.statuses());

    let again = env.msb("up -d").expect(0);
    expect![[r#"
        no changes
    "#]]
    .assert_eq(&again.stderr);
    env.msb("plan --detailed-exitcode").expect(0);

    let ran = env.msb("down").expect(0);
    expect!["3 removed"].assert_eq(ran.messages().lines().last().unwrap_or_default());
    assert!(env.rows().is_empty());
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
    expect![[r#"
        nothing to remove
    "#]]
    .assert_eq(&env.msb("down").expect(0).stderr);
}

#[test]
fn what_is_known_is_one_document() {
    let env = shop();
    env.msb("up -d --wait").expect(0);
    let inspect = || -> serde_json::Value {
        serde_json::from_str(&env.msb("inspect db check").expect(0).stdout).unwrap()
    };
    let document = inspect();
    let db = &document["sandboxes"][0];
    assert_eq!((&db["name"], &db["health"]), (&"db".into(), &"healthy".into()));
    assert_eq!(db["run_id"].as_str(), env.row("db").run.as_ref().map(|run| run.run_id.as_str()));
    assert_eq!(db["spec"]["env"]["LEVEL"], "one");
    let layers: Vec<_> = db["jail"].as_array().unwrap().iter().map(|l| &l["layer"]).collect();
    assert_eq!(layers, ["no new privileges", "death with the parent"]);
    assert_eq!(document["sandboxes"][1]["exit_code"], 0);
    let supervisor = supervisor_process(&env, "db");
    pidfd_send_signal(&supervisor, Signal::STOP).unwrap();
    let hung = &inspect()["sandboxes"][0];
    assert!(hung["vm_pid"].is_null() && hung["run_id"].is_string(), "{hung}");
    pidfd_send_signal(&supervisor, Signal::CONT).unwrap();
    env.msb("stop db").expect(0);
    let stopped = &inspect()["sandboxes"][0];
    for key in ["supervisor_pid", "vm_pid", "run_id", "jail"] {
        assert!(stopped[key].is_null(), "{stopped}");
    }
    env.msb("inspect db nobody").expect(1);
}

#[test]
fn doctor_tries_the_jail() {
    let env = Environment::new();
    let text = env.msb("doctor --format json").stdout;
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layers = document["jail"].as_array().unwrap_or_else(|| panic!("no jail in {text}"));
    assert_eq!(layers.len(), 10);
    for layer in layers {
        assert_eq!(layer["applied"] == true, layer["reason"].is_null(), "{layer}");
    }
    assert!(env.msb("doctor").stdout.contains("jail            no new privileges\n"));
}

#[test]
fn one_edited_field_changes_exactly_one_sandbox() {
    let env = shop();
    env.msb("up -d --wait").expect(0);
    let before = env.rows();
    env.write("Sandboxfile", &SHOP.replace("echo hello", "echo goodbye"));
    env.msb("plan --detailed-exitcode").expect(2);
    let ran = env.msb("up -d").expect(0);
    expect!["1 restarted, 2 unchanged"]
        .assert_eq(ran.messages().lines().last().unwrap_or_default());
    let after = env.rows();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.id, after.id);
        assert_eq!(before.run == after.run, after.name != "web", "{}", after.name);
    }
    // A new image is a new disk.
    image_layout(&env.project().join("image"), "two");
    let ran = env.msb("up -d --wait").expect(0);
    expect!["3 replaced"].assert_eq(ran.messages().lines().last().unwrap_or_default());
    assert!(env.rows().iter().zip(&after).all(|(new, old)| new.id != old.id));
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

#[test]
fn a_label_changes_in_place() {
    let env = shop();
    env.msb("up -d --wait").expect(0);
    let before = env.row("db");
    env.write("Sandboxfile", &SHOP.replace("env = {", "labels = { a = \"b\" }\nenv = {"));
    let ran = env.msb("up -d").expect(0);
    expect!["1 updated, 2 unchanged"].assert_eq(ran.messages().lines().last().unwrap_or_default());
    let after = env.row("db");
    assert_eq!((before.id, before.run), (after.id, after.run));
    assert!(after.spec_json.contains("\"labels\""));
    assert!(env.msb("up -d").expect(0).stderr.contains("no changes"));
}

#[test]
fn ps_and_ls() {
    let env = shop();
    assert_eq!(env.msb("ps").expect(0).stdout.lines().count(), 1);
    env.msb("up -d --wait").expect(0);
    let ran = env.msb("ps --format json").expect(0);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["schema"], "msb.ps/1");
    assert_eq!(document["sandboxes"][0]["name"], "check");
    assert_eq!(document["sandboxes"][0]["exit_code"], 0);
    assert_eq!(document["sandboxes"][1]["health"], "healthy");
    let table = env.msb("ps").expect(0).stdout;
    assert!(table.contains("running (healthy)"), "{table}");
    assert!(table.contains("stopped (exit 0)"), "{table}");
    let list = env.msb("ls").expect(0).stdout;
    assert!(list.contains("shop") && list.contains("2 running"), "{list}");
    // The name is enough, wherever one is.
    let mut elsewhere = env.command();
    elsewhere.current_dir("/").args(["-p", "shop", "ps"]);
    assert_eq!(env.run(&mut elsewhere).expect(0).stdout.lines().count(), 4);
}

#[test]
fn logs_are_kept_and_filtered() {
    let env = shop();
    env.msb("up -d --wait").expect(0);
    // A service that has started may not have said anything yet.
    let mut follow = Group::run(env.command().args(["logs", "-f"]));
    follow.says("db    | ready");
    follow.says("web   | hello");
    let ran = env.msb("logs").expect(0);
    for line in ["check | checked", "db    | ready", "web   | hello"] {
        assert!(ran.stdout.contains(line), "{}", ran.stdout);
    }
    assert_eq!(env.msb("logs web --no-log-prefix").expect(0).stdout, "hello\n");
    assert_eq!(env.msb("logs web --tail 0").expect(0).stdout, "");
    assert_eq!(env.msb("logs --since 2100-01-01T00:00:00Z").expect(0).stdout, "");
    let ran = env.msb("logs check --format json").expect(0);
    let line: serde_json::Value = serde_json::from_str(ran.stdout.trim()).unwrap();
    assert_eq!((&line["stream"], &line["message"]), (&"stdout".into(), &"checked".into()));
    // What has ended is followed to its end.
    assert_eq!(env.msb("logs -f check --no-log-prefix").expect(0).stdout, "checked\n");
    env.msb("logs nobody").expect(1);
}

#[test]
fn exec_passes_streams_and_codes() {
    let env = shop();
    env.msb("up -d --wait").expect(0);
    let script = |script: &str| {
        let mut command = env.command();
        command.args(["exec", "-e", "MORE=yes", "db", "sh", "-c", script]);
        env.run(&mut command)
    };
    let ran = script("echo $LEVEL $FROM_IMAGE $MORE; echo oops >&2; exit 7").expect(7);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("one yes yes\n", "oops\n"));
    script("kill -9 $$").expect(137);
    env.msb("exec db no-such-program").expect(127);
    env.msb("exec check true").expect(1);
    env.msb("exec nobody true").expect(1);

    let input = env.project().join("input");
    std::fs::write(&input, "through\n".repeat(100_000)).unwrap();
    let mut command = env.command();
    command.args(["exec", "db", "cat"]).stdin(std::fs::File::open(&input).unwrap());
    let ran = env.run(&mut command).expect(0);
    assert_eq!(ran.stdout.len(), 800_000);
    assert!(ran.stdout.lines().all(|line| line == "through"));
}

#[test]
fn stop_start_restart_rm() {
    let env = shop();
    env.msb("up -d --wait").expect(0);
    env.msb("stop web").expect(0);
    assert_eq!(env.row("web").status.as_str(), "stopped");
    let id = env.row("web").id;
    env.msb("rm db").expect(1);
    env.msb("start web").expect(0);
    assert_eq!((env.row("web").status.as_str(), env.row("web").id), ("running", id));
    let before = env.row("web").run;
    env.msb("restart web -t 1").expect(0);
    assert_ne!(env.row("web").run, before);
    env.msb("stop").expect(0);
    expect![[r#"
        [
            "check stopped",
            "db stopped",
            "web stopped",
        ]
    "#]]
    .assert_debug_eq(&env.statuses());
    env.msb("rm web").expect(0);
    assert_eq!(env.rows().len(), 2);
    env.msb("up -d --wait").expect(0);
    assert_eq!(env.rows().len(), 3);
}

#[test]
fn a_job_that_fails_stops_its_dependents() {
    let env = shop();
    env.write("Sandboxfile", &SHOP.replace("echo checked", "echo went wrong; exit 3"));
    let ran = env.msb("up -d").expect(5);
    assert!(ran.stderr.contains("went wrong"), "{}", ran.stderr);
    assert!(ran.stderr.contains("exit code 3"), "{}", ran.stderr);
    assert!(env.statuses().contains(&"check stopped".to_owned()));
    assert!(!env.statuses().iter().any(|s| s.ends_with("running")), "{:?}", env.statuses());
    env.write("Sandboxfile", SHOP);
    env.msb("up -d --wait").expect(0);
}

#[test]
fn a_service_that_ends_before_it_is_healthy_fails_its_dependents() {
    let env = shop();
    let probe = "exec = [\"false\"], interval = \"1h\"";
    let text = SHOP.replace("echo ready; exec sleep 100000", "echo too early; exit 4");
    env.write("Sandboxfile", &text.replace("exec = [\"true\"], interval = \"100ms\"", probe));
    for command in ["up -d", "up -d --wait"] {
        let ran = env.msb(command).expect(5);
        assert!(ran.stderr.contains("too early"), "{}", ran.stderr);
        assert!(ran.stderr.contains("exit code 4"), "{}", ran.stderr);
        assert!(!env.statuses().iter().any(|s| s.ends_with("running")), "{:?}", env.statuses());
    }
}

#[test]
fn a_wait_that_takes_too_long_is_4() {
    let env = shop();
    env.write("Sandboxfile", &SHOP.replace("echo checked", "exec sleep 100000"));
    env.msb("up -d --wait --wait-timeout 300ms").expect(4);
}

#[test]
fn an_orphan_is_named_and_removed_when_asked() {
    let env = shop();
    env.msb("up -d --wait").expect(0);
    let cut = SHOP.split("[sandbox.web]").next().unwrap();
    env.write("Sandboxfile", cut);
    let ran = env.msb("up -d").expect(0);
    assert!(ran.stderr.contains("web"), "{}", ran.stderr);
    assert_eq!(env.rows().len(), 3);
    env.msb("up -d --remove-orphans -y").expect(0);
    assert_eq!(env.rows().len(), 2);
}

#[test]
fn attached_up_prints_the_logs_until_all_has_ended() {
    let env = Environment::new();
    env.write(
        "Sandboxfile",
        "[defaults]\nimage = \"./image\"\nkind = \"job\"\n\
         [sandbox.a]\ncmd = [\"echo\", \"from a\"]\n\
         [sandbox.b]\ncmd = [\"echo\", \"from b\"]\ndepends_on = { a = \"completed\" }\n",
    );
    let ran = env.msb("up").expect(0);
    assert_eq!(ran.stdout, "a | from a\nb | from b\n");
}
