//! Dependencies, restarts, hooks and what a plan may do to a sandbox.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::GuestPath;

/// What a dependency must have reached before the dependent starts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Its workload runs.
    #[default]
    Started,
    /// Its health check passes.
    Healthy,
    /// It is a job and has exited with 0.
    Completed,
}

/// One entry of `depends_on`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// What is waited for.
    pub condition: Condition,
    /// Whether a dependency that is absent or fails keeps the dependent from starting. Default true.
    pub required: bool,
    /// Whether the dependent restarts when the dependency is replaced or restarted. Default false.
    pub restart: bool,
}

/// What happens when the workload ends. Carried out by the supervisor, so that nothing happens when
/// that is dead, and nothing when the machine starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again, whatever its exit code.
    Always,
    /// It is started again after a failure, at most `max` times in a row (none: without end).
    OnFailure {
        /// The most restarts in a row.
        max: Option<u32>,
    },
    /// As `Always`: what was stopped on request stays stopped until it is started, either way.
    UnlessStopped,
}

/// Commands that run in the guest around the life of the workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Run in order once the workload has started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post_start: Vec<Vec<String>>,
    /// Run in order before the stop signal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre_stop: Vec<Vec<String>>,
}

/// Limits on what a plan may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// In which order a replacement happens.
    #[serde(default)]
    pub replace: ReplaceOrder,
    /// Field paths (globs over dotted paths, such as `labels.*`) whose changes are not acted on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Never remove or replace without being asked by name.
    #[serde(default)]
    pub protect: bool,
}

/// In which order a replacement happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplaceOrder {
    /// The old one stops, then the new one starts.
    #[default]
    StopFirst,
    /// The new one starts and passes its health gate, then the old one stops.
    StartFirst,
}

/// A rule of `msb watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRule {
    /// The host directory or file that is watched (absolute).
    pub path: String,
    /// Where changes go in the guest.
    pub target: Option<GuestPath>,
    /// What a change does.
    pub action: WatchAction,
    /// Globs of paths that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
}

/// What a change of a watched file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchAction {
    /// Copy the changed files into the guest.
    Sync,
    /// Copy them, then restart the workload.
    SyncRestart,
    /// Restart the sandbox.
    Restart,
    /// Replace the sandbox.
    Replace,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "started",
            Self::Healthy => "healthy",
            Self::Completed => "completed",
        })
    }
}
