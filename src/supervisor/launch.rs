//! Starting a supervisor.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use super::{LaunchConfig, SandboxPaths};
use crate::home::Home;

/// How long a supervisor may take until it listens.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer of a supervisor, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// What is quoted of the log of a supervisor that died, in bytes.
const LOG_TAIL: u64 = 2 << 10;
/// A log larger than this is begun anew at the next start, in bytes.
const LOG_MAX: u64 = 1 << 20;

/// A supervisor that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    /// Its process id.
    pub pid: u32,
    /// The run.
    pub run_id: String,
}

/// A hold on a sandbox that was started for its owner: once this is dropped, however its process
/// ends, the sandbox is stopped in order.
#[derive(Debug)]
pub struct Owner(UnixStream);

impl Owner {
    /// Lets the sandbox live on.
    pub fn detach(self) -> io::Result<()> {
        (&self.0).write_all(&[DETACH])
    }
}

/// What an owner says who lets its sandbox live on.
pub(super) const DETACH: u8 = b'd';

/// Why a supervisor did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A file it needs could not be made.
    #[error("{path}: cannot be made")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process could not be started.
    #[error("cannot start a supervisor")]
    Spawn(#[source] io::Error),
    /// It could not do its work.
    #[error("{0}")]
    Refused(String),
    /// It ended without a word.
    #[error("the supervisor ended while it started{}", quote(log))]
    Died {
        /// The end of its log.
        log: String,
    },
    /// It took too long.
    #[error("the supervisor did not start in {} s", READY_TIMEOUT.as_secs())]
    Timeout,
}

fn quote(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(":\n{log}") }
}

/// What a supervisor says on the channel it got its orders from; one line each way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It listens and the row says `starting`.
    Listening(Launched),
    /// It ends.
    Refused(String),
}

/// What is sent to a supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    /// The state directory.
    pub(super) home: PathBuf,
    /// The sandbox.
    pub(super) config: LaunchConfig,
    /// Whether the sandbox stops once the other end of the channel is closed.
    pub(super) attached: bool,
}

/// Starts the supervisor of a sandbox whose row exists, and returns when it listens and the row
/// says `starting`. It survives this process. Needs a tokio runtime with I/O and time.
pub async fn launch(home: &Home, config: &LaunchConfig) -> Result<Launched, LaunchError> {
    Ok(start(home, config, false).await?.0)
}

/// [`launch`], of a sandbox that lives no longer than the owner.
pub async fn launch_attached(
    home: &Home,
    config: &LaunchConfig,
) -> Result<(Launched, Owner), LaunchError> {
    let (launched, channel) = start(home, config, true).await?;
    Ok((launched, Owner(channel)))
}

async fn start(
    home: &Home,
    config: &LaunchConfig,
    attached: bool,
) -> Result<(Launched, UnixStream), LaunchError> {
    let paths = SandboxPaths::new(home, &config.id);
    let log = open_log(&paths)?;
    let (ours, theirs) = UnixStream::pair().map_err(LaunchError::Spawn)?;
    ours.set_nonblocking(true).map_err(LaunchError::Spawn)?;
    let channel = ours.try_clone().map_err(LaunchError::Spawn)?;
    let program = config.executable.clone().unwrap_or_else(|| "/proc/self/exe".into());
    let mut command = std::process::Command::new(program);
    command
        .arg0("msb")
        .arg("__supervise")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(log);
    // Tokio's, because it collects the process when it ends before this one does.
    let child = tokio::process::Command::from(command).spawn().map_err(LaunchError::Spawn)?;
    let orders = Orders { home: home.root().to_owned(), config: config.clone(), attached };
    let answer = tokio::time::timeout(READY_TIMEOUT, converse(ours, &orders)).await;
    drop(child);
    match answer {
        Err(_) => Err(LaunchError::Timeout),
        Ok(Some(Answer::Listening(launched))) => Ok((launched, channel)),
        Ok(Some(Answer::Refused(why))) => Err(LaunchError::Refused(why)),
        Ok(None) => Err(LaunchError::Died { log: tail(&paths.supervisor_log()) }),
    }
}

/// `None` when the supervisor ended without an answer.
async fn converse(stream: UnixStream, orders: &Orders) -> Option<Answer> {
    let mut stream = tokio::net::UnixStream::from_std(stream).ok()?;
    let mut line = serde_json::to_vec(orders).ok()?;
    line.push(b'\n');
    stream.write_all(&line).await.ok()?;
    let mut answer = Vec::new();
    let mut lines = tokio::io::BufReader::new(stream.take(MAX_ANSWER));
    lines.read_until(b'\n', &mut answer).await.ok()?;
    serde_json::from_slice(&answer).ok()
}

fn open_log(paths: &SandboxPaths) -> Result<File, LaunchError> {
    let dir = paths.logs();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|source| LaunchError::File { path: dir, source })?;
    let path = paths.supervisor_log();
    let large = fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_MAX);
    let opened = if large {
        OpenOptions::new().write(true).truncate(true).mode(0o600).open(&path)
    } else {
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path)
    };
    opened.map_err(|source| LaunchError::File { path, source })
}

fn tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}
