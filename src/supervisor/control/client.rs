//! The client's side.

use std::io;
use std::path::{Path, PathBuf};

use msb_protocol::{ExecRequest, FrameError, FsRequest, read_frame, write_message};
use tokio::net::UnixStream;

use super::socket::with_short_path;
use super::{ControlReply, ControlRequest, DeniedReason, JailLayer, MetricsSample, StatusEvent};
use crate::home::Home;
use crate::spec::SandboxSpec;
use crate::store::{RunIdentity, Store, StoreError};
use crate::supervisor::readable::readable;
use crate::supervisor::{identity, settle};

/// A way to the supervisor of one sandbox. Each request makes a connection of its own.
#[derive(Clone, Debug)]
pub struct ControlClient {
    socket: PathBuf,
}

/// Why a supervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No supervisor listens: the sandbox is not running.
    #[error("the sandbox is not running: start it first")]
    NotRunning,
    /// The socket could not be reached.
    #[error("{socket}: cannot reach the supervisor")]
    Connect {
        /// The control socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the supervisor broke")]
    Io(#[from] io::Error),
    /// The supervisor answered something else.
    #[error("the supervisor's answer makes no sense")]
    Frame(#[from] FrameError),
    /// The supervisor ended before it answered.
    #[error("the supervisor ended before it answered")]
    Gone,
    /// The supervisor did not want to.
    #[error(transparent)]
    Denied(DeniedReason),
    /// The row could not be read.
    #[error("the sandbox's row cannot be read")]
    Store(#[from] StoreError),
    /// There is no such sandbox.
    #[error("sandbox {0} does not exist")]
    Unknown(String),
}

impl ControlError {
    /// What a request to end a sandbox came to, where one that ends anyway, or has ended, is fine.
    pub fn or_ends(asked: Result<(), Self>) -> Result<(), Self> {
        match asked {
            Err(Self::NotRunning | Self::Gone | Self::Denied(DeniedReason::Stopping)) => Ok(()),
            asked => asked,
        }
    }
}

/// A stream of an exec session: `msb_protocol` frames of [`msb_protocol::ExecInput`] and data one
/// way, of [`msb_protocol::ExecOutput`] and data the other. Dropping it kills the session.
#[derive(Debug)]
pub struct ExecSession {
    /// The connection.
    pub stream: UnixStream,
}

/// Changes of a status.
#[derive(Debug)]
pub struct Watch {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl ControlClient {
    /// The client of sandbox `id`. Connects nothing yet.
    pub fn new(home: &Home, id: &str) -> Self {
        Self { socket: home.socket(id) }
    }

    /// What the sandbox is doing.
    pub async fn status(&self) -> Result<StatusEvent, ControlError> {
        let mut stream = self.send(&ControlRequest::Status).await?;
        match read_reply(&mut stream, &mut Vec::new()).await? {
            ControlReply::Status(event) => Ok(*event),
            ControlReply::Denied(reason) => Err(ControlError::Denied(reason)),
            _ => Err(FrameError::Unexpected.into()),
        }
    }

    /// How the VM process is confined.
    pub async fn jail(&self) -> Result<Vec<JailLayer>, ControlError> {
        let mut stream = self.send(&ControlRequest::Jail).await?;
        match read_reply(&mut stream, &mut Vec::new()).await? {
            ControlReply::Jail(layers) => Ok(layers),
            ControlReply::Denied(reason) => Err(ControlError::Denied(reason)),
            _ => Err(FrameError::Unexpected.into()),
        }
    }

    /// What it has used so far.
    pub async fn metrics(&self) -> Result<MetricsSample, ControlError> {
        let mut stream = self.send(&ControlRequest::Metrics).await?;
        match read_reply(&mut stream, &mut Vec::new()).await? {
            ControlReply::Metrics(sample) => Ok(*sample),
            ControlReply::Denied(reason) => Err(ControlError::Denied(reason)),
            _ => Err(FrameError::Unexpected.into()),
        }
    }

    /// The status, and the process that tells it.
    pub async fn run(&self) -> Result<(StatusEvent, RunIdentity), ControlError> {
        let mut stream = self.send(&ControlRequest::Status).await?;
        let ControlReply::Status(event) = read_reply(&mut stream, &mut Vec::new()).await? else {
            return Err(FrameError::Unexpected.into());
        };
        let pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.ok_or(ControlError::Gone)?;
        let start_time = identity::start_time(pid).ok_or(ControlError::Gone)?;
        let boot_id = identity::boot_id()?;
        let run = RunIdentity { pid, start_time, boot_id, run_id: event.run_id.clone() };
        Ok((*event, run))
    }

    /// The status and its changes.
    pub async fn watch(&self) -> Result<Watch, ControlError> {
        let stream = self.send(&ControlRequest::Watch).await?;
        Ok(Watch { stream, buffer: Vec::new() })
    }

    /// Has the sandbox stopped in order; returns when that has begun. A second request may shorten
    /// the time that is left, never lengthen it.
    pub async fn stop(&self, grace_ms: Option<u64>) -> Result<(), ControlError> {
        self.ask(&ControlRequest::Stop { grace_ms }).await.map(drop)
    }

    /// Counts as a use of the sandbox until what this gives is dropped.
    pub async fn attach(&self) -> Result<UnixStream, ControlError> {
        self.ask(&ControlRequest::Attach).await
    }

    /// Has the sandbox stopped in order once its exec sessions and detached commands have ended, of
    /// which no more begin; returns when that has begun.
    pub async fn drain(&self) -> Result<(), ControlError> {
        self.ask(&ControlRequest::Drain).await.map(drop)
    }

    /// Sends a signal (1 to 64) to the workload's process group; returns when it is on its way.
    pub async fn signal(&self, number: i32) -> Result<(), ControlError> {
        self.ask(&ControlRequest::Signal(number)).await.map(drop)
    }

    /// Has the VM killed; returns when that has begun.
    pub async fn kill(&self) -> Result<(), ControlError> {
        self.ask(&ControlRequest::Kill).await.map(drop)
    }

    /// Tells the supervisor of a spec that differs in fields that need no restart.
    pub async fn update(&self, spec: SandboxSpec) -> Result<(), ControlError> {
        self.ask(&ControlRequest::Update(Box::new(spec))).await.map(drop)
    }

    /// Runs a command. What `request` leaves open (environment, working directory, user) is the
    /// sandbox's; its environment is merged over the sandbox's.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecSession, ControlError> {
        let stream = self.ask(&ControlRequest::Exec(Box::new(request))).await?;
        Ok(ExecSession { stream })
    }

    /// Opens a stream for one request on the files of the guest. Dropping it ends the request.
    pub async fn fs(&self, request: FsRequest) -> Result<UnixStream, ControlError> {
        self.ask(&ControlRequest::Fs(Box::new(request))).await
    }

    /// Tells the sandbox that its disk `file` has become longer; returns when the guest's file system
    /// has grown, which takes less than [`crate::supervisor::GROWTH_PATIENCE`].
    pub async fn grow(&self, file: &Path) -> Result<(), ControlError> {
        self.ask(&ControlRequest::Grow { file: file.to_owned() }).await.map(drop)
    }

    async fn ask(&self, request: &ControlRequest) -> Result<UnixStream, ControlError> {
        let mut stream = self.send(request).await?;
        match read_reply(&mut stream, &mut Vec::new()).await? {
            ControlReply::Accepted => Ok(stream),
            ControlReply::Denied(reason) => Err(ControlError::Denied(reason)),
            _ => Err(FrameError::Unexpected.into()),
        }
    }

    async fn send(&self, request: &ControlRequest) -> Result<UnixStream, ControlError> {
        let connected = with_short_path(&self.socket, |path| {
            let stream = std::os::unix::net::UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        });
        let mut stream = connected.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning,
            _ => ControlError::Connect { socket: self.socket.clone(), source },
        })?;
        let Err(error) = write_message(&mut stream, request).await else { return Ok(stream) };
        // Whoever did not listen may have said why.
        match read_reply(&mut stream, &mut Vec::new()).await {
            Ok(ControlReply::Denied(reason)) => Err(ControlError::Denied(reason)),
            _ => Err(gone(error)),
        }
    }
}

impl Watch {
    /// The next status; `None` when the supervisor has ended. Dropping the future may lose an
    /// event.
    pub async fn next(&mut self) -> Result<Option<StatusEvent>, ControlError> {
        match read_frame(&mut self.stream, &mut self.buffer).await {
            Ok(None) => Ok(None),
            Ok(Some(frame)) => match frame.message()? {
                ControlReply::Status(event) => Ok(Some(*event)),
                ControlReply::Denied(reason) => Err(ControlError::Denied(reason)),
                _ => Err(FrameError::Unexpected.into()),
            },
            Err(FrameError::Truncated) => Ok(None),
            Err(FrameError::Io(e)) if e.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Waits until `done` says so of the status of sandbox `id`, or until its run has ended; the status
/// then. Sees the end of a supervisor, however it ends, at once.
pub async fn wait_until(
    home: &Home,
    id: &str,
    mut done: impl FnMut(&StatusEvent) -> bool,
) -> Result<StatusEvent, ControlError> {
    match ControlClient::new(home, id).watch().await {
        Ok(mut watch) => {
            while let Some(event) = watch.next().await? {
                if event.has_ended() || done(&event) {
                    return Ok(event);
                }
            }
        }
        Err(ControlError::NotRunning | ControlError::Gone) => {}
        Err(error) => return Err(error),
    }
    from_row(home, id).await
}

/// The status that the row of a sandbox tells whose supervisor does not listen.
async fn from_row(home: &Home, id: &str) -> Result<StatusEvent, ControlError> {
    let unknown = || ControlError::Unknown(id.to_owned());
    let store = Store::open_existing(home)?;
    let row = store.sandbox_by_id(id)?.ok_or_else(unknown)?;
    if row.status.is_live()
        && let Some(run) = &row.run
        && let Some(process) = identity::open(run)?
    {
        // Its socket has gone before it: it ends right now.
        readable(process)?.readable().await?.retain_ready();
    }
    settle::settle_one(&store, id)?;
    let row = store.sandbox_by_id(id)?.ok_or_else(unknown)?;
    Ok(settle::as_event(&row))
}

async fn read_reply(
    stream: &mut UnixStream,
    buffer: &mut Vec<u8>,
) -> Result<ControlReply, ControlError> {
    match read_frame(stream, buffer).await {
        Ok(Some(frame)) => Ok(frame.message()?),
        Ok(None) | Err(FrameError::Truncated) => Err(ControlError::Gone),
        Err(FrameError::Io(error)) => Err(gone(error)),
        Err(error) => Err(error.into()),
    }
}

fn gone(error: io::Error) -> ControlError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ControlError::Gone,
        _ => ControlError::Io(error),
    }
}
