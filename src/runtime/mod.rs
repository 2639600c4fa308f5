//! Starts a microVM process from a config.
//!
//! ```text
//! VmConfig ──Driver::command (pure)──▶ VmCommand ──Driver::spawn──▶ Vm
//!                                        argv, numbered descriptors    pidfd: wait, kill
//! ```
//!
//! A VM is one child process. Its links to the host are inherited socket-pair ends: the agent port,
//! the boot console and, where something is shared, the port to the file server ([`VmLinks`]); disks are opened here and passed by number, so that
//! the VM process opens nothing that the guest could name. The child runs in a jail, dies
//! with this process, and is waited for and killed through its pidfd only.

mod agent_binary;
mod child;
mod code;
mod command;
mod driver;
pub mod jail;
pub mod krun;
mod kvm;
mod links;
#[cfg(feature = "test-support")]
mod local;
mod machine;
mod qemu;
mod report;
mod server;
pub mod setup;

pub use agent_binary::AGENT;
pub use child::start_time;
pub use code::{program, release_code};
pub use command::{Disk, Kernel, Passed, PassedFd, Role, Shared, VmCommand, VmConfig, shared_at};
pub use driver::{
    Capabilities, Chosen, Driver, DriverChoice, IncompleteJail, InvalidDriver, JailReport,
    LayerReport, Unavailable, Vm, VmExit, WaitFuture, driver, max_disks,
};
pub use krun::Krun;
pub use links::{HostLinks, VmLinks, record_console};
pub use machine::boot_id;
pub use qemu::Qemu;
pub use server::{Inherited, spawn_file_server};
