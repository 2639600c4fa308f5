//! Secrets as declared: where a value comes from and who may see it, never the value.

use serde::{Deserialize, Serialize};

/// A declared secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSpec {
    /// The variable in the guest that holds the placeholder.
    pub env: String,
    /// Where the value comes from.
    pub from: SecretFrom,
    /// Hosts (exact, lower case) to which the value may go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_hosts: Vec<String>,
    /// Patterns (`*.suffix`) of such hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_host_patterns: Vec<String>,
    /// What the guest sees; default `$MSB_<ENV>`.
    pub placeholder: String,
    /// Only over verified TLS; default true.
    pub require_tls: bool,
    /// What happens when the placeholder goes elsewhere; default block-and-log.
    pub on_violation: ViolationAction,
}

/// The source of a secret's value, read when a sandbox starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretFrom {
    /// A variable of the environment of `msb`.
    Env(String),
    /// A host file (absolute), without its trailing newline.
    File(String),
    /// The standard output of a command, without its trailing newline.
    Command(Vec<String>),
}

/// What happens when a placeholder goes to a host that is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ViolationAction {
    /// The request is refused.
    Block,
    /// It is refused and an event is written.
    #[default]
    BlockAndLog,
    /// It is refused, an event is written and the sandbox stops.
    BlockAndTerminate,
}
