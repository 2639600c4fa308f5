//! What is fuzzed: one function for each target, from bytes to a panic or none. `cargo fuzz` calls
//! them with what it thinks of, `tests/it/corpus.rs` with the corpus and variants of it.

use std::fmt::Debug;
use std::fs;
use std::future::Future;
use std::path::Path;

use msb_protocol::mux::{self, MuxStream};
use msb_protocol::{
    ControlInput, ControlOutput, ExecInput, ExecOutput, FilesPreamble, Frame, FsReply,
    GuestMetrics, MAX_DATA, MAX_MESSAGE, Preamble, ProbeOutput, Request, TreeItem, append_data,
    read_frame, read_frame_blocking,
};
use msb_transfer::{Input, Policy, Target, receive};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// Streams that a host has open when its guest attacks.
const STREAMS: usize = 3;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A stream of frames, read by both readers: they agree, and take no more memory than a frame may.
pub(crate) fn frames(data: &[u8]) {
    let mut rest = data;
    let (mut buffer, mut again, mut ahead) = (Vec::new(), Vec::new(), data);
    loop {
        let before = rest.len();
        let blocking = read_frame_blocking(&mut rest, &mut buffer);
        let waiting = run(read_frame(&mut ahead, &mut again));
        match (&blocking, &waiting) {
            (Ok(Some(one)), Ok(Some(other))) => {
                assert_eq!(one, other);
                whole(one, &data[data.len() - before..data.len() - rest.len()]);
            }
            (Ok(None), Ok(None)) => break,
            (Err(one), Err(other)) => {
                assert_eq!(one.to_string(), other.to_string());
                break;
            }
            (one, other) => panic!("{one:?} is not {other:?}"),
        }
        assert_eq!(rest.len(), ahead.len());
        assert!(buffer.capacity() <= 2 * MAX_MESSAGE);
    }
}

/// A frame of data is written as it was read.
fn whole(frame: &Frame<'_>, read: &[u8]) {
    match frame {
        Frame::Message(bytes) => assert!(bytes.len() <= MAX_MESSAGE),
        Frame::Data { fd, bytes } => {
            assert!(bytes.len() <= MAX_DATA);
            let mut written = Vec::new();
            let fill = |space: &mut [u8]| {
                space.copy_from_slice(bytes);
                Ok(bytes.len())
            };
            append_data(&mut written, *fd, bytes.len(), fill).unwrap();
            assert!(bytes.is_empty() || written == read);
        }
    }
}

/// One message, as any of those that there are: what can be read is written and read as the same.
pub(crate) fn messages(data: &[u8]) {
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
        let Ok(message) = Frame::Message(data).message::<T>() else { return };
        let mut bytes = Vec::new();
        ciborium::into_writer(&message, &mut bytes).unwrap();
        assert_eq!(Frame::Message(&bytes).message::<T>().unwrap(), message);
    }
    check::<Request>(data);
    check::<ControlInput>(data);
    check::<ControlOutput>(data);
    check::<ExecInput>(data);
    check::<ExecOutput>(data);
    check::<ProbeOutput>(data);
    check::<GuestMetrics>(data);
    check::<FsReply>(data);
    check::<TreeItem>(data);
    if let Ok(ExecOutput::Exited(status)) = Frame::Message(data).message() {
        let _ = (status.code(), status.success());
    }
    if let Some(bytes) = data.first_chunk::<{ Preamble::LEN }>() {
        let _ = Preamble::decode(*bytes).and_then(Preamble::negotiate);
    }
    if let Some(bytes) = data.first_chunk() {
        let _ = FilesPreamble::decode(bytes);
    }
}

/// Reads a stream to its end; how much came.
async fn drain(mut stream: MuxStream) -> usize {
    let (mut space, mut total) = (vec![0; 8 << 10], 0);
    while let Ok(count @ 1..) = stream.read(&mut space).await {
        total += count;
    }
    total
}

/// A guest's side of the link, whatever it says: the host's ends, and nothing comes from nowhere.
pub(crate) fn mux_host(data: &[u8]) {
    run(async {
        let (ours, theirs) = duplex(64 << 10);
        let (mut hearing, mut saying) = tokio::io::split(theirs);
        let (opener, driver) = mux::client(ours);
        let talk = async {
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                let Ok(mut stream) = opener.open().await else { break };
                let _ = stream.write_all(b"hello").await;
                streams.push(stream);
            }
            drop(opener);
            let _ = saying.write_all(data).await;
            let _ = saying.shutdown().await;
            let mut total = 0;
            for stream in streams {
                total += drain(stream).await;
            }
            assert!(total <= data.len(), "{total} bytes of {}", data.len());
        };
        let hear = async {
            let _ = tokio::io::copy(&mut hearing, &mut tokio::io::sink()).await;
        };
        let drive = async {
            let _ = driver.await;
        };
        tokio::join!(talk, hear, drive);
    });
}

/// The same, of a host's side: the agent believes no more.
pub(crate) fn mux_agent(data: &[u8]) {
    run(async {
        let (ours, theirs) = duplex(64 << 10);
        let (mut hearing, mut saying) = tokio::io::split(theirs);
        let (mut acceptor, driver) = mux::server(ours);
        let talk = async {
            let mut total = 0;
            while let Some(stream) = acceptor.accept().await {
                total += drain(stream).await;
            }
            assert!(total <= data.len(), "{total} bytes of {}", data.len());
        };
        let say = async {
            let _ = saying.write_all(data).await;
            let _ = saying.shutdown().await;
        };
        let hear = async {
            let _ = tokio::io::copy(&mut hearing, &mut tokio::io::sink()).await;
        };
        let drive = async {
            let _ = driver.await;
        };
        tokio::join!(talk, say, hear, drive);
    });
}

/// A tree from the other side: whatever it says, nothing is made or read outside of the target, and
/// nothing half made is left.
pub(crate) fn transfer(data: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let target = dir.path().join("target");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../outside", target.join("planted")).unwrap();
    let mut told = 0_u64;
    let to = Target { path: &target, name: "root".as_ref(), contents: false };
    let _ = receive(&mut Input::new(data), to, Policy::default(), &mut |_| told += 1);
    assert_eq!(names(dir.path()), ["outside", "target"]);
    assert_eq!(names(&outside), ["secret"]);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert!(names(&target).iter().all(|name| !name.starts_with(".msb-")));
    assert!(told <= data.len() as u64 + 1);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
