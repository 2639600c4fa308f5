//! A command in a guest that has this process's streams, terminal and signals.

use std::io::{self, Read};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::{
    self, ExecConfig, ExecControl, ExecError, ExecEvent, ExecHandle, ExecSink, Stdin,
};
use crate::home::Home;

use super::args::InGuest;
use super::detach_keys::{DetachKeys, Keys};
use super::error::{CliError, Exit};
use super::terminal;
use super::ui::Ui;

/// How much of standard input is read at a time, in bytes.
const CHUNK: usize = 64 << 10;
/// Chunks of standard input that wait to be sent.
const QUEUE: usize = 4;
/// As `timeout(1)`: a command that took too long.
const TIMED_OUT: u8 = 124;

/// Runs a command to its end, or until the user detaches.
pub(crate) async fn run(
    ui: &Ui,
    home: &Home,
    id: &str,
    config: ExecConfig,
    flags: &InGuest,
) -> Result<Exit, CliError> {
    let config = flags.apply(config)?;
    if flags.detach {
        return leave(client::exec(home, id, config).await?).await;
    }
    let tty = flags.wants_tty()?;
    let config = with_streams(config, tty);
    // Before the terminal is raw: a signal must not end this process while it is.
    let mut signals = Signals::listen()?;
    let mut handle = tokio::select! {
        opened = client::exec(home, id, config) => opened?,
        () = signals.ending() => return Ok(Exit::Interrupted),
    };
    let raw = if tty { Some(terminal::Raw::enter()?) } else { None };
    let keys = if tty { flags.detach_keys.clone() } else { DetachKeys::default() };
    let pump = pump(handle.control(), handle.take_stdin(), signals, tty, keys);
    let mut pump = tokio::spawn(pump);
    let ended = output(ui, &mut handle, &mut pump).await;
    pump.abort();
    match ended {
        Ok(Some(exit)) => {
            drop(raw);
            Ok(exit)
        }
        Ok(None) => {
            handle.detach().await?;
            drop(raw);
            ui.say("detached; the command runs on");
            Ok(Exit::Ok)
        }
        Err(error) => {
            drop(raw);
            Err(error)
        }
    }
}

/// Leaves a command running as soon as it runs.
async fn leave(mut handle: ExecHandle) -> Result<Exit, CliError> {
    match handle.recv().await.map_err(failed)? {
        Some(ExecEvent::Exited(status)) => Ok(Exit::Guest(guest_code(status.code()))),
        Some(_) | None => {
            handle.detach().await?;
            Ok(Exit::Ok)
        }
    }
}

fn with_streams(config: ExecConfig, tty: bool) -> ExecConfig {
    let config = config.stdin(Stdin::Pipe);
    if !tty {
        return config;
    }
    let (rows, cols) = terminal::size();
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty() && term != "dumb");
    config.tty_of_type(rows, cols, term.unwrap_or_else(|| "xterm".to_owned()))
}

/// Passes on what the command writes, as it is, until it ends; `None` once the user detaches.
async fn output(
    ui: &Ui,
    handle: &mut ExecHandle,
    pump: &mut JoinHandle<io::Result<()>>,
) -> Result<Option<Exit>, CliError> {
    let mut attached = true;
    loop {
        let event = tokio::select! {
            event = handle.recv() => event.map_err(failed)?,
            pumped = &mut *pump, if attached => match pumped {
                Ok(Ok(())) => return Ok(None),
                // Nobody listens any more: the end is about to be told.
                Ok(Err(_)) | Err(_) => {
                    attached = false;
                    continue;
                }
            },
        };
        match event {
            Some(ExecEvent::Started { .. }) => {}
            Some(ExecEvent::Stdout(bytes)) => ui.bytes(&bytes)?,
            Some(ExecEvent::Stderr(bytes)) => ui.error_bytes(&bytes)?,
            Some(ExecEvent::Exited(status)) => {
                return Ok(Some(Exit::Guest(guest_code(status.code()))));
            }
            None => return Err(ExecError::Gone.into()),
        }
    }
}

/// The error of a session, with the exit code that a shell would give.
fn failed(error: ExecError) -> CliError {
    let exit = match &error {
        ExecError::Failed(failure) => Exit::Guest(guest_code(failure.code())),
        ExecError::TimedOut { .. } => Exit::Guest(TIMED_OUT),
        _ => return error.into(),
    };
    CliError::new(exit, error)
}

/// The guest is not trusted to stay below 256.
fn guest_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Passes on standard input, signals and the size of the terminal. Ends when the user detaches.
async fn pump(
    control: ExecControl,
    sink: Option<ExecSink>,
    signals: Signals,
    tty: bool,
    keys: DetachKeys,
) -> io::Result<()> {
    tokio::select! {
        fed = feed(sink, keys) => fed,
        // Whatever the command reads of its input.
        passed = pass(&control, signals, tty) => passed,
    }
}

/// Passes on standard input to its end; returns when the user detaches.
async fn feed(sink: Option<ExecSink>, keys: DetachKeys) -> io::Result<()> {
    if let Some(sink) = sink {
        let mut stdin = read_stdin();
        let mut keys = Keys::new(keys);
        while let Some(mut chunk) = stdin.recv().await {
            let is_detached = keys.pass(&mut chunk);
            sink.write(&chunk).await?;
            if is_detached {
                return Ok(());
            }
        }
    }
    std::future::pending().await
}

/// Passes on signals and the size of the terminal, for ever.
async fn pass(control: &ExecControl, mut signals: Signals, tty: bool) -> io::Result<()> {
    // It may have changed while the session was opened.
    let mut number = WINCH;
    loop {
        match number {
            WINCH if tty => {
                let (rows, cols) = terminal::size();
                control.resize(rows, cols).await?;
            }
            WINCH => {}
            number => control.signal(number).await?,
        }
        number = signals.next().await;
    }
}

/// Standard input by a thread of its own: a read cannot be called off.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut chunk = vec![0; CHUNK];
        while let Ok(length @ 1..) = stdin.read(&mut chunk) {
            if send.blocking_send(chunk[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receive
}

/// Linux's SIGWINCH.
pub(crate) const WINCH: i32 = 28;
/// SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 are passed on.
const PASSED: [i32; 7] = [1, 2, 3, 15, 10, 12, WINCH];

/// The signals that a command in a guest is to have.
pub(crate) struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// Listens from here on. Needs a runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        PASSED
            .into_iter()
            .map(|number| Ok((number, signal(SignalKind::from_raw(number))?)))
            .collect::<io::Result<Vec<_>>>()
            .map(Self)
    }

    /// The next signal that ends a program unless it handles it. Cancellation-safe.
    pub(crate) async fn ending(&mut self) {
        self.next_ending().await;
    }

    /// [`Signals::ending`], and which.
    pub(crate) async fn next_ending(&mut self) -> i32 {
        loop {
            match self.next().await {
                WINCH => {}
                number => return number,
            }
        }
    }

    /// The next signal's number. Cancellation-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
