//! What is to be run, and how.

use std::collections::BTreeMap;
use std::time::Duration;

use msb_protocol::{ExecRequest, Rlimit, StdinMode, Tty};

/// Default of [`ExecConfig::max_output`]: 64 MiB.
const DEFAULT_MAX_OUTPUT: usize = 64 << 20;

/// A command, and how it is run. What is not said is the sandbox's.
///
/// ```
/// use msb::client::{ExecConfig, Stdin};
/// use std::time::Duration;
///
/// let config = ExecConfig::new("sort")
///     .args(["-r"])
///     .env("LC_ALL", "C")
///     .stdin(Stdin::Bytes(b"b\na\n".to_vec()))
///     .timeout(Duration::from_secs(5));
/// ```
#[derive(Clone, Debug)]
pub struct ExecConfig {
    request: ExecRequest,
    stdin: Stdin,
    timeout: Option<Duration>,
    max_output: usize,
}

/// What the standard input of a command is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// `/dev/null`: it reads the end at once. With a terminal: the terminal, on which nothing is
    /// typed.
    #[default]
    Null,
    /// What [`super::ExecSink`] writes.
    Pipe,
    /// These bytes, then the end.
    Bytes(Vec<u8>),
}

/// What is the host's business of a session.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) stdin: Stdin,
    pub(super) timeout: Option<Duration>,
    pub(super) max_output: usize,
}

impl ExecConfig {
    /// Runs `program`; one without a `/` is looked up in `PATH`.
    pub fn new(program: impl Into<String>) -> Self {
        let request = ExecRequest { argv: vec![program.into()], ..ExecRequest::default() };
        Self { request, stdin: Stdin::default(), timeout: None, max_output: DEFAULT_MAX_OUTPUT }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.request.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.request.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Runs it in this directory, an absolute path.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<String>) -> Self {
        self.request.cwd = Some(cwd.into());
        self
    }

    /// Runs it as this user: `user[:group]`, names or numbers.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.request.user = Some(user.into());
        self
    }

    /// Sets a variable, over the sandbox's.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.env.insert(name.into(), value.into());
        self
    }

    /// Sets variables, over the sandbox's.
    #[must_use]
    pub fn envs(mut self, env: BTreeMap<String, String>) -> Self {
        self.request.env.extend(env);
        self
    }

    /// Kills its process group after this time; see [`super::ExecError::TimedOut`]. The time counts
    /// from the opening of the session.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// What its standard input is; default [`Stdin::Null`].
    #[must_use]
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Gives it a terminal of this size, of type `xterm`. Standard error is part of standard output
    /// then.
    #[must_use]
    pub fn tty(self, rows: u16, cols: u16) -> Self {
        self.tty_of_type(rows, cols, "xterm")
    }

    /// [`ExecConfig::tty`] with another `TERM`.
    #[must_use]
    pub fn tty_of_type(mut self, rows: u16, cols: u16, term: impl Into<String>) -> Self {
        self.request.tty = Some(Tty { rows, cols, term: term.into() });
        self
    }

    /// Limits a resource of each of its processes: `nofile`, `nproc`, `as` and so on, as in
    /// `setrlimit(2)`. `None` is no limit.
    #[must_use]
    pub fn rlimit(mut self, name: impl Into<String>, soft: Option<u64>, hard: Option<u64>) -> Self {
        self.request.rlimits.push(Rlimit { name: name.into(), soft, hard });
        self
    }

    /// The most that is collected of standard output and of standard error, in bytes; default
    /// 64 MiB each. See [`super::ExecError::TooMuchOutput`]. Events are not bounded: they are not
    /// kept.
    #[must_use]
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    pub(super) fn into_request(self) -> (ExecRequest, Settings) {
        let mode = match self.stdin {
            Stdin::Null => StdinMode::Null,
            Stdin::Pipe | Stdin::Bytes(_) => StdinMode::Pipe,
        };
        let Self { request, stdin, timeout, max_output } = self;
        (ExecRequest { stdin: mode, ..request }, Settings { stdin, timeout, max_output })
    }
}
