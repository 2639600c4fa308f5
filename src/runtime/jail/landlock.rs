//! Landlock: the process opens nothing but what it was granted, whatever is mounted where.
//!
//! Where the kernel can, the rules also close TCP, and keep signals and abstract sockets inside.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, Scope, make_bitflags,
};
use rustix::io::Errno;

use super::files::Access;
use super::last_errno;

/// The newest rules that are asked for; an older kernel gets what it knows.
const NEWEST: ABI = ABI::V7;
/// Asks `landlock_create_ruleset` for the version of the interface.
const VERSION: u32 = 1;

/// Rules that allow what is granted. Made in the parent.
pub(super) fn rules<'a>(
    granted: impl Iterator<Item = &'a (&'a Path, Access)>,
) -> Result<OwnedFd, Errno> {
    available()?;
    let made = || -> Result<Option<OwnedFd>, landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        for &(path, access) in granted {
            // What is not there cannot be opened.
            if let Ok(file) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(file, rights(path, access)))?;
            }
        }
        Ok(rules.into())
    };
    made().ok().flatten().ok_or(Errno::INVAL)
}

/// Applies the rules to this process for good. It must have renounced new privileges. Runs between
/// fork and exec.
pub(super) fn restrict(rules: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the call takes plain numbers.
    let result =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn available() -> Result<(), Errno> {
    // SAFETY: without attributes the call answers with the version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    if version > 0 { Ok(()) } else { Err(last_errno()) }
}

fn rights(path: &Path, access: Access) -> BitFlags<AccessFs> {
    let file = !path.is_dir();
    match access {
        Access::Share if file => make_bitflags!(AccessFs::{ReadFile}),
        Access::Share => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
        // A single file; and a directory, without devices in it.
        Access::WritableShare if file => {
            make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate})
        }
        Access::WritableShare => {
            AccessFs::from_all(NEWEST)
                & !make_bitflags!(AccessFs::{Execute | MakeChar | MakeBlock | IoctlDev})
        }
        Access::Read if !file => make_bitflags!(AccessFs::{Execute | ReadFile | ReadDir}),
        Access::Read => make_bitflags!(AccessFs::{Execute | ReadFile}),
        Access::Write => make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate}),
        Access::Device => make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev}),
    }
}
