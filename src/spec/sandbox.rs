//! A sandbox as declared.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    ByteSize, Dependency, GuestPath, HealthCheck, Hooks, Lifecycle, Millis, Mount, Name,
    NetworkSpec, Patch, PortMapping, RestartPolicy, Signal, WatchRule,
};

/// Everything a user may say of one sandbox. `None` and empty mean "the image's" or the default
/// that the field names; references to other resources are valid within the [`super::Project`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// What it boots.
    pub image: Image,
    /// Service or job.
    #[serde(default)]
    pub kind: SandboxKind,
    /// When the registry is asked.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Memory of the guest; default [`SandboxSpec::DEFAULT_MEMORY`].
    pub memory: ByteSize,
    /// Virtual processors; default 1, at most [`SandboxSpec::MAX_CPUS`].
    pub cpus: u32,
    /// Environment of the workload and of exec sessions, over the image's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Replaces the image's entrypoint (and, as in OCI run-times, its command too).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Working directory; default the image's, else `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<GuestPath>,
    /// User of the workload and of exec sessions; default the image's, else root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Shell of `msb shell` and shell scripts; default `/bin/sh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<GuestPath>,
    /// Host name in the guest; default [`Name::hostname`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Named scripts: files on `PATH` of whatever runs in the guest; see [`super::script_file`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scripts: BTreeMap<String, String>,
    /// Mounts by guest path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<GuestPath, Mount>,
    /// Patches in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Patch>,
    /// Health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthCheck>,
    /// What happens when the workload ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Sent to the workload to stop it; default the image's, else SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,
    /// Time from the stop signal to SIGKILL; default [`SandboxSpec::DEFAULT_GRACE`].
    pub stop_grace_period: Millis,
    /// The longest a run may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Millis>,
    /// The longest it may run without being used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Millis>,
    /// Size of the writable upper disk (sparse); default [`SandboxSpec::DEFAULT_DISK`].
    pub disk: ByteSize,
    /// Verbosity of the supervisor's log.
    #[serde(default)]
    pub log_level: LogLevel,
    /// What must have happened before it starts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<Name, Dependency>,
    /// Published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Secrets whose placeholders it sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Name>,
    /// Profiles that select it; none: always selected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Name>,
    /// How many of it run; default 1.
    pub replicas: u32,
    /// Commands around its life.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hooks: Hooks,
    /// Limits on what a plan may do to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lifecycle: Lifecycle,
    /// What `msb watch` reacts to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watch: Vec<WatchRule>,
    /// Network policy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: NetworkSpec,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl SandboxSpec {
    /// Default of `memory`.
    pub const DEFAULT_MEMORY: ByteSize = ByteSize::from_mib(512);
    /// The least `memory` that a guest boots with.
    pub const MIN_MEMORY: ByteSize = ByteSize::from_mib(64);
    /// Default of `disk`.
    pub const DEFAULT_DISK: ByteSize = ByteSize::from_mib(8 * 1024);
    /// The least `disk` that holds a file system with a journal.
    pub const MIN_DISK: ByteSize = ByteSize::from_mib(16);
    /// Default of `stop_grace_period`.
    pub const DEFAULT_GRACE: Millis = Millis::from_secs(10);
    /// The most `cpus`.
    pub const MAX_CPUS: u32 = 255;

    /// A sandbox of `image` with every other field at its default.
    pub fn new(image: Image) -> Self {
        Self {
            image,
            kind: SandboxKind::default(),
            pull_policy: PullPolicy::default(),
            memory: Self::DEFAULT_MEMORY,
            cpus: 1,
            env: BTreeMap::new(),
            entrypoint: None,
            cmd: None,
            workdir: None,
            user: None,
            shell: None,
            hostname: None,
            labels: BTreeMap::new(),
            scripts: BTreeMap::new(),
            volumes: BTreeMap::new(),
            patches: Vec::new(),
            healthcheck: None,
            restart: RestartPolicy::default(),
            stop_signal: None,
            stop_grace_period: Self::DEFAULT_GRACE,
            max_duration: None,
            idle_timeout: None,
            disk: Self::DEFAULT_DISK,
            log_level: LogLevel::default(),
            depends_on: BTreeMap::new(),
            ports: Vec::new(),
            secrets: Vec::new(),
            profiles: Vec::new(),
            replicas: 1,
            hooks: Hooks::default(),
            lifecycle: Lifecycle::default(),
            watch: Vec::new(),
            network: NetworkSpec::default(),
        }
    }
}

impl SandboxSpec {
    /// Its shell.
    pub fn shell_path(&self) -> String {
        self.shell.as_ref().map_or_else(|| "/bin/sh".to_owned(), ToString::to_string)
    }
}

/// What a sandbox boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Where it comes from.
    #[serde(flatten)]
    pub source: ImageSource,
    /// `os/arch[/variant]`; default `linux/` and the host's architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// Where an image comes from. Host paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// An OCI reference as written (`name[:tag][@digest]`).
    Oci(String),
    /// A host directory: an OCI image layout (`oci-layout` and `index.json` inside, then the
    /// fragment `#tag` may select a manifest), else a root file system.
    Dir(String),
    /// An archive made by `docker save` or `skopeo copy … oci-archive:`.
    Archive(String),
    /// A disk image.
    Disk {
        /// The host path.
        path: String,
        /// The file system in it, where it cannot be told.
        fstype: Option<String>,
        /// The number of the partition that holds it, where there are several with one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        partition: Option<u32>,
        /// Whether the guest writes to the image itself.
        writable: bool,
    },
}

/// How the file of a disk holds the bytes of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// As they are.
    #[default]
    Raw,
    /// As QEMU's copy-on-write format, version 2 or 3.
    Qcow2 {
        /// The size of the disk, in bytes; the file grows as it is written to.
        bytes: u64,
    },
}

/// A service runs until it is stopped; a job runs to completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxKind {
    /// Runs until stopped.
    #[default]
    Service,
    /// Runs to completion; exit 0 is success.
    Job,
}

/// When the registry is asked for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// At every `up`.
    Always,
    /// When the reference is not in the cache.
    #[default]
    IfMissing,
    /// Never; an image that is not in the cache is an error.
    Never,
}

/// Verbosity of the supervisor's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And what happened.
    #[default]
    Info,
    /// And details.
    Debug,
    /// Everything.
    Trace,
}

/// `user[:group]`, each a name or a number; resolved in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct User(pub String);

/// Credentials and transport of one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrySpec {
    /// User name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<super::SecretFrom>,
    /// Plain HTTP; allowed for loopback addresses only.
    #[serde(default)]
    pub insecure: bool,
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci(text) | Self::Dir(text) | Self::Archive(text) => f.write_str(text),
            Self::Disk { path, .. } => f.write_str(path),
        }
    }
}
