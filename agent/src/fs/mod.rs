//! Requests on files: each one by a helper process.
//!
//! ```text
//! stream ◀─ frames as they are ─▶ socket pair ◀─▶ helper: reads and writes files, and blocks
//! ```
//!
//! The agent itself never waits for a disk, so a copy of any size holds up nothing else, and neither
//! does a file system that does not answer: its helper waits, and can be killed. What it does is in
//! [`requests`].
//!
//! The host ends a request early by closing or resetting its stream: the helper sees its socket
//! closed, removes what it has not completed and ends, or is killed after [`GRACE`].

mod requests;

use std::io;
use std::time::Duration;

use msb_protocol::mux::MuxStream;
use msb_protocol::{FsFailure, FsReply, FsRequest, write_message};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use crate::helper::{self, Stopped, pass};
use crate::reaper::Reaper;

/// How long a helper may take to notice that nobody listens any more.
const GRACE: Duration = Duration::from_secs(2);
/// Serves the request to its end.
pub(crate) async fn serve(
    reaper: &Reaper,
    request: FsRequest,
    mut reader: ReadHalf<MuxStream>,
    mut writer: WriteHalf<MuxStream>,
) {
    let (mut socket, pid) = match helper::start(&[], |socket| requests::serve(socket, request)) {
        Ok(started) => started,
        Err(error) => return refuse(writer, &error.to_string()).await,
    };
    let exit = reaper.watch(pid);
    let (mut from_helper, mut to_helper) = socket.split();
    tokio::select! {
        stopped = pass(&mut from_helper, &mut writer) => {
            if matches!(stopped, Stopped::From) {
                let _ = writer.shutdown().await;
            }
        }
        () = feed(&mut reader, &mut to_helper) => {}
    }
    drop(socket);
    if timeout(GRACE, exit).await.is_err() {
        // Its number stays its own until it is collected, which takes it off the list.
        reaper.signal_group(pid, libc::SIGKILL);
    }
}

/// Answers a request that is not served.
pub(crate) async fn refuse(mut writer: WriteHalf<MuxStream>, why: &str) {
    let failure = FsFailure::new(b"", &io::Error::other(why.to_owned()));
    // It reads the same in the place of an item of a tree.
    let _ = write_message(&mut writer, &FsReply::Failed(failure)).await;
    let _ = writer.shutdown().await;
}

/// Passes on what the host sends; returns when the host has gone. A helper that does not listen any
/// more may still have something to say.
async fn feed(reader: &mut ReadHalf<MuxStream>, to: &mut (impl AsyncWrite + Unpin)) {
    if matches!(pass(reader, to).await, Stopped::To) {
        let mut rest = [0; 4096];
        while matches!(reader.read(&mut rest).await, Ok(1..)) {}
    }
}
