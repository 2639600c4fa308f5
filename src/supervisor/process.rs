//! The body of `msb __supervise`: from the orders on a descriptor to the end of the run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::Mode;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, filter::LevelFilter, reload};

use super::binds;
use super::control::{Asked, ControlRequest, Socket, StatusEvent};
use super::launch::{Answer, DETACH, Launched, Orders};
use super::link::chain;
use super::locks::{Locks, lock};
use super::mounts::Mounts;
use super::run::{self, Notice};
use super::runs::{FAREWELL, Runs};
use super::serving::{self, Files, Later};
use super::state::Input;
use super::{LaunchConfig, SandboxPaths, identity};
use crate::home::Home;
use crate::runtime::{self, DriverChoice, HostLinks, Krun, Vm, VmConfig, VmExit};
use crate::spec::{LogLevel, Status};
use crate::store::{Durability, Event, RunIdentity, StatusChange, Store, StoreError, now_ms};

/// The longest orders, in bytes.
const MAX_ORDERS: u64 = 16 << 20;
/// The boot console is kept up to twice this, in bytes.
pub(super) const CONSOLE_MAX: u64 = 1 << 20;
/// What is quoted of the console of a guest that failed, in bytes and lines.
const CONSOLE_TAIL: u64 = 4 << 10;
const CONSOLE_LINES: usize = 8;
/// How long the last words on the link are waited for: they have been sent.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a thread that wrote to the store is kept for the next write.
const KEEP_THREADS: Duration = Duration::from_millis(200);

/// Runs the sandbox that the orders on standard input describe. The exit code says only whether
/// the run began.
pub fn supervise() -> ExitCode {
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Standard error is the supervisor's log.
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Result<(), String> {
    let channel = io::stdin().as_fd().try_clone_to_owned().map_err(|e| e.to_string())?;
    let mut channel = UnixStream::from(channel);
    let mut orders = Vec::new();
    BufReader::new((&mut channel).take(MAX_ORDERS))
        .read_until(b'\n', &mut orders)
        .map_err(|e| format!("only `msb` itself starts a supervisor: {e}"))?;
    let orders: Orders =
        serde_json::from_slice(&orders).map_err(|e| format!("the orders make no sense: {e}"))?;
    detach(&channel).map_err(|e| format!("cannot set the process up: {e}"))?;
    init_log(orders.config.spec.log_level);
    let begun = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(KEEP_THREADS)
        .build();
    let runtime = begun.map_err(|e| format!("cannot start: {e}"))?;
    let ended = LocalSet::new().block_on(&runtime, supervise_sandbox(orders, &channel));
    if let Err(why) = &ended {
        answer(&channel, &Answer::Refused(why.clone()));
    }
    // A write to the store that hangs must not keep the process.
    runtime.shutdown_timeout(FAREWELL);
    ended
}

/// Leaves the session of who started this, and what was inherited.
fn detach(channel: &UnixStream) -> io::Result<()> {
    // Fails when it leads a group already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    drop(null);
    let inherited: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && *fd != channel.as_raw_fd())
        .collect();
    for fd in inherited {
        // The listing's own is among them, and closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

fn init_log(level: LogLevel) {
    let (filter, handle) = reload::Layer::new(level_filter(level));
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    if tracing_subscriber::registry().with(filter).with(layer).try_init().is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Changes the verbosity of the log.
pub(super) fn set_log_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        let _ = handle.reload(level_filter(level));
    }
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn answer(mut channel: &UnixStream, answer: &Answer) {
    if let Ok(mut text) = serde_json::to_vec(answer) {
        text.push(b'\n');
        let _ = channel.write_all(&text);
    }
}

/// Has the sandbox stopped once its owner has gone, however it went.
async fn watch_owner(channel: UnixStream, asked: mpsc::Sender<Asked>) -> io::Result<()> {
    channel.set_nonblocking(true)?;
    let mut channel = tokio::net::UnixStream::from_std(channel)?;
    let mut word = [0];
    if !matches!(channel.read(&mut word).await, Ok(1)) || word != [DETACH] {
        tracing::info!("the owner has gone");
        let (answer, _) = oneshot::channel();
        let _ =
            asked.send(Asked { request: ControlRequest::Stop { grace_ms: None }, answer }).await;
    }
    Ok(())
}

async fn supervise_sandbox(orders: Orders, channel: &UnixStream) -> Result<(), String> {
    let Orders { home, config, attached } = orders;
    let home = Home::at(home);
    let paths = SandboxPaths::new(&home, &config.id);
    let locks = lock(&home, &config)?;
    let driver = driver(&home, &config)?;
    let socket_path = home.socket(&config.id);
    let socket = Socket::bind(&socket_path)
        .map_err(|e| format!("{}: cannot listen: {e}", socket_path.display()))?;
    let hold = Hold { socket: socket_path, _locks: locks };
    let identity = identity::new_run_id()
        .and_then(identity::own)
        .map_err(|e| format!("cannot tell who this process is: {e}"))?;
    begin_run(&home, &config, &identity).map_err(|e| chain(&e))?;
    let vm = match start_vm(&*driver, &config, &identity.run_id) {
        Ok(started) => started,
        Err(why) => {
            let why = format!("cannot start the VM: {why}");
            give_up(&home, &config, &identity, &why);
            return Err(why);
        }
    };
    tracing::info!(run = identity.run_id, vm = vm.0.pid(), driver = driver.name(), "started");
    for (layer, why) in vm.0.jail().missing() {
        tracing::warn!(layer, why, "a layer of the jail does not hold");
    }
    let launched = Launched { pid: identity.pid, run_id: identity.run_id.clone() };
    let begun = || answer(channel, &Answer::Listening(launched));
    let owner = channel.try_clone().map_err(|e| e.to_string())?;
    let terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let (asked_in, asked) = mpsc::channel(16);
    if attached {
        tokio::task::spawn_local(watch_owner(owner, asked_in.clone()));
    } else {
        drop(owner);
    }
    let runs = Runs::new(driver, paths, identity, config, run::Orders { asked, terminate });
    runs.attend(home, vm, (socket, asked_in, hold), begun).await;
    Ok(())
}

/// The sandbox is this supervisor's until this is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    socket: PathBuf,
    _locks: Locks,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Before the locks: the next supervisor puts its own there.
        let _ = fs::remove_file(&self.socket);
    }
}

fn driver(home: &Home, config: &LaunchConfig) -> Result<Box<dyn runtime::Driver>, String> {
    let choice: DriverChoice = config.driver.parse().map_err(|e| chain(&e))?;
    let chosen = runtime::driver(choice, home);
    chosen.map(|chosen| chosen.driver).map_err(|unavailable| unavailable.to_string())
}

fn begin_run(home: &Home, config: &LaunchConfig, run: &RunIdentity) -> Result<(), StoreError> {
    // Lost by a power cut is as good as ended by it.
    Store::open_existing(home)?.write(Durability::Relaxed, |w| {
        w.begin_run(&config.id, run)?;
        w.add_event(&Event {
            project: &config.project,
            sandbox: Some(config.name.as_str()),
            sandbox_id: Some(&config.id),
            kind: Status::Starting.as_str(),
            detail: None,
        })?;
        Ok(())
    })
}

fn give_up(home: &Home, config: &LaunchConfig, run: &RunIdentity, why: &str) {
    let change = StatusChange {
        status: Status::Crashed,
        health: None,
        exit_code: None,
        finished_ms: Some(now_ms()),
        error: Some(why.to_owned()),
    };
    let written = Store::open_existing(home).and_then(|store| {
        store.write(Durability::Relaxed, |w| w.set_status(&config.id, &run.run_id, &change))
    });
    if let Err(error) = written {
        tracing::error!(error = chain(&error), "status not recorded");
    }
}

/// The process of a VM, the supervisor's ends of its links, and what serves files to it.
pub(super) type StartedVm = (Box<dyn Vm>, HostLinks, Files);

/// Starts the VM of a run, and what it needs.
pub(super) fn start_vm(
    driver: &dyn runtime::Driver,
    config: &LaunchConfig,
    run_id: &str,
) -> Result<StartedVm, String> {
    binds::provide(&config.spec).map_err(|e| chain(&e))?;
    let mounts = Mounts::of(config);
    serving::own_disks(&mounts.shares)?;
    let vm = VmConfig {
        run_id: run_id.to_owned(),
        sandbox: config.id.clone(),
        require_jail: config.require_jail,
        kernel: config.kernel.clone(),
        vcpus: config.spec.cpus,
        memory_mib: config.spec.memory.mib(),
        disks: mounts.disks,
        files: !mounts.shares.is_empty(),
    };
    let (theirs, mut ours) = driver.links(vm.files).map_err(|e| e.to_string())?;
    // Before the VM, whose guest waits for it as soon as it boots.
    let files = match ours.files.take() {
        Some(stream) => {
            let at_boot = !mounts.guest.shares.is_empty();
            Files::new(Later::new(mounts.shares, stream, config), at_boot)?
        }
        None => Files::default(),
    };
    // On this thread, which lives as long as the process: the VM dies with the thread.
    let command = play_agent(driver.command(&vm), config);
    let vm = driver.spawn(command, theirs).map_err(|e| chain(&e))?;
    Ok((vm, ours, files))
}

/// Tests put a program of their own in the place of the `local` driver's agent.
#[cfg(feature = "test-support")]
fn play_agent(mut command: runtime::VmCommand, config: &LaunchConfig) -> runtime::VmCommand {
    if let (Some(agent), "local") = (&config.local_agent, config.driver.as_str()) {
        command.program.clone_from(agent);
    }
    command
}

#[cfg(not(feature = "test-support"))]
fn play_agent(command: runtime::VmCommand, _: &LaunchConfig) -> runtime::VmCommand {
    command
}

/// Tells the end of the VM after all that its agent said before.
pub(super) async fn watch_vm(vm: Arc<dyn Vm>, link: JoinHandle<()>, notices: mpsc::Sender<Notice>) {
    let exit = match vm.wait().await {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!(%error, "cannot wait for the VM");
            let _ = vm.kill();
            VmExit::Code(-1)
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, link).await;
    let _ = notices.send(Notice::Input(Input::VmEnded(exit))).await;
}

/// A guest that did not come up says why on its console; if it does not, KVM is under suspicion.
pub(super) fn explain(last: &mut StatusEvent, driver: &str, console: &Path) {
    let Some(error) = &mut last.error else { return };
    if driver == Krun::NAME {
        error.push_str("; `--driver qemu` runs guests without KVM");
    }
    let lines = console_tail(console).unwrap_or_default();
    if !lines.is_empty() {
        error.push_str("; the console ends with:\n");
        error.push_str(&lines);
    }
}

fn console_tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(CONSOLE_TAIL).read_to_end(&mut bytes)?;
    let text: String =
        String::from_utf8_lossy(&bytes).chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n"))
}
