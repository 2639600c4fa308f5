//! Health checks.

use serde::{Deserialize, Serialize};

use super::Millis;

/// How the supervisor finds out whether a sandbox is healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is tried; exit 0 (or a successful connection or response) is healthy.
    #[serde(flatten)]
    pub probe: Probe,
    /// Time from the end of one probe to the start of the next. Default 5s.
    pub interval: Millis,
    /// A probe that takes longer has failed. Default 5s.
    pub timeout: Millis,
    /// Failures in a row after which the sandbox is unhealthy. Default 3.
    pub retries: u32,
    /// Failures in this time after the start do not count. Default 0s.
    pub start_period: Millis,
}

/// What a health check tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A command in the guest; exit 0 is healthy.
    Exec(Vec<String>),
    /// A script for the sandbox's shell; exit 0 is healthy.
    Shell(String),
    /// A URL for an HTTP GET in the guest ([`ProbeTarget::http`](super::ProbeTarget::http)); a status from 200 to 399 is healthy.
    Http(String),
    /// A TCP connection in the guest ([`ProbeTarget::tcp`](super::ProbeTarget::tcp)); established is
    /// healthy.
    Tcp(String),
}

impl HealthCheck {
    /// Default of `interval`.
    pub const DEFAULT_INTERVAL: Millis = Millis::from_secs(5);
    /// Default of `timeout`.
    pub const DEFAULT_TIMEOUT: Millis = Millis::from_secs(5);
    /// Default of `retries`.
    pub const DEFAULT_RETRIES: u32 = 3;
}
