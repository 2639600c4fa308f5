//! A file server's process: how it is started, and what it begins with.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::stdio::stderr;

use crate::runtime::jail::{Filter, server_filter};
use crate::runtime::report::Report;
use crate::runtime::{Passed, PassedFd, Role, Shared, Vm, VmCommand, VmLinks, child};

const CONFIG_FD: RawFd = 3;
const REPORT_FD: RawFd = 4;
const STREAM_FD: RawFd = 5;
/// The longest configuration, in bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// Starts `program` with `word` as its argument, in a jail with what is shared, and returns when
/// it is ready to serve on `stream`. It is told `config`, and dies with this process.
///
/// Errors say what could not be set up.
pub fn spawn_file_server(
    program: &Path,
    word: &str,
    config: String,
    shares: Vec<Shared>,
    stream: OwnedFd,
    (sandbox, require_jail): (&str, bool),
) -> io::Result<Box<dyn Vm>> {
    let passed = |number, what| PassedFd { number, what };
    let command = VmCommand {
        program: program.to_owned(),
        args: vec![word.into(), sandbox.into()],
        env: Vec::new(),
        fds: vec![
            passed(CONFIG_FD, Passed::Config(config)),
            passed(REPORT_FD, Passed::Report),
            passed(STREAM_FD, Passed::Agent),
        ],
        reads: Vec::new(),
        growth: 0,
        writes: Vec::new(),
        devices: Vec::new(),
        sandbox: sandbox.to_owned(),
        require_jail,
        role: Role::FileServer(shares),
    };
    // Its last words are lines in the log of this process.
    let console = rustix::io::fcntl_dupfd_cloexec(stderr(), 0)?;
    let links = VmLinks { agent: stream, console, files: None };
    Ok(Box::new(child::spawn(command, links, true)?))
}

/// What a file server's process was started with.
#[derive(Debug)]
pub struct Inherited {
    config: String,
    report: File,
    stream: OwnedFd,
}

impl Inherited {
    /// Takes it over; once per process. `None` when nothing was passed: somebody else started it.
    pub fn take() -> Option<Self> {
        // SAFETY: plain numbers.
        let is_open = |fd: RawFd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
        if ![CONFIG_FD, REPORT_FD, STREAM_FD].into_iter().all(is_open) {
            return None;
        }
        // SAFETY: the supervisor passed them, and nothing else in this process uses them.
        let (config, report, stream) = unsafe {
            (
                File::from_raw_fd(CONFIG_FD),
                File::from_raw_fd(REPORT_FD),
                OwnedFd::from_raw_fd(STREAM_FD),
            )
        };
        let mut text = String::new();
        config.take(MAX_CONFIG).read_to_string(&mut text).ok()?;
        Some(Self { config: text, report, stream })
    }

    /// What `config` was.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Gives up every system call that serving does not need, and reports: `ready` or why not.
    /// The stream, when files can be served.
    pub fn begin(self, ready: Result<(), String>, require_jail: bool) -> Result<OwnedFd, String> {
        let filter = server_filter().map_err(io::Error::from);
        let filter = filter.and_then(Filter::install_for_all_threads);
        let filter = filter.err().map(|error| error.to_string());
        Report { error: ready.as_ref().err().cloned(), filter: filter.clone() }.send(self.report);
        ready?;
        match filter {
            Some(why) if require_jail => Err(why),
            _ => Ok(self.stream),
        }
    }
}
