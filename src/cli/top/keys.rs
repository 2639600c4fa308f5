//! Keys, as a raw terminal sends them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;
use tokio::io::unix::AsyncFd;

use crate::supervisor::readable;

/// How much is read at a time, in bytes.
const CHUNK: usize = 1024;
/// The lowest descriptor that a copy of standard input may have.
const ABOVE_STREAMS: i32 = 3;

/// A key that means something, or might.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Escape,
    CtrlC,
    Char(char),
}

/// What the keys of one read are, in order. What is cut off or unknown is left out.
pub(super) fn decode(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if matches!(rest.peek(), Some('[' | 'O')) => {
                rest.next();
                let mut sequence = String::new();
                for c in rest.by_ref() {
                    sequence.push(c);
                    // The end of a sequence; parameters are digits and `;`.
                    if ('@'..='~').contains(&c) {
                        break;
                    }
                }
                keys.extend(named(&sequence));
            }
            '\x1b' => keys.push(Key::Escape),
            '\x03' => keys.push(Key::CtrlC),
            c if !c.is_control() => keys.push(Key::Char(c)),
            _ => {}
        }
    }
    keys
}

fn named(sequence: &str) -> Option<Key> {
    Some(match sequence {
        "A" => Key::Up,
        "B" => Key::Down,
        "5~" => Key::PageUp,
        "6~" => Key::PageDown,
        "H" | "1~" | "7~" => Key::Home,
        "F" | "4~" | "8~" => Key::End,
        _ => return None,
    })
}

/// The keys of standard input. Reads only when asked, so that another program may have the
/// terminal in between.
pub(super) struct Keyboard(AsyncFd<OwnedFd>);

impl Keyboard {
    /// Of standard input, which must be a raw terminal while it is read. Needs a tokio runtime.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(readable(rustix::io::fcntl_dupfd_cloexec(stdin(), ABOVE_STREAMS)?)?))
    }

    /// The next keys; none once the terminal has gone. Cancellation-safe.
    pub(super) async fn read(&self) -> io::Result<Option<Vec<Key>>> {
        loop {
            let mut guard = self.0.readable().await?;
            // A terminal that is shared with others is not to be made non-blocking.
            if !is_ready(self.0.get_ref())? {
                guard.clear_ready();
                continue;
            }
            let mut buffer = [0; CHUNK];
            return match rustix::io::read(self.0.get_ref(), &mut buffer) {
                Ok(0) | Err(rustix::io::Errno::IO) => Ok(None),
                Ok(length) => Ok(Some(decode(buffer.get(..length).unwrap_or_default()))),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }
}

fn is_ready(fd: &OwnedFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    match poll(&mut polled, Some(&Timespec::default())) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_sequences() {
        use Key::{Char, CtrlC, Down, End, Escape, Home, PageDown, PageUp, Up};
        assert_eq!(decode(b"jk\x03"), [Char('j'), Char('k'), CtrlC]);
        assert_eq!(decode(b"\x1b[A\x1bOB\x1b[5~\x1b[6~q"), [Up, Down, PageUp, PageDown, Char('q')]);
        assert_eq!(decode(b"\x1b[H\x1b[4~\x1b"), [Home, End, Escape]);
        assert_eq!(decode("\x1bé\x1b[1;5C".as_bytes()), [Escape, Char('é')]);
        assert_eq!(decode(b"\x1b[1;"), []);
        assert_eq!(decode(b"\x00\r\n\xff"), [Char('\u{fffd}')]);
    }
}
