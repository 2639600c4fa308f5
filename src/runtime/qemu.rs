//! The qemu driver: QEMU's `microvm` machine, by KVM or by emulation.
//!
//! The command line is the one that was measured to work:
//! - `acpi=off` makes QEMU append a `virtio_mmio.device=` word per device to the kernel command
//!   line: the kernel has neither ACPI nor PCI. It also limits a VM to [`MAX_DEVICES`] devices.
//! - Under emulation the kernel cannot calibrate the time stamp counter and is told its frequency.
//! - `-no-reboot` turns the guest's restart into the end of the process; power-off only halts.
//! - Disks, console and agent port are inherited descriptors: QEMU opens nothing but the kernel
//!   and its firmware, and its own system call filter keeps it from starting programs.
#![allow(clippy::disallowed_methods, reason = "this module looks for QEMU and asks its version")]

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::home::Home;
use crate::runtime::machine::Machine;
use crate::runtime::{
    Capabilities, Driver, Passed, PassedFd, Role, Unavailable, Vm, VmCommand, VmConfig, VmLinks,
    child,
};
use crate::spec::DiskFormat;

/// Virtio devices of the `microvm` machine without ACPI.
const MAX_DEVICES: usize = 8;
/// The disks that leaves beside the console device.
pub(super) const MAX_DISKS: usize = MAX_DEVICES - 1;
/// The descriptors of a VM process are numbered from here.
const FIRST_FD: i32 = 3;
const AGENT_FD: i32 = FIRST_FD;
const CONSOLE_FD: i32 = FIRST_FD + 1;
const FILES_FD: i32 = FIRST_FD + 2;
const FIRST_DISK_FD: i32 = FIRST_FD + 3;

#[cfg(target_arch = "x86_64")]
const PROGRAM: &str = "qemu-system-x86_64";
#[cfg(not(target_arch = "x86_64"))]
const PROGRAM: &str = "qemu-system-aarch64";

/// Supervisors run without `PATH`.
const USUAL: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Kernel command line:
/// - `reboot=t panic=-1`: restart by triple fault, at once when the kernel panics.
/// - `nomodule`, `quiet`: there are no modules; errors and panics are still shown.
/// - `initcall_blacklist=jent_mod_init`: leaves out the self-test of a random number source of the
///   kernel's crypto API, a tenth of the boot time. `/dev/random` does not use it.
const KERNEL_WORDS: &str = "reboot=t panic=-1 panic_print=0 nomodule console=hvc0 quiet \
     init=/init.krun root=/dev/vda rootfstype=erofs ro initcall_blacklist=jent_mod_init";

/// QEMU, as found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    program: PathBuf,
    accelerator: Accelerator,
}

/// Who runs the guest's instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Accelerator {
    Kvm,
    /// Emulation; why KVM is not used, and the frequency of the host's time stamp counter.
    Tcg {
        because: String,
        tsc_khz: Option<u64>,
    },
}

impl Qemu {
    /// The driver's name.
    pub const NAME: &str = "qemu";

    /// Looks for QEMU in `PATH`, where it was last and in the usual places, and for a KVM that works.
    pub fn find(home: &Home) -> Result<Self, Unavailable> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(PROGRAM))
            .find(|file| is_program(file));
        let machine = Machine::look(home, found.as_deref());
        let usual = || USUAL.iter().map(|dir| Path::new(dir).join(PROGRAM));
        let program = found
            .or_else(|| machine.qemu.clone().into_iter().chain(usual()).find(|p| is_program(p)))
            .ok_or_else(|| Unavailable {
                reason: format!("{PROGRAM} is not installed"),
                help: "install it: `apt-get install --no-install-recommends qemu-system-x86` \
                       (Debian, Ubuntu), `dnf install qemu-system-x86-core` (Fedora)"
                    .to_owned(),
            })?;
        let accelerator = match machine.kvm {
            None => Accelerator::Kvm,
            Some(because) => Accelerator::Tcg { because, tsc_khz: machine.tsc_khz },
        };
        Ok(Self { program, accelerator })
    }

    /// Why guests are emulated; `None` when KVM runs them.
    pub fn emulation(&self) -> Option<&str> {
        match &self.accelerator {
            Accelerator::Kvm => None,
            Accelerator::Tcg { because, .. } => Some(because),
        }
    }

    fn kernel_words(&self) -> String {
        match &self.accelerator {
            Accelerator::Tcg { tsc_khz: Some(khz), .. } => {
                format!("{KERNEL_WORDS} tsc=reliable tsc_early_khz={khz}")
            }
            Accelerator::Kvm | Accelerator::Tcg { tsc_khz: None, .. } => KERNEL_WORDS.to_owned(),
        }
    }
}

impl Driver for Qemu {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        let broken = |reason: String| Unavailable {
            reason: format!("{} does not work: {reason}", self.program.display()),
            help: "reinstall QEMU".to_owned(),
        };
        let output = Command::new(&self.program)
            .arg("--version")
            .output()
            .map_err(|error| broken(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .split_once("version ")
            .and_then(|(_, rest)| rest.split_ascii_whitespace().next())
            .ok_or_else(|| broken("it does not tell its version".to_owned()))?;
        Ok(Capabilities {
            driver: self.name(),
            hardware: self.accelerator == Accelerator::Kvm,
            version: format!("{} {version}", self.program.display()),
            max_disks: MAX_DISKS,
        })
    }

    fn command(&self, vm: &VmConfig) -> VmCommand {
        let mut args = Args::default();
        args.pair("-name", &format!("msb-{}", vm.run_id));
        args.pair("-M", "microvm,acpi=off,isa-serial=off");
        args.pair("-accel", if self.emulation().is_some() { "tcg" } else { "kvm" });
        args.pair("-cpu", if self.emulation().is_some() { "max" } else { "host" });
        args.pair("-smp", &vm.vcpus.to_string());
        args.pair("-m", &format!("{}M", vm.memory_mib));
        for word in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            args.word(word);
        }
        args.pair("-display", "none");
        args.word("-kernel");
        args.0.push(vm.kernel.image.clone().into());
        args.pair("-append", &self.kernel_words());
        let mut fds = vec![
            PassedFd { number: AGENT_FD, what: Passed::Agent },
            PassedFd { number: CONSOLE_FD, what: Passed::Console },
        ];
        for (number, disk) in (FIRST_DISK_FD..).zip(&vm.disks) {
            let serial = &disk.serial;
            let format = match disk.format {
                DiskFormat::Raw => "raw",
                DiskFormat::Qcow2 { .. } => "qcow2",
            };
            let readonly = if disk.readonly { "on" } else { "off" };
            args.pair("-add-fd", &format!("fd={number},set={number}"));
            // Without `auto-read-only=off` it is opened for reading first, which a descriptor that
            // also writes does not count as.
            args.pair(
                "-drive",
                &format!(
                    "id={serial},file=/dev/fdset/{number},format={format},if=none,readonly={readonly},\
                     auto-read-only=off"
                ),
            );
            args.pair("-device", &format!("virtio-blk-device,drive={serial},serial={serial}"));
            fds.push(PassedFd { number, what: Passed::Disk(disk.clone()) });
        }
        let ports = if vm.files { 3 } else { 2 };
        args.pair("-device", &format!("virtio-serial-device,max_ports={ports}"));
        args.pair("-chardev", &format!("socket,id=console,fd={CONSOLE_FD}"));
        args.pair("-device", "virtconsole,chardev=console");
        args.pair("-chardev", &format!("socket,id=agent,fd={AGENT_FD}"));
        args.pair(
            "-device",
            &format!("virtserialport,chardev=agent,name={}", msb_protocol::PORT_NAME),
        );
        if vm.files {
            args.pair("-chardev", &format!("socket,id=files,fd={FILES_FD}"));
            args.pair(
                "-device",
                &format!("virtserialport,chardev=files,name={}", msb_protocol::FILES_PORT_NAME),
            );
            fds.push(PassedFd { number: FILES_FD, what: Passed::Files });
        }
        args.pair(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        let devices = match self.accelerator {
            Accelerator::Kvm => vec![PathBuf::from("/dev/kvm")],
            Accelerator::Tcg { .. } => Vec::new(),
        };
        VmCommand {
            program: self.program.clone(),
            args: args.0,
            env: Vec::new(),
            fds,
            reads: vec![vm.kernel.image.clone()],
            growth: vm.growth(),
            writes: Vec::new(),
            devices,
            sandbox: vm.sandbox.clone(),
            require_jail: vm.require_jail,
            role: Role::Vm,
        }
    }

    fn spawn(&self, command: VmCommand, links: VmLinks) -> io::Result<Box<dyn Vm>> {
        Ok(Box::new(child::spawn(command, links, true)?))
    }
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn word(&mut self, word: &str) {
        self.0.push(word.into());
    }

    fn pair(&mut self, name: &str, value: &str) {
        self.word(name);
        self.word(value);
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn rendered(accelerator: Accelerator) -> String {
        rendered_vm(accelerator, &VmConfig::sample())
    }

    fn rendered_vm(accelerator: Accelerator, vm: &VmConfig) -> String {
        let qemu = Qemu { program: "/usr/bin/qemu".into(), accelerator };
        let command = qemu.command(vm);
        let mut text = format!("{}\n", command.program.display());
        for arg in &command.args {
            text.push_str(if arg.to_string_lossy().starts_with('-') { "\n" } else { " " });
            text.push_str(&arg.to_string_lossy());
        }
        format!(
            "{text}\n\nenv {:?}\nfds {:?}\nreads {:?}\ndevices {:?}\n",
            command.env,
            command.fds.iter().map(|fd| fd.number).collect::<Vec<_>>(),
            command.reads,
            command.devices
        )
    }

    #[test]
    fn emulated() {
        let text =
            rendered(Accelerator::Tcg { because: "no".to_owned(), tsc_khz: Some(2_000_000) });
        expect![[r#"
            /usr/bin/qemu

            -name msb-4f
            -M microvm,acpi=off,isa-serial=off
            -accel tcg
            -cpu max
            -smp 2
            -m 512M
            -nodefaults
            -no-user-config
            -no-reboot
            -display none
            -kernel /k/kernel.elf
            -append reboot=t panic=-1 panic_print=0 nomodule console=hvc0 quiet init=/init.krun root=/dev/vda rootfstype=erofs ro initcall_blacklist=jent_mod_init tsc=reliable tsc_early_khz=2000000
            -add-fd fd=6,set=6
            -drive id=boot,file=/dev/fdset/6,format=raw,if=none,readonly=on,auto-read-only=off
            -device virtio-blk-device,drive=boot,serial=boot
            -add-fd fd=7,set=7
            -drive id=upper,file=/dev/fdset/7,format=raw,if=none,readonly=off,auto-read-only=off
            -device virtio-blk-device,drive=upper,serial=upper
            -device virtio-serial-device,max_ports=2
            -chardev socket,id=console,fd=4
            -device virtconsole,chardev=console
            -chardev socket,id=agent,fd=3
            -device virtserialport,chardev=agent,name=agent
            -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny

            env []
            fds [3, 4, 6, 7]
            reads ["/k/kernel.elf"]
            devices []
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn a_port_for_files() {
        let with = VmConfig { files: true, ..VmConfig::sample() };
        let [without, with] =
            [&VmConfig::sample(), &with].map(|vm| rendered_vm(Accelerator::Kvm, vm));
        let without: Vec<&str> = without.lines().collect();
        let more: Vec<&str> = with.lines().filter(|line| !without.contains(line)).collect();
        expect![[r#"
            -device virtio-serial-device,max_ports=3
            -chardev socket,id=files,fd=5
            -device virtserialport,chardev=files,name=files
            fds [3, 4, 6, 7, 5]"#]]
        .assert_eq(&more.join("\n"));
    }

    #[test]
    fn by_kvm() {
        let text = rendered(Accelerator::Kvm);
        assert!(text.contains("-accel kvm\n-cpu host\n") && !text.contains("tsc"), "{text}");
        assert!(text.contains("devices [\"/dev/kvm\"]"), "{text}");
    }
}
