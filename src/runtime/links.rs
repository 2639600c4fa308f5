//! The two links between a VM process and its supervisor.
#![allow(clippy::disallowed_methods, reason = "this module writes the console log")]

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;

/// The VM's ends; [`crate::runtime::Driver::spawn`] consumes them.
#[derive(Debug)]
pub struct VmLinks {
    /// The agent port.
    pub agent: OwnedFd,
    /// The boot console; also standard output and error of the VM process.
    pub console: OwnedFd,
}

/// The supervisor's ends.
#[derive(Debug)]
pub struct HostLinks {
    /// The agent port: the agent protocol from its preamble on. Not blocking.
    pub agent: UnixStream,
    /// The boot console, for [`record_console`]. Not blocking. It ends when the VM has ended.
    pub console: UnixStream,
}

impl VmLinks {
    /// Two connected pairs.
    pub fn pair() -> io::Result<(VmLinks, HostLinks)> {
        let (agent, vm_agent) = UnixStream::pair()?;
        let (console, vm_console) = UnixStream::pair()?;
        agent.set_nonblocking(true)?;
        console.set_nonblocking(true)?;
        Ok((
            VmLinks { agent: vm_agent.into(), console: vm_console.into() },
            HostLinks { agent, console },
        ))
    }
}

const CHUNK: usize = 16 << 10;

/// Writes what arrives on `console` to `path` until it ends. Past `max_bytes` the file is renamed
/// to `path.1` and begun anew, so that at most twice as much is kept.
pub async fn record_console(console: UnixStream, path: &Path, max_bytes: u64) -> io::Result<()> {
    let mut console = tokio::net::UnixStream::from_std(console)?;
    let mut previous = PathBuf::from(path).into_os_string();
    previous.push(".1");
    let mut file = open(path)?;
    let mut written = 0;
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = match console.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(length) => length,
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
