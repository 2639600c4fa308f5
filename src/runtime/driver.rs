//! The seam between a supervisor and the ways to run a VM.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::str::FromStr;

use crate::home::Home;
use crate::runtime::links::Console;
use crate::runtime::{HostLinks, Krun, Qemu, VmCommand, VmConfig, VmLinks, krun, qemu};

/// A way to run one microVM. Every driver ends as one child process.
pub trait Driver: Send + Sync + fmt::Debug {
    /// The name by which it is chosen and recorded.
    fn name(&self) -> &'static str;
    /// Whether it can run VMs here.
    fn probe(&self) -> Result<Capabilities, Unavailable>;
    /// The command that starts `vm`. Pure.
    fn command(&self, vm: &VmConfig) -> VmCommand;
    /// The links of a VM, in the form that this driver takes: one for `files` when
    /// [`VmConfig::files`] is set.
    fn links(&self, files: bool) -> io::Result<(VmLinks, HostLinks)> {
        VmLinks::pair(Console::Socket, files)
    }
    /// Starts `command`, connected to `links`. The VM dies with this process.
    ///
    /// Blocks for some milliseconds. Errors name the file that could not be opened or executed.
    fn spawn(&self, command: VmCommand, links: VmLinks) -> io::Result<Box<dyn Vm>>;
}

/// A running VM process. Dropping it kills it.
pub trait Vm: Send + Sync + fmt::Debug {
    /// Its process id, for the record: signals go through [`Vm::kill`].
    fn pid(&self) -> u32;
    /// When it was started, in clock ticks since boot (field 22 of `/proc/PID/stat`). With the
    /// pid and the boot id it names the process for good.
    fn start_time(&self) -> u64;
    /// How it is confined.
    fn jail(&self) -> &JailReport;
    /// Sends SIGKILL. Fine when it has ended already.
    fn kill(&self) -> io::Result<()>;
    /// Waits for its end, and reaps it. May be called again and gives the same answer. Needs a
    /// tokio runtime with I/O enabled.
    fn wait(&self) -> WaitFuture<'_>;
}

/// What [`Vm::wait`] returns.
pub type WaitFuture<'a> = Pin<Box<dyn Future<Output = io::Result<VmExit>> + Send + 'a>>;

/// How a VM process ended. Only the agent's `Bye` tells a clean stop from a crash: a guest
/// kernel that panics also ends with code 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmExit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What a driver can do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver's name.
    pub driver: &'static str,
    /// Whether the processor runs the guest. If not it is emulated: slower, and a weaker boundary.
    pub hardware: bool,
    /// The program and its version, such as `/usr/bin/qemu-system-x86_64 7.2.22`.
    pub version: String,
    /// The most disks of a VM, the boot disk included.
    pub max_disks: usize,
}

/// Why a driver cannot be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// What is missing.
    pub reason: String,
    /// How to get it.
    pub help: String,
}

/// Which parts of the jail hold for a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JailReport {
    /// Every layer that was tried, in the order of application.
    pub layers: Vec<LayerReport>,
}

impl JailReport {
    /// The layers that do not hold, and why.
    pub fn missing(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.layers.iter().filter_map(|layer| Some((layer.layer, layer.unavailable.as_deref()?)))
    }
}

/// A whole jail was required, and something of it is missing. Nothing was executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the jail is not complete, and it is required to be: {}", list(.0))]
pub struct IncompleteJail(pub JailReport);

fn list(report: &JailReport) -> String {
    let missing = report.missing().map(|(layer, why)| format!("{layer} ({why})"));
    missing.collect::<Vec<_>>().join("; ")
}

/// Whether one layer of the jail holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerReport {
    /// The layer, such as `network namespace`.
    pub layer: &'static str,
    /// Why it does not hold; `None` when it does.
    pub unavailable: Option<String>,
}

/// Which driver a user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// QEMU, with KVM where it can run guests, else by emulation.
    Qemu,
    /// libkrun.
    Krun,
    /// The agent as an ordinary child process: no VM at all. For tests.
    #[cfg(feature = "test-support")]
    Local,
}

/// A driver name that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown driver `{0}`; use `auto`, `krun` or `qemu`")]
pub struct InvalidDriver(pub String);

impl FromStr for DriverChoice {
    type Err = InvalidDriver;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "qemu" => Ok(Self::Qemu),
            "krun" => Ok(Self::Krun),
            #[cfg(feature = "test-support")]
            "local" => Ok(Self::Local),
            other => Err(InvalidDriver(other.to_owned())),
        }
    }
}

/// The most disks of a VM of the driver `name`, the boot disk included.
pub fn max_disks(name: &str) -> usize {
    match name {
        Krun::NAME => krun::MAX_DISKS,
        Qemu::NAME => qemu::MAX_DISKS,
        _ => usize::MAX,
    }
}

/// The driver that is used, and what that gives up.
#[derive(Debug)]
pub struct Chosen {
    /// The driver.
    pub driver: Box<dyn Driver>,
    /// Why it is not the one that would be better.
    pub fallback: Option<String>,
}

/// The driver that `choice` means on this machine: with `auto` krun, and qemu where krun cannot be
/// used. What was found out about the machine is kept under `home` until it is rebooted.
pub fn driver(choice: DriverChoice, home: &Home) -> Result<Chosen, Unavailable> {
    let (driver, fallback): (Box<dyn Driver>, _) = match choice {
        DriverChoice::Auto => match Krun::find(home) {
            Ok(krun) => (Box::new(krun), None),
            Err(why) => {
                let qemu = Qemu::find(home).map_err(|error| Unavailable {
                    reason: format!("{}; {}", why.reason, error.reason),
                    ..error
                })?;
                (Box::new(qemu), Some(why.reason))
            }
        },
        DriverChoice::Qemu => (Box::new(Qemu::find(home)?), None),
        DriverChoice::Krun => (Box::new(Krun::find(home)?), None),
        #[cfg(feature = "test-support")]
        DriverChoice::Local => (Box::new(crate::runtime::local::Local::install(home)?), None),
    };
    Ok(Chosen { driver, fallback })
}
