//! The links between a VM process and the host.
#![allow(clippy::disallowed_methods, reason = "this module writes the console log")]

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The VM's ends; [`crate::runtime::Driver::spawn`] consumes them.
#[derive(Debug)]
pub struct VmLinks {
    /// The agent port.
    pub agent: OwnedFd,
    /// The boot console; also standard output and error of the VM process.
    pub console: OwnedFd,
    /// The port to the file server, of a VM that has one.
    pub files: Option<OwnedFd>,
}

/// The host's ends.
#[derive(Debug)]
pub struct HostLinks {
    /// The agent port: the agent protocol from its preamble on. Not blocking.
    pub agent: UnixStream,
    /// The boot console, for [`record_console`]. Not blocking. It ends when the VM has ended.
    pub console: OwnedFd,
    /// The port to the file server, which takes it. Blocking.
    pub files: Option<OwnedFd>,
}

/// What the VM's end of the console must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Console {
    Socket,
    Terminal,
}

impl VmLinks {
    /// Connected pairs, one of them for `files` when there are some.
    pub(super) fn pair(console: Console, files: bool) -> io::Result<(VmLinks, HostLinks)> {
        let (agent, vm_agent) = UnixStream::pair()?;
        agent.set_nonblocking(true)?;
        let (console, vm_console) = match console {
            Console::Socket => {
                let (ours, theirs) = UnixStream::pair()?;
                (OwnedFd::from(ours), OwnedFd::from(theirs))
            }
            Console::Terminal => terminal()?,
        };
        rustix::io::ioctl_fionbio(&console, true)?;
        let (files, vm_files) = match files {
            true => {
                let (ours, theirs) = UnixStream::pair()?;
                (Some(ours.into()), Some(theirs.into()))
            }
            false => (None, None),
        };
        let theirs = VmLinks { agent: vm_agent.into(), console: vm_console, files: vm_files };
        Ok((theirs, HostLinks { agent, console, files }))
    }
}

/// A terminal that passes bytes on as they are: who reads it, and the terminal.
fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    let mut settings = tcgetattr(&theirs)?;
    settings.make_raw();
    tcsetattr(&theirs, OptionalActions::Now, &settings)?;
    Ok((ours, theirs))
}

const CHUNK: usize = 16 << 10;

/// Writes what arrives on `console` to `path` until it ends. Past `max_bytes` the file is renamed
/// to `path.1` and begun anew, so that at most twice as much is kept.
pub async fn record_console(console: OwnedFd, path: &Path, max_bytes: u64) -> io::Result<()> {
    // SAFETY: the descriptor is owned by the `AsyncFd` and closed after it is deregistered.
    let console = unsafe { AsyncFd::register_with_interest(console, Interest::READABLE)? };
    let mut previous = PathBuf::from(path).into_os_string();
    previous.push(".1");
    let mut file = open(path)?;
    let mut written = 0;
    let mut buffer = vec![0; CHUNK];
    loop {
        let read =
            console.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer)?));
        let length = match read.await {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            // A terminal's way to say that nobody holds its other end.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        if written + length as u64 > max_bytes && written > 0 {
            std::fs::rename(path, &previous)?;
            file = open(path)?;
            written = 0;
        }
        file.write_all(&buffer[..length])?;
        written += length as u64;
    }
}

fn open(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
