//! Exec sessions: one command each, its streams and its end.
//!
//! ```text
//! request ─▶ prepare ─▶ fork ─▶ Started ─┬─ output frames ◀─ stdout, stderr (or the terminal)
//!               │          │             ├─ input frames ─▶ stdin, signals, size
//!               └─ Failed ◀┘             └─ the command ends ─▶ rest of the output ─▶ Exited
//! ```
//!
//! The command leads its own session and process group; signals go to the group. When it has ended,
//! its output is complete as soon as both pipes are, which a process left in the background may
//! hold open for ever: then what the pipes hold is read, [`LINGER`] passes for such processes to say
//! a last word, and the session ends. They live on, until the guest is shut down.
//!
//! The host ends a session early by closing or resetting its stream: the group is killed. It leaves
//! one by detaching: the command runs on, and what it writes is dropped.
//!
//! At most one buffer of output and [`stdio::Pending`] of input are held per session. Output that
//! the host does not read stays in the pipe and stops the command that writes it. A host that sends no
//! more input than the window allows is heard at any time, whatever the command reads.

mod child;
mod prepare;
mod stdio;

use std::future::pending;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use msb_protocol::mux::MuxStream;
use msb_protocol::{
    DataBuffer, ExecFailure, ExecInput, ExecOutput, ExecRequest, ExitStatus, Frame, read_frame,
    write_message,
};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use self::child::{FAILURE_LEN, Failure};
use self::stdio::{Pending, Read, Source, Stdio};
use crate::reaper::Reaper;
use crate::serve::Underway;

/// What is read of an output at a time, in bytes; as much as a pipe holds.
const OUTPUT_BUFFER: usize = 64 << 10;
/// What may be in a pipe, in bytes: what an ordinary user may make it hold.
const MAX_PIPE: usize = 1 << 20;
/// How long a process in the background may go on writing after the command has ended.
const LINGER: Duration = Duration::from_millis(50);
/// How often the stream is tried while the command does not take its input, since a reset is not
/// seen while input is not read.
const PROBE: Duration = Duration::from_millis(250);

type Reader = ReadHalf<MuxStream>;
type Writer = WriteHalf<MuxStream>;

/// A session is over without an exit status: the host does not listen any more.
struct HostGone;

/// Why the host is not heard any more.
enum Left {
    /// It closed the stream, or sent what it may not.
    Gone,
    /// It wants the command to run on.
    Detached,
}

/// Runs the session to its end. `scripts` is a directory that comes first in `PATH`.
pub(crate) async fn serve(
    reaper: &Reaper,
    detached: &Underway,
    request: ExecRequest,
    scripts: Option<String>,
    mut reader: Reader,
    mut writer: Writer,
) {
    let mut session = match Session::start(reaper, &request, scripts.as_deref()).await {
        Ok(session) => session,
        Err(failure) => {
            let _ = write_message(&mut writer, &ExecOutput::Failed(failure)).await;
            let _ = writer.shutdown().await;
            return;
        }
    };
    let input = Pending::default();
    let stdin = session.stdio.stdin.take();
    let terminal = request.tty.as_ref().and(session.stdio.stdout.clone());
    let pid = session.pid;
    let left = tokio::select! {
        outcome = session.pump(&mut writer, &input) => outcome.err().map(|HostGone| Left::Gone),
        left = listen(reaper, pid, &mut reader, &input, terminal.as_deref()) => Some(left),
        () = feed(&input, stdin) => Some(Left::Gone),
    };
    drop(terminal);
    match left {
        None => {
            let _ = writer.shutdown().await;
        }
        Some(Left::Gone) => {
            reaper.signal_group(pid, libc::SIGKILL);
            session.stdio.stdout = None;
            session.stdio.stderr = None;
            let _ = session.exit().await;
        }
        Some(Left::Detached) => {
            let run_on = async {
                let _ = writer.shutdown().await;
                drop((reader, writer));
                session.discard().await;
            };
            detached.run(run_on).await;
        }
    }
}

struct Session {
    pid: i32,
    exit: oneshot::Receiver<ExitStatus>,
    stdio: Stdio,
}

impl Session {
    async fn start(
        reaper: &Reaper,
        request: &ExecRequest,
        scripts: Option<&str>,
    ) -> Result<Self, ExecFailure> {
        let system = |error: std::io::Error| ExecFailure::System(error.to_string());
        let command = prepare::prepare(request, scripts)?;
        let uid = command.identity.as_ref().map(|(uid, _, _)| *uid);
        let (stdio, theirs) = stdio::open(request, uid).map_err(system)?;
        let (pid, reports) = child::spawn(&command, &theirs).map_err(system)?;
        let exit = reaper.watch(pid);
        drop(theirs);
        match report(reports).await {
            None => Ok(Self { pid, exit, stdio }),
            Some(failure) => Err(prepare::explain(request, &failure)),
        }
    }

    /// Sends output, then the exit status.
    async fn pump(&mut self, writer: &mut Writer, input: &Pending) -> Result<(), HostGone> {
        let pid = u32::try_from(self.pid).unwrap_or_default();
        send(writer, &ExecOutput::Started { pid }).await?;
        let mut buffer = DataBuffer::new(OUTPUT_BUFFER);
        let mut ended: Option<(ExitStatus, Instant)> = None;
        loop {
            let is_done = self.stdio.stdout.is_none() && self.stdio.stderr.is_none();
            if let Some((status, _)) = ended.filter(|_| is_done) {
                return send(writer, &ExecOutput::Exited(status)).await;
            }
            let deadline = ended.map(|(_, deadline)| deadline);
            tokio::select! {
                () = readable(self.stdio.stdout.as_deref()) => {
                    copy(1, &mut self.stdio.stdout, &mut buffer, writer).await?;
                }
                () = readable(self.stdio.stderr.as_deref()) => {
                    copy(2, &mut self.stdio.stderr, &mut buffer, writer).await?;
                }
                status = &mut self.exit, if ended.is_none() => {
                    let status = status.unwrap_or(ExitStatus::Code(-1));
                    ended = Some((status, Instant::now() + LINGER));
                }
                () = until(deadline) => {
                    drain(1, &mut self.stdio.stdout, &mut buffer, writer).await?;
                    drain(2, &mut self.stdio.stderr, &mut buffer, writer).await?;
                }
                taken = input.taken() => send(writer, &ExecOutput::InputTaken(taken)).await?,
                () = input.stalled_for(PROBE) => {
                    writer.write(&[]).await.map_err(|_| HostGone)?;
                }
            }
        }
    }

    /// Drops what the command writes, until it ends.
    async fn discard(&mut self) {
        let mut buffer = vec![0; OUTPUT_BUFFER];
        while !self.exit.is_terminated() {
            tokio::select! {
                () = readable(self.stdio.stdout.as_deref()) => skip(&mut self.stdio.stdout, &mut buffer),
                () = readable(self.stdio.stderr.as_deref()) => skip(&mut self.stdio.stderr, &mut buffer),
                _ = &mut self.exit => return,
            }
        }
    }

    /// Waits for the end of the command.
    async fn exit(&mut self) -> Option<ExitStatus> {
        if self.exit.is_terminated() { None } else { (&mut self.exit).await.ok() }
    }
}

/// What the child reports before the exec; nothing when it has succeeded.
async fn report(reports: OwnedFd) -> Option<Failure> {
    let source = Source::new(reports).ok()?;
    let mut bytes = [0; FAILURE_LEN];
    loop {
        source.readable().await;
        // The report is written at once and is far smaller than what a pipe takes at once.
        match source.read(&mut bytes) {
            Read::Bytes(FAILURE_LEN) => return Some(Failure::decode(bytes)),
            Read::Bytes(_) | Read::End => return None,
            Read::Empty => {}
        }
    }
}

async fn readable(source: Option<&Source>) {
    match source {
        Some(source) => source.readable().await,
        None => pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Sends one buffer of output; drops the source at its end. How much was sent.
async fn copy(
    fd: u8,
    source: &mut Option<Rc<Source>>,
    buffer: &mut DataBuffer,
    writer: &mut Writer,
) -> Result<usize, HostGone> {
    let Some(open) = source else { return Ok(0) };
    match open.read(buffer.space()) {
        Read::Bytes(count) => {
            writer.write_all(buffer.frame(fd, count)).await.map_err(|_| HostGone)?;
            Ok(count)
        }
        Read::Empty => Ok(0),
        Read::End => {
            *source = None;
            Ok(0)
        }
    }
}

/// Reads and drops; drops the source at its end.
fn skip(source: &mut Option<Rc<Source>>, buffer: &mut [u8]) {
    if let Some(open) = source
        && matches!(open.read(buffer), Read::End)
    {
        *source = None;
    }
}

/// Sends what a pipe holds, and drops it.
async fn drain(
    fd: u8,
    source: &mut Option<Rc<Source>>,
    buffer: &mut DataBuffer,
    writer: &mut Writer,
) -> Result<(), HostGone> {
    let mut total = 0;
    while total < MAX_PIPE {
        match copy(fd, source, buffer, writer).await? {
            0 => break,
            count => total += count,
        }
    }
    *source = None;
    Ok(())
}

async fn send(writer: &mut Writer, message: &ExecOutput) -> Result<(), HostGone> {
    write_message(writer, message).await.map_err(|_| HostGone)
}

/// Hears the host until it leaves.
async fn listen(
    reaper: &Reaper,
    pid: i32,
    reader: &mut Reader,
    input: &Pending,
    terminal: Option<&Source>,
) -> Left {
    let mut buffer = Vec::new();
    while let Ok(Some(frame)) = read_frame(reader, &mut buffer).await {
        match frame {
            Frame::Data { fd: 0, bytes } => input.add(bytes).await,
            Frame::Data { .. } => return Left::Gone,
            Frame::Message(_) => match frame.message::<ExecInput>() {
                Ok(ExecInput::Signal(signal)) => {
                    if (1..=64).contains(&signal) {
                        reaper.signal_group(pid, signal);
                    }
                }
                Ok(ExecInput::Resize { rows, cols }) => {
                    if let Some(terminal) = terminal {
                        terminal.resize(rows, cols);
                    }
                }
                Ok(ExecInput::Detach) => return Left::Detached,
                Err(_) => return Left::Gone,
            },
        }
    }
    Left::Gone
}

/// Passes input on. Never ends: the session outlives its input.
async fn feed(input: &Pending, stdin: Option<Rc<Source>>) {
    match stdin {
        Some(stdin) => input.feed(stdin).await,
        None => input.refuse(),
    }
    pending().await
}
