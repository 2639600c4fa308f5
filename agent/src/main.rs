//! The guest agent: PID 1 of an msb guest.
//!
//! It speaks the agent protocol (`msb-protocol`) over a virtio-console port, sets the guest up as
//! the host says, runs commands, reaps every process, and ends the machine. With `--local FD` it is
//! an ordinary process that speaks the same over an inherited socket and mounts nothing: the same
//! code from the preamble on.
//!
//! ```text
//! start ─▶ early mounts ─▶ port ─▶ preamble ─▶ Boot ─▶ Ready ─▶ sessions ─▶ Shutdown ─▶ restart
//!          (guest only)                        └─ BootFailed
//! ```
//!
//! One thread does everything, so that processes are forked and collected without races; where the
//! host shares files, two more pass messages between it and the kernel (`boot/relay.rs`). The host
//! going away ends the guest.
#![allow(clippy::disallowed_methods, reason = "the agent's work is files, mounts and processes")]

mod boot;
mod exec;
mod fs;
mod helper;
mod log;
mod metrics;
mod port;
mod probe;
mod reaper;
mod scripts;
mod serve;
mod stop;
mod users;

use std::ffi::OsString;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

use crate::serve::Place;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if std::process::id() == 1 {
        boot::early::in_guest()
    } else if arguments.next().is_some_and(|argument| argument == "--local") {
        in_process(arguments.next())
    } else {
        log::line("usage: msb-agent --local FD; without it, this is PID 1 of a guest");
        ExitCode::from(2)
    }
}

/// Serves over the socket that `fd` names, inherited from the host.
fn in_process(fd: Option<OsString>) -> ExitCode {
    let fd = fd.and_then(|fd| fd.to_str()?.parse::<i32>().ok()).filter(|fd| *fd > 2);
    let Some(fd) = fd.filter(|fd| rustix::io::fcntl_getfd(borrow(*fd)).is_ok()) else {
        log::line("--local needs the number of an open descriptor above 2");
        return ExitCode::from(2);
    };
    // SAFETY: the descriptor is open, and this process uses it nowhere else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let result = boot::early::as_process().and_then(|()| serve::run(socket, Place::Process));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn borrow(fd: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: used for one fcntl(2), which says whether the descriptor is open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}
