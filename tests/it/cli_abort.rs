//! Attached `up` that ends with one of its sandboxes: `--exit-code-from`, `--abort-on-exit` and
//! `--abort-on-failure`.

use crate::environment::Environment;
use crate::terminal::Group;

/// A service, a job that completes, and a test that says something and ends with `code`.
fn shop(code: &str) -> Environment {
    let env = Environment::new();
    env.write(
        "Sandboxfile",
        &format!(
            r#"
name = "shop"
[defaults]
image = "./image"
[sandbox.db]
cmd = ["/bin/sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; sleep 100000 & wait"]
[sandbox.check]
kind = "job"
cmd = ["true"]
[sandbox.test]
kind = "job"
cmd = ["/bin/sh", "-c", "echo tested; {code}"]
depends_on = {{ db = "started", check = "completed" }}
"#
        ),
    );
    env
}

const ALL_STOPPED: [&str; 3] = ["check stopped", "db stopped", "test stopped"];

#[test]
fn up_ends_with_the_exit_code_of_a_sandbox() {
    for (script, code) in [("exit 3", 3), ("exit 0", 0), ("kill -9 $$$$", 137)] {
        let env = shop(script);
        let ran = env.msb("up --exit-code-from test").expect(code);
        assert!(ran.stdout.contains(" | tested\n"), "all that it wrote is there: {}", ran.stdout);
        assert!(ran.stderr.contains(&format!("test has ended (exit {code})")), "{}", ran.stderr);
        assert_eq!(env.statuses(), ALL_STOPPED);
        // One that has completed runs again, and no other job does.
        let ran = env.msb("up --exit-code-from test").expect(code);
        assert!(ran.stdout.contains(" | tested\n"), "{}", ran.stdout);
    }
}

/// It was there before, and ends while the rest is brought up.
#[test]
fn one_that_ends_before_it_is_followed_counts() {
    let env = Environment::new();
    let app = r#"
name = "shop"
[defaults]
image = "./image"
[sandbox.app]
cmd = ["/bin/sh", "-c", "echo $$$$ > DIR/pid; until [ -e DIR/end ]; do sleep 0.02; done; exit 5"]
[sandbox.late]
cmd = ["sleep", "100000"]
hooks.post_start = [["/bin/sh", "-c", "touch DIR/end; while kill -0 $$(cat DIR/pid); do sleep 0.02; done"]]
"#;
    env.write("Sandboxfile", &app.replace("DIR", env.project().to_str().unwrap()));
    env.msb("up -d app").expect(0);
    let ran = env.msb("up --exit-code-from app").expect(5);
    assert!(ran.stderr.contains("app has ended (exit 5)"), "{}", ran.stderr);
    assert_eq!(env.statuses(), ["app stopped", "late stopped"]);
}

#[test]
fn what_ran_before_runs_on() {
    let env = shop("exit 4");
    env.msb("up -d db").expect(0);
    env.msb("up --exit-code-from test").expect(4);
    assert_eq!(env.statuses(), ["check stopped", "db running", "test stopped"]);
    let run = env.row("check").run;
    env.msb("up --exit-code-from test").expect(4);
    assert_eq!(env.row("check").run, run, "a job that has completed is not run again for it");
}

#[test]
fn another_end_is_never_a_success_of_the_sandbox_that_is_waited_for() {
    for (end, code) in [("exit 6", 143), ("exit 0", 143)] {
        let env = shop("exec sleep 100000");
        let file = std::fs::read_to_string(env.project().join("Sandboxfile")).unwrap();
        let ends =
            format!("[\"/bin/sh\", \"-c\", \"while ! test -e go; do sleep 0.02; done; {end}\"]");
        let file: Vec<String> = file
            .lines()
            .map(|line| match line.contains("trap") {
                true => format!("cmd = {ends}\nworkdir = \"{}\"", env.project().display()),
                false => line.to_owned(),
            })
            .collect();
        env.write("Sandboxfile", &file.join("\n"));
        let mut up = Group::run(env.command().args(["up", "--exit-code-from", "test"]));
        up.says("tested");
        env.write("go", "");
        let (ended, said) = up.end();
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains("sandbox db has ended"), "{said}");
        assert_eq!(env.statuses(), ALL_STOPPED);
    }
}

#[test]
fn up_ends_with_the_first_that_ends_or_fails() {
    let env = shop("exit 5");
    env.msb("up --abort-on-exit").expect(5);
    assert_eq!(env.statuses(), ALL_STOPPED);
    env.msb("up --abort-on-failure").expect(5);
    assert_eq!(env.statuses(), ALL_STOPPED);
    // A job that completes ends nothing, a service that does ends everything.
    let env = shop("exit 0");
    let service = std::fs::read_to_string(env.project().join("Sandboxfile")).unwrap();
    let mut up = Group::run(env.command().args(["up", "--abort-on-container-exit"]));
    up.says("tested");
    up.says("db    | up");
    env.msb("stop db").expect(0);
    let (code, said) = up.end();
    assert_eq!(code, Some(0), "{said}");
    // Nor does either where only a failure would.
    let cut = service.replace("sleep 100000 & wait", "exit 0").replace("kind = \"job\"\n", "");
    env.write("Sandboxfile", &cut.replace("completed", "started"));
    env.msb("up --abort-on-failure").expect(0);
}

#[test]
fn a_dependent_that_could_not_be_started_is_no_obstacle() {
    let env = shop("exit 7");
    let file = std::fs::read_to_string(env.project().join("Sandboxfile")).unwrap();
    env.write(
        "Sandboxfile",
        &format!("{file}[sandbox.web]\ncmd = [\"sleep\", \"1000\"]\ndepends_on = {{ test = \"completed\" }}\n"),
    );
    let ran = env.msb("up --exit-code-from test").expect(7);
    assert!(ran.stderr.contains("exit code 7"), "{}", ran.stderr);
    assert!(!env.statuses().iter().any(|status| status.ends_with("running")));
    env.msb("up --exit-code-from nothing").expect(64);
    env.msb("up -d --exit-code-from test").expect(64);
    env.msb("up --wait --abort-on-exit").expect(64);
}
