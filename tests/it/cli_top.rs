//! `msb top` on a terminal, with sandboxes that run.

use rustix::process::Signal;

use crate::environment::{Environment, supervisor_process, wait_for_end};
use crate::terminal::Terminal;

const PAIR: &str = r#"
name = "pair"

[defaults]
image = "./image"

[sandbox.db]
cmd = ["/bin/sh", "-c", "echo db-speaks; exec sleep 100000"]

[sandbox.web]
cmd = ["/bin/sh", "-c", "echo web-speaks; exec sleep 100000"]
"#;

/// Takes the whole terminal, and gives it back.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// Two sandboxes that run.
fn pair() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", PAIR);
    env.msb("up -d --wait").expect(0);
    env
}

/// A dashboard, and what its terminal shows.
struct Top {
    terminal: Terminal,
    /// Bytes that are not shown yet: sequences and characters may be cut.
    rest: Vec<u8>,
    /// Everything that was written.
    all: String,
    cells: Vec<Vec<char>>,
    cursor: (usize, usize),
}

impl Top {
    fn run(env: &Environment, variables: &[(&str, &str)]) -> Self {
        let mut command = env.command();
        command.env("TERM", "xterm").envs(variables.iter().copied()).arg("top");
        let terminal = Terminal::run(&command, 24, 100);
        let cells = vec![vec![' '; 100]; 24];
        Self { terminal, rest: Vec::new(), all: String::new(), cells, cursor: (0, 0) }
    }

    fn resize(&mut self, rows: u16, cols: u16) {
        self.cells = vec![vec![' '; cols.into()]; rows.into()];
        self.terminal.resize(rows, cols);
    }

    /// See [`Terminal::end`].
    fn end(self) -> (Option<i32>, bool) {
        self.terminal.end()
    }

    fn screen(&self) -> String {
        self.cells.iter().map(|row| row.iter().collect::<String>() + "\n").collect()
    }

    /// Waits until what is shown is as wanted.
    #[track_caller]
    fn until(&mut self, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            let Some(bytes) = self.terminal.bytes() else {
                panic!("it ended with\n{}", self.screen())
            };
            self.rest.extend(bytes);
            self.show();
        }
    }

    #[track_caller]
    fn shows(&mut self, text: &str) {
        self.until(|top| top.screen().contains(text));
    }

    /// Waits until a line begins with `name` and contains `text`.
    #[track_caller]
    fn lists(&mut self, name: &str, text: &str) {
        let is_it = |line: &str| line.starts_with(name) && line.contains(text);
        self.until(|top| top.screen().lines().any(is_it));
    }

    /// Shows what is complete: text, cursor positions and clearing; anything else looks like nothing.
    fn show(&mut self) {
        let valid = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8(self.rest[..valid].to_vec()).unwrap();
        let mut shown = 0;
        let mut chars = text.char_indices();
        while let Some((_, c)) = chars.next() {
            if c == '\x1b' {
                let end = |c: char| c.is_ascii_alphabetic();
                let Some(length) = chars.as_str().find(end) else { break };
                let sequence = chars.as_str()[..=length].to_owned();
                chars.nth(length);
                self.obey(&sequence);
            } else {
                self.put(c);
            }
            shown = text.len() - chars.as_str().len();
        }
        self.all.push_str(&text[..shown]);
        self.rest.drain(..shown);
    }

    fn obey(&mut self, sequence: &str) {
        let Some(words) = sequence.strip_prefix('[') else { return };
        let number = |text: &str| text.parse::<usize>().unwrap_or(1) - 1;
        if let Some(at) = words.strip_suffix('H') {
            let (row, col) = at.split_once(';').unwrap_or((at, ""));
            self.cursor = (number(row), number(col));
        } else if words == "2J" || words == "?1049h" {
            self.cells.iter_mut().for_each(|row| row.fill(' '));
        }
    }

    fn put(&mut self, c: char) {
        let (row, col) = self.cursor;
        match c {
            '\n' => self.cursor.0 += 1,
            '\r' => self.cursor.1 = 0,
            c => {
                if let Some(cell) = self.cells.get_mut(row).and_then(|row| row.get_mut(col)) {
                    *cell = c;
                }
                self.cursor.1 += 1;
            }
        }
    }
}

#[test]
fn sandboxes_are_watched_restarted_entered_and_stopped() {
    let env = pair();
    let mut top = Top::run(&env, &[]);
    top.lists("db", "running");
    top.lists("web", "MiB");
    top.shows("log of db");
    top.shows("db-speaks");
    assert!(top.terminal.is_raw());

    top.terminal.press("j");
    top.shows("web-speaks");
    let before = supervisor_process(&env, "web");
    top.terminal.press("r");
    top.until(|top| top.screen().matches("web-speaks").count() == 2);
    wait_for_end(&before);
    top.lists("web", "running");

    top.terminal.press("s");
    top.until(|top| top.all.contains(LEAVE));
    top.terminal.press("echo in-$((40 + 2))\r");
    top.until(|top| top.all.contains("in-42"));
    assert_eq!((top.all.matches(ENTER).count(), top.all.matches(LEAVE).count()), (1, 1));
    top.terminal.press("exit\r");
    top.until(|top| top.all.matches(ENTER).count() == 2);
    top.shows("log of web");
    top.lists("web", "MiB");

    top.resize(10, 40);
    top.lists("web", "running");
    top.shows("web-speaks");
    top.terminal.press("x");
    top.lists("web", "stopped (exi");
    top.terminal.press("S");
    top.lists("web", "running");
    // Something that happens elsewhere.
    env.msb("kill db").expect(0);
    top.lists("db", "stopped");
    top.terminal.press("ks");
    top.shows("db is stopped: `S` starts it");
    top.terminal.press("?");
    top.shows("shell in it");
    assert!(top.terminal.is_raw());
    top.terminal.press("q");
    assert_eq!(top.end(), (Some(0), true));
    assert_eq!(env.statuses(), ["db stopped", "web running"]);
}

#[test]
fn a_supervisor_that_is_killed_is_noticed() {
    let env = pair();
    let mut top = Top::run(&env, &[]);
    top.lists("db", "MiB");
    rustix::process::pidfd_send_signal(supervisor_process(&env, "db"), Signal::KILL).unwrap();
    top.lists("db", "crashed");
    top.terminal.press("\x03");
    assert_eq!(top.end(), (Some(0), true));
}

#[test]
fn what_cannot_be_done_is_told() {
    let env = pair();
    let mut top = Top::run(&env, &[]);
    top.lists("db", "running");
    env.write("Sandboxfile", "nonsense");
    top.terminal.press("x");
    top.shows("stop db: 1 error in the Sandboxfile");
    top.terminal.press("S");
    top.shows("db runs already");
    top.terminal.press("q");
    assert_eq!(top.end(), (Some(0), true));
}

/// By a signal, and by an error of its own.
#[test]
fn the_terminal_is_restored() {
    let env = pair();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut top = Top::run(&env, &[]);
        top.lists("db", "running");
        top.terminal.kill(signal);
        assert_eq!(top.end(), (Some(130), true), "{signal:?}");
    }
    let mut top = Top::run(&env, &[]);
    top.lists("db", "running");
    top.terminal.press("s");
    top.until(|top| top.all.contains(LEAVE));
    top.terminal.kill(Signal::TERM);
    assert_eq!(top.end(), (Some(130), true));

    let mut top = Top::run(&env, &[("FAILPOINTS", "top-draw=1*off->panic(ouch)")]);
    top.until(|top| top.all.contains("ouch"));
    let (left, said) = (top.all.find(LEAVE), top.all.find("ouch"));
    assert!(left.is_some() && left < said, "{:?}", top.all);
    assert_eq!(top.end(), (Some(101), true));
}

#[test]
fn colours_are_for_who_wants_them() {
    let env = pair();
    for (variables, colored) in [(&[][..], true), (&[("NO_COLOR", "1")], false)] {
        let mut top = Top::run(&env, variables);
        top.lists("db", "MiB");
        top.terminal.press("q");
        assert_eq!(top.all.contains(";32m"), colored, "{:?}", top.all);
        assert_eq!(top.end(), (Some(0), true));
    }
}

#[test]
fn without_a_terminal_there_is_another_command() {
    let env = pair();
    let ran = env.msb("top").expect(64);
    assert!(ran.stderr.contains("`msb stats --no-stream`"), "{}", ran.stderr);
    let dumb = Terminal::run(env.command().env("TERM", "dumb").arg("top"), 24, 80);
    assert_eq!(dumb.end(), (Some(64), true));
    let mut missing = Terminal::run(env.command().env("TERM", "xterm").args(["top", "no"]), 24, 80);
    missing.shows("sandbox `no` of project `pair` does not exist");
    assert_eq!(missing.end(), (Some(1), true));
}
