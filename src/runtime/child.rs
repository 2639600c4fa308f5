//! Starts a VM process, and holds it by its pidfd.
#![allow(clippy::disallowed_methods, reason = "this module starts processes")]

mod fork;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::runtime::jail::{self, OUTCOME_LEN, Plan};
use crate::runtime::report::{Report, read_to_end};
use crate::runtime::{JailReport, Passed, Vm, VmCommand, VmExit, VmLinks, WaitFuture};
use fork::{ERRNO_LEN, Pipes, fork};

/// Descriptors of the child are below this number, what it needs until exec is above.
const FLOOR: i32 = 64;
/// How long the set-up of a child may take. It takes milliseconds; a kernel's library that is on a
/// file system that hangs takes for ever. Whoever started this supervisor waits longer.
const SETUP_LIMIT: Duration = Duration::from_secs(20);

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Child {
    pid: u32,
    start_time: u64,
    pidfd: OwnedFd,
    jail: JailReport,
    exit: Mutex<Option<VmExit>>,
}

/// All that a child needs between fork and exec.
struct Prepared {
    program: CString,
    argv: Pointers,
    envp: Pointers,
    /// What becomes descriptor 0, 1, 2 and so on.
    fds: Vec<(OwnedFd, i32)>,
    plan: Plan,
    /// Where the program reports on its own set-up.
    report: Option<OwnedFd>,
}

/// Strings and the terminated array of pointers to them that exec wants.
struct Pointers {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

// SAFETY: the pointers point into strings that are owned, never changed, and move along.
unsafe impl Send for Pointers {}

/// Starts `command`. `confined` decides whether it gets namespaces of its own.
pub(super) fn spawn(command: VmCommand, links: VmLinks, confined: bool) -> io::Result<Child> {
    let mut prepared = prepare(&command, &links, confined)?;
    let program = command.program;
    drop(links);
    on_spawner(move || start(&mut prepared, SETUP_LIMIT))?.map_err(|error| named(&program, error))
}

/// A copy of `fd` with a number that no descriptor of a child has, closed at exec.
pub(super) fn out_of_the_way(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, FLOOR)?)
}

/// Runs `job` on the one thread that forks.
///
/// `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, not the process: a worker of a
/// runtime or a test thread would take the VM with it. This thread never ends.
fn on_spawner<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    type Job = Box<dyn FnOnce() + Send>;
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = match SPAWNER.get() {
        Some(spawner) => spawner,
        None => {
            let (sender, jobs) = mpsc::channel::<Job>();
            thread::Builder::new().name("vm-spawner".to_owned()).spawn(move || {
                for job in jobs {
                    job();
                }
            })?;
            SPAWNER.get_or_init(|| Mutex::new(sender))
        }
    };
    let (answer, answered) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || {
        let _ = answer.send(job());
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send(job).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())
}

fn prepare(command: &VmCommand, links: &VmLinks, confined: bool) -> io::Result<Prepared> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut fds = vec![
        (out_of_the_way(&null)?, 0),
        (out_of_the_way(&links.console)?, 1),
        (out_of_the_way(&links.console)?, 2),
    ];
    let mut report = None;
    for passed in &command.fds {
        let fd = match &passed.what {
            Passed::Agent => out_of_the_way(&links.agent)?,
            Passed::Files => {
                let files = links.files.as_ref();
                out_of_the_way(files.ok_or_else(|| io::Error::other("no link for files"))?)?
            }
            Passed::Console => out_of_the_way(&links.console)?,
            Passed::Disk(disk) => {
                let access = if disk.readonly { OFlags::RDONLY } else { OFlags::RDWR };
                let file = rustix::fs::open(&disk.path, access | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|error| named(&disk.path, error.into()))?;
                out_of_the_way(&file)?
            }
            Passed::Config(text) => {
                let mut file = File::from(memfd_create(c"config", MemfdFlags::CLOEXEC)?);
                file.write_all(text.as_bytes())?;
                file.rewind()?;
                out_of_the_way(&file)?
            }
            Passed::Report => {
                let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
                report = Some(ours);
                out_of_the_way(&theirs)?
            }
        };
        if passed.number <= 2 || passed.number >= FLOOR {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "descriptor number"));
        }
        fds.push((fd, passed.number));
    }
    let plan = if confined { Plan::confined(command)? } else { Plan::open()? };
    let argv = [command.program.as_os_str()]
        .into_iter()
        .chain(command.args.iter().map(OsString::as_os_str));
    let env: Vec<OsString> = command
        .env
        .iter()
        .map(|(name, value)| {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            pair
        })
        .collect();
    Ok(Prepared {
        program: CString::new(command.program.as_os_str().as_bytes())?,
        argv: Pointers::new(argv)?,
        envp: Pointers::new(env.iter().map(OsString::as_os_str))?,
        fds,
        plan,
        report,
    })
}

fn start(prepared: &mut Prepared, limit: Duration) -> io::Result<Child> {
    let deadline = Instant::now() + limit;
    let (report, low) = pipe_with(PipeFlags::CLOEXEC)?;
    let report_in = out_of_the_way(&low)?;
    drop(low);
    let (low, mapped) = pipe_with(PipeFlags::CLOEXEC)?;
    let pipes = Pipes { report: report_in, wait: out_of_the_way(&low)?, mapped };
    drop(low);
    let (pid, pidfd) = fork(prepared, pipes)?;
    let mut child =
        Child { pid, start_time: 0, pidfd, jail: JailReport::default(), exit: Mutex::new(None) };
    let told = read_to_end(&report, OUTCOME_LEN + ERRNO_LEN, deadline)?;
    if told.len() < OUTCOME_LEN {
        return Err(io::Error::other("the process ended before it was set up"));
    }
    let (outcome, failure) = told.split_at(OUTCOME_LEN);
    if let Ok(errno) = failure.try_into().map(i32::from_ne_bytes) {
        return Err(io::Error::from_raw_os_error(errno));
    }
    child.jail = jail::report(outcome);
    prepared.plan.accept(&child.jail)?;
    child.start_time = start_time(pid)?;
    // Its own end must be the only one, or the end of the report never comes.
    prepared.fds.clear();
    if let Some(report) = prepared.report.take() {
        let report = Report::receive(&report, deadline)?;
        report.error.map_or(Ok(()), |error| Err(io::Error::other(error)))?;
        if let Some(why) = report.filter {
            jail::not_filtered(&mut child.jail, why);
            prepared.plan.accept(&child.jail)?;
        }
    }
    Ok(child)
}

impl Pointers {
    fn new<'a>(strings: impl Iterator<Item = &'a OsStr>) -> io::Result<Self> {
        let strings: Vec<CString> =
            strings.map(|text| CString::new(text.as_bytes())).collect::<Result<_, _>>()?;
        let pointers = strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { _strings: strings, pointers })
    }
}

impl Child {
    /// Its end, if it has ended; reaps it.
    fn try_wait(&self) -> io::Result<Option<VmExit>> {
        self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Waits for its end.
    pub(super) fn end(&self) -> io::Result<VmExit> {
        self.reap(WaitIdOptions::EXITED)?.ok_or_else(|| io::Error::other("it has not ended"))
    }

    fn reap(&self, options: WaitIdOptions) -> io::Result<Option<VmExit>> {
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if exit.is_none() {
            let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
            *exit = status.as_ref().map(exit_of);
        }
        Ok(*exit)
    }
}

impl Vm for Child {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn start_time(&self) -> u64 {
        self.start_time
    }

    fn jail(&self) -> &JailReport {
        &self.jail
    }

    fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn wait(&self) -> WaitFuture<'_> {
        Box::pin(async move {
            // A duplicate each time: a descriptor registers once with one runtime.
            let pidfd = self.pidfd.try_clone()?;
            // SAFETY: the descriptor is owned by the `AsyncFd` and closed after it is deregistered.
            let ended = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
            loop {
                if let Some(exit) = self.try_wait()? {
                    return Ok(exit);
                }
                ended.readable().await?.clear_ready();
            }
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Ok(None) = self.try_wait() {
            let _ = self.kill();
            let _ = self.reap(WaitIdOptions::EXITED);
        }
    }
}

fn exit_of(status: &WaitIdStatus) -> VmExit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => VmExit::Code(code),
        (None, Some(signal)) => VmExit::Signal(signal),
        (None, None) => VmExit::Signal(0),
    }
}

/// When process `pid` was started, in clock ticks since boot.
///
/// Fails when there is no such process, or `/proc` cannot be read.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|error| named(Path::new(&path), error))?;
    // The second field is the name in parentheses, which may hold anything; the 22nd is wanted.
    stat.rsplit_once(')')
        .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, path))
}

/// Puts `path` in front of the text of `error`.
fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::links::Console;
    use crate::runtime::{HostLinks, PassedFd, Role};

    const REPORT_FD: i32 = 3;

    /// Runs a script in the place of a VMM, and gives its console too.
    fn run(script: &str, limit: Duration) -> (io::Result<Child>, HostLinks) {
        let command = VmCommand {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: Vec::new(),
            fds: vec![PassedFd { number: REPORT_FD, what: Passed::Report }],
            reads: Vec::new(),
            writes: Vec::new(),
            growth: 0,
            devices: Vec::new(),
            sandbox: "test".to_owned(),
            require_jail: false,
            role: Role::Vm,
        };
        let (links, host) = VmLinks::pair(Console::Socket, false).unwrap();
        let mut prepared = prepare(&command, &links, false).unwrap();
        (on_spawner(move || start(&mut prepared, limit)).unwrap(), host)
    }

    #[test]
    fn a_report_is_waited_for_and_believed() {
        let said = |script| run(script, SETUP_LIMIT).0.map(drop).map_err(|e| e.to_string());
        assert_eq!(said("echo {} >&3"), Ok(()));
        assert_eq!(said("echo '{\"error\": \"no\"}' >&3"), Err("no".to_owned()));
        assert_eq!(said("exit 0"), Err("it ended while it was set up".to_owned()));
    }

    #[test]
    fn a_process_that_never_ends_its_report_is_ended() {
        let begun = Instant::now();
        let (ran, host) = run("echo {} >&3; while :; do :; done", Duration::from_millis(300));
        assert_eq!(ran.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < SETUP_LIMIT);
        // It had the console's other end.
        assert_eq!(rustix::io::read(&host.console, &mut [0; 1]), Ok(0));
    }
}
