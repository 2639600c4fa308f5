//! The jail of a VM process, and of a file server: what it can no longer reach, and which of that could not be arranged.
//!
//! ```text
//! clone      user, mount, network, ipc, uts, pid and cgroup namespaces in one step
//! identity   nobody in the namespace; outside a user of its own, if this process is root. A file
//!            server is who started it, for the sake of the files, and root without root's powers
//! files      a read-only memory file system with the system's programs, the kernel, the devices
//! resources  no core dumps; bounded descriptors, threads, file sizes
//! privileges no capabilities, not even to regain (root's file server: over files); no_new_privs
//! orphan     SIGKILL when the parent dies
//! landlock   opens only what was granted; no TCP; signals and abstract sockets stay inside
//! seccomp    only listed system calls
//! ```
//!
//! [`Plan`] is made before the fork: between fork and exec of a threaded process nothing may be
//! allocated. [`Plan::enter`] runs there, with prepared strings and raw system calls only. A layer
//! that cannot be applied is reported, and fatal only when the command asks for that.
#![allow(clippy::disallowed_methods, reason = "this module prepares files and looks at devices")]

mod files;
mod identity;
mod landlock;
mod limits;
mod seccomp;
mod trial;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use crate::runtime::{IncompleteJail, JailReport, LayerReport, VmCommand};
use identity::Identity;
use limits::Limits;
pub(super) use seccomp::{Filter, guest as guest_filter, server as server_filter};
pub use trial::{WORD, trial};

/// Every namespace that isolates.
const ALL: i32 = NAMESPACES | libc::CLONE_NEWUSER | libc::CLONE_NEWCGROUP;
/// What root can have without a user namespace.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWPID;

/// The layers, in the order of application.
const LAYERS: [&str; 10] = [
    "user namespace",
    "network, process, ipc and host name namespaces",
    "identity",
    "file system",
    "resource limits",
    "capabilities",
    "no new privileges",
    "death with the parent",
    "landlock",
    "system call filter",
];
const USER: usize = 0;
const SPACES: usize = 1;
const IDENTITY: usize = 2;
const FILES: usize = 3;
const RESOURCES: usize = 4;
const CAPABILITIES: usize = 5;
const PRIVILEGES: usize = 6;
const DEATH: usize = 7;
const LANDLOCK: usize = 8;
const CALLS: usize = 9;

/// What became of each layer: 0 applied, positive the error's number, otherwise one of these.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome([i32; LAYERS.len()]);

const NOT_TRIED: i32 = -1;
/// The user namespace of this process does not know the user that a sandbox would be.
const NOT_MAPPED: i32 = -2;
/// Only root can open a device of the machine.
const NEEDS_ROOT: i32 = -3;
/// A limit would count the threads of the user's other processes.
const NOT_COUNTED: i32 = -4;
/// The length of an [`Outcome`] on the report pipe.
pub(super) const OUTCOME_LEN: usize = LAYERS.len() * 4;

/// What a jail is made of, prepared in the parent.
#[derive(Debug)]
pub(super) struct Plan {
    parent: OwnedFd,
    walls: Option<Walls>,
    /// Whether nothing may be executed when a layer is missing.
    required: bool,
}

#[derive(Debug)]
struct Walls {
    identity: Identity,
    root: files::Root,
    limits: Limits,
    rules: Result<OwnedFd, Errno>,
    filter: Result<&'static seccomp::Filter, Errno>,
}

impl Plan {
    /// A jail in which the program of `command` can run, open what the command says, and nothing
    /// else. Gives the files that it opens to its user.
    pub(super) fn confined(command: &VmCommand) -> io::Result<Self> {
        let identity = Identity::of(command);
        identity::open_up(command, &identity)?;
        let (granted, shares) = (files::granted(command), files::shares(command));
        let rules = landlock::rules(granted.iter().chain(&shares))
            .and_then(|rules| super::child::out_of_the_way(&rules).map_err(|_| Errno::MFILE));
        let walls = Walls {
            root: files::Root::new(&granted, &shares)?,
            limits: Limits::of(command, identity.other),
            identity,
            rules,
            filter: seccomp::program(&command.role),
        };
        Ok(Self { walls: Some(walls), required: command.require_jail, ..Self::open()? })
    }

    /// No walls: only no new privileges and the death with the parent.
    pub(super) fn open() -> io::Result<Self> {
        let parent = rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )?;
        let parent = super::child::out_of_the_way(&parent)?;
        Ok(Self { parent, walls: None, required: false })
    }

    /// The clone flags to try, best first.
    pub(super) fn clone_flags(&self) -> &'static [i32] {
        match (self.walls.is_some(), rustix::process::geteuid().is_root()) {
            (true, true) => &[ALL, NAMESPACES, 0],
            (true, false) => &[ALL, 0],
            (false, _) => &[0],
        }
    }

    /// The parent's part, when `pid` was cloned with `flags`: its user namespace.
    pub(super) fn map(&self, pid: u32, flags: i32) -> io::Result<()> {
        match &self.walls {
            Some(walls) if flags & libc::CLONE_NEWUSER != 0 => walls.identity.map(pid),
            _ => Ok(()),
        }
    }

    /// Applies the jail to this process, which was cloned with `flags` after `refused` came back
    /// for better ones, and for which [`Plan::map`] came out as `mapped`. Runs between fork and
    /// exec: allocates nothing.
    ///
    /// The file system layer replaces the root: whatever is opened by path later must be in it.
    pub(super) fn enter(&self, flags: i32, refused: i32, mapped: Result<(), Errno>) -> Outcome {
        let mut outcome = Outcome([NOT_TRIED; LAYERS.len()]);
        if let Some(walls) = &self.walls {
            walls.raise(&mut outcome, flags, refused, mapped);
        }
        outcome.set(PRIVILEGES, rustix::thread::set_no_new_privs(true));
        // After the identity: a change of user resets it. Before the filter, which forbids it.
        outcome.set(DEATH, self.die_with_parent());
        if let Some(walls) = &self.walls {
            let rules = walls.rules.as_ref().map_err(|error| *error);
            outcome.set(LANDLOCK, rules.and_then(landlock::restrict));
            outcome.set(CALLS, walls.filter.and_then(seccomp::Filter::install));
        }
        outcome
    }

    /// Whether the program must not be executed after this `outcome`.
    pub(super) fn refuses(&self, outcome: &Outcome) -> bool {
        self.required && outcome.0.iter().any(|code| !matches!(*code, 0 | NOT_TRIED))
    }

    /// The same in the parent: an error that names what is missing.
    pub(super) fn accept(&self, report: &JailReport) -> io::Result<()> {
        if self.required && report.missing().next().is_some() {
            return Err(io::Error::other(IncompleteJail(report.clone())));
        }
        Ok(())
    }

    /// The signal is bound to the thread that forked; see `child::on_spawner`. The parent may have
    /// died before it was asked for.
    fn die_with_parent(&self) -> Result<(), Errno> {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        let mut parent =
            libc::pollfd { fd: self.parent.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, on the stack.
        if unsafe { libc::poll(&raw mut parent, 1, 0) } > 0 {
            // SAFETY: ends this process without running anything.
            unsafe { libc::_exit(1) }
        }
        Ok(())
    }
}

impl Walls {
    fn raise(&self, outcome: &mut Outcome, flags: i32, refused: i32, mapped: Result<(), Errno>) {
        let granted = |flag: i32| {
            if flags & flag == flag { Ok(()) } else { Err(Errno::from_raw_os_error(refused)) }
        };
        let namespace = granted(libc::CLONE_NEWUSER);
        outcome.set(USER, namespace);
        outcome.set(SPACES, granted(NAMESPACES));
        let taken = granted(libc::CLONE_NEWNS).and_then(|()| self.root.take());
        let mut identity = namespace.and(mapped).and_then(|()| self.identity.enter());
        outcome.set(FILES, taken.and_then(|()| self.root.enter()));
        let limited = self.limits.apply(namespace.is_ok());
        outcome.set(RESOURCES, limited);
        if limited.is_ok() && !self.limits.bounds_threads(namespace.is_ok()) {
            outcome.0[RESOURCES] = NOT_COUNTED;
        }
        outcome.set(CAPABILITIES, self.limits.drop_capabilities());
        if namespace.is_err() && self.identity.other {
            identity = self.identity.enter_plain();
        }
        outcome.set(IDENTITY, identity);
        if identity.is_ok() {
            outcome.0[IDENTITY] = self.identity.refused;
        }
    }
}

impl Outcome {
    fn set(&mut self, layer: usize, result: Result<(), Errno>) {
        self.0[layer] = result.err().map_or(0, Errno::raw_os_error);
    }

    /// The form on the report pipe.
    pub(super) fn encode(self) -> [u8; OUTCOME_LEN] {
        let mut bytes = [0; OUTCOME_LEN];
        for (chunk, value) in bytes.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

/// Reads what [`Outcome::encode`] wrote.
pub(super) fn report(bytes: &[u8]) -> JailReport {
    let mut layers = Vec::new();
    for (layer, chunk) in LAYERS.iter().zip(bytes.chunks_exact(4)) {
        let value = chunk.try_into().map_or(NOT_TRIED, i32::from_ne_bytes);
        if value != NOT_TRIED {
            let unavailable = (value != 0).then(|| reason(layer, value));
            layers.push(LayerReport { layer, unavailable });
        }
    }
    JailReport { layers }
}

/// Notes that the process could not tighten its filter, for `why`.
pub(super) fn not_filtered(report: &mut JailReport, why: String) {
    let filter = report.layers.iter_mut().filter(|layer| layer.layer == LAYERS[CALLS]);
    for layer in filter {
        layer.unavailable.get_or_insert_with(|| why.clone());
    }
}

/// Why a layer does not hold, from its code.
fn reason(layer: &str, code: i32) -> String {
    let error = || Errno::from_raw_os_error(code);
    match code {
        NOT_MAPPED => {
            return "the users of sandboxes are not mapped in this user namespace".to_owned();
        }
        NEEDS_ROOT => {
            return "only root can open /dev/kvm; give it a group: `chgrp kvm /dev/kvm; \
                              chmod 660 /dev/kvm`"
                .to_owned();
        }
        NOT_COUNTED => {
            return "threads are not bounded: they count with those of the user's other processes"
                .to_owned();
        }
        _ => {}
    }
    let hint = match error() {
        Errno::NOSYS if layer == LAYERS[LANDLOCK] => "this kernel has none",
        Errno::OPNOTSUPP if layer == LAYERS[LANDLOCK] => "it is not among the kernel's `lsm=`",
        Errno::INVAL if layer == LAYERS[CALLS] => "this kernel has none",
        Errno::PERM | Errno::NOSPC if layer == LAYERS[USER] => "they are switched off here",
        _ => return io::Error::from_raw_os_error(code).to_string(),
    };
    format!("{hint}: {}", io::Error::from_raw_os_error(code))
}

fn last_errno() -> Errno {
    // SAFETY: the thread's own error number.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_report_gives_reasons() {
        let mut outcome = Outcome([0; LAYERS.len()]);
        outcome.set(USER, Err(Errno::NOSPC));
        outcome.set(SPACES, Err(Errno::NOSPC));
        outcome.0[IDENTITY] = NOT_MAPPED;
        outcome.0[FILES] = NOT_TRIED;
        outcome.0[RESOURCES] = NOT_COUNTED;
        outcome.set(LANDLOCK, Err(Errno::NOSYS));
        outcome.set(CALLS, Err(Errno::INVAL));
        let report = report(&outcome.encode());
        assert_eq!(report.layers.len(), LAYERS.len() - 1);
        expect![[r#"
            the jail is not complete, and it is required to be: user namespace (they are switched off here: No space left on device (os error 28))
            network, process, ipc and host name namespaces (No space left on device (os error 28))
            identity (the users of sandboxes are not mapped in this user namespace)
            resource limits (threads are not bounded: they count with those of the user's other processes)
            landlock (this kernel has none: Function not implemented (os error 38))
            system call filter (this kernel has none: Invalid argument (os error 22))"#]]
        .assert_eq(&IncompleteJail(report).to_string().replace("; ", "\n"));
    }
}
