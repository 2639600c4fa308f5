//! Running a command in a running sandbox.

use msb_protocol::{
    ExecFailure, ExecInput, ExecOutput, ExecRequest, ExitStatus, Frame, FrameError, read_frame,
    write_data, write_message,
};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::home::Home;
use crate::supervisor::{ControlClient, ControlError};

/// What happens in an exec session.
#[derive(Debug, PartialEq, Eq)]
pub enum ExecEvent<'a> {
    /// The command runs.
    Started {
        /// Its pid in the guest.
        pid: u32,
    },
    /// It wrote to standard output (or, with a terminal, to either).
    Stdout(&'a [u8]),
    /// It wrote to standard error.
    Stderr(&'a [u8]),
    /// It ended; nothing follows.
    Exited(ExitStatus),
    /// It could not be started; nothing follows.
    Failed(ExecFailure),
}

/// Why an exec session broke.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The supervisor did not open it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The stream broke or made no sense.
    #[error("the exec session broke")]
    Frame(#[from] FrameError),
    /// The sandbox ended first.
    #[error("the sandbox ended before the command did")]
    Gone,
}

/// The output side of an exec session.
#[derive(Debug)]
pub struct ExecStream {
    reader: OwnedReadHalf,
    buffer: Vec<u8>,
}

/// The input side of an exec session. The session ends, and its processes are killed, when both
/// sides are dropped.
#[derive(Debug)]
pub struct ExecInputHandle {
    writer: OwnedWriteHalf,
}

/// Runs a command in the sandbox with this id. What `request` leaves open (environment, working
/// directory, user) is the sandbox's.
pub async fn exec(
    home: &Home,
    id: &str,
    request: ExecRequest,
) -> Result<(ExecStream, ExecInputHandle), ExecError> {
    let session = ControlClient::new(home, id).exec(request).await?;
    let (reader, writer) = session.stream.into_split();
    Ok((ExecStream { reader, buffer: Vec::new() }, ExecInputHandle { writer }))
}

impl ExecStream {
    /// The next event. Dropping the future may lose one.
    pub async fn next(&mut self) -> Result<ExecEvent<'_>, ExecError> {
        match read_frame(&mut self.reader, &mut self.buffer).await {
            Ok(Some(Frame::Data { fd: 1, bytes })) => Ok(ExecEvent::Stdout(bytes)),
            Ok(Some(Frame::Data { fd: 2, bytes })) => Ok(ExecEvent::Stderr(bytes)),
            Ok(Some(Frame::Data { .. })) => Err(FrameError::Unexpected.into()),
            Ok(Some(frame)) => Ok(match frame.message()? {
                ExecOutput::Started { pid } => ExecEvent::Started { pid },
                ExecOutput::Exited(status) => ExecEvent::Exited(status),
                ExecOutput::Failed(failure) => ExecEvent::Failed(failure),
            }),
            Ok(None) | Err(FrameError::Truncated) => Err(ExecError::Gone),
            Err(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                Err(ExecError::Gone)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl ExecInputHandle {
    /// Writes to the command's standard input; no bytes close it.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        write_data(&mut self.writer, 0, bytes).await
    }

    /// Sends a signal to the command's process group.
    pub async fn signal(&mut self, number: i32) -> std::io::Result<()> {
        write_message(&mut self.writer, &ExecInput::Signal(number)).await
    }

    /// Tells the command's terminal its size.
    pub async fn resize(&mut self, rows: u16, cols: u16) -> std::io::Result<()> {
        write_message(&mut self.writer, &ExecInput::Resize { rows, cols }).await
    }
}
