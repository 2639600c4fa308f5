//! A whole project: what a Sandboxfile declares.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Name, RegistrySpec, SandboxSpec, SecretSpec, VolumeSpec};

/// The desired state. Every reference in it resolves and its dependency graph has no cycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// The project's name, unique on the machine.
    pub name: Name,
    /// The directory of the main Sandboxfile (absolute).
    pub root: String,
    /// Sandboxes of every profile; what is selected is the planner's input, not the project's.
    #[serde(default)]
    pub sandboxes: BTreeMap<Name, SandboxSpec>,
    /// Volumes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<Name, VolumeSpec>,
    /// Secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<Name, SecretSpec>,
    /// Registries by `host[:port]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registries: BTreeMap<String, RegistrySpec>,
}

impl Project {
    /// The project of sandboxes that programs make without a Sandboxfile; none may have its name.
    pub const LIBRARY: &'static str = "msb-library";

    /// [`Project::LIBRARY`].
    pub fn library() -> Name {
        Name::generated(Self::LIBRARY)
    }
}

/// What a plan step acts on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceId {
    /// An image, by reference as written.
    Image(String),
    /// A sandbox.
    Sandbox(Name),
    /// A volume.
    Volume(Name),
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(reference) => write!(f, "image {reference}"),
            Self::Sandbox(name) => write!(f, "sandbox {name}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}
