//! The byte stream to the host: a virtio-console port, or a socket in local mode.
//!
//! A port is opened once and held: closing and reopening one ends the VM with some drivers.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The byte stream to the host.
pub(crate) struct Port {
    fd: AsyncFd<OwnedFd>,
    synchronous: Rc<Cell<bool>>,
}

impl Port {
    /// Takes the open descriptor. While the second value is set, a write returns only when the host
    /// has taken the bytes: those of a port wait in a queue that does not survive the machine.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<(Self, Rc<Cell<bool>>)> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        let synchronous = Rc::new(Cell::new(false));
        // SAFETY: an owned descriptor stays the same and open until it is dropped.
        let fd = unsafe { AsyncFd::register(fd) };
        Ok((Self { fd: fd?, synchronous: synchronous.clone() }, synchronous))
    }

    fn write_synchronously(&self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.fd.get_ref();
        let flags = fcntl_getfl(fd)?;
        fcntl_setfl(fd, flags - OFlags::NONBLOCK)?;
        let written = rustix::io::write(fd, bytes);
        fcntl_setfl(fd, flags)?;
        Ok(written?)
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            if let Ok(read) = guard.try_io(|fd| Ok(rustix::io::read(fd, space)?)) {
                buf.advance(read?);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.synchronous.get() {
            return Poll::Ready(self.write_synchronously(buf));
        }
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            if let Ok(written) = guard.try_io(|fd| Ok(rustix::io::write(fd, buf)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
