//! The krun driver: libkrun runs the guest by KVM, in a child process of its own.
//!
//! `krun_start_enter` takes its process over and ends it together with the guest, so the child is
//! this executable as `msb __krun` ([`child::run`]). It is told everything on one inherited
//! descriptor and answers on another, before the guest runs, what it could not set up.
//!
//! - The kernel comes as a library whose pages become guest memory: all VMs share them.
//! - The boot disk is the one of the qemu driver: words behind libkrun's own command line name it,
//!   and the last word wins.
//! - TSI and the implicit vsock are off: without a network device a guest reaches nothing.
//! - The console must be a terminal, for the kernel's messages to take no further device.

#[cfg(not(any(feature = "krun-bundled", feature = "krun-system")))]
compile_error!("select one of the features `krun-bundled` and `krun-system`");
#[cfg(all(feature = "krun-bundled", feature = "krun-system"))]
compile_error!(
    "`krun-bundled` and `krun-system` define the same functions: select one, with `--no-default-features`"
);

mod child;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::runtime::links::Console;
use crate::runtime::machine::Machine;
use crate::runtime::{
    Capabilities, Disk, Driver, Passed, PassedFd, Role, Unavailable, Vm, VmCommand, VmConfig,
    VmLinks, child as process,
};

pub use child::run;

#[cfg(feature = "krun-bundled")]
const VERSION: &str = "libkrun 1.19.7, built in";
#[cfg(not(feature = "krun-bundled"))]
const VERSION: &str = "libkrun of the system";

/// The word after `msb` that makes it the VM process.
pub const WORD: &str = "__krun";
/// Virtio devices that libkrun has interrupts for.
const MAX_DEVICES: usize = 11;
/// Balloon, random numbers and console are always there.
pub(super) const MAX_DISKS: usize = MAX_DEVICES - 3;

const CONFIG_FD: i32 = 3;
const REPORT_FD: i32 = 4;
const AGENT_FD: i32 = 5;
const CONSOLE_FD: i32 = 6;
const FILES_FD: i32 = 7;

/// Appended to libkrun's kernel command line, see the qemu driver for their meaning.
const KERNEL_WORDS: [&str; 4] =
    ["root=/dev/vda", "rootfstype=erofs", "ro", "initcall_blacklist=jent_mod_init"];

/// libkrun, on a machine whose KVM runs guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Krun {
    program: PathBuf,
}

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
struct Config {
    library: PathBuf,
    vcpus: u8,
    memory_mib: u32,
    disks: Vec<Disk>,
    /// Whether there is a port to the file server.
    files: bool,
    /// No guest without the filter.
    require_jail: bool,
}

impl Krun {
    /// The driver's name.
    pub const NAME: &str = "krun";

    /// Looks for a KVM that runs guests.
    pub fn find(home: &Home) -> Result<Self, Unavailable> {
        if let Some(reason) = Machine::look(home, None).kvm {
            return Err(Unavailable {
                reason: format!("the krun driver needs KVM: {reason}"),
                help: "use the qemu driver, which emulates: `--driver qemu`".to_owned(),
            });
        }
        let program = super::program().map_err(|error| Unavailable {
            reason: format!("the path of this program is not known: {error}"),
            help: "mount /proc".to_owned(),
        })?;
        Ok(Self { program })
    }

    /// Sets the executable that has `__krun`; the default is this one.
    #[must_use]
    pub fn program(self, program: PathBuf) -> Self {
        Self { program }
    }
}

impl Driver for Krun {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        Ok(Capabilities {
            driver: self.name(),
            hardware: true,
            version: VERSION.to_owned(),
            max_disks: MAX_DISKS,
        })
    }

    fn links(&self, files: bool) -> io::Result<(VmLinks, crate::runtime::HostLinks)> {
        VmLinks::pair(Console::Terminal, files)
    }

    fn command(&self, vm: &VmConfig) -> VmCommand {
        let config = Config {
            library: vm.kernel.library.clone(),
            // More than there is of either is refused by libkrun.
            vcpus: u8::try_from(vm.vcpus).unwrap_or(u8::MAX),
            memory_mib: u32::try_from(vm.memory_mib).unwrap_or(u32::MAX),
            disks: vm.disks.clone(),
            files: vm.files,
            require_jail: vm.require_jail,
        };
        let disks = |readonly: bool| {
            let wanted = vm.disks.iter().filter(move |disk| disk.readonly == readonly);
            wanted.map(|disk| disk.path.clone())
        };
        let mut fds = vec![
            PassedFd {
                number: CONFIG_FD,
                what: Passed::Config(serde_json::to_string(&config).unwrap_or_default()),
            },
            PassedFd { number: REPORT_FD, what: Passed::Report },
            PassedFd { number: AGENT_FD, what: Passed::Agent },
            PassedFd { number: CONSOLE_FD, what: Passed::Console },
        ];
        if vm.files {
            fds.push(PassedFd { number: FILES_FD, what: Passed::Files });
        }
        VmCommand {
            program: self.program.clone(),
            args: vec![WORD.into(), vm.run_id.clone().into()],
            env: Vec::new(),
            fds,
            reads: [vm.kernel.library.clone()].into_iter().chain(disks(true)).collect(),
            growth: vm.growth(),
            writes: disks(false).collect(),
            devices: vec![PathBuf::from("/dev/kvm")],
            sandbox: vm.sandbox.clone(),
            require_jail: vm.require_jail,
            role: Role::Vm,
        }
    }

    fn spawn(&self, command: VmCommand, links: VmLinks) -> io::Result<Box<dyn Vm>> {
        Ok(Box::new(process::spawn(command, links, true)?))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_port_for_files() {
        let krun = Krun { program: "/usr/bin/msb".into() };
        let command = krun.command(&VmConfig { files: true, ..VmConfig::sample() });
        assert!(command.fds.contains(&PassedFd { number: FILES_FD, what: Passed::Files }));
        let Passed::Config(config) = &command.fds[0].what else { panic!("{command:?}") };
        assert!(config.contains(r#""files":true"#), "{config}");
    }

    #[test]
    fn a_command() {
        let krun = Krun { program: "/usr/bin/msb".into() };
        let command = krun.command(&VmConfig::sample());
        expect![[r#"
            VmCommand {
                program: "/usr/bin/msb",
                args: [
                    "__krun",
                    "4f",
                ],
                env: [],
                fds: [
                    PassedFd {
                        number: 3,
                        what: Config(
                            "{\"library\":\"/k/kernel.so\",\"vcpus\":2,\"memory_mib\":512,\"disks\":[{\"serial\":\"boot\",\"path\":\"/d/boot\",\"readonly\":true,\"format\":\"raw\"},{\"serial\":\"upper\",\"path\":\"/d/upper\",\"readonly\":false,\"format\":\"raw\"}],\"files\":false,\"require_jail\":false}",
                        ),
                    },
                    PassedFd {
                        number: 4,
                        what: Report,
                    },
                    PassedFd {
                        number: 5,
                        what: Agent,
                    },
                    PassedFd {
                        number: 6,
                        what: Console,
                    },
                ],
                reads: [
                    "/k/kernel.so",
                    "/d/boot",
                ],
                writes: [
                    "/d/upper",
                ],
                growth: 0,
                devices: [
                    "/dev/kvm",
                ],
                sandbox: "a1",
                require_jail: false,
                role: Vm,
            }
        "#]].assert_eq(&format!("{command:#?}\n"));
    }
}
