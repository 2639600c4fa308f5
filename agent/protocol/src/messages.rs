//! The messages. Fields are encoded by name, so a newer side may add optional ones.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::FsRequest;

/// The first frame of a stream: what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The one control stream; then [`ControlInput`] and [`ControlOutput`].
    Control,
    /// An exec session; then [`ExecInput`], [`ExecOutput`] and data frames.
    Exec(ExecRequest),
    /// One probe of a health check; then one [`ProbeOutput`].
    Probe(ProbeRequest),
    /// What the guest uses; then one [`GuestMetrics`].
    Metrics,
    /// One request on the files of the guest; then what [`FsRequest`] says.
    Fs(FsRequest),
    /// The agent closes the stream once no command runs that was detached from its session.
    Detached,
    /// Files of scripts by name, in the place of those that the guest has; then
    /// [`FsReply`](crate::FsReply) `Done` or `Failed`.
    Scripts(BTreeMap<String, String>),
    /// A disk has become longer; then one [`GrowReply`], once its file system has.
    Grow(GrowRequest),
}

/// A disk that the host has made longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowRequest {
    /// The share that the disk is: [`ShareMount::share`], or [`DiskMount::share`].
    pub share: u32,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrowReply {
    /// The mounted file system is as large as the disk.
    Grown,
    /// It is not, and why.
    Failed(String),
}

/// A connection to something in the guest, to see whether it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// `address:port`, tried in order; one that accepts is enough.
    pub addresses: Vec<String>,
    /// What is asked for there; none is a connection alone.
    #[serde(default)]
    pub http: Option<HttpProbe>,
    /// How long it may take in all.
    pub timeout_ms: u64,
}

/// An HTTP GET.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutput {
    /// The connection was accepted, and nothing more was asked for.
    Connected,
    /// The status of the HTTP answer.
    Status(u16),
    /// There was none.
    Failed(String),
}

/// What a guest has used since it booted, as its kernel counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestMetrics {
    /// Time that its processors were busy, added up, in microseconds.
    pub cpu_us: u64,
    /// Memory that its kernel manages, in bytes.
    pub memory_total_bytes: u64,
    /// Memory that could be had without swapping, in bytes.
    pub memory_available_bytes: u64,
    /// Read from its disks, in bytes.
    pub disk_read_bytes: u64,
    /// Written to its disks, in bytes.
    pub disk_write_bytes: u64,
    /// Received by its network devices, loopback left out, in bytes.
    pub net_rx_bytes: u64,
    /// Sent by them, in bytes.
    pub net_tx_bytes: u64,
}

/// Host → agent on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlInput {
    /// Set the guest up; sent once, first.
    Boot(Box<BootConfig>),
    /// Stop every process (SIGTERM, then SIGKILL after `grace_ms`), sync, unmount, say bye and
    /// restart the machine, which ends the VM.
    Shutdown {
        /// Time between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
}

/// Agent → host on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlOutput {
    /// The guest is set up; exec sessions are accepted.
    Ready {
        /// Microseconds from the start of the kernel to here.
        uptime_us: u64,
    },
    /// The guest could not be set up.
    BootFailed(BootFailed),
    /// Everything is stopped, synced and unmounted; the machine restarts next.
    Bye,
}

/// Why the guest could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFailed {
    /// What was being done, such as `mount upper`.
    pub stage: String,
    /// What went wrong.
    pub message: String,
}

/// How the guest is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// The root file system.
    pub root: RootConfig,
    /// Disks that are mounted into the root, parents first.
    #[serde(default)]
    pub disks: Vec<DiskMount>,
    /// Memory file systems that are mounted into the root, parents first.
    #[serde(default)]
    pub tmpfs: Vec<TmpfsMount>,
    /// What the host's file server shares, mounted into the root, parents first.
    #[serde(default)]
    pub shares: Vec<ShareMount>,
    /// `user[:group]` of the workload, names or numbers: whose the shared files are in the guest,
    /// where nothing else is known of them; none is root.
    #[serde(default)]
    pub user: Option<String>,
    /// The host name.
    pub hostname: String,
    /// Further entries of `/etc/hosts`: names by address.
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<String>>,
    /// Files of scripts by name, executable and on `PATH` of every command.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scripts: BTreeMap<String, String>,
    /// The wall clock, in nanoseconds since the Unix epoch.
    pub clock_ns: u64,
}

/// The root file system: an overlay of read-only disks under a writable one. Disks are named by
/// their virtio serial. Without an upper a memory file system is written to; without lowers
/// everything happens in the agent's own root (the `local` test driver).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootConfig {
    /// EROFS disks, topmost first.
    #[serde(default)]
    pub lowers: Vec<String>,
    /// The ext4 disk that is written to.
    #[serde(default)]
    pub upper: Option<String>,
    /// A disk with a file system of any kind: the lowest of the lowers, or all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<RootDisk>,
}

/// A disk image that holds the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDisk {
    /// Its virtio serial.
    pub serial: String,
    /// Its file system; none: what its first bytes say.
    pub fstype: Option<String>,
    /// Which partition; none: the whole disk, or the only one with a file system.
    pub partition: Option<u32>,
    /// Whether it is the root itself, and there is nothing else.
    pub writable: bool,
}

/// A disk that is mounted into the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskMount {
    /// Its virtio serial.
    pub serial: String,
    /// Where.
    pub path: String,
    /// Its file system.
    pub fstype: String,
    /// Whether it is read-only.
    pub readonly: bool,
    /// Copy what the root has at `path` into it when it is empty.
    #[serde(default)]
    pub populate: bool,
    /// The share that is the same disk: by it the guest reaches what the disk gets while it is
    /// mounted, which the device does not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u32>,
}

/// A share of the host's file server, mounted into the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareMount {
    /// Its number: the name of its root in the file server's own root directory.
    pub share: u32,
    /// Where. The share of a single file is mounted over a file.
    pub path: String,
    /// Whether it is read-only; the file server holds it, and the mount says so.
    pub readonly: bool,
    /// Copy what the root has at `path` into it when it is empty.
    #[serde(default)]
    pub populate: bool,
    /// It is the image of a disk with this file system, which is mounted by a loop device; none: a
    /// directory or a file, as it is.
    #[serde(default)]
    pub fstype: Option<String>,
}

/// A memory file system that is mounted into the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsMount {
    /// Where.
    pub path: String,
    /// The most it may hold, in bytes.
    pub size_bytes: Option<u64>,
    /// Permission bits of its root.
    pub mode: u32,
    /// Whether it is read-only.
    pub readonly: bool,
}

/// A command to run in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The program and its arguments; a program without `/` is looked up in `PATH`.
    pub argv: Vec<String>,
    /// The whole environment. The agent adds `PATH`, `HOME`, `USER` and `TERM` where missing.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; none is `/`.
    #[serde(default)]
    pub cwd: Option<String>,
    /// `user[:group]`, names or numbers; none is root.
    #[serde(default)]
    pub user: Option<String>,
    /// What its standard input is.
    #[serde(default)]
    pub stdin: StdinMode,
    /// A terminal; standard error is merged into standard output.
    #[serde(default)]
    pub tty: Option<Tty>,
    /// Resource limits.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Make the working directory when it is missing (the workload's, as OCI run-times do).
    #[serde(default)]
    pub create_cwd: bool,
}

/// What the standard input of a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdinMode {
    /// `/dev/null`.
    #[default]
    Null,
    /// The data frames of fd 0, until an empty one.
    Pipe,
}

/// A terminal's size and type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tty {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
    /// `TERM`.
    pub term: String,
}

/// A resource limit of a command; see `setrlimit(2)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `nofile`, `nproc`, `core` and so on.
    pub name: String,
    /// The soft limit; none is no limit.
    pub soft: Option<u64>,
    /// The hard limit; none is no limit.
    pub hard: Option<u64>,
}

/// The input that a host may send to a command before the agent says that some was taken, in bytes;
/// the agent reads no more than that ahead. More would stand before whatever follows it.
pub const INPUT_WINDOW: usize = 256 << 10;

/// Host → agent on an exec stream, beside data frames of fd 0. The host closing the stream ends
/// the session: its process group gets SIGKILL, unless it has been detached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecInput {
    /// Send a signal to the process group.
    Signal(i32),
    /// The terminal has a new size.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Close the session and let the command run on: what it writes is dropped, and its input
    /// ends. The agent closes the stream without a last message.
    Detach,
}

/// Agent → host on an exec stream, beside data frames of fd 1 and 2. `Exited` and `Failed` are
/// last; output that the command wrote before it exited comes before `Exited`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecOutput {
    /// The command runs.
    Started {
        /// Its pid in the guest.
        pid: u32,
    },
    /// That many bytes more of its input were taken or dropped: as many may follow the
    /// [`INPUT_WINDOW`]. Told once it is worth a message.
    InputTaken(u64),
    /// The command has ended.
    Exited(ExitStatus),
    /// The command could not be started.
    Failed(ExecFailure),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code (0 to 255).
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

/// Why a command could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecFailure {
    /// No such program.
    NotFound(String),
    /// The program may not be executed, or is not one.
    NotExecutable(String),
    /// The working directory does not exist or is not one.
    BadWorkdir(String),
    /// The user or group is not known in the guest.
    UnknownUser(String),
    /// The request makes no sense (no program, a NUL byte, an unknown limit).
    Invalid(String),
    /// The guest's kernel refused.
    System(String),
}

impl ExitStatus {
    /// The exit code as a shell reports it: 128 + the signal's number for a signal.
    pub const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }

    /// Whether it exited with code 0.
    pub const fn success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl ExecFailure {
    /// The exit code as a shell reports it.
    pub const fn code(&self) -> i32 {
        match self {
            Self::NotFound(_) => crate::EXIT_NOT_FOUND,
            Self::NotExecutable(_)
            | Self::BadWorkdir(_)
            | Self::UnknownUser(_)
            | Self::Invalid(_)
            | Self::System(_) => crate::EXIT_NOT_EXECUTABLE,
        }
    }
}

impl fmt::Display for ExecFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(program) => write!(f, "{program}: command not found"),
            Self::NotExecutable(program) => write!(f, "{program}: cannot be executed"),
            Self::BadWorkdir(path) => write!(f, "{path}: no such directory in the guest"),
            Self::UnknownUser(user) => write!(f, "{user}: no such user or group in the guest"),
            Self::Invalid(what) | Self::System(what) => f.write_str(what),
        }
    }
}
