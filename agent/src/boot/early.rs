//! What happens before the host is heard.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::process::ExitCode;

use msb_protocol::PORT_NAME;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::devices;
use crate::serve::{self, Place};
use crate::{log, stop};

/// Open files that a command may have, and that it may ask for.
const OPEN_FILES: (u64, u64) = (1 << 16, 1 << 20);

/// The life of PID 1. The machine restarts at the end, which ends the VM.
pub(crate) fn in_guest() -> ExitCode {
    let result = prepare_guest().and_then(|()| {
        let port = devices::open_port(PORT_NAME)?;
        serve::run(port, Place::Guest)
    });
    if let Err(error) = result {
        log::line(&error.to_string());
    }
    stop::restart();
    // PID 1 may not end. The kernel panics, which ends the VM as well.
    ExitCode::FAILURE
}

/// Prepares an ordinary process: orphans come to it, as to PID 1.
pub(crate) fn as_process() -> io::Result<()> {
    open_standard_streams();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let limits = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
    rustix::process::chdir("/")?;
    Ok(())
}

fn prepare_guest() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let mounts = [
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC),
        ("sysfs", "/sys", flags),
        ("proc", "/proc", flags),
    ];
    for (fstype, path, flags) in mounts {
        match mount(fstype, path, fstype, flags, None) {
            // The kernel mounts devtmpfs itself when it is told to.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(io::Error::other(format!("mounting {path}: {error}"))),
        }
    }
    open_standard_streams();
    let (soft, hard) = OPEN_FILES;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) });
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: None });
    let _ = setrlimit(Resource::Nproc, Rlimit { current: None, maximum: None });
    Ok(())
}

/// Makes sure that 0, 1 and 2 are open, so that no other descriptor takes their place. In a guest
/// without a console device of its own at first, 1 and 2 become the console.
fn open_standard_streams() {
    for fd in 0..=2 {
        // SAFETY: fcntl(2) with a number only asks.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0 {
            continue;
        }
        let path = if fd == 0 || fs::metadata("/dev/console").is_err() {
            "/dev/null"
        } else {
            "/dev/console"
        };
        let open = |path| OpenOptions::new().read(true).write(true).open(path);
        if let Ok(file) = open(path).or_else(|_| open("/dev/null")) {
            // SAFETY: both descriptors are open or free; the new one stays open for ever.
            unsafe { libc::dup2(file.as_raw_fd(), fd) };
            if file.as_raw_fd() == fd {
                let _ = file.into_raw_fd();
            }
        }
    }
}
