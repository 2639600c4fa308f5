//! What a VM consists of, and the command that starts it: plain data.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::DiskFormat;

/// Everything about a VM that its driver needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// Names this run of the sandbox; shown as the name of the process.
    pub run_id: String,
    /// The sandbox's id: the jail gives each its own user.
    pub sandbox: String,
    /// Whether it must not start when a layer of the jail is missing.
    pub require_jail: bool,
    /// The kernel.
    pub kernel: Kernel,
    /// Virtual processors, at least 1.
    pub vcpus: u32,
    /// Guest memory.
    pub memory_mib: u64,
    /// Disks in device order. The first is the boot disk: an EROFS file that holds `/init.krun`.
    pub disks: Vec<Disk>,
    /// Whether it has a port to a file server.
    pub files: bool,
}

/// The guest kernel, in the two forms that VMMs take; [`crate::runtime::setup`] provides both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// An ELF file with a PVH entry, for QEMU.
    pub image: PathBuf,
    /// The library that holds it, for libkrun.
    pub library: PathBuf,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The virtio serial by which the guest finds it; at most 20 bytes of `[a-z0-9-]`.
    pub serial: String,
    /// The file.
    pub path: PathBuf,
    /// Whether the device refuses writes; the file is then also opened for reading only.
    pub readonly: bool,
    /// How the file holds it; never guessed from what the guest can write.
    #[serde(default)]
    pub format: DiskFormat,
}

/// A command that starts a VM: what a test can compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmCommand {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments, without the program's name.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The descriptors it inherits beside 0, 1 and 2.
    pub fds: Vec<PassedFd>,
    /// Files that it opens by path for reading; with the next two, all that it can see beside the
    /// system's programs.
    pub reads: Vec<PathBuf>,
    /// Files that it opens by path for writing.
    pub writes: Vec<PathBuf>,
    /// By how many bytes the files that it writes to may grow.
    pub growth: u64,
    /// Devices that it opens by path.
    pub devices: Vec<PathBuf>,
    /// As in [`VmConfig`].
    pub sandbox: String,
    /// As in [`VmConfig`].
    pub require_jail: bool,
    /// What the process is for, which decides about its jail.
    pub role: Role,
}

/// What a process in a jail is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It runs a guest.
    Vm,
    /// It serves these to a guest. They are at [`shared_at`] in its file system.
    FileServer(Vec<Shared>),
}

/// Something of the host that a file server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// A directory or a file, an absolute path.
    pub path: PathBuf,
    /// Whether nothing of it can be changed.
    pub readonly: bool,
}

/// Where the shared thing of this number is in the file system of its server's jail.
pub fn shared_at(number: usize) -> PathBuf {
    PathBuf::from(format!("/.msb-shares/{number}"))
}

/// What a file of a qcow2 disk holds beside the disk: tables, and clusters that are in use no more.
const QCOW2_ROOM: u64 = 64 << 20;

impl VmConfig {
    /// By how many bytes the files of its disks may grow.
    pub(super) fn growth(&self) -> u64 {
        let growth = |disk: &Disk| match disk.format {
            DiskFormat::Qcow2 { bytes } if !disk.readonly => {
                bytes.saturating_add(bytes / 8).saturating_add(QCOW2_ROOM)
            }
            DiskFormat::Qcow2 { .. } | DiskFormat::Raw => 0,
        };
        self.disks.iter().map(growth).fold(0, u64::saturating_add)
    }
}

/// A descriptor that a VM process inherits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedFd {
    /// Its number in the VM process, 3 or more.
    pub number: i32,
    /// What it is.
    pub what: Passed,
}

/// What an inherited descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    /// The agent port.
    Agent,
    /// The port to the file server.
    Files,
    /// The boot console.
    Console,
    /// A disk, opened when the VM is started.
    Disk(Disk),
    /// A file in memory with this text.
    Config(String),
    /// Where it reports on its set-up, as [`super::report`] says, before its guest runs.
    Report,
}

#[cfg(test)]
impl VmConfig {
    /// A VM for tests of commands.
    pub(super) fn sample() -> Self {
        let disk = |serial: &str, readonly| Disk {
            serial: serial.to_owned(),
            path: format!("/d/{serial}").into(),
            readonly,
            format: DiskFormat::Raw,
        };
        Self {
            run_id: "4f".to_owned(),
            sandbox: "a1".to_owned(),
            require_jail: false,
            kernel: Kernel { image: "/k/kernel.elf".into(), library: "/k/kernel.so".into() },
            vcpus: 2,
            memory_mib: 512,
            disks: vec![disk("boot", true), disk("upper", false)],
            files: false,
        }
    }
}
