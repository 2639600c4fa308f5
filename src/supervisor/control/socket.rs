//! Sockets below directories whose path is too long for a socket address.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// `sun_path` holds this many bytes with the final NUL.
const ADDRESS_MAX: usize = 108;

/// Calls `with` with a path to `socket` that fits into a socket address.
pub(crate) fn with_short_path<T>(
    socket: &Path,
    with: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    if socket.as_os_str().as_bytes().len() < ADDRESS_MAX {
        return with(socket);
    }
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    with(&PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_long_path_can_be_bound_and_reached() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        let socket = dir.join("x.sock");
        assert!(UnixListener::bind(&socket).is_err());
        let _listener = with_short_path(&socket, |path| UnixListener::bind(path)).unwrap();
        with_short_path(&socket, |path| UnixStream::connect(path)).unwrap();
        assert!(socket.exists());
    }
}
