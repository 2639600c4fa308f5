//! The messages.

use std::path::PathBuf;

use msb_protocol::{ExecRequest, FsRequest};
use serde::{Deserialize, Serialize};

use crate::runtime::JailReport;
use crate::spec::{Health, SandboxSpec, Status};

/// The first frame of a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlRequest {
    /// One status.
    Status,
    /// The status and every change of it.
    Watch,
    /// End the sandbox in order.
    Stop {
        /// Time between the stop signal and SIGKILL; default the spec's.
        grace_ms: Option<u64>,
    },
    /// Let exec sessions and detached commands come to their ends, accept no more, then end the
    /// sandbox in order.
    Drain,
    /// As long as this connection is open, the sandbox is in use.
    Attach,
    /// Send the workload's process group a signal.
    Signal(i32),
    /// End the sandbox at once.
    Kill,
    /// The spec has changed in fields that need no restart.
    Update(Box<SandboxSpec>),
    /// Run a command. What it leaves open (environment, working directory, user) is the sandbox's;
    /// its environment is merged over the sandbox's.
    Exec(Box<ExecRequest>),
    /// One request on the files of the guest.
    Fs(Box<FsRequest>),
    /// How the VM process is confined.
    Jail,
    /// What it uses.
    Metrics,
    /// A disk has become longer: let the file system on it grow.
    Grow {
        /// The disk's file.
        file: PathBuf,
    },
}

/// The first frame of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlReply {
    /// It is being done.
    Accepted,
    /// It is not done.
    Denied(DeniedReason),
    /// The status.
    Status(Box<StatusEvent>),
    /// The layers of the jail, in the order of application.
    Jail(Vec<JailLayer>),
    /// What it uses.
    Metrics(Box<MetricsSample>),
}

/// What a run has used so far. What the guest's kernel counts is the guest's word, within the bounds
/// of its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsSample {
    /// The run.
    pub run_id: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Since its VM was started, in microseconds.
    pub uptime_us: u64,
    /// Its processors.
    pub cpus: u32,
    /// Time that they were busy, added up, in microseconds.
    pub cpu_us: u64,
    /// Memory in use by the guest, in bytes.
    pub memory_bytes: u64,
    /// The memory that it may use, in bytes.
    pub memory_limit_bytes: u64,
    /// What the VM's process has of this machine's memory, in bytes.
    pub host_memory_bytes: u64,
    /// Read from its disks, in bytes.
    pub disk_read_bytes: u64,
    /// Written to its disks, in bytes.
    pub disk_write_bytes: u64,
    /// Received from the network, in bytes.
    pub net_rx_bytes: u64,
    /// Sent to the network, in bytes.
    pub net_tx_bytes: u64,
}

/// One layer of the jail of a VM process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailLayer {
    /// The layer, such as `landlock`.
    pub layer: String,
    /// Whether it holds.
    pub applied: bool,
    /// Why it does not.
    pub reason: Option<String>,
}

impl JailLayer {
    /// Every layer of `report`.
    pub fn all(report: &JailReport) -> Vec<Self> {
        let layers = report.layers.iter().map(|layer| Self {
            layer: layer.layer.to_owned(),
            applied: layer.unavailable.is_none(),
            reason: layer.unavailable.clone(),
        });
        layers.collect()
    }
}

/// Why a request was denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum DeniedReason {
    /// The guest has not booted yet.
    #[error("the sandbox is still starting: wait until it runs")]
    NotReady,
    /// It is being stopped, or has ended.
    #[error("the sandbox is being stopped")]
    Stopping,
    /// A command, and those that run are let end.
    #[error("the sandbox is draining: no more commands begin in it")]
    Draining,
    /// The most sessions (commands, requests on files) are open.
    #[error("too many sessions are open in the sandbox: let some end first")]
    TooManySessions,
    /// The most clients are connected.
    #[error("too many clients are connected to the sandbox: let some end first")]
    TooManyClients,
    /// A signal, and there is nothing that could have it.
    #[error("no workload runs in the sandbox")]
    NoWorkload,
    /// The guest's agent does not answer.
    #[error("the guest does not answer")]
    NoAnswer,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It was tried, by this side or by the guest.
    #[error("{0}")]
    Failed(String),
}

/// What a sandbox is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusEvent {
    /// Its id.
    pub id: String,
    /// The run.
    pub run_id: String,
    /// When this became so, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What it is doing.
    pub status: Status,
    /// Outcome of the health check, where there is one.
    pub health: Option<Health>,
    /// Whether the workload (or, without one, the agent) has been running in this run.
    pub started: bool,
    /// Exit code of the workload, 128 + n for a signal.
    pub exit_code: Option<i32>,
    /// Why the run failed.
    pub error: Option<String>,
    /// What the last probe that changed the health had to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_output: Option<String>,
    /// The VM's process id.
    pub vm_pid: Option<u32>,
    /// Runs that the restart policy has begun since the sandbox was started.
    #[serde(default)]
    pub restarts: u32,
    /// When the next run begins, in milliseconds since the Unix epoch, while it is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at_ms: Option<i64>,
}

impl StatusEvent {
    /// Whether the last run has ended: no further event follows.
    pub fn has_ended(&self) -> bool {
        !self.status.is_live()
    }
}
