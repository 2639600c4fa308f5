//! The body of `msb __files`, and how it is started.
#![allow(clippy::disallowed_methods, reason = "this module starts a process, and is one")]

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use fuser::{Session, SessionACL};
use msb_protocol::{FILES_PREAMBLE_LEN, FilesPreamble};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use super::Share;
use super::bridge::{self, End};
use super::fuse::Fuse;
use super::host::Descriptors;
use super::limits::THREADS;
use super::serve::{Server, Shares};
use crate::runtime::{Inherited, JailReport, Shared, Vm, WaitFuture, spawn_file_server};

/// The word after `msb` that makes it a file server.
pub const WORD: &str = "__files";
/// The exit code after a message that no kernel sends.
const NONSENSE: u8 = 2;
/// The exit code after a panic, which ends the process whatever thread it is in.
const PANICKED: i32 = 101;

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Config {
    shares: Vec<Share>,
    /// No service without the filter.
    require_jail: bool,
}

/// A running file server. Dropping it kills it.
#[derive(Debug)]
pub struct FileServer(Box<dyn Vm>);

impl FileServer {
    /// Its process id, for the record.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// How it is confined.
    pub fn jail(&self) -> &JailReport {
        self.0.jail()
    }

    /// Waits for its end: that of its stream, or a failure. May be called again. Needs a tokio
    /// runtime with I/O enabled.
    pub fn wait(&self) -> WaitFuture<'_> {
        self.0.wait()
    }
}

/// Starts a file server for `shares` at the other end of `stream`, in a jail; with `require_jail`
/// only if that is whole.
///
/// Blocks for some milliseconds, until the server has opened its shares. Errors name the share that
/// cannot be served, or what is missing of the jail.
pub fn spawn(
    shares: Vec<Share>,
    stream: OwnedFd,
    sandbox: &str,
    require_jail: bool,
) -> io::Result<FileServer> {
    spawn_program(&crate::runtime::program()?, shares, stream, sandbox, require_jail)
}

/// The same with the executable that has `__files`.
pub fn spawn_program(
    program: &Path,
    shares: Vec<Share>,
    stream: OwnedFd,
    sandbox: &str,
    require_jail: bool,
) -> io::Result<FileServer> {
    if let Some(relative) = shares.iter().find(|share| !share.path.is_absolute()) {
        let why = format!("{}: not an absolute path", relative.path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let shared = |share: &Share| Shared { path: share.path.clone(), readonly: share.readonly };
    let shown = shares.iter().map(shared).collect();
    let config = serde_json::to_string(&Config { shares, require_jail })?;
    let jail = (sandbox, require_jail);
    spawn_file_server(program, WORD, config, shown, stream, jail).map(FileServer)
}

/// Serves what the process was started for, until its stream ends.
pub fn run() -> ExitCode {
    // A server with a thread less would keep its guest waiting.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::exit(PANICKED);
    }));
    let Some(inherited) = Inherited::take() else { return ExitCode::FAILURE };
    // The guest's kernel has applied the umask of its process.
    rustix::process::umask(Mode::empty());
    let config = serde_json::from_str::<Config>(inherited.config());
    let config = config.map_err(|error| format!("the configuration: {error}"));
    let require_jail = config.as_ref().is_ok_and(|config| config.require_jail);
    let (ready, prepared) = match config.and_then(|config| prepare(&config)) {
        Ok(prepared) => (Ok(()), Some(prepared)),
        Err(why) => (Err(why), None),
    };
    let (Ok(stream), Some(prepared)) = (inherited.begin(ready, require_jail), prepared) else {
        return ExitCode::FAILURE;
    };
    match serve(stream, prepared) {
        Ok(End::Closed) => ExitCode::SUCCESS,
        Ok(End::Nonsense) => ExitCode::from(NONSENSE),
        Ok(End::Failed(_)) | Err(_) => ExitCode::FAILURE,
    }
}

/// Everything that is made before the process gives up making it.
struct Prepared {
    shares: Shares,
    all: Descriptors,
    packets: (OwnedFd, OwnedFd),
    descriptors: usize,
}

fn prepare(config: &Config) -> Result<Prepared, String> {
    let shares = Shares::open(&config.shares)?;
    let all = Descriptors::enter();
    let all = all.map_err(|error| format!("/proc/self/fd: {}", io::Error::from(error)))?;
    let packets = bridge::packets().map_err(|error| format!("sockets: {error}"))?;
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: hard, maximum: hard };
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    let descriptors = rustix::process::getrlimit(Resource::Nofile).current;
    let descriptors = usize::try_from(descriptors.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    Ok(Prepared { shares, all, packets, descriptors })
}

fn serve(stream: OwnedFd, prepared: Prepared) -> io::Result<End> {
    rustix::fs::fcntl_setfl(&stream, OFlags::empty())?;
    let mut preamble = [0; FILES_PREAMBLE_LEN];
    if bridge::read_exact(&stream, &mut preamble).is_err() {
        return Ok(End::Closed);
    }
    let Some(preamble) = FilesPreamble::decode(&preamble) else { return Ok(End::Nonsense) };
    let (ours, theirs) = prepared.packets;
    let server = Server::new(prepared.shares, prepared.all, preamble, prepared.descriptors);
    let (stream, ours) = (Arc::new(stream), Arc::new(ours));
    let (replies_from, replies_to) = (Arc::clone(&ours), Arc::clone(&stream));
    // The end of one direction is the end of all: who is not answered has gone, or is no kernel.
    thread::Builder::new().name("replies".to_owned()).spawn(move || {
        // There are no more when the session has ended, which ends the process itself.
        if let End::Failed(error) = bridge::replies(&*replies_from, &*replies_to) {
            std::process::exit(i32::from(error != Errno::PIPE && error != Errno::CONNRESET));
        }
    })?;
    thread::Builder::new().name("fuse".to_owned()).spawn(move || {
        let mut config = fuser::Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(THREADS);
        let session = Session::from_fd(Fuse(server), theirs, SessionACL::All, config);
        let _ = session.and_then(Session::run);
        std::process::exit(i32::from(NONSENSE));
    })?;
    Ok(bridge::requests(&*stream, &*ours))
}
