//! Helper processes: forks of the agent that block in its place.
//!
//! A fork is cheap in a process of this size, and safe: no other thread of the agent allocates or
//! locks. A helper sees files as the workload does, as root, answers by a socket, and can be killed.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use msb_protocol::mux;
use rustix::process::setsid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// What is passed on at a time, in bytes.
const CHUNK: usize = 2 * mux::PAYLOAD;

/// Why there are no more bytes to pass on.
pub(crate) enum Stopped {
    From,
    To,
}

/// Passes bytes on until either side ends.
pub(crate) async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Stopped {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return Stopped::From,
            Ok(count) => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return Stopped::To;
                }
            }
        }
    }
}

/// Forks a helper that does `work`, which returns whether it is done; the helper's socket and its
/// pid. Of the agent's descriptors it has those in `kept`, all of them above 2.
pub(crate) fn start(
    kept: &[RawFd],
    work: impl FnOnce(&StdUnixStream) -> bool,
) -> io::Result<(UnixStream, i32)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    // SAFETY: the sets are valid; with all signals blocked no handler of the agent runs in the
    // child. No other thread allocates or locks, so that the child may; it never returns.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, &mut before);
        let pid = libc::fork();
        if pid == 0 {
            live(theirs.as_raw_fd(), kept, work);
        }
        let error = io::Error::last_os_error();
        libc::sigprocmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        if pid < 0 {
            return Err(error);
        }
        pid
    };
    Ok((ours, pid))
}

/// The life of a helper.
///
/// # Safety
///
/// To be called in a forked child only, with all signals blocked.
unsafe fn live(socket: RawFd, kept: &[RawFd], work: impl FnOnce(&StdUnixStream) -> bool) -> ! {
    // SAFETY: plain system calls; descriptor 0 is the socket and used nowhere else from here on.
    let socket = unsafe {
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::dup2(socket, 0);
        close_all_but(kept);
        libc::umask(0o022);
        libc::chdir(c"/".as_ptr());
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        OwnedFd::from_raw_fd(0)
    };
    let _ = setsid();
    let is_done = work(&StdUnixStream::from(socket));
    // SAFETY: ends the process without running what the agent wants to be run at its own end.
    unsafe { libc::_exit(i32::from(!is_done)) }
}

/// Closes every descriptor above 2 that is not `kept`.
///
/// # Safety
///
/// Nothing may use what is closed.
unsafe fn close_all_but(kept: &[RawFd]) {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for end in kept.into_iter().chain([u32::MAX]) {
        if first < end {
            // SAFETY: as the caller says; the call takes no pointers.
            unsafe { libc::syscall(libc::SYS_close_range, first, end - 1, 0) };
        }
        first = end.saturating_add(1);
    }
}
