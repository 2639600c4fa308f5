//! Messages of a stream, as packets: the FUSE crate takes one message for each read.
//!
//! What arrives is looked at only as far as is needed to tell messages apart, and to keep from the
//! crate what it takes for granted of a kernel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::limits::{MAX_MESSAGE, MIN_MESSAGE};

/// Room for messages in flight, in bytes; the kernel gives what it allows.
const PACKET_ROOM: usize = 1 << 20;
/// So much of a stream is read and written at a time, in bytes.
const CHUNK: usize = 2 * MAX_MESSAGE;
/// Where the operation is in a message.
const OPERATION: std::ops::Range<usize> = 4..8;
/// An operation that does not exist, which the crate refuses.
const NO_OPERATION: u32 = u32::MAX;

/// Why a stream is not served any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its other end was closed, or the file system unmounted.
    Closed,
    /// What arrived is nothing that a kernel sends.
    Nonsense,
    /// A descriptor failed.
    Failed(Errno),
}

/// A pair of sockets that keep messages apart.
pub(super) fn packets() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    for end in [&ours, &theirs] {
        rustix::net::sockopt::set_socket_send_buffer_size(end, PACKET_ROOM)?;
    }
    Ok((ours, theirs))
}

/// Passes requests on until their stream ends.
pub(super) fn requests(stream: impl AsFd, packets: impl AsFd) -> End {
    let mut buffer = vec![0; CHUNK];
    let (mut begin, mut end) = (0, 0);
    loop {
        while let Some(length) = match whole(&buffer[begin..end]) {
            Ok(length) => length,
            Err(()) => return End::Nonsense,
        } {
            let message = &mut buffer[begin..begin + length];
            match screened(message) {
                Screened::Fine => {}
                Screened::Refused => {
                    message[OPERATION].copy_from_slice(&NO_OPERATION.to_le_bytes());
                }
                Screened::Last => return End::Closed,
                Screened::Nonsense => return End::Nonsense,
            }
            match send(&packets, message) {
                Ok(()) => begin += length,
                Err(error) => return End::Failed(error),
            }
        }
        if begin == end {
            (begin, end) = (0, 0);
        } else if buffer.len() - begin < MAX_MESSAGE {
            buffer.copy_within(begin..end, 0);
            (begin, end) = (0, end - begin);
        }
        match rustix::io::read(&stream, &mut buffer[end..]) {
            Ok(0) if begin == end => return End::Closed,
            Ok(0) => return End::Nonsense,
            Ok(more) => end += more,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return End::Closed,
            Err(error) => return End::Failed(error),
        }
    }
}

/// Passes replies on until there are no more.
pub(super) fn replies(packets: impl AsFd, stream: impl AsFd) -> End {
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut length = match receive(&packets, &mut buffer, RecvFlags::empty()) {
            Ok(0) => return End::Closed,
            Ok(length) => length,
            Err(error) => return End::Failed(error),
        };
        // What has come meanwhile goes with it.
        while buffer.len() - length >= MAX_MESSAGE {
            match receive(&packets, &mut buffer[length..], RecvFlags::DONTWAIT) {
                Ok(0) | Err(_) => break,
                Ok(more) => length += more,
            }
        }
        if let Err(error) = write_all(&stream, &buffer[..length]) {
            return End::Failed(error);
        }
    }
}

/// Reads the fixed start of a stream.
pub(super) fn read_exact(stream: impl AsFd, buffer: &mut [u8]) -> Result<(), Errno> {
    let mut length = 0;
    while length < buffer.len() {
        match rustix::io::read(&stream, &mut buffer[length..]) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_all(stream: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(&stream, bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send(packets: impl AsFd, message: &[u8]) -> Result<(), Errno> {
    loop {
        match rustix::net::send(&packets, message, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

fn receive(packets: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
    loop {
        match rustix::net::recv(&packets, &mut *buffer, flags) {
            Err(Errno::INTR) => {}
            other => return other.map(|(length, _)| length),
        }
    }
}

fn number(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The length of the first message, if all of it is there.
fn whole(bytes: &[u8]) -> Result<Option<usize>, ()> {
    let Some(length) = number(bytes, 0) else { return Ok(None) };
    let length = usize::try_from(length).map_err(|_| ())?;
    if !(MIN_MESSAGE..=MAX_MESSAGE).contains(&length) {
        return Err(());
    }
    Ok((bytes.len() >= length).then_some(length))
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
enum Screened {
    Fine,
    /// It is answered with `ENOSYS`.
    Refused,
    Last,
    Nonsense,
}

const SETATTR: u32 = 4;
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const DESTROY: u32 = 38;
/// `IOCTL`, `POLL`, `NOTIFY_REPLY`, `CUSE_INIT`.
const REFUSED: [u32; 4] = [39, 40, 41, 4096];
const WRITE_HEAD: usize = 40;
const SETXATTR_HEAD: usize = 8;
/// Where times are in a message that sets them: seconds and nanoseconds.
const TIMES: [(usize, usize); 3] = [(32, 56), (40, 60), (48, 64)];
const NANOSECONDS: u32 = 1_000_000_000;
/// Beyond it, a time is not a time of any file system.
const MAX_SECONDS: u64 = 1 << 48;

/// Looks for what the crate would stumble over.
fn screened(message: &[u8]) -> Screened {
    let body = message.get(MIN_MESSAGE..).unwrap_or_default();
    let fine = match number(message, OPERATION.start) {
        Some(WRITE) => number(body, 16)
            .is_none_or(|size| body.len().checked_sub(WRITE_HEAD) == usize::try_from(size).ok()),
        Some(SETXATTR) => setxattr_is_fine(body),
        Some(SETATTR) => TIMES.iter().all(|times| time_is_fine(body, *times)),
        Some(DESTROY) => return Screened::Last,
        Some(operation) if REFUSED.contains(&operation) => return Screened::Refused,
        _ => true,
    };
    if fine { Screened::Fine } else { Screened::Nonsense }
}

fn setxattr_is_fine(body: &[u8]) -> bool {
    let name = body.get(SETXATTR_HEAD..).unwrap_or_default();
    let (Some(size), Some(end)) = (number(body, 0), name.iter().position(|byte| *byte == 0)) else {
        return true;
    };
    usize::try_from(size).ok() == Some(name.len() - end - 1)
}

fn time_is_fine(body: &[u8], (seconds, nanoseconds): (usize, usize)) -> bool {
    let bytes = body.get(seconds..seconds + 8).and_then(|bytes| bytes.try_into().ok());
    let seconds = bytes.map_or(0, |bytes| i64::from_le_bytes(bytes).unsigned_abs());
    seconds <= MAX_SECONDS && number(body, nanoseconds).unwrap_or(0) < NANOSECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let with_length = |length: u32| {
            let mut message = vec![0; 64];
            message[..4].copy_from_slice(&length.to_le_bytes());
            whole(&message)
        };
        assert_eq!(whole(&[40, 0, 0]), Ok(None));
        assert_eq!(with_length(40), Ok(Some(40)));
        assert_eq!(with_length(64), Ok(Some(64)));
        assert_eq!(with_length(65), Ok(None));
        for wrong in [0, 39, u32::try_from(MAX_MESSAGE).unwrap() + 1, u32::MAX] {
            assert_eq!(with_length(wrong), Err(()), "{wrong}");
        }
    }

    fn message(operation: u32, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; MIN_MESSAGE];
        message[OPERATION].copy_from_slice(&operation.to_le_bytes());
        message.extend(body);
        message
    }

    #[test]
    fn what_the_crate_takes_for_granted_is_checked() {
        let mut body = vec![0; WRITE_HEAD + 3];
        body[16] = 3;
        assert_eq!(screened(&message(WRITE, &body)), Screened::Fine);
        body[16] = 4;
        assert_eq!(screened(&message(WRITE, &body)), Screened::Nonsense);
        let set = |size: u8| message(SETXATTR, &[size, 0, 0, 0, 0, 0, 0, 0, b'n', 0, b'v']);
        assert_eq!(screened(&set(1)), Screened::Fine);
        assert_eq!(screened(&set(2)), Screened::Nonsense);
        let mut body = vec![0; 88];
        assert_eq!(screened(&message(SETATTR, &body)), Screened::Fine);
        body[59] = 0xff;
        assert_eq!(screened(&message(SETATTR, &body)), Screened::Nonsense);
        body[59] = 0;
        body[39] = 0x80;
        assert_eq!(screened(&message(SETATTR, &body)), Screened::Nonsense);
        assert_eq!(screened(&message(39, &[])), Screened::Refused);
        assert_eq!(screened(&message(DESTROY, &[])), Screened::Last);
    }
}
