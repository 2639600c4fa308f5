//! The standard streams of a command: pipes, or one terminal.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use msb_protocol::{ExecRequest, INPUT_WINDOW, StdinMode, Tty};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Input that was taken is told of once it is this much, in bytes.
const WORTH_TELLING: usize = INPUT_WINDOW / 2;

/// What is written to a command at a time, in bytes; as much as a pipe holds.
const INPUT_CHUNK: usize = 64 << 10;

/// The agent's ends.
pub(super) struct Stdio {
    /// Standard input; none is `/dev/null`.
    pub(super) stdin: Option<Rc<Source>>,
    /// Standard output, or the terminal.
    pub(super) stdout: Option<Rc<Source>>,
    /// Standard error; a terminal has none.
    pub(super) stderr: Option<Rc<Source>>,
}

/// A descriptor that does not block. Its other end is the command's.
pub(super) struct Source(AsyncFd<OwnedFd>);

/// What a read gave.
pub(super) enum Read {
    /// That many bytes.
    Bytes(usize),
    /// Nothing yet.
    Empty,
    /// No more will come.
    End,
}

impl Source {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        // SAFETY: an owned descriptor stays the same and open until it is dropped.
        let fd = unsafe { AsyncFd::register(fd) };
        Ok(Self(fd?))
    }

    /// Waits until there may be something to read.
    pub(super) async fn readable(&self) {
        // An error here means that the runtime is gone, and this task with it.
        let _ = self.0.readable().await.map(|mut guard| guard.retain_ready());
    }

    /// Reads what is there, whatever [`Source::readable`] knows of. When nothing is, the next
    /// [`Source::readable`] waits.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Read {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                Ok(0) => return Read::End,
                Ok(count) => return Read::Bytes(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let empty = |_: &OwnedFd| Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = self.0.try_io(Interest::READABLE, empty);
                    return Read::Empty;
                }
                // A terminal whose other side is closed answers EIO.
                Err(_) => return Read::End,
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.writable().await?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => return written,
                Err(_would_block) => {}
            }
        }
    }

    /// Gives the terminal a size.
    pub(super) fn resize(&self, rows: u16, cols: u16) {
        let _ = tcsetwinsize(&self.0, winsize(rows, cols));
    }
}

/// Opens the streams of `request`: the agent's ends, and the command's for 0, 1 and 2. The user of
/// the command may open its ends again by name (`/dev/stdout`), so they become its own.
pub(super) fn open(request: &ExecRequest, uid: Option<u32>) -> io::Result<(Stdio, [OwnedFd; 3])> {
    let (stdio, command) = match &request.tty {
        Some(tty) => open_tty(tty, uid)?,
        None => open_pipes(request.stdin)?,
    };
    if let Some(uid) = uid {
        for fd in &command {
            let _ = own(fd, uid);
        }
    }
    Ok((stdio, command))
}

/// Never `/dev/null`, which everyone shares.
fn own(fd: &OwnedFd, uid: u32) -> io::Result<()> {
    let stat = rustix::fs::fstat(fd)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if kind == rustix::fs::FileType::Fifo {
        fchown(fd, Some(Uid::from_raw(uid)), None::<Gid>)?;
    }
    Ok(())
}

fn open_pipes(stdin: StdinMode) -> io::Result<(Stdio, [OwnedFd; 3])> {
    let (input, stdin) = match stdin {
        StdinMode::Null => (OpenOptions::new().read(true).open("/dev/null")?.into(), None),
        StdinMode::Pipe => {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (theirs, Some(Rc::new(Source::new(ours)?)))
        }
    };
    let (out_ours, out) = pipe_with(PipeFlags::CLOEXEC)?;
    let (err_ours, err) = pipe_with(PipeFlags::CLOEXEC)?;
    let stdout = Some(Rc::new(Source::new(out_ours)?));
    let stderr = Some(Rc::new(Source::new(err_ours)?));
    Ok((Stdio { stdin, stdout, stderr }, [input, out, err]))
}

fn open_tty(tty: &Tty, uid: Option<u32>) -> io::Result<(Stdio, [OwnedFd; 3])> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&ours)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(
        &ours,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    tcsetwinsize(&ours, winsize(tty.rows, tty.cols))?;
    if let Some(uid) = uid {
        let _ = fchown(&theirs, Some(Uid::from_raw(uid)), None::<Gid>);
        let _ = fchmod(&theirs, Mode::RUSR | Mode::WUSR | Mode::WGRP);
    }
    let command = [theirs.try_clone()?, theirs.try_clone()?, theirs];
    let terminal = Rc::new(Source::new(ours)?);
    let stdio = Stdio { stdin: Some(terminal.clone()), stdout: Some(terminal), stderr: None };
    Ok((stdio, command))
}

fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Input on its way to a command, so that a command that does not read can still be signalled.
#[derive(Default)]
pub(super) struct Pending {
    bytes: RefCell<VecDeque<u8>>,
    ended: Cell<bool>,
    /// The command does not take any more: what comes is dropped.
    refused: Cell<bool>,
    /// What was taken or dropped, and the host not told of, in bytes.
    settled: Cell<usize>,
    told: Notify,
    added: Notify,
    filled: Notify,
    taken: Notify,
}

impl Pending {
    /// Adds what the host sent, nothing meaning the end. Waits while a host that keeps to no window
    /// has sent too much.
    pub(super) async fn add(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.ended.set(true);
        } else if self.ended.get() || self.refused.get() {
            self.settle(bytes.len());
        } else {
            self.bytes.borrow_mut().extend(bytes);
        }
        self.added.notify_one();
        while self.is_full() {
            self.filled.notify_one();
            self.taken.notified().await;
        }
    }

    /// Returns when the host has not been heard for `time`, because too much is pending.
    pub(super) async fn stalled_for(&self, time: Duration) {
        while !self.is_full() {
            self.filled.notified().await;
        }
        sleep(time).await;
    }

    fn is_full(&self) -> bool {
        self.bytes.borrow().len() > INPUT_WINDOW
    }

    fn settle(&self, count: usize) {
        self.settled.update(|settled| settled + count);
        if self.settled.get() >= WORTH_TELLING {
            self.told.notify_one();
        }
    }

    /// How much was taken or dropped since the last call, once that is worth telling.
    pub(super) async fn taken(&self) -> u64 {
        while self.settled.get() < WORTH_TELLING {
            self.told.notified().await;
        }
        self.settled.replace(0) as u64
    }

    /// Passes input on until its end or until the command refuses more, then drops `stdin`.
    pub(super) async fn feed(&self, stdin: Rc<Source>) {
        loop {
            let chunk = self.chunk();
            if chunk.is_empty() {
                if self.ended.get() {
                    return;
                }
                self.added.notified().await;
            } else if let Ok(count) = stdin.write(&chunk).await {
                self.bytes.borrow_mut().drain(..count);
                self.settle(count);
                self.taken.notify_one();
            } else {
                self.refuse();
                return;
            }
        }
    }

    fn chunk(&self) -> Vec<u8> {
        let bytes = self.bytes.borrow();
        let front = bytes.as_slices().0;
        front[..front.len().min(INPUT_CHUNK)].to_vec()
    }

    /// Drops what is pending and whatever comes.
    pub(super) fn refuse(&self) {
        self.refused.set(true);
        let dropped = std::mem::take(&mut *self.bytes.borrow_mut());
        self.settle(dropped.len());
        self.taken.notify_one();
    }
}
