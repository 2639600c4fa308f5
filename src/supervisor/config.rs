//! What a supervisor is told when it starts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::runtime::Kernel;
use crate::spec::{DiskFormat, Name, SandboxSpec, VolumeKind};

/// Everything about the sandbox that its supervisor owns. It holds no secret value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaunchConfig {
    /// The sandbox's id.
    pub id: String,
    /// Its project.
    pub project: String,
    /// Its name.
    pub name: Name,
    /// What was declared.
    pub spec: SandboxSpec,
    /// What the image says.
    pub image: ImageDefaults,
    /// The driver: `krun`, `qemu`, or `local` in tests; see [`crate::runtime::DriverChoice`].
    pub driver: String,
    /// The kernel. The `local` driver needs none.
    #[serde(default)]
    pub kernel: Kernel,
    /// The disk that the guest's agent boots from.
    #[serde(default)]
    pub boot_disk: Option<PathBuf>,
    /// The image's file.
    #[serde(default)]
    pub image_file: Option<PathBuf>,
    /// How that file holds a disk, where the image is one.
    #[serde(default)]
    pub image_format: DiskFormat,
    /// The layer that its patches make over the image.
    #[serde(default)]
    pub patch_file: Option<PathBuf>,
    /// The sandbox's writable disk.
    #[serde(default)]
    pub upper: Option<PathBuf>,
    /// Where the volumes are that it mounts.
    #[serde(default)]
    pub volumes: BTreeMap<Name, VolumePlace>,
    /// How long the guest may take to boot, in milliseconds.
    #[serde(default = "default_boot_timeout_ms")]
    pub boot_timeout_ms: u64,
    /// Whether the VM must not start when a layer of its jail is missing.
    #[serde(default)]
    pub require_jail: bool,
    /// The executable that has `__supervise`; default this one.
    #[serde(skip)]
    pub executable: Option<PathBuf>,
    /// With the `local` driver: a program that plays the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_agent: Option<PathBuf>,
}

/// Where a volume keeps what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePlace {
    /// How it is kept.
    pub kind: VolumeKind,
    /// The disk's file, or the directory.
    pub path: PathBuf,
}

/// Default of [`LaunchConfig::boot_timeout_ms`]: for a loaded machine whose KVM is itself emulated.
/// By KVM on a real processor a guest is up in a second, or never.
pub const DEFAULT_BOOT_TIMEOUT_MS: u64 = 120_000;

const fn default_boot_timeout_ms() -> u64 {
    DEFAULT_BOOT_TIMEOUT_MS
}

/// What an image says about how it is run; unknown fields are ignored, so the stored configuration
/// of an image decodes as this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageDefaults {
    /// Start of the command line.
    pub entrypoint: Vec<String>,
    /// Rest of the command line.
    pub cmd: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Signal that stops the workload.
    pub stop_signal: Option<String>,
}

/// Where a sandbox keeps its files.
#[derive(Clone, Debug)]
pub struct SandboxPaths {
    dir: PathBuf,
}

impl SandboxPaths {
    /// Those of sandbox `id`.
    pub fn new(home: &Home, id: &str) -> Self {
        Self { dir: home.sandbox(id) }
    }

    /// All of them are in here.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// The directory of its logs.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The boot console.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("log/console.log")
    }

    /// What its supervisor has to say.
    pub fn supervisor_log(&self) -> PathBuf {
        self.dir.join("log/supervisor.log")
    }

    /// Held by its supervisor.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("supervisor.lock")
    }

    /// The layer of its patches, by convention: a name of a file that others may have too.
    pub fn patches(&self) -> PathBuf {
        self.dir.join("patches.erofs")
    }

    /// The writable disk, by convention.
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }
}
