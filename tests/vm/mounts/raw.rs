//! FUSE by hand, over a port that is another's.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub(super) const LOOKUP: u32 = 1;
pub(super) const SETATTR: u32 = 4;
pub(super) const READLINK: u32 = 5;
pub(super) const SYMLINK: u32 = 6;
pub(super) const MKNOD: u32 = 8;
pub(super) const MKDIR: u32 = 9;
pub(super) const UNLINK: u32 = 10;
pub(super) const RMDIR: u32 = 11;
pub(super) const RENAME: u32 = 12;
pub(super) const LINK: u32 = 13;
pub(super) const OPEN: u32 = 14;
pub(super) const READ: u32 = 15;
pub(super) const WRITE: u32 = 16;
pub(super) const RELEASE: u32 = 18;
pub(super) const SETXATTR: u32 = 21;
pub(super) const OPENDIR: u32 = 27;
pub(super) const CREATE: u32 = 35;

/// Header of a request and of an answer, in bytes.
const REQUEST: usize = 40;
const ANSWER: usize = 16;
/// Far from the numbers that the kernel gives its requests.
const FIRST_UNIQUE: u64 = 1 << 40;

/// The port, and nobody else who reads answers.
pub(super) struct Connection {
    port: File,
    unique: u64,
}

impl Connection {
    /// Takes a copy of PID 1's descriptor and stops the thread of it that reads, until this process
    /// ends.
    pub(super) fn take_over() -> Self {
        let ports = fs::read_dir("/sys/class/virtio-ports").unwrap();
        let device = ports
            .map(|port| port.unwrap().path())
            .find(|port| fs::read_to_string(port.join("name")).is_ok_and(|n| n.trim() == "files"))
            .unwrap();
        let device = Path::new("/dev").join(device.file_name().unwrap());
        assert!(File::open(&device).is_err(), "a port is opened once");
        let mut held = fs::read_dir("/proc/1/fd").unwrap().map(|fd| fd.unwrap().path());
        let held = held.find(|fd| fs::read_link(fd).is_ok_and(|to| to == device)).unwrap();
        let number: i32 = held.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let init = pidfd_open(Pid::INIT, PidfdFlags::empty()).unwrap();
        // SAFETY: numbers of descriptors; the new one belongs to nobody else.
        let port = unsafe {
            let port = libc::syscall(libc::SYS_pidfd_getfd, init.as_raw_fd(), number, 0);
            assert!(port >= 0, "{}", std::io::Error::last_os_error());
            File::from_raw_fd(i32::try_from(port).unwrap())
        };
        stop_reader();
        Self { port, unique: FIRST_UNIQUE }
    }

    /// Sends bytes as they are.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.port.write_all(bytes).unwrap();
    }

    /// Sends a request and waits for its answer: what it holds, or the number of an error.
    pub(super) fn ask(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.unique += 2;
        let length = u32::try_from(REQUEST + body.len()).unwrap();
        let mut request = numbers(&[length, operation]);
        request.extend(self.unique.to_le_bytes());
        request.extend(node.to_le_bytes());
        request.resize(REQUEST, 0);
        request.extend(body);
        self.send(&request);
        loop {
            let mut header = [0; ANSWER];
            self.port.read_exact(&mut header).unwrap();
            let number = |at| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
            let mut answer = vec![0; usize::try_from(number(0)).unwrap() - ANSWER];
            self.port.read_exact(&mut answer).unwrap();
            if header[8..] == self.unique.to_le_bytes() {
                let error = number(4).cast_signed();
                return if error == 0 { Ok(answer) } else { Err(-error) };
            }
        }
    }
}

/// This process is the tracer of the thread, which therefore goes on when it ends.
fn stop_reader() {
    let mut threads = fs::read_dir("/proc/1/task").unwrap().map(|thread| thread.unwrap().path());
    let is_reader =
        |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|c| c.trim() == "files-in");
    let thread = threads.find(|path| is_reader(path)).unwrap();
    let thread: i32 = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
    // SAFETY: requests of ptrace(2) that take no pointers; the status is not asked for.
    unsafe {
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            let traced = libc::ptrace(request, thread, 0, 0);
            assert_eq!(traced, 0, "{}", std::io::Error::last_os_error());
        }
        let stopped = libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL);
        assert_eq!(stopped, thread, "{}", std::io::Error::last_os_error());
    }
}

/// Numbers of 32 bits, as they are sent.
pub(super) fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A name, as it is sent.
pub(super) fn name(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// The node that an answer gives.
pub(super) fn node_of(answer: &[u8]) -> u64 {
    u64::from_le_bytes(answer[..8].try_into().unwrap())
}
