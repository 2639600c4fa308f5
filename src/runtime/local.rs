//! The `local` driver: the agent as an ordinary child process. It isolates nothing, and exists for
//! tests of everything around a VM.
#![allow(clippy::disallowed_methods, reason = "this module writes the agent to a file")]

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::home::Home;
use crate::runtime::links::Console;
use crate::runtime::{
    AGENT, Capabilities, Driver, HostLinks, Passed, PassedFd, Role, Unavailable, Vm, VmCommand,
    VmConfig, VmLinks, child,
};

const AGENT_FD: i32 = 3;
/// A process forked elsewhere may hold the just written file open until it executes something.
const BUSY_ATTEMPTS: u32 = 1000;

/// The agent of this build, as a file.
#[derive(Debug)]
pub(super) struct Local {
    agent: PathBuf,
}

impl Local {
    /// Writes the agent under `home`, unless it is there.
    pub(super) fn install(home: &Home) -> Result<Self, Unavailable> {
        let hash = blake3::hash(AGENT).to_hex();
        let agent = home.runtime().join(format!("agent-{}", &hash[..16]));
        if !agent.exists() {
            write(home, &agent).map_err(|error| Unavailable {
                reason: format!("{}: {error}", agent.display()),
                help: "make the state directory writable".to_owned(),
            })?;
        }
        Ok(Self { agent })
    }
}

fn write(home: &Home, agent: &PathBuf) -> io::Result<()> {
    fs::create_dir_all(home.runtime())?;
    let mut file = tempfile::NamedTempFile::new_in(home.runtime())?;
    file.write_all(AGENT)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o700))?;
    file.into_temp_path().persist(agent)?;
    Ok(())
}

impl Driver for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        Ok(Capabilities {
            driver: self.name(),
            hardware: false,
            version: self.agent.display().to_string(),
            max_disks: usize::MAX,
        })
    }

    /// It mounts nothing, so nothing is shared with it.
    fn links(&self, _: bool) -> io::Result<(VmLinks, HostLinks)> {
        VmLinks::pair(Console::Socket, false)
    }

    fn command(&self, vm: &VmConfig) -> VmCommand {
        VmCommand {
            program: self.agent.clone(),
            args: vec!["--local".into(), AGENT_FD.to_string().into()],
            env: Vec::new(),
            fds: vec![PassedFd { number: AGENT_FD, what: Passed::Agent }],
            reads: Vec::new(),
            writes: Vec::new(),
            growth: 0,
            devices: Vec::new(),
            sandbox: vm.sandbox.clone(),
            require_jail: false,
            role: Role::Vm,
        }
    }

    fn spawn(&self, command: VmCommand, links: VmLinks) -> io::Result<Box<dyn Vm>> {
        for _ in 0..BUSY_ATTEMPTS {
            let copy = VmLinks {
                agent: links.agent.try_clone()?,
                console: links.console.try_clone()?,
                files: None,
            };
            match child::spawn(command.clone(), copy, false) {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now();
                }
                other => return Ok(Box::new(other?)),
            }
        }
        Ok(Box::new(child::spawn(command, links, false)?))
    }
}
