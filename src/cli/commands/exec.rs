//! `msb exec`: a command in a running sandbox, with its streams, terminal and exit code.

use std::collections::BTreeMap;
use std::io::Read;

use msb_protocol::{ExecRequest, StdinMode, Tty};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::args::{Exec, Global};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::cli::{interrupt, project, terminal};
use crate::client::{self, ExecEvent, ExecInputHandle};
use crate::reconcile;
use crate::spec::Name;
use crate::store::Store;

/// How much of standard input is read at a time, in bytes.
const CHUNK: usize = 64 << 10;
/// Chunks of standard input that wait to be sent.
const QUEUE: usize = 4;

pub(crate) fn run(ui: &Ui, global: &Global, args: &Exec) -> Result<Exit, CliError> {
    let home = project::home()?;
    let project = project::name(ui, global)?;
    let id = running(&project, &args.name)?;
    let tty = !args.no_tty && terminal::is_interactive();
    let request = request(args, tty)?;
    let runtime = interrupt::runtime()?;
    let exit = runtime.block_on(async {
        // Before the terminal is raw: a signal must not end this process while it is.
        let mut signals = Signals::listen()?;
        let (mut stream, input) = tokio::select! {
            opened = client::exec(&home, &id, request) => opened?,
            () = signals.ending() => return Ok(Exit::Interrupted),
        };
        let raw = if tty { Some(terminal::Raw::enter()?) } else { None };
        let pump = tokio::spawn(pump(input, signals, tty));
        let exit = output(ui, &mut stream).await;
        pump.abort();
        drop(raw);
        exit
    });
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    exit
}

/// The id of a sandbox that runs.
fn running(project: &Name, name: &Name) -> Result<String, CliError> {
    let rows = match Store::open_read_only(&project::home()?)? {
        Some(store) => reconcile::rows(&store, project.as_str())?,
        None => Vec::new(),
    };
    match rows.into_iter().find(|row| row.name == name.as_str()) {
        Some(row) if row.status.is_live() => Ok(row.id),
        Some(row) => {
            let message = format!("sandbox `{name}` is not running: it is {}", row.status);
            Err(CliError::message(Exit::Failed, message)
                .hint(format!("`msb up {name}` or `msb start {name}` starts it")))
        }
        None => {
            let message = format!("sandbox `{name}` of project `{project}` does not exist");
            Err(CliError::message(Exit::Failed, message).hint(format!("`msb up {name}` makes it")))
        }
    }
}

fn request(args: &Exec, tty: bool) -> Result<ExecRequest, CliError> {
    let (rows, cols) = terminal::size();
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty() && term != "dumb");
    Ok(ExecRequest {
        argv: args.argv.clone(),
        env: environment(&args.env)?,
        cwd: args.workdir.clone(),
        user: args.user.clone(),
        stdin: StdinMode::Pipe,
        tty: tty.then(|| Tty { rows, cols, term: term.unwrap_or_else(|| "xterm".to_owned()) }),
        rlimits: Vec::new(),
        create_cwd: false,
    })
}

fn environment(flags: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut env = BTreeMap::new();
    for flag in flags {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match std::env::var(flag) {
                Ok(value) => (flag.as_str(), value),
                Err(_) => continue,
            },
        };
        if name.is_empty() {
            let message = format!("`--env {flag}` names no variable");
            return Err(CliError::message(Exit::Usage, message));
        }
        env.insert(name.to_owned(), value);
    }
    Ok(env)
}

/// Passes on what the command writes, as it is, until it ends.
async fn output(ui: &Ui, stream: &mut client::ExecStream) -> Result<Exit, CliError> {
    loop {
        match stream.next().await? {
            ExecEvent::Started { .. } => {}
            ExecEvent::Stdout(bytes) => ui.bytes(bytes)?,
            ExecEvent::Stderr(bytes) => ui.error_bytes(bytes)?,
            ExecEvent::Exited(status) => return Ok(Exit::Guest(guest_code(status.code()))),
            ExecEvent::Failed(failure) => {
                let exit = Exit::Guest(guest_code(failure.code()));
                return Err(CliError::message(exit, failure.to_string()));
            }
        }
    }
}

/// The guest is not trusted to stay below 256.
fn guest_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Passes on standard input, signals and the size of the terminal.
async fn pump(mut input: ExecInputHandle, mut signals: Signals, tty: bool) -> std::io::Result<()> {
    let mut stdin = read_stdin();
    let mut open = true;
    if tty {
        // It may have changed while the session was opened.
        let (rows, cols) = terminal::size();
        input.resize(rows, cols).await?;
    }
    loop {
        tokio::select! {
            chunk = stdin.recv(), if open => {
                // An empty write closes the command's standard input.
                open = chunk.is_some();
                input.write(&chunk.unwrap_or_default()).await?;
            }
            number = signals.next() => match number {
                WINCH if tty => {
                    let (rows, cols) = terminal::size();
                    input.resize(rows, cols).await?;
                }
                WINCH => {}
                number => input.signal(number).await?,
            },
        }
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
const WINCH: i32 = 28;
/// SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 are passed on.
const PASSED: [i32; 7] = [1, 2, 3, 15, 10, 12, WINCH];

struct Signals(Vec<(i32, Signal)>);

impl Signals {
    fn listen() -> std::io::Result<Self> {
        PASSED
            .into_iter()
            .map(|number| Ok((number, signal(SignalKind::from_raw(number))?)))
            .collect::<std::io::Result<Vec<_>>>()
            .map(Self)
    }

    /// The next signal that ends a program unless it handles it. Cancellation-safe.
    async fn ending(&mut self) {
        while self.next().await == WINCH {}
    }

    /// The next signal's number. Cancellation-safe.
    async fn next(&mut self) -> i32 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_pairs_or_names() {
        let flags = ["A=1".to_owned(), "B==x".to_owned(), "MSB_SURELY_UNSET".to_owned()];
        let env = environment(&flags).unwrap_or_default();
        assert_eq!(env.get("A").map(String::as_str), Some("1"));
        assert_eq!(env.get("B").map(String::as_str), Some("=x"));
        assert_eq!(env.len(), 2);
        assert!(environment(&["=x".to_owned()]).is_err());
    }
}
