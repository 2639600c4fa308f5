//! The way to the host's file server: messages of FUSE, as they are, between the kernel and the port
//! `files`.
//!
//! ```text
//! kernel ◀──▶ /dev/fuse ◀── one message a call ──▶ two threads ◀── a stream of bytes ──▶ port
//! ```
//!
//! The threads are those of PID 1, so that nothing in the guest can end them before everything is
//! unmounted. They live beside a thread that forks and that changes its mount namespace: therefore
//! they allocate nothing once they run, take no signals, share no root or working directory
//! with it, and stay in the first mount namespace.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Barrier};
use std::thread;

use msb_protocol::{FILES_PORT_NAME, FilesPreamble};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use super::devices;
use crate::log;

/// The most that one message reads or writes, in bytes.
pub(super) const MAX_PAYLOAD: usize = 128 << 10;
/// The longest message: its payload, and less than a page of headers.
const MAX_MESSAGE: usize = MAX_PAYLOAD + 4096;
/// The shortest message: the header of an answer.
const MIN_MESSAGE: usize = 16;
/// Both threads, and the one that starts them.
const PARTIES: usize = 3;
const STACK: usize = 64 << 10;

/// Two threads that wait for a file system.
pub(super) struct Relay {
    ends: Arc<Ends>,
    go: Arc<Barrier>,
}

struct Ends {
    port: OwnedFd,
    fuse: OwnedFd,
}

impl Relay {
    /// Opens both ends and starts the threads.
    pub(super) fn start() -> io::Result<Self> {
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let fuse = fuse.map_err(|error| io::Error::other(format!("/dev/fuse: {error}")))?.into();
        let ends = Arc::new(Ends { port: devices::open_port(FILES_PORT_NAME)?, fuse });
        let go = Arc::new(Barrier::new(PARTIES));
        let (ready, prepared) = sync_channel(PARTIES);
        for (name, pass) in [("files-out", outward as Pass), ("files-in", inward as Pass)] {
            let (ends, go, ready) = (ends.clone(), go.clone(), ready.clone());
            let body = move || live(&ends, &go, &ready, pass);
            thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body)?;
        }
        drop(ready);
        all_prepared(&prepared)?;
        Ok(Self { ends, go })
    }

    /// The descriptor that the kernel's side is mounted with.
    pub(super) fn fuse(&self) -> RawFd {
        self.ends.fuse.as_raw_fd()
    }

    /// Tells the host whose the files are; then messages pass, for as long as the guest lives.
    pub(super) fn begin(self, preamble: FilesPreamble) -> io::Result<()> {
        write_all(&self.ends.port, &preamble.encode())?;
        self.go.wait();
        Ok(())
    }
}

fn all_prepared(prepared: &Receiver<io::Result<()>>) -> io::Result<()> {
    for _ in 1..PARTIES {
        prepared.recv().map_err(io::Error::other)??;
    }
    Ok(())
}

type Pass = fn(&Ends, &mut [u8]) -> io::Result<()>;

/// The life of a thread.
fn live(ends: &Ends, go: &Barrier, ready: &SyncSender<io::Result<()>>, pass: Pass) {
    let mut buffer = vec![0; MAX_MESSAGE];
    let prepared = prepare();
    let failed = prepared.is_err();
    let _ = ready.send(prepared);
    if failed {
        return;
    }
    go.wait();
    if let Err(error) = pass(ends, &mut buffer) {
        log::line(&format!("the way to the file server: {error}"));
    }
}

fn prepare() -> io::Result<()> {
    // SAFETY: the set is valid, and the call is about this thread alone.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
    // SAFETY: no descriptors are unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    // Memory that is got for a message never waits for a message.
    rustix::process::configure_io_flusher_behavior(true)?;
    Ok(())
}

/// From the kernel to the host, until nothing is mounted.
fn outward(ends: &Ends, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match rustix::io::read(&ends.fuse, &mut *buffer) {
            Ok(length) => write_all(&ends.port, &buffer[..length])?,
            // The last of these: what was about to be asked has been given up.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
            Err(Errno::NODEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// From the host to the kernel, until nothing is mounted.
fn inward(ends: &Ends, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    loop {
        filled += match rustix::io::read(&ends.port, &mut buffer[filled..]) {
            Ok(0) => return Err(io::Error::other("it has ended")),
            Ok(length) => length,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut begin = 0;
        while let Some(message) = first_message(&buffer[begin..filled])? {
            match rustix::io::write(&ends.fuse, message) {
                Err(Errno::NODEV) => return Ok(()),
                // Nobody waits for this answer any more, or the message is about what is forgotten.
                Ok(_) | Err(_) => begin += message.len(),
            }
        }
        // A long message arrives in many pieces, which stay where they are.
        if begin > 0 {
            buffer.copy_within(begin..filled, 0);
            filled -= begin;
        }
    }
}

/// The message that `bytes` begin with, once all of it is there. Each begins with its length.
fn first_message(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some(&length) = bytes.first_chunk() else { return Ok(None) };
    let length = usize::try_from(u32::from_ne_bytes(length)).unwrap_or(usize::MAX);
    if !(MIN_MESSAGE..=MAX_MESSAGE).contains(&length) {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    Ok(bytes.get(..length))
}

fn write_all(port: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(port, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_by_their_lengths() {
        let mut stream = vec![20, 0, 0, 0];
        stream.resize(20, 1);
        stream.extend([16, 0, 0, 0]);
        assert_eq!(first_message(&stream).unwrap().unwrap(), &stream[..20]);
        for short in [&stream[..0], &stream[..3], &stream[..19], &stream[20..]] {
            assert_eq!(first_message(short).unwrap(), None);
        }
    }

    #[test]
    fn no_message_is_longer_than_the_buffer() {
        let longest = u32::try_from(MAX_MESSAGE).unwrap();
        assert_eq!(first_message(&longest.to_ne_bytes()).unwrap(), None);
        for length in [0, 15, longest + 1, u32::MAX] {
            assert!(first_message(&length.to_ne_bytes()).is_err(), "{length}");
        }
    }

    #[test]
    fn answers_pass_whole_however_they_arrive() {
        let (port, host) = std::os::unix::net::UnixStream::pair().unwrap();
        let (fuse, kernel) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let ends = Ends { port: port.into(), fuse: fuse.into() };
        let answer = |length: usize, fill: u8| {
            let mut message = vec![fill; length];
            message[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
            message
        };
        let answers = [answer(16, 1), answer(MAX_MESSAGE, 2), answer(17, 3)];
        let stream = answers.concat();
        thread::scope(|scope| {
            scope.spawn(|| {
                for piece in stream.chunks(4093) {
                    write_all(&host.try_clone().unwrap().into(), piece).unwrap();
                }
                host.shutdown(std::net::Shutdown::Both).unwrap();
            });
            scope.spawn(|| {
                let mut buffer = vec![0; MAX_MESSAGE + 1];
                for answer in &answers {
                    let length = kernel.recv(&mut buffer).unwrap();
                    assert!(buffer[..length] == *answer, "{length} instead of {}", answer.len());
                }
            });
            assert!(inward(&ends, &mut vec![0; MAX_MESSAGE]).is_err(), "the stream ends");
        });
    }
}
