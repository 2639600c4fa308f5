//! What the program in the place of a VMM tries. Success would be an escape, or damage.
//!
//! Each attempt is one function that returns the kernel's answer. None does harm when it succeeds:
//! signals are number 0, settings are set to what they are.

#![allow(clippy::cast_possible_truncation, reason = "system calls take words of 64 bits")]

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Error, ErrorKind, Read};
use std::mem::size_of;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use serde::{Deserialize, Serialize};

/// What there is to be had on this machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Targets {
    /// A state directory with a database.
    pub(crate) state: PathBuf,
    pub(crate) database: PathBuf,
    /// Of another sandbox. Anyone may open both.
    pub(crate) disk: PathBuf,
    pub(crate) socket: PathBuf,
    /// The process that started this one.
    pub(crate) parent: i32,
    /// Something listens there on the loopback interface.
    pub(crate) port: u16,
    /// Something listens at this abstract address.
    pub(crate) address: String,
    /// Block devices of the machine.
    pub(crate) devices: Vec<PathBuf>,
    /// The process's own writable disk, by descriptor or by path.
    pub(crate) own_fd: Option<i32>,
    pub(crate) own_path: PathBuf,
    pub(crate) own_bytes: u64,
}

/// Something that must fail.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    /// Whether any process without a jail can do it.
    pub(crate) easy: bool,
    pub(crate) run: fn(&Targets) -> io::Result<()>,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    Denied,
    /// It failed for another reason: what it asked for made no sense.
    Unclear,
}

impl Attempt {
    pub(crate) fn verdict(&self, targets: &Targets) -> (Verdict, String) {
        match (self.run)(targets) {
            Ok(()) => (Verdict::Done, String::new()),
            Err(error) if DENIALS.contains(&error.raw_os_error().unwrap_or(libc::EACCES)) => {
                (Verdict::Denied, error.to_string())
            }
            Err(error) => (Verdict::Unclear, error.to_string()),
        }
    }
}

/// Not permitted, not there, or not that much.
const DENIALS: [i32; 8] = [
    libc::EPERM,
    libc::EACCES,
    libc::ENOENT,
    libc::EROFS,
    libc::ENOSYS,
    libc::ESRCH,
    libc::EAGAIN,
    libc::EFBIG,
];

type Run = fn(&Targets) -> io::Result<()>;

const fn hard(name: &'static str, run: Run) -> Attempt {
    Attempt { name, easy: false, run }
}

const fn easy(name: &'static str, run: Run) -> Attempt {
    Attempt { name, easy: true, run }
}

/// Threads that no VMM needs.
const MANY: usize = 2000;
const CLONE_ARGS: usize = 64;
const HUGE: u64 = 1 << 40;

#[rustfmt::skip]
pub(crate) const ATTEMPTS: &[Attempt] = &[
    // Files.
    hard("read /etc/shadow", |_| read("/etc/shadow")),
    easy("read /etc/passwd", |_| read("/etc/passwd")),
    hard("write /etc/passwd", |_| write("/etc/passwd")),
    easy("read the database", |t| read(&t.database)),
    easy("write the database", |t| write(&t.database)),
    easy("read another sandbox's disk", |t| read(&t.disk)),
    easy("write another sandbox's disk", |t| write(&t.disk)),
    easy("list the state directory", |t| list(&t.state)),
    hard("list /root", |_| list("/root")),
    hard("list /home", |_| list("/home")),
    easy("list the processes", |_| list_processes()),
    hard("read the environment of process 1", |_| read("/proc/1/environ")),
    easy("read the environment of its parent", |t| read(format!("/proc/{}/environ", t.parent))),
    hard("read the memory of its parent", |t| read(format!("/proc/{}/mem", t.parent))),
    easy("read its own memory map", |_| read("/proc/self/maps")),
    hard("set the core pattern", |_| write("/proc/sys/kernel/core_pattern")),
    hard("press a magic key", |_| write("/proc/sysrq-trigger")),
    hard("write below /sys", |_| write("/sys/kernel/mm/ksm/run")),
    hard("open the machine's memory", |_| read("/dev/mem")),
    hard("open the kernel's log", |_| read("/dev/kmsg")),
    hard("open a block device", |t| any(t.devices.iter().map(read))),
    hard("make a character device", |_| make_node(libc::S_IFCHR, 1, 1)),
    hard("make a block device", |_| make_node(libc::S_IFBLK, 8, 0)),
    hard("make a file in the root directory", |_| make("/made")),
    easy("make a file for others to find", |_| any(["/tmp", "/dev/shm", "/var/tmp", "/run"].iter().map(|dir| {
        let path = format!("{dir}/msb-attempt-{}", std::process::id());
        make(&path).and_then(|()| fs::remove_file(&path))
    }))),
    hard("replace a system program", |_| write("/usr/bin/env")),
    hard("replace itself", |_| write(std::env::args().next().unwrap_or_default())),
    hard("make a link", |_| symlink("/etc/shadow", "/link")),
    easy("leave by the parent of the root", |_| read("/../../../../etc/passwd")),
    hard("open a file by its handle", |_| call(libc::SYS_open_by_handle_at, &[0, 0, 0])),
    hard("watch the whole file system", |_| call(libc::SYS_fanotify_init, &[0, 0])),
    // Networks.
    easy("connect to a service of the host", |t| TcpStream::connect(("127.0.0.1", t.port)).map(drop)),
    hard("connect to the IPv6 loopback", |t| TcpStream::connect(("::1", t.port)).map(drop)),
    hard("connect to the metadata service", |_| connect_now([169, 254, 169, 254], 80)),
    hard("connect to the internet", |_| connect_now([192, 0, 2, 1], 443)),
    easy("send a datagram", |t| UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", ("127.0.0.1", t.port)).map(drop)),
    easy("listen on TCP", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    easy("connect to another sandbox's control socket", |t| UnixStream::connect(&t.socket).map(drop)),
    easy("connect to an abstract socket", |t| {
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(&t.address)?).map(drop)
    }),
    easy("make a netlink socket", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    hard("make a raw socket", |_| socket(libc::AF_INET, libc::SOCK_RAW)),
    hard("make a packet socket", |_| socket(libc::AF_PACKET, libc::SOCK_RAW)),
    hard("make a vsock socket", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    easy("make a Unix socket", |_| socket(libc::AF_UNIX, libc::SOCK_STREAM)),
    // Processes.
    hard("trace its parent", |t| call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, pid(t), 0, 0])),
    hard("read out of its parent", |t| across(libc::SYS_process_vm_readv, t)),
    hard("write into its parent", |t| across(libc::SYS_process_vm_writev, t)),
    easy("signal its parent", |t| call(libc::SYS_kill, &[pid(t), 0])),
    easy("signal a thread of its parent", |t| call(libc::SYS_tgkill, &[pid(t), pid(t), 0])),
    easy("have its parent signalled", |t| {
        call(libc::SYS_fcntl, &[0, libc::F_SETOWN as usize, pid(t)])
    }),
    hard("signal process 1", |_| call(libc::SYS_kill, &[1, 0])),
    easy("signal everything", |_| call(libc::SYS_kill, &[usize::MAX, 0])),
    easy("hold its parent", |t| call(libc::SYS_pidfd_open, &[pid(t), 0])),
    hard("outlive its parent", |_| prctl(libc::PR_SET_PDEATHSIG, 0)),
    hard("lower the limits of its parent", |t| {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        call(libc::SYS_prlimit64, &[pid(t), libc::RLIMIT_CORE as usize, address(&limit), 0])
    }),
    easy("start a process", |_| fork(libc::SIGCHLD)),
    easy("start a process that it waits for", |_| fork(libc::CLONE_VFORK | libc::SIGCHLD)),
    hard("start a process by clone3", |_| {
        call(libc::SYS_clone3, &[address(&[0_u8; CLONE_ARGS]), CLONE_ARGS])
    }),
    hard("start processes without end", |_| any((0..MANY).map(|_| fork(libc::SIGCHLD)))),
    hard("start threads without end", |_| threads()),
    hard("become root", |_| call(libc::SYS_setresuid, &[0, 0, 0])),
    hard("join the group of root", |_| call(libc::SYS_setresgid, &[0, 0, 0])),
    hard("join other groups", |_| call(libc::SYS_setgroups, &[1, address(&0_u32)])),
    hard("take every capability", |_| {
        let header = [0x2008_0522_u32, 0];
        call(libc::SYS_capset, &[address(&header), address(&[u32::MAX; 6])])
    }),
    hard("gain something by a setuid program", |_| gain()),
    hard("start a program that is no part of the system", |t| exec(&t.state.join("program"))),
    hard("start a program from its disk", |t| match &t.own_fd {
        Some(fd) => exec_of(*fd as usize),
        None => exec(&t.own_path),
    }),
    hard("start a program from memory", |_| {
        exec_of(fd(&file_in_memory()?))
    }),
    // Namespaces, mounts, the machine.
    hard("make a user namespace", |_| call(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize])),
    hard("make a network namespace", |_| call(libc::SYS_unshare, &[libc::CLONE_NEWNET as usize])),
    hard("make a mount namespace", |_| call(libc::SYS_unshare, &[libc::CLONE_NEWNS as usize])),
    hard("enter a namespace", |_| call(libc::SYS_setns, &[0, 0])),
    hard("mount a file system", |_| {
        let name = address_of(c"tmpfs");
        call(libc::SYS_mount, &[name, address_of(c"/usr"), name, 0, 0])
    }),
    hard("mount a file system in the new way", |_| call(libc::SYS_fsopen, &[address_of(c"tmpfs"), 0])),
    hard("take hold of a mount", |_| {
        call(libc::SYS_open_tree, &[at_cwd(), address_of(c"/usr"), libc::OPEN_TREE_CLONE as usize])
    }),
    hard("unmount what hides something", |_| {
        call(libc::SYS_umount2, &[address_of(c"/usr"), libc::MNT_DETACH as usize])
    }),
    hard("make its root writable", |_| {
        let flags = (libc::MS_REMOUNT | libc::MS_BIND) as usize;
        call(libc::SYS_mount, &[0, address_of(c"/"), 0, flags, 0])
    }),
    hard("change its root", |_| call(libc::SYS_chroot, &[address_of(c"/usr")])),
    hard("swap its root", |_| call(libc::SYS_pivot_root, &[address_of(c"/usr"), address_of(c"/usr")])),
    hard("restart the machine", |_| {
        // The command that only says what the key combination does.
        call(libc::SYS_reboot, &[0xFEE1_DEAD, 672_274_793, 0, 0])
    }),
    hard("rename the machine", |_| call(libc::SYS_sethostname, &[address_of(c"x"), 1])),
    hard("set the clock", |_| call(libc::SYS_clock_settime, &[0, 0])),
    hard("load a kernel module", |_| call(libc::SYS_init_module, &[0, 0, address_of(c"")])),
    hard("load a kernel", |_| call(libc::SYS_kexec_load, &[0, 0, 0, 0])),
    hard("swap to a file", |_| call(libc::SYS_swapon, &[address_of(c"/usr"), 0])),
    hard("read the kernel's messages", |_| call(libc::SYS_syslog, &[3, 0, 0])),
    // Large and rarely needed parts of the kernel.
    easy("use the kernel's keys", |_| call(libc::SYS_keyctl, &[0, usize::MAX - 2, 1])),
    hard("load a program into the kernel", |_| call(libc::SYS_bpf, &[0, 0, 0])),
    hard("use performance counters", |_| call(libc::SYS_perf_event_open, &[0, 0, 0, usize::MAX, 0])),
    hard("handle page faults", |_| call(libc::SYS_userfaultfd, &[0])),
    hard("make an io_uring", |_| call(libc::SYS_io_uring_setup, &[1, address(&[0_u8; 120])])),
    easy("change its personality", |_| call(libc::SYS_personality, &[0xFFFF_FFFF])),
    easy("use System V memory", |_| call(libc::SYS_shmget, &[0, 4096, 0o600])),
    hard("type into a terminal", |_| call(libc::SYS_ioctl, &[1, libc::TIOCSTI as usize, address(&b'x')])),
    // Resources.
    hard("fill the host's disk by its own", |t| own(t)?.write_at(b"x", t.own_bytes).map(drop)),
    hard("make its disk larger", |t| own(t)?.set_len(HUGE)),
    hard("reserve more for its disk", |t| {
        call(libc::SYS_fallocate, &[fd(&own(t)?), 0, 0, HUGE as usize])
    }),
    easy("fill a file in memory", |_| {
        file_in_memory()?.set_len(HUGE)
    }),
    hard("leave core dumps", |_| raise(libc::RLIMIT_CORE, 1 << 20)),
    hard("open more files", |_| raise(libc::RLIMIT_NOFILE, 1 << 16)),
    hard("write larger files", |_| raise(libc::RLIMIT_FSIZE, HUGE)),
    hard("start more threads", |_| raise(libc::RLIMIT_NPROC, 1 << 20)),
    hard("keep memory from the host", |_| raise(libc::RLIMIT_MEMLOCK, 1 << 30)),
    hard("go before others", |_| call(libc::SYS_setpriority, &[0, 0, usize::MAX - 19])),
    hard("become a real-time process", |_| {
        call(libc::SYS_sched_setscheduler, &[0, libc::SCHED_FIFO as usize, address(&1_i32)])
    }),
];

fn file_in_memory() -> io::Result<File> {
    // SAFETY: the name is terminated.
    let fd = unsafe { libc::memfd_create(c"x".as_ptr(), 0) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and owned by the file.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn read(path: impl AsRef<Path>) -> io::Result<()> {
    let mut byte = [0];
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    file.read(&mut byte).map(|_| ())
}

fn write(path: impl AsRef<Path>) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(drop)
}

fn make(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path).map(drop)
}

fn list(path: impl AsRef<Path>) -> io::Result<()> {
    fs::read_dir(path)?.next().transpose().map(drop)
}

/// A file server has a `/proc` with its own descriptors in it, and nothing else.
fn list_processes() -> io::Result<()> {
    for entry in fs::read_dir("/proc")? {
        if entry?.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            return Ok(());
        }
    }
    Err(ErrorKind::NotFound.into())
}

/// The first success, or the last failure.
fn any(mut results: impl Iterator<Item = io::Result<()>>) -> io::Result<()> {
    let mut last = Err(Error::from(ErrorKind::NotFound));
    while let (Err(_), Some(result)) = (&last, results.next()) {
        last = result;
    }
    last
}

fn make_node(kind: libc::mode_t, major: u32, minor: u32) -> io::Result<()> {
    any(["/node", "/dev/node", "/tmp/node"].iter().map(|path| {
        let path = CString::new(*path)?;
        let device = libc::makedev(major, minor) as usize;
        call(libc::SYS_mknodat, &[at_cwd(), address_of(&path), (kind | 0o600) as usize, device])
    }))
}

/// Does not wait for an answer, which nobody has to give.
fn connect_now(to: [u8; 4], port: u16) -> io::Result<()> {
    let to = std::net::SocketAddr::from((to, port));
    match TcpStream::connect_timeout(&to, std::time::Duration::from_millis(100)) {
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
        other => other.map(drop),
    }
}

fn socket(family: i32, kind: i32) -> io::Result<()> {
    call(libc::SYS_socket, &[family as usize, kind as usize, 0])
}

fn pid(targets: &Targets) -> usize {
    targets.parent as usize
}

/// One byte, across the border of a process.
fn across(number: libc::c_long, targets: &Targets) -> io::Result<()> {
    let byte = 0_u8;
    let part = libc::iovec { iov_base: address(&byte) as *mut _, iov_len: 1 };
    call(number, &[pid(targets), address(&part), 1, address(&part), 1, 0])
}

fn fork(flags: i32) -> io::Result<()> {
    // SAFETY: no memory is shared. The child ends at once.
    match unsafe { libc::syscall(libc::SYS_clone, flags as usize, 0, 0, 0, 0) } {
        // SAFETY: ends the child without running anything.
        0 => unsafe { libc::_exit(0) },
        1.. => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

fn threads() -> io::Result<()> {
    let mut started = Vec::new();
    let mut result = Ok(());
    while started.len() < MANY && result.is_ok() {
        let (end, wait) = mpsc::channel::<()>();
        let body = move || wait.recv().unwrap_or_default();
        result = thread::Builder::new().stack_size(16 << 10).spawn(body).map(|t| {
            started.push((end, t));
        });
    }
    for (end, thread) in started {
        drop(end);
        let _ = thread.join();
    }
    result
}

fn prctl(option: i32, value: usize) -> io::Result<()> {
    call(libc::SYS_prctl, &[option as usize, value, 0, 0, 0])
}

/// No program runs with more than this process has, and it has nothing.
fn gain() -> io::Result<()> {
    // SAFETY: plain numbers.
    let bound = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1;
    let mut sets = [0_u32; 6];
    call(libc::SYS_capget, &[address(&[0x2008_0522_u32, 0]), sets.as_mut_ptr() as usize])?;
    if bound && sets == [0; 6] { Err(ErrorKind::PermissionDenied.into()) } else { Ok(()) }
}

/// Success would not return: all further attempts would be missing.
fn exec(program: &Path) -> io::Result<()> {
    let program = CString::new(program.as_os_str().as_encoded_bytes())?;
    call(libc::SYS_execve, &[address_of(&program), 0, 0])
}

fn exec_of(fd: usize) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH as usize;
    call(libc::SYS_execveat, &[fd, address_of(c""), 0, 0, flags])
}

fn own(targets: &Targets) -> io::Result<File> {
    match targets.own_fd {
        // SAFETY: the descriptor is new, and owned by the file.
        Some(fd) => Ok(unsafe { File::from_raw_fd(libc::dup(fd)) }),
        None => OpenOptions::new().write(true).open(&targets.own_path),
    }
}

fn raise(resource: libc::__rlimit_resource_t, to: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: to };
    call(libc::SYS_prlimit64, &[0, resource as usize, address(&limit), 0])
}

fn fd(file: &File) -> usize {
    file.as_raw_fd() as usize
}

fn address<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

fn address_of(text: &CStr) -> usize {
    text.as_ptr() as usize
}

fn at_cwd() -> usize {
    libc::AT_FDCWD as usize
}

/// A system call as it is.
fn call(number: libc::c_long, arguments: &[usize]) -> io::Result<()> {
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = six;
    // SAFETY: pointers are to values that live longer than the call, or invalid, which the kernel
    // notices.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

const _: () = assert!(size_of::<usize>() == 8);
