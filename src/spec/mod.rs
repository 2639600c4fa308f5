//! Validated plain data for everything a user may declare.
//!
//! Nothing here reads a file, a clock, the environment or the database. Values are built by
//! `manifest` (from a Sandboxfile) or by `client` (from a program) and are the desired state that
//! `plan` compares with what exists. Every type serializes to the canonical form that
//! `msb config` prints; the same form is stored and hashed.

mod health;
mod lifecycle;
mod mount;
mod name;
mod network;
mod origin;
mod patch;
mod path;
mod probe;
mod project;
mod sandbox;
mod script;
mod secret;
mod signal;
mod status;
mod units;
mod volume;

pub use health::{HealthCheck, Probe};
pub use lifecycle::{
    Condition, Dependency, Hooks, Lifecycle, ReplaceOrder, RestartPolicy, WatchAction, WatchRule,
};
pub use mount::{Mount, MountSource};
pub use name::{InvalidName, Name};
pub use network::{
    Action as RuleAction, Direction, HostPort, NetworkPreset, NetworkSpec, PolicyRule, PortMapping,
    TlsSpec, Transport,
};
pub use origin::{Origin, OriginChildren, OriginNode, Origins, SourceText};
pub use patch::Patch;
pub use path::{GuestPath, InvalidGuestPath};
pub use probe::{HttpGet, InvalidProbe, ProbeTarget};
pub use project::{Project, ResourceId};
pub use sandbox::{
    DiskFormat, Image, ImageSource, LogLevel, PullPolicy, RegistrySpec, SandboxKind, SandboxSpec,
    User,
};
pub use script::{InvalidScript, check_script_name, check_scripts, script_file};
pub use secret::{SecretFrom, SecretSpec, ViolationAction};
pub use signal::{InvalidSignal, Signal};
pub use status::{Health, Status};
pub use units::{ByteSize, InvalidUnit, Millis};
pub use volume::{VolumeKind, VolumeSpec};
