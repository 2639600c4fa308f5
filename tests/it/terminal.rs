//! A pseudo-terminal with a program on it, and programs that run beside a test.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

/// Far longer than anything takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A program whose controlling terminal the test holds the other end of.
pub(crate) struct Terminal {
    ours: OwnedFd,
    child: Child,
    said: String,
    before: Termios,
}

impl Terminal {
    /// Runs `command` on a terminal of this size.
    pub(crate) fn run(command: &Command, rows: u16, cols: u16) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        tcsetwinsize(&ours, size(rows, cols)).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let before = tcgetattr(&ours).unwrap();
        let theirs =
            || -> Stdio { OpenOptions::new().read(true).write(true).open(&name).unwrap().into() };
        // Makes the terminal its own, then becomes the program.
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        for (name, value) in command.get_envs() {
            value.map(|value| setsid.env(name, value));
        }
        let dir = command.get_current_dir().unwrap();
        let child = setsid
            .current_dir(dir)
            .stdin(theirs())
            .stdout(theirs())
            .stderr(theirs())
            .spawn()
            .expect("setsid is missing: apt-get install util-linux");
        Self { ours, child, said: String::new(), before }
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        tcsetwinsize(&self.ours, size(rows, cols)).unwrap();
    }

    /// Presses keys.
    pub(crate) fn press(&self, keys: &str) {
        let written = rustix::io::write(&self.ours, keys.as_bytes()).unwrap();
        assert_eq!(written, keys.len());
    }

    /// Waits until `text` appears after what was waited for before.
    #[track_caller]
    pub(crate) fn shows(&mut self, text: &str) {
        self.until(text);
    }

    /// [`Terminal::shows`]; what came before it.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) -> String {
        while !self.said.contains(text) {
            assert!(self.read(), "the program ended without `{text}`: {:?}", self.said);
        }
        let at = self.said.find(text).unwrap();
        let before = self.said[..at].to_owned();
        self.said.drain(..at + text.len());
        before
    }

    /// Reads some; false once no process has the terminal.
    #[track_caller]
    fn read(&mut self) -> bool {
        let Some(bytes) = self.bytes() else { return false };
        self.said.push_str(&String::from_utf8_lossy(&bytes));
        true
    }

    /// What is written next, as it is; none once no process has the terminal.
    #[track_caller]
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        let limit = Timespec::try_from(LIMIT).unwrap();
        let wait = || poll(&mut [PollFd::new(&self.ours, PollFlags::IN)], Some(&limit));
        let ready = rustix::io::retry_on_intr(wait).unwrap();
        assert_eq!(ready, 1, "silence after {:?}", self.said);
        let mut buffer = [0; 4096];
        let Ok(length @ 1..) = rustix::io::read(&self.ours, &mut buffer) else { return None };
        Some(buffer[..length].to_vec())
    }

    /// Whether keys go to the program as they are, without an echo.
    pub(crate) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.ours).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    pub(crate) fn kill(&self, signal: Signal) {
        kill_process(pid(&self.child), signal).unwrap();
    }

    /// Waits for the end: all that was shown.
    pub(crate) fn all(mut self) -> String {
        while self.read() {}
        std::mem::take(&mut self.said)
    }

    /// Waits for the end: the code, and whether the terminal is as it was at first.
    pub(crate) fn end(mut self) -> (Option<i32>, bool) {
        while self.read() {}
        let after = tcgetattr(&self.ours).unwrap();
        let same = after.local_modes == self.before.local_modes
            && after.input_modes == self.before.input_modes
            && after.output_modes == self.before.output_modes
            && after.control_modes == self.before.control_modes;
        (self.child.wait().unwrap().code(), same)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// A program in a process group of its own whose lines, of both streams, a test waits for.
pub(crate) struct Group {
    child: Child,
    lines: Receiver<String>,
    said: String,
}

impl Group {
    pub(crate) fn run(command: &mut Command) -> Self {
        let mut child =
            command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if send.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Self { child, lines, said: String::new() }
    }

    /// Waits for a line that contains `text`, wherever it comes.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        while !self.said.lines().any(|line| line.contains(text)) {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => writeln!(self.said, "{line}").unwrap(),
                Err(error) => panic!("{error}: no `{text}` in\n{}", self.said),
            }
        }
    }

    /// Waits until the program handles Ctrl-C.
    pub(crate) fn handles_interrupts(&self) {
        let status = format!("/proc/{}/status", self.child.id());
        let handles = || {
            let status = std::fs::read_to_string(&status).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << (Signal::INT.as_raw() - 1) != 0
        };
        while !handles() {
            std::thread::yield_now();
        }
    }

    /// Ctrl-C reaches the whole group.
    pub(crate) fn interrupt(&self) {
        kill_process_group(pid(&self.child), Signal::INT).unwrap();
    }

    /// Waits for the end: the code and every line.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            writeln!(self.said, "{line}").unwrap();
        }
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.said))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
