//! Streams against a model that is a queue for each direction.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};

use super::*;

/// Streams of a script.
const STREAMS: usize = 4;
/// What a direction may have under way, in bytes.
const WINDOW: usize = yamux::DEFAULT_CREDIT as usize;

#[derive(Clone, Debug)]
enum Step {
    /// Both drivers may work this often.
    Work(u8),
    /// A side (the host, or the agent) offers bytes on a stream, some at a time.
    Send { stream: usize, host: bool, length: usize, times: u8 },
    /// A side takes what is there, up to a length.
    Receive { stream: usize, host: bool, length: usize },
    /// A side has sent all.
    Finish { stream: usize, host: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![4 => 1..40_usize, 2 => 1..5_000_usize, 1 => 1..300_000_usize];
    prop_oneof![
        4 => (1..60_u8).prop_map(Step::Work),
        6 => (0..STREAMS, any::<bool>(), length.clone(), 1..20_u8)
            .prop_map(|(stream, host, length, times)| Step::Send { stream, host, length, times }),
        6 => (0..STREAMS, any::<bool>(), length)
            .prop_map(|(stream, host, length)| Step::Receive { stream, host, length }),
        1 => (0..STREAMS, any::<bool>())
            .prop_map(|(stream, host)| Step::Finish { stream, host }),
    ]
}

/// One direction: what was sent and not received.
#[derive(Default)]
struct Direction {
    under_way: VecDeque<u8>,
    next: u8,
    finished: bool,
}

impl Direction {
    fn send(&mut self, stream: &mut MuxStream, length: usize) {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().skip(self.next.into()).take(length).collect();
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(sent) = Pin::new(stream).poll_write(&mut cx, &bytes) {
            let sent = &bytes[..sent.unwrap()];
            self.next = sent.last().map_or(self.next, |last| last.wrapping_add(1));
            self.under_way.extend(sent);
        }
        assert!(self.under_way.len() <= WINDOW, "{} bytes under way", self.under_way.len());
    }

    fn receive(&mut self, stream: &mut MuxStream, length: usize) {
        let mut space = vec![0; length];
        let mut buf = ReadBuf::new(&mut space);
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(received) = Pin::new(stream).poll_read(&mut cx, &mut buf) {
            received.unwrap();
            self.received(buf.filled());
            assert!(!buf.filled().is_empty() || (self.finished && self.under_way.is_empty()));
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.under_way.len(), "more came than was sent");
        let expected: Vec<u8> = self.under_way.drain(..bytes.len()).collect();
        assert!(bytes == expected, "something else came than was sent");
    }
}

/// A stream, from the side that sends.
struct Both {
    host: (MuxStream, Direction),
    agent: (MuxStream, Direction),
}

impl Both {
    async fn finish(&mut self, host: bool) {
        let (stream, direction) = if host { &mut self.host } else { &mut self.agent };
        if !std::mem::replace(&mut direction.finished, true) {
            stream.shutdown().await.unwrap();
        }
    }
}

async fn open(opener: &Opener, acceptor: &mut Acceptor) -> Both {
    let mut host = opener.open().await.unwrap();
    host.write_all(b"?").await.unwrap();
    let mut agent = acceptor.accept().await.unwrap();
    assert_eq!(agent.read_u8().await.unwrap(), b'?');
    Both { host: (host, Direction::default()), agent: (agent, Direction::default()) }
}

async fn run(pipe: usize, steps: Vec<Step>) {
    let (host, agent) = duplex(pipe);
    let (opener, host) = client(host);
    let (mut acceptor, agent) = server(agent);
    let drivers = [tokio::spawn(host), tokio::spawn(agent)];
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(open(&opener, &mut acceptor).await);
    }
    for step in steps {
        match step {
            Step::Work(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
            Step::Send { stream, host, length, times } => {
                let both = &mut streams[stream];
                let (stream, direction) = if host { &mut both.host } else { &mut both.agent };
                for _ in 0..if direction.finished { 0 } else { times } {
                    direction.send(stream, length);
                }
            }
            Step::Receive { stream, host, length } => {
                let Both { host: ours, agent: theirs } = &mut streams[stream];
                let (to, from) = if host { (ours, theirs) } else { (theirs, ours) };
                from.1.receive(&mut to.0, length);
            }
            Step::Finish { stream, host } => streams[stream].finish(host).await,
        }
    }
    // Whatever is under way arrives, and nothing else.
    for mut both in streams {
        both.finish(true).await;
        both.finish(false).await;
        let Both { host: (mut host, mut sent), agent: (mut agent, mut answered) } = both;
        let (mut to_agent, mut to_host) = (Vec::new(), Vec::new());
        let (a, b) = tokio::join!(agent.read_to_end(&mut to_agent), host.read_to_end(&mut to_host));
        a.and(b).unwrap();
        sent.received(&to_agent);
        answered.received(&to_host);
        assert!(sent.under_way.is_empty() && answered.under_way.is_empty(), "something was lost");
    }
    drop((opener, acceptor));
    for driver in drivers {
        driver.abort();
    }
}

proptest! {
    #[test]
    fn what_is_sent_is_what_arrives(
        pipe in prop_oneof![1 => 20..64_usize, 4 => Just(4096), 4 => Just(1 << 20)],
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(pipe, steps));
    }
}
