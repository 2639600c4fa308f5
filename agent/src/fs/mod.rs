//! Requests on files: each one by a helper process.
//!
//! ```text
//! stream ◀─ frames as they are ─▶ socket pair ◀─▶ helper: reads and writes files, and blocks
//! ```
//!
//! The agent itself never waits for a disk, so a copy of any size holds up nothing else, and neither
//! does a file system that does not answer: its helper waits, and can be killed. The helper is a
//! fork, which is cheap in a process of this size, and safe: no other thread of the agent allocates
//! or locks. What it does is in [`requests`]. It sees the files as the workload does, as root.
//!
//! The host ends a request early by closing or resetting its stream: the helper sees its socket
//! closed, removes what it has not completed and ends, or is killed after [`GRACE`].

mod requests;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use msb_protocol::mux::MuxStream;
use msb_protocol::{FsFailure, FsReply, FsRequest, write_message};
use rustix::process::setsid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::reaper::Reaper;

/// How long a helper may take to notice that nobody listens any more.
const GRACE: Duration = Duration::from_secs(2);
/// What is passed on at a time, in bytes.
const CHUNK: usize = 64 << 10;

/// Why there are no more bytes to pass on.
enum Stopped {
    From,
    To,
}

/// Serves the request to its end.
pub(crate) async fn serve(
    reaper: &Reaper,
    request: FsRequest,
    mut reader: ReadHalf<MuxStream>,
    mut writer: WriteHalf<MuxStream>,
) {
    let (mut socket, pid) = match start(request) {
        Ok(started) => started,
        Err(error) => return refuse(writer, &error.to_string()).await,
    };
    let exit = reaper.watch(pid);
    let (mut from_helper, mut to_helper) = socket.split();
    tokio::select! {
        stopped = pass(&mut from_helper, &mut writer) => {
            if matches!(stopped, Stopped::From) {
                let _ = writer.shutdown().await;
            }
        }
        () = feed(&mut reader, &mut to_helper) => {}
    }
    drop(socket);
    if timeout(GRACE, exit).await.is_err() {
        // Its number stays its own until it is collected, which takes it off the list.
        reaper.signal_group(pid, libc::SIGKILL);
    }
}

/// Answers a request that is not served.
pub(crate) async fn refuse(mut writer: WriteHalf<MuxStream>, why: &str) {
    let failure = FsFailure::new(b"", &io::Error::other(why.to_owned()));
    // It reads the same in the place of an item of a tree.
    let _ = write_message(&mut writer, &FsReply::Failed(failure)).await;
    let _ = writer.shutdown().await;
}

/// Passes on what the host sends; returns when the host has gone. A helper that does not listen any
/// more may still have something to say.
async fn feed(reader: &mut ReadHalf<MuxStream>, to: &mut (impl AsyncWrite + Unpin)) {
    if matches!(pass(reader, to).await, Stopped::To) {
        let mut rest = [0; 4096];
        while matches!(reader.read(&mut rest).await, Ok(1..)) {}
    }
}

async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> Stopped {
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

/// Forks the helper; its socket and its pid.
fn start(request: FsRequest) -> io::Result<(UnixStream, i32)> {
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
            help(theirs.as_raw_fd(), request);
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
unsafe fn help(socket: i32, request: FsRequest) -> ! {
    // SAFETY: plain system calls; descriptor 0 is the socket and used nowhere else from here on.
    let socket = unsafe {
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::dup2(socket, 0);
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        libc::umask(0o022);
        libc::chdir(c"/".as_ptr());
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        OwnedFd::from_raw_fd(0)
    };
    let _ = setsid();
    let is_done = requests::serve(&StdUnixStream::from(socket), request);
    // SAFETY: ends the process without running what the agent wants to be run at its own end.
    unsafe { libc::_exit(i32::from(!is_done)) }
}
