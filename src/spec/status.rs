//! What a sandbox is doing, as observed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The life of a sandbox.
///
/// ```text
/// created ──▶ starting ──▶ running ──▶ draining ──▶ stopped
///                 │           │            │
///                 └───────────┴────────────┴──────▶ crashed
/// stopped, crashed ──▶ starting
/// draining ──▶ restarting ──▶ starting
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It has disks and has never been started.
    Created,
    /// Its supervisor lives; the workload does not run yet.
    Starting,
    /// Its workload runs (or the agent, where it has no workload).
    Running,
    /// It is being stopped.
    Draining,
    /// Its last run has ended; its supervisor lives and begins another in a while.
    Restarting,
    /// It has ended in order; the exit code says how the workload did.
    Stopped,
    /// The VM or the supervisor ended out of order, or the boot failed.
    Crashed,
}

/// The outcome of the health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// No verdict yet.
    Starting,
    /// The last probe succeeded.
    Healthy,
    /// `retries` probes in a row failed.
    Unhealthy,
}

impl Status {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Draining,
        Self::Restarting,
        Self::Stopped,
        Self::Crashed,
    ];

    /// Whether a supervisor is expected to live.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Draining | Self::Restarting)
    }

    /// The word in listings and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
        }
    }
}

impl Health {
    /// The word in listings and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
