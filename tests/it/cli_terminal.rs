//! Terminals and Ctrl-C: `exec` with a terminal, attached `up`.

use rustix::process::{Signal, kill_process};

use crate::environment::{Environment, hold_lease, supervisor_process, vm_process, wait_for_end};
use crate::terminal::{Group, Terminal};

const ONE: &str = "[sandbox.db]\nimage = \"./image\"\ncmd = [\"sleep\", \"100000\"]\n";

/// One sandbox that runs.
fn one() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", &format!("name = \"p\"\n{ONE}"));
    env.msb("up -d --wait").expect(0);
    env
}

/// `msb exec FLAGS db sh -c SCRIPT` on a terminal.
fn exec(env: &Environment, flags: &[&str], script: &str) -> Terminal {
    let mut command = env.command();
    command.env("TERM", "vt100").arg("exec").args(flags).args(["db", "sh", "-c", script]);
    Terminal::run(&command, 33, 101)
}

#[test]
fn a_command_gets_a_terminal_of_the_same_size_and_its_changes() {
    let env = one();
    let script = "trap 'stty size; exit 7' WINCH; test -t 0 && test -t 1 && test -t 2 && \
                  echo $TERM $(stty size) ready; sleep 100000 & wait";
    let mut terminal = exec(&env, &[], script);
    terminal.shows("vt100 33 101 ready");
    assert!(terminal.is_raw());
    terminal.resize(44, 122);
    terminal.shows("44 122");
    assert_eq!(terminal.end(), (Some(7), true));
}

#[test]
fn keys_reach_the_command() {
    let env = one();
    let script = "trap 'echo interrupted; exit 9' INT; echo ready; read word; echo got $word; \
                  sleep 100000 & wait";
    let mut terminal = exec(&env, &[], script);
    terminal.shows("ready");
    terminal.press("abc\x7fd\r");
    terminal.shows("got abd");
    // Ctrl-C is the command's.
    terminal.press("\x03");
    terminal.shows("interrupted");
    assert_eq!(terminal.end(), (Some(9), true));
    let mut terminal = exec(&env, &[], "echo ready; cat; echo end of input");
    terminal.shows("ready");
    terminal.press("\x04");
    terminal.shows("end of input");
    assert_eq!(terminal.end(), (Some(0), true));
}

#[test]
fn without_a_terminal_where_none_is_wanted() {
    let env = one();
    let mut terminal = exec(&env, &["-T"], "test -t 0 || test -t 1 || echo none; read word");
    terminal.shows("none");
    assert!(!terminal.is_raw());
    terminal.press("word\n");
    assert_eq!(terminal.end(), (Some(0), true));
}

/// However the session ends, the terminal is the user's again.
#[test]
fn the_terminal_is_restored() {
    let env = one();
    let mut terminal = exec(&env, &[], "echo ready; exec sleep 100000");
    terminal.shows("ready");
    assert!(terminal.is_raw());
    // Passed on to the command.
    terminal.kill(Signal::TERM);
    assert_eq!(terminal.end(), (Some(143), true));

    let mut terminal = exec(&env, &[], "echo ready; kill -9 $$");
    terminal.shows("ready");
    assert_eq!(terminal.end(), (Some(137), true));

    let terminal = Terminal::run(env.command().args(["exec", "db", "no-such-program"]), 24, 80);
    assert_eq!(terminal.end(), (Some(127), true));

    let mut terminal = exec(&env, &[], "echo ready; exec sleep 100000");
    terminal.shows("ready");
    rustix::process::pidfd_send_signal(supervisor_process(&env, "db"), Signal::KILL).unwrap();
    terminal.shows("the sandbox ended");
    assert_eq!(terminal.end(), (Some(1), true));
}

const PAIR: &str = r#"
name = "pair"

[defaults]
image = "./image"

[sandbox.db]
cmd = ["/bin/sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; sleep 100000 & wait"]

[sandbox.web]
cmd = ["/bin/sh", "-c", "trap 'echo bye; exit 0' TERM; echo hello; sleep 100000 & wait"]
depends_on = ["db"]
"#;

fn pair() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", PAIR);
    env
}

#[test]
fn the_first_interrupt_of_up_stops_what_it_started() {
    let env = pair();
    let mut up = Group::run(env.command().arg("up"));
    up.says("db  | ready");
    up.says("web | hello");
    let supervisors = ["db", "web"].map(|name| supervisor_process(&env, name));
    up.interrupt();
    let (code, said) = up.end();
    assert_eq!(code, Some(130), "{said}");
    supervisors.iter().for_each(wait_for_end);
    assert_eq!(env.statuses(), ["db stopped", "web stopped"]);
    for name in ["db", "web"] {
        assert_eq!(env.row(name).exit_code, Some(0), "{said}");
    }
    assert_eq!(env.msb("logs --no-log-prefix --tail 1").expect(0).stdout, "bye\nbye\n");
    // The dependent goes first.
    let (web, db) = (said.find("web  stopped"), said.find("db   stopped"));
    assert!(web.is_some() && web < db, "{said}");
}

#[test]
fn the_second_interrupt_of_up_kills() {
    let env = pair();
    let stubborn = "[defaults]\nstop_grace_period = \"1h\"";
    let text = PAIR
        .replace("[defaults]", stubborn)
        .replace("trap 'echo bye; exit 0' TERM", "trap '' TERM");
    env.write("Sandboxfile", &text);
    let mut up = Group::run(env.command().arg("up"));
    up.says("web | hello");
    up.interrupt();
    up.says("web  stopping");
    up.interrupt();
    let (code, said) = up.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(!env.statuses().iter().any(|status| status.ends_with("running")), "{said}");
    env.msb("down").expect(0);
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

#[test]
fn an_interrupt_leaves_alone_what_up_did_not_start() {
    let env = pair();
    env.msb("up -d --wait").expect(0);
    let before = env.rows();
    let mut up = Group::run(env.command().arg("up"));
    up.says("no changes");
    env.msb("exec web true").expect(0);
    up.interrupt();
    let (code, said) = up.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(env.rows().iter().zip(&before).all(|(after, before)| after.run == before.run));
    assert_eq!(env.statuses(), ["db running", "web running"]);
}

#[test]
fn an_interrupt_while_waiting_starts_no_more_and_stops_the_rest() {
    let env = pair();
    let probe = "depends_on = { db = \"healthy\" }";
    let text = PAIR.replace("depends_on = [\"db\"]", probe).replace(
        "[sandbox.web]",
        "healthcheck = { exec = [\"false\"], interval = \"1h\" }\n[sandbox.web]",
    );
    env.write("Sandboxfile", &text);
    let mut up = Group::run(env.command().arg("up"));
    up.says("waiting until healthy");
    up.interrupt();
    let (code, said) = up.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(!env.statuses().iter().any(|status| status.ends_with("running")), "{said}");

    // A VM that dies while it is waited for is a dependency that failed.
    let mut up = Group::run(env.command().args(["up", "-d"]));
    up.says("waiting until healthy");
    kill_process(vm_process(&env, "db").0, Signal::KILL).unwrap();
    let (code, said) = up.end();
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("web  skipped"), "{said}");
    assert_eq!(env.row("db").status.as_str(), "crashed");
}

/// Waiting for another command is given up at once.
#[test]
fn an_interrupt_before_the_first_step_ends_up() {
    let env = pair();
    env.msb("up -d --wait").expect(0);
    let lease = hold_lease(&env, "pair");
    for flags in [&["up", "--replace"][..], &["up", "-d", "--replace"], &["down"]] {
        let mut command = Group::run(env.command().args(flags));
        command.says("waiting for");
        command.interrupt();
        let (code, said) = command.end();
        assert_eq!(code, Some(130), "{said}");
    }
    drop(lease);
    assert_eq!(env.statuses(), ["db running", "web running"]);
}

/// On a terminal, with the key.
#[test]
fn ctrl_c_on_a_terminal_stops_up() {
    let env = pair();
    let mut up = Terminal::run(env.command().env("NO_COLOR", "1").arg("up"), 30, 100);
    up.shows("web | hello");
    up.press("\x03");
    up.shows("stopping; Ctrl-C again kills");
    assert_eq!(up.end(), (Some(130), true));
    assert_eq!(env.statuses(), ["db stopped", "web stopped"]);
}
