//! System call filters: what is not listed fails with `EPERM`.
//!
//! Each is compiled once per process, for a VM:
//! - [`program`] for a whole VM process, from just before exec. It must allow what any QEMU and the
//!   start of libkrun need, one exec among it. No filter can count: exec stays possible until the
//!   VMM closes it, QEMU by its own `-sandbox spawn=deny` before it builds the machine, libkrun's
//!   process by the second filter. What could be executed in between are the system's programs,
//!   under the same filter and in the same jail.
//! - [`guest`] for a process that is about to run a guest with libkrun: no exec, no further
//!   filters, no file that is made or emptied.
//!
//! and for a file server: [`program`], which adds to that of a VM what is done with files, and
//! [`server`] when it begins to serve: no exec, and no devices are made.
//!
//! In both there are threads but no processes, and descriptors only of files: no socket of any
//! family is made, connected or bound. Calls that came after Linux 5.0 fail with `ENOSYS`, for which
//! their users are prepared: `clone3`, whose flags a filter cannot see, `io_uring`, which it cannot
//! see into, and those that do not exist yet.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use rustix::io::Errno;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
    apply_filter_all_threads, sock_filter,
};

use crate::runtime::Role;

/// The type byte of `ioctl` requests to KVM.
const KVM_REQUESTS: u64 = 0xAE00;
const REQUEST_TYPE: u64 = 0xFF00;
/// Stands for the process's own id, which is known when the filter is installed.
const OWN_PID: u32 = 0x7AB1_E51D;
/// A compiled filter is shorter.
const MAX_INSTRUCTIONS: usize = 2048;

/// Calls for both, whatever their arguments.
#[rustfmt::skip]
const PLAIN: &[i64] = &[
    // Files that are open, and what is known of those that are not.
    libc::SYS_read, libc::SYS_write, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_readv,
    libc::SYS_writev, libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2,
    libc::SYS_close, libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_readlinkat, libc::SYS_faccessat,
    libc::SYS_faccessat2, libc::SYS_getcwd, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_fallocate, libc::SYS_ftruncate, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_fadvise64,
    // Sockets that were inherited.
    libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_recvmsg, libc::SYS_sendmsg,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_shutdown,
    // Waiting.
    libc::SYS_ppoll, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_eventfd2, libc::SYS_timerfd_create, libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime, libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_futex,
    libc::SYS_sched_yield, libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect,
    libc::SYS_madvise, libc::SYS_membarrier,
    // Signals to itself, clocks.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack, libc::SYS_clock_gettime, libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    // Itself and its threads.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_getaffinity,
    libc::SYS_getcpu, libc::SYS_getrusage, libc::SYS_uname,
    libc::SYS_sysinfo, libc::SYS_getrandom, libc::SYS_exit, libc::SYS_exit_group,
];

/// Further ones for any program.
#[rustfmt::skip]
const PROGRAM: &[i64] = &[
    libc::SYS_execve, libc::SYS_seccomp,
    libc::SYS_openat, libc::SYS_close_range, libc::SYS_getdents64, libc::SYS_flock,
    libc::SYS_sync_file_range, libc::SYS_copy_file_range,
    libc::SYS_sendfile, libc::SYS_splice, libc::SYS_memfd_create, libc::SYS_pipe2,
    libc::SYS_recvmmsg, libc::SYS_sendmmsg,
    libc::SYS_pselect6, libc::SYS_epoll_pwait2, libc::SYS_signalfd4, libc::SYS_futex_waitv,
    libc::SYS_msync, libc::SYS_mincore, libc::SYS_mbind, libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigpending, libc::SYS_timer_create,
    libc::SYS_timer_settime, libc::SYS_timer_gettime, libc::SYS_timer_getoverrun,
    libc::SYS_timer_delete, libc::SYS_setitimer, libc::SYS_getitimer, libc::SYS_times,
    libc::SYS_getppid, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_getgroups,
    libc::SYS_getpgid, libc::SYS_getsid, libc::SYS_capget, libc::SYS_set_tid_address,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler, libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min, libc::SYS_getpriority, libc::SYS_umask,
];

/// For a file server, as long as it serves and before. `mknodat` is not among them: its arguments
/// count.
#[rustfmt::skip]
const FILES: &[i64] = &[
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_getdents64, libc::SYS_mkdirat,
    libc::SYS_unlinkat, libc::SYS_renameat2, libc::SYS_linkat, libc::SYS_symlinkat,
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_utimensat,
    libc::SYS_truncate, libc::SYS_copy_file_range, libc::SYS_getxattr, libc::SYS_setxattr,
    libc::SYS_listxattr, libc::SYS_removexattr, libc::SYS_fchdir,
];

/// Older forms of the above, which only some processors have: for both, and for any program.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD: (&[i64], &[i64]) = (
    &[
        libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_dup2,
        libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_eventfd, libc::SYS_time,
    ],
    &[
        libc::SYS_open, libc::SYS_getdents, libc::SYS_pipe, libc::SYS_select,
        libc::SYS_epoll_create, libc::SYS_signalfd, libc::SYS_getpgrp, libc::SYS_getrlimit,
        libc::SYS_alarm, libc::SYS_pause, libc::SYS_arch_prctl,
    ],
);
#[cfg(not(target_arch = "x86_64"))]
const OLD: (&[i64], &[i64]) = (&[], &[]);

/// Flags of `open` that make or empty files, which running a guest never needs.
const CREATING: i32 = libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);

/// Commands of `fcntl` by which the kernel signals other processes.
const OWNERS: [i32; 3] = [libc::F_SETOWN, F_SETSIG, F_SETOWN_EX];
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

/// Requests to devices and terminals beside those to KVM. Not among them: `TIOCSTI`, which types
/// into a terminal.
const REQUESTS: [u64; 15] = [
    libc::TCGETS,
    libc::TCSETS,
    libc::TCSETSW,
    libc::TCSETSF,
    libc::TIOCGWINSZ,
    libc::FIONREAD,
    libc::FIONBIO,
    libc::FIOCLEX,
    libc::FIONCLEX,
    BLKGETSIZE64,
    BLKSSZGET,
    BLKPBSZGET,
    BLKDISCARD,
    BLKZEROOUT,
    BLKFLSBUF,
];
const BLKFLSBUF: u64 = 0x1261;
const BLKSSZGET: u64 = 0x1268;
const BLKDISCARD: u64 = 0x1277;
const BLKPBSZGET: u64 = 0x127B;
const BLKZEROOUT: u64 = 0x127F;
const BLKGETSIZE64: u64 = 0x8008_1272;

/// Options of `prctl`. Not among them: `PR_SET_PDEATHSIG`, with which a process outlives its
/// parent, and `PR_SET_PTRACER`.
const OPTIONS: [i32; 13] = [
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_GET_SECCOMP,
    libc::PR_CAPBSET_READ,
    libc::PR_SET_TIMERSLACK,
    libc::PR_GET_TIMERSLACK,
    libc::PR_MCE_KILL,
    libc::PR_SET_THP_DISABLE,
    libc::PR_GET_THP_DISABLE,
    libc::PR_SET_VMA,
];

/// The first call that came after Linux 5.0; from it on all processors have the same numbers.
const RECENT: i64 = libc::SYS_pidfd_send_signal;
/// Every namespace.
const SPACES: i32 = super::ALL;

/// A compiled filter.
#[derive(Debug)]
pub(in crate::runtime) struct Filter(Vec<sock_filter>);

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Compiled = OnceLock<Result<Filter, Errno>>;

/// What a process does while a filter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It starts to be a VM.
    Program,
    /// It runs a guest.
    Guest,
    /// It starts to be a file server.
    ServerProgram,
    /// It serves files.
    Server,
}

impl Phase {
    /// Whether it loads a program.
    fn starts(self) -> bool {
        matches!(self, Self::Program | Self::ServerProgram)
    }

    fn serves(self) -> bool {
        matches!(self, Self::ServerProgram | Self::Server)
    }
}

/// The filter of a process in a jail from exec on.
pub(super) fn program(role: &Role) -> Result<&'static Filter, Errno> {
    static PROGRAM: Compiled = OnceLock::new();
    static SERVER: Compiled = OnceLock::new();
    let (once, phase) = match role {
        Role::Vm => (&PROGRAM, Phase::Program),
        Role::FileServer(_) => (&SERVER, Phase::ServerProgram),
    };
    once.get_or_init(|| compile(phase)).as_ref().map_err(|error| *error)
}

/// The filter of a process that is about to run a guest with libkrun.
pub(in crate::runtime) fn guest() -> Result<&'static Filter, Errno> {
    static GUEST: Compiled = OnceLock::new();
    GUEST.get_or_init(|| compile(Phase::Guest)).as_ref().map_err(|error| *error)
}

/// The filter of a process that is about to serve files.
pub(in crate::runtime) fn server() -> Result<&'static Filter, Errno> {
    static SERVER: Compiled = OnceLock::new();
    SERVER.get_or_init(|| compile(Phase::Server)).as_ref().map_err(|error| *error)
}

impl Filter {
    /// Installs it for this thread and those that it starts. Runs between fork and exec.
    pub(super) fn install(&self) -> Result<(), Errno> {
        self.apply(apply_filter)
    }

    /// Installs it for every thread of this process. `no_new_privs` is set as a side effect.
    pub(in crate::runtime) fn install_for_all_threads(&self) -> io::Result<()> {
        self.apply(apply_filter_all_threads).map_err(io::Error::from)
    }

    fn apply(
        &self,
        install: impl Fn(&[sock_filter]) -> Result<(), seccompiler::Error>,
    ) -> Result<(), Errno> {
        let mut copy = [const { step(0, 0, 0, 0) }; MAX_INSTRUCTIONS];
        let copy = copy.get_mut(..self.0.len()).ok_or(Errno::TOOBIG)?;
        copy.clone_from_slice(&self.0);
        let pid = rustix::process::getpid().as_raw_pid().unsigned_abs();
        for step in copy.iter_mut().filter(|step| step.k == OWN_PID) {
            step.k = pid;
        }
        install(copy).map_err(|error| match error {
            seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => {
                Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
            }
            _ => Errno::INVAL,
        })
    }
}

fn compile(phase: Phase) -> Result<Filter, Errno> {
    let build = || -> Result<Filter, BackendError> {
        let rules = rules(phase)?;
        let recent: Vec<i64> = rules.range(RECENT..).map(|(call, _)| *call).collect();
        let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let processor = std::env::consts::ARCH.try_into()?;
        let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, processor)?;
        let listed: Vec<sock_filter> = filter.try_into()?;
        Ok(Filter(absent(&recent).into_iter().chain(listed).collect()))
    };
    // Only where the processor is unknown to the compiler.
    build().map_err(|_| Errno::NOTSUP)
}

/// The start of a filter: recent calls that are not among `listed` do not exist.
#[allow(clippy::cast_possible_truncation, reason = "codes of instructions are below 256")]
fn absent(listed: &[i64]) -> Vec<sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const IF_FROM: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let number = |call: i64| u32::try_from(call).unwrap_or(u32::MAX);
    // The number is what a filter is given first.
    let mut steps = vec![step(LOAD, 0, 0, 0)];
    for (left, call) in (1_u8..).zip(listed.iter().rev()) {
        steps.insert(1, step(IF_EQUAL, left + 1, 0, number(*call)));
    }
    steps.push(step(IF_FROM, 0, 1, number(RECENT)));
    steps.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()));
    steps
}

const fn step(code: u16, if_true: u8, if_false: u8, k: u32) -> sock_filter {
    sock_filter { code, jt: if_true, jf: if_false, k }
}

/// What is allowed in `phase`.
fn rules(phase: Phase) -> Result<Rules, BackendError> {
    let further: [&[i64]; 2] = if phase.starts() { [PROGRAM, OLD.1] } else { [&[], &[]] };
    let files = if phase.serves() { FILES } else { &[] };
    let plain = [PLAIN, OLD.0, files].into_iter().chain(further).flatten();
    let mut rules: Rules = plain.map(|call| (*call, Vec::new())).collect();
    if phase.serves() {
        let types = [libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK];
        let made = types.map(|kind| masked(2, u64::from(libc::S_IFMT), u64::from(kind)));
        rules.insert(libc::SYS_mknodat, made.into_iter().collect::<Result<_, _>>()?);
    }
    if phase == Phase::ServerProgram {
        // It may write files of any size, and must not fill memory with them.
        rules.remove(&libc::SYS_memfd_create);
        rules.insert(libc::SYS_socketpair, any_of(0, [u64::from(libc::AF_UNIX.unsigned_abs())])?);
    }
    // Threads, and no namespaces.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let mask = thread | u64::from(SPACES.unsigned_abs());
    rules.insert(libc::SYS_clone, vec![masked(0, mask, thread)?]);
    if phase == Phase::Guest {
        let creating = u64::from(CREATING.unsigned_abs());
        rules.insert(libc::SYS_openat, vec![masked(2, creating, 0)?]);
    }
    let others = OWNERS
        .into_iter()
        .map(|command| SeccompCondition::new(1, Dword, Ne, u64::from(command.unsigned_abs())));
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(others.collect::<Result<_, _>>()?)?]);
    // The limits of this process only.
    rules.insert(libc::SYS_prlimit64, any_of(0, [0])?);
    rules.insert(libc::SYS_tgkill, any_of(0, [u64::from(OWN_PID)])?);
    // The first is the one that a processor of the guest makes at every exit.
    let mut requests = vec![masked(1, REQUEST_TYPE, KVM_REQUESTS)?];
    requests.extend(any_of(1, REQUESTS)?);
    if !phase.serves() {
        rules.insert(libc::SYS_ioctl, requests);
    }
    let options = OPTIONS.into_iter().chain(phase.starts().then_some(libc::PR_SET_SECCOMP));
    let options = options.map(|option| u64::from(option.unsigned_abs()));
    rules.insert(libc::SYS_prctl, any_of(0, options)?);
    Ok(rules)
}

fn masked(index: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, Dword, MaskedEq(mask), value)?])
}

/// One rule for each of the values that argument `index` may have.
fn any_of(
    index: u8,
    values: impl IntoIterator<Item = u64>,
) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |value| SeccompRule::new(vec![SeccompCondition::new(index, Dword, Eq, value)?]);
    values.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::runtime::jail::last_errno;

    #[test]
    fn filters_compile_and_fit() {
        for phase in [Phase::Program, Phase::Guest, Phase::ServerProgram, Phase::Server] {
            let filter = compile(phase).unwrap();
            assert!(filter.0.len() < MAX_INSTRUCTIONS, "{}", filter.0.len());
            let patched = filter.0.iter().filter(|step| step.k == OWN_PID).count();
            assert_eq!(patched, 1);
        }
    }

    /// A system call that has no use for arguments until it is allowed.
    fn call(number: i64) -> Option<i32> {
        // SAFETY: null pointers and zeros, which the kernel checks.
        let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
        (result < 0).then(|| io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    #[test]
    fn a_process_that_runs_a_guest_can_do_little() {
        // A filter is a thread's own, and inherited by those that it starts.
        let confined = || {
            guest().unwrap().install().unwrap();
            let denied = Some(libc::EPERM);
            for number in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_seccomp,
                libc::SYS_memfd_create,
                libc::SYS_socket,
                libc::SYS_ptrace,
                libc::SYS_kill,
                libc::SYS_mount,
                libc::SYS_unlinkat,
            ] {
                assert_eq!(call(number), denied, "{number}");
            }
            for number in [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_openat2, 10_000] {
                assert_eq!(call(number), Some(libc::ENOSYS), "{number}");
            }
            // Recent and listed: the kernel looks at the arguments.
            assert_eq!(call(libc::SYS_faccessat2), Some(libc::EFAULT));
            assert_eq!(call(libc::SYS_clone), denied);
            // SAFETY: plain numbers.
            let own = |fd, command| unsafe { libc::fcntl(fd, command, 1) };
            assert_eq!((own(0, libc::F_SETOWN), own(0, F_SETSIG)), (-1, -1));
            assert_eq!(last_errno(), Errno::PERM);
            assert!(own(0, libc::F_GETFL) >= 0);
            assert!(File::create("/tmp/made").is_err_and(|e| e.raw_os_error() == denied));
            assert!(File::open("/dev/null").is_ok());
            assert!(UnixStream::pair().is_err());
            thread::spawn(|| call(libc::SYS_execve)).join().unwrap() == denied
        };
        assert!(thread::spawn(confined).join().unwrap());
        assert!(UnixStream::pair().is_ok());
    }
}
