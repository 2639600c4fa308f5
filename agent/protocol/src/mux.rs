//! Streams over one byte stream: yamux, driven by one future per side.
//!
//! Each side gets a handle and a [`Driver`]. The driver is the only one that touches the byte
//! stream; nothing moves unless it is polled, and dropping it resets every stream.
//!
//! ```text
//! host   client(io) → Opener   ── open() ──▶ MuxStream ─┐
//! agent  server(io) → Acceptor ── accept() ─▶ MuxStream ─┴─ yamux frames ── io
//! ```
//!
//! Every stream has its own window: a reader that is slow holds up its own stream only. What a peer
//! can make this side buffer is bounded by [`MAX_STREAMS`] windows. A client takes no streams from
//! its peer: one that opens streams ends the connection.

#[cfg(test)]
mod model;
mod wire;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, ConnectionError, FrameDecodeError, Mode};

use self::wire::{Held, Wire};
use crate::MAX_STREAMS;

/// Streams that yamux itself allows: streams that are closed here and not yet there count too.
const YAMUX_STREAMS: usize = 4 * MAX_STREAMS;
/// The sum of all receive windows, in bytes: what yamux grants each stream at first.
const MAX_WINDOW: usize = YAMUX_STREAMS * yamux::DEFAULT_CREDIT as usize;
/// The payload of one yamux frame, in bytes. With its header it is below the 32 KiB that a
/// virtio-console port takes in one write. Who passes on much does so in multiples of it.
pub const PAYLOAD: usize = (32 << 10) - 64;
/// Streams that a server has accepted or holds ready; more are reset. A client's stream that is
/// closed there may not be closed here yet.
const ACCEPT_LIMIT: usize = 2 * MAX_STREAMS;
/// Commands to a driver that it has not seen yet; more wait.
const COMMAND_QUEUE: usize = 16;

/// Why a stream could not be opened, or why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum MuxError {
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
    /// [`MAX_STREAMS`] streams are open.
    #[error("{MAX_STREAMS} streams are open already")]
    TooManyStreams,
    /// The client's peer opened a stream.
    #[error("the peer opened a stream")]
    PeerOpened,
    /// The peer broke the rules of streams: windows, numbers, answers to nothing.
    #[error("the peer broke the rules of streams")]
    Violation,
    /// The byte stream failed, or the peer did not speak yamux.
    #[error("the connection failed")]
    Connection(#[source] ConnectionError),
}

/// One stream. Dropping it without a shutdown resets it; the peer reads an end of stream.
#[derive(Debug)]
pub struct MuxStream {
    inner: Compat<yamux::Stream>,
    number: u32,
    held: Held,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The host's handle: it opens streams.
#[derive(Clone, Debug)]
pub struct Opener {
    commands: mpsc::Sender<Command>,
    permits: Arc<Semaphore>,
}

/// The agent's handle: it accepts streams.
#[derive(Debug)]
pub struct Acceptor {
    streams: mpsc::Receiver<MuxStream>,
    commands: mpsc::Sender<Command>,
}

/// Ends the connection in good order; see [`Closer::close`].
#[derive(Clone, Debug)]
pub struct Closer {
    commands: mpsc::Sender<Command>,
}

/// Moves the bytes. It ends when the connection does: without an error when either side closed it.
#[must_use = "nothing moves unless the driver is polled"]
pub struct Driver<T> {
    connection: Connection<Compat<Wire<T>>>,
    commands: mpsc::Receiver<Command>,
    /// Where streams of the peer go; a client has none.
    accepted: Option<mpsc::Sender<MuxStream>>,
    permits: Arc<Semaphore>,
    opening: Option<(OwnedSemaphorePermit, oneshot::Sender<MuxStream>)>,
    closing: Option<oneshot::Sender<()>>,
    held: Held,
}

#[derive(Debug)]
enum Command {
    Open(OwnedSemaphorePermit, oneshot::Sender<MuxStream>),
    Close(oneshot::Sender<()>),
}

/// The side that opens streams, over `io` after the preamble.
pub fn client<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> (Opener, Driver<T>) {
    let (commands, driver) = driver(io, Mode::Client, None);
    (Opener { commands, permits: driver.permits.clone() }, driver)
}

/// The side that accepts streams, over `io` after the preamble.
pub fn server<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> (Acceptor, Driver<T>) {
    let (accepted, streams) = mpsc::channel(ACCEPT_LIMIT);
    let (commands, driver) = driver(io, Mode::Server, Some(accepted));
    (Acceptor { streams, commands }, driver)
}

fn driver<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    mode: Mode,
    accepted: Option<mpsc::Sender<MuxStream>>,
) -> (mpsc::Sender<Command>, Driver<T>) {
    let mut config = Config::default();
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(YAMUX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_WINDOW));
    config.set_split_send_size(PAYLOAD);
    let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
    let wire = Wire::new(io);
    let held = wire.held();
    let connection = Connection::new(wire.compat(), config, mode);
    let limit = if accepted.is_some() { ACCEPT_LIMIT } else { MAX_STREAMS };
    let permits = Arc::new(Semaphore::new(limit));
    let (opening, closing) = (None, None);
    (sender, Driver { connection, commands, accepted, permits, opening, closing, held })
}

impl Opener {
    /// Opens a stream. The peer learns of it with the first bytes written to it.
    pub async fn open(&self) -> Result<MuxStream, MuxError> {
        let permit =
            self.permits.clone().try_acquire_owned().map_err(|_| MuxError::TooManyStreams)?;
        let (reply, stream) = oneshot::channel();
        let command = Command::Open(permit, reply);
        self.commands.send(command).await.map_err(|_| MuxError::Closed)?;
        stream.await.map_err(|_| MuxError::Closed)
    }

    /// A handle that ends the connection.
    pub fn closer(&self) -> Closer {
        Closer { commands: self.commands.clone() }
    }
}

impl Acceptor {
    /// The next stream that the peer opened; `None` when the connection has ended.
    pub async fn accept(&mut self) -> Option<MuxStream> {
        self.streams.recv().await
    }

    /// A handle that ends the connection.
    pub fn closer(&self) -> Closer {
        Closer { commands: self.commands.clone() }
    }
}

impl Closer {
    /// Writes whatever was written to any stream to the byte stream, then ends the connection.
    /// Returns when that is done, or when the connection has ended otherwise.
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Close(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = Result<(), MuxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            if this.closing.is_some() {
                let closed = std::task::ready!(this.connection.poll_close(cx));
                drop(this.closing.take());
                return Poll::Ready(closed.or_else(ended));
            }
            match this.connection.poll_next_inbound(cx) {
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(ended(error)),
                Poll::Ready(Some(Ok(stream))) => this.accept(stream)?,
                // Commands come last: what was read may have made room for a stream.
                Poll::Pending => std::task::ready!(this.poll_command(cx))?,
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    fn accept(&self, stream: yamux::Stream) -> Result<(), MuxError> {
        let accepted = self.accepted.as_ref().ok_or(MuxError::PeerOpened)?;
        // Without a permit or a place in the queue the stream is dropped, which resets it.
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            let _ = accepted.try_send(MuxStream::new(stream, Some(permit), self.held.clone()));
        }
        Ok(())
    }

    /// Carries out one command, if there is one.
    fn poll_command(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), MuxError>> {
        if self.opening.is_none() {
            match std::task::ready!(self.commands.poll_recv(cx)) {
                Some(Command::Open(permit, reply)) => self.opening = Some((permit, reply)),
                Some(Command::Close(reply)) => {
                    self.closing = Some(reply);
                    return Poll::Ready(Ok(()));
                }
                None => return Poll::Pending,
            }
        }
        // Pending while as many streams as yamux allows were never answered by the peer.
        let stream = std::task::ready!(self.connection.poll_new_outbound(cx));
        match (stream, self.opening.take()) {
            (Ok(stream), Some((permit, reply))) => {
                let _ = reply.send(MuxStream::new(stream, Some(permit), self.held.clone()));
            }
            (Ok(stream), None) => drop(stream),
            (Err(error), _) => return Poll::Ready(Err(MuxError::Connection(error))),
        }
        Poll::Ready(Ok(()))
    }
}

impl<T> std::fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

fn ended(error: ConnectionError) -> Result<(), MuxError> {
    match error {
        ConnectionError::Closed => Ok(()),
        ConnectionError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(MuxError::Violation)
        }
        ConnectionError::Decode(FrameDecodeError::Io(error)) => {
            Err(MuxError::Connection(ConnectionError::Io(error)))
        }
        error => Err(MuxError::Connection(error)),
    }
}

impl MuxStream {
    fn new(stream: yamux::Stream, permit: Option<OwnedSemaphorePermit>, held: Held) -> Self {
        let number = stream.id().val();
        held.begin(number);
        Self { inner: stream.compat(), number, held, _permit: permit }
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        self.held.end(self.number);
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if polled.is_pending() {
            this.held.drained(this.number);
        }
        polled
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    type Drive = JoinHandle<Result<(), MuxError>>;

    fn pair() -> (Opener, Acceptor, Drive, Drive) {
        let (host, agent) = duplex(4096);
        let (opener, host) = client::<DuplexStream>(host);
        let (acceptor, agent) = server(agent);
        (opener, acceptor, tokio::spawn(host), tokio::spawn(agent))
    }

    #[tokio::test]
    async fn carries_bytes_both_ways() {
        let (opener, mut acceptor, _host, _agent) = pair();
        let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = sent.clone();
        let echo = tokio::spawn(async move {
            let stream = acceptor.accept().await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
            acceptor
        });
        let (mut reader, mut writer) = tokio::io::split(opener.open().await.unwrap());
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
        writing.await.unwrap();
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn a_stream_that_is_not_read_holds_up_no_other() {
        let (opener, mut acceptor, _host, _agent) = pair();
        let mut stuck = opener.open().await.unwrap();
        stuck.write_all(b"x").await.unwrap();
        let _never_read = acceptor.accept().await.unwrap();
        let filler = tokio::spawn(async move { stuck.write_all(&vec![0; 4 << 20]).await });
        let mut other = opener.open().await.unwrap();
        for round in 0..64_u8 {
            other.write_all(&[round]).await.unwrap();
        }
        let mut bytes = [0; 64];
        acceptor.accept().await.unwrap().read_exact(&mut bytes).await.unwrap();
        assert!(!filler.is_finished());
        filler.abort();
    }

    #[tokio::test]
    async fn close_delivers_what_was_written() {
        let (opener, mut acceptor, host, agent) = pair();
        let mut stream = opener.open().await.unwrap();
        stream.write_all(b"?").await.unwrap();
        let mut accepted = acceptor.accept().await.unwrap();
        let message = vec![7; 100_000];
        accepted.write_all(&message).await.unwrap();
        let closer = acceptor.closer();
        let closing = tokio::spawn(async move { closer.close().await });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert!(received == message);
        closing.await.unwrap();
        agent.await.unwrap().unwrap();
        host.await.unwrap().unwrap();
        assert!(matches!(opener.open().await, Err(MuxError::Closed)));
        assert!(acceptor.accept().await.is_none());
    }

    #[tokio::test]
    async fn refuses_more_streams_than_the_limit() {
        let (opener, mut acceptor, _host, _agent) = pair();
        let agent = tokio::spawn(async move {
            let mut streams = Vec::new();
            while let Some(stream) = acceptor.accept().await {
                streams.push(stream);
            }
        });
        let mut open = Vec::new();
        for _ in 0..MAX_STREAMS {
            let mut stream = opener.open().await.unwrap();
            stream.write_all(b"x").await.unwrap();
            open.push(stream);
        }
        assert!(matches!(opener.open().await, Err(MuxError::TooManyStreams)));
        open.pop();
        opener.open().await.unwrap();
        agent.abort();
    }

    #[tokio::test]
    async fn a_client_takes_no_streams() {
        let (host, agent) = duplex(4096);
        let (_opener, host) = client(host);
        let mut agent = Connection::new(agent.compat(), Config::default(), Mode::Server);
        let opening = tokio::spawn(async move {
            let stream = std::future::poll_fn(|cx| agent.poll_new_outbound(cx)).await.unwrap();
            let mut stream = stream.compat();
            stream.write_all(b"x").await.unwrap();
            std::future::poll_fn(|cx| agent.poll_next_inbound(cx)).await
        });
        assert!(matches!(host.await, Err(MuxError::PeerOpened)));
        opening.abort();
    }

    #[tokio::test]
    async fn both_sides_may_flood_at_a_time() {
        let (opener, mut acceptor, _host, _agent) = pair();
        let total = 16 << 20;
        let flood = async |stream: MuxStream| {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sending = tokio::spawn(async move {
                let bytes = vec![2; 50_000];
                let mut left = total;
                while left > 0 {
                    let count = left.min(bytes.len());
                    writer.write_all(&bytes[..count]).await.unwrap();
                    left -= count;
                }
                writer.shutdown().await.unwrap();
            });
            let mut received = Vec::new();
            reader.read_to_end(&mut received).await.unwrap();
            sending.await.unwrap();
            received.len()
        };
        let host = async { flood(opener.open().await.unwrap()).await };
        let agent = async { flood(acceptor.accept().await.unwrap()).await };
        assert_eq!(tokio::join!(host, agent), (total, total));
    }

    #[tokio::test]
    async fn garbage_ends_the_connection() {
        let (host, mut agent) = duplex(4096);
        let (opener, host) = client(host);
        let host = tokio::spawn(host);
        agent.write_all(&[0xff; 64]).await.unwrap();
        assert!(matches!(host.await.unwrap(), Err(MuxError::Connection(_))));
        assert!(matches!(opener.open().await, Err(MuxError::Closed)));
    }
}
