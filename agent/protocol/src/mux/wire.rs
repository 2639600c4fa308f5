//! Between yamux and the byte stream: what yamux leaves open.
//!
//! Outwards, small writes are gathered, so that the header and the payload of a frame are one write:
//! on a virtio port each one is an exit of the guest. yamux flushes after every frame.
//!
//! Inwards, the stream is read in large pieces, and small payloads of a stream whose reader is busy
//! are put together before yamux sees them ([`MERGE`]). yamux keeps each payload in an allocation of
//! its own, so that a peer that sends a window byte by byte would take 64 times that window.
//!
//! Two kinds of frames do not pass:
//!
//! - Pings. yamux stops reading while an answer to one waits to be written: two sides that flood each
//!   other and answer at the same time would wait for each other for ever. Without an answer it never
//!   widens a window, so what a stream may buffer stays what it was at first.
//! - Complaints. yamux tells a peer that breaks the protocol so, and goes on. Here that ends the
//!   connection.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered into one write, in bytes: a header and its payload.
const GATHER: usize = 32 << 10;
/// What is read at a time, in bytes.
const READ: usize = 64 << 10;
/// Payloads up to this are put together, until there is so much of them, in bytes.
const MERGE: usize = 4 << 10;
/// The length of a yamux header, in bytes: version, type, flags (2), stream (4), length (4).
const HEADER: usize = 12;
/// The type of a frame with a payload.
const DATA: u8 = 0;
/// A ping that asks for an answer: its type, and its flags.
const PING: (u8, [u8; 2]) = (2, [0, 1]);
/// The type of a frame that ends the connection; its length is the reason, and 0 a good one.
const GO_AWAY: u8 = 3;

/// A byte stream with what is said above.
pub(super) struct Wire<T> {
    io: T,
    outward: Outward,
    inward: Inward,
}

#[derive(Default)]
struct Outward {
    buffer: Vec<u8>,
    /// How much of `buffer` is written.
    written: usize,
    /// What is left of the payload of the frame that yamux is writing.
    payload: usize,
}

struct Inward {
    /// What was read; `at..end` was not looked at yet.
    raw: Box<[u8]>,
    at: usize,
    end: usize,
    /// What yamux gets next, from `given` on.
    ready: Vec<u8>,
    given: usize,
    /// What is left of the payload that is being read.
    payload: usize,
    /// The stream that it is held for; else it passes.
    holds: Option<u32>,
    ended: bool,
    held: Held,
}

/// What is held back for each stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<Mutex<Streams>>);

#[derive(Debug, Default)]
struct Streams {
    slots: BTreeMap<u32, Slot>,
    /// Those with something that their readers wait for.
    wanted: BTreeSet<u32>,
    /// Who reads the byte stream.
    driver: Option<Waker>,
}

#[derive(Debug)]
struct Slot {
    bytes: Vec<u8>,
    /// The reader has all that yamux has.
    hungry: bool,
}

impl Held {
    /// A stream is read from here on.
    pub(super) fn begin(&self, stream: u32) {
        self.lock().slots.insert(stream, Slot { bytes: Vec::new(), hungry: true });
    }

    /// A stream is not read any more.
    pub(super) fn end(&self, stream: u32) {
        self.lock().slots.remove(&stream);
    }

    /// The reader of a stream has read all that yamux has.
    pub(super) fn drained(&self, stream: u32) {
        let mut streams = self.lock();
        let Some(slot) = streams.slots.get_mut(&stream) else { return };
        slot.hungry = true;
        if slot.bytes.is_empty() {
            return;
        }
        streams.wanted.insert(stream);
        let driver = streams.driver.take();
        drop(streams);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    /// Moves what is held for a stream to `ready`, as one frame.
    fn release(&mut self, stream: u32, ready: &mut Vec<u8>) {
        let Some(slot) = self.slots.get_mut(&stream).filter(|slot| !slot.bytes.is_empty()) else {
            return;
        };
        let Ok(length) = u32::try_from(slot.bytes.len()) else { return };
        ready.extend_from_slice(&[0, DATA, 0, 0]);
        ready.extend_from_slice(&stream.to_be_bytes());
        ready.extend_from_slice(&length.to_be_bytes());
        ready.append(&mut slot.bytes);
        slot.hungry = false;
    }

    fn release_all(&mut self, ready: &mut Vec<u8>) {
        let all: Vec<u32> = self.slots.keys().copied().collect();
        for stream in all {
            self.release(stream, ready);
        }
    }

    /// Releases what readers wait for. Otherwise `waker` is woken when one does.
    fn release_wanted(&mut self, ready: &mut Vec<u8>, waker: &Waker) {
        for stream in std::mem::take(&mut self.wanted) {
            self.release(stream, ready);
        }
        if ready.is_empty() {
            self.driver = Some(waker.clone());
        }
    }
}

impl Inward {
    fn new() -> Self {
        Self {
            raw: vec![0; READ].into_boxed_slice(),
            at: 0,
            end: 0,
            ready: Vec::new(),
            given: 0,
            payload: 0,
            holds: None,
            ended: false,
            held: Held::default(),
        }
    }

    fn rest(&self) -> &[u8] {
        self.raw.get(self.at..self.end).unwrap_or_default()
    }

    /// Gives what is ready; whether there was anything.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = self.ready.get(self.given..).unwrap_or_default();
        let count = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..count).unwrap_or_default());
        self.given += count;
        if self.given >= self.ready.len() {
            self.ready.clear();
            self.given = 0;
        }
        count > 0
    }

    /// Takes payload of the frame that is being read, and gives or holds it; whether anything was
    /// given.
    fn carry(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let mut count = self.rest().len().min(self.payload);
        let Some(stream) = self.holds else {
            count = count.min(buf.remaining());
            buf.put_slice(self.rest().get(..count).unwrap_or_default());
            self.at += count;
            self.payload -= count;
            return count > 0;
        };
        let mut streams = self.held.lock();
        // Without a slot nobody reads the stream any more.
        if let Some(slot) = streams.slots.get_mut(&stream) {
            let rest = self.raw.get(self.at..self.end).unwrap_or_default();
            slot.bytes.extend_from_slice(rest.get(..count).unwrap_or_default());
        }
        self.at += count;
        self.payload -= count;
        if self.payload == 0 {
            self.holds = None;
            let due = |slot: &Slot| slot.hungry || slot.bytes.len() >= MERGE;
            if streams.slots.get(&stream).is_some_and(due) {
                streams.release(stream, &mut self.ready);
            }
        }
        false
    }

    /// Looks at the next header; whether there is a whole one.
    fn header(&mut self) -> bool {
        let Some(&header) = self.rest().first_chunk::<HEADER>() else { return false };
        let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = header;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        self.at += HEADER;
        let mut streams = self.held.lock();
        if kind == DATA {
            let length = u32::from_be_bytes([l0, l1, l2, l3]);
            self.payload = usize::try_from(length).unwrap_or(usize::MAX);
            let small = (1..=MERGE).contains(&self.payload) && [f0, f1] == [0, 0];
            if small && streams.slots.contains_key(&stream) {
                self.holds = Some(stream);
                return true;
            }
        }
        // Nothing overtakes what is held.
        if kind == GO_AWAY {
            streams.release_all(&mut self.ready);
        } else {
            streams.release(stream, &mut self.ready);
        }
        if let Some(slot) = streams.slots.get_mut(&stream).filter(|_| self.payload > 0) {
            slot.hungry = false;
        }
        self.ready.extend_from_slice(&header);
        true
    }

    /// Nothing more comes: what arrived is still to be read, and a frame that was cut off is cut off.
    fn end(&mut self) {
        self.ended = true;
        self.held.lock().release_all(&mut self.ready);
        let rest = self.raw.get(self.at..self.end).unwrap_or_default();
        self.ready.extend_from_slice(rest);
        self.at = self.end;
    }

    /// Reads more; whether there was any.
    fn poll_more<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        self.raw.copy_within(self.at..self.end, 0);
        self.end -= self.at;
        self.at = 0;
        let mut space = ReadBuf::new(self.raw.get_mut(self.end..).unwrap_or_default());
        ready!(Pin::new(io).poll_read(cx, &mut space))?;
        let count = space.filled().len();
        self.end += count;
        Poll::Ready(Ok(count > 0))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, inward, .. } = self.get_mut();
        loop {
            if inward.give(buf) {
                return Poll::Ready(Ok(()));
            }
            if inward.payload > 0 && !inward.rest().is_empty() {
                if inward.carry(buf) {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if inward.payload == 0 {
                inward.held.lock().release_wanted(&mut inward.ready, cx.waker());
                if !inward.ready.is_empty() || inward.header() {
                    continue;
                }
            }
            if inward.ended {
                return Poll::Ready(Ok(()));
            }
            if !ready!(inward.poll_more(io, cx))? {
                inward.end();
            }
        }
    }
}

impl Outward {
    /// Takes what fits of a write; `None` when the buffer has to be drained first. yamux hands over
    /// a header at once and nothing else with it.
    fn take(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let space = GATHER - self.buffer.len();
        if self.payload > 0 {
            let count = bytes.len().min(space).min(self.payload);
            self.payload -= count;
            self.buffer.extend_from_slice(&bytes[..count]);
            return Ok(Some(count).filter(|count| *count > 0));
        }
        let unexpected = || io::Error::other("a write that is not a yamux header");
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or_else(unexpected)?;
        let [_, kind, f0, f1, .., l0, l1, l2, l3] = header;
        let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]);
        if (*kind, [*f0, *f1]) == PING {
            return Ok(Some(HEADER));
        }
        if *kind == GO_AWAY && length != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if space < HEADER {
            return Ok(None);
        }
        if *kind == DATA {
            self.payload = usize::try_from(length).unwrap_or(usize::MAX);
        }
        self.buffer.extend_from_slice(header);
        Ok(Some(HEADER))
    }
}

impl<T> Wire<T> {
    pub(super) fn new(io: T) -> Self {
        let outward = Outward { buffer: Vec::with_capacity(GATHER), ..Outward::default() };
        Self { io, outward, inward: Inward::new() }
    }

    /// What readers of streams tell.
    pub(super) fn held(&self) -> Held {
        self.inward.held.clone()
    }
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, outward, .. } = self;
        while outward.written < outward.buffer.len() {
            let rest = &outward.buffer[outward.written..];
            match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => outward.written += count,
            }
        }
        outward.buffer.clear();
        outward.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            if let Some(count) = this.outward.take(buf)? {
                return Poll::Ready(Ok(count));
            }
            ready!(this.poll_drain(cx))?;
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_all_but_pings_and_complaints() {
        let mut gather = Outward::default();
        let mut take = |bytes: &[u8]| gather.take(bytes).map_err(|error| error.kind());
        let ping = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        let pong = [0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7];
        let data = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 12];
        let goodbye = [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let complaint = [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(take(&ping), Ok(Some(12)));
        assert_eq!(take(&data), Ok(Some(12)));
        assert_eq!(take(&ping), Ok(Some(12)), "a payload that looks like one");
        assert_eq!(take(&pong), Ok(Some(12)));
        assert_eq!(take(&ping), Ok(Some(12)));
        assert_eq!(take(&goodbye), Ok(Some(12)));
        assert_eq!(take(&complaint), Err(io::ErrorKind::InvalidData));
        assert_eq!(gather.buffer, [data, ping, pong, goodbye].concat());
        gather.buffer.resize(GATHER - 1, 0);
        assert_eq!(gather.take(&data).unwrap(), None);
    }

    fn data(stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, DATA, 0, 0, 0, 0, 0, stream], &length[..], payload].concat()
    }

    /// What yamux gets of `sent`, read to its end. `told` happens after `after` bytes.
    fn given(sent: &[u8], held: impl Fn(&Held)) -> Vec<u8> {
        let mut wire = Wire::new(sent);
        held(&wire.held());
        let mut given = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut space = [0; 7];
            let mut buf = ReadBuf::new(&mut space);
            let Poll::Ready(read) = Pin::new(&mut wire).poll_read(&mut cx, &mut buf) else { break };
            read.unwrap();
            if buf.filled().is_empty() {
                break;
            }
            given.extend_from_slice(buf.filled());
        }
        given
    }

    #[test]
    fn small_payloads_of_a_busy_reader_become_one() {
        let sent = [data(1, b"a"), data(3, b"x"), data(1, b"b"), data(1, b"c"), data(5, b"?")];
        let sent =
            [sent.concat(), data(1, b"d"), vec![0, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0]].concat();
        let given = given(&sent, |held| {
            held.begin(1);
            held.begin(3);
        });
        // The first of each finds its reader waiting; the rest comes before the end of the stream.
        let expected = [data(1, b"a"), data(3, b"x"), data(5, b"?"), data(1, b"bcd")].concat();
        assert_eq!(given[..expected.len()], expected);
        assert_eq!(given[expected.len()..], [0, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_window_byte_by_byte_is_a_few_payloads() {
        let sent: Vec<u8> = (0..100_000).flat_map(|_| data(1, b"x")).collect();
        let given = given(&sent, |held| held.begin(1));
        assert!(given.len() < 100_000 + 12 * 30, "{}", given.len());
        assert_eq!(given.iter().filter(|byte| **byte == b'x').count(), 100_000);
    }

    #[test]
    fn what_was_cut_off_is_cut_off() {
        for cut in 1..13 {
            let sent = data(1, b"ab");
            let given = given(&sent[..cut], |_| {});
            assert_eq!(given, sent[..cut]);
        }
    }
}
