//! The two tasks that have the connection of a session: what waits for one event or one chunk can
//! be dropped at any time without tearing a frame.

use std::io;
use std::sync::Arc;

use msb_protocol::{
    ExecInput, ExecOutput, ExitStatus, Frame, FrameError, INPUT_WINDOW, read_frame, write_data,
    write_message,
};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{ExecError, ExecEvent};

/// What [`read`] tells.
pub(super) type Told = Result<ExecEvent, ExecError>;

/// A message to the agent, and who waits for it to be on its way.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) input: ExecInput,
    pub(super) written: oneshot::Sender<()>,
}

/// Reads events until the last one. Once `cut`, the connection is closed, which kills the command.
pub(super) async fn read(
    mut reader: OwnedReadHalf,
    events: mpsc::Sender<Told>,
    window: Arc<Semaphore>,
    cut: CancellationToken,
) {
    let mut buffer = Vec::new();
    loop {
        let told = tokio::select! {
            told = next(&mut reader, &mut buffer, &window) => told,
            () = cut.cancelled() => Ok(ExecEvent::Exited(ExitStatus::Signal(KILL))),
        };
        let last = matches!(told, Err(_) | Ok(ExecEvent::Exited(_)));
        if last {
            drop(reader);
            // Nothing more is on its way to the command, and who sends something hears it.
            cut.cancel();
            let _ = events.send(told).await;
            return;
        }
        let room = tokio::select! {
            room = events.reserve() => room.ok(),
            () = cut.cancelled() => {
                drop(reader);
                if let Ok(room) = events.reserve().await {
                    room.send(told);
                    let _ = events.send(Ok(ExecEvent::Exited(ExitStatus::Signal(KILL)))).await;
                }
                return;
            }
        };
        let Some(room) = room else { return };
        room.send(told);
    }
}

/// Linux's SIGKILL.
pub(super) const KILL: i32 = 9;
/// The highest signal number.
const LAST_SIGNAL: i32 = 64;

async fn next(reader: &mut OwnedReadHalf, buffer: &mut Vec<u8>, window: &Semaphore) -> Told {
    loop {
        return match read_frame(reader, buffer).await {
            Ok(Some(Frame::Data { fd: 1, bytes })) => Ok(ExecEvent::Stdout(bytes.to_vec())),
            Ok(Some(Frame::Data { fd: 2, bytes })) => Ok(ExecEvent::Stderr(bytes.to_vec())),
            Ok(Some(Frame::Data { .. })) => Err(FrameError::Unexpected.into()),
            Ok(Some(frame)) => match frame.message()? {
                ExecOutput::Started { pid } => Ok(ExecEvent::Started { pid }),
                ExecOutput::InputTaken(bytes) => {
                    widen(window, bytes);
                    continue;
                }
                ExecOutput::Exited(status) => Ok(ExecEvent::Exited(sane(status))),
                ExecOutput::Failed(failure) => Err(ExecError::Failed(failure)),
            },
            Ok(None) | Err(FrameError::Truncated) => Err(ExecError::Gone),
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err(ExecError::Gone)
            }
            Err(error) => Err(error.into()),
        };
    }
}

/// Lets as much input follow as was taken; the guest is not trusted to have been sent as much.
fn widen(window: &Semaphore, bytes: u64) {
    let sent = INPUT_WINDOW.saturating_sub(window.available_permits());
    window.add_permits(usize::try_from(bytes).unwrap_or(usize::MAX).min(sent));
}

/// The guest is not trusted to say only what a kernel does.
fn sane(status: ExitStatus) -> ExitStatus {
    match status {
        ExitStatus::Code(code) => ExitStatus::Code(code.clamp(0, 255)),
        ExitStatus::Signal(signal) => ExitStatus::Signal(signal.clamp(1, LAST_SIGNAL)),
    }
}

/// Writes messages and input, messages first, for as long as anybody may send some.
pub(super) async fn write(
    mut writer: OwnedWriteHalf,
    mut messages: mpsc::Receiver<Message>,
    mut input: mpsc::Receiver<Vec<u8>>,
    cut: CancellationToken,
) {
    let work = async {
        let mut open = true;
        loop {
            let written = tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Some(message) => {
                        let written = write_message(&mut writer, &message.input).await;
                        if written.is_ok() {
                            let _ = message.written.send(());
                        }
                        written
                    }
                    None => return,
                },
                chunk = input.recv(), if open => {
                    // No bytes are the end of the input.
                    open = chunk.is_some();
                    write_data(&mut writer, 0, &chunk.unwrap_or_default()).await
                }
            };
            if written.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => {}
        () = work => {}
    }
    // Dropped, a half of a connection is shut down, which the supervisor would take for the end
    // of the session: it lasts until the reader has its last event.
    writer.forget();
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    /// A slow reader of output whose command is cut off has all of it up to there.
    #[tokio::test]
    async fn nothing_is_left_out_before_a_cut() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for byte in 0..100 {
            write_data(&mut theirs, 1, &[byte]).await.unwrap();
        }
        let (events, mut told) = mpsc::channel(1);
        let cut = CancellationToken::new();
        let window = Arc::new(Semaphore::new(0));
        let (reader, _writer) = ours.into_split();
        let reading = tokio::spawn(read(reader, events, window, cut.clone()));
        for byte in 0..10 {
            let event = told.recv().await.unwrap().unwrap();
            assert!(matches!(&event, ExecEvent::Stdout(bytes) if *bytes == [byte]), "{event:?}");
        }
        cut.cancel();
        let mut next = 10;
        loop {
            match told.recv().await.unwrap().unwrap() {
                ExecEvent::Stdout(bytes) => assert_eq!(bytes, [next]),
                event => {
                    assert!(matches!(event, ExecEvent::Exited(ExitStatus::Signal(KILL))));
                    break;
                }
            }
            next += 1;
        }
        reading.await.unwrap();
    }
}
