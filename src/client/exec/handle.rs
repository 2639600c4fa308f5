//! A session, from the caller's side.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use msb_protocol::{ExecInput, ExitStatus, INPUT_WINDOW};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::config::{Settings, Stdin};
use super::tasks::{self, KILL, Message, Told};
use super::{ExecError, ExecEvent, ExecOutput};

/// How long a kill may wait for a supervisor that does not listen, before the connection is closed,
/// which kills too.
const KILL_PATIENCE: Duration = Duration::from_millis(500);
/// How long the agent may take to say how a killed command ended.
const REAP_PATIENCE: Duration = Duration::from_secs(5);
/// Messages that wait to be written.
const MESSAGES: usize = 16;
/// What is cut off a chunk of input at a time, in bytes.
const CHUNK: usize = 64 << 10;

/// A command that runs. Dropping it kills the command with its process group.
#[derive(Debug)]
pub struct ExecHandle {
    id: String,
    events: mpsc::Receiver<Told>,
    control: ExecControl,
    sink: Option<ExecSink>,
    timeout: Option<Duration>,
    expired: Arc<AtomicBool>,
    ended: bool,
    max_output: usize,
    cut: CancellationToken,
    tasks: Vec<AbortHandle>,
}

/// Signals and sizes for a command, from anywhere in the program.
#[derive(Clone, Debug)]
pub struct ExecControl {
    messages: mpsc::Sender<Message>,
    cut: CancellationToken,
}

/// The standard input of a command. Dropping it ends the input.
#[derive(Debug)]
pub struct ExecSink {
    input: mpsc::Sender<Vec<u8>>,
    /// What the agent takes before the command does, in bytes.
    window: Arc<Semaphore>,
    cut: CancellationToken,
}

impl ExecHandle {
    pub(super) fn new(number: u64, stream: UnixStream, settings: Settings) -> Self {
        let (reader, writer) = stream.into_split();
        let (events_in, events) = mpsc::channel(1);
        let (messages_in, messages) = mpsc::channel(MESSAGES);
        let (input_in, input) = mpsc::channel(1);
        let cut = CancellationToken::new();
        let control = ExecControl { messages: messages_in, cut: cut.clone() };
        let window = Arc::new(Semaphore::new(INPUT_WINDOW));
        let reading = tasks::read(reader, events_in, Arc::clone(&window), cut.clone());
        let writing = tasks::write(writer, messages, input, cut.clone());
        let mut tasks =
            vec![tokio::spawn(reading).abort_handle(), tokio::spawn(writing).abort_handle()];
        let mut sink = Some(ExecSink { input: input_in, window, cut: cut.clone() });
        let expired = Arc::new(AtomicBool::new(false));
        if let Some(timeout) = settings.timeout {
            let expire = expire(control.clone(), timeout, expired.clone());
            tasks.push(tokio::spawn(expire).abort_handle());
        }
        match settings.stdin {
            Stdin::Pipe => {}
            Stdin::Null => sink = None,
            Stdin::Bytes(bytes) => {
                if let Some(sink) = sink.take() {
                    let feed = async move { sink.write(&bytes).await };
                    tasks.push(tokio::spawn(feed).abort_handle());
                }
            }
        }
        Self {
            id: number.to_string(),
            events,
            control,
            sink,
            timeout: settings.timeout,
            expired,
            ended: false,
            max_output: settings.max_output,
            cut,
            tasks,
        }
    }

    /// Tells the sessions of this process apart.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next event; `None` after the last one. Cancellation-safe. While nobody receives, the
    /// command stops at its next write.
    pub async fn recv(&mut self) -> Result<Option<ExecEvent>, ExecError> {
        if self.ended {
            return Ok(None);
        }
        let told = self.events.recv().await.unwrap_or(Err(ExecError::Gone));
        self.ended = matches!(told, Err(_) | Ok(ExecEvent::Exited(_)));
        match (told?, self.timeout) {
            // One that ended by itself was not killed, however late its end is heard of.
            (ExecEvent::Exited(status @ ExitStatus::Signal(KILL)), Some(after))
                if self.expired.load(Ordering::SeqCst) =>
            {
                let output = ExecOutput { status, stdout: Vec::new(), stderr: Vec::new() };
                Err(ExecError::TimedOut { after, output: Box::new(output) })
            }
            (event, _) => Ok(Some(event)),
        }
    }

    /// The standard input, once: with [`Stdin::Pipe`] only.
    pub fn take_stdin(&mut self) -> Option<ExecSink> {
        self.sink.take()
    }

    /// Waits for the end, and drops what the command writes. Input that was not taken ends.
    pub async fn wait(&mut self) -> Result<ExitStatus, ExecError> {
        self.sink = None;
        loop {
            match self.recv().await? {
                Some(ExecEvent::Exited(status)) => return Ok(status),
                Some(_) => {}
                None => return Err(ExecError::Gone),
            }
        }
    }

    /// Waits for the end, and keeps what the command writes. Input that was not taken ends.
    pub async fn collect(&mut self) -> Result<ExecOutput, ExecError> {
        self.sink = None;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.recv().await {
                Ok(Some(ExecEvent::Started { .. })) => {}
                Ok(Some(ExecEvent::Stdout(bytes))) => stdout.extend_from_slice(&bytes),
                Ok(Some(ExecEvent::Stderr(bytes))) => stderr.extend_from_slice(&bytes),
                Ok(Some(ExecEvent::Exited(status))) => {
                    return Ok(ExecOutput { status, stdout, stderr });
                }
                Ok(None) => return Err(ExecError::Gone),
                Err(ExecError::TimedOut { after, output }) => {
                    let output = Box::new(ExecOutput { stdout, stderr, ..*output });
                    return Err(ExecError::TimedOut { after, output });
                }
                Err(error) => return Err(error),
            }
            let limit = self.max_output;
            if stdout.len() > limit || stderr.len() > limit {
                self.cut.cancel();
                stdout.truncate(limit);
                stderr.truncate(limit);
                let status = ExitStatus::Signal(KILL);
                let output = Box::new(ExecOutput { status, stdout, stderr });
                return Err(ExecError::TooMuchOutput { limit, output });
            }
        }
    }

    /// For signals and sizes while this waits for events.
    pub fn control(&self) -> ExecControl {
        self.control.clone()
    }

    /// See [`ExecControl::signal`].
    pub async fn signal(&self, number: i32) -> io::Result<()> {
        self.control.signal(number).await
    }

    /// See [`ExecControl::kill`].
    pub async fn kill(&self) {
        self.control.kill().await;
    }

    /// See [`ExecControl::resize`].
    pub async fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        self.control.resize(rows, cols).await
    }

    /// Leaves the command running: what it writes is dropped, and its input ends. It ends with the
    /// sandbox at the latest.
    pub async fn detach(mut self) -> Result<(), ExecError> {
        // Chunks on their way would come behind it.
        self.sink = None;
        let sent = self.control.send(ExecInput::Detach).await;
        loop {
            match self.recv().await {
                // The command has ended by itself.
                Ok(None) => return Ok(()),
                // The agent has closed the session.
                Err(ExecError::Gone) if sent.is_ok() => return Ok(()),
                Ok(Some(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for ExecHandle {
    fn drop(&mut self) {
        self.cut.cancel();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl ExecControl {
    /// Sends a signal (1 to 64) to the command's process group, whatever it reads of its input; fails
    /// with `BrokenPipe` once the session has ended.
    pub async fn signal(&self, number: i32) -> io::Result<()> {
        self.send(ExecInput::Signal(number)).await
    }

    /// Kills the command's process group, whatever is in the way.
    pub async fn kill(&self) {
        let sent = tokio::time::timeout(KILL_PATIENCE, self.signal(KILL)).await;
        if sent.is_err() {
            self.cut.cancel();
        }
    }

    /// Tells the command's terminal its size.
    pub async fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        self.send(ExecInput::Resize { rows, cols }).await
    }

    async fn send(&self, input: ExecInput) -> io::Result<()> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (written, on_its_way) = oneshot::channel();
        let message = Message { input, written };
        self.messages.send(message).await.map_err(|_| broken())?;
        on_its_way.await.map_err(|_| broken())
    }
}

impl ExecSink {
    /// Writes to the command's standard input. Waits while the command does not read; fails with
    /// `BrokenPipe` once the session has ended. Dropped while it waits, it has written a part.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        for chunk in bytes.chunks(CHUNK) {
            let slot = self.input.reserve().await.map_err(|_| broken())?;
            let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
            tokio::select! {
                biased;
                () = self.cut.cancelled() => return Err(broken()),
                room = self.window.acquire_many(length) => room.map_err(|_| broken())?.forget(),
            }
            slot.send(chunk.to_vec());
        }
        Ok(())
    }

    /// Ends the input, as dropping it does.
    pub fn close(self) {}
}

/// Kills a command that takes too long.
async fn expire(control: ExecControl, timeout: Duration, expired: Arc<AtomicBool>) {
    tokio::select! {
        () = control.cut.cancelled() => return,
        () = tokio::time::sleep(timeout) => {}
    }
    expired.store(true, Ordering::SeqCst);
    control.kill().await;
    tokio::time::sleep(REAP_PATIENCE).await;
    control.cut.cancel();
}
