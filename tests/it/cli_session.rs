//! Commands in sandboxes from the command line: `exec` without a terminal, `shell`, `attach`, `kill`,
//! and leaving a command by its detach keys.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;

use crate::environment::{Environment, supervisor_process, wait_for_end};
use crate::terminal::{Group, Terminal};

/// One sandbox with this workload, running.
fn one(cmd: &str) -> Environment {
    let env = Environment::new();
    let file = format!("name = \"p\"\n[sandbox.db]\nimage = \"./image\"\ncmd = {cmd}\n");
    env.write("Sandboxfile", &file);
    env.msb("up -d --wait").expect(0);
    env
}

const IDLE: &str = r#"["sleep", "100000"]"#;

fn is_alive(pid: &str) -> bool {
    Path::new(&format!("/proc/{}", pid.trim())).exists()
}

#[test]
fn exec_has_a_time_limit_and_limits() {
    let env = one(IDLE);
    // The longer ones are for a machine that is too busy to begin the command in the shorter ones.
    let heard = ["200ms", "3s", "20s"].into_iter().any(|limit| {
        let args = ["exec", "--timeout", limit, "db", "sh", "-c", "echo early; exec sleep 1000"];
        let ran = env.run(env.command().args(args)).expect(124);
        assert!(ran.stderr.contains(&format!("killed after {limit}")), "{}", ran.stderr);
        ran.stdout == "early\n"
    });
    assert!(heard, "what it wrote is shown");
    let args = ["exec", "--rlimit", "nofile=20:30", "db", "sh", "-c", "ulimit -n; ulimit -Hn"];
    assert_eq!(env.run(env.command().args(args)).expect(0).stdout, "20\n30\n");
    env.msb("exec --rlimit nofile db true").expect(64);
    env.msb("exec -t db true").expect(64);
    env.msb("exec db no-such-program").expect(127);
    env.msb("exec db /etc/passwd").expect(126);
}

#[test]
fn exec_is_interrupted_whatever_is_read() {
    let env = one(IDLE);
    let script = "trap 'exit 9' INT; echo up; while :; do sleep 0.01; done";
    let endless = std::fs::File::open("/dev/zero").unwrap();
    let mut exec =
        Group::run(env.command().args(["exec", "db", "sh", "-c", script]).stdin(endless));
    exec.says("up");
    exec.interrupt();
    assert_eq!(exec.end().0, Some(9));
}

#[test]
fn exec_leaves_a_command_running() {
    let env = one(IDLE);
    let file = env.project().join("pid");
    let script = format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000", file.display());
    env.run(env.command().args(["exec", "-d", "db", "sh", "-c", &script])).expect(0);
    let pid = loop {
        match std::fs::read_to_string(&file) {
            Ok(pid) => break pid,
            Err(_) => std::thread::yield_now(),
        }
    };
    assert!(is_alive(&pid));
    env.msb("exec -d db no-such-program").expect(127);
    env.msb("stop").expect(0);
    assert!(!is_alive(&pid), "it ends with the sandbox");
}

#[test]
fn shell_is_the_sandboxs_own() {
    let env = one(IDLE);
    let mut terminal = Terminal::run(env.command().args(["shell", "db"]), 24, 80);
    terminal.press("echo $((6 * 7)) $0\r");
    terminal.shows("42 /bin/sh");
    terminal.press("exit 3\r");
    assert_eq!(terminal.end(), (Some(3), true));
    let ran = env.run(env.command().args(["shell", "db", "-c", "echo $0 | tr a-z A-Z"]));
    assert_eq!(ran.expect(0).stdout, "/BIN/SH\n");
    // Without a terminal it reads what it is given.
    let mut command = env.command();
    let mut child =
        command.args(["shell", "db"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo piped; exit 4\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(4), &b"piped\n"[..]));
    env.write("Sandboxfile", "name = \"p\"\n[sandbox.db]\nimage = \"./image\"\ncmd = [\"sleep\", \"1000\"]\nshell = \"/bin/true\"\n");
    env.msb("up -d").expect(0);
    env.msb("shell db -c false").expect(0);
}

#[test]
fn detach_keys_leave_a_command_running() {
    let env = one(IDLE);
    for (flags, keys) in [(&[][..], "\x10\x11"), (&["--detach-keys", "ctrl-x,y"], "\x18y")] {
        let mut command = env.command();
        command.arg("exec").args(flags).args(["db", "sh", "-c", "echo $$ up; exec cat"]);
        let mut terminal = Terminal::run(&command, 24, 80);
        let pid = terminal.until(" up");
        // A key of the sequence that another follows is the command's.
        terminal.press("\x10a\r");
        terminal.shows("^Pa");
        terminal.press(keys);
        terminal.shows("detached");
        assert_eq!(terminal.end(), (Some(0), true));
        assert!(is_alive(&pid), "{pid} runs on");
    }
}

#[test]
fn attach_follows_the_workload_to_its_end() {
    let script = r#"["/bin/sh", "-c", "trap 'echo int' INT; trap 'echo bye; exit 5' USR1; echo up; while :; do sleep 0.05; done"]"#;
    let env = one(script);
    let mut attach = Group::run(env.command().args(["attach", "--tail", "9", "db"]));
    attach.says("up");
    attach.interrupt();
    assert_eq!(attach.end().0, Some(130));
    assert_eq!(env.statuses(), ["db running"]);
    let mut attach = Group::run(env.command().args(["attach", "--sig-proxy", "db", "--tail=9"]));
    attach.says("up");
    attach.interrupt();
    attach.says("int");
    env.msb("kill -s USR1 db").expect(0);
    attach.says("bye");
    assert_eq!(attach.end().0, Some(5));
    env.msb("attach db").expect(1);
}

#[test]
fn attach_can_be_left_where_nobody_takes_its_signals() {
    let env = Environment::new();
    env.write("Sandboxfile", "name = \"p\"\n[sandbox.db]\nimage = \"./image\"\nentrypoint = []\n");
    env.msb("up -d --wait").expect(0);
    let attach = Group::run(env.command().args(["attach", "--sig-proxy", "db"]));
    attach.handles_interrupts();
    attach.interrupt();
    assert_eq!(attach.end().0, Some(130));
    assert_eq!(env.statuses(), ["db running"]);
}

#[test]
fn kill_ends_at_once_what_runs() {
    let env = one(r#"["/bin/sh", "-c", "trap '' TERM INT HUP; sleep 100000 & wait"]"#);
    env.msb("kill --signal NONSENSE").expect(64);
    env.msb("kill web").expect(1);
    let ran = env.msb("kill").expect(0);
    ran.ends_with("sandbox db: killed");
    assert_eq!(env.statuses(), ["db stopped"]);
    env.msb("kill").expect(0).ends_with("nothing runs");
    env.msb("kill db").expect(1);
}

#[test]
fn drain_lets_commands_end_and_begins_none() {
    let env = one(r#"["/bin/sh", "-c", "sleep 100000 & wait"]"#);
    env.msb("drain web").expect(1);
    let file = env.project().join("end");
    let script =
        format!("echo up; until [ -e {} ]; do sleep 0.02; done; echo done", file.display());
    let mut exec = Group::run(env.command().args(["exec", "db", "--", "/bin/sh", "-c", &script]));
    exec.says("up");
    env.msb("drain --no-wait").expect(0).ends_with("sandbox db: draining");
    let refused = env.msb("exec db -- /bin/true").expect(1);
    assert!(refused.stderr.contains("drain"), "{}", refused.stderr);
    let drain = env.command().arg("drain").stderr(Stdio::piped()).spawn().unwrap();
    std::fs::write(&file, "").unwrap();
    exec.says("done");
    assert_eq!(exec.end().0, Some(0));
    let output = drain.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(env.statuses(), ["db stopped"]);
    env.msb("drain").expect(0).ends_with("nothing runs");
}

const MODEL: &str = r#"
name = "p"
[defaults]
image = "./image"
[sandbox.db]
cmd = ["sleep", "100000"]
[sandbox.app]
cmd = ["sh", "-c", "echo default; exit 6"]
env = { A = "b" }
depends_on = ["db"]
"#;

#[test]
fn run_has_a_sandbox_of_its_own_that_is_removed() {
    let env = Environment::new();
    env.write("Sandboxfile", MODEL);
    let args = ["run", "--no-deps", "-e", "C=d", "app", "sh", "-c", "cat; echo $A $C; exit 7"];
    assert_eq!(env.run(env.command().args(args)).expect(7).stdout, "b d\n");
    assert_eq!(env.statuses(), [""; 0], "nothing is left, and what it depends on is as it was");
    assert_eq!(env.msb("run app").expect(6).stdout, "default\n");
    assert_eq!(env.statuses(), ["db running"]);
    env.msb("run app no-such-program").expect(127);
    let args = ["run", "--entrypoint", "echo", "app", "x", "-y"];
    assert_eq!(env.run(env.command().args(args)).expect(0).stdout, "x -y\n");
    env.msb("run -d app true").expect(64);
    env.msb("run nothing").expect(64);
    assert_eq!(env.statuses(), ["db running"]);
    assert_eq!(env.leftovers(), [""; 0]);
}

#[test]
fn what_a_killed_run_leaves_is_removed() {
    let env = Environment::new();
    env.write("Sandboxfile", MODEL);
    let mut run = Terminal::run(
        env.command().args(["run", "app", "sh", "-c", "echo $((6 * 7)); cat"]),
        24,
        80,
    );
    run.shows("42");
    let rows = env.rows();
    let name = &rows.iter().find(|row| row.name.starts_with("app-run-")).unwrap().name;
    // Nobody else takes it for its own.
    let up = env.msb("up -d db").expect(0);
    assert!(!up.stderr.contains("declared"), "{}", up.stderr);
    let supervisor = supervisor_process(&env, name);
    run.kill(Signal::KILL);
    wait_for_end(&supervisor);
    assert_eq!(env.statuses().len(), 2);
    env.msb("stop db").expect(0);
    assert_eq!(env.statuses(), ["db stopped"]);
}

const SCRIPTS: &str = r#"
name = "p"
[sandbox.db]
image = "./image"
cmd = ["sleep", "100000"]
env = { A = "b" }
scripts.say = """
echo $$0 $$A "$$@"
cat
exit 6
"""
scripts.tell = "hostname"
"#;

#[test]
fn run_runs_a_script_where_its_sandbox_runs_and_in_one_like_it_elsewhere() {
    let env = Environment::new();
    env.write("Sandboxfile", SCRIPTS);
    // It does not run: one like it does.
    let ran = env.msb("run db say x").expect(6);
    assert!(ran.stdout.ends_with("/scripts/say b x\n"), "{}", ran.stdout);
    assert_eq!(env.statuses(), [""; 0]);
    env.msb("run -d db say").expect(64);

    env.msb("up -d").expect(0);
    let run = env.row("db").run;
    let mut child = env.command();
    let args = ["run", "-e", "A=c", "db", "say", "-x", "y z"];
    let mut child = child.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with("/scripts/say c -x y z\ntyped\n"), "{said}");
    assert_eq!(output.status.code(), Some(6));
    let args = ["exec", "db", "sh", "-c", "say </dev/null"];
    env.run(env.command().args(args)).expect(6);
    env.msb("run -d db say").expect(0);
    assert_eq!(env.row("db").run, run, "it is the sandbox itself");
    assert_eq!(env.statuses(), ["db running"]);
    // A word that is no script, and a program that only looks like one.
    env.msb("run db no-such-script").expect(127);
    env.msb("run --entrypoint say db x").expect(6);

    // What the sandbox was given last is what runs.
    env.write("Sandboxfile", &SCRIPTS.replace("exit 6", "exit 7").replace("tell", "other"));
    let ran = env.msb("run db say").expect(6);
    assert!(ran.stderr.contains("`say` has been edited"), "{}", ran.stderr);
    env.msb("run db other")
        .expect(1)
        .ends_with("hint: `msb up db` brings it what the Sandboxfile says");
    env.msb("up -d").expect(0);
    let ran = env.msb("run db say").expect(7);
    assert!(!ran.stderr.contains("edited"), "{}", ran.stderr);
    env.msb("run db other").expect(0);
    env.msb("exec db tell").expect(127);
    assert_eq!(env.row("db").run, run, "the edit of scripts needs no new run");
}
