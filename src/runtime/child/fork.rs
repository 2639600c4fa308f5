//! A child from clone to exec: where nothing may be allocated.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::{FLOOR, Prepared};

/// Length of the number of an error on a pipe.
pub(super) const ERRNO_LEN: usize = 4;

/// Between parent and child until exec.
pub(super) struct Pipes {
    /// The child tells what became of it.
    pub(super) report: OwnedFd,
    /// The child waits here for `Plan::map` in the parent, for its error number or 0.
    pub(super) wait: OwnedFd,
    /// The parent's end of that.
    pub(super) mapped: OwnedFd,
}

/// Clones with the most isolation that is granted.
pub(super) fn fork(prepared: &Prepared, pipes: Pipes) -> io::Result<(u32, OwnedFd)> {
    let mut refused = 0;
    for &flags in prepared.plan.clone_flags() {
        let mut pidfd: libc::c_int = -1;
        // SAFETY: like fork: no memory is shared, the child runs on its copy of this stack. It
        // calls nothing but `in_child`, which neither allocates nor returns.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                i64::from(flags | libc::CLONE_PIDFD | libc::SIGCHLD),
                std::ptr::null_mut::<libc::c_void>(),
                &raw mut pidfd,
                std::ptr::null_mut::<libc::c_int>(),
                0_usize,
            )
        };
        match pid {
            0 => in_child(prepared, &pipes, flags, refused),
            1.. => {
                // SAFETY: the kernel made this descriptor for us.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                let pid = u32::try_from(pid).map_err(io::Error::other)?;
                let mapped = prepared.plan.map(pid, flags);
                let code = mapped.err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EPERM));
                // A child that is gone tells by its report.
                let _ = rustix::io::write(&pipes.mapped, &code.to_ne_bytes());
                return Ok((pid, pidfd));
            }
            _ => refused = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EPERM),
        }
    }
    Err(io::Error::from_raw_os_error(refused))
}

/// The child from clone to exec. Everything here is async-signal-safe.
fn in_child(prepared: &Prepared, pipes: &Pipes, flags: i32, refused: i32) -> ! {
    let fail = |error: Errno| {
        let _ = rustix::io::write(&pipes.report, &error.raw_os_error().to_ne_bytes());
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::_exit(127) }
    };
    let _ = rustix::process::setsid();
    // So that no directory is kept busy.
    let _ = rustix::process::chdir(c"/");
    let mapped = wait_for_parent(pipes);
    // SAFETY: plain numbers and a valid, empty signal set; handlers of the parent must not run
    // here, and a blocked or ignored signal would be inherited by the program.
    unsafe {
        for fd in 0..FLOOR {
            libc::close(fd);
        }
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::umask(0o077);
    }
    for (fd, number) in &prepared.fds {
        // SAFETY: both are numbers; the target is closed, or about to be replaced.
        if unsafe { libc::dup2(fd.as_raw_fd(), *number) } < 0 {
            fail(Errno::BADF);
        }
    }
    close_at_exec(libc::CLOSE_RANGE_CLOEXEC);
    let outcome = prepared.plan.enter(flags, refused, mapped);
    let _ = rustix::io::write(&pipes.report, &outcome.encode());
    if prepared.plan.refuses(&outcome) {
        // SAFETY: as in `fail`.
        unsafe { libc::_exit(127) }
    }
    // SAFETY: the program and both arrays are terminated and owned by `prepared`.
    unsafe {
        libc::execve(
            prepared.program.as_ptr(),
            prepared.argv.pointers.as_ptr(),
            prepared.envp.pointers.as_ptr(),
        );
        fail(Errno::from_raw_os_error(*libc::__errno_location()))
    }
}

/// Marks all descriptors from [`FLOOR`] on, as `close_range` does with `flag`. Kernels before 5.11
/// do not know it, and old container runtimes forbid the call: then one by one. Async-signal-safe.
fn close_at_exec(flag: libc::c_uint) {
    // SAFETY: plain numbers and a valid structure.
    unsafe {
        if libc::syscall(libc::SYS_close_range, FLOOR, libc::c_uint::MAX, flag) == 0 {
            return;
        }
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        for fd in FLOOR..i32::try_from(limit.rlim_cur).unwrap_or(i32::MAX) {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// How the parent's part of the jail came out. Async-signal-safe.
fn wait_for_parent(pipes: &Pipes) -> Result<(), Errno> {
    // SAFETY: a copy of the parent's descriptor that nothing here uses. With it the end of the
    // parent would not be the end of the pipe.
    unsafe { libc::close(pipes.mapped.as_raw_fd()) };
    let mut code = [0; ERRNO_LEN];
    match rustix::io::read(&pipes.wait, &mut code)? {
        ERRNO_LEN if code == [0; ERRNO_LEN] => Ok(()),
        ERRNO_LEN => Err(Errno::from_raw_os_error(i32::from_ne_bytes(code))),
        // SAFETY: ends this process without running anything: its parent is gone.
        _ => unsafe { libc::_exit(1) },
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::runtime::child::out_of_the_way;

    #[test]
    fn descriptors_are_marked_without_the_call_for_all() {
        const UNKNOWN: libc::c_uint = 1 << 31;
        let file = File::open("/dev/null").unwrap();
        let fd = out_of_the_way(&file).unwrap();
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
        close_at_exec(UNKNOWN);
        assert_eq!(rustix::io::fcntl_getfd(&fd).unwrap(), rustix::io::FdFlags::CLOEXEC);
    }
}
