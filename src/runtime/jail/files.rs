//! The file system of a jail: a memory file system with what the process opens by path.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::last_errno;
use crate::runtime::{Role, VmCommand, shared_at};

/// Where programs, their libraries and their data are. What does not exist is left out.
const SYSTEM: [&str; 8] =
    ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/etc/ld.so.cache"];
/// Devices that every program may use.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];

/// By which a file server opens what it has found.
const DESCRIPTORS: &str = "/proc/self/fd";

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// What a process may do with a file that it opens by path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Read and execute.
    Read,
    /// Read and write.
    Write,
    /// Read, write and control.
    Device,
    /// Read, and nothing is executed.
    Share,
    /// Everything with files and directories.
    WritableShare,
}

/// All that `command` opens by path, and what it may do with it.
pub(super) fn granted(command: &VmCommand) -> Vec<(&Path, Access)> {
    let covered = |path: &Path| SYSTEM.iter().any(|dir| path.starts_with(dir));
    let system = SYSTEM.iter().map(Path::new).filter(|path| path.exists());
    let own = [&command.program].into_iter().chain(&command.reads).map(PathBuf::as_path);
    let reads = system.chain(own.filter(|path| !covered(path)));
    let devices = command.devices.iter().map(PathBuf::as_path);
    reads
        .map(|path| (path, Access::Read))
        .chain(command.writes.iter().map(|path| (path.as_path(), Access::Write)))
        .chain(DEVICES.iter().map(Path::new).chain(devices).map(|path| (path, Access::Device)))
        .collect()
}

/// What `command` serves.
pub(super) fn shares(command: &VmCommand) -> Vec<(&Path, Access)> {
    let Role::FileServer(shares) = &command.role else { return Vec::new() };
    let access = |readonly| if readonly { Access::Share } else { Access::WritableShare };
    shares.iter().map(|share| (share.path.as_path(), access(share.readonly))).collect()
}

/// The root of a jail, prepared in the parent.
#[derive(Debug, Default)]
pub(super) struct Root {
    binds: Vec<Bind>,
    /// Directories and files to make in the new root, parents first.
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Bind {
    source: CString,
    target: CString,
    attributes: u64,
    /// The detached mount, once it is there.
    tree: Cell<RawFd>,
}

#[derive(Debug)]
enum Node {
    Dir(CString),
    File(CString),
}

impl Root {
    /// With what is `granted` where it is, and what is shared at places of its own: shares that
    /// lie in each other may differ in what can be done with them.
    pub(super) fn new(granted: &[(&Path, Access)], shares: &[(&Path, Access)]) -> io::Result<Self> {
        let mut root = Self::default();
        for (path, access) in granted {
            root.bind(path, path, *access)?;
        }
        for (number, (path, access)) in shares.iter().enumerate() {
            root.bind(path, &shared_at(number), *access)?;
        }
        if !shares.is_empty() {
            // Taken by the child, whose own it then is.
            root.bind(Path::new(DESCRIPTORS), Path::new(DESCRIPTORS), Access::Share)?;
        }
        Ok(root)
    }

    fn bind(&mut self, path: &Path, at: &Path, access: Access) -> io::Result<()> {
        let invalid = |why: &str| {
            let message = format!("{}: {why}", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        };
        let target = at.strip_prefix("/").map_err(|_| invalid("not absolute"))?;
        let name = target.file_name().ok_or_else(|| invalid("not a plain path"))?;
        let mut made = PathBuf::new();
        for component in target.parent().unwrap_or(Path::new("")).components() {
            match component {
                Component::Normal(name) => {
                    made.push(name);
                    self.nodes.push(Node::Dir(bytes(made.as_os_str())?));
                }
                // There are no links on the way in the new root.
                Component::ParentDir => _ = made.pop(),
                _ => return Err(invalid("not a plain path")),
            }
        }
        made.push(name);
        let name = bytes(made.as_os_str())?;
        self.nodes.push(if path.is_dir() {
            Node::Dir(name.clone())
        } else {
            Node::File(name.clone())
        });
        let attributes = match access {
            Access::Read => NOSUID | NODEV | RDONLY,
            Access::Write | Access::WritableShare => NOSUID | NODEV | NOEXEC,
            Access::Share => NOSUID | NODEV | NOEXEC | RDONLY,
            Access::Device => NOSUID | NOEXEC,
        };
        let source = bytes(path.as_os_str())?;
        self.binds.push(Bind { source, target: name, attributes, tree: Cell::new(-1) });
        Ok(())
    }

    /// Takes hold of everything by its path. Runs between fork and exec, as the user who may pass
    /// the directories on the way.
    pub(super) fn take(&self) -> Result<(), Errno> {
        use rustix::mount::{MountPropagationFlags, mount_change};
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        for bind in &self.binds {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let tree = rustix::mount::open_tree(CWD, &bind.source, flags)?;
            restrict(tree.as_fd(), bind.attributes, true)?;
            bind.tree.set(tree.into_raw_fd());
        }
        Ok(())
    }

    /// Makes what was taken the whole file system. Runs between fork and exec, as a user whom the
    /// user namespace maps: others cannot own the directories.
    pub(super) fn enter(&self) -> Result<(), Errno> {
        let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), c"mode", c"0755")?;
        rustix::mount::fsconfig_set_string(context.as_fd(), c"size", c"1m")?;
        rustix::mount::fsconfig_create(context.as_fd())?;
        let root = rustix::mount::fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
        )?;
        // Attached on top of the root it would hide nothing: paths keep starting below it.
        attach(root.as_fd(), CWD, c"/")?;
        // Whoever the process becomes must be able to pass.
        let before = rustix::process::umask(Mode::from_raw_mode(0o022));
        self.fill(root.as_fd())?;
        rustix::process::umask(before);
        restrict(root.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC, false)?;
        rustix::process::fchdir(root.as_fd())?;
        rustix::process::pivot_root(c".", c".")?;
        rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")
    }

    fn fill(&self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        for node in &self.nodes {
            let made = match node {
                Node::Dir(path) => rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)),
                Node::File(path) => {
                    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                    rustix::fs::openat(root, path, flags, Mode::from_raw_mode(0o644)).map(drop)
                }
            };
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        for bind in &self.binds {
            // SAFETY: `take` opened it for this.
            let tree = unsafe { OwnedFd::from_raw_fd(bind.tree.replace(-1)) };
            attach(tree.as_fd(), root, &bind.target)?;
        }
        Ok(())
    }
}

fn attach(tree: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", dir, path, flags)
}

fn restrict(tree: BorrowedFd<'_>, attributes: u64, recursive: bool) -> Result<(), Errno> {
    let set = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty and terminated, the structure is valid and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const set,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn bytes(content: &OsStr) -> io::Result<CString> {
    CString::new(content.as_bytes()).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(path: &str) -> io::Result<(Vec<String>, String)> {
        let root = Root::new(&[(Path::new(path), Access::Read)], &[])?;
        let nodes = root.nodes.iter().map(|node| match node {
            Node::Dir(path) => format!("{}/", path.to_str().unwrap()),
            Node::File(path) => path.to_str().unwrap().to_owned(),
        });
        assert_eq!(root.binds[0].source.to_str().unwrap(), path);
        Ok((nodes.collect(), root.binds[0].target.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_path_is_passable_as_it_is_written() {
        let (nodes, target) = made("/no/such/../thing/./file").unwrap();
        assert_eq!(nodes, ["no/", "no/such/", "no/thing/", "no/thing/file"]);
        assert_eq!(target, "no/thing/file");
        let (nodes, target) = made("/../dev").unwrap();
        assert_eq!((nodes, target.as_str()), (vec!["dev/".to_owned()], "dev"));
        for wrong in ["file", "/", "/a/.."] {
            assert!(made(wrong).is_err(), "{wrong}");
        }
    }
}
