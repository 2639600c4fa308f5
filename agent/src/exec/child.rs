//! Fork and exec. Everything is prepared before the fork: between it and the exec the child may
//! call nothing but system calls.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::pipe::{PipeFlags, pipe_with};

/// The highest signal number.
const LAST_SIGNAL: c_int = 64;
/// The length of the kernel's `sigaction`, in words: handler, flags, restorer and mask.
const KERNEL_SIGACTION: usize = 4;
/// The length of the kernel's signal set, in bytes.
const SIGSET_LEN: usize = 8;

/// What the child does before it becomes the command, and the command.
pub(super) struct Command {
    /// Arguments, the first one being the program as it was asked for.
    pub(super) argv: Vec<CString>,
    /// `NAME=value`.
    pub(super) env: Vec<CString>,
    /// Paths to try, in order.
    pub(super) candidates: Vec<CString>,
    /// Directories to make before `cwd` is entered, parents first.
    pub(super) make_dirs: Vec<CString>,
    /// The working directory.
    pub(super) cwd: CString,
    /// User, group and supplementary groups; none keeps the agent's.
    pub(super) identity: Option<(u32, u32, Vec<u32>)>,
    /// Resource limits.
    pub(super) limits: Vec<(u32, libc::rlimit)>,
    /// Whether standard input is a terminal that becomes the controlling one.
    pub(super) tty: bool,
}

/// How far the child got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Stdio,
    Limit,
    Workdir,
    Identity,
    /// No candidate could be executed.
    Exec,
    /// A candidate exists, but not the interpreter or loader that it names.
    Interpreter,
}

/// Why there is no command: the stage, and what the kernel said.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    pub(super) error: io::Error,
}

/// The length of a failure on the pipe.
pub(super) const FAILURE_LEN: usize = 5;

impl Failure {
    /// Reads what the child wrote.
    pub(super) fn decode(bytes: [u8; FAILURE_LEN]) -> Self {
        let [stage, e0, e1, e2, e3] = bytes;
        let stages = [
            Stage::Stdio,
            Stage::Limit,
            Stage::Workdir,
            Stage::Identity,
            Stage::Exec,
            Stage::Interpreter,
        ];
        let stage = stages.get(usize::from(stage)).copied().unwrap_or(Stage::Exec);
        let error = io::Error::from_raw_os_error(i32::from_le_bytes([e0, e1, e2, e3]));
        Self { stage, error }
    }
}

/// Forks. Returns the child's pid and the pipe on which it reports a failure; an end of stream
/// there means that the command runs. The descriptors become 0, 1 and 2 of the child.
pub(super) fn spawn(command: &Command, stdio: &[OwnedFd; 3]) -> io::Result<(i32, OwnedFd)> {
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC)?;
    let argv = pointers(&command.argv);
    let env = pointers(&command.env);
    let child = Child {
        command,
        argv: &argv,
        env: &env,
        stdio: [stdio[0].as_raw_fd(), stdio[1].as_raw_fd(), stdio[2].as_raw_fd()],
        report: report.as_raw_fd(),
    };
    // SAFETY: the sets are valid; with all signals blocked no handler of the agent runs in the
    // child. The child calls nothing that allocates or locks, and never returns.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, &mut before);
        let pid = libc::fork();
        if pid == 0 {
            child.run();
        }
        let error = io::Error::last_os_error();
        libc::sigprocmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid < 0 {
            return Err(error);
        }
        pid
    };
    Ok((pid, reports))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

struct Child<'a> {
    command: &'a Command,
    argv: &'a [*const c_char],
    env: &'a [*const c_char],
    stdio: [RawFd; 3],
    report: RawFd,
}

impl Child<'_> {
    /// The life of the child.
    ///
    /// # Safety
    ///
    /// To be called in a forked child only, with all signals blocked.
    unsafe fn run(&self) -> ! {
        // SAFETY: as the caller promises; every pointer is to memory prepared before the fork.
        unsafe {
            let (stage, errno) = match self.set_up() {
                Err(stage) => (stage, *libc::__errno_location()),
                Ok(()) => self.exec(),
            };
            let mut bytes = [stage as u8, 0, 0, 0, 0];
            bytes[1..].copy_from_slice(&errno.to_le_bytes());
            libc::write(self.report, bytes.as_ptr().cast(), bytes.len());
            libc::_exit(127)
        }
    }

    /// # Safety
    ///
    /// As [`Child::run`].
    unsafe fn set_up(&self) -> Result<(), Stage> {
        let ok = |result: c_int, stage| if result < 0 { Err(stage) } else { Ok(()) };
        // SAFETY: plain system calls with pointers to memory prepared before the fork.
        unsafe {
            // Not through the C library, which keeps two signals for itself: the agent may have
            // inherited them as ignored.
            let default = [0_u64; KERNEL_SIGACTION];
            for signal in 1..=LAST_SIGNAL {
                let none = ptr::null_mut::<u64>();
                libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, SIGSET_LEN);
            }
            ok(libc::setsid(), Stage::Stdio)?;
            if self.command.tty {
                ok(libc::ioctl(self.stdio[0], libc::TIOCSCTTY, 0), Stage::Stdio)?;
            }
            for (target, fd) in (0..).zip(self.stdio) {
                ok(libc::dup2(fd, target), Stage::Stdio)?;
            }
            for (resource, limit) in &self.command.limits {
                ok(libc::setrlimit(*resource, limit), Stage::Limit)?;
            }
            libc::umask(0o022);
            for dir in &self.command.make_dirs {
                libc::mkdir(dir.as_ptr(), 0o755);
            }
            ok(libc::chdir(self.command.cwd.as_ptr()), Stage::Workdir)?;
            self.take_identity()?;
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
            // Each of the agent's descriptors has the flag already: this is the second lock.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As [`Child::run`].
    unsafe fn take_identity(&self) -> Result<(), Stage> {
        let Some((uid, gid, groups)) = &self.command.identity else { return Ok(()) };
        // SAFETY: plain system calls; `groups` outlives them. The C library's wrappers, which
        // synchronise threads, are not for a forked child.
        let results = unsafe {
            [
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid),
                libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid),
            ]
        };
        if results.contains(&-1) { Err(Stage::Identity) } else { Ok(()) }
    }

    /// Tries each candidate as `execvp(3)` does; returns only when none can be executed.
    ///
    /// # Safety
    ///
    /// As [`Child::run`].
    unsafe fn exec(&self) -> (Stage, c_int) {
        let mut worst = (Stage::Exec, libc::ENOENT);
        for candidate in &self.command.candidates {
            // SAFETY: the arrays end in a null pointer and outlive the call.
            let errno = unsafe {
                libc::execve(candidate.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
                *libc::__errno_location()
            };
            match errno {
                // SAFETY: a plain system call.
                libc::ENOENT if unsafe { exists(candidate) } => {
                    return (Stage::Interpreter, errno);
                }
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => worst = (Stage::Exec, errno),
                _ => return (Stage::Exec, errno),
            }
        }
        worst
    }
}

/// # Safety
///
/// None beyond that of a system call: it may be called in a forked child.
unsafe fn exists(path: &CStr) -> bool {
    // SAFETY: the path ends in a NUL byte.
    unsafe { libc::access(path.as_ptr(), libc::F_OK) == 0 }
}
