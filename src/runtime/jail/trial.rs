//! The jail around a program that does nothing: which layers hold on this machine.

use std::io;

use crate::runtime::child::{self, Child};
use crate::runtime::{Driver, JailReport, Kernel, Vm, VmCommand, VmConfig, VmExit};

/// The word after `msb` that makes it a program that does nothing.
pub const WORD: &str = "__jailed";

/// Runs it in the jail that `driver` has for its VMs.
pub fn trial(driver: &dyn Driver) -> io::Result<JailReport> {
    let config = VmConfig {
        run_id: "trial".to_owned(),
        sandbox: "trial".to_owned(),
        require_jail: false,
        kernel: Kernel::default(),
        vcpus: 1,
        memory_mib: 1,
        disks: Vec::new(),
        files: false,
    };
    let command = VmCommand {
        program: crate::runtime::program()?,
        args: vec![WORD.into()],
        env: Vec::new(),
        fds: Vec::new(),
        reads: Vec::new(),
        writes: Vec::new(),
        growth: 0,
        ..driver.command(&config)
    };
    let (links, _host) = driver.links(false)?;
    let child: Child = child::spawn(command, links, true)?;
    match child.end()? {
        VmExit::Code(0) => Ok(child.jail().clone()),
        end => Err(io::Error::other(format!("a program does not run in it: {end:?}"))),
    }
}
