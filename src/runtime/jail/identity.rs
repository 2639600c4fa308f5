//! Who a VM process is.
//!
//! In its user namespace it is [`INSIDE`], an ordinary user without capabilities. Outside it is the
//! user who started it, unless that is root: then it is a user of its own, one per sandbox.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;

use super::{NEEDS_ROOT, NOT_MAPPED};
use crate::runtime::{Role, VmCommand};

/// The user and group that a process has in its user namespace.
const INSIDE: u32 = 65_534;
/// Users of sandboxes begin here: above what systemd gives to containers (up to 0x6FFF_FFFF).
const FIRST_USER: u32 = 0x7000_0000;
/// This many; the last is below 2³¹.
const USERS: u32 = 1 << 26;
/// Bits of a mode, for others than the owner and the group.
const READ: u32 = 0o4;
const READ_WRITE: u32 = 0o6;
const SEARCH: u32 = 0o1;

/// The user and group of a VM process, as this process sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether they are not this process's own.
    pub(super) other: bool,
    /// Why root stays root; 0 when it does not, or is not root, or must stay it.
    pub(super) refused: i32,
    inside: Inside,
}

/// Who a process is in its user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    /// [`INSIDE`].
    Nobody,
    /// Who it is outside, the only one whom the namespace knows.
    Same,
    /// Who it is outside, like all others: the owners of files are as they are.
    All,
}

impl Identity {
    /// For the process of `command`.
    pub(super) fn of(command: &VmCommand) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let inside = match command.role {
            Role::Vm => Inside::Nobody,
            Role::FileServer(_) if uid == 0 => Inside::All,
            Role::FileServer(_) => Inside::Same,
        };
        let own = |refused| Self { uid, gid, other: false, refused, inside };
        if uid != 0 || inside != Inside::Nobody {
            return own(0);
        }
        let uid = user_of(&command.sandbox);
        match group_for(&command.devices) {
            None => own(NEEDS_ROOT),
            Some(group) => {
                let gid = group.unwrap_or(uid);
                if maps("/proc/self/uid_map", uid) && maps("/proc/self/gid_map", gid) {
                    Self { uid, gid, other: true, refused: 0, inside }
                } else {
                    own(NOT_MAPPED)
                }
            }
        }
    }

    /// Defines the user namespace of the child `pid`. Runs in the parent, which may map others.
    pub(super) fn map(&self, pid: u32) -> io::Result<()> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        if !self.other && self.inside != Inside::All {
            // Whoever maps only himself must give up changing groups.
            fs::write(proc.join("setgroups"), "deny")?;
        }
        let map = |own: &str, id: u32| match self.inside {
            Inside::Nobody => Ok(format!("{INSIDE} {id} 1")),
            Inside::Same => Ok(format!("{id} {id} 1")),
            Inside::All => fs::read_to_string(own).map(|map| unchanged(&map)),
        };
        fs::write(proc.join("gid_map"), map("/proc/self/gid_map", self.gid)?)?;
        fs::write(proc.join("uid_map"), map("/proc/self/uid_map", self.uid)?)
    }

    /// Becomes the mapped user. Keeps the capabilities in the namespace, which has no root. Runs
    /// between fork and exec.
    pub(super) fn enter(&self) -> Result<(), Errno> {
        if self.other { become_user(INSIDE, INSIDE) } else { Ok(()) }
    }

    /// Becomes that user without a namespace. Runs between fork and exec, when no capability is
    /// needed any longer.
    pub(super) fn enter_plain(&self) -> Result<(), Errno> {
        if self.other { become_user(self.uid, self.gid) } else { Ok(()) }
    }
}

fn become_user(uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// The same for every run, so that the sandbox's disk stays its own.
fn user_of(sandbox: &str) -> u32 {
    let hash = blake3::hash(sandbox.as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    FIRST_USER + u32::from_le_bytes([a, b, c, d]) % USERS
}

/// The group by which a user can open `devices`: `None` if none can, `Some(None)` if any can.
fn group_for(devices: &[PathBuf]) -> Option<Option<u32>> {
    let mut group = None;
    for meta in devices.iter().filter_map(|path| fs::metadata(path).ok()) {
        let mode = meta.mode();
        if mode & READ_WRITE == READ_WRITE {
            continue;
        }
        if mode >> 3 & READ_WRITE != READ_WRITE || group.is_some_and(|gid| gid != meta.gid()) {
            return None;
        }
        group = Some(meta.gid());
    }
    Some(group)
}

/// The map of a namespace in which everybody is who he is in the one that has `map`.
fn unchanged(map: &str) -> String {
    let mut same = String::new();
    for line in map.lines() {
        let mut numbers = line.split_ascii_whitespace();
        if let (Some(first), Some(_), Some(count)) =
            (numbers.next(), numbers.next(), numbers.next())
        {
            same.push_str(&format!("{first} {first} {count}\n"));
        }
    }
    same
}

/// Whether the user namespace of this process knows `id`; `map` is one of its maps.
fn maps(map: &str, id: u32) -> bool {
    let Ok(text) = fs::read_to_string(map) else { return false };
    text.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => {
                (first..first + count).contains(&u64::from(id))
            }
            _ => false,
        }
    })
}

/// Lets a process that is not root open what it is granted: files for writing become its own, those
/// for reading readable for all where a directory hides them from all.
pub(super) fn open_up(command: &VmCommand, identity: &Identity) -> io::Result<()> {
    if !identity.other {
        return Ok(());
    }
    for path in &command.writes {
        let file = fs::OpenOptions::new().write(true).open(path).map_err(|e| named(path, &e))?;
        let meta = file.metadata()?;
        if meta.is_file() && meta.uid() != identity.uid {
            rustix::fs::fchown(&file, Some(Uid::from_raw(identity.uid)), None)?;
        }
    }
    command.reads.iter().try_for_each(|path| show(path).map_err(|e| named(path, &e)))
}

fn show(path: &Path) -> io::Result<()> {
    let path = path.canonicalize()?;
    let meta = path.metadata()?;
    let mode = meta.mode();
    if !meta.is_file() || mode & READ == READ {
        return Ok(());
    }
    let closed = |dir: &Path| dir.metadata().is_ok_and(|meta| meta.mode() & SEARCH == 0);
    if !path.ancestors().skip(1).any(closed) {
        let why = "its owner alone can read it, and the VM is not run as root; use `chmod o+r`";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(mode | READ << 3 | READ))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_sandboxes_are_their_own_and_stay() {
        assert_eq!(user_of("a"), user_of("a"));
        assert_ne!(user_of("a"), user_of("b"));
        for id in 0..1000 {
            let uid = user_of(&id.to_string());
            assert!((FIRST_USER..FIRST_USER + USERS).contains(&uid), "{uid}");
        }
    }

    #[test]
    fn a_device_decides_the_group() {
        let devices = |path: &str| vec![PathBuf::from(path)];
        assert_eq!(group_for(&[]), Some(None));
        assert_eq!(group_for(&devices("/dev/null")), Some(None));
        assert_eq!(group_for(&devices("/dev/kmsg-is-not-here")), Some(None));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        fs::write(&path, "").unwrap();
        let set = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            group_for(std::slice::from_ref(&path))
        };
        let gid = rustix::process::getegid().as_raw();
        assert_eq!(set(0o600), None);
        assert_eq!(set(0o660), Some(Some(gid)));
        assert_eq!(set(0o640), None);
        assert_eq!(set(0o606), Some(None));
    }

    #[test]
    fn only_what_is_hidden_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let mode = || path.metadata().unwrap().mode() & 0o777;
        set(&path, 0o600);
        set(dir.path(), 0o711);
        let open = |dir: &Path| dir.metadata().unwrap().mode() & SEARCH != 0;
        assert!(dir.path().ancestors().all(open), "the directory for temporary files is private");
        assert_eq!(show(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(mode(), 0o600);
        set(dir.path(), 0o700);
        show(&path).unwrap();
        assert_eq!(mode(), 0o644);
    }

    #[test]
    fn a_map_is_read() {
        assert!(maps("/proc/self/uid_map", rustix::process::getuid().as_raw()));
        let dir = tempfile::tempdir().unwrap();
        let map = dir.path().join("map");
        fs::write(&map, "         0       1000          1\n         1     100000      65536\n")
            .unwrap();
        let maps = |id| super::maps(map.to_str().unwrap(), id);
        assert!(maps(0) && maps(1) && maps(65_536));
        assert!(!maps(65_537) && !maps(FIRST_USER));
        assert_eq!(unchanged(&fs::read_to_string(&map).unwrap()), "0 0 1\n1 1 65536\n");
    }
}
