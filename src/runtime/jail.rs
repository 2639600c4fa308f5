//! The jail of a VM process: what it can no longer reach, and which of that could not be arranged.
//!
//! ```text
//! clone      user, mount, network, ipc, uts, pid and cgroup namespaces in one step
//! identity   the caller's user and group as 65534 in the namespace: no capability survives exec
//! files      a read-only memory file system with the system's programs, the kernel, the devices
//! resources  no core dumps, a bounded number of descriptors
//! privileges no_new_privs; no capabilities, not even to regain
//! orphan     SIGKILL when the parent dies
//! ```
//!
//! [`Plan`] is made before the fork: between fork and exec of a threaded process nothing may be
//! allocated. [`Plan::enter`] runs there, with prepared strings and raw system calls only. A layer
//! that cannot be applied is reported, not fatal: QEMU's own system call filter stays in any case.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::runtime::{JailReport, LayerReport, VmCommand};

/// Where programs, their libraries and their data are. What does not exist is left out.
const SYSTEM: [&str; 8] =
    ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/etc/ld.so.cache"];
/// Devices that every program may use.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];
/// The user and group that a process has in its user namespace.
const NOBODY: u32 = 65_534;
/// The most descriptors of a VM process.
const MAX_DESCRIPTORS: u64 = 1024;
/// Capabilities are numbered from 0; the kernel refuses the first that it does not know.
const MAX_CAPABILITY: u32 = 63;

/// Every namespace that isolates.
const ALL: i32 = NAMESPACES | libc::CLONE_NEWUSER | libc::CLONE_NEWCGROUP;
/// What root can have without a user namespace.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWPID;

/// The layers, in the order of application.
const LAYERS: [&str; 8] = [
    "user namespace",
    "network, process, ipc and host name namespaces",
    "identity",
    "file system",
    "resource limits",
    "capabilities",
    "no new privileges",
    "death with the parent",
];
const USER: usize = 0;
const SPACES: usize = 1;
const IDENTITY: usize = 2;
const FILES: usize = 3;
const RESOURCES: usize = 4;
const CAPABILITIES: usize = 5;
const PRIVILEGES: usize = 6;
const DEATH: usize = 7;

/// What a jail is made of, prepared in the parent.
#[derive(Debug)]
pub(super) struct Plan {
    confined: bool,
    parent: OwnedFd,
    uid_map: CString,
    gid_map: CString,
    binds: Vec<Bind>,
    /// Directories and files to make in the new root, parents first.
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Bind {
    source: CString,
    target: CString,
    attributes: u64,
}

#[derive(Debug)]
enum Node {
    Dir(CString),
    File(CString),
}

/// What became of each layer: 0 applied, otherwise the error's number; `NOT_TRIED`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome([i32; LAYERS.len()]);

const NOT_TRIED: i32 = -1;
/// The length of an [`Outcome`] on the report pipe.
pub(super) const OUTCOME_LEN: usize = LAYERS.len() * 4;

impl Plan {
    /// A jail in which the program of `command` can run, open what the command says, and nothing
    /// else.
    pub(super) fn confined(command: &VmCommand) -> io::Result<Self> {
        let mut plan = Self::open(true)?;
        let covered = |path: &Path| SYSTEM.iter().any(|dir| path.starts_with(dir));
        let system = SYSTEM.iter().map(Path::new).filter(|path| path.exists());
        let own = [&command.program].into_iter().chain(&command.reads).map(PathBuf::as_path);
        for path in system.chain(own.filter(|path| !covered(path))) {
            plan.bind(path, NODEV | RDONLY)?;
        }
        for path in &command.writes {
            plan.bind(path, NODEV)?;
        }
        let devices = command.devices.iter().map(PathBuf::as_path);
        for path in DEVICES.iter().map(Path::new).chain(devices) {
            plan.bind(path, 0)?;
        }
        Ok(plan)
    }

    /// No walls: only limits, no new privileges and the death with the parent.
    #[cfg_attr(not(feature = "test-support"), allow(dead_code, reason = "for the local driver"))]
    pub(super) fn open(confined: bool) -> io::Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let parent = rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )?;
        Ok(Self {
            confined,
            parent: super::child::out_of_the_way(&parent)?,
            uid_map: text(&format!("{NOBODY} {uid} 1"))?,
            gid_map: text(&format!("{NOBODY} {gid} 1"))?,
            binds: Vec::new(),
            nodes: Vec::new(),
        })
    }

    fn bind(&mut self, path: &Path, attributes: u64) -> io::Result<()> {
        let target = path.strip_prefix("/").map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{}: not absolute", path.display()))
        })?;
        let mut made = PathBuf::new();
        for component in target.parent().unwrap_or(Path::new("")).components() {
            let Component::Normal(name) = component else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{}: not a plain path", path.display()),
                ));
            };
            made.push(name);
            self.nodes.push(Node::Dir(bytes(made.as_os_str())?));
        }
        let name = bytes(target.as_os_str())?;
        self.nodes.push(if path.is_dir() {
            Node::Dir(name.clone())
        } else {
            Node::File(name.clone())
        });
        self.binds.push(Bind { source: bytes(path.as_os_str())?, target: name, attributes });
        Ok(())
    }

    /// The clone flags to try, best first.
    pub(super) fn clone_flags(&self) -> &'static [i32] {
        match (self.confined, rustix::process::geteuid().is_root()) {
            (true, true) => &[ALL, NAMESPACES, 0],
            (true, false) => &[ALL, 0],
            (false, _) => &[0],
        }
    }

    /// Applies the jail to this process, which was cloned with `flags` after `refused` came back
    /// for better ones. Runs between fork and exec: allocates nothing.
    ///
    /// The file system layer replaces the root: whatever is opened by path later must be in it.
    pub(super) fn enter(&self, flags: i32, refused: i32) -> Outcome {
        let mut outcome = Outcome([NOT_TRIED; LAYERS.len()]);
        let mut set = |layer: usize, result: Result<(), Errno>| {
            outcome.0[layer] = result.err().map_or(0, Errno::raw_os_error);
        };
        let granted = |flag: i32| {
            if flags & flag == flag { Ok(()) } else { Err(Errno::from_raw_os_error(refused)) }
        };
        if self.confined {
            set(USER, granted(libc::CLONE_NEWUSER));
            set(SPACES, granted(NAMESPACES));
            set(IDENTITY, granted(libc::CLONE_NEWUSER).and_then(|()| self.identity()));
            set(FILES, granted(libc::CLONE_NEWNS).and_then(|()| self.files()));
            set(RESOURCES, resources());
            set(CAPABILITIES, drop_capabilities());
        }
        set(PRIVILEGES, rustix::thread::set_no_new_privs(true));
        set(DEATH, self.die_with_parent());
        outcome
    }

    fn identity(&self) -> Result<(), Errno> {
        write_file(c"/proc/self/setgroups", c"deny")?;
        write_file(c"/proc/self/gid_map", &self.gid_map)?;
        write_file(c"/proc/self/uid_map", &self.uid_map)
    }

    fn files(&self) -> Result<(), Errno> {
        use rustix::mount::{MountPropagationFlags, mount_change};
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
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
        attach(root.as_fd(), rustix::fs::CWD, c"/")?;
        self.fill(root.as_fd())?;
        restrict(root.as_fd(), RDONLY | NOSUID | NODEV, false)?;
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
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let tree = rustix::mount::open_tree(rustix::fs::CWD, &bind.source, flags)?;
            restrict(tree.as_fd(), NOSUID | bind.attributes, true)?;
            attach(tree.as_fd(), root, &bind.target)?;
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

impl Outcome {
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
            let unavailable = (value != 0).then(|| io::Error::from_raw_os_error(value).to_string());
            layers.push(LayerReport { layer, unavailable });
        }
    }
    JailReport { layers }
}

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;

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

fn resources() -> Result<(), Errno> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) })
}

/// Empties the bounding set, from which a root process would regain everything at exec. Without
/// privileges there is nothing to drop: exec as an ordinary user leaves none.
fn drop_capabilities() -> Result<(), Errno> {
    for capability in 0..=MAX_CAPABILITY {
        // SAFETY: the call takes plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            match last_errno() {
                Errno::INVAL => break,
                Errno::PERM if !rustix::process::geteuid().is_root() => break,
                error => return Err(error),
            }
        }
    }
    Ok(())
}

fn write_file(path: &CStr, content: &CStr) -> Result<(), Errno> {
    let file =
        rustix::fs::openat(rustix::fs::CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, content.to_bytes()).map(drop)
}

fn last_errno() -> Errno {
    // SAFETY: the thread's own error number.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

fn text(content: &str) -> io::Result<CString> {
    bytes(OsStr::new(content))
}

fn bytes(content: &OsStr) -> io::Result<CString> {
    CString::new(content.as_bytes()).map_err(io::Error::from)
}
